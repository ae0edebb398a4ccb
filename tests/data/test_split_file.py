"""A given split is taken exactly, or refused at its line."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log
from stores import tasks_of

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import hash_tokens
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.split import SPLITS, Catalogue, History
from greatmeta_dist.data.split_file import split_as_given
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

SPLIT = "part\tuser_id\trole\titem_id\n"


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
    found = {p: tasks_of(store, p) for p in store.manifest.splits}
    assert found == {
        "train": {"a": {"support": [("x", 1)], "query": [("y", 2)]}},
        "warm": {"a": {"support": [("x", 1)], "query": [("z", 3)]}},
        "user_cold": {"b": {"support": [("x", 4)], "query": [("y", 5)]}},
        "both_cold": {"c": {"support": [("x", 2)], "query": [("w", 3)]}},
    }
    assert report.not_in_split == 1
    assert store.manifest.ratings.mean == pytest.approx(1.5)


@pytest.mark.data
def test_ml_100k_split_is_taken_exactly(tmp_path, ml100k: Path):
    prepare(
        DataConfig(source="recbole", path=str(ml100k), split=str(ml100k / "split.tsv")),
        tmp_path / "store",
    )
    store = Store(tmp_path / "store")
    assert store.manifest.splits == {"train": 349, "valid": 49, "user_cold": 99}
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


def test_a_given_split_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    users, items = (pl.Series([f"{letter}{k}" for k in range(30)]) for letter in "ui")
    pairs = [(u, i) for u in range(30) for i in rng.choice(30, 12, replace=False)]
    user, item = np.array(pairs).T
    rating = rng.normal(size=len(pairs))
    num_rows = np.bincount(user, minlength=len(users))
    history = History(
        users, hash_tokens(users), user, item.astype(np.int32), rating, None, num_rows
    )
    catalogue = Catalogue(items, hash_tokens(items), np.zeros(30, bool))
    lines = []
    for line, k in enumerate(rng.permutation(len(pairs))[:200], 2):
        split = SPLITS[rng.integers(len(SPLITS))]
        role = ("support", "query")[rng.integers(2)]
        lines.append((split, users[int(user[k])], role, items[int(item[k])], line))
    lines.append(("train", "u0", "query", "nowhere", 202))
    lines.append(("train", "nobody", "query", "i0", 203))
    given = pl.DataFrame(lines, ["split", "user", "role", "item", "line"], orient="row")
    tasks, used = split_as_given(history, catalogue, given)
    assert sorted(used) == [*range(2, 202)]
    assert tasks.left_out.num_rows + tasks.left_out.num_unused == len(pairs) - 200
    rating_of = {
        (users[u], items[i]): r for (u, i), r in zip(np.array(pairs).tolist(), rating, strict=True)
    }
    for split in SPLITS:
        rows = tasks.splits[split]
        found = [
            (users[u], items[i], r, "query" if is_query else "support")
            for u, i, r, is_query in zip(
                rows.user.tolist(), rows.item.tolist(), rows.rating, rows.is_query, strict=True
            )
        ]
        # User by user, and each one's rows as the file has them.
        expected = [
            (user, item, rating_of[user, item], role)
            for user in users
            for named, owner, role, item, _ in lines[:200]
            if (named, owner) == (split, user)
        ]
        assert found == expected
