"""One interaction for each user and item, whatever the order in which rows come."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from logs import COLUMNS, csv_config, write_log

from benchmarks.fuzz.plain import Row, by_age, merge_repeats, plain_draw, plain_hash
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.histories import read_history
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.rejects import REJECTS
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

RULES = ("latest", "first", "max", "sum", "mean", "count", "reject")


def random_rows(*, seed: int, num_rows: int = 400) -> list[Row]:
    """Rows of few users and items, many of them repeats; some times are equal, some missing."""
    rng = np.random.default_rng(seed)
    return [
        Row(
            f"u{rng.integers(12)}",
            f"i{rng.integers(9)}",
            float(rng.integers(1, 50)) / 7,
            None if rng.random() < 0.1 else float(rng.integers(6)),
            line,
        )
        for line in range(num_rows)
    ]


def history_of(rows: list[Row], config: DataConfig, *, has_time: bool):
    """``read_history`` of rows, and its interactions as (user, item) → (label, time)."""
    frame = pl.DataFrame(
        [(r.user, r.item, r.rating, r.time, r.line) for r in rows],
        schema={
            "user": pl.String,
            "item": pl.String,
            "rating": pl.Float64,
            "timestamp": pl.Float64,
            "line": pl.Int64,
        },
        orient="row",
    )
    items = frame["item"].unique().sort()
    index = pl.DataFrame({"item": items}).with_row_index("index").cast({"index": pl.Int32})
    bucket = read_history(frame, index, config, has_time=has_time)
    history = bucket.history
    times = np.zeros(len(history.user)) if history.timestamp is None else history.timestamp
    pairs = {
        (history.token[u], items[i]): (rating, time)
        for u, i, rating, time in zip(
            history.user.tolist(), history.item.tolist(), history.rating, times, strict=True
        )
    }
    assert len(pairs) == len(history.user)
    return bucket, pairs


@pytest.mark.parametrize("has_time", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_repeats_are_merged_as_a_plain_loop_does(rule, has_time):
    rows = random_rows(seed=RULES.index(rule))
    config = DataConfig(repeats=rule)
    bucket, pairs = history_of(rows, config, has_time=has_time)
    by_pair = defaultdict(list)
    for row in rows:
        by_pair[row.user, row.item].append(row)
    assert pairs.keys() == by_pair.keys()
    for pair, repeats in by_pair.items():
        merged = merge_repeats(repeats, config, has_time=has_time)
        rating, time = pairs[pair]
        if rule in ("sum", "mean"):
            assert rating == pytest.approx(merged.label, rel=1e-14)
        else:
            assert rating == merged.label
        if has_time:
            latest = max(-np.inf if r.time is None else r.time for r in repeats)
            chosen = -np.inf if merged.time is None else merged.time
            assert time == (chosen if rule in ("latest", "first", "reject") else latest)
    extra = [row for repeats in by_pair.values() for row in by_age(repeats, has_time=has_time)[:-1]]
    if rule == "reject":
        assert bucket.num_repeats == 0
        rejected = bucket.rejected.select("item", "line").iter_rows()
        assert sorted(rejected) == sorted((r.item, r.line) for r in extra)
    else:
        assert bucket.num_repeats == len(extra) > 100
        assert not len(bucket.rejected)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_rows_changes_no_bit_where_times_decide(rule):
    rows = random_rows(seed=3)
    shuffled = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    shuffled = [replace(row, line=line) for line, row in enumerate(shuffled)]
    config = DataConfig(repeats=rule)
    (one, _), (two, _) = (history_of(r, config, has_time=True) for r in (rows, shuffled))
    assert one.history.token.equals(two.history.token)
    for name in ("user", "item", "rating", "timestamp"):
        assert np.array_equal(getattr(one.history, name), getattr(two.history, name))


def test_users_stand_in_the_order_of_their_hashes():
    bucket, _ = history_of(random_rows(seed=0), DataConfig(seed=4), has_time=True)
    order = [plain_draw(plain_hash(user), 4, "order") for user in bucket.history.token]
    assert order == sorted(order)
    assert (np.diff(bucket.history.user) >= 0).all()
    assert bucket.history.hash.tolist() == [*map(plain_hash, bucket.history.token)]


@pytest.mark.parametrize(
    "options, rule",
    [
        ({}, "latest"),
        ({"label": "click"}, "max"),
        ({"columns": ColumnsConfig("u", "i", None)}, "count"),
        ({"columns": ColumnsConfig("u", "i", None), "label": "click"}, "max"),
        ({"repeats": "mean"}, "mean"),
    ],
)
def test_the_rule_suits_the_log(options, rule):
    assert DataConfig(**options).repeats_rule == rule


def test_clicked_once_is_a_click_and_a_threshold_is_of_what_repeats_make():
    rows = [Row("a", "x", 4.0, 1.0, 1), Row("a", "x", 1.0, 2.0, 2), Row("a", "y", 3.0, 1.0, 3)]
    for options, labels in (
        ({}, (1.0, 0.0)),
        ({"repeats": "latest"}, (0.0, 0.0)),
        ({"repeats": "count", "click_at": 2.0}, (1.0, 0.0)),
        ({"repeats": "sum", "click_at": 3.0}, (1.0, 1.0)),
    ):
        _, pairs = history_of(rows, DataConfig(label="click", **options), has_time=True)
        assert (pairs["a", "x"][0], pairs["a", "y"][0]) == labels


def repeated_log(folder, *, seed: int | None = None):
    """A log in which a fifth of the rows is there twice, the second time with another rating."""
    path = write_log(folder)
    header, *lines = path.read_text().splitlines()
    again = [line.split(",") for line in lines[::5]]
    lines += [f"{u},{i},{6 - int(r)},{int(t) + 10**6}" for u, i, r, t in again]
    if seed is not None:
        lines = [lines[k] for k in np.random.default_rng(seed).permutation(len(lines))]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path, len(again)


@pytest.mark.parametrize("rule", ["latest", "first", "max", "sum", "mean", "count"])
def test_a_shuffled_log_gives_the_same_store(tmp_path, rule):
    checksums = []
    for seed in (None, 1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        path, num_repeats = repeated_log(folder, seed=seed)
        config = csv_config(path, repeats=rule, keep_log=False)  # the log is as it came
        report = prepare(config, folder / "store")
        assert (report.repeats, report.rejected) == (num_repeats, 0)
        files = Store(folder / "store").manifest.checksums
        checksums.append({name: sha for name, sha in files.items() if name != "report.json"})
    assert checksums[0] == checksums[1] == checksums[2]


def test_rejected_repeats_are_named_and_count_against_the_limit(tmp_path):
    path, num_repeats = repeated_log(tmp_path)
    config = csv_config(path, repeats="reject")
    with pytest.raises(InputError, match=r"rows were rejected, .*repeats a user and item"):
        prepare(config, tmp_path / "store")
    assert (tmp_path / "store" / REJECTS).exists()
    allowed = replace(config, max_rejected_fraction=0.5)
    report = prepare(allowed, tmp_path / "store")
    assert (report.rejected, report.repeats) == (num_repeats, 0)
    rejects = pl.read_parquet(tmp_path / "store" / REJECTS)
    num_before = len(path.read_text().splitlines()) - 1 - num_repeats
    assert rejects["line"].to_list() == [2 + 5 * k for k in range(num_repeats)]
    assert rejects["line"].max() < num_before + 2
    assert set(rejects["reason"]) == {"repeats a user and item; the latest is kept"}
    assert set(rejects["file"]) == {"log.csv"}


def test_where_a_log_has_no_ratings_rows_are_counted(tmp_path):
    path, _ = repeated_log(tmp_path)
    columns = replace(COLUMNS, rating=None)
    config = replace(csv_config(path), columns=columns)
    prepare(config, tmp_path / "store")
    ratings = Store(tmp_path / "store").manifest.ratings
    assert (ratings.lowest, ratings.highest) == (1.0, 2.0)
    write_log(tmp_path)
    with pytest.raises(InputError, match=r"every count is 1, .* set data.label=click"):
        prepare(config, tmp_path / "other")


def test_sums_have_a_range_of_their_own(tmp_path):
    path, _ = repeated_log(tmp_path)
    prepare(csv_config(path, repeats="sum", rating_range=[1.0, 5.0]), tmp_path / "store")
    ratings = Store(tmp_path / "store").manifest.ratings
    assert (ratings.lowest, ratings.highest) == (1.0, 6.0)
