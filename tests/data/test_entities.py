"""A feature's fault costs the feature: users and items without features keep their ratings."""

import polars as pl
import pytest
from logs import csv_config, write_log
from stores import CHOICE, tasks_of

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.entities import catalogue_of, read_entities
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.rejects import REJECTS, Rejects
from greatmeta_dist.data.sources import Table
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

LENIENT = DataConfig(max_rejected_feature_fraction=1.0)


def table(rows: list[tuple], **features) -> Table:
    """A table with ids and features, one file line each from 2 on."""
    frame = pl.DataFrame(rows, ["id", *features], orient="row").with_row_index("line", 2)
    return Table(
        frame.lazy().with_columns(
            line=pl.col("line").cast(pl.Int64),
            file=pl.lit("items.csv"),
            reason=pl.lit(None, pl.String),
            text=pl.lit(None, pl.String),
        ),
        features,
    )


NOTHING = pl.Series([], dtype=pl.String)


@pytest.fixture
def rejects(tmp_path) -> Rejects:
    return Rejects(tmp_path / REJECTS)


def test_bad_ids_and_numbers_are_rejected_and_nothing_else(rejects):
    rows = [("a", "1.5"), ("b", "dear"), ("", "2"), ("a", "3"), ("null", "4"), ("c", None)]
    rows += [("d", "inf")]
    found = read_entities(table(rows, price="float"), "item", rejects, LENIENT)
    assert found.rows() == [("a", "1.5"), ("b", None), ("c", None), ("d", None)]
    assert rejects.table().select("line", "column", "value", "reason").rows() == [
        (3, "price", "dear", "price is not a number"),
        (4, "id", "", "no item id"),
        (5, "id", "a", "repeats the item; the first is kept"),
        (6, "id", "null", "no item id"),
        (8, "price", "inf", "price is not a number"),
    ]
    assert rejects.count("items") == 5
    assert rejects.count("log") == 0


def test_no_usable_row_is_refused(rejects):
    with pytest.raises(
        InputError, match=r"the user features items.csv hold no usable row: no user"
    ):
        read_entities(table([("", "x")], kind="token"), "user", rejects, LENIENT)


def test_the_catalogue_is_the_file_then_what_only_the_log_has(rejects):
    items = table([("z", "x"), ("b", "y")], kind="token")
    in_log = pl.Series(["q", "b", "a"])
    catalogue, num_unlisted = catalogue_of(
        NOTHING, read_entities(items, "item", rejects, LENIENT), in_log
    )
    assert catalogue.rows() == [("z", "x"), ("b", "y"), ("a", None), ("q", None)]
    assert num_unlisted == 2
    alone, num_unlisted = catalogue_of(NOTHING, None, pl.Series([10, 9]))
    assert (alone["id"].to_list(), num_unlisted) == (["10", "9"], 0)


def test_users_and_items_without_features_keep_their_ratings(tmp_path):
    path = write_log(tmp_path)
    for name, key, count in (("users", "u", 60), ("items", "i", 50)):
        rows = [f"{key}{k},a,x|y\n" for k in range(count) if k % 3]
        (tmp_path / f"{name}.csv").write_text(f"{key},{name}_kind,{name}_tags\n" + "".join(rows))
    options = {
        "users_path": str(tmp_path / "users.csv"),
        "items_path": str(tmp_path / "items.csv"),
        "user_features": {"users_kind": "token", "users_tags": "token_list"},
        "item_features": {"items_kind": "token", "items_tags": "token_list"},
        "min_value_count": 1,
    }
    report = prepare(csv_config(path, **options), tmp_path / "store")
    without = prepare(csv_config(path), tmp_path / "other")
    assert (report.unlisted_users, report.unlisted_items) == (20, 17)
    assert (report.rejected, report.rejected_elsewhere) == (0, {})
    store, other = Store(tmp_path / "store"), Store(tmp_path / "other")
    assert report.tasks == without.tasks
    for split in store.manifest.splits:
        assert {u: t.keys() for u, t in tasks_of(store, split).items()} == {
            u: t.keys() for u, t in tasks_of(other, split).items()
        }
    unknown = {f.name: f.unknown_row for f in store.manifest.fields}
    stored = store.split("train", CHOICE)
    names = [f.name for f in store.fields("user", CHOICE)]
    for name, rows in zip(names, stored.tasks.features.fields, strict=True):
        for k, user in enumerate(stored.user):
            values = set(rows.values[rows.offsets[k] : rows.offsets[k + 1]].tolist())
            assert (unknown[name] in values) == (int(user[1:]) % 3 == 0)
            assert len(values) == (2 if name == "users_tags" and int(user[1:]) % 3 else 1)
    features = store.item_features(CHOICE).fields
    for field, rows in zip(store.fields("item", CHOICE), features, strict=True):
        for k, item in enumerate(store.item_tokens()):
            values = set(rows.values[rows.offsets[k] : rows.offsets[k + 1]].tolist())
            if field.name != "item_id":
                assert (field.unknown_row in values) == (int(item[1:]) % 3 == 0)
