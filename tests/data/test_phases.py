"""Units of work: any number of threads writes the same bytes, and nothing done is done again."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from logs import csv_config, write_log

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data import scan, text_units
from greatmeta_dist.data.phases import Phases
from greatmeta_dist.data.prepare import WORK, prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.units import run_in_threads
from greatmeta_dist.errors import InputError


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Small logs in many units and buckets."""
    monkeypatch.setattr(scan, "UNIT_ROWS", 200)
    monkeypatch.setattr(scan, "BUCKET_BYTES", 3000)
    monkeypatch.setattr(text_units, "UNIT_BYTES", 2000)


def manifest_text(store: Path) -> str:
    return (store / "manifest.json").read_text()


@pytest.mark.parametrize("label", ["rating", "click"])
def test_any_number_of_threads_writes_the_same_bytes(tmp_path, label):
    config = csv_config(write_log(tmp_path), label=label, click_at=None, cold_item_fraction=0.1)
    for threads in (1, 2, 5):
        prepare(config, tmp_path / str(threads), run_units=run_in_threads(threads))
    assert manifest_text(tmp_path / "1") == manifest_text(tmp_path / "2")
    assert manifest_text(tmp_path / "1") == manifest_text(tmp_path / "5")


def test_the_progress_ends_at_1_and_never_goes_back(tmp_path):
    shares: list[float] = []
    phases: list[str] = []

    def progress(phase: str, share: float) -> None:
        shares.append(share)
        phases.append(phase)

    prepare(csv_config(write_log(tmp_path)), tmp_path / "store", progress)
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert len({round(share, 2) for share in shares}) > 10
    assert list(dict.fromkeys(phases)) == [
        "read the text",
        "hash the files",
        "check the log",
        "split users",
        "write the shards",
        "write the manifest",
        "done",
    ]


def counting(counts: dict[str, int]):
    """Threads that count the units that they run."""
    run = run_in_threads(2)

    def run_units(function, units):
        counts["units"] = counts.get("units", 0) + len(units)
        yield from run(function, units)

    return run_units


KILLED = """
import os, signal, sys
from greatmeta_dist.data import scan, text_units
from greatmeta_dist.data.prepare import prepare
sys.path.insert(0, sys.argv[1])
from logs import csv_config
scan.UNIT_ROWS, scan.BUCKET_BYTES, text_units.UNIT_BYTES = 200, 3000, 2000
def progress(phase, share):
    if share > float(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
prepare(csv_config(sys.argv[2]), sys.argv[3], progress)
"""


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(tmp_path, share):
    path = write_log(tmp_path)
    counts: dict[str, int] = {}
    prepare(csv_config(path), tmp_path / "whole", run_units=counting(counts))
    num_units = counts["units"]
    words = [str(Path(__file__).parent.parent), str(path), str(tmp_path / "store"), str(share)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    marks = list((tmp_path / "store" / WORK).rglob("done-*.json"))
    assert marks
    counts.clear()
    prepare(csv_config(path), tmp_path / "store", run_units=counting(counts))
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "whole")
    assert counts.get("units", 0) == num_units - len(marks)
    assert {p.name for p in (tmp_path / "store").iterdir()} == {
        p.name for p in (tmp_path / "whole").iterdir()
    }


def test_a_preparation_that_ends_as_its_files_are_moved_goes_on(tmp_path, monkeypatch):
    config = csv_config(write_log(tmp_path))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("greatmeta_dist.data.preparation.write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, tmp_path / "store")
    assert (tmp_path / "store" / "shards").exists()
    counts: dict[str, int] = {}
    prepare(config, tmp_path / "store", run_units=counting(counts))
    assert counts == {}
    prepare(config, tmp_path / "whole")
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "whole")
    Store(tmp_path / "store").check()


@pytest.mark.parametrize("what", ["log", "option"])
def test_what_was_done_for_another_log_or_option_is_not_used(tmp_path, what):
    path = write_log(tmp_path)

    def stop(phase: str, share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(csv_config(path), tmp_path / "store", stop)
    assert list((tmp_path / "store" / WORK).rglob("done-*.json"))
    config = csv_config(path, seed=1 if what == "option" else 0)
    if what == "log":
        path.write_text(path.read_text().replace(",5,", ",4,"))
    prepare(config, tmp_path / "store")
    prepare(config, tmp_path / "afresh")
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "afresh")


def test_a_second_preparation_into_the_folder_is_refused_meanwhile(tmp_path):
    config = csv_config(write_log(tmp_path))
    is_refused = threading.Event()

    def wait(phase: str, share: float) -> None:
        if phase == "split users":
            assert is_refused.wait(30)

    first = threading.Thread(target=prepare, args=(config, tmp_path / "store", wait))
    first.start()
    while not list((tmp_path / "store").glob(f"{WORK}/*/phases/split-users")):
        time.sleep(0.01)
    with pytest.raises(InputError, match="another prepare is writing"):
        prepare(config, tmp_path / "store")
    is_refused.set()
    first.join()
    prepare(config, tmp_path / "alone")
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "alone")


def test_a_folder_of_many_files_is_read_in_units_of_several(tmp_path, monkeypatch):
    header, *lines = write_log(tmp_path).read_text().splitlines()
    (tmp_path / "parts").mkdir()
    for k in range(30):
        part = lines[len(lines) * k // 30 : len(lines) * (k + 1) // 30]
        (tmp_path / "parts" / f"{k:02}.csv").write_text("\n".join([header, *part]) + "\n")
    monkeypatch.setattr(scan, "UNIT_ROWS", 500)
    counts: dict[str, int] = {}
    report = prepare(csv_config(tmp_path / "parts"), tmp_path / "a", run_units=counting(counts))
    assert report.read == len(lines)
    whole = prepare(csv_config(tmp_path / "log.csv"), tmp_path / "b")
    assert (report.kept, report.tasks) == (whole.kept, whole.tasks)
    a, b = (json.loads(manifest_text(tmp_path / name))["checksums"] for name in "ab")
    assert a["items.arrow"] == b["items.arrow"]


def test_a_phase_in_parts_shows_the_share_of_all(tmp_path):
    shares: list[float] = []

    def progress(phase: str, share: float) -> None:
        shares.append(round(share, 3))

    phases = Phases(tmp_path, run_units=run_in_threads(1), progress=progress)
    phases.expect({"read": 3.0, "skipped": 5.0, "check": 7.0})
    phases.run("read", lambda number, unit: {}, [0, 1], part="a", cost=1.0)
    phases.run("read", lambda number, unit: {}, [0, 1], part="b", cost=2.0)
    assert shares == [0, round(0.5 / 15, 3), round(1 / 15, 3), round(1 / 15, 3), 0.133, 0.2]
    phases.run("check", lambda number, unit: {}, [0, 1], unit_costs=[1, 6])
    assert shares[-3:] == [0.3, 0.4, 1.0]


def test_generated_logs_are_made_again_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BUCKET_BYTES", 20_000)

    def stop(phase: str, share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(DataConfig(users=300), tmp_path / "store", stop)
    prepare(DataConfig(users=300), tmp_path / "store")
    prepare(DataConfig(users=300), tmp_path / "whole")
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "whole")
