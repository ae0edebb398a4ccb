"""Items' mean ratings are predicted from their features, where features help."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from fitted import fit_named
from logs import csv_config, write_log

from greatmeta_dist.config.priors import ContentConfig, PriorsConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError
from greatmeta_dist.priors.base import ItemFeature
from greatmeta_dist.priors.content import content_means
from greatmeta_dist.ragged import Ragged, offsets_of


def predict(features, count, total, options=None):
    return content_means(
        features, count, total, damping=5.0, options=options or ContentConfig(), seed=0
    ).means


def feature(name: str, codes: Ragged, num_values: int, number=None) -> ItemFeature:
    values = [str(value) for value in range(num_values)]
    is_list = bool((codes.lengths != 1).any())
    return ItemFeature(name, values, is_list, codes, num_frequent=num_values, number=number)


def items_with(rng, weight, *, spread: float, num_items: int = 400):
    """One token and one list feature, 0 to 40 ratings an item, mean by the token."""
    token = rng.integers(0, len(weight), num_items)
    offsets = offsets_of(rng.integers(0, 4, num_items))
    features = [
        feature("token", Ragged(token, np.arange(num_items + 1)), 3),
        feature("list", Ragged(rng.integers(0, 30, offsets[-1]), offsets), 30),
    ]
    count = rng.integers(0, 41, num_items)
    mean = 3 + weight[token] + spread * rng.normal(size=num_items)
    total = count * mean + np.sqrt(count) * rng.normal(size=num_items)
    return features, count, total, token


def test_content_means_follow_what_features_say():
    rng = np.random.default_rng(0)
    weight = np.array([-1.0, 0.0, 1.0])
    features, count, total, token = items_with(rng, weight, spread=0.1)
    means = predict(features, count, total)
    for k in range(3):
        for chosen in (token == k) & (count > 0), (token == k) & (count == 0):
            assert means[chosen].mean() == pytest.approx(3 + weight[k], abs=0.15)


def test_content_means_stay_near_the_mean_where_features_say_nothing():
    rng = np.random.default_rng(0)
    features, count, total, _ = items_with(rng, np.zeros(3), spread=1.0)
    mean = total.sum() / count.sum()
    means = predict(features, count, total)
    assert np.sqrt(np.mean((means - mean) ** 2)) < 0.15  # items themselves spread by 1
    assert np.array_equal(predict([], count, total), np.full(len(count), mean))


def test_few_rated_items_all_get_the_mean():
    rng = np.random.default_rng(0)
    features, count, total, _ = items_with(rng, np.array([-1.0, 0.0, 1.0]), spread=0.1)
    mean = total.sum() / count.sum()
    num_rated = int((count > 0).sum())
    few = predict(features, count, total, ContentConfig(min_items=num_rated + 1))
    assert np.array_equal(few, np.full(len(count), mean))
    assert predict(features, count, total, ContentConfig(min_items=num_rated)).std() > 0.3


@pytest.mark.parametrize("name", ["min_items", "max_tuned_items"])
def test_items_that_do_not_fill_the_folds_are_refused_with_the_options(name):
    with pytest.raises(InputError, match=rf"priors.content.{name} is 4; it must be 5 or more"):
        PriorsConfig(content=ContentConfig(**{name: 4}))
    rng = np.random.default_rng(0)
    features, count, total, _ = items_with(rng, np.zeros(3), spread=1.0, num_items=5)
    options = PriorsConfig(content=ContentConfig(**{name: 5})).content
    assert np.isfinite(predict(features, np.maximum(count, 1), total, options)).all()


def test_unrated_items_are_expected_to_be_like_those_people_rate():
    rng = np.random.default_rng(0)
    features, count, _, token = items_with(rng, np.array([-0.5, 0.0, 0.5]), spread=0.0)
    popular = 3 + np.array([-0.5, 0.0, 0.5])[token] + count / 40
    means = predict(features, count, count * popular)
    by_rating = np.average(popular, weights=count)
    assert means[count == 0].mean() == pytest.approx(by_rating, abs=0.12)
    assert means[count > 0].mean() < means[count == 0].mean() - 0.05


def test_unrated_items_follow_a_number_where_a_line_does_not():
    rng = np.random.default_rng(0)
    features, count, _, _ = items_with(rng, np.zeros(3), spread=0.0)
    year = rng.integers(1930, 2000, len(count)).astype(np.float64)
    year[:5] = np.nan
    count[:5] = 0
    good = np.where((year > 1945) & (year < 1975), 4.0, 3.0)
    codes = Ragged(np.nan_to_num(year, nan=1900).astype(np.int64) - 1900, np.arange(len(year) + 1))
    total = count * good + np.sqrt(count) * rng.normal(size=len(count))
    with_year = feature("year", codes, 70)

    def error(number):
        means = predict([*features, replace(with_year, number=number)], count, total)
        assert np.isfinite(means).all()
        unrated = (count == 0) & np.isfinite(year)
        return np.sqrt(np.mean((means - good)[unrated] ** 2)), means[count > 0]

    (as_number, of_rated), (as_token, same) = error(year), error(None)
    assert as_number < 0.15 < as_token
    assert np.array_equal(of_rated, same)  # what is known of rated items is left to the regression


def test_rare_values_still_predict_items_without_ratings(tmp_path):
    path = write_log(tmp_path, num_items=100)
    number = pl.col("i").str.slice(1).cast(pl.Int64)
    # Four items of a series are alike.
    rating = pl.when(number // 4 % 2 == 0).then(5).otherwise(1)
    pl.read_csv(path).with_columns(r=rating).write_csv(path)
    items = tmp_path / "items.csv"
    items.write_text("i,series\n" + "".join(f"i{k},s{k // 4}\n" for k in range(100)))

    def store(min_count: int) -> Store:
        config = csv_config(
            path,
            items_path=str(items),
            item_features={"series": "token"},
            min_value_count=min_count,
            cold_item_fraction=0.2,
        )
        prepare(config, tmp_path / f"store-{min_count}")
        return Store(tmp_path / f"store-{min_count}")

    every, frequent = store(1), store(10)
    assert {f.name: f.num_rows for f in frequent.manifest.fields}["series"] == 1
    of_every, means = (
        fit_named(s.training_rows(), "bias")["bias"].model.content_mean for s in (every, frequent)
    )
    unrated = frequent.training_rows().item_count == 0
    assert np.array_equal(means[unrated], of_every[unrated])
    assert len(np.unique(means[~unrated])) == 1  # all are of one rare series
    even = np.array([int(i[1:]) // 4 % 2 == 0 for i in frequent.item_tokens()])
    assert unrated[even].any()
    assert unrated[~even].any()
    assert means[unrated & even].mean() > 3.5 > 2.5 > means[unrated & ~even].mean()
