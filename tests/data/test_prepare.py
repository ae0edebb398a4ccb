"""Preparation as a whole: nothing is lost, nothing made twice, and the store is what it says."""

import itertools
import json

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log
from stores import CHOICE, normalised, tasks_of

from greatmeta_dist.config import ColumnsConfig
from greatmeta_dist.data import validate
from greatmeta_dist.data.encode import LEAST_PRIOR, MOST_PRIOR, VarianceComponents
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError
from greatmeta_dist.priors.content import ItemFeature, content_means
from greatmeta_dist.ragged import Ragged, offsets_of


def test_every_row_read_is_in_a_task_or_accounted_for(tmp_path):
    path = write_log(tmp_path)
    with path.open("a") as log:
        log.write("u1,i1,five,0\nlone,i1,5,0\n")
    config = csv_config(path, cold_item_fraction=0.3, query_items=2, max_support_items=9)
    report = prepare(config, tmp_path / "store")
    store = Store(tmp_path / "store")
    used = {
        (user, item)
        for part in store.manifest.splits
        for user, task in tasks_of(store, part).items()
        for rows in task.values()
        for item, _ in rows
    }
    assert report.rejected == 1
    assert min(report.out_of_bounds, report.unused) > 0
    left_out = report.rejected + report.out_of_bounds + report.unused
    assert report.read == left_out + len(used)


def test_a_changed_row_amid_a_large_log_is_noticed(tmp_path):
    path = write_log(tmp_path)
    header, rows = path.read_text().split("\n", 1)
    ballast = "".join(f"v{k},i1,3,{k:09}\n" for k in range(120_000))
    path.write_text(f"{header}\n{ballast}{rows}")
    prepare(csv_config(path), tmp_path / "store")
    assert not prepare(csv_config(path), tmp_path / "store").is_new
    text = path.read_text()
    path.write_text(text.replace("v60000,i1,3,", "v60000,i1,4,"))
    with pytest.raises(InputError, match="the source files"):
        prepare(csv_config(path), tmp_path / "store")


def test_number_of_buckets_does_not_change_who_is_where(tmp_path, monkeypatch):
    path = write_log(tmp_path)
    prepare(csv_config(path), tmp_path / "one")
    monkeypatch.setattr(validate, "BUCKET_BYTES", 2000)
    prepare(csv_config(path), tmp_path / "many")
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    assert many.manifest.shards["train"] > one.manifest.shards["train"]
    for part in one.manifest.splits:
        assert normalised(tasks_of(one, part)) == normalised(tasks_of(many, part))
    for prior in ("item_damping", "user_damping"):
        assert getattr(one.manifest.ratings, prior) == pytest.approx(
            getattr(many.manifest.ratings, prior)
        )
    grams = [f @ f.T for f in (s.item_factors()[1] for s in (one, many))]
    assert np.abs(grams[0]).max() > 1
    assert grams[0] == pytest.approx(grams[1], abs=1e-3)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"u,i,r,t\n", "holds no interaction"),
        (b"u,i,r,t\na,b,1,1\n", "no training task came out of 1 usable rows"),
        (b"\n", "expected a line of distinct column names"),
    ],
)
def test_empty_input_says_so(tmp_path, content, message):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        prepare(csv_config(path), tmp_path / "store")


def test_preparing_again_does_nothing_and_another_way_is_refused(tmp_path):
    path = write_log(tmp_path)
    assert prepare(csv_config(path), tmp_path / "store").is_new
    before = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    again = prepare(csv_config(path), tmp_path / "store")
    assert not again.is_new
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"prepared differently \(data.query_items\)"):
        prepare(csv_config(path, query_items=5), tmp_path / "store")
    path.write_text(path.read_text() + "u1,i49,5,1\n")
    with pytest.raises(InputError, match="the source files"):
        prepare(csv_config(path), tmp_path / "store")


def test_one_name_for_features_of_both_sides_is_refused(tmp_path):
    path = write_log(tmp_path)
    for name, key in (("users", "u"), ("items", "i")):
        (tmp_path / f"{name}.csv").write_text(
            f"{key},kind\n" + "".join(f"{key}{k},a\n" for k in range(60))
        )
    config = csv_config(
        path,
        users_path=str(tmp_path / "users.csv"),
        items_path=str(tmp_path / "items.csv"),
        user_features={"kind": "token"},
        item_features={"kind": "token"},
    )
    with pytest.raises(InputError, match="kind is a feature of users and of items; rename"):
        prepare(config, tmp_path / "store")


def test_a_category_without_values_is_refused(tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("i,genre\n" + "".join(f"i{k},\n" for k in range(50)))
    config = csv_config(
        write_log(tmp_path),
        items_path=str(items),
        item_features={"genre": "token_list"},
        category="genre",
    )
    with pytest.raises(InputError, match="no rated item has a value of it"):
        prepare(config, tmp_path / "store")


def test_rare_values_still_say_what_items_are_expected_to_get(tmp_path):
    path = write_log(tmp_path, num_items=100)
    number = pl.col("i").str.slice(1).cast(pl.Int64)
    kernel_input = (
        pl.when(number // 4 % 2 == 0).then(5).otherwise(1)
    )  # four items of a series are alike
    pl.read_csv(path).with_columns(r=kernel_input).write_csv(path)
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
    expected = frequent.content_mean()
    unrated = frequent.item_statistics()[0] == 0
    assert np.array_equal(expected[unrated], every.content_mean()[unrated])
    assert len(np.unique(expected[~unrated])) == 1  # all are of one rare series
    even = np.array([int(i[1:]) // 4 % 2 == 0 for i in frequent.item_tokens()])
    assert unrated[even].any()
    assert unrated[~even].any()
    assert expected[unrated & even].mean() > 3.5 > 2.5 > expected[unrated & ~even].mean()


def test_statistics_are_of_training_users_only(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    ratings: dict[str, list[float]] = {}
    for task in tasks_of(store, "train").values():
        for item, rating in task["support"] + task["query"]:
            ratings.setdefault(item, []).append(rating)
    count, total = store.item_statistics()
    for token, n, s in zip(store.item_tokens(), count, total, strict=True):
        assert (n, s) == (len(ratings.get(token, [])), sum(ratings.get(token, [])))
    flat = [r for rs in ratings.values() for r in rs]
    assert store.manifest.ratings.mean == pytest.approx(np.mean(flat))
    assert store.manifest.ratings.deviation == pytest.approx(np.std(flat))


def test_priors_are_the_ratio_of_the_variances_that_made_the_ratings():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(3000), rng.integers(1, 60, 3000))
    rating = 0.3 * rng.normal(size=3000)[owner] + 0.9 * rng.normal(size=len(owner)) + 3
    whole, chunks = VarianceComponents(), VarianceComponents()
    for found, cuts in ((whole, [0, 3000]), (chunks, [0, 10, 1700, 3000])):
        for first, last in itertools.pairwise(cuts):
            here = (owner >= first) & (owner < last)
            who, value = owner[here] - first, rating[here] - 3
            found.add(*(np.bincount(who, value**k) for k in range(3)))
    assert whole.prior == pytest.approx(9.0, rel=0.1)
    assert chunks.prior == pytest.approx(whole.prior, rel=1e-9)


@pytest.mark.parametrize(
    "count, total, squares, expected",
    [
        ([1, 1, 1], [1.0, 2.0, 3.0], [1.0, 4.0, 9.0], MOST_PRIOR),  # nobody rated twice
        ([5], [5.0], [9.0], MOST_PRIOR),  # one group
        ([2, 2], [4.0, 4.0], [10.0, 10.0], MOST_PRIOR),  # no difference between groups
        ([2, 2], [2.0, 8.0], [2.0, 32.0], LEAST_PRIOR),  # none within
        ([2, 0, 2], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], MOST_PRIOR),  # all the same
    ],
)
def test_priors_of_degenerate_ratings(count, total, squares, expected):
    found = VarianceComponents()
    found.add(np.array(count), np.array(total), np.array(squares))
    assert found.prior == expected


def test_damaged_store_is_refused(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    shard = next((tmp_path / "store" / "shards").glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    store = Store(tmp_path / "store")
    store.split("valid", CHOICE)
    with pytest.raises(InputError, match="does not match its checksum"):
        store.split("train", CHOICE)
    with pytest.raises(InputError, match="does not match its checksum"):
        store.check()
    shard.write_bytes(data[:100])
    with pytest.raises(InputError, match="does not match its checksum"):
        _ = store.train_sizes
    shard.unlink()
    with pytest.raises(InputError, match=r"is missing; delete .* and prepare"):
        Store(tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        Store(tmp_path / "store")


def test_a_store_that_lost_a_file_is_not_taken_as_ready(tmp_path):
    config = csv_config(write_log(tmp_path))
    prepare(config, tmp_path / "store")
    (tmp_path / "store" / "report.json").unlink()
    with pytest.raises(InputError, match=r"is missing; delete .* and prepare"):
        prepare(config, tmp_path / "store")


def test_time_order_needs_times(tmp_path):
    config = csv_config(write_log(tmp_path), query_by="time")
    config.columns = ColumnsConfig("u", "i", "r", None)
    with pytest.raises(InputError, match=r"needs times, .* set data.columns.timestamp"):
        prepare(config, tmp_path / "store")


def items_with(rng, weight, *, spread: float, num_items: int = 400):
    """One token and one list feature, 0 to 40 ratings an item, mean by the token."""
    token = rng.integers(0, len(weight), num_items)
    offsets = offsets_of(rng.integers(0, 4, num_items))
    features = [
        ItemFeature(Ragged(token, np.arange(num_items + 1)), 3, None),
        ItemFeature(Ragged(rng.integers(0, 30, offsets[-1]), offsets), 30, None),
    ]
    count = rng.integers(0, 41, num_items)
    mean = 3 + weight[token] + spread * rng.normal(size=num_items)
    total = count * mean + np.sqrt(count) * rng.normal(size=num_items)
    return features, count, total, token


def test_expected_ratings_are_what_features_say():
    rng = np.random.default_rng(0)
    weight = np.array([-1.0, 0.0, 1.0])
    features, count, total, token = items_with(rng, weight, spread=0.1)
    found = content_means(features, count, total, prior=5.0, seed=0)
    for k in range(3):
        for chosen in (token == k) & (count > 0), (token == k) & (count == 0):
            assert found[chosen].mean() == pytest.approx(3 + weight[k], abs=0.15)


def test_expected_ratings_stay_near_the_mean_where_features_say_nothing():
    rng = np.random.default_rng(0)
    features, count, total, _ = items_with(rng, np.zeros(3), spread=1.0)
    mean = total.sum() / count.sum()
    found = content_means(features, count, total, prior=5.0, seed=0)
    assert np.sqrt(np.mean((found - mean) ** 2)) < 0.15  # items themselves spread by 1
    assert np.array_equal(
        content_means([], count, total, prior=5.0, seed=0), np.full(len(count), mean)
    )


def test_unrated_items_are_expected_to_be_like_those_people_rate():
    rng = np.random.default_rng(0)
    features, count, _, token = items_with(rng, np.array([-0.5, 0.0, 0.5]), spread=0.0)
    popular = 3 + np.array([-0.5, 0.0, 0.5])[token] + count / 40
    found = content_means(features, count, count * popular, prior=5.0, seed=0)
    by_rating = np.average(popular, weights=count)
    assert found[count == 0].mean() == pytest.approx(by_rating, abs=0.12)
    assert found[count > 0].mean() < found[count == 0].mean() - 0.05


def test_unrated_items_follow_a_number_where_a_line_does_not():
    rng = np.random.default_rng(0)
    features, count, _, _ = items_with(rng, np.zeros(3), spread=0.0)
    year = rng.integers(1930, 2000, len(count)).astype(np.float64)
    year[:5] = np.nan
    count[:5] = 0
    good = np.where((year > 1945) & (year < 1975), 4.0, 3.0)
    codes = Ragged(np.nan_to_num(year, nan=1900).astype(np.int64) - 1900, np.arange(len(year) + 1))
    total = count * good + np.sqrt(count) * rng.normal(size=len(count))

    def error(number):
        given = [*features, ItemFeature(codes, 70, number)]
        found = content_means(given, count, total, prior=5.0, seed=0)
        assert np.isfinite(found).all()
        unrated = (count == 0) & np.isfinite(year)
        return np.sqrt(np.mean((found - good)[unrated] ** 2)), found[count > 0]

    (as_number, of_rated), (as_token, same) = error(year), error(None)
    assert as_number < 0.15 < as_token
    assert np.array_equal(of_rated, same)  # what is known of rated items is left to the regression
