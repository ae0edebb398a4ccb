"""``greatmeta inspect`` reads the first rows as ``prepare`` would, and leaves nothing behind."""

import tempfile
import time
from pathlib import Path

import polars as pl
import pytest

from greatmeta_dist.cli import main
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data import heads
from greatmeta_dist.data.inspect import inspect_log

EMB = ("emb_1", "emb_2", "emb_3")
CASES = Path(__file__).parent / "cases"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder of its own for temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


def test_columns_types_examples_and_rejects_are_shown(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("userId,movieId,rating,note\n1,2,3,a\n1,3,x,b\n,3,4,c\n")
    assert main(["inspect", "data=csv", f"data.path={path}"]) == 0
    shown = capsys.readouterr().out
    assert "movieId  text: integers  → item; such as 2, 3" in shown
    assert "note     text            → not used; such as a, b, c" in shown
    assert "first 3 rows: 2 rejected" in shown
    assert "1 × rating is not a number; the first: log.csv, line 3: 'x'" in shown
    assert {p.name for p in tmp_path.iterdir()} == {"temporary", "log.csv"}


def test_what_is_not_clear_is_shown_with_the_columns(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("who,movieId,rating\n7,2,3\n")
    assert main(["inspect", "data=csv", f"data.path={path}"]) == 2
    printed = capsys.readouterr()
    assert "who      text  such as 7" in printed.out
    assert "data.columns='{user: COLUMN, item: movieId, rating: rating}'" in printed.err


def test_only_the_first_rows_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "NUM_ROWS", 1000)
    log = pl.select(user=pl.int_range(300_000), item=1, rating=1)
    log.write_parquet(tmp_path / "log.parquet")
    log.write_csv(tmp_path / "log.csv")
    for kind in ("csv", "parquet"):
        start = time.process_time()
        found = inspect_log(DataConfig(source=kind, path=str(tmp_path / f"log.{kind}")))
        assert found.num_rows == 1000
        assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "source, path, names",
    [
        ("recbole", "17", ["user_id", "item_id", "rating", "timestamp", "id", "genre", *EMB]),
        ("parquet", "08", ["user", "item", "rating", "ts"]),
        ("parquet", "06/mixed", ["user", "item", "rating", "ts"]),
    ],
)
def test_folders_of_any_source_are_inspected(source, path, names):
    found = inspect_log(DataConfig(source=source, path=str(CASES / path)))
    assert found.problem is None
    assert [c.name for c in found.columns if c.read_as != "not used"] == names
    assert (found.num_rows, len(found.rejects)) == (1648, 0)


def test_lists_are_shown_as_lists():
    found = inspect_log(DataConfig(source="synthetic", users=50, items=30))
    categories = next(column for column in found.columns if column.name == "category")
    assert all(example.startswith("['") for example in categories.examples)
