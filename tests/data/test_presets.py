"""Presets of public data sets: each reads a small file in the exact form, quirks included."""

import gzip
import json

import pytest
from logs import bad, open_files, rows

from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError
from greatmeta_dist.extensions import SOURCES
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.options.names import presets

LOG = ("user", "item", "rating", "timestamp")


@pytest.mark.parametrize("preset", presets()["data"])
def test_every_preset_names_a_source(preset):
    config: Config = compose_config([f"data={preset}"])
    assert callable(SOURCES.get(config.data.source))


def test_movielens_10m_has_no_users_file(tmp_path):
    source = open_files(
        tmp_path,
        "movielens_10m",
        {
            "ratings.dat": b"1::122::5::838985046\n1::185::4.5::838983525\n",
            "movies.dat": "122::Boomerang (1992)::Comedy|Romance\n"
            "185::Amélie (Fabuleux destin, Le) (2001)::(no genres listed)\n".encode(),
        },
    )
    assert rows(source.interactions, *LOG) == [
        ("1", "122", "5", "838985046"),
        ("1", "185", "4.5", "838983525"),
    ]
    assert source.users is None
    assert source.items is not None
    assert rows(source.items.frame, "id", "title", "release_year", "genres") == [
        ("122", ["boomerang"], "1992", ["Comedy", "Romance"]),
        ("185", ["amélie", "fabuleux", "destin", "le"], "2001", []),
    ]


REVIEW = {
    "rating": 5.0, "title": "Such a lovely scent", "text": "but not\nstrong", "images": [],
    "asin": "B00YQ6X8EO", "parent_asin": "B00YQ6X8EP", "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
    "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
}  # fmt: skip
PRODUCT = {
    "main_category": "All Beauty", "title": "Howard LC0008", "average_rating": 4.8,
    "rating_number": 10, "features": [], "description": [], "price": None, "images": [],
    "videos": [], "store": "Howard Products", "categories": [], "details": {"UPC": "617"},
    "parent_asin": "B00YQ6X8EP", "bought_together": None,
}  # fmt: skip


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_amazon_2023_as_json_lines(tmp_path, ending):
    second = PRODUCT | {
        "parent_asin": "B2", "price": 12.5, "categories": ["Hair", "Care, dry"], "store": None,
    }  # fmt: skip
    contents = {
        "All_Beauty.jsonl": json.dumps(REVIEW),
        "meta_All_Beauty.jsonl": f"{json.dumps(PRODUCT)}\n{json.dumps(second)}\n",
    }
    pack = gzip.compress if ending else bytes
    files = {f"{name}{ending}": pack(text.encode()) for name, text in contents.items()}
    source = open_files(tmp_path, "amazon_2023", files)
    assert rows(source.interactions, *LOG) == [
        ("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B00YQ6X8EP", "5", "1588687728923")
    ]
    assert source.items is not None
    assert rows(source.items.frame, "id", "main_category", "store", "categories", "price") == [
        ("B00YQ6X8EP", "All Beauty", "Howard Products", [], None),
        ("B2", "All Beauty", None, ["Hair", "Care, dry"], "12.5"),
    ]
    assert source.not_used[f"All_Beauty.jsonl{ending}"][:2] == ["title", "text"]


def test_amazon_2023_as_csv_of_ratings_alone(tmp_path):
    content = b"user_id,parent_asin,rating,timestamp\nAGKH,B00YQ6X8EP,5.0,1588687728923\n"
    source = open_files(
        tmp_path, "amazon_2023", {"All_Beauty.csv": content}, path="{folder}/All_Beauty.csv"
    )
    assert rows(source.interactions, *LOG) == [("AGKH", "B00YQ6X8EP", "5.0", "1588687728923")]
    assert source.items is None


def test_amazon_2023_with_several_categories_asks_which(tmp_path):
    files = {"A.csv": b"x\n", "B.csv": b"x\n"}
    with pytest.raises(InputError, match=r"holds 2 files of reviews \(A\.csv, B\.csv\)"):
        open_files(tmp_path, "amazon_2023", files)


BOOKS = (
    "book_id,goodreads_book_id,isbn,authors,original_publication_year,title,language_code\n"
    '1,2767052,439023483,"Suzanne Collins, Someone Else",2008.0,"The Hunger Games (#1)",eng\n'
    '2,3,,Homer,-750.0,"""Iliad""",\n'
)


def test_goodbooks(tmp_path):
    files = {
        "ratings.csv": b"user_id,book_id,rating\n1,258,5\n2,4081,4\n",
        "books.csv": BOOKS.encode(),
    }
    source = open_files(tmp_path, "goodbooks", files)
    assert rows(source.interactions, *LOG) == [("1", "258", "5", None), ("2", "4081", "4", None)]
    assert source.items is not None
    assert rows(source.items.frame, "id", "authors", "year", "language") == [
        ("1", ["Suzanne Collins", "Someone Else"], "2008", "eng"),
        ("2", ["Homer"], "-750", None),
    ]


def test_goodbooks_of_kaggle_numbers_books_by_id(tmp_path):
    files = {
        "ratings.csv": b"book_id,user_id,rating\n1,314,5\n",
        "books.csv": BOOKS.replace("book_id,goodreads", "id,book_id,goodreads", 1)
        .replace("1,2767052", "1,77,2767052")
        .replace("2,3,", "2,78,3,")
        .encode(),
    }
    source = open_files(tmp_path, "goodbooks", files)
    assert rows(source.interactions, "user", "item") == [("314", "1")]
    assert source.items is not None
    assert rows(source.items.frame, "id") == [("1",), ("2",)]


def test_lastfm_hetrec_has_play_counts_and_tags(tmp_path):
    source = open_files(
        tmp_path,
        "lastfm_hetrec",
        {
            "user_artists.dat": b"userID\tartistID\tweight\r\n2\t51\t13883\r\n2\t52\t11690\r\n",
            "artists.dat": 'id\tname\turl\tpictureURL\n51\tDuran "Duran\tu\tp\n52\tÁ\tu\t\n'
            "".encode(),
            "tags.dat": "tagID\ttagValue\n1\tmetal\n2\tchanson française\n".encode("latin-1"),
            "user_taggedartists.dat": b"userID\tartistID\ttagID\tday\tmonth\tyear\n"
            b"2\t51\t2\t1\t4\t2009\n3\t51\t1\t1\t4\t2009\n4\t51\t1\t1\t4\t2009\n5\t51\n",
        },
        label="click",
        click_at=None,
    )
    assert rows(source.interactions, *LOG) == [
        ("2", "51", "13883", None),
        ("2", "52", "11690", None),
    ]
    assert source.items is not None
    assert rows(source.items.frame, "id", "tags") == [
        ("51", ["chanson française", "metal"]),
        ("52", []),
    ]
    assert bad(source.items.frame) == [
        ("user_taggedartists.dat", 5, "expected 6 fields, found 2", "5\t51")
    ]


def test_prices_of_amazon_are_numbers_or_texts_with_one(tmp_path):
    prices = [12.5, "$1,299.00", "from 14.99", "\u2014", None, "9.99"]
    products = [PRODUCT | {"parent_asin": f"B{k}", "price": p} for k, p in enumerate(prices)]
    products.append({"parent_asin": "B9"})
    files = {
        "A.jsonl": json.dumps(REVIEW).encode(),
        "meta_A.jsonl": "\n".join(map(json.dumps, products)).encode(),
    }
    source = open_files(tmp_path, "amazon_2023", files)
    assert source.items is not None
    assert [price for (price,) in rows(source.items.frame, "price")] == [
        "12.5", "1299.00", "14.99", None, None, "9.99", None,
    ]  # fmt: skip


def test_titles_of_movielens_latest_as_they_are(tmp_path):
    movies = (
        "movieId,title,genres\r\n"
        '11,"American President, The (1995)",Comedy|Drama|Romance\r\n'
        '2,"""Great Performances"" Cats (1998) ",Musical\r\n'
        "3,Babylon 5,(no genres listed)\r\n"
        "4,Death Note: Desu nôto (2006–2007),IMAX\r\n"
    )
    files = {
        "ratings.csv": b"userId,movieId,rating,timestamp\r\n1,11,0.5,964982703\r\n",
        "movies.csv": movies.encode(),
        "tags.csv": b"userId,movieId,tag,timestamp\r\n",
    }
    source = open_files(tmp_path, "movielens_csv", files)
    assert source.items is not None
    assert rows(source.items.frame, "id", "title", "release_year", "genres") == [
        ("11", ["american", "president", "the"], "1995", ["Comedy", "Drama", "Romance"]),
        ("2", ["great", "performances", "cats"], "1998", ["Musical"]),
        ("3", ["babylon", "5"], None, []),
        ("4", ["death", "note", "desu", "nôto"], "2006", ["IMAX"]),
    ]
    assert source.not_used == {"tags.csv": ["the whole file"]}


def test_reviews_of_amazon_2018_are_found_as_json_lines(tmp_path):
    review = {
        "reviewerID": "A1", "asin": "B1", "reviewerName": "x", "overall": 5.0, "verified": True,
        "unixReviewTime": 1252800000, "reviewTime": "09 13, 2009", "reviewText": "", "vote": "3",
    }  # fmt: skip
    files = {"A.json": json.dumps(review).encode()}
    source = open_files(tmp_path, "jsonl", files, path="{folder}/A.json")
    assert rows(source.interactions, *LOG) == [("A1", "B1", "5", "1252800000")]


def test_columns_and_files_that_a_preset_does_not_read_are_said(tmp_path):
    files = {
        "ratings.csv": b"user_id,book_id,rating\n1,258,5\n",
        "books.csv": BOOKS.encode(),
        "to_read.csv": b"user_id,book_id\n1,2\n",
    }
    source = open_files(tmp_path, "goodbooks", files)
    assert source.not_used == {
        "books.csv": ["goodreads_book_id", "isbn", "title"],
        "to_read.csv": ["the whole file"],
    }
