"""Every source reads a small file in its own exact format, quirks included."""

import sys

import polars as pl
import pytest
from logs import COLUMNS, bad, csv_config, open_files, rows, write_log
from stores import tasks_of

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

LOG = ("user", "item", "rating", "timestamp")


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
    lists, numbers = ("movie_title", "class"), ("vec_1", "vec_2")
    assert source.items.features == dict.fromkeys(lists, "token_list") | dict.fromkeys(
        numbers, "float"
    )
    assert rows(source.items.frame, *numbers) == [("0.1", "0.2"), ("1", "2")]
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
        (1, "a", 3.5, 10, 1),
        (2, None, 4.0, 20, 2),
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


USERS_SOURCE = '''
"""Logs that write "user likes item: rating"."""

from pathlib import Path

from greatmeta_dist.data.sources.base import Source, interactions_of
from greatmeta_dist.data.text import TextFormat, scan_text


def open_sentences(config, work):
    names = ("user", "verb", "item", "rating")
    frame = scan_text(config.path, TextFormat(" ", names), work)
    columns = {"user": "user", "item": "item", "rating": "rating"}
    return Source(interactions_of(frame, columns), False, None, None, (Path(config.path),))
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that adds a source: one module, and one entry point."""
    folder = tmp_path / "site-packages"
    info = folder / "sentence_logs-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "sentence_logs.py").write_text(USERS_SOURCE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sentence-logs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[greatmeta_dist.sources]\n"
        "sentences = sentence_logs:open_sentences\n"
        "broken = sentence_logs:no_such_function\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("sentence_logs", None)


def test_a_package_adds_a_source_by_one_module_and_one_entry_point(tmp_path, package):
    log = pl.read_csv(write_log(tmp_path))
    path = tmp_path / "log.txt"
    path.write_text("".join(f"{u} likes {i} {r}\n" for u, i, r, _ in log.iter_rows()) + "oops\n")
    report = prepare(DataConfig(source="sentences", path=str(path)), tmp_path / "store")
    assert report.reasons == {"expected 4 fields, found 1": 1}
    by_csv = prepare(csv_config(tmp_path / "log.csv"), tmp_path / "other")
    assert report.tasks == by_csv.tasks
    store, other = Store(tmp_path / "store"), Store(tmp_path / "other")
    assert store.manifest.recipe["source"] == "sentences"
    for split in store.manifest.splits:
        assert tasks_of(store, split) == tasks_of(other, split)


def test_a_source_that_cannot_be_imported_is_named(tmp_path, package):
    with pytest.raises(InputError, match="cannot import sentence_logs:no_such_function for"):
        prepare(DataConfig(source="broken", path="x"), tmp_path / "store")


def test_an_unknown_source_is_refused_with_those_there_are(package):
    with pytest.raises(InputError, match=r"data.source is 'sentence'; expected .*csv.*sentences"):
        DataConfig(source="sentence")


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("synthetic", {"path": "x"}, "data.path=x is set, and data=synthetic reads no files"),
        ("synthetic", {"users_path": "x"}, "users_path is set, and data=synthetic does not read"),
        ("recbole", {"path": "x", "items_path": "y"}, "data=recbole does not read it; data=csv"),
        ("recbole", {"path": "x", "item_features": {"a": "token"}}, "data.item_features is set"),
        ("sentences", {"path": "x", "users_path": "y"}, "data=sentences does not read it"),
        ("sentences", {}, "data.path is not set; data=sentences needs data.path="),
        ("csv", {}, "data.path is not set; data=csv needs data.path="),
    ],
)
def test_options_that_a_source_does_not_read_are_refused(
    tmp_path, package, source, options, message
):
    with pytest.raises(InputError, match=message):
        prepare(DataConfig(source=source, **options), tmp_path / "store")
    assert not (tmp_path / "store").exists()
