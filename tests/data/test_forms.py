"""Files in the forms that tools write: types, folders, headers, lists, times, packed files."""

import gzip
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from logs import open_files, rows

from greatmeta_dist.config import ColumnsConfig
from greatmeta_dist.data.sources.parquet import list_of_view
from greatmeta_dist.errors import InputError

LOG = ("user", "item", "rating", "timestamp")
UIRT = ColumnsConfig("u", "i", "r", "t")


# --- Parquet ------------------------------------------------------------------------------------


def write(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_keys_of_folders_are_columns_and_text_as_spelt(tmp_path, opened):
    folder = tmp_path / "log"
    write(folder / "u=0001" / "country=a%2Fb" / "p.parquet", i=[1, 2], r=[3.0, 4.0])
    write(folder / "u=12" / "country=c" / "p.parquet", i=[3], r=[5.0])
    write(folder / "u=__HIVE_DEFAULT_PARTITION__" / "country=c" / "p.parquet", i=[4], r=[5.0])
    write(folder / "_spark" / "p.parquet", x=[1])
    (folder / "_SUCCESS").touch()
    source = opened("parquet", folder, columns=ColumnsConfig("u", "country", "r", None))
    assert sorted(rows(source.interactions, "user", "item", "rating"), key=str) == [
        ("0001", "a/b", 3.0), ("0001", "a/b", 4.0), ("12", "c", 5.0), (None, "c", 5.0),
    ]  # fmt: skip


def test_parts_may_differ_in_order_and_in_columns_nobody_mapped(tmp_path, opened):
    folder = tmp_path / "log"
    write(folder / "a.parquet", u=[1], i=[10], r=[1.0], x=["a"])
    write(folder / "b.parquet", y=[1], r=pa.array([2], pa.int8()), i=[20], u=[2])
    write(folder / "c.parquet", x=[5], u=[3], i=[30], r=[3.0])
    source = opened("parquet", folder, columns=ColumnsConfig("u", "i", "r", None))
    assert rows(source.interactions, "user", "item", "rating", "file", "line") == [
        (1, 10, 1.0, "a.parquet", 1), (2, 20, 2.0, "b.parquet", 1), (3, 30, 3.0, "c.parquet", 1),
    ]  # fmt: skip


def test_a_part_without_a_mapped_column_is_named(tmp_path, opened):
    write(tmp_path / "log" / "a.parquet", u=[1], i=[10], r=[1.0])
    write(tmp_path / "log" / "b.parquet", u=[1], i=[10])
    with pytest.raises(InputError, match=r"b\.parquet has no column r; it has u, i"):
        opened("parquet", tmp_path / "log", columns=ColumnsConfig("u", "i", "r", None))


@pytest.mark.parametrize(
    "user, read",
    [
        (pa.array([1.0, None, 7.0]), [1, 7]),
        (pa.array([Decimal("1.00"), None, Decimal("7.00")]), ["1", "7"]),
        (pa.array([1, None, 7], pa.uint64()), ["1", "7"]),
        (pa.array([1, None, 7], pa.int8()), [1, 7]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([1, None, 7]).dictionary_encode(), [1, 7]),
        (pa.array([b"a", None, b"b"]), ["a", "b"]),
        (pa.array(["a", None, "b"], pa.string_view()), ["a", "b"]),
        (pa.array(["a", "None", "b"]), ["a", "b"]),
    ],
)
def test_ids_of_any_type(tmp_path, checked, user, read):
    path = write(tmp_path / "log.parquet", user=user, item=[1, 2, 3], rating=[1, 2, 3])
    good, bad = checked("parquet", path)
    assert [row[0] for row in good] == read
    assert [reason for *_, reason in bad] == ["no user"]


@pytest.mark.parametrize(
    "rating",
    [
        pa.array([True, False]),
        pa.array([1, 0], pa.uint8()),
        pa.array([Decimal("1.0"), Decimal("0.0")]),
        pa.array(["yes", "no"]),
        pa.array(["TRUE", "F"]).dictionary_encode(),
        pa.array([1.0, 0.0], pa.float32()),
    ],
)
def test_ratings_of_any_type(tmp_path, checked, rating):
    path = write(tmp_path / "log.parquet", user=[1, 2], item=[1, 2], rating=rating)
    good, bad = checked("parquet", path)
    assert [row[2] for row in sorted(good)] == [1.0, 0.0]
    assert not bad


def test_parts_with_whole_floats_integers_and_text_are_the_same_ids(tmp_path, opened):
    folder = tmp_path / "log"
    write(folder / "a.parquet", user=[7], item=["x"], rating=[1])
    write(folder / "b.parquet", user=[7.0], item=["x"], rating=[True])
    write(folder / "c.parquet", user=["7"], item=["x"], rating=[1.0])
    write(folder / "d.parquet", user=pa.nulls(1), item=["x"], rating=[1.0])
    source = opened("parquet", folder)
    read = source.interactions.select("user", "rating").collect()
    assert read.rows() == [("7", 1.0), ("7", 1.0), ("7", 1.0), (None, 1.0)]


LISTS = [["x", "y"], None, ["z", "x"]]


@pytest.mark.parametrize(
    "tags",
    [
        pa.array(LISTS, pa.list_view(pa.string())),
        pa.array(LISTS, pa.large_list_view(pa.string())),
        pa.array(LISTS),
        pa.array(LISTS, pa.list_(pa.string(), 2)),
        pa.array(["x|y", None, "z|x"]),
        pa.array(["['x', 'y']", None, "['z', 'x']"]),
    ],
)
def test_lists_of_any_type(tmp_path, opened, tags):
    log = write(tmp_path / "log.parquet", user=[1], item=[1], rating=[1])
    items = write(tmp_path / "items.parquet", item=[1, 2, 3], tags=tags, other=tags)
    source = opened("parquet", log, items_path=str(items), item_features={"tags": "token_list"})
    assert source.items is not None
    read = rows(source.items.frame, "id", "tags")
    assert read == [("1", ["x", "y"]), ("2", []), ("3", ["z", "x"])]


@pytest.mark.parametrize("view", [pa.list_view(pa.string()), pa.large_list_view(pa.string())])
def test_a_list_view_keeps_its_last_list_and_may_be_a_slice(view):
    lists = [["a", "b"], None, [], ["c"], ["d", "e"]]
    array = pa.array(lists, view)
    for first, last in ((0, 5), (1, 4), (3, 5), (2, 2)):
        plain = list_of_view(array.slice(first, last - first))
        plain.validate(full=True)
        assert plain.to_pylist() == lists[first:last]


def test_a_bar_inside_a_list_s_value_splits_nothing(tmp_path, opened):
    log = write(tmp_path / "log.parquet", user=[1], item=[1], rating=[1])
    items = write(tmp_path / "items.parquet", item=[1], tags=[["a|b", "c"]])
    source = opened("parquet", log, items_path=str(items), item_features={"tags": "token_list"})
    assert source.items is not None
    assert rows(source.items.frame, "tags") == [(["a|b", "c"],)]


def test_columns_of_no_plain_type_are_named_or_ignored(tmp_path, opened):
    path = write(tmp_path / "log.parquet", user=[[1]], item=[{"a": 1}], rating=[1], uid=[1], id=[1])
    with pytest.raises(InputError, match=r"log\.parquet: column item is of type Struct"):
        opened("parquet", path, columns=ColumnsConfig("uid", "item", "rating", None))


def test_a_name_twice_in_parquet_is_ignored_unless_it_is_mapped(tmp_path, opened):
    arrays = [pa.array([1]), pa.array([2]), pa.array([3.0]), pa.array([4]), pa.array([5])]
    table = pa.Table.from_arrays(arrays, names=["user", "item", "rating", "x", "x"])
    pq.write_table(table, tmp_path / "log.parquet")
    source = opened("parquet", tmp_path / "log.parquet")
    assert rows(source.interactions, "user", "item", "rating") == [(1, 2, 3.0)]


# --- times --------------------------------------------------------------------------------------

BERLIN = timezone(timedelta(hours=2))
NOON = 1_556_712_000.0
"""2019-05-01 12:00 UTC."""


@pytest.mark.parametrize(
    "time, seconds",
    [
        (pa.array([datetime(2019, 5, 1, 12)]), NOON),
        (pa.array([datetime(2019, 5, 1, 12)], pa.timestamp("ns")), NOON),
        (pa.array([datetime(2019, 5, 1, 14, tzinfo=BERLIN)], pa.timestamp("ms", "UTC")), NOON),
        (pa.array([date(2019, 5, 1)]), NOON - 43_200),
        (pa.array([1_556_712_000_000]), NOON),
        (pa.array([1_556_712_000_000_000_000]), NOON),
        (pa.array(["2019-05-01 12:00:00"]), NOON),
        (pa.array(["2019-05-01T14:00:00.000+02:00"]), NOON),
        (pa.array(["2019/05/01 12:00"]), NOON),
        (pa.array(["1556712000"]), NOON),
        (pa.array(["None"]), None),
    ],
)
def test_times_of_any_form(tmp_path, checked, time, seconds):
    path = write(tmp_path / "log.parquet", user=[1], item=[1], rating=[1], ts=time)
    assert checked("parquet", path) == ([(1, 1, 1.0, seconds)], [])


@pytest.mark.parametrize("filler", ["0001-01-01", "0001-01-01T00:00:00Z", "soon", "2019-13-45"])
def test_fillers_and_words_are_no_times(tmp_path, checked, filler):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,rating,ts\n1,1,1,2019-05-01\n2,2,2,{filler}\n")
    good, bad = checked("csv", path)
    assert good == [("1", "1", 1.0, NOON - 43_200)]
    assert [(file, line, column, value) for file, line, column, value, _ in bad] == [
        ("log.csv", 3, "timestamp", filler)
    ]


# --- text ---------------------------------------------------------------------------------------


def test_spellings_of_a_missing_value_are_an_option(tmp_path, checked):
    (tmp_path / "log.csv").write_text("user,item,rating\nNA,a,1\nb,none,1\n-,a,1\nc,a,1\n")
    good, bad = checked("csv", tmp_path / "log.csv", missing_values=["-"])
    assert sorted(row[0] for row in good) == ["NA", "b", "c"]
    assert [(line, reason) for _, line, _, _, reason in bad] == [(4, "no user")]


def test_a_file_without_header_has_columns_by_number(tmp_path, opened):
    (tmp_path / "ratings.txt").write_text("1 20 2.5\n2 30 4\n")
    source = opened(
        "csv",
        tmp_path / "ratings.txt",
        separator=" ",
        has_header=False,
        columns=ColumnsConfig("1", "2", "3", None),
    )
    assert rows(source.interactions, "user", "item", "rating", "line") == [
        ("1", "20", "2.5", 1), ("2", "30", "4", 2),
    ]  # fmt: skip


def test_a_first_line_of_numbers_is_said_to_be_a_row(tmp_path, opened):
    (tmp_path / "log.csv").write_text("1,20,2.5\n2,30,4\n")
    with pytest.raises(InputError, match=r"set data.has_header=false and name columns by number"):
        opened("csv", tmp_path / "log.csv")


@pytest.mark.parametrize(
    "text, values",
    [
        ("\"['drama', 'noir']\"", ["drama", "noir"]),
        ('"[\'sci, fi\', ""it\'s""]"', ["sci, fi", "it's"]),
        ("['drama' 'noir']", ["drama", "noir"]),
        ('"[drama, noir]"', ["drama", "noir"]),
        ("[]", []),
        ("[REC]|noir", ["[REC]", "noir"]),
    ],
)
def test_lists_in_brackets_are_read(tmp_path, opened, text, values):
    (tmp_path / "log.csv").write_text("user,item,rating\n1,1,1\n")
    (tmp_path / "items.csv").write_text(f"item,genre\n1,{text}\n")
    source = opened(
        "csv",
        tmp_path / "log.csv",
        items_path=str(tmp_path / "items.csv"),
        item_features={"genre": "token_list"},
    )
    assert source.items is not None
    assert rows(source.items.frame, "genre") == [(values,)]


def test_a_list_in_brackets_that_does_not_end_is_a_fault(tmp_path, opened):
    (tmp_path / "log.csv").write_text("user,item,rating\n1,1,1\n")
    (tmp_path / "items.csv").write_text("item,genre\n1,\"['drama', 'no\"\n")
    source = opened(
        "csv",
        tmp_path / "log.csv",
        items_path=str(tmp_path / "items.csv"),
        item_features={"genre": "token_list"},
    )
    assert source.items is not None
    assert source.items.frame.collect()["reason"].to_list() == ["genre is no list in brackets"]


def test_ids_that_a_tool_wrote_as_floats_are_integers(tmp_path, opened):
    (tmp_path / "log.csv").write_text("user,item,rating\nu1,7.0,1\nu2,,1\n")
    (tmp_path / "items.csv").write_text("item,genre\n7,x\n")
    source = opened(
        "csv",
        tmp_path / "log.csv",
        items_path=str(tmp_path / "items.csv"),
        item_features={"genre": "token"},
    )
    assert rows(source.interactions, "item") == [("7",), ("",)]


def test_versions_are_no_floats(tmp_path, opened):
    (tmp_path / "log.csv").write_text("user,item,rating\nu1,7.0,1\nu2,7,1\nu2,7.1,1\n")
    source = opened("csv", tmp_path / "log.csv")
    assert rows(source.interactions, "item") == [("7.0",), ("7",), ("7.1",)]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_packed_parts_of_a_folder_with_other_orders_of_columns(tmp_path, opened, ending):
    folder = tmp_path / "log"
    (folder / "day=01").mkdir(parents=True)
    (folder / "day=02").mkdir()
    (folder / "day=01" / "a.csv").write_text("user,item,rating\n1,2,3\n")
    content = b"x,rating,item,user\n0,6,5,4\n"
    packed = (
        gzip.compress(content) if ending == "gz" else pa.compress(content, "zstd", asbytes=True)
    )
    (folder / "day=02" / f"b.csv.{ending}").write_bytes(packed)
    columns = ColumnsConfig("user", "item", "rating", "day")
    source = opened("csv", folder, columns=columns)
    assert rows(source.interactions, *LOG) == [("1", "2", "3", "01"), ("4", "5", "6", "02")]


def test_json_lines_account_for_every_line(tmp_path, checked):
    (tmp_path / "log.jsonl").write_bytes(
        b'{"user_id": 7, "asin": "A", "stars": 5, "ts": 1500000000000, "nested": {"a": [1]}}\n'
        b'{"asin": "B", "user_id": "8", "stars": 4.5}\n'
        b"\n"
        b'{"user_id": 9, \n'
        b"[1]\n"
        b'{"user_id": "\xff"}\n'
        b'{"user_id": null, "asin": "C", "stars": true}'
    )
    good, bad = checked("jsonl", tmp_path / "log.jsonl")
    assert sorted(good) == [("7", "A", 5.0, 1.5e9), ("8", "B", 4.5, None)]
    assert [(line, reason) for _, line, _, _, reason in bad] == [
        (3, "blank line"),
        (4, "not valid JSON"),
        (5, "not a JSON object"),
        (6, "not valid utf-8"),
        (7, "no user"),
    ]


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, found",
    [
        ("userId,movieId,rating,timestamp", ("userId", "movieId", "rating", "timestamp")),
        ("User-ID,ISBN,Book-Rating", ("User-ID", "ISBN", "Book-Rating", None)),
        ("rating,title,asin,parent_asin,user_id,timestamp",
         ("user_id", "parent_asin", "rating", "timestamp")),
        ("uid,iid,stars,ts", ("uid", "iid", "stars", "ts")),
        ("user,item,movie,rating,date", ("user", "item", "rating", "date")),
        ("reviewerID,asin,overall,unixReviewTime",
         ("reviewerID", "asin", "overall", "unixReviewTime")),
    ],
)  # fmt: skip
def test_usual_names_are_found(tmp_path, opened, header, found):
    num = header.count(",") + 1
    (tmp_path / "log.csv").write_text(f"{header}\n{','.join('1' * num)}\n")
    assert opened("csv", tmp_path / "log.csv").columns == ColumnsConfig(*found)


@pytest.mark.parametrize(
    "header, message",
    [
        ("who,item,rating", r"the user; .*'\{user: COLUMN, item: item, rating: rating\}'"),
        ("user,movie,song,rating", r"is the item; it has user, movie, song, rating"),
        ("user,item,x y", r"is the rating; "),
        ("a,b,c", r"the user and the item and the rating"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_one_line_with_what_to_type(tmp_path, opened, header, message):
    (tmp_path / "log.csv").write_text(f"{header}\n1,2,3,4\n")
    with pytest.raises(InputError, match=message):
        opened("csv", tmp_path / "log.csv")


def test_a_log_of_clicks_needs_no_rating_column(tmp_path, opened):
    (tmp_path / "log.csv").write_text("user,item\n1,2\n")
    assert opened("csv", tmp_path / "log.csv", label="click").columns == ColumnsConfig(
        "user", "item", None, None
    )


def test_a_name_twice_cannot_be_mapped(tmp_path, opened):
    (tmp_path / "log.csv").write_text("user,item,rating,rating\n1,2,3,4\n")
    with pytest.raises(InputError, match=r"has no column rating; it has .*rating \(column 3\)"):
        opened("csv", tmp_path / "log.csv", columns=ColumnsConfig("user", "item", "rating"))


def test_an_atomic_header_that_names_a_feature_twice_is_one_line(tmp_path):
    files = {
        "x.inter": b"user_id:token\titem_id:token\trating:float\n1\t2\t3\n",
        "x.item": b"item_id:token\tage:float\tage:token\n2\t3\t4\n",
    }
    with pytest.raises(InputError, match=r"x\.item names column 'age' 2 times; name each once"):
        open_files(tmp_path, "recbole", files)


# --- options that are not read ------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("recbole", {"columns": ColumnsConfig("u")}, "data.columns is set, and data=recbole"),
        ("recbole", {"separator": ";"}, "data.separator is set, and data=recbole"),
        ("parquet", {"has_header": False}, "data.has_header is set, and data=parquet"),
        ("csv", {"items_path": "x"}, "data.item_features names no column of it"),
        ("csv", {"users": 5}, "data.users is set, and data=csv does not read it; data=synthetic"),
    ],
)
def test_options_that_a_source_does_not_read_are_refused(
    tmp_path, opened, source, options, message
):
    with pytest.raises(InputError, match=message):
        opened(source, tmp_path, **options)
