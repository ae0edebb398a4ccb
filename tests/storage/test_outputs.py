"""What commands make on an object store is whole there, or it is not there."""

import polars as pl
import pytest
from logs import write_log

from greatmeta_dist.cli import main
from greatmeta_dist.data.store import Store
from greatmeta_dist.storage.local_copy import local_folder
from greatmeta_dist.storage.objects import ObjectFolder

COLUMNS = "data.columns={user: u, item: i, rating: r, timestamp: t}"


@pytest.fixture
def words(tmp_path) -> list[str]:
    return ["prepare", "data=csv", f"data.path={write_log(tmp_path)}", COLUMNS]


def names(url: str) -> set[str]:
    return set(ObjectFolder(url).files())


def test_a_store_is_prepared_there_once(s3, words, tmp_path, empty_cache, capsys):
    url = f"{s3}/prepared/once"
    assert main([*words, f"store={tmp_path}/store"]) == 0
    assert main([*words, f"store={url}"]) == 0
    assert f"store {url} is ready" in capsys.readouterr().out
    assert Store(local_folder(url)).identity == Store(tmp_path / "store").identity
    on_disk = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert names(url) == {path.relative_to(tmp_path / "store").as_posix() for path in on_disk}
    before = ObjectFolder(url).files()
    assert main([*words, f"store={url}"]) == 0
    assert "already prepared from the same files" in capsys.readouterr().out
    assert ObjectFolder(url).files() == before
    assert main([*words, f"store={url}", "data.seed=5"]) == 2
    assert f"{url} was prepared differently (data.seed)" in capsys.readouterr().err


def test_a_store_there_grows_as_on_disk(s3, words, tmp_path, empty_cache, capsys):
    url, more = f"{s3}/prepared/small", tmp_path / "more.csv"
    more.write_text(
        "u,i,r,t\n" + "".join(f"new{k % 7},i{k % 9},{1 + k % 5},{k}\n" for k in range(60))
    )
    growing = ["prepare", "data=csv", f"data.path={more}", COLUMNS]
    for earlier in (f"{tmp_path}/small", url):
        assert main([*words, f"store={earlier}"]) == 0
        assert main([*growing, f"data.from={earlier}", f"store={earlier}-grown"]) == 0
    grown = [Store(local_folder(f"{place}-grown")) for place in (f"{tmp_path}/small", url)]
    assert grown[0].identity == grown[1].identity
    capsys.readouterr()
    assert main([*growing, f"data.from={url}", f"store={url}"]) == 2
    assert "a store grows into another folder" in capsys.readouterr().err
    assert main([*growing, f"data.from={s3}/nothing", f"store={url}-other"]) == 2
    assert f"data.from={s3}/nothing is no store; name one" in capsys.readouterr().err


def test_a_preparation_killed_while_it_writes_goes_on(s3, words, empty_cache, monkeypatch):
    url = f"{s3}/prepared/killed"
    upload, uploads = ObjectFolder.upload, []

    def dying_upload(self, path, name):
        uploads.append(name)
        if len(uploads) == 4:
            raise KeyboardInterrupt
        upload(self, path, name)

    monkeypatch.setattr(ObjectFolder, "upload", dying_upload)
    assert main([*words, f"store={url}"]) == 1
    assert "manifest.json" not in names(url)
    assert names(url)
    uploads[:] = [""] * 10
    assert main([*words, f"store={url}"]) == 0
    opened = Store(local_folder(url))
    assert all(opened.path(name) for name in opened.manifest.checksums)
    assert len(uploads) - 10 == len(names(url)) - 3  # what was there was not written again


def test_rejects_are_there_and_no_store(s3, tmp_path, empty_cache, capsys):
    path = write_log(tmp_path)
    path.write_text(path.read_text() + "u1,i1,bad,1\n" * 50)
    url = f"{s3}/prepared/rejected"
    assert main(["prepare", "data=csv", f"data.path={path}", COLUMNS, f"store={url}"]) == 2
    assert f"{url}/rejects.parquet" in capsys.readouterr().err
    assert names(url) == {"rejects.parquet"}


def test_other_things_are_not_written_over(s3, words, empty_cache, capsys):
    ObjectFolder(f"{s3}/other").write("notes.txt", b"mine")
    assert main([*words, f"store={s3}/other"]) == 2
    assert f"store={s3}/other exists and is no store" in capsys.readouterr().err
    assert names(f"{s3}/other") == {"notes.txt"}
    assert main([*words, f"store={s3}"]) == 2


@pytest.mark.parametrize("out", ["parts", "one.parquet"])
def test_recommendations_of_a_run_there_are_there(
    s3, whole, on_disk, tmp_path, empty_cache, capsys, out
):
    url = f"{s3}/recommended/{out}"
    users = tmp_path / "users.csv"
    users.write_text("user,item,rating\n" + "".join(f"u{k},i{k % 50},4\n" for k in range(30)))
    words = ["recommend", f"users={users}", "k=3"]
    assert main([*words, f"run={on_disk}", f"out={tmp_path}/{out}"]) == 0
    words.append(f"run={whole}")
    assert main([*words, f"out={url}"]) == 0
    assert f"are in {url}" in capsys.readouterr().out
    written = pl.read_parquet(tmp_path / out)
    (name, *_) = [n for n in names(f"{s3}/recommended") if n.startswith(out)]
    here = tmp_path / "back.parquet"
    ObjectFolder(f"{s3}/recommended").download(name, here)
    assert pl.read_parquet(here).equals(written)
    assert main([*words, f"out={url}"]) == 0
    assert f"{url} already holds" in capsys.readouterr().out
