"""The command line as a user meets it: help, typos, wrong input, twice in a row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from logs import write_log

from greatmeta_dist.cli import main


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    assert main(["prepare", "data=synthetic", "data.users=300", f"store={folder}/store"]) == 0
    return folder / "store"


TINY = ["train.steps=4", "train.users_per_step=8", "train.valid_every=2", "train.log_every=1"]


def test_help_shows_commands_groups_and_examples(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for text in ("prepare", "train", "evaluate", "data=bookcrossing|csv|", "experiment=ml-100k"):
        assert text in out


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate"])
def test_command_help_documents_every_option_it_lists(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "examples:" in out
    lines = out.splitlines()
    options = [k for k, line in enumerate(lines) if line.startswith("  ") and "." in line[:30]]
    listed = [k for k in options if "=" in lines[k] and k > lines.index("options:")]
    assert listed
    assert all(lines[k + 1].strip() for k in listed)


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["train", "train.stepz=3"], "no option 'train.stepz'; did you mean train.steps?"),
        (["train", "step=3"], "no option 'step'; did you mean inner.steps?"),
        (["train", "model=papr"], "no preset model=papr; did you mean paper?"),
        (["prepare", "data=movielens"], "no preset data=movielens; did you mean movielens_"),
        (["train", "train.steps=many"], "could not be converted to Integer"),
        (["train", "--steps", "3"], "'--steps' is no option; options read key=value"),
        (["train", "run=x", "model.activation=sigmoid"], "expected one of none, relu, gelu, tanh"),
        (["train", "run=x", "scheduler.max_weight_ratio=0.5"], "it must be above 1"),
        (["prepare", "data=recbole"], "store=DIR is not set"),
        (["prepare", "data=recbole", "store=x"], "data.path is not set"),
        (["train", "store=nowhere", "run=x"], "nowhere is not a prepared store"),
        (["evaluate", "run=nowhere"], "nowhere holds no run"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err
    assert err.startswith("greatmeta: ")
    assert err.count("\n") == 1


def test_rejected_rows_end_the_preparation_with_code_2(capsys, tmp_path):
    path = write_log(tmp_path)
    path.write_text(path.read_text() + "u1,i1,bad,1\n" * 50)
    columns = "data.columns={user: u, item: i, rating: r, timestamp: t}"
    words = ["prepare", "data=csv", f"data.path={path}", columns, f"store={tmp_path}/store"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "50 rows were rejected" in err
    assert "rejects.parquet" in err
    assert err.count("\n") == 1
    code, out, _ = run(capsys, *words, "data.max_rejected_fraction=0.1")
    assert code == 0
    assert "50 × rating is not a number" in out


def test_prepare_train_evaluate_and_again(capsys, store, tmp_path):
    words = ["train", f"store={store}", f"run={tmp_path}/run", *TINY]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert f"tensorboard --logdir {tmp_path}/run/tensorboard" in out
    code, out, _ = run(capsys, "evaluate", f"run={tmp_path}/run")
    assert code == 0
    assert "user_cold" in out
    assert "chance" in out
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["scenarios"]["user_cold"]["models"]["adapted"]["rmse"] > 0

    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "already at step 4" in out
    code, out, _ = run(capsys, "train", f"run={tmp_path}/run", "train.steps=6")
    assert code == 0
    assert "resuming" in out
    code, _, err = run(capsys, "train", f"run={tmp_path}/run", "inner.rate=0.5")
    assert code == 2
    assert "inner.rate was 0.02, is 0.5" in err


def test_preparing_twice_says_so(capsys, store):
    code, out, _ = run(capsys, "prepare", "data=synthetic", "data.users=300", f"store={store}")
    assert code == 0
    assert "already prepared" in out
    code, _, err = run(capsys, "prepare", "data=synthetic", "data.users=301", f"store={store}")
    assert code == 2
    assert "data.users" in err


def test_sweep_numbers_its_runs(capsys, store, tmp_path):
    code, _, _ = run(
        capsys, "train", "-m", f"store={store}", f"run={tmp_path}/s", *TINY, "train.seed=0,1"
    )
    assert code == 0
    found = [json.loads((tmp_path / "s" / k / "metrics.json").read_text()) for k in ("0", "1")]
    assert found[0]["best"] != found[1]["best"]


def test_published_form_trains_from_its_preset(capsys, tmp_path):
    log = write_log(tmp_path, num_users=40, num_items=60)
    folder = tmp_path / "x"
    folder.mkdir()
    rows = [line.split(",") for line in log.read_text().splitlines()[1:]]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "x.inter").write_text("\n".join([header, *("\t".join(r) for r in rows)]) + "\n")
    items = "\n".join(f"i{k}\tc{k % 4} d{k % 3}" for k in range(60))
    (folder / "x.item").write_text(f"item_id:token\tclass:token_seq\n{items}\n")
    common = ["experiment=paper", f"store={tmp_path}/store"]
    code, _, err = run(
        capsys,
        "prepare",
        "data=recbole",
        f"data.path={folder}",
        "data.min_interactions=14",
        *common,
    )
    assert code == 0, err
    code, _, err = run(capsys, "train", f"run={tmp_path}/run", *common, *TINY)
    assert code == 0, err
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "rate: 5.0e-06" in config
    assert "context: own" in config


def test_importing_the_command_is_quick_and_silent():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "greatmeta_dist", "--version"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.strip()
