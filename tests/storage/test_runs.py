"""Runs and their stores on an object store are as on disk."""

from pathlib import Path

import pytest
from small_training import assert_same, final_state, small

from greatmeta_dist.cli import main
from greatmeta_dist.display import Display
from greatmeta_dist.launch.local import launch
from greatmeta_dist.predict import Predictor
from greatmeta_dist.storage.local_copy import local_folder
from greatmeta_dist.storage.objects import ObjectFolder


@pytest.fixture(scope="module")
def on_disk(local_store, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("disk") / "run"
    launch(small(local_store), run, Display())
    return run


@pytest.fixture(scope="module")
def on_s3(s3, store) -> str:
    url = f"{s3}/runs/whole"
    launch(small(store), url, Display())
    return url


def state_of(url: str) -> dict:
    return final_state(local_folder(url, use="test"))


def test_a_run_on_s3_has_the_bits_of_one_on_disk_and_no_local_folder_of_its_name(
    on_s3, on_disk, tmp_path, monkeypatch, empty_cache
):
    assert_same(state_of(on_s3), final_state(on_disk))
    names = ObjectFolder(on_s3).files()
    assert {"config.yaml", "model/model.json", "metrics.json", "history.jsonl"} <= names.keys()
    assert any(name.startswith("tensorboard/") for name in names)
    assert not any(name.split("/")[0].startswith(".") for name in names)
    assert not Path("s3:").exists()


def test_another_machine_predicts_from_it(on_s3, on_disk, empty_cache):
    ours, theirs = Predictor.load(on_s3), Predictor.load(on_disk)
    known = {"i1": 5.0, "i2": 1.0}
    assert ours.recommend(known, 5) == theirs.recommend(known, 5)
    assert ours.open_store().identity == theirs.open_store().identity


def test_it_is_evaluated_and_exported_there(on_s3, s3, empty_cache, capsys):
    assert main(["evaluate", f"run={on_s3}"]) == 0
    assert f"written to {on_s3}/evaluation.json" in capsys.readouterr().out
    assert "evaluation.json" in ObjectFolder(on_s3).files()
    assert main(["evaluate", f"run={on_s3}", f"against={on_s3}"]) == 2
    assert f"against={on_s3} is the run itself" in capsys.readouterr().err
    for _ in range(2):
        assert main(["export", f"run={on_s3}", f"out={s3}/exports/a"]) == 0
    out = capsys.readouterr().out
    assert f"written to {s3}/exports/a" in out
    assert "has no metrics" not in out
    names = ObjectFolder(f"{s3}/exports/a").files()
    assert {"card.json", "exported_model.py"} <= names.keys()
