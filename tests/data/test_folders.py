"""Folders of files as tools leave them."""

import gzip
import io
import os
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fuzz.compare import labels_of
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

HEADER = b"user,item,rating\n"
A, B = HEADER + b"1,2,3\n", HEADER + b"4,5,6\n"
BOTH = [("1", "2", 3.0), ("4", "5", 6.0)]
DAY = 1_577_836_800.0


def parquet(**columns) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / "log" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "log" / name).write_bytes(content)
    return folder / "log"


@pytest.mark.parametrize(
    "files",
    [
        {"a.csv": A, "b.csv.gz": gzip.compress(B), "_SUCCESS": b"", ".a.csv.crc": b"x"},
        {"a.CSV": A, "b.CSV.GZ": gzip.compress(B)},
        {"a.csv": A, "b.csv": b"Rating,USER,Item\n6,4,5\n"},
        {"a.csv": A, "b.csv": b"", "c.csv": HEADER, "d.csv": B},
        {"0.csv": b"", "a.csv": A, "b.csv": B},
        {"a.tsv": A.replace(b",", b"\t"), "b.csv": B},
        {"x=1/y=2/a.csv": A, "x=1/y=3/b.csv": B, "_temporary/0/a.csv": A, "readme.md": b"hi"},
        {"a.csv": b"user,item,rating\n1.0,2,3\n", "b.csv": B},
        {"a b#[1]*.csv": A, "é.csv": B},
        {"x.csv/part-0.csv": A, "x.csv/part-1.csv": B},
    ],
)
def test_all_parts_are_read(tmp_path, checked, files):
    good, bad = checked("csv", write(tmp_path, files))
    assert sorted(row[:3] for row in good) == BOTH
    assert not bad


def test_parts_of_parquet_with_names_in_other_cases(tmp_path, checked):
    files = {
        "a.parquet": parquet(user=[1], item=[2], rating=[3]),
        "b.parquet": parquet(Rating=[6], USER=[4.0], Item=[5]),
    }
    good, _ = checked("parquet", write(tmp_path, files))
    assert [row[:3] for row in good] == [("1", 2, 3.0), ("4", 5, 6.0)]


@pytest.mark.parametrize(
    "times",
    [
        [[DAY], [datetime(2020, 1, 1)], ["2020-01-01T00:00:00Z"]],
        [[1_577_836_800_000], [date(2020, 1, 1)]],
        [[1_577_836_800], [DAY]],
        [[Decimal("1577836800.0")], [1_577_836_800]],
    ],
)
def test_parts_with_times_of_other_types(tmp_path, checked, times):
    files = {
        f"{k}.parquet": parquet(user=[1], item=[k], rating=[1], ts=moment)
        for k, moment in enumerate(times)
    }
    good, _ = checked("parquet", write(tmp_path, files))
    assert [row[3] for row in good] == [DAY] * len(times)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a.csv": A, "b.csv": b"user,item\n4,5\n"}, r"b\.csv has no column rating; it has user"),
        ({"a.csv": A, "b.csv": b"4,5,6\n"}, r"b\.csv has no column user, item, rating; it has 4"),
        (
            {"a.csv": A, "b.csv": b"user,item,rating,ts\n4,5,6,7\n"},
            r"b\.csv has a column ts, and a",
        ),
        ({"a.csv": A, "b.csv.gz": gzip.compress(B * 99)[:-20]}, r"b\.csv\.gz: it is cut off or"),
        ({"a.csv.gz": A}, r"a\.csv\.gz: it is cut off or damaged, or is not packed as its name"),
        ({"a.csv": b"a;b\n1;2\n"}, r"a\.csv has one column, 'a;b'; .* data.separator=';'"),
        ({"a.csv": A.replace(b"\n", b"\r")}, r"ends its lines with lone carriage returns"),
    ],
)
def test_a_part_at_fault_is_named(tmp_path, checked, files, message):
    with pytest.raises(InputError, match=message):
        checked("csv", write(tmp_path, files))


def test_links_are_followed_but_not_in_circles(tmp_path, checked):
    folder = write(tmp_path, {"real/a.csv": A})
    (folder / "link.csv").symlink_to(write(tmp_path / "other", {"b.csv": B}) / "b.csv")
    (folder / "real" / "loop").symlink_to(folder)
    (folder / "dead.csv").symlink_to("nowhere")
    good, _ = checked("csv", folder)
    assert sorted(row[:3] for row in good) == BOTH


def test_a_name_that_is_no_utf8_is_one_line(tmp_path, checked):
    folder = write(tmp_path, {"a.csv": A})
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.csv")).write_bytes(B)
    with pytest.raises(InputError, match=r"udcff\.csv, whose name is not valid UTF-8; rename it"):
        checked("csv", folder)


def test_without_times_the_latest_is_of_the_last_file(tmp_path):
    header = "u,i,r\n"
    pairs = [(u, i) for u in range(20) for i in range(8)]
    for name, rating in (("a", 1), ("b", 2)):
        lines = [f"u{u},i{i},{rating + i % 2}\n" for u, i in pairs]
        write(tmp_path, {f"{name}.csv": (header + "".join(lines)).encode()})
    lines = "".join(f"u0,i{i},5\n" for i in range(8))
    write(tmp_path, {"a.csv": ("u,i,r\n" + "x,x,1\n" * 300 + lines).encode()})
    config = DataConfig(
        source="csv", path=str(tmp_path / "log"), columns=ColumnsConfig("u", "i", "r", None)
    )
    assert prepare(config, tmp_path / "store").repeats >= 8
    labels = labels_of(Store(tmp_path / "store"))
    of_u0 = {
        item: label
        for tasks in labels.values()
        for role in tasks.get("u0", {}).values()
        for item, label in role.items()
    }
    assert of_u0 == {f"i{i}": 2 + i % 2 for i in range(8)}


@pytest.mark.parametrize(
    "text, read",
    [
        (b'user, "item", rating\n1, "a, b", 3\n', [("1", "a, b", 3.0)]),
        (b"user,item,rating,\n1,2,3,\n", [("1", "2", 3.0)]),
        (b"user,item,rating\n1,2,3,\n4,5,6,\n", BOTH),
        (b"user,item,rating\n0,1,2,3\n1,4,5,6\n", BOTH),
        (b"user,item,rating\n1,a\0b,3\n", [("1", "a\0b", 3.0)]),
        (b'\xef\xbb\xbf"user","item",rating\n1,2,3\n', [("1", "2", 3.0)]),
        (b"user,item,rating\r\n1,2,3\r\n4,5,6\n", BOTH),
        (b"user,item,rating\n(null),2,3\n1,nil,3\nundefined,1,1\n1,2,3\n", [("1", "2", 3.0)]),
    ],
)
def test_texts_as_tools_write_them(tmp_path, checked, text, read):
    good, _ = checked("csv", write(tmp_path, {"a.csv": text}) / "a.csv")
    assert [row[:3] for row in good] == read


def test_two_colons_may_stand_between_fields(tmp_path, checked):
    folder = write(tmp_path, {"ratings.dat": b'1::a"::3::978300760\n2::b:c::4::978300761\n'})
    columns = ColumnsConfig("1", "2", "3", "4")
    good, bad = checked("csv", folder, separator="::", has_header=False, columns=columns)
    assert [row[:3] for row in good] == [("1", 'a"', 3.0), ("2", "b:c", 4.0)]
    assert not bad


def test_json_of_other_types_than_its_first_lines_is_read_line_by_line(tmp_path, checked):
    first = b'{"user": 1, "item": "a", "rating": 4, "x": {"y": [1]}}\n' * 1001
    rest = (
        b'{"user": "z", "item": 2.0, "rating": "3"}\n'
        b'{"user": 2, "item": "b", "rating": true} {"user": 3}\n'
        b'{"user": 123456789012345678901, "item": "c", "rating": NaN}\n'
        b'{"user": 1.5, "item": "d", "rating": 1e999}\n'
    )
    good, bad = checked("jsonl", write(tmp_path, {"a.jsonl": first + rest}))
    assert good == [("1", "a", 4.0, None)] * 1001 + [("z", "2", 3.0, None)]
    assert [(line, reason) for _, line, _, _, reason in bad] == [
        (1003, "not valid JSON"),
        (1004, "rating is not a number"),
        (1005, "rating is not a number"),
    ]


def test_lists_of_json_are_read_whole(tmp_path, opened):
    items = b'{"item": "1", "genre": ["a\\n", "b|c", null, 2.0]}\n'
    items += b'{"item": "2", "genre": [["d"], "e"]}\n'
    items += b'{"item": "3", "genre": "f"}\n{"item": "4"}\n'
    log = b'{"user": 1, "item": 1, "rating": 1}\n'
    folder = write(tmp_path, {"log.jsonl": log, "items.jsonl": items})
    source = opened(
        "jsonl",
        folder / "log.jsonl",
        items_path=str(folder / "items.jsonl"),
        item_features={"genre": "token_list"},
    )
    assert source.items is not None
    assert source.items.frame.collect()["genre"].to_list() == [
        ["a", "b|c", "2"],
        ["d", "e"],
        ["f"],
        [],
    ]
