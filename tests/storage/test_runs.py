"""Runs and their stores on an object store are as on disk."""

from pathlib import Path

from small_training import assert_same, final_state

from greatmeta_dist.cli import main
from greatmeta_dist.predict import Predictor
from greatmeta_dist.storage.local_copy import local_folder
from greatmeta_dist.storage.objects import ObjectFolder


def state_of(url: str) -> dict:
    return final_state(local_folder(url, use="test"))


def test_a_run_on_s3_has_the_bits_of_one_on_disk_and_no_local_folder_of_its_name(
    whole, on_disk, empty_cache
):
    assert_same(state_of(whole), final_state(on_disk))
    names = ObjectFolder(whole).files()
    assert {"config.yaml", "model/model.json", "metrics.json", "history.jsonl"} <= names.keys()
    assert any(name.startswith("tensorboard/") for name in names)
    assert not any(name.split("/")[0].startswith(".") for name in names)
    assert not Path("s3:").exists()


def test_another_machine_predicts_from_it(whole, on_disk, empty_cache):
    ours, theirs = Predictor.load(whole), Predictor.load(on_disk)
    known = {"i1": 5.0, "i2": 1.0}
    assert ours.recommend(known, 5) == theirs.recommend(known, 5)
    assert ours.open_store().identity == theirs.open_store().identity


def test_it_is_evaluated_and_exported_there(whole, s3, empty_cache, capsys):
    assert main(["evaluate", f"run={whole}"]) == 0
    assert f"written to {whole}/evaluation.json" in capsys.readouterr().out
    assert "evaluation.json" in ObjectFolder(whole).files()
    assert main(["evaluate", f"run={whole}", f"against={whole}"]) == 2
    assert f"against={whole} is the run itself" in capsys.readouterr().err
    for _ in range(2):
        assert main(["export", f"run={whole}", f"out={s3}/exports/a"]) == 0
    out = capsys.readouterr().out
    assert f"written to {s3}/exports/a" in out
    assert "has no metrics" not in out
    names = ObjectFolder(f"{s3}/exports/a").files()
    assert {"card.json", "exported_model.py"} <= names.keys()
