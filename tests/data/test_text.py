"""Text files are read line by line, and every line is accounted for."""

import gzip

import pytest
from logs import bad, open_files, rows

from greatmeta_dist.config import ColumnsConfig
from greatmeta_dist.data.text import TextFormat, scan_text
from greatmeta_dist.errors import InputError


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(b"u,i,r\n1,2,3\n"), "is gzip data; end its name in .gz"),
        ("u,i,r\n1,2,3\n".encode("utf-16"), "is UTF-16 text; convert it to UTF-8"),
        (b"u,i,r\n1,2,\0\n", "is no text"),
        (b"u,i,r,a\0b\n" + b'1,2,3,"x"\n' * 99, "zero byte in its line of column names"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_text_is_said_to_be_none(tmp_path, content, message):
    columns = ColumnsConfig("u", "i", "r", None)
    with pytest.raises(InputError, match=message):
        open_files(tmp_path, "csv", {"x.csv": content}, path="{folder}/x.csv", columns=columns)


def test_a_folder_in_place_of_a_file_shows_what_it_holds(tmp_path):
    columns = ColumnsConfig("u", "i", "r", None)
    with pytest.raises(InputError, match=r"no .csv file; name a file or a folder.*holds x.xls"):
        open_files(tmp_path, "csv", {"x.xls": b"u,i,r\n1,2,3\n"}, columns=columns)


def test_missing_file_names_what_the_folder_holds(tmp_path):
    with pytest.raises(InputError, match=r"u\.data does not exist.*the folder holds ratings\.csv"):
        open_files(tmp_path, "movielens_100k", {"ratings.csv": b"x"})


def test_every_malformed_line_keeps_its_number_and_text(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(b"1\t2\t3\r\n\n1\t2\n1\t2\t3\t4\n\xff\t2\t3\n9\t8\t7")
    frame = scan_text(str(path), TextFormat("\t", ("a", "b", "c")), tmp_path)
    assert rows(frame, "a", "b", "c", "line") == [("1", "2", "3", 1), ("9", "8", "7", 6)]
    assert bad(frame) == [
        ("log.tsv", 2, "blank line", ""),
        ("log.tsv", 3, "expected 3 fields, found 2", "1\t2"),
        ("log.tsv", 4, "expected 3 fields, found 4", "1\t2\t3\t4"),
        ("log.tsv", 5, "not valid utf-8", "�\t2\t3"),
    ]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_a_damaged_archive_is_an_input_error(tmp_path, ending):
    (tmp_path / f"log.csv.{ending}").write_bytes(b"no archive at all")
    with pytest.raises(InputError, match="cannot read"):
        open_files(
            tmp_path,
            "csv",
            {},
            path=f"{tmp_path}/log.csv.{ending}",
            columns=ColumnsConfig("u", "i", "r"),
        )


@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_blank_line_is_no_row_of_empty_fields(tmp_path, separator):
    path = tmp_path / "log.txt"
    lines = ["1,2", "", ",", " , ", "3,4"]
    path.write_text("\n".join(lines).replace(",", separator))
    frame = scan_text(str(path), TextFormat(separator, ("a", "b")), tmp_path)
    blank = [2, 3, 4] if separator == "\t" else [2]
    assert [(line, reason) for _, line, reason, _ in bad(frame)] == [
        (line, "blank line") for line in blank
    ]


def test_a_mark_of_byte_order_is_no_part_of_the_first_value(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("\ufeff1,2\n3,4\n".encode())
    frame = scan_text(str(path), TextFormat(",", ("a", "b")), tmp_path)
    assert rows(frame, "a", "b", "line") == [("1", "2", 1), ("3", "4", 2)]
