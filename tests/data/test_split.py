"""The recipe's splits are what they say, whatever else is in the log."""

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log
from stores import items_of, normalised, tasks_of

from benchmarks.fuzz.plain import Interaction, is_cold, rule_of_user, split_user
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import draw_bits, hash_tokens, pair_hashes
from greatmeta_dist.data.left_out import TOO_FEW, TOO_MANY
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.recipe import split_by_recipe
from greatmeta_dist.data.split import Catalogue, History, SplitTasks, held_out_items
from greatmeta_dist.data.store import Store


def test_recipe_deals_every_user_once_and_keeps_scenarios_apart(tmp_path):
    path = write_log(tmp_path)
    log = pl.read_csv(path)
    prepare(
        csv_config(path, cold_item_fraction=0.2, query_items=3, warm_fraction=0.3, seed=1),
        tmp_path / "store",
    )
    store = Store(tmp_path / "store")
    splits = {s: tasks_of(store, s) for s in store.manifest.splits}
    assert set(splits) == {"train", "valid", "warm", "user_cold", "item_cold", "both_cold"}
    users = [*splits["train"], *splits["valid"], *splits["user_cold"]]
    assert sorted(users) == sorted(log["u"].unique())
    assert set(splits["warm"]) < set(splits["train"])
    assert set(splits["item_cold"]) <= set(splits["train"])
    assert set(splits["both_cold"]) <= set(splits["user_cold"])

    trained = set().union(*map(items_of, splits["train"].values()))
    for split in ("item_cold", "both_cold"):
        for task in splits[split].values():
            assert not trained & {i for i, _ in task["query"]}
            assert {i for i, _ in task["support"]} & trained
    for split in ("train", "valid", "warm", "user_cold"):
        for user, task in splits[split].items():
            assert len(task["query"]) == 3
            assert not {i for i, _ in task["support"]} & {i for i, _ in task["query"]}
            rated = dict(log.filter(u=user).select("i", "r").rows())
            assert all(rated[i] == r for role in task.values() for i, r in role)
    for user, task in splits["warm"].items():
        assert not {i for i, _ in task["query"]} & items_of(splits["train"][user])


def test_query_by_time_takes_the_latest(tmp_path):
    path = write_log(tmp_path)
    prepare(csv_config(path, query_by="time", query_items=4, warm_fraction=0), tmp_path / "store")
    log = pl.read_csv(path)
    for user, task in tasks_of(Store(tmp_path / "store"), "user_cold").items():
        latest = log.filter(u=user).sort("t", descending=True)["i"][:4]
        assert {i for i, _ in task["query"]} == set(latest)


def test_bounds_on_interactions_and_support(tmp_path):
    path = write_log(tmp_path)
    config = csv_config(
        path, min_interactions=18, max_interactions=25, query_items=5, max_support=6
    )
    report = prepare(config, tmp_path / "store")
    counts = pl.read_csv(path).group_by("u").len().filter(pl.col("len").is_between(18, 25))
    tasks = {}
    for split in ("train", "valid", "user_cold"):
        tasks |= tasks_of(Store(tmp_path / "store"), split)
    assert sorted(tasks) == sorted(counts["u"])
    assert all(len(t["support"]) <= 6 and len(t["query"]) == 5 for t in tasks.values())
    assert report.out_of_bounds == report.read - counts["len"].sum()


def test_users_left_out_are_counted_by_the_rule(tmp_path):
    path = write_log(tmp_path)
    config = csv_config(path, min_interactions=21, max_interactions=26, warm_fraction=0)
    report = prepare(config, tmp_path / "store")
    lengths = pl.read_csv(path).group_by("u").len()["len"]
    few, many = lengths.filter(lengths <= 20), lengths.filter(lengths > 26)
    assert report.left_out_users == {TOO_FEW: len(few), TOO_MANY: len(many)}
    assert report.left_out_rows == {TOO_FEW: few.sum(), TOO_MANY: many.sum()}
    assert report.out_of_bounds == few.sum() + many.sum() > 0
    assert report.read == report.out_of_bounds + sum(report.interactions.values())


def test_what_else_is_in_a_log_does_not_change_who_is_where(tmp_path):
    path = write_log(tmp_path)
    options = {"cold_item_fraction": 0.2, "query_items": 3, "warm_fraction": 0.3}
    prepare(csv_config(path, **options), tmp_path / "one")
    with path.open("a") as log:  # items that come first in the catalogue
        log.writelines(f"new,a{i},3,0\n" for i in range(30))
    prepare(csv_config(path, **options), tmp_path / "more")
    one, more = Store(tmp_path / "one"), Store(tmp_path / "more")
    assert more.manifest.num_items == one.manifest.num_items + 30
    for split in one.manifest.splits:
        found = normalised(tasks_of(more, split))
        found.pop("new", None)
        assert normalised(tasks_of(one, split)) == found


def random_history(*, seed: int, num_users: int = 60, num_items: int = 40) -> tuple:
    """Interactions of users with 1 to 30 items, shuffled within users; and the catalogue."""
    rng = np.random.default_rng(seed)
    users = pl.Series([f"u{k}" for k in range(num_users)])
    items = pl.Series([f"i{k}" for k in range(num_items)])
    rows = [
        (user, item)
        for user in range(num_users)
        for item in rng.choice(num_items, rng.integers(1, 31), replace=False)
    ]
    user, item = np.array(rows).T
    history = History(
        users,
        hash_tokens(users),
        user,
        item.astype(np.int32),
        rng.normal(size=len(rows)),
        rng.integers(5, size=len(rows)).astype(np.float64),  # many times are equal
        np.bincount(user, minlength=num_users),
    )
    return history, items


def plain_tasks(history: History, items: pl.Series, config: DataConfig) -> dict:
    """The tasks of each user by a plain loop: split → user → (support, query), by rank."""
    tasks: dict = {}
    for u, user in enumerate(history.token):
        own = np.flatnonzero(history.user == u)
        interactions = [
            Interaction(items[int(history.item[k])], history.rating[k], history.timestamp[k])
            for k in own
        ]
        num_warm = sum(not is_cold(one.item, config) for one in interactions)
        if rule_of_user(len(own), len(own), num_warm, config):
            continue
        for split, task in split_user(user, interactions, config).items():
            tasks.setdefault(split, {})[user] = task
    return tasks


def found_tasks(split_tasks: SplitTasks, items: pl.Series) -> dict:
    """The same of ``split_by_recipe``'s result; checks that ratings went with their items."""
    history = split_tasks.history
    ratings = {
        (u, i): r
        for u, i, r in zip(
            history.user.tolist(), history.item.tolist(), history.rating, strict=True
        )
    }
    tasks: dict = {}
    for split, rows in split_tasks.splits.items():
        assert (np.diff(rows.user) >= 0).all()
        for u, i, r, is_query in zip(
            rows.user.tolist(), rows.item.tolist(), rows.rating, rows.is_query, strict=True
        ):
            assert ratings[u, i] == r
            task = tasks.setdefault(split, {}).setdefault(
                history.token[u], {"support": [], "query": []}
            )
            task["query" if is_query else "support"].append(items[i])
    return tasks


@pytest.mark.parametrize("max_support", [None, 1, 6])
@pytest.mark.parametrize("cold_item_fraction", [0.0, 0.3])
@pytest.mark.parametrize("query", [{"query_items": 3}, {"query_fraction": 0.35}])
@pytest.mark.parametrize("query_by", ["random", "time"])
@pytest.mark.parametrize("bounds", [(1, None), (8, None), (5, 20)])
def test_the_recipe_is_that_of_a_plain_loop_over_users(
    query_by, query, cold_item_fraction, max_support, bounds
):
    least, most = bounds
    config = DataConfig(
        seed=least,
        query_by=query_by,
        cold_item_fraction=cold_item_fraction,
        max_support=max_support,
        min_interactions=least,
        max_interactions=most,
        valid_fraction=0.2,
        warm_fraction=0.5,
        **{"query_items": None, "query_fraction": None, **query},
    )
    history, items = random_history(seed=least)
    catalogue = Catalogue(items, hash_tokens(items), held_out_items(items, config))
    result = split_by_recipe(history, catalogue, config)
    expected = plain_tasks(history, items, config)
    found = found_tasks(result, items)
    assert found == expected
    used = {
        (u, i) for tasks in found.values() for u, t in tasks.items() for r in t.values() for i in r
    }
    assert len(history.user) == len(used) + result.left_out.num_rows + result.left_out.num_unused
    with_tasks = {user for tasks in expected.values() for user in tasks}
    is_out = [history.token[int(u)] not in with_tasks for u in history.user]
    assert result.left_out.num_rows == sum(is_out)
    is_cold = catalogue.is_cold
    assert set(expected) >= {"train", "valid", "warm", "user_cold"}
    assert ("item_cold" in expected) == ("both_cold" in expected) == bool(is_cold.any())


def test_held_out_items_are_those_of_the_plain_hash():
    items = pl.Series([f"i{k}" for k in range(200)])
    config = DataConfig(cold_item_fraction=0.3, seed=2)
    assert held_out_items(items, config).tolist() == [is_cold(item, config) for item in items]


def test_rows_whose_draws_share_their_upper_bits_are_ranked_by_all_bits(monkeypatch):
    history, items = random_history(seed=0, num_users=4)
    config = DataConfig(min_interactions=1, query_items=2)
    catalogue = Catalogue(items, hash_tokens(items), held_out_items(items, config))

    def few_bits(*args):
        return draw_bits(*args) >> np.uint64(58)

    monkeypatch.setattr("greatmeta_dist.data.query_support.draw_bits", few_bits)
    ranked = split_by_recipe(history, catalogue, config).history
    pairs = pair_hashes(ranked.hash[ranked.user], catalogue.hash[ranked.item])
    draws = few_bits(pairs, 0, "query").astype(np.int64)
    assert len(set(draws.tolist())) > 20
    for user in range(4):
        assert (np.diff(draws[ranked.user == user]) >= 0).all()
