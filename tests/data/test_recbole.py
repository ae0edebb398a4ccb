"""Atomic files as people have them: parts, folders, other names, vectors."""

import gzip

import pytest
from logs import open_files, rows

from greatmeta_dist.config import ColumnsConfig
from greatmeta_dist.errors import InputError

LOG = ("user", "item", "rating", "timestamp")
HEADER = b"user_id:token\titem_id:token\trating:float\n"
ONE = {"x.inter": HEADER + b"1\t2\t3\n"}


@pytest.mark.parametrize(
    "names",
    [
        ("x.part0.inter", "x.part1.inter"),
        ("x.part1.inter", "x.part2.inter.gz"),
        ("x.train.inter", "x.valid.inter"),
        ("x.0.inter", "x.1.inter"),
        ("part-00000.inter", "part-00001-c000.inter"),
        ("a/x.inter", "b/x.inter"),
        ("x-part-0.inter", "x-part-1.inter"),
    ],
)
def test_parts_are_one_log(tmp_path, names):
    parts = [HEADER + b"1\t2\t3\n", b"rating:float\tuser_id:token\titem_id:token\n6\t4\t5\n"]
    files = {
        name: gzip.compress(part) if name.endswith(".gz") else part
        for name, part in zip(names, parts, strict=True)
    }
    source = open_files(tmp_path, "recbole", files)
    assert rows(source.interactions, "user", "item", "rating", "line") == [
        ("1", "2", "3", 2), ("4", "5", "6", 2),
    ]  # fmt: skip
    assert len(source.files) == 2


def test_items_may_be_in_parts_too(tmp_path):
    part = b"item_id:token\tgenre:token_seq\n"
    items = {"x.part0.item": part + b"2\ta b\n", "x.part1.item": part + b"3\tc\n"}
    source = open_files(tmp_path, "recbole", ONE | items)
    assert source.items is not None
    assert rows(source.items.frame, "id", "genre") == [("2", ["a", "b"]), ("3", ["c"])]


@pytest.mark.parametrize(
    "names, message",
    [
        (("ml-1m.inter", "ml-100k.inter"), r"holds 2 \.inter files \(ml-100k.inter, ml-1m.inter\)"),
        (("x.inter", "x.part1.inter"), r"a whole log and parts of it \(x.inter, x.part1.inter\)"),
        (("x.item",), r"holds 0 \.inter files; data=recbole expects exactly one, or its parts"),
    ],
)
def test_several_logs_are_refused(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        open_files(tmp_path, "recbole", dict.fromkeys(names, HEADER + b"1\t2\t3\n"))


def test_one_of_several_logs_can_be_named(tmp_path):
    files = {"x.inter": HEADER + b"1\t2\t3\n", "x.part1.inter": HEADER + b"7\t8\t9\n"}
    files["x.item"] = b"item_id:token\tgenre:token_seq\n2\ta b\n"
    source = open_files(tmp_path, "recbole", files, path="{folder}/x.inter")
    assert rows(source.interactions, "user") == [("1",)]
    assert source.items is not None


def test_a_part_that_lacks_a_column_is_named(tmp_path):
    files = {"x.part0.inter": HEADER + b"1\t2\t3\n", "x.part1.inter": b"user_id:token\n1\n"}
    message = r"x\.part1\.inter has no column item_id, rating, which x\.part0\.inter has"
    with pytest.raises(InputError, match=message):
        open_files(tmp_path, "recbole", files)


@pytest.mark.parametrize(
    "header, found",
    [
        ("user:token item:token rating:float", ("user", "item", "rating", None)),
        ("uid:token iid:token score:float ts:float", ("uid", "iid", "score", "ts")),
        ("user_id:token product_id:token rating:float timestamp:token",
         ("user_id", "product_id", "rating", "timestamp")),
        ("user_id:token thing:token rating:float", ("user_id", "thing", "rating", None)),
        ("who:token what:token stars:float time:float", ("who", "what", "stars", "time")),
        ("timestamp:float rating:float item_id:token user_id:token",
         ("user_id", "item_id", "rating", "timestamp")),
        ("userId:token movieId:token rating:token", ("userId", "movieId", "rating", None)),
    ],
)  # fmt: skip
def test_columns_are_found_by_type_and_usual_names(tmp_path, header, found):
    columns = header.split(" ")
    files = {"x.inter": "\t".join(columns).encode() + b"\n" + b"\t".join([b"1"] * len(columns))}
    source = open_files(tmp_path, "recbole", files)
    assert source.columns == ColumnsConfig(*found)


@pytest.mark.parametrize(
    "header, message",
    [
        ("a:token b:token c:token rating:float", r"no column (item|user)_id, nor one of a like"),
        ("user_id:token item_id:token price:float", r"no column rating, .* call the column rating"),
        ("user_id:token user:float rating:float", r"no column item_id"),
    ],
)
def test_what_is_not_clear_says_what_to_call_it(tmp_path, header, message):
    columns = header.split(" ")
    files = {"x.inter": "\t".join(columns).encode() + b"\n" + b"\t".join([b"1"] * len(columns))}
    with pytest.raises(InputError, match=message):
        open_files(tmp_path, "recbole", files)


def test_the_id_of_users_and_items_may_be_called_otherwise_than_in_the_log(tmp_path):
    files = ONE | {
        "x.item": b"product_id:token\tprice:float\n2\t9.5\n",
        "x.user": b"uid:token\tage:token\n1\t30\n",
    }
    source = open_files(tmp_path, "recbole", files)
    assert source.items is not None
    assert source.users is not None
    assert rows(source.items.frame, "id", "price") == [("2", "9.5")]
    assert rows(source.users.frame, "id", "age") == [("1", "30")]


def test_every_number_of_a_vector_is_a_feature_and_what_is_too_long_is_said(tmp_path):
    long = " ".join(str(k) for k in range(20))
    items = f"item_id:token\tv:float_seq\tw:float_seq\n2\t1.5 -2\t{long}\n3\t[3, 4, 5]\t\n"
    source = open_files(tmp_path, "recbole", ONE | {"x.item": items.encode()})
    assert source.items is not None
    names = [*(f"v_{k}" for k in (1, 2, 3)), *(f"w_{k}" for k in range(1, 17))]
    assert source.items.features == dict.fromkeys(names, "float")
    assert rows(source.items.frame, *names[:4]) == [
        ("1.5", "-2", None, "0"), ("3", "4", "5", None),
    ]  # fmt: skip
    assert source.not_used == {"x.item": ["w:float_seq, after its first 16 numbers"]}


def test_events_of_atomic_files_weigh(tmp_path):
    files = {"x.inter": b"user_id:token\titem_id:token\tbehavior_type:token\n1\t2\tpv\n1\t3\tbuy\n"}
    source = open_files(tmp_path, "recbole", files, events={"buy": 1.0})
    assert rows(source.interactions, "user", "item", "event") == [
        ("1", "2", "pv"),
        ("1", "3", "buy"),
    ]
