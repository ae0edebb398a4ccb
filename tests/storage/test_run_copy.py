"""A run's copies on several machines, of which one trains it."""

from small_training import Lines

from greatmeta_dist.storage.local_copy import LocalCopy
from greatmeta_dist.training.run_copy import (
    fetch_start,
    folder_to_train,
    held_copy,
    write_back_records,
    write_back_start,
)


def test_a_first_worker_elsewhere_writes_on_where_the_holder_was(s3, tmp_path, monkeypatch):
    url = f"{s3}/copies/elsewhere"
    machines = [str(tmp_path / name) for name in ("holder", "elsewhere")]

    def be_on(number: int) -> None:
        monkeypatch.setenv("GREATMETA_CACHE", machines[number])

    be_on(1)
    stale = folder_to_train(url) / "tensorboard" / "stale"
    stale.parent.mkdir()
    stale.write_text("of a run that was deleted")
    be_on(0)
    run = folder_to_train(url)
    with held_copy(run, Lines()):
        (run / "config.yaml").write_text("config")
        (run / "history.jsonl").write_text("start\n")
        write_back_start(run)
        be_on(1)
        there = folder_to_train(url)
        fetch_start(there, is_first=True)
        assert not stale.exists()
        with (there / "history.jsonl").open("a") as history:
            history.write("checkpoint\n")
        (there / "metrics.json").write_text("{}")
        write_back_records(there)
        be_on(0)
        fetch_start(run, is_first=True)  # a worker of the holder's machine changes nothing
        assert (run / "history.jsonl").read_text() == "start\n"
    copy = LocalCopy.of(run)
    assert copy is not None
    for read in (lambda n: (run / n).read_text(), lambda n: copy.origin.read(n).decode()):
        assert read("history.jsonl") == "start\ncheckpoint\n"
        assert read("metrics.json") == "{}"
    assert set(copy.origin.files()) == {"config.yaml", "history.jsonl", "metrics.json"}
