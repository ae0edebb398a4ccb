"""Every source reads a small file in its own exact format, quirks included."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.sources import Source, open_source
from greatmeta_dist.data.text import TextFormat, scan_text
from greatmeta_dist.errors import InputError


def open_files(tmp_path: Path, source: str, files: dict[str, bytes], **options) -> Source:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    work = tmp_path / "work"
    work.mkdir()
    options = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in options.items()}
    return open_source(DataConfig(source=source, **{"path": str(folder), **options}), work)


def rows(frame: pl.LazyFrame, *columns: str) -> list[tuple]:
    return frame.filter(pl.col("reason").is_null()).select(columns).collect().rows()


def bad(frame: pl.LazyFrame) -> list[tuple]:
    found = frame.filter(pl.col("reason").is_not_null())
    return found.select("file", "line", "reason", "text").collect().rows()


LOG = ("user", "item", "rating", "timestamp")


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(b"u,i,r\n1,2,3\n"), "is gzip data; end its name in .gz"),
        ("u,i,r\n1,2,3\n".encode("utf-16"), "is UTF-16 text; convert it to UTF-8"),
        (b"u,i,r\n1,2,\0\n", "is no text"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_text_is_said_to_be_none(tmp_path, content, message):
    columns = ColumnsConfig("u", "i", "r", None)
    with pytest.raises(InputError, match=message):
        open_files(tmp_path, "csv", {"x.csv": content}, path="{folder}/x.csv", columns=columns)


def test_a_folder_in_place_of_a_file_shows_what_it_holds(tmp_path):
    columns = ColumnsConfig("u", "i", "r", None)
    with pytest.raises(InputError, match=r"is a folder; name the file; the folder holds x.csv"):
        open_files(tmp_path, "csv", {"x.csv": b"u,i,r\n1,2,3\n"}, columns=columns)


def test_recbole_atomic(tmp_path):
    source = open_files(
        tmp_path,
        "recbole",
        {
            "x.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            b"196\t242\t3\t881250949\n186\t302\t3.5\t8.9e8\n",
            "x.user": b"user_id:token\tage:token\tweight:float\n196\t49\t70.5\n186\t\t\n",
            "x.item": b"item_id:token\tmovie_title:token_seq\tclass:token_seq\tvec:float_seq\n"
            b"242\tKolya\tComedy\t0.1 0.2\n302\tL.A. Confidential\tCrime Film-Noir  Crime\t1 2\n",
        },
    )
    assert rows(source.interactions, *LOG) == [
        ("196", "242", "3", "881250949"),
        ("186", "302", "3.5", "8.9e8"),
    ]
    assert source.has_timestamp
    assert source.users is not None
    assert source.items is not None
    assert source.users.features == {"age": "token", "weight": "float"}
    assert rows(source.users.frame, "id", "age", "weight") == [
        ("196", "49", "70.5"),
        ("186", None, None),
    ]
    assert source.items.features == {"movie_title": "token_list", "class": "token_list"}
    assert rows(source.items.frame, "id", "movie_title", "class") == [
        ("242", ["Kolya"], ["Comedy"]),
        ("302", ["L.A.", "Confidential"], ["Crime", "Film-Noir"]),
    ]


def test_recbole_untyped_header_is_refused(tmp_path):
    with pytest.raises(InputError, match="column 'item_id' has no type"):
        open_files(
            tmp_path, "recbole", {"x.inter": b"user_id:token\titem_id\trating:float\n1\t2\t3\n"}
        )


def test_movielens_100k(tmp_path):
    flags = "|".join("1" if k in (4, 5) else "0" for k in range(19))
    unknown = "|".join("1" if k == 0 else "0" for k in range(19))
    item = (
        f"1|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/x|{flags}\n"
        f"267|unknown||||{unknown}\n"
    )
    source = open_files(
        tmp_path,
        "movielens_100k",
        {
            "u.data": b"196\t242\t3\t881250949\n",
            "u.user": b"1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
            "u.item": item.encode("latin-1"),
        },
    )
    assert rows(source.interactions, *LOG) == [("196", "242", "3", "881250949")]
    assert source.users is not None
    assert source.items is not None
    assert rows(source.users.frame, "id", "age", "gender", "occupation", "zip_code") == [
        ("1", "24", "M", "technician", "85711"),
        ("2", "53", "F", "other", "T8H1N"),
    ]
    assert rows(source.items.frame, "id", "title", "release_year", "genres") == [
        ("1", ["misérables", "les"], "1995", ["Children's", "Comedy"]),
        ("267", ["unknown"], None, ["unknown"]),
    ]


def test_movielens_1m(tmp_path):
    source = open_files(
        tmp_path,
        "movielens_1m",
        {
            "ratings.dat": b"1::1193::5::978300760\n1::661::3::978302109\n",
            "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n",
            "movies.dat": "1193::Fée: A Story (1975)::Drama\n661::X (1996)::Children's|Musical\n"
            "".encode("latin-1"),
        },
    )
    assert rows(source.interactions, *LOG)[1] == ("1", "661", "3", "978302109")
    assert source.items is not None
    assert rows(source.items.frame, "id", "title", "release_year", "genres") == [
        ("1193", ["fée", "a", "story"], "1975", ["Drama"]),
        ("661", ["x"], "1996", ["Children's", "Musical"]),
    ]


def test_movielens_csv_with_quotes_and_no_genres(tmp_path):
    source = open_files(
        tmp_path,
        "movielens_csv",
        {
            "ratings.csv": b"userId,movieId,rating,timestamp\r\n1,296,5.0,1147880044\r\n",
            "movies.csv": "movieId,title,genres\n"
            '296,"American President, The (1995)",Comedy|Drama\n'
            '7,"""Great Performances"" Cats (1998)",Musical\n'
            "8,Übertitle,(no genres listed)\n".encode(),
        },
    )
    assert rows(source.interactions, *LOG) == [("1", "296", "5.0", "1147880044")]
    assert source.users is None
    assert source.items is not None
    assert rows(source.items.frame, "id", "title", "release_year", "genres") == [
        ("296", ["american", "president", "the"], "1995", ["Comedy", "Drama"]),
        ("7", ["great", "performances", "cats"], "1998", ["Musical"]),
        ("8", ["übertitle"], None, []),
    ]


def test_bookcrossing_with_quotes_escapes_and_missing_ages(tmp_path):
    books = (
        '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";'
        '"Image-URL-S";"Image-URL-M";"Image-URL-L"\n'
        '"0195153448";"Classical; Mythology";"Mark P. O. Morford";"2002";"Oxford";"a";"b";"c"\n'
        r'"078946697X";"DK Readers (Level 4)\";";"Michael \"T\" Teitel";"0";"DK";"a";"b";"c"'
        "\n"
        '"2005018";"Clara Callan";"Ren\xe9 Wright";"2001";"Harper &amp; Co";"a";"b";"c"\n'
        '"bad";"only three"\n'
    )
    source = open_files(
        tmp_path,
        "bookcrossing",
        {
            "BX-Book-Ratings.csv": b'"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n'
            b'"276726";"0155061224";"5"\n',
            "BX-Users.csv": '"User-ID";"Location";"Age"\n"1";"nyc, new york, usa";NULL\n'
            '"2";"málaga, málaga, spain";"18"\n"3";"x, y, ";"239"\n'.encode("latin-1"),
            "BX-Books.csv": books.encode("latin-1"),
        },
    )
    assert rows(source.interactions, *LOG) == [
        ("276725", "034545104X", "0", None),
        ("276726", "0155061224", "5", None),
    ]
    assert not source.has_timestamp
    assert source.users is not None
    assert source.items is not None
    assert rows(source.users.frame, "id", "age_decade", "country") == [
        ("1", None, "usa"),
        ("2", "10", "spain"),
        ("3", None, None),
    ]
    assert rows(source.items.frame, "id", "author", "year", "publisher") == [
        ("0195153448", "Mark P. O. Morford", "2002", "Oxford"),
        ("078946697X", 'Michael "T" Teitel', None, "DK"),
        ("2005018", "René Wright", "2001", "Harper &amp; Co"),
    ]
    assert bad(source.items.frame) == [
        ("BX-Books.csv", 5, "expected 8 fields, found 2", '"bad";"only three"')
    ]


def test_csv_with_a_column_mapping(tmp_path):
    source = open_files(
        tmp_path,
        "csv",
        {
            "log.csv": b"when;uid;iid;stars\n1;u1;i1;4\n2;u2;i1;\n",
            "people.csv": b"uid;city;langs\nu1;Paris;fr/en\nu2;;\n",
        },
        path="{folder}/log.csv",
        users_path="{folder}/people.csv",
        separator=";",
        list_separator="/",
        columns=ColumnsConfig("uid", "iid", "stars", "when"),
        user_features={"city": "token", "langs": "token_list"},
    )
    assert rows(source.interactions, *LOG) == [("u1", "i1", "4", "1"), ("u2", "i1", "", "2")]
    assert source.users is not None
    assert rows(source.users.frame, "id", "city", "langs") == [
        ("u1", "Paris", ["fr", "en"]),
        ("u2", None, []),
    ]


def test_backslashes_stand_for_themselves(tmp_path):
    source = open_files(
        tmp_path,
        "csv",
        {"log.csv": b'u,i,r\n"C:\\new",i1,4\n"C:\\dir\\",i2,5\nC:\\new,i3,4\n'},
        path="{folder}/log.csv",
        columns=ColumnsConfig("u", "i", "r"),
    )
    assert [user for user, *_ in rows(source.interactions, *LOG)] == [
        "C:\\new",
        "C:\\dir\\",
        "C:\\new",
    ]


def test_files_of_one_name_are_not_mistaken(tmp_path):
    source = open_files(
        tmp_path,
        "csv",
        {"a/data.csv": "u,i,r\né,x,1\n".encode("latin-1"), "b/data.csv": b"i,kind\nx,new\n"},
        path="{folder}/a/data.csv",
        items_path="{folder}/b/data.csv",
        encoding="latin-1",
        columns=ColumnsConfig("u", "i", "r"),
        item_features={"kind": "token"},
    )
    assert rows(source.interactions, *LOG) == [("é", "x", "1", None)]
    assert source.items is not None
    assert rows(source.items.frame, "id", "kind") == [("x", "new")]


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


@pytest.mark.parametrize(
    "columns, features, message",
    [
        (ColumnsConfig("u", "file", "r"), {}, "data.columns names 'file'"),
        (ColumnsConfig("u", "i", "r"), {"text": "token"}, "may not be called text"),
        (ColumnsConfig("u", "i", "r"), {"a/b": "token"}, "feature 'a/b' holds a '/'"),
    ],
)
def test_names_of_the_preparation_s_own_columns_are_refused(tmp_path, columns, features, message):
    with pytest.raises(InputError, match=message):
        open_files(
            tmp_path,
            "csv",
            {"log.csv": b"u,i,r,file\na,b,1,c\n", "items.csv": b"i,text,a/b\nb,x,y\n"},
            path="{folder}/log.csv",
            items_path="{folder}/items.csv",
            columns=columns,
            item_features=features,
        )


def test_gzipped_csv_from_a_url(tmp_path):
    import gzip

    packed = gzip.compress(b"u,i,r\na,b,1\n")
    source = open_files(
        tmp_path,
        "csv",
        {"log.csv.gz": packed},
        path="file://{folder}/log.csv.gz",
        columns=ColumnsConfig("u", "i", "r"),
    )
    assert rows(source.interactions, *LOG) == [("a", "b", "1", None)]


def test_parquet_with_a_column_mapping(tmp_path):
    path = tmp_path / "log.parquet"
    log = {"u": [1, 2], "i": ["a", None], "r": [3.5, 4.0], "t": [10, 20]}
    pl.DataFrame(log).write_parquet(path)
    items = tmp_path / "items.parquet"
    pl.DataFrame({"i": ["a"], "tags": [["x", "y"]], "price": [2.5]}).write_parquet(items)
    source = open_files(
        tmp_path,
        "parquet",
        {},
        path=str(path),
        items_path=str(items),
        columns=ColumnsConfig("u", "i", "r", "t"),
        item_features={"tags": "token_list", "price": "float"},
    )
    assert rows(source.interactions, *LOG, "line") == [
        ("1", "a", "3.5", "10", 1),
        ("2", None, "4.0", "20", 2),
    ]
    assert source.items is not None
    assert rows(source.items.frame, "id", "tags", "price") == [("a", ["x", "y"], "2.5")]


def test_wrong_column_mapping_says_what_there_is(tmp_path):
    with pytest.raises(InputError, match="no column stars; it has u, i, r"):
        open_files(
            tmp_path,
            "csv",
            {"l.csv": b"u,i,r\n1,2,3\n"},
            path="{folder}/l.csv",
            columns=ColumnsConfig("u", "i", "stars"),
        )


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
