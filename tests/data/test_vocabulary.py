"""Values that training knows too little of share their field's unknown row."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log
from stores import CHOICE

from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Field, Store
from greatmeta_dist.data.vocabulary import Vocabulary, bin_edges, binned


def test_unseen_values_share_the_unknown_row(tmp_path):
    path = write_log(tmp_path)
    people = tmp_path / "people.csv"
    people.write_text("u,job,score\n" + "".join(f"u{k},job{k},{k}\n" for k in range(60)))
    prepare(
        csv_config(
            path,
            users_path=str(people),
            user_features={"job": "token", "score": "float"},
            cold_item_fraction=0.2,
            min_value_count=1,
        ),
        tmp_path / "store",
    )
    store = Store(tmp_path / "store")
    fields = {f.name: f for f in store.manifest.fields}
    assert fields["job"].num_rows == store.manifest.splits["train"] + 1
    assert 2 < fields["score"].num_rows <= 33
    vocabularies = {
        n: pl.read_parquet(tmp_path / "store" / "vocab" / f"{n}.parquet") for n in fields
    }
    rows = pl.concat([v["row"] for v in vocabularies.values()])
    assert sorted(rows) == list(range(store.manifest.num_rows))
    unknown = vocabularies["job"].filter(pl.col("value").is_null())["row"][0]
    for split, expected in (("user_cold", True), ("train", False)):
        job = store.split(split, CHOICE).tasks.features.fields[0].values
        assert (job == unknown).all() == expected
    seen = vocabularies["item_id"]["value"].drop_nulls()
    count = store.training_rows().item_count
    assert set(seen) == {t for t, n in zip(store.item_tokens(), count, strict=True) if n}


def test_values_of_few_share_the_unknown_row(tmp_path):
    path = write_log(tmp_path)
    people = tmp_path / "people.csv"
    jobs = ["clerk", "cook", "cook", "baker", "baker", "baker"]
    people.write_text("u,job,town\n" + "".join(f"u{k},{jobs[k % 6]},t{k}\n" for k in range(60)))

    def store(min_count: int) -> Store:
        folder = tmp_path / f"store-{min_count}"
        features = {"job": "token", "town": "token"}
        prepare(
            csv_config(
                path, users_path=str(people), user_features=features, min_value_count=min_count
            ),
            folder,
        )
        return Store(folder)

    counts = pl.read_parquet(store(1).folder / "vocab" / "job.parquet").drop_nulls()
    assert counts["value"].to_list() == ["baker", "cook", "clerk"]
    least = counts["count"][1]
    some = store(least)
    by_name = {f.name: f for f in some.manifest.fields}
    assert by_name["job"].num_rows == 3
    towns = pl.read_parquet(some.folder / "vocab" / "town.parquet").drop_nulls()
    assert by_name["town"].num_rows == 1
    assert by_name["item_id"].num_rows == len(some.item_tokens()) + 1
    report = json.loads((some.folder / "report.json").read_text())
    assert report["rare_values"] == {"job": 1, "town": len(towns), "item_id": 0}
    assert some.manifest.num_rows == sum(f.num_rows for f in some.manifest.fields)
    vocabulary = pl.read_parquet(some.folder / "vocab" / "job.parquet")
    row = dict(vocabulary.select("value", "row").iter_rows())
    assert row["clerk"] == row[None] == by_name["job"].unknown_row
    assert len({row["baker"], row["cook"], row[None]}) == 3
    tasks = some.split("train", CHOICE).tasks.features.fields
    assert set(tasks[0].values) == set(row.values())
    assert set(tasks[1].values) == {by_name["town"].unknown_row}


@pytest.mark.parametrize("num", [15, 40, 2000])
def test_bins_hold_enough_numbers_to_have_a_row(num):
    values = pl.Series(np.random.default_rng(num).lognormal(size=num))
    held = binned(values, bin_edges(values, min_count=10)).value_counts()
    assert held["count"].min() >= 10
    assert len(held) == min(32, max(1, num // 20))


@pytest.mark.parametrize(
    "values, known, expected",
    [
        (["1995", "x", None], [str(y) for y in range(1980, 2000)], [1995, np.nan, np.nan]),
        (["bin_3", "bin_11", None], ["bin_3", "bin_11"], [3, 11, np.nan]),
        (["1995"], ["1995", "drama"], None),
        (["1995"], [], None),
    ],
)
def test_values_have_an_order_where_nearly_all_are_numbers(values, known, expected):
    rows = np.arange(len(known) + 1, dtype=np.int32)
    field = Field("f", "item", is_list=False, num_rows=len(rows), unknown_row=len(known))
    vocabulary = Vocabulary(field, pl.Series(known, dtype=pl.String), rows[:-1], rows)
    found = vocabulary.numbers(pl.Series(values))
    assert found is None if expected is None else np.array_equal(found, expected, equal_nan=True)
    as_list = Vocabulary(replace(field, is_list=True), vocabulary.values, rows[:-1], rows)
    assert as_list.numbers(pl.Series([["1995"]])) is None
