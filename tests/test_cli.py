"""The command line as a user meets it: help, typos, wrong input, twice in a row."""

import json
from pathlib import Path

import pytest
from logs import write_log

from greatmeta_dist.cli import main
from greatmeta_dist.data.store import Store
from greatmeta_dist.files import locked


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    assert main(["prepare", "data=synthetic", "data.users=300", f"store={folder}/store"]) == 0
    return folder / "store"


TINY = ["train.steps=4", "train.users_per_batch=8", "train.valid_every=2", "train.log_every=1"]


def test_help_shows_commands_groups_and_examples(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for text in (
        "prepare",
        "train",
        "evaluate",
        "data=amazon_2023|bookcrossing|csv|",
        "experiment=ml-100k",
    ):
        assert text in out


@pytest.mark.parametrize("command", ["prepare", "train"])
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
        (["train", "train.stepz=3"], "no option 'train.stepz'; did you mean train.steps=3?"),
        (["train", "step=3"], "no option 'step'; did you mean train.steps=3?"),
        (["train", "model=papr"], "no preset model=papr; did you mean paper?"),
        (["prepare", "data=movielens"], "no preset data=movielens; did you mean movielens_"),
        (["train", "train.steps=many"], "could not be converted to Integer"),
        (["train", "--steps", "3"], "'--steps' is no option; options read key=value"),
        (
            ["train", "store=x", "run=x", "model.activation=sigmoid"],
            "expected one of none, relu, gelu, tanh",
        ),
        (["train", "store=x", "run=x", "scheduler.max_weight_ratio=0.5"], "it must be above 1"),
        (["prepare", "data=recbole"], "store=DIR is not set"),
        (["prepare", "data=recbole", "store=x"], "data.path is not set"),
        (["train", "store=nowhere", "run=x"], "nowhere is not a prepared store"),
        (["evaluate", "run=nowhere"], "nowhere holds no run"),
        (["recommend", "run=x", "users=y"], "out=FILE is not set; name where to write"),
        (["recommend", "run=x", "out=y"], "users=FILE is not set; name the log of the users"),
        (["recommend", "run=x", "users=y", "out=z", "topk=5"], "did you mean k=5?"),
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
    code, _, err = run(capsys, "train", f"run={tmp_path}/run", "inner.learning_rate=0.5")
    assert code == 2
    assert "inner.learning_rate was 0.02, is 0.5" in err


def test_preparing_twice_says_so(capsys, store):
    code, out, _ = run(capsys, "prepare", "data=synthetic", "data.users=300", f"store={store}")
    assert code == 0
    assert "already prepared" in out
    code, _, err = run(capsys, "prepare", "data=synthetic", "data.users=301", f"store={store}")
    assert code == 2
    assert "data.users" in err


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


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["train", "store=x", "run=x", "train.learning_rate=0"],
            "train.learning_rate is 0; it must be from above 0",
        ),
        (["train", "store=x", "run=x", "train.steps=0"], "train.steps is 0; it must be 1 or more"),
        (
            ["train", "store=x", "run=x", "model.hidden=[0]"],
            "model.hidden is 0; it must be 1 or more",
        ),
        (["train", "store=x", "run=x", "data.seed=1"], "data.seed is no option of train"),
        (["evaluate", "run=x", "inner.steps=9"], "inner.steps is no option of evaluate"),
        (["evaluate", "-m", "run=a,b"], "-m sweeps over trainings"),
        (
            ["train", "-m", "store=x", "run=x", "train.seed=0,one"],
            "could not be converted to Integer",
        ),
        (["train", "run="], "run= is empty"),
        (["prepare", "store=x", "data.warm_fraction=7"], "data.warm_fraction is 7"),
        (["prepare", "store=x", "data.rating_range=[5,1]"], "expected [lowest,highest]"),
        (["prepare", "store=x", "data.separator=ab"], "expected one character"),
        (["prepare", "store=x", "data.columns={usr: u}"], "no 'usr'; did you mean user?"),
        (["prepare", "store=x", "data.columns={user: u"], "is no mapping; expected"),
        (
            ["prepare", "store=x", "data.item_features={kind: token}"],
            "data=csv, data=jsonl and data=parquet do",
        ),
        (["prepare", "store=x", "data.columns.timestmp=at"], "did you mean timestamp?"),
        (["prepare", "store=x", "data.list_separator="], "data.list_separator is empty"),
        (["prepare", "store=x", "data.max_interactions=2"], "is below data.min_interactions=3"),
        (["evaluate", "run=x", "cluster=ray"], "cluster is no option of evaluate"),
        (["prepare", "store=x", "data=movielens_1m", "data.path=nowhere"], "is no folder here"),
        (
            ["prepare", "store=x", "data=csv", "data.path=."],
            "holds no .csv file; name",
        ),
        (["prepare", "store=x", "data.path=log.csv"], "data=synthetic reads no files"),
        (["train", "store=x", "run=x", "model.hidden=64"], "a list is written [64,64]"),
        (
            ["train", "store=x", "run=x", "inner.steps=1", "model.hidden=[64"],
            "in model.hidden=[64; check",
        ),
        (
            ["train", "store=x", "run=x", "inner.learning_rate=0.1,0.2"],
            "a sweep over values takes -m",
        ),
    ],
)
def test_more_wrong_usage_is_one_line_and_code_2(capsys, tmp_path, monkeypatch, words, message):
    test_wrong_usage_is_one_line_and_code_2(capsys, tmp_path, monkeypatch, words, message)


def test_paths_columns_and_separators_are_taken_as_they_stand(capsys, tmp_path):
    folder = tmp_path / "день=1, [a](b)"
    folder.mkdir()
    text = write_log(tmp_path).read_text()
    header, rest = text.split("\n", 1)
    assert header == "u,i,r,t"
    (folder / "журнал.tsv").write_text("Usér\ti\tr\tt\n" + rest.replace(",", "\t"))
    code, _, err = run(
        capsys,
        "prepare",
        "data=csv",
        f"data.path={folder}/журнал.tsv",
        "data.separator=\\t",
        "data.columns={user: Usér, item: i, rating: r, timestamp: t}",
        f"store={folder}/store",
    )
    assert code == 0, err
    assert (folder / "store" / "manifest.json").exists()


def test_columns_named_like_our_own_do_no_harm(capsys, tmp_path):
    lines = write_log(tmp_path).read_text().splitlines()
    added = [lines[0] + ",text,file,row", *(line + ",so-so,f,7" for line in lines[1:])]
    (tmp_path / "log.csv").write_text("\n".join(added) + "\n")
    columns = "data.columns={user: u, item: i, rating: r}"
    code, _, err = run(
        capsys,
        "prepare",
        "data=csv",
        f"data.path={tmp_path}/log.csv",
        columns,
        f"store={tmp_path}/store",
    )
    assert code == 0, err


@pytest.mark.parametrize("also", [None, ".lock", "rejects.parquet", "manifest.json"])
def test_prepare_leaves_a_folder_of_other_things_alone(capsys, tmp_path, also):
    kept = tmp_path / "project" / "shards" / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    if also:
        (tmp_path / "project" / also).write_text('{"name": "mine"}')
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(capsys, "prepare", "data=synthetic", f"store={tmp_path}/project")
    assert code == 2
    is_other = "is not a prepared store" if also == "manifest.json" else "exists and is no store"
    assert is_other in err
    assert kept.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == before


def test_prepare_writes_into_no_run(capsys, store, tmp_path):
    assert run(capsys, "train", f"store={store}", f"run={tmp_path}/run", *TINY)[0] == 0
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(capsys, "prepare", "data=synthetic", f"store={tmp_path}/run")
    assert code == 2
    assert "exists and is no store" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_preparation_that_failed_leaves_nothing_but_its_rejects(capsys, tmp_path, monkeypatch):
    words = ["prepare", "data=csv", f"data.path={tmp_path}/nowhere.csv", f"store={tmp_path}/store"]
    assert run(capsys, *words)[0] == 2
    assert not (tmp_path / "store").exists()
    made = ["prepare", "data=synthetic", "data.users=300", f"store={tmp_path}/store"]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("greatmeta_dist.data.preparation.write_manifest", full)
        assert run(capsys, *made)[0] == 1
    assert not (tmp_path / "store").exists()  # no row was rejected
    for unfinished in (".preparing", "shards", "vocab"):  # of one that was killed
        (tmp_path / "store" / unfinished).mkdir(parents=True)
    (tmp_path / "store" / "shards" / "train-00099.arrow").touch()
    assert run(capsys, *made)[0] == 0
    checksums = Store(tmp_path / "store").manifest.checksums
    files = (p for p in (tmp_path / "store").rglob("*") if p.is_file())
    written = {str(p.relative_to(tmp_path / "store")) for p in files}
    assert written == {*checksums, "manifest.json"}
    assert not (tmp_path / "store" / ".preparing").exists()


def test_where_every_checkpoint_is_damaged_it_is_said(capsys, store, tmp_path):
    words = ["train", f"store={store}", f"run={tmp_path}/run", *TINY]
    assert run(capsys, *words)[0] == 0
    for manifest in (tmp_path / "run" / "checkpoints").glob("*/manifest.json"):
        manifest.write_text("{")
    code, _, err = run(capsys, "evaluate", f"run={tmp_path}/run")
    assert code == 2
    assert "all are damaged or partial" in err
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "no whole checkpoint is left; starting from step 0" in out


def test_a_refused_training_claims_nothing(capsys, store, tmp_path):
    words = ["train", f"store={store}", f"run={tmp_path}/run", *TINY]
    code, _, err = run(capsys, *words, "train.users_per_batch=1000")
    assert code == 2
    assert "lower it to that or less" in err
    assert not (tmp_path / "run").exists()
    code, _, err = run(capsys, *words)
    assert code == 0, err


def test_a_run_goes_on_where_its_store_moved_but_not_on_another(capsys, tmp_path):
    stores = [tmp_path / "a", tmp_path / "b"]
    for folder, seed in zip(stores, (0, 1), strict=True):
        words = ["data=synthetic", "data.users=300", f"data.seed={seed}", f"store={folder}"]
        assert run(capsys, "prepare", *words)[0] == 0
    words = [f"run={tmp_path}/run", *TINY]
    assert run(capsys, "train", f"store={stores[0]}", *words)[0] == 0
    stores[0].rename(tmp_path / "moved")
    code, out, err = run(
        capsys, "train", f"run={tmp_path}/run", f"store={tmp_path}/moved", "train.steps=6"
    )
    assert code == 0, err
    code, out, _ = run(capsys, "train", f"run={tmp_path}/run")
    assert code == 0
    assert "already at step 6" in out
    for words in (["train", "train.steps=8"], ["evaluate"]):
        code, _, err = run(capsys, *words, f"run={tmp_path}/run", f"store={stores[1]}")
        assert code == 2
        assert "was trained on another store" in err


def test_evaluation_says_which_step_it_scores_and_when_the_best_is_gone(capsys, store, tmp_path):
    words = ["train", f"store={store}", f"run={tmp_path}/run", *TINY, "train.valid_every=1"]
    assert run(capsys, *words, "train.checkpoint_every=1")[0] == 0
    folder = tmp_path / "run"
    best = json.loads((folder / "metrics.json").read_text())["best"]["step"]
    assert run(capsys, "evaluate", f"run={folder}")[0] == 0
    assert json.loads((folder / "evaluation.json").read_text())["step"] == best
    (folder / "checkpoints" / f"step-{best:09d}" / "dense.safetensors").write_bytes(b"")
    code, out, _ = run(capsys, "evaluate", f"run={folder}")
    assert code == 0
    assert "damaged" in out
    assert json.loads((folder / "evaluation.json").read_text())["step"] != best


def test_two_writers_of_a_folder_are_one_too_many(capsys, store, tmp_path):
    (tmp_path / "run").mkdir()
    assert run(capsys, "train", f"store={store}", f"run={tmp_path}/run", *TINY)[0] == 0
    with locked(tmp_path / "run" / ".lock", "taken"):
        code, _, err = run(capsys, "train", f"run={tmp_path}/run", "train.steps=9")
    assert code == 2
    assert "another training writes" in err


@pytest.mark.parametrize(
    "word",
    ["priors.seed=4294967296", "model.embedding_dim=1000000000000", "model.hidden=[1000000000000]",
     "cluster.threads=100000000000000"],
)  # fmt: skip
def test_numbers_that_no_machine_holds_are_refused_in_one_line(capsys, store, tmp_path, word):
    assert main(["train", f"store={store}", f"run={tmp_path}/run", word]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"greatmeta: {word.partition('=')[0]} is " in err
