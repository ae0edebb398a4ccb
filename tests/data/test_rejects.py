"""Rejects are kept with their places, and limited apart for the log, features and split files."""

import polars as pl
import pytest
from logs import csv_config, write_log

from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.rejects import REJECT_SCHEMA, REJECTS, Rejects
from greatmeta_dist.errors import InputError


def bad_rows(*lines: int, file: str = "log.csv") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "file": file,
            "line": list(lines),
            "reason": "no item",
            "text": [None] * len(lines),
            "item": [f"i{line}" for line in lines],
        },
        schema_overrides={"text": pl.String},
    )


def test_rejects_are_counted_apart_and_written_together(tmp_path):
    rejects = Rejects(tmp_path / REJECTS)
    rejects.add(bad_rows(7, 3), "item", of="log")
    rejects.add(bad_rows(2, file="items.csv"), "item", of="items")
    rejects.add(bad_rows(), "item", of="users")
    assert [rejects.count(of) for of in ("log", "items", "users", "split")] == [2, 1, 0, 0]
    rejects.write()
    written = pl.read_parquet(tmp_path / REJECTS)
    assert written.schema == REJECT_SCHEMA
    assert written.select("file", "line", "column", "value").rows() == [
        ("items.csv", 2, "item", "i2"),
        ("log.csv", 3, "item", "i3"),
        ("log.csv", 7, "item", "i7"),
    ]


def test_a_malformed_line_is_shown_whole(tmp_path):
    rejects = Rejects(tmp_path / REJECTS)
    rejects.add(bad_rows(4).with_columns(text=pl.lit("u1;i1")), "item", of="log")
    assert rejects.table()["value"].to_list() == ["u1;i1"]


def test_too_many_are_refused_with_the_first_of_them(tmp_path):
    rejects = Rejects(tmp_path / REJECTS)
    rejects.add(bad_rows(9, 5), "item", of="log")
    limit = {"of": "log", "option": "data.max_rejected_fraction", "limit": 0.02}
    rejects.require_few(100, **limit)
    with pytest.raises(
        InputError,
        match=r"2 rows were rejected, more than 0.02 of 99; the first: log.csv, line 5: no item; "
        r"see .*rejects.parquet, mend the files or raise data.max_rejected_fraction",
    ):
        rejects.require_few(99, **limit)
    rejects.require_few(0, of="users", option="x", limit=0.0)


def test_rejects_on_disk_count_and_are_written_with_the_others(tmp_path):
    rejects = Rejects(tmp_path / REJECTS, on_disk=tmp_path / "log.parquet")
    frame = pl.DataFrame([("log.csv", 8, "item", "", "no item")], REJECT_SCHEMA, orient="row")
    frame.write_parquet(tmp_path / "log.parquet")
    rejects.add(bad_rows(2, file="items.csv"), "item", of="items")
    assert (rejects.count("log"), rejects.count("items")) == (1, 1)
    with pytest.raises(InputError, match=r"the first: log.csv, line 8: no item"):
        rejects.require_few(9, of="log", option="x", limit=0.1)
    rejects.write()
    assert set(pl.read_parquet(tmp_path / REJECTS)["line"]) == {2, 8}
    rejects.read_from_disk()
    (tmp_path / "log.parquet").unlink()
    assert (rejects.count("log"), len(rejects.table())) == (1, 2)


def test_a_fault_of_a_feature_has_its_own_limit(tmp_path):
    path = write_log(tmp_path)
    items = tmp_path / "items.csv"
    prices = ["x" if k < 6 else k for k in range(50)]  # 12%
    items.write_text("i,price\n" + "".join(f"i{k},{p}\n" for k, p in enumerate(prices)))
    options = {"items_path": str(items), "item_features": {"price": "float"}}
    with pytest.raises(
        InputError,
        match=r"6 rows were rejected, more than 0.1 of 50; the first: items.csv, line 2: price is "
        r"not a number; .* raise data.max_rejected_feature_fraction",
    ):
        prepare(csv_config(path, **options), tmp_path / "store")
    assert len(pl.read_parquet(tmp_path / "store" / REJECTS)) == 6
    allowed = csv_config(path, **options, max_rejected_feature_fraction=0.2)
    report = prepare(allowed, tmp_path / "store")
    assert (report.rejected, report.rejected_elsewhere) == (0, {"items": 6})
    assert report.reasons == {"price is not a number": 6}
    assert report.interactions == prepare(csv_config(path), tmp_path / "other").interactions


def test_lines_of_a_split_that_the_log_lacks_are_no_rows_of_the_log(tmp_path):
    path = write_log(tmp_path)
    rows = pl.read_csv(path).filter(pl.col("u").is_in(["u1", "u2"])).select("u", "i").rows()
    roles = {u: iter(["query"] * 3 + ["support"] * 99) for u in ("u1", "u2")}
    split = {"u1": "train", "u2": "test"}
    lines = [f"{split[u]}\t{u}\t{next(roles[u])}\t{i}" for u, i in rows]
    (tmp_path / "split.tsv").write_text(
        "\n".join(["part\tuser_id\trole\titem_id", *lines, "train\tu1\tsupport\tgone"]) + "\n"
    )
    report = prepare(csv_config(path, split=str(tmp_path / "split.tsv")), tmp_path / "store")
    assert (report.rejected, report.rejected_elsewhere) == (0, {"split": 1})
    assert report.read == report.not_in_split + len(rows)
    rejects = pl.read_parquet(tmp_path / "store" / REJECTS)
    assert rejects.select("file", "line", "value", "reason").rows() == [
        (
            "split.tsv",
            len(rows) + 2,
            "u1 gone",
            "names an interaction that the log does not hold",
        )
    ]
