"""The bias model: against loops over ratings, one at a time."""

import numpy as np
import polars as pl
import pytest
from fitted import OPTIONS, fit_named
from logs import csv_config, write_log

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.config.priors import BiasConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.priors.base import TrainingRows, UserRows
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.priors.variance_components import VarianceComponents
from greatmeta_dist.ragged import Ragged, offsets_of


def some_ratings(rng, *, num_users=30, num_items=12) -> UserRows:
    """Users of 0 to 9 ratings; an item may be rated by nobody, a user may have no rating."""
    lengths = rng.integers(0, 10, num_users)
    lengths[3] = 0
    items = [rng.choice(num_items - 1, n, replace=False) for n in lengths]
    rows = Ragged(np.concatenate(items), offsets_of(lengths))
    return UserRows(rows, rng.integers(1, 6, len(rows.values)).astype(np.float64))


def model_of(rows: UserRows, rng, *, num_items=12, item_damping=2.5, user_damping=1.5):
    count = np.bincount(rows.item.values, minlength=num_items)
    total = np.bincount(rows.item.values, rows.rating, num_items)
    content = 3 + rng.normal(size=num_items)
    return BiasModel(count, total, content, item_damping, user_damping)


def ratings_of(rows: UserRows) -> list[list[tuple[int, float]]]:
    """By user: item and rating of each row."""
    pairs = list(zip(rows.item.values.tolist(), rows.rating.tolist(), strict=True))
    bounds = zip(rows.item.offsets[:-1], rows.item.offsets[1:], strict=True)
    return [pairs[first:last] for first, last in bounds]


def mean_by_loop(model: BiasModel, users, item: int, *, without: tuple[int, int] | None) -> float:
    """The shrunk mean of an item's ratings, one user's row left out."""
    content = model.content_mean[item]
    kept = [
        rating - content
        for u, rows in enumerate(users)
        for r, (rated, rating) in enumerate(rows)
        if rated == item and (u, r) != without
    ]
    return content + sum(kept) / (len(kept) + model.item_damping)


@pytest.mark.parametrize("seed", range(3))
def test_item_means_are_shrunk_to_content_and_may_leave_a_rating_out(seed):
    rng = np.random.default_rng(seed)
    rows = some_ratings(rng)
    model, users = model_of(rows, rng), ratings_of(rows)
    every = model.item_means(np.arange(12))
    for item in range(12):
        assert every[item] == pytest.approx(mean_by_loop(model, users, item, without=None))
    assert every[11] == model.content_mean[11]  # nobody rated it
    means = model.item_means(rows.item.values, without=rows.rating)
    expected = [
        mean_by_loop(model, users, item, without=(u, r))
        for u, user in enumerate(users)
        for r, (item, _) in enumerate(user)
    ]
    assert means == pytest.approx(np.array(expected))


@pytest.mark.parametrize("seed", range(3))
def test_training_residuals_know_neither_the_rating_nor_anything_of_other_users_offsets(seed):
    rng = np.random.default_rng(seed)
    rows = some_ratings(rng)
    model, users = model_of(rows, rng), ratings_of(rows)
    expected, offsets = [], []
    for u, user in enumerate(users):
        residual = [
            rating - mean_by_loop(model, users, item, without=(u, r))
            for r, (item, rating) in enumerate(user)
        ]
        offset = sum(residual) / (len(user) + model.user_damping)
        offsets.append(offset)
        expected += [value - offset for value in residual]
    assert model.training_residuals(rows) == pytest.approx(np.array(expected))
    residual = rows.rating - model.item_means(rows.item.values, without=rows.rating)
    assert model.user_offsets(residual, rows.item.lengths) == pytest.approx(np.array(offsets))
    assert offsets[3] == 0  # a user without ratings


def test_dampings_are_those_of_item_means_about_content_and_of_users_about_item_means(tmp_path):
    path = write_log(tmp_path)
    log = pl.read_csv(path)
    user, item = (log[name].str.slice(1).cast(pl.Int64) for name in ("u", "i"))
    log.with_columns(r=log["r"] + user % 3 + item % 5).write_csv(path)
    prepare(csv_config(path), tmp_path / "store")
    rows = Store(tmp_path / "store").training_rows()
    model = fit_named(rows, "bias")["bias"].model
    by_item: dict[int, list[float]] = {}
    users = [user for chunk in rows.chunks() for user in ratings_of(chunk)]
    for user in users:
        for item, rating in user:
            by_item.setdefault(item, []).append(rating - model.content_mean[item])
    assert model.item_damping == pytest.approx(damping_of(by_item.values()))
    by_user = [
        [
            rating - mean_by_loop(model, users, item, without=(u, r))
            for r, (item, rating) in enumerate(user)
        ]
        for u, user in enumerate(users)
    ]
    assert model.user_damping == pytest.approx(damping_of(by_user))
    assert max(model.item_damping, model.user_damping) < 20


def damping_of(groups) -> float:
    components = VarianceComponents()
    for group in groups:
        values = np.array(group)
        components.add(*(np.array([np.sum(values**k)]) for k in range(3)))
    return components.damping(OPTIONS.bias)


def test_users_damping_is_of_the_first_training_users():
    rng = np.random.default_rng(0)
    chunks = [some_ratings(rng) for _ in range(4)]
    count, total, squares = (
        sum(np.bincount(c.item.values, c.rating**k, 12) for c in chunks) for k in range(3)
    )

    def user_damping(chunks, max_ratings):
        rows = TrainingRows(
            count.astype(np.int64), total, squares, [], is_implicit=False, chunks=lambda: chunks
        )
        options = PriorsConfig(bias=BiasConfig(max_ratings=max_ratings))
        return fit_named(rows, "bias", options=options)["bias"].model.user_damping

    first = len(chunks[0].rating)
    assert user_damping(chunks, first) == user_damping(chunks[:1], 10**6)
    assert user_damping(chunks, first + 1) == user_damping(chunks[:2], 10**6)
    assert user_damping(chunks, first) != user_damping(chunks, 10**6)
