"""Encoded tasks and items are the rows that went in."""

import numpy as np
import polars as pl
from numpy.testing import assert_array_equal

from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.encode import encode_items, encode_tasks, with_user_features
from greatmeta_dist.data.hashing import hash_tokens
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.split import History, SplitRows
from greatmeta_dist.data.vocabulary import Vocabulary

USERS = pl.Series(["c", "a", "b"])
ITEMS = pl.DataFrame(
    {"id": ["x", "y", "z"], "year": ["1990", None, "odd"], "tags": [["p", "q"], [], None]}
)


def history() -> History:
    user = np.array([0, 0, 0, 2, 2])
    item = np.array([2, 0, 1, 1, 0], np.int32)
    rating = np.array([1.0, 2, 3, 4, 0.1])
    return History(USERS, hash_tokens(USERS), user, item, rating, None, np.bincount(user))


def vocabulary(name: str, side: str, values: list[str], *, is_list: bool) -> Vocabulary:
    """Values with rows from 10 on; the unknown row is 99."""
    rows = np.array([*range(10, 10 + len(values)), 99], np.int32)
    field = Field(name, side, is_list, len(rows), 99)
    return Vocabulary(field, pl.Series(values), np.ones(len(values), np.int64), rows)


def test_tasks_are_lists_of_items_and_ratings_by_role():
    is_query = np.array([True, False, False, False, True])
    batch = encode_tasks(history(), SplitRows.of(history(), np.arange(5), is_query))
    assert batch.to_pydict() == {
        "user": ["c", "b"],
        "support_item": [[0, 1], [1]],
        "support_rating": [[2.0, 3.0], [4.0]],
        "query_item": [[2], [0]],
        "query_rating": [[1.0], [float(np.float32(0.1))]],
    }
    assert str(batch.schema.field("support_item").type.value_type) == "int32"
    assert str(batch.schema.field("support_rating").type.value_type) == "float"


def test_a_task_may_lack_a_role():
    rows = SplitRows.of(history(), np.array([0, 3]), np.array([True, True]))
    batch = encode_tasks(history(), rows)
    assert batch.column("support_item").to_pylist() == [[], []]
    assert batch.column("query_item").to_pylist() == [[2], [1]]


def test_users_features_are_looked_up_and_unknown_where_there_are_none():
    rows = SplitRows.of(history(), np.arange(5), np.zeros(5, bool))
    users = pl.DataFrame(
        {"id": ["a", "c"], "job": ["cook", "clerk"], "langs": [["fr"], ["fr", "no"]]}
    )
    vocabularies = [
        vocabulary("job", "user", ["clerk", "cook"], is_list=False),
        vocabulary("year", "item", ["1990"], is_list=False),
        vocabulary("langs", "user", ["fr", "no"], is_list=True),
    ]
    batch = with_user_features(encode_tasks(history(), rows), users, vocabularies, None)
    assert batch.column("user").to_pylist() == ["c", "b"]
    assert batch.column("feature:job").to_pylist() == [[10], [99]]
    assert batch.column("feature:langs").to_pylist() == [[10, 11], [99]]
    assert {n for n in batch.schema.names if n.startswith("feature:")} == {
        "feature:job",
        "feature:langs",
    }
    plain = encode_tasks(history(), rows)
    assert with_user_features(plain, None, vocabularies, None).equals(plain)


def test_known_groups_follow_their_users():
    rows = SplitRows.of(history(), np.array([0, 3]), np.zeros(2, bool))
    users = pl.DataFrame({"id": ["a", "b", "c"]})
    group = pl.Series([5, 6, 7], dtype=pl.Int32)
    batch = with_user_features(encode_tasks(history(), rows), users, [], group)
    assert batch.column("known_group").to_pylist() == [7, 6]


def test_items_hold_codes_numbers_and_counts():
    counts = TrainingCounts.zeros(3)
    h = history()
    counts.add(h, SplitRows.of(h, np.arange(5), np.zeros(5, bool)))
    vocabularies = [
        vocabulary("year", "item", ["1980", "1990"], is_list=False),
        vocabulary("tags", "item", ["q", "p"], is_list=True),
        vocabulary("job", "user", ["cook"], is_list=False),
    ]
    batch = encode_items(ITEMS, vocabularies, counts)
    assert batch.column("item").to_pylist() == ["x", "y", "z"]
    assert batch.column("train_count").to_pylist() == [2, 2, 1]
    assert_array_equal(batch.column("train_sum"), [2.1, 7.0, 1.0])
    assert_array_equal(batch.column("train_squares"), [2.0**2 + 0.1**2, 25.0, 1.0])
    assert batch.column("code:year").to_pylist() == [[1], [2], [2]]
    assert batch.column("code:tags").to_pylist() == [[1, 0], [2], [2]]
    assert_array_equal(batch.column("number:year"), [1990, np.nan, np.nan])
    assert "number:tags" not in batch.schema.names
    assert "code:job" not in batch.schema.names
