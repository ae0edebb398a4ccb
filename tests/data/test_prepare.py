"""Preparation loses nothing silently and splits as it says."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from logs import COLUMNS, csv_config, write_log

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data import validate
from greatmeta_dist.data.encode import LEAST_PRIOR, MOST_PRIOR, VarianceComponents
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import FeatureSpec, Field, Store
from greatmeta_dist.data.vocabulary import Vocabulary, bin_edges, binned
from greatmeta_dist.errors import InputError
from greatmeta_dist.priors.content import ItemFeature, content_means
from greatmeta_dist.ragged import Ragged, offsets_of

CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


def tasks_of(store: Store, part: str) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """Every task of a part: user → role → (item token, rating)."""
    tokens = store.item_tokens()
    found = store.part(part, CHOICE)
    out = {}
    for u, user in enumerate(found.user):
        out[user] = {}
        for role in ("support", "query"):
            items = getattr(found.tasks, f"{role}_item")
            ratings = getattr(found.tasks, f"{role}_label")
            here = slice(items.offsets[u], items.offsets[u + 1])
            pairs = zip(items.values[here], ratings.values[here], strict=True)
            out[user][role] = [(tokens[i], float(r)) for i, r in pairs]
    return out


def items_of(task: dict[str, list[tuple[str, float]]]) -> set[str]:
    return {item for role in task.values() for item, _ in role}


def test_recipe_deals_every_user_once_and_keeps_scenarios_apart(tmp_path):
    path = write_log(tmp_path)
    log = pl.read_csv(path)
    prepare(
        csv_config(path, cold_item_fraction=0.2, query_items=3, warm_fraction=0.3, seed=1),
        tmp_path / "store",
    )
    store = Store(tmp_path / "store")
    parts = {p: tasks_of(store, p) for p in store.manifest.parts}
    assert set(parts) == {"train", "valid", "warm", "user_cold", "item_cold", "both_cold"}
    users = [*parts["train"], *parts["valid"], *parts["user_cold"]]
    assert sorted(users) == sorted(log["u"].unique())
    assert set(parts["warm"]) < set(parts["train"])
    assert set(parts["item_cold"]) <= set(parts["train"])
    assert set(parts["both_cold"]) <= set(parts["user_cold"])

    trained = set().union(*map(items_of, parts["train"].values()))
    for part in ("item_cold", "both_cold"):
        for task in parts[part].values():
            assert not trained & {i for i, _ in task["query"]}
            assert {i for i, _ in task["support"]} & trained
    for part in ("train", "valid", "warm", "user_cold"):
        for user, task in parts[part].items():
            assert len(task["query"]) == 3
            assert not {i for i, _ in task["support"]} & {i for i, _ in task["query"]}
            rated = dict(log.filter(u=user).select("i", "r").rows())
            assert all(rated[i] == r for role in task.values() for i, r in role)
    for user, task in parts["warm"].items():
        assert not {i for i, _ in task["query"]} & items_of(parts["train"][user])


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
        path, min_interactions=18, max_interactions=25, query_items=5, max_support_items=6
    )
    report = prepare(config, tmp_path / "store")
    counts = pl.read_csv(path).group_by("u").len().filter(pl.col("len").is_between(18, 25))
    tasks = {}
    for part in ("train", "valid", "user_cold"):
        tasks |= tasks_of(Store(tmp_path / "store"), part)
    assert sorted(tasks) == sorted(counts["u"])
    assert all(len(t["support"]) <= 6 and len(t["query"]) == 5 for t in tasks.values())
    assert report.out_of_bounds == report.read - counts["len"].sum()


def test_every_row_read_is_in_a_task_or_accounted_for(tmp_path):
    path = write_log(tmp_path)
    with path.open("a") as log:
        log.write("u1,i1,five,0\nlone,i1,5,0\n")
    config = csv_config(path, cold_item_fraction=0.3, query_items=2, max_support_items=9)
    report = prepare(config, tmp_path / "store")
    store = Store(tmp_path / "store")
    used = {
        (user, item)
        for part in store.manifest.parts
        for user, task in tasks_of(store, part).items()
        for rows in task.values()
        for item, _ in rows
    }
    assert report.rejected == 1
    assert min(report.out_of_bounds, report.unused) > 0
    left_out = report.rejected + report.out_of_bounds + report.unused
    assert report.read == left_out + len(used)


def test_generated_logs_are_cut_into_buckets_too(tmp_path, monkeypatch):
    monkeypatch.setattr(validate, "BUCKET_BYTES", 20_000)
    prepare(DataConfig(users=300), tmp_path / "many")
    monkeypatch.undo()
    prepare(DataConfig(users=300), tmp_path / "one")
    many, one = Store(tmp_path / "many"), Store(tmp_path / "one")
    assert many.manifest.shards["valid"] > one.manifest.shards["valid"] == 1
    for part in one.manifest.parts:
        assert normalised(tasks_of(one, part)) == normalised(tasks_of(many, part))


def test_a_log_of_bad_rows_alone_is_refused_after_one_pass(tmp_path, monkeypatch):
    path = write_log(tmp_path)
    path.write_text(re.sub(r",i1\d*,", ",,", path.read_text()))
    monkeypatch.setattr(validate.CheckedLog, "bucket", lambda *_: pytest.fail("read again"))
    with pytest.raises(
        InputError, match=r"rows were rejected.*the first: log.csv, line \d+: no item"
    ):
        prepare(csv_config(path), tmp_path / "store")
    rejects = pl.read_parquet(tmp_path / "store" / validate.REJECTS)
    assert len(rejects) == pl.read_csv(path)["i"].null_count()
    assert set(rejects["reason"]) == {"no item"}


def test_a_changed_row_amid_a_large_log_is_noticed(tmp_path):
    path = write_log(tmp_path)
    header, rows = path.read_text().split("\n", 1)
    ballast = "".join(f"v{k},i1,3,{k:09}\n" for k in range(120_000))
    path.write_text(f"{header}\n{ballast}{rows}")
    prepare(csv_config(path), tmp_path / "store")
    assert not prepare(csv_config(path), tmp_path / "store").is_new
    text = path.read_text()
    path.write_text(text.replace("v60000,i1,3,", "v60000,i1,4,"))
    with pytest.raises(InputError, match="the source files"):
        prepare(csv_config(path), tmp_path / "store")


def test_number_of_buckets_does_not_change_who_is_where(tmp_path, monkeypatch):
    path = write_log(tmp_path)
    prepare(csv_config(path), tmp_path / "one")
    monkeypatch.setattr(validate, "BUCKET_BYTES", 2000)
    prepare(csv_config(path), tmp_path / "many")
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    assert many.manifest.shards["train"] > one.manifest.shards["train"]
    for part in one.manifest.parts:
        assert normalised(tasks_of(one, part)) == normalised(tasks_of(many, part))
    for prior in ("item_damping", "user_damping"):
        assert getattr(one.manifest.ratings, prior) == pytest.approx(
            getattr(many.manifest.ratings, prior)
        )
    grams = [f @ f.T for f in (s.item_factors()[1] for s in (one, many))]
    assert np.abs(grams[0]).max() > 1
    assert grams[0] == pytest.approx(grams[1], abs=1e-3)


def test_what_else_is_in_a_log_does_not_change_who_is_where(tmp_path):
    path = write_log(tmp_path)
    options = {"cold_item_fraction": 0.2, "query_items": 3, "warm_fraction": 0.3}
    prepare(csv_config(path, **options), tmp_path / "one")
    with path.open("a") as log:  # items that come first in the catalogue
        log.writelines(f"new,a{i},3,0\n" for i in range(30))
    prepare(csv_config(path, **options), tmp_path / "more")
    one, more = Store(tmp_path / "one"), Store(tmp_path / "more")
    assert more.manifest.num_items == one.manifest.num_items + 30
    for part in one.manifest.parts:
        found = normalised(tasks_of(more, part))
        found.pop("new", None)
        assert normalised(tasks_of(one, part)) == found


def normalised(tasks):
    return {u: {r: sorted(v) for r, v in t.items()} for u, t in tasks.items()}


def test_split_file_is_taken_exactly(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "u,i,r,t\na,x,1,1\na,y,2,2\na,z,3,3\nb,x,4,4\nb,y,5,5\nc,z,1,6\nc,x,2,7\nc,w,3,8\n"
    )
    split = tmp_path / "split.tsv"
    split.write_text(
        "part\tuser_id\trole\titem_id\n"
        "train\ta\tsupport\tx\ntrain\ta\tquery\ty\nwarm\ta\tsupport\tx\nwarm\ta\tquery\tz\n"
        "test\tb\tsupport\tx\ntest\tb\tquery\ty\nboth_cold\tc\tsupport\tx\nboth_cold\tc\tquery\tw\n"
    )
    report = prepare(csv_config(path, split=str(split)), tmp_path / "store")
    store = Store(tmp_path / "store")
    found = {p: tasks_of(store, p) for p in store.manifest.parts}
    assert found == {
        "train": {"a": {"support": [("x", 1)], "query": [("y", 2)]}},
        "warm": {"a": {"support": [("x", 1)], "query": [("z", 3)]}},
        "user_cold": {"b": {"support": [("x", 4)], "query": [("y", 5)]}},
        "both_cold": {"c": {"support": [("x", 2)], "query": [("w", 3)]}},
    }
    assert report.not_in_split == 1
    assert store.manifest.ratings.mean == pytest.approx(1.5)


@pytest.mark.parametrize(
    "line, message",
    [
        ("trian\ta\tsupport\tx", "line 3 has part 'trian'"),
        ("train\ta\tasked\ty", "line 3 has role 'asked'"),
        ("train\ta\tquery", "line 3 is malformed: expected 4 fields, found 3"),
        ("train\ta\tquery\tx", "repeats user a, item x in part train"),
    ],
)
def test_bad_split_line_stops_with_its_number(tmp_path, line, message):
    split = tmp_path / "split.tsv"
    split.write_text(f"part\tuser_id\trole\titem_id\ntrain\ta\tsupport\tx\n{line}\n")
    with pytest.raises(InputError, match=message):
        prepare(csv_config(write_log(tmp_path), split=str(split)), tmp_path / "store")


BAD_ROWS = {
    "u1,i1": "expected 4 fields, found 2",
    "u1,i1,five,3": "rating is not a number",
    "u1,i1,,3": "rating is not a number",
    "u1,i1,nan,3": "rating is not a number",
    "u1,i1,9,3": "rating is outside 1 to 5",
    ",i1,4,3": "no user",
    "u1,,4,3": "no item",
    "u1,i1,4,noon": "timestamp is not a number (of seconds)",
    '"u1,i1,4,3': "malformed quotes",
    "u1,i999,4,3": "the items' file does not list the item",
    "u1,i1,1e30,3": "rating is beyond 1e+15",
}


def test_every_kind_of_bad_row_is_rejected_with_file_line_and_reason(tmp_path):
    path = write_log(tmp_path)
    items = tmp_path / "items.csv"
    items.write_text("i,kind\n" + "".join(f"i{k},a\n" for k in range(50)) + "i3,b\n,c\n")
    good = path.read_text().splitlines()
    first_bad = len(good) + 1
    path.write_text("\n".join([*good, *BAD_ROWS, good[1]]) + "\n")
    report = prepare(
        csv_config(
            path,
            rating_range=[1, 5],
            items_path=str(items),
            item_features={"kind": "token"},
            max_rejected_fraction=0.05,
        ),
        tmp_path / "store",
    )
    rejects = pl.read_parquet(tmp_path / "store" / "rejects.parquet")
    log = rejects.filter(file="log.csv").sort("line")
    reasons = dict(log.select("line", "reason").rows())
    for k, reason in enumerate(BAD_ROWS.values()):
        assert reasons[first_bad + k] == reason
    # The repeated row is the later one of its time, so line 2 goes.
    assert reasons[2] == "repeats a user and item; the latest is kept"
    assert len(log) == len(BAD_ROWS) + 1
    assert rejects.filter(file="items.csv").select("line", "reason").rows() == [
        (52, "repeats the item; the first is kept"),
        (53, "no item id"),
    ]
    assert dict(log.select("line", "value").rows())[first_bad + 1] == "five"
    assert report.rejected == len(rejects)
    kept = Store(tmp_path / "store").manifest.parts
    assert kept["train"] + kept["valid"] + kept["user_cold"] == 60


def test_too_many_rejects_stop_the_preparation_and_are_kept(tmp_path):
    path = write_log(tmp_path)
    path.write_text(path.read_text() + "u1,i1\n" * 100)
    with pytest.raises(InputError, match=r"100 rows were rejected, more than 0.01 of .*log\.csv"):
        prepare(csv_config(path), tmp_path / "store")
    assert len(pl.read_parquet(tmp_path / "store" / "rejects.parquet")) == 100
    assert not (tmp_path / "store" / "manifest.json").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"u,i,r,t\n", "holds no interaction"),
        (b"u,i,r,t\na,b,1,1\n", "no training task came out of 1 usable rows"),
        (b"\n", "expected a line of distinct column names"),
    ],
)
def test_empty_input_says_so(tmp_path, content, message):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        prepare(csv_config(path), tmp_path / "store")


def test_unrated_rows_are_left_out_and_counted(tmp_path):
    path = write_log(tmp_path)
    path.write_text(path.read_text() + "u1,i49,0,5\nu2,i49,0,5\n")
    report = prepare(csv_config(path, rating_range=[1, 5], unrated_value=0.0), tmp_path / "store")
    assert (report.unrated, report.rejected) == (2, 0)


def test_preparing_again_does_nothing_and_another_way_is_refused(tmp_path):
    path = write_log(tmp_path)
    assert prepare(csv_config(path), tmp_path / "store").is_new
    before = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    again = prepare(csv_config(path), tmp_path / "store")
    assert not again.is_new
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"prepared differently \(data.query_items\)"):
        prepare(csv_config(path, query_items=5), tmp_path / "store")
    path.write_text(path.read_text() + "u1,i49,5,1\n")
    with pytest.raises(InputError, match="the source files"):
        prepare(csv_config(path), tmp_path / "store")


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
    assert fields["job"].num_rows == store.manifest.parts["train"] + 1
    assert 2 < fields["score"].num_rows <= 33
    vocabularies = {
        n: pl.read_parquet(tmp_path / "store" / "vocab" / f"{n}.parquet") for n in fields
    }
    rows = pl.concat([v["row"] for v in vocabularies.values()])
    assert sorted(rows) == list(range(store.manifest.num_rows))
    unknown = vocabularies["job"].filter(pl.col("value").is_null())["row"][0]
    for part, expected in (("user_cold", True), ("train", False)):
        job = store.part(part, CHOICE).tasks.features.fields[0].values
        assert (job == unknown).all() == expected
    seen = vocabularies["item_id"]["value"].drop_nulls()
    count, _ = store.item_statistics()
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
    tasks = some.part("train", CHOICE).tasks.features.fields
    assert set(tasks[0].values) == set(row.values())
    assert set(tasks[1].values) == {by_name["town"].unknown_row}


def test_rows_of_users_with_too_few_for_a_query_are_counted(tmp_path):
    path = write_log(tmp_path)
    report = prepare(csv_config(path, query_items=20), tmp_path / "store")
    lengths = pl.read_csv(path).group_by("u").len()["len"]
    assert report.out_of_bounds == lengths.filter(lengths <= 20).sum() > 0
    assert report.read == report.out_of_bounds + sum(report.interactions.values())


def test_missing_values_are_nobody_and_no_number(tmp_path):
    path = write_log(tmp_path)
    with path.open("a") as file:
        file.write("NULL,i1,4,1\nu1,nan,4,1\n")
    items = tmp_path / "items.csv"
    price = dict.fromkeys(range(5), "NAN") | {5: "", 6: "Null"}
    rows = [f"i{k},{price.get(k, k)},x|NULL|\n" for k in range(50)]
    items.write_text("i,price,tags\n" + "".join(rows) + "i50,inf,x\n")
    report = prepare(
        csv_config(
            path,
            items_path=str(items),
            item_features={"price": "float", "tags": "token_list"},
            min_value_count=1,
        ),
        tmp_path / "store",
    )
    assert report.reasons == {"no user": 1, "no item": 1, "price is not a number": 1}
    store = Store(tmp_path / "store")
    fields = {f.name: f.num_rows for f in store.manifest.fields}
    assert fields["price"] > 10
    assert fields["tags"] == 2
    row = store.item_features(CHOICE).fields[
        [f.name for f in store.fields("item", CHOICE)].index("price")
    ]
    assert len(set(row.values[:7])) == 1
    is_known = row.offsets[[7, 50]]
    assert row.values[0] not in row.values[slice(*is_known)]
    assert row.values[-1] == row.values[0]  # infinite: not a number, so not known


def test_one_name_for_features_of_both_sides_is_refused(tmp_path):
    path = write_log(tmp_path)
    for name, key in (("users", "u"), ("items", "i")):
        (tmp_path / f"{name}.csv").write_text(
            f"{key},kind\n" + "".join(f"{key}{k},a\n" for k in range(60))
        )
    config = csv_config(
        path,
        users_path=str(tmp_path / "users.csv"),
        items_path=str(tmp_path / "items.csv"),
        user_features={"kind": "token"},
        item_features={"kind": "token"},
    )
    with pytest.raises(InputError, match="kind is a feature of users and of items; rename"):
        prepare(config, tmp_path / "store")


def test_a_category_without_values_is_refused(tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("i,genre\n" + "".join(f"i{k},\n" for k in range(50)))
    config = csv_config(
        write_log(tmp_path),
        items_path=str(items),
        item_features={"genre": "token_list"},
        category="genre",
    )
    with pytest.raises(InputError, match="no rated item has a value of it"):
        prepare(config, tmp_path / "store")


def test_rare_values_still_say_what_items_are_expected_to_get(tmp_path):
    path = write_log(tmp_path, num_items=100)
    number = pl.col("i").str.slice(1).cast(pl.Int64)
    kernel_input = (
        pl.when(number // 4 % 2 == 0).then(5).otherwise(1)
    )  # four items of a series are alike
    pl.read_csv(path).with_columns(r=kernel_input).write_csv(path)
    items = tmp_path / "items.csv"
    items.write_text("i,series\n" + "".join(f"i{k},s{k // 4}\n" for k in range(100)))

    def store(min_count: int) -> Store:
        config = csv_config(
            path,
            items_path=str(items),
            item_features={"series": "token"},
            min_value_count=min_count,
            cold_item_fraction=0.2,
        )
        prepare(config, tmp_path / f"store-{min_count}")
        return Store(tmp_path / f"store-{min_count}")

    every, frequent = store(1), store(10)
    assert {f.name: f.num_rows for f in frequent.manifest.fields}["series"] == 1
    expected = frequent.content_mean()
    unrated = frequent.item_statistics()[0] == 0
    assert np.array_equal(expected[unrated], every.content_mean()[unrated])
    assert len(np.unique(expected[~unrated])) == 1  # all are of one rare series
    even = np.array([int(i[1:]) // 4 % 2 == 0 for i in frequent.item_tokens()])
    assert unrated[even].any()
    assert unrated[~even].any()
    assert expected[unrated & even].mean() > 3.5 > 2.5 > expected[unrated & ~even].mean()


@pytest.mark.parametrize("num", [15, 40, 2000])
def test_bins_hold_enough_numbers_to_have_a_row(num):
    values = pl.Series(np.random.default_rng(num).lognormal(size=num))
    held = binned(values, bin_edges(values, min_count=10)).value_counts()
    assert held["count"].min() >= 10
    assert len(held) == min(32, max(1, num // 20))


def test_statistics_are_of_training_users_only(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    ratings: dict[str, list[float]] = {}
    for task in tasks_of(store, "train").values():
        for item, rating in task["support"] + task["query"]:
            ratings.setdefault(item, []).append(rating)
    count, total = store.item_statistics()
    for token, n, s in zip(store.item_tokens(), count, total, strict=True):
        assert (n, s) == (len(ratings.get(token, [])), sum(ratings.get(token, [])))
    flat = [r for rs in ratings.values() for r in rs]
    assert store.manifest.ratings.mean == pytest.approx(np.mean(flat))
    assert store.manifest.ratings.deviation == pytest.approx(np.std(flat))


def test_priors_are_the_ratio_of_the_variances_that_made_the_ratings():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(3000), rng.integers(1, 60, 3000))
    rating = 0.3 * rng.normal(size=3000)[owner] + 0.9 * rng.normal(size=len(owner)) + 3
    whole, chunks = VarianceComponents(), VarianceComponents()
    for found, cuts in ((whole, [0, 3000]), (chunks, [0, 10, 1700, 3000])):
        for first, last in itertools.pairwise(cuts):
            here = (owner >= first) & (owner < last)
            who, value = owner[here] - first, rating[here] - 3
            found.add(*(np.bincount(who, value**k) for k in range(3)))
    assert whole.prior == pytest.approx(9.0, rel=0.1)
    assert chunks.prior == pytest.approx(whole.prior, rel=1e-9)


@pytest.mark.parametrize(
    "count, total, squares, expected",
    [
        ([1, 1, 1], [1.0, 2.0, 3.0], [1.0, 4.0, 9.0], MOST_PRIOR),  # nobody rated twice
        ([5], [5.0], [9.0], MOST_PRIOR),  # one group
        ([2, 2], [4.0, 4.0], [10.0, 10.0], MOST_PRIOR),  # no difference between groups
        ([2, 2], [2.0, 8.0], [2.0, 32.0], LEAST_PRIOR),  # none within
        ([2, 0, 2], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], MOST_PRIOR),  # all the same
    ],
)
def test_priors_of_degenerate_ratings(count, total, squares, expected):
    found = VarianceComponents()
    found.add(np.array(count), np.array(total), np.array(squares))
    assert found.prior == expected


def test_synthetic_groups_are_the_true_ones_and_the_noise_floor_is_known(tmp_path):
    prepare(DataConfig(source="synthetic", users=600, items=200), tmp_path / "store")
    store = Store(tmp_path / "store")
    assert store.manifest.groups == ["group_0", "group_1", "group_2", "group_3"]
    assert 0.4 < store.manifest.notes["noise_floor_rmse"] < 0.75
    group = store.part("train", CHOICE).group
    shares = np.bincount(group, minlength=4) / len(group)
    np.testing.assert_allclose(shares, [0.70, 0.20, 0.07, 0.03], atol=0.06)
    assert sum(shares[store.manifest.minority]) <= 0.2
    assert 3 in store.manifest.minority


def test_damaged_store_is_refused(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    shard = next((tmp_path / "store" / "shards").glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    store = Store(tmp_path / "store")
    store.part("valid", CHOICE)
    with pytest.raises(InputError, match="does not match its checksum"):
        store.part("train", CHOICE)
    with pytest.raises(InputError, match="does not match its checksum"):
        store.check()
    shard.write_bytes(data[:100])
    with pytest.raises(InputError, match="does not match its checksum"):
        _ = store.train_sizes
    shard.unlink()
    with pytest.raises(InputError, match=r"is missing; delete .* and prepare"):
        Store(tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        Store(tmp_path / "store")


@pytest.mark.data
def test_ml_100k_split_is_taken_exactly(tmp_path, ml100k: Path):
    prepare(
        DataConfig(source="recbole", path=str(ml100k), split=str(ml100k / "split.tsv")),
        tmp_path / "store",
    )
    store = Store(tmp_path / "store")
    assert store.manifest.parts == {"train": 349, "valid": 49, "user_cold": 99}
    split = pl.read_csv(ml100k / "split.tsv", separator="\t", schema_overrides=[pl.String] * 4)
    log = pl.read_csv(ml100k / "ml-100k.inter", separator="\t", schema_overrides=[pl.String] * 4)
    rating = {(u, i): float(r) for u, i, r, _ in log.iter_rows()}
    for part, name in (("train", "train"), ("valid", "valid"), ("test", "user_cold")):
        expected = {
            (u, role, i, rating[u, i])
            for _, u, role, i in split.filter(pl.col("part") == part).iter_rows()
        }
        found = {
            (u, role, i, r)
            for u, task in tasks_of(store, name).items()
            for role, pairs in task.items()
            for i, r in pairs
        }
        assert found == expected


SPLIT = "part\tuser_id\trole\titem_id\n"


@pytest.mark.parametrize(
    "rows, message",
    [
        (["train\tu0\tsupport\ti0"], "names no query row of part train"),
        (["train\tu0\tquery\ti0"], "names no support row of part train"),
        (
            ["train\tu0\tsupport\ti0", "train\tu0\tquery\ti1", "test\tu0\tquery\ti0"],
            "line 4 puts user u0 in part test, who is a training user too",
        ),
        (
            ["train\tu0\tsupport\ti0", "train\tu0\tquery\ti1", "warm\tu0\tquery\ti0"],
            "line 4 asks for item i0 of user u0 in part warm, and part train has that interaction",
        ),
        (
            ["train\tu0\tsupport\ti0", "train\tu0\tquery\ti1", "both_cold\tu1\tquery\ti0"],
            "line 4 asks for item i0 of user u1 in part both_cold, and part train has that item",
        ),
    ],
)
def test_a_split_that_cannot_be_meant_is_refused(tmp_path, rows, message):
    path = tmp_path / "split.tsv"
    path.write_text(SPLIT + "\n".join(rows) + "\n")
    with pytest.raises(InputError, match=message):
        prepare(csv_config(write_log(tmp_path), split=str(path)), tmp_path / "store")


def test_a_store_that_lost_a_file_is_not_taken_as_ready(tmp_path):
    config = csv_config(write_log(tmp_path))
    prepare(config, tmp_path / "store")
    (tmp_path / "store" / "report.json").unlink()
    with pytest.raises(InputError, match=r"is missing; delete .* and prepare"):
        prepare(config, tmp_path / "store")


def test_time_order_needs_times(tmp_path):
    config = csv_config(write_log(tmp_path), query_by="time")
    config.columns = ColumnsConfig("u", "i", "r", None)
    with pytest.raises(InputError, match=r"needs times, .* set data.columns.timestamp"):
        prepare(config, tmp_path / "store")


def test_parquet_times_may_be_dates_and_a_folder_is_read_whole(tmp_path):
    log = pl.read_csv(write_log(tmp_path))
    (tmp_path / "log").mkdir()
    dated = log.with_columns(t=pl.from_epoch("t"), row=pl.lit(1))
    dated[:500].write_parquet(tmp_path / "log" / "a.parquet")
    dated[500:].write_parquet(tmp_path / "log" / "b.parquet")
    config = DataConfig(source="parquet", path=str(tmp_path / "log"), columns=COLUMNS)
    report = prepare(config, tmp_path / "store")
    assert (report.read, report.rejected) == (len(log), 0)
    by_csv = prepare(csv_config(tmp_path / "log.csv"), tmp_path / "other")
    assert report.tasks == by_csv.tasks


def items_with(rng, weight, *, spread: float, num_items: int = 400):
    """One token and one list feature, 0 to 40 ratings an item, mean by the token."""
    token = rng.integers(0, len(weight), num_items)
    offsets = offsets_of(rng.integers(0, 4, num_items))
    features = [
        ItemFeature(Ragged(token, np.arange(num_items + 1)), 3, None),
        ItemFeature(Ragged(rng.integers(0, 30, offsets[-1]), offsets), 30, None),
    ]
    count = rng.integers(0, 41, num_items)
    mean = 3 + weight[token] + spread * rng.normal(size=num_items)
    total = count * mean + np.sqrt(count) * rng.normal(size=num_items)
    return features, count, total, token


def test_expected_ratings_are_what_features_say():
    rng = np.random.default_rng(0)
    weight = np.array([-1.0, 0.0, 1.0])
    features, count, total, token = items_with(rng, weight, spread=0.1)
    found = content_means(features, count, total, prior=5.0, seed=0)
    for k in range(3):
        for chosen in (token == k) & (count > 0), (token == k) & (count == 0):
            assert found[chosen].mean() == pytest.approx(3 + weight[k], abs=0.15)


def test_expected_ratings_stay_near_the_mean_where_features_say_nothing():
    rng = np.random.default_rng(0)
    features, count, total, _ = items_with(rng, np.zeros(3), spread=1.0)
    mean = total.sum() / count.sum()
    found = content_means(features, count, total, prior=5.0, seed=0)
    assert np.sqrt(np.mean((found - mean) ** 2)) < 0.15  # items themselves spread by 1
    assert np.array_equal(
        content_means([], count, total, prior=5.0, seed=0), np.full(len(count), mean)
    )


def test_unrated_items_are_expected_to_be_like_those_people_rate():
    rng = np.random.default_rng(0)
    features, count, _, token = items_with(rng, np.array([-0.5, 0.0, 0.5]), spread=0.0)
    popular = 3 + np.array([-0.5, 0.0, 0.5])[token] + count / 40
    found = content_means(features, count, count * popular, prior=5.0, seed=0)
    by_rating = np.average(popular, weights=count)
    assert found[count == 0].mean() == pytest.approx(by_rating, abs=0.12)
    assert found[count > 0].mean() < found[count == 0].mean() - 0.05


def test_unrated_items_follow_a_number_where_a_line_does_not():
    rng = np.random.default_rng(0)
    features, count, _, _ = items_with(rng, np.zeros(3), spread=0.0)
    year = rng.integers(1930, 2000, len(count)).astype(np.float64)
    year[:5] = np.nan
    count[:5] = 0
    good = np.where((year > 1945) & (year < 1975), 4.0, 3.0)
    codes = Ragged(np.nan_to_num(year, nan=1900).astype(np.int64) - 1900, np.arange(len(year) + 1))
    total = count * good + np.sqrt(count) * rng.normal(size=len(count))

    def error(number):
        given = [*features, ItemFeature(codes, 70, number)]
        found = content_means(given, count, total, prior=5.0, seed=0)
        assert np.isfinite(found).all()
        unrated = (count == 0) & np.isfinite(year)
        return np.sqrt(np.mean((found - good)[unrated] ** 2)), found[count > 0]

    (as_number, of_rated), (as_token, same) = error(year), error(None)
    assert as_number < 0.15 < as_token
    assert np.array_equal(of_rated, same)  # what is known of rated items is left to the regression


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
