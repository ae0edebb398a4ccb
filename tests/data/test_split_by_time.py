"""Splits at a global point in time: what training has lies before it, and what is asked after."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from logs import COLUMNS, csv_config
from stores import items_of, normalised, tasks_of

from benchmarks.fuzz.plain import Interaction, Row, is_cold
from benchmarks.fuzz.plain_time import plain_split_time, rule_by_time, split_user_by_time
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data import scan
from greatmeta_dist.data.hashing import hash_tokens
from greatmeta_dist.data.left_out import NOT_HELD_OUT, TOO_FEW_BEFORE
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.recipe import split_by_recipe
from greatmeta_dist.data.split import Catalogue, History, held_out_items
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

SPLITS = {"train", "valid", "warm", "user_cold", "item_cold", "both_cold"}


def random_log(*, seed: int, num_users: int = 60, num_items: int = 50) -> pl.DataFrame:
    """Users come and go, items come one by one, many times are equal, and pairs repeat."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        begin = rng.integers(100)
        for _ in range(rng.integers(2, 25)):
            time = begin + int(rng.integers(60))
            item = rng.integers(num_items + time // 3)
            rows.append((f"u{user}", f"i{item}", int(rng.integers(1, 6)), time))
    return pl.DataFrame(rows, ["u", "i", "r", "t"], orient="row")


def write(log: pl.DataFrame, folder, **options) -> DataConfig:
    folder.mkdir(exist_ok=True)
    log.write_csv(folder / "log.csv")
    return csv_config(folder / "log.csv", **{"min_interactions": 2, "query_items": 3, **options})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {"split_at": "75"},
        {"split_last": 0.4, "query_items": None, "query_fraction": 0.3},
        {"split_last": 0.6, "cold_item_fraction": 0.2, "max_support": 5},
        {"split_at": "60", "repeats": "sum", "support_by": "random", "max_support": 4},
    ],
)
def test_training_lies_before_the_point_and_what_is_asked_after(tmp_path, seed, options):
    log = random_log(seed=seed)
    config = write(log, tmp_path, seed=seed, warm_fraction=0.7, valid_fraction=0.2, **options)
    report = prepare(config, tmp_path / "store")
    store = Store(tmp_path / "store")
    splits = {s: tasks_of(store, s) for s in store.manifest.splits}
    assert set(splits) == SPLITS
    point = report.split_time
    before = log.filter(pl.col("t") < point)
    first_time = dict(log.group_by("u").agg(pl.col("t").min()).iter_rows())
    seen = set(before["i"])
    pairs = set(before.select("u", "i").iter_rows())
    for user, task in splits["train"].items():
        assert {(user, i) for i in items_of(task)} <= pairs
    for split in ("warm", "item_cold"):
        assert set(splits[split]) <= set(splits["train"])
        for user, task in splits[split].items():
            assert {(user, i) for i, _ in task["support"]} <= pairs
            assert not {(user, i) for i, _ in task["query"]} & pairs
    for split in ("user_cold", "both_cold"):
        assert all(first_time[user] >= point for user in splits[split])
    for user, task in splits["valid"].items():
        assert {(user, i) for i in items_of(task)} <= pairs
    assert not set(splits["valid"]) & set(splits["train"])
    assert set(splits["both_cold"]) <= set(splits["user_cold"])
    trained = set().union(*map(items_of, splits["train"].values()))
    assert trained <= seen
    for split in ("item_cold", "both_cold"):
        for task in splits[split].values():
            assert not {i for i, _ in task["query"]} & trained
    for split in ("valid", "user_cold", "both_cold"):
        for user, task in splits[split].items():
            rows = (before if split == "valid" else log).filter(u=user)
            latest = dict(rows.group_by("i").agg(pl.col("t").max()).iter_rows())
            asked, known = ([latest[i] for i, _ in task[r]] for r in ("query", "support"))
            assert min(asked) >= max(known)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("repeats", ["latest", "sum", "count", "first"])
def test_training_is_that_of_the_log_cut_at_the_point(tmp_path, seed, repeats):
    log = random_log(seed=seed)
    options = {
        "repeats": repeats,
        "warm_fraction": 0.0,
        "valid_fraction": 0.0,
        "min_interactions": 3,
    }
    config = write(log, tmp_path / "whole", split_at="75", **options)
    cut = write(
        log.filter(pl.col("t") < 75),
        tmp_path / "cut",
        query_by="time",
        test_fraction=0.0,
        **options,
    )
    prepare(config, tmp_path / "whole" / "store")
    prepare(cut, tmp_path / "cut" / "store")
    whole, alone = (tasks_of(Store(tmp_path / k / "store"), "train") for k in ("whole", "cut"))
    assert normalised(whole) == normalised(alone)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_support", [None, 2])
@pytest.mark.parametrize("query", [{"query_items": 2}, {"query_fraction": 0.4}])
@pytest.mark.parametrize("cold_item_fraction", [0.0, 0.3])
def test_the_recipe_is_that_of_a_plain_loop_over_users(
    seed, max_support, query, cold_item_fraction
):
    config = DataConfig(
        seed=seed,
        split_at="50",
        max_support=max_support,
        support_by=("latest", "random")[seed % 2],
        min_interactions=1 + seed % 3,
        cold_item_fraction=cold_item_fraction,
        warm_fraction=0.6,
        test_fraction=(0.3, 0.0, 0.4)[seed % 3],
        valid_fraction=(0.3, 0.0, 0.0)[seed % 3],
        **{"query_items": None, "query_fraction": None, **query},
    )
    rng = np.random.default_rng(seed)
    users, items = (pl.Series([f"{letter}{k}" for k in range(50)]) for letter in "ui")
    pairs = [(u, i) for u in range(50) for i in rng.choice(50, rng.integers(1, 20), replace=False)]
    user, item = np.array(pairs).T
    begin = rng.integers(70, size=50)
    time = (begin[user] + rng.integers(10, size=len(user)) * 5).astype(np.float64)
    time += 30 * (item > 40)
    num_before = np.bincount(user[time < 50], minlength=50)
    num_rows = np.where(num_before > 0, num_before, np.bincount(user, minlength=50))
    history = History(
        users, hash_tokens(users), user, item.astype(np.int32), np.ones(len(user)), time, num_rows
    )
    is_seen = np.bincount(item[time < 50], minlength=50) > 0
    is_held_out = held_out_items(items, config) | ~is_seen
    catalogue = Catalogue(items, hash_tokens(items), is_held_out, 50.0)
    cold = set(items.filter(pl.Series(is_held_out)))
    assert cold >= {i for i in items if is_cold(i, config)}

    result = split_by_recipe(history, catalogue, config)
    found: dict = {}
    for split, rows in result.splits.items():
        for u, i, is_query in zip(rows.user, rows.item, rows.is_query, strict=True):
            task = found.setdefault(split, {}).setdefault(
                users[int(u)], {"support": [], "query": []}
            )
            task["query" if is_query else "support"].append(items[int(i)])
    expected: dict = {}
    rules: dict = {}
    for u in range(50):
        own = [Interaction(items[int(item[k])], 1.0, time[k]) for k in np.flatnonzero(user == u)]
        rule = rule_by_time(num_rows[u], own, cold, 50.0, config)
        if rule:
            rules[rule] = rules.get(rule, 0) + 1
            continue
        for split, task in split_user_by_time(users[u], own, cold, 50.0, config).items():
            expected.setdefault(split, {})[users[u]] = task
    assert found == expected
    assert result.left_out.users == rules
    if seed % 3 == 1:
        assert rules[NOT_HELD_OUT] > 0
    used = {(u, i) for ts in found.values() for u, t in ts.items() for i in items_of_names(t)}
    assert len(user) == len(used) + result.left_out.num_rows + result.left_out.num_unused


def items_of_names(task: dict) -> set[str]:
    return {*task["support"], *task["query"]}


def share_point(times: list[float], share: float, folder) -> float | None:
    """The point that ``prepare`` finds; many buckets and files, so that it is put together."""
    users = [f"u{k % 7}" for k in range(len(times))]
    items = [f"i{k}" for k in range(len(times))]
    log = pl.DataFrame({"u": users, "i": items, "r": 3, "t": times})
    config = write(log, folder, split_last=share, test_fraction=0.0)
    return prepare(config, folder / "store").split_time


@pytest.mark.parametrize("seed", range(8))
def test_a_share_is_found_exactly(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(scan, "UNIT_ROWS", 40)
    rng = np.random.default_rng(seed)
    kinds = [
        rng.integers(1_000_000_000, 1_700_000_000, 200),
        rng.integers(-5, 6, 200) * 86_400,
        np.round(rng.normal(size=200) * 1e6, 3),
        rng.choice([1e9, 1e9 + 0.5, 1.5e9], 200, p=[0.6, 0.2, 0.2]),
    ]
    times = kinds[seed % 4].astype(float).tolist()
    share = (0.25, 0.5, 0.8)[seed % 3]
    rows = [Row("u", "i", 1.0, time, k) for k, time in enumerate(times)]
    config = DataConfig(split_last=share)
    assert share_point(times, share, tmp_path) == plain_split_time(rows, config)


def test_rows_of_equal_time_are_never_parted(tmp_path):
    times = [*[100.0] * 30, *[200.0] * 30, *[300.0] * 30]
    assert share_point(times, 0.5, tmp_path / "half") == 300.0
    assert share_point(times, 0.7, tmp_path / "more") == 200.0
    with pytest.raises(InputError, match=r"at most 9 of 90 rows, and more are at the last time"):
        share_point(times, 0.1, tmp_path / "less")
    with pytest.raises(InputError, match=r"1970-01-01T00:01:40Z .* not parted; .*split by users"):
        share_point([100.0] * 90, 0.5, tmp_path / "equal")


def test_where_too_few_items_are_known_before_the_point_a_later_one_is_advised(tmp_path):
    rows = [(f"u{k % 40}", f"i{k}", 3, 100 + k) for k in range(400)]
    log = pl.DataFrame(rows, schema=["u", "i", "r", "t"], orient="row")
    config = write(log, tmp_path, split_last=0.99)
    with pytest.raises(InputError, match=r"a later data\.split_at, or a smaller data.split_last"):
        prepare(config, tmp_path / "store")


@pytest.mark.parametrize("point", ["1970-01-01", "0", "9999-12-31", "5000"])
def test_a_point_outside_the_log_is_refused_with_its_range(tmp_path, point):
    config = write(random_log(seed=0), tmp_path, split_at=point)
    with pytest.raises(InputError, match=r"from 1970-01-01T00:00:\d\dZ \(\d+ s\) to 1970-01-01T00"):
        prepare(config, tmp_path / "store")


def test_a_date_is_a_point(tmp_path):
    log = random_log(seed=0).with_columns(pl.col("t") * 86_400)
    reports = []
    for k, point in enumerate(("1970-03-17", "1970-03-17T00:00:00Z", str(75 * 86_400))):
        config = write(log, tmp_path / str(k), split_at=point)
        reports.append(prepare(config, tmp_path / str(k) / "store"))
    assert {report.split_time for report in reports} == {75.0 * 86_400}
    assert reports[0].tasks == reports[1].tasks == reports[2].tasks


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split_at": "75", "split_last": 0.2}, "different ways to split; set one"),
        ({"split_at": "75", "split": "split.tsv"}, "different ways to split; set one"),
        ({"split_at": "noon"}, "expected a time such as 2020-01-31"),
        ({"split_at": "nan"}, "expected a time such as 2020-01-31"),
        ({"split_last": 1.0}, "data.split_last is 1"),
    ],
)
def test_wrong_points_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize("options", [{"split_at": "75"}, {"split_last": 0.2}])
def test_a_log_without_times_is_refused(tmp_path, options):
    config = write(random_log(seed=0), tmp_path, **options)
    config = replace(config, columns=ColumnsConfig("u", "i", "r", None))
    with pytest.raises(InputError, match=r"data.split_\w+=\S+ needs times, and the log has none"):
        prepare(config, tmp_path / "store")


def test_full_supports_of_the_latest_need_times(tmp_path):
    config = write(random_log(seed=0), tmp_path, support_by="latest")
    config = replace(config, columns=replace(COLUMNS, timestamp=None))
    with pytest.raises(InputError, match=r"data.support_by=latest needs times"):
        prepare(config, tmp_path / "store")


def test_users_with_too_few_rows_before_the_point_are_counted(tmp_path):
    early = [("a", f"i{k}", 3, k) for k in range(20)]
    late = [("b", f"i{k}", 3, 18 + k) for k in range(9)]
    log = pl.DataFrame([*early, *late], ["u", "i", "r", "t"], orient="row")
    report = prepare(write(log, tmp_path, split_at="19"), tmp_path / "store")
    assert report.left_out_users == {TOO_FEW_BEFORE: 1}
    assert report.left_out_rows == {TOO_FEW_BEFORE: 9}


def test_the_point_changes_nothing_with_the_number_of_buckets_or_files(tmp_path, monkeypatch):
    config = write(random_log(seed=1), tmp_path, split_last=0.4, warm_fraction=0.5)
    prepare(config, tmp_path / "one")
    monkeypatch.setattr(scan, "BUCKET_BYTES", 1500)
    monkeypatch.setattr(scan, "UNIT_ROWS", 60)
    prepare(config, tmp_path / "many")
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    assert many.manifest.shards["valid"] > one.manifest.shards["valid"]
    for split in one.manifest.splits:
        assert normalised(tasks_of(one, split)) == normalised(tasks_of(many, split))
