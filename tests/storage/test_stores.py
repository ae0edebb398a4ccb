"""Each machine has the parts of a store that it reads, and has checked them."""

import pytest
from s3_server import upload

from greatmeta_dist.data.store import Store, shard_name
from greatmeta_dist.errors import InputError
from greatmeta_dist.storage.local_copy import local_folder
from greatmeta_dist.storage.objects import ObjectFolder


def test_two_machines_fetch_the_shards_that_each_reads(store, local_store, tmp_path, monkeypatch):
    for number, machine in enumerate(("a", "b")):
        monkeypatch.setenv("GREATMETA_CACHE", str(tmp_path / machine))
        opened = Store(local_folder(store))
        assert opened.shard("train", number).equals(Store(local_store).shard("train", number))
        fetched = [path.relative_to(opened.folder) for path in opened.folder.rglob("*.arrow")]
        assert [str(path) for path in fetched] == [shard_name("train", number)]


def test_a_damaged_copy_of_a_shard_is_fetched_again(store, local_store, empty_cache):
    opened = Store(local_folder(store))
    path = opened.path(shard_name("train", 0))
    path.unlink()
    path.write_bytes(b"damaged")
    again = Store(opened.folder).shard("train", 0)
    assert again.equals(Store(local_store).shard("train", 0))


def test_a_shard_that_is_damaged_on_the_object_store_is_refused(s3, local_store, empty_cache):
    url = f"{s3}/stores/damaged"
    upload(local_store, url)
    ObjectFolder(url).write(shard_name("train", 0), b"damaged")
    with pytest.raises(InputError, match=r"train-.* does not match its checksum"):
        Store(local_folder(url)).shard("train", 0)
