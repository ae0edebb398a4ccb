"""The page that ``prepare`` prints: short, aligned, and every number is true."""

import json
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
from logs import COLUMNS, csv_config, write_log

from greatmeta_dist.commands.prepare_report import report_lines
from greatmeta_dist.data.manifest import read_manifest
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.report import Report
from greatmeta_dist.errors import InputError


def long_tailed_log(folder):
    """Users and items of very unequal activity, repeats, bad rows, and seconds since 1970."""
    rng = np.random.default_rng(0)
    lines = ["u,i,r,t"]
    for user in range(300):
        for _ in range(1 + int(min(200, rng.pareto(0.8) * 3))):
            item, time = min(int(rng.zipf(1.4)), 150), 1_500_000_000 + rng.integers(10**8)
            lines.append(f"u{user},i{item},{rng.integers(1, 6)},{time}")
    lines += ["u1,i1,five,1500000000", "u2,i2,six,1500000000", ",i3,4,1500000000", "u1,i1"]
    path = folder / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def made(tmp_path):
    path = long_tailed_log(tmp_path)
    config = csv_config(path, cold_item_fraction=0.1, max_support=20, min_interactions=5)
    return path, prepare(config, tmp_path / "store"), tmp_path / "store"


def test_facts_are_those_of_the_log(made):
    path, report, _ = made
    log = pl.read_csv(path, truncate_ragged_lines=True, ignore_errors=True)
    log = log.drop_nulls()
    times = (log["t"].min(), log["t"].max())
    log = log.unique(["u", "i"])
    count = log.group_by("u").len()["len"].sort()
    by_item = log.group_by("i").len()["len"].sort(descending=True)
    assert (report.users, report.items) == (len(count), len(by_item))
    assert report.log_interactions == len(log) == report.read - report.repeats - 4
    assert report.density == pytest.approx(len(log) / len(count) / len(by_item))
    for name, share in (("10%", 0.1), ("50%", 0.5), ("90%", 0.9), ("99%", 0.99)):
        assert report.user_activity[name] == count[int(np.ceil(share * len(count))) - 1]
    assert (report.user_activity["min"], report.user_activity["max"]) == (count[0], count[-1])
    assert (report.item_activity["min"], report.item_activity["max"]) == (by_item[-1], by_item[0])
    top = by_item.head(round(0.1 * len(by_item))).sum()
    assert report.popular_shares["10%"] == pytest.approx(top / len(log))
    assert (report.first_time, report.last_time) == times


def test_rejects_have_an_example_each(made):
    path, report, _ = made
    num_lines = len(path.read_text().splitlines())
    assert report.reasons == {
        "rating is not a number": 2,
        "expected 4 fields, found 2": 1,
        "no user": 1,
    }
    assert report.examples["rating is not a number"] == {
        "file": "log.csv",
        "line": num_lines - 3,
        "column": "rating",
        "value": "five",
    }
    assert report.examples.keys() == report.reasons.keys()


def test_all_rows_are_on_the_page(made):
    _, report, store = made
    lines = [*report_lines(report, read_manifest(store), store)]
    assert len(lines) < 40
    assert all(line == line.rstrip() for line in lines)
    page = "\n".join(lines)
    start = next(k for k, line in enumerate(lines) if line.startswith("rows  "))
    counts = []
    for line in lines[start:]:
        words = line.removeprefix("rows").split()
        if not (line.startswith(("rows  ", " " * 10)) and words[0].replace(",", "").isdigit()):
            break
        counts.append(int(words[0].replace(",", "")))
    assert counts[0] == report.read == sum(counts[1:])
    assert "2 × rating is not a number: log.csv, line " in page
    assert "'five'" in page
    assert str(store / "rejects.parquet") in page
    for rule, users in report.left_out_users.items():
        assert f"users: {users:,} with {report.left_out_rows[rule]:,} rows left out: {rule}" in page
    for rule in report.unused_rows:
        assert rule in page
    assert f"{report.cold_items:,} items are cold" in page
    assert "2017-07-14T" in page
    for split, users in report.tasks.items():
        words = next(line.split() for line in lines if line.startswith(split))
        assert words == [split, f"{users:,}", f"{report.interactions[split]:,}"]


def test_the_longest_page_is_short(made):
    _, report, store = made
    several = {f"reason {k}": 1000 + k for k in range(20)}
    full = replace(
        report,
        reasons=several,
        left_out_users=several,
        left_out_rows=several,
        unused_rows=several,
        advice="most users have no task",
        not_used={f"file {k}": [f"column {n}" for n in range(100)] for k in range(9)},
        unlisted_items=3,
        unlisted_users=3,
        unrated=3,
        repeats=3,
        split_time=1.5e9,
        tasks=dict.fromkeys(("train", "valid", "warm", "user_cold", "item_cold", "both_cold"), 5),
        interactions=dict.fromkeys(
            ("train", "valid", "warm", "user_cold", "item_cold", "both_cold"), 1_234_567
        ),
    )
    lines = [*report_lines(full, read_manifest(store), store)]
    assert len(lines) < 40
    assert "1,234,567" in "\n".join(lines)


def test_the_report_is_read_back_as_it_was_written(made):
    path, report, store = made
    written = json.loads((store / "report.json").read_text())
    assert written.keys() == {field.name for field in fields(Report)}
    again = prepare(
        csv_config(path, cold_item_fraction=0.1, max_support=20, min_interactions=5), store
    )
    assert again == replace(report, is_new=False)


def test_a_log_without_times_has_a_page(tmp_path):
    path = write_log(tmp_path)
    config = replace(csv_config(path), columns=replace(COLUMNS, timestamp=None))
    report = prepare(config, tmp_path / "store")
    page = "\n".join(report_lines(report, read_manifest(tmp_path / "store"), tmp_path / "store"))
    assert report.first_time is None
    assert "\ntimes" not in page


def test_where_most_users_fall_out_the_option_and_its_value_are_said(tmp_path):
    lines = ["u,i,r,t"]
    for user in range(100):
        lines += [f"u{user},i{k},{1 + k % 5},0" for k in range(8 if user % 3 else 4)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    report = prepare(csv_config(path), tmp_path / "all")
    assert report.advice is None
    assert report.left_out_users == {}
    with pytest.raises(InputError, match=r"100% of the 100 users .* data.min_interactions=8 keeps"):
        prepare(csv_config(path, min_interactions=13), tmp_path / "none")
    report = prepare(csv_config(path, max_interactions=7), tmp_path / "few")
    assert report.advice == (
        "66% of the 100 users have no task, because of: more than data.max_interactions; "
        "set data.max_interactions=null to keep them"
    )
