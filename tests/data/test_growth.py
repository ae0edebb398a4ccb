"""A grown store holds what a fresh preparation of both logs would, under the ids it had."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from stores import CHOICE, normalised, tasks_of

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data import scan
from greatmeta_dist.data.growth import with_earlier_options
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

NUM_USERS, NUM_ITEMS = 80, 50
COUNTS = ("read", "kept", "rejected", "repeats", "unrated", "left_out_rows", "left_out_users",
          "unused_rows", "tasks", "interactions", "unlisted_items", "unlisted_users")  # fmt: skip


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(scan, "UNIT_ROWS", 300)
    monkeypatch.setattr(scan, "BUCKET_BYTES", 6000)


def log_rows(seed: int = 0) -> pl.DataFrame:
    """Users of 6 to 40 rows, some of which repeat an item; later rows have later items, too."""
    rng = np.random.default_rng(seed)
    frames = []
    for user in range(NUM_USERS):
        n = int(rng.integers(6, 41))
        # Every second user is known early; all meet the first items early and any item later.
        first = 0 if user % 2 == 0 else 500
        time = np.sort(rng.integers(first, 1000, n))
        item = np.where(
            time < 500, rng.integers(0, NUM_ITEMS // 2, n), rng.integers(0, NUM_ITEMS, n)
        )
        rating = rng.integers(1, 6, n)
        frames.append(pl.DataFrame({"u": user, "i": item, "r": rating, "t": time + 10**6}))
    return pl.concat(frames).sort("t", maintain_order=True)


def write_parts(folder: Path, rows: pl.DataFrame, *, as_text: str = "") -> dict[str, str]:
    """The log as a whole, and its earlier and later part; the part ``as_text`` is CSV."""
    is_early = pl.col("t") < 10**6 + 500
    text = {"u": pl.String, "i": pl.String} if as_text else {}
    parts = {"both": rows, "early": rows.filter(is_early), "late": rows.filter(~is_early)}
    paths = {}
    for name, part in parts.items():
        kind = "csv" if name == as_text else "parquet"
        paths[name] = str(folder / f"{name}.{kind}")
        getattr(part.cast(text) if kind == "csv" else part, f"write_{kind}")(paths[name])
    return paths


def write_features(folder: Path, name: str, users: range, items: range) -> dict[str, Any]:
    """Files of features of some users and items, as options."""
    rng = np.random.default_rng(5)
    job, kind, tag, price = (rng.integers(0, n, 200) for n in (4, 5, 6, 30))
    for side, rows in (
        ("users", ["u,job", *(f"{u},j{job[u]}" for u in users)]),
        (
            "items",
            ["i,kind,tags,price"]
            + [f"{i},k{kind[i]},t{tag[i]}|t{tag[i + 1]},{price[i]}" for i in items],
        ),
    ):
        (folder / f"{name}-{side}.csv").write_text("\n".join(rows) + "\n")
    return {
        "users_path": str(folder / f"{name}-users.csv"),
        "items_path": str(folder / f"{name}-items.csv"),
        "user_features": {"job": "token"},
        "item_features": {"kind": "token", "tags": "token_list", "price": "float"},
    }


def config_of(path: str, **options: Any) -> DataConfig:
    columns = options.pop("columns", ColumnsConfig("u", "i", "r", "t"))
    defaults = {"min_value_count": 3, "query_items": 4, "cold_item_fraction": 0.1}
    kind = Path(path).suffix[1:]
    return DataConfig(source=kind, path=path, columns=columns, **{**defaults, **options})


def features_of(store: Store, side: str) -> dict[str, dict[str, list[str | None]]]:
    """Each field's values of each item, or of each user of the validation, as tokens."""
    found = {}
    fields = store.fields(side, CHOICE)
    if side == "item":
        names, features = store.item_tokens(), store.item_features(CHOICE)
    else:
        stored = store.split("train", CHOICE)
        names, features = stored.user, stored.tasks.features
    for field, rows in zip(fields, features.fields, strict=True):
        table = pq.read_table(store.folder / "vocab" / f"{field.name}.parquet")
        token = {
            row: value
            for value, row in zip(table["value"].to_pylist(), table["row"].to_pylist(), strict=True)
            if row != field.unknown_row
        }
        found[field.name] = {
            name: [token.get(int(r)) for r in rows.values[rows.offsets[k] : rows.offsets[k + 1]]]
            for k, name in enumerate(names)
        }
    return found


def assert_same_content(grown: Path, fresh: Path) -> None:
    a, b = Store(grown), Store(fresh)
    for split in b.manifest.splits:
        assert normalised(tasks_of(a, split)) == normalised(tasks_of(b, split)), split
    assert a.manifest.splits == b.manifest.splits
    assert a.manifest.ratings.count == b.manifest.ratings.count
    assert a.manifest.ratings.mean == pytest.approx(b.manifest.ratings.mean, rel=1e-12)
    assert sorted(a.item_tokens()) == sorted(b.item_tokens())
    counts = [
        dict(zip(s.item_tokens(), s.training_rows().item_count.tolist(), strict=True))
        for s in (a, b)
    ]
    assert counts[0] == counts[1]
    for side in ("user", "item"):
        ours, theirs = features_of(a, side), features_of(b, side)
        for name in theirs.keys() - {"price", "item_id"}:  # bins keep their edges
            assert ours[name] == theirs[name], name
    reports = [json.loads((s / "report.json").read_text()) for s in (grown, fresh)]
    assert {k: reports[0][k] for k in COUNTS} == {k: reports[1][k] for k in COUNTS}


def rows_by_value(store: Path) -> dict[tuple[str, str], int]:
    """The embedding row of each value that has one of its own."""
    rows = {}
    for field in Store(store).manifest.fields:
        table = pq.read_table(store / "vocab" / f"{field.name}.parquet")
        for value, row in zip(table["value"].to_pylist(), table["row"].to_pylist(), strict=True):
            if value is None or row != field.unknown_row:
                rows[field.name, str(value)] = row
    return rows


def assert_ids_stayed(grown: Path, earlier: Path) -> None:
    before, now = Store(earlier), Store(grown)
    assert now.item_tokens()[: before.manifest.num_items] == before.item_tokens()
    rows, rows_before = rows_by_value(grown), rows_by_value(earlier)
    assert {key: rows[key] for key in rows_before} == rows_before
    assert len(rows) > len(rows_before)
    assert sorted(rows.values()) == list(range(now.manifest.num_rows))


CASES: dict[str, dict[str, Any]] = {
    "times": {},
    "by time": {"query_by": "time"},
    "no times": {"columns": ColumnsConfig("u", "i", "r", None)},
    "sums": {"repeats": "sum"},
    "counts": {"columns": ColumnsConfig("u", "i", None, "t")},
    "clicks": {"label": "click", "click_at": None, "negatives": 2},
    "rejected repeats": {"repeats": "reject", "max_rejected_fraction": 0.9},
}


@pytest.mark.parametrize("case", CASES)
def test_a_grown_store_holds_what_a_fresh_one_of_both_logs_holds(tmp_path, case):
    paths = write_parts(tmp_path, log_rows())
    few = write_features(tmp_path, "few", range(0, NUM_USERS, 2), range(NUM_ITEMS // 2))
    more = write_features(tmp_path, "more", range(1, NUM_USERS, 2), range(NUM_ITEMS - 3))
    order = [*range(0, NUM_USERS, 2), *range(1, NUM_USERS, 2)]
    both = write_features(tmp_path, "both", order, range(NUM_ITEMS - 3))
    options = CASES[case]
    prepare(config_of(paths["both"], **both, **options), tmp_path / "fresh")
    prepare(config_of(paths["early"], **few, **options), tmp_path / "early")
    before = {p: p.read_bytes() for p in (tmp_path / "early").rglob("*") if p.is_file()}
    growth = config_of(paths["late"], from_store=str(tmp_path / "early"), **more, **options)
    assert prepare(growth, tmp_path / "grown").is_new
    assert_same_content(tmp_path / "grown", tmp_path / "fresh")
    assert_ids_stayed(tmp_path / "grown", tmp_path / "early")
    assert not prepare(growth, tmp_path / "grown").is_new
    assert {p: p.read_bytes() for p in (tmp_path / "early").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("part", ["early", "late"])
def test_a_log_of_other_ids_and_more_buckets_is_joined(tmp_path, monkeypatch, part):
    paths = write_parts(tmp_path, log_rows(), as_text=part)
    prepare(config_of(paths["both"]), tmp_path / "fresh")
    monkeypatch.setattr(scan, "BUCKET_BYTES", 10**6)
    prepare(config_of(paths["early"]), tmp_path / "early")
    monkeypatch.setattr(scan, "BUCKET_BYTES", 4000)
    growth = config_of(paths["late"], from_store=str(tmp_path / "early"))
    prepare(growth, tmp_path / "grown")
    assert_same_content(tmp_path / "grown", tmp_path / "fresh")
    index = json.loads((tmp_path / "grown" / "log" / "index.json").read_text())
    assert (index["user_type"], index["num_buckets"] > 1) == ("String", True)


def test_a_grown_store_grows_again(tmp_path):
    rows = log_rows()
    thirds = [rows.filter(pl.col("t") % 3 == k) for k in range(3)]
    for k, part in enumerate(thirds):
        part.write_parquet(tmp_path / f"{k}.parquet")
        earlier = str(tmp_path / str(k - 1)) if k else None
        prepare(config_of(str(tmp_path / f"{k}.parquet"), from_store=earlier), tmp_path / str(k))
    pl.concat(thirds).write_parquet(tmp_path / "all.parquet")
    prepare(config_of(str(tmp_path / "all.parquet")), tmp_path / "fresh")
    assert_same_content(tmp_path / "2", tmp_path / "fresh")
    report = json.loads((tmp_path / "2" / "report.json").read_text())
    assert report["read_earlier"] == len(thirds[0]) + len(thirds[1])
    shutil.rmtree(tmp_path / "0")  # nothing of the earlier stores is needed
    Store(tmp_path / "2").check()


def test_bins_of_numbers_keep_their_edges(tmp_path):
    paths = write_parts(tmp_path, log_rows())
    few = write_features(tmp_path, "few", range(NUM_USERS), range(NUM_ITEMS // 2))
    more = write_features(tmp_path, "more", range(NUM_USERS), range(NUM_ITEMS))
    prepare(config_of(paths["early"], **few), tmp_path / "early")
    growth = config_of(paths["late"], from_store=str(tmp_path / "early"), **more)
    prepare(growth, tmp_path / "grown")
    before, now = (
        features_of(Store(tmp_path / name), "item")["price"] for name in ("early", "grown")
    )
    known = {item: bins for item, bins in before.items() if bins != [None]}
    assert known
    assert {item: now[item] for item in known} == known


def test_rejects_of_both_logs_are_counted(tmp_path):
    paths = write_parts(tmp_path, log_rows())
    for name in ("early", "late"):
        rows = pl.read_parquet(paths[name])
        bad = rows.head(3).with_columns(u=pl.lit(None, pl.Int32))
        pl.concat([rows, bad]).write_parquet(paths[name])
    prepare(config_of(paths["early"], max_rejected_fraction=0.1), tmp_path / "early")
    growth = config_of(paths["late"], max_rejected_fraction=0.1, from_store=str(tmp_path / "early"))
    report = prepare(growth, tmp_path / "grown")
    rejects = pl.read_parquet(tmp_path / "grown" / "rejects.parquet")
    assert (report.rejected, report.reasons) == (6, {"no user": 6})
    assert sorted(rejects["file"].unique()) == ["early.parquet", "late.parquet"]


@pytest.fixture
def parts(tmp_path) -> dict[str, str]:
    """A prepared early part, and the late one."""
    paths = write_parts(tmp_path, log_rows())
    prepare(config_of(paths["early"]), tmp_path / "early")
    return paths


def grow(parts: dict[str, str], earlier: Path, store: Path, **options: Any) -> None:
    prepare(config_of(parts["late"], from_store=str(earlier), **options), store)


def test_what_cannot_grow_is_said_in_one_line(parts, tmp_path):
    early, store = tmp_path / "early", tmp_path / "grown"
    prepare(config_of(parts["early"], keep_log=False), tmp_path / "bare")
    (tmp_path / "unfinished" / ".preparing").mkdir(parents=True)
    shutil.copytree(early, tmp_path / "old")
    manifest = json.loads((early / "manifest.json").read_text())
    (tmp_path / "old" / "manifest.json").write_text(json.dumps({**manifest, "format_version": 8}))
    for earlier, message in (
        (tmp_path / "nowhere", "data.from=.*nowhere is no store; name one"),
        (tmp_path / "unfinished", "is not finished; repeat the command that makes it"),
        (tmp_path / "bare", r"keeps no log \(data.keep_log=false\), so it cannot grow"),
        (tmp_path / "old", "format version 8, this program reads 9"),
        (store, "itself; a store grows into another folder"),
    ):
        with pytest.raises(InputError, match=message) as error:
            grow(parts, earlier, store)
        assert "\n" not in str(error.value)
        assert not store.exists()
    with pytest.raises(InputError, match="itself; a store grows into another folder"):
        grow(parts, early, early)
    Store(early).check()


@pytest.mark.parametrize("name", ["rows-00000.arrow", "index.json", "rejects.parquet"])
def test_a_damaged_log_does_not_grow(parts, tmp_path, name):
    path = tmp_path / "early" / "log" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{name} does not match its checksum"):
        grow(parts, tmp_path / "early", tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_options_that_split_must_be_those_of_the_earlier_store(parts, tmp_path):
    early, store = tmp_path / "early", tmp_path / "grown"
    with pytest.raises(
        InputError, match=r"other options; set data.seed=0 data.query_items=4 .*, as there"
    ):
        grow(parts, early, store, seed=1, query_items=5, rating_range=[1, 5])
    with pytest.raises(InputError, match=r"has times, and the new log has no times; set data.col"):
        grow(parts, early, store, columns=ColumnsConfig("u", "i", "r", None))
    with pytest.raises(InputError, match=r"has the user features {}, and the new files {job: "):
        grow(parts, early, store, **write_features(tmp_path, "x", range(9), range(9)))
    with pytest.raises(InputError, match="holds a log of files, and data=synthetic generates one"):
        prepare(DataConfig(from_store=str(early)), store)
    typed = config_of(parts["late"], from_store=str(early), seed=1, query_items=5)
    taken = with_earlier_options(typed, {"seed"})
    assert (taken.seed, taken.query_items, taken.path) == (1, 4, parts["late"])


def test_a_store_that_did_not_grow_names_the_option_as_it_is_typed(parts, tmp_path):
    prepare(config_of(parts["late"]), tmp_path / "late")
    with pytest.raises(InputError, match=r"prepared differently \(data.from, the source files\)"):
        grow(parts, tmp_path / "early", tmp_path / "late")
