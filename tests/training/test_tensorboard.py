"""What TensorBoard shows of runs, read through its own HTTP API, by each of its two loaders."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from small_training import small

from benchmarks.tensorboard.server import Board, served
from greatmeta_dist.config import InnerConfig, SchedulerConfig
from greatmeta_dist.display import Display
from greatmeta_dist.training.history import History
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.records import hyperparameters
from greatmeta_dist.training.tags import FIRST_PAGE

LOADERS = {"fast": True, "python": False}
SCENARIOS = {f"val/{s}/rmse" for s in ("warm", "user_cold", "item_cold", "both_cold")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, store) -> Path:
    """A folder with runs that are done, stopped, failed, killed, and killed and gone on with."""
    folder = tmp_path_factory.mktemp("runs")
    display, config = Display(), small(store)
    train(config, folder / "done", display)
    uniform = replace(config, scheduler=SchedulerConfig(kind="uniform", max_weight_ratio=None))
    train(uniform, folder / "uniform", display)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder / "stopped", display, is_stopped=lambda: True)
    with pytest.raises(RuntimeError, match="not finite"):
        train(replace(config, inner=InnerConfig(learning_rate=1e30)), folder / "failed", display)
    kill(folder / "done", folder / "killed")
    kill(folder / "done", folder / "resumed")
    train(config, folder / "resumed", display)
    # And one that is complete, and is trained further.
    shutil.copytree(folder / "done", folder / "extended")
    train(small(store, steps=16), folder / "extended", display)
    return folder


def kill(run: Path, killed: Path) -> None:
    """Make of a run what a kill in its last step would have left: half a record, no end."""
    shutil.copytree(run, killed)
    for path in (*killed.glob("tensorboard/*.end"), killed / "metrics.json"):
        path.unlink()
    for step in (10, 12):
        shutil.rmtree(killed / "checkpoints" / f"step-{step:09d}", ignore_errors=True)
    (events,) = killed.glob("tensorboard/*tfevents.[1-9]*")
    events.write_bytes(events.read_bytes()[:-7])
    lines = (killed / "history.jsonl").read_text().splitlines()
    lines = [line for line in lines if json.loads(line)["kind"] != "done"]
    (killed / "history.jsonl").write_text("\n".join(lines)[:-9])


@pytest.fixture(scope="module")
def boards(runs) -> Iterator[dict[str, Board]]:
    """A TensorBoard of all runs for each loader; both start at once."""
    with ExitStack() as stack:
        shown = {
            name: stack.enter_context(served(runs, is_fast=is_fast))
            for name, is_fast in LOADERS.items()
        }
        for board in shown.values():
            board.wait_until(lambda board=board: is_read(board, runs))
        yield shown


def is_read(board: Board, runs: Path) -> bool:
    """Whether a TensorBoard has read the newest event of every run."""
    names = [path.name for path in runs.iterdir()]
    shown = board.get("plugin/text/tags")
    return (
        all(
            shown.get(f"{name}/tensorboard")
            and (
                name == "killed"
                or re.search("<strong>(done|stop|failure)<", texts(board, name)[-1][1])
            )
            for name in names
        )
        and len(points(board, "extended", "train/loss")) == 8
    )


@pytest.fixture(params=LOADERS)
def board(boards, request) -> Board:
    return boards[request.param]


def points(board: Board, run: str, tag: str) -> list[tuple[int, float]]:
    answer = board.get("plugin/scalars/scalars", run=f"{run}/tensorboard", tag=tag)
    return [(step, value) for _, step, value in answer]


def drawn(board: Board, run: str, pattern: str) -> set[str]:
    """The tags that a chart of the first page draws."""
    answer = board.get("plugin/custom_scalars/scalars", run=f"{run}/tensorboard", tag=pattern)
    assert answer["regex_valid"]
    return set(answer["tag_to_events"])


def page(board: Board) -> dict[str, dict[str, list[str]]]:
    """The first page: categories, charts and their patterns."""
    layout = board.get("plugin/custom_scalars/layout")
    return {
        category["title"]: {c["title"]: c["multiline"]["tag"] for c in category["chart"]}
        for category in layout["category"]
    }


def texts(board: Board, run: str) -> list[tuple[int, str]]:
    answer = board.get("plugin/text/text", run=f"{run}/tensorboard", tag="system/events")
    return [(entry["step"], entry["text"]) for entry in answer]


def table(board: Board) -> dict[str, dict]:
    """HParams: the sessions, by run."""
    return {g["sessions"][0]["name"].split("/")[0]: g for g in board.session_groups()}


def test_every_tag_is_described(board):
    tags = board.get("plugin/timeseries/tags")
    for kind in ("scalars", "histograms"):
        shown = {tag for of_run in tags[kind]["runTagInfo"].values() for tag in of_run}
        assert len(shown) > 3
        assert shown == set(tags[kind]["tagDescriptions"])
    text = board.get("plugin/text/tags")
    assert text["done/tensorboard"] == ["system/events"]


def test_the_first_page_asks_three_questions_and_its_charts_answer_them(board):
    shown = page(board)
    assert list(shown) == ["Is it learning?", "Is it balanced?", "Is it fast?"] == list(FIRST_PAGE)
    for charts in shown.values():
        assert len(charts) >= 4
        for title, patterns in charts.items():
            tags = set().union(*(drawn(board, "done", pattern) for pattern in patterns))
            assert 1 <= len(tags) <= 8, title
    (by_scenario,) = shown["Is it learning?"]["RMSE by scenario"]
    assert drawn(board, "done", by_scenario) == SCENARIOS
    users, best = shown["Is it learning?"]["RMSE on validation users, and the best so far"]
    assert drawn(board, "done", users) == {"val/valid/rmse"}
    assert drawn(board, "done", best) == {"best/rmse"}


def test_weights_and_factors_are_shown_as_histograms_and_against_group_and_activity(board):
    tags = board.get("plugin/timeseries/tags")
    histograms = tags["histograms"]["runTagInfo"]["done/tensorboard"]
    scalars = tags["scalars"]["runTagInfo"]["done/tensorboard"]
    for kind in ("weight", "magnitude", "gap", "agreement", "context"):
        assert f"meta/{kind}".replace("weight", "weights") in histograms
        for by in ("group", "activity"):
            assert any(tag.startswith(f"meta/{kind}_by_{by}/") for tag in scalars), (kind, by)
    weights = board.get("plugin/histograms/histograms", run="done/tensorboard", tag="meta/weights")
    for _, _, buckets in weights:
        assert sum(count for _, _, count in buckets) == pytest.approx(8)  # users of a batch
        assert len(buckets) <= 31


def test_where_the_time_goes_is_shown(board):
    phases = {tag.rpartition("/")[2] for tag in drawn(board, "done", "perf/loop/.*$")}
    assert phases == {"wait_for_batch", "step", "validation", "checkpoint", "records"}
    for tag in ("system/workers", "system/processors", "system/memory_mib/all"):
        assert points(board, "done", tag)[-1][1] > 0


@pytest.mark.parametrize("run", ["resumed", "extended"])
@pytest.mark.parametrize("tag", ["train/loss", "perf/users_per_s", "meta/weight_by_activity/0+"])
def test_a_killed_and_a_resumed_run_draw_one_clean_curve(board, run, tag):
    steps = [step for step, _ in points(board, run, tag)]
    assert steps == sorted(set(steps)) == list(range(2, 17 if run == "extended" else 13, 2))


def test_a_resumed_run_draws_the_uninterrupted_run_s_curves(board):
    for tag in ("train/loss", "meta/entropy", "val/valid/rmse", "best/rmse", "best/step"):
        assert points(board, "resumed", tag) == points(board, "done", tag)


def test_hparams_have_the_same_columns_in_every_run(board, runs, store):
    names = set(hyperparameters(small(store)))
    assert {"train.from", "priors.bayesian_mf.num_starts", "scheduler.max_weight_ratio"} <= names
    rows = table(board)
    assert rows.keys() == {path.name for path in runs.iterdir()}
    for row in rows.values():
        assert set(row["hparams"]) == names
    assert rows["uniform"]["hparams"]["scheduler.max_weight_ratio"] == "null"
    assert rows["done"]["hparams"]["scheduler.max_weight_ratio"] == 8
    assert rows["done"]["hparams"]["model.hidden"] == "[8]"
    assert rows["extended"]["hparams"]["train.steps"] == 16


def test_hparams_first_show_what_differs_and_what_a_run_is_worth(board):
    body = {"experimentName": "", "includeMetrics": True}
    experiment = board.post("plugin/hparams/experiment", body)
    differs = {info["name"] for info in experiment["hparamInfos"] if info.get("differs")}
    assert differs == {
        "scheduler.kind",
        "scheduler.max_weight_ratio",
        "inner.learning_rate",
        "train.steps",
    }
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert "best/rmse" in metrics[:5]


def test_hparams_status_is_true(board):
    status = {run: row["sessions"][0]["status"] for run, row in table(board).items()}
    assert status == {
        "done": "STATUS_SUCCESS",
        "uniform": "STATUS_SUCCESS",
        "resumed": "STATUS_SUCCESS",
        "extended": "STATUS_SUCCESS",
        "stopped": "STATUS_UNKNOWN",
        "failed": "STATUS_FAILURE",
        "killed": "STATUS_UNKNOWN",  # and so while it ran
    }


def test_a_curve_says_what_has_become_of_a_run(board):
    """HParams has its last value in a column, also of a run that is running."""
    last = {run: points(board, run, "system/status")[-1][1] for run in table(board)}
    assert last == {
        "done": 1,
        "uniform": 1,
        "resumed": 1,
        "extended": 1,
        "stopped": 2,
        "failed": 3,
        "killed": 0,
    }
    assert points(board, "extended", "system/status") == [(0, 0), (12, 0), (16, 1)]


def test_hparams_hold_the_final_metrics(board, runs):
    rows = table(board)
    for run in ("done", "uniform", "resumed", "extended"):
        metrics = json.loads((runs / run / "metrics.json").read_text())
        values = {v["name"]["tag"]: v["value"] for v in rows[run]["metricValues"]}
        for name in ("rmse", "mae", "step"):
            assert values[f"best/{name}"] == pytest.approx(metrics["best"][name], rel=1e-6)
        assert values["val/valid/rmse"] == pytest.approx(metrics["valid"]["rmse"], rel=1e-6)


def test_the_history_of_a_run_is_shown_as_text(board):
    _, newest = texts(board, "resumed")[-1]
    kinds = re.findall(r"<strong>(\w+)</strong>", newest)
    assert kinds[-1] == "start"
    assert kinds[0] == "done"
    assert "restart" in kinds
    assert "checkpoint" in kinds
    assert "stop" in texts(board, "stopped")[-1][1]
    assert "not finite" in texts(board, "failed")[-1][1]


def test_a_run_that_goes_on_is_no_longer_called_done(runs, store, tmp_path):
    shutil.copytree(runs / "done", tmp_path / "run")
    seen = []

    def look() -> bool:
        seen.append(list((tmp_path / "run" / "tensorboard").glob("*.end")))
        return False

    train(small(store, steps=14), tmp_path / "run", Display(), is_stopped=look)
    assert not any(seen)
    assert len(list((tmp_path / "run" / "tensorboard").glob("*.end"))) == 1
    kinds = [event.kind for event in History(tmp_path / "run").events()]
    assert kinds[kinds.index("done") + 1] == "resume"
    assert kinds[-1] == "done"
