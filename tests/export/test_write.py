"""An exported folder predicts what its run does, alone; it is whole, or not there."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from logs import csv_config, write_log
from model_forms import DEEP, MODELS, fitted_priors, rating_and_click_stores
from small_training import small

from greatmeta_dist.cli import main
from greatmeta_dist.config import Config, InnerConfig, ModelConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.export import tensors, trace, write
from greatmeta_dist.export.check import compare
from greatmeta_dist.export.exported_model import PROGRAM, ExportedModel
from greatmeta_dist.export.write import export_model
from greatmeta_dist.predict import Predictor
from greatmeta_dist.priors.fit import Priors
from greatmeta_dist.recommend.new_users import with_unknown_item
from greatmeta_dist.training.build import Model, build_model
from greatmeta_dist.training.loop import train

TRACED = [("relu", "ratings"), ("no encoder", "clicks"), ("model alone", "clicks")]
"""Together with the run below, every branch of a program."""
NOT_NEEDED = ("greatmeta_dist", "hydra", "omegaconf", "pandas", "polars", "pyarrow", "ray", "scipy")
ALONE = """
import sys
for name in {not_needed!r}:
    sys.modules[name] = None
sys.path.insert(0, ".")
from exported_model import ExportedModel
model = ExportedModel.load(".")
print([list(row) for row in model.recommend({{"i1": 5.0}}, 3, user_features={{"age": 30}})])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with features of users and items."""
    folder = tmp_path_factory.mktemp("export")
    users, items = folder / "users.csv", folder / "items.csv"
    people = [f"u{k},{20 + k % 40},c{k % 3},a{k % 2}|b{k % 5}" for k in range(120)]
    users.write_text("\n".join(["u,age,country,tags", *people]))
    items.write_text("i,kind\n" + "".join(f"i{k},c{k % 5}|d{k % 3}\n" for k in range(50)))
    config = csv_config(
        write_log(folder, num_users=120),
        users_path=str(users),
        user_features={"age": "float", "country": "token", "tags": "token_list"},
        items_path=str(items),
        item_features={"kind": "token_list"},
        min_value_count=2,
    )
    prepare(config, folder / "store")
    train(small(folder / "store"), folder / "run", Display())
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run) -> Path:
    predictor = Predictor.load(run)
    export_model(predictor.model, run, predictor.step, run.parent / "exported")
    return run.parent / "exported"


@pytest.fixture(scope="module")
def loaded(exported) -> ExportedModel:
    return ExportedModel.load(exported)


@pytest.fixture
def traced_before(exported, monkeypatch) -> None:
    """Exports of the run take the program that was traced before, which is quicker."""
    monkeypatch.setattr(
        write, "write_program", lambda path, scorer: shutil.copyfile(exported / PROGRAM, path)
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Store]:
    return rating_and_click_stores(tmp_path_factory)


@pytest.fixture(scope="module")
def priors(stores) -> dict[str, Priors]:
    return fitted_priors(stores)


def far_adapting(
    store: Store, priors: Priors, model: ModelConfig, *, steps: int = 3, rate: float = 0.05
) -> Model:
    """A model of random parameters, which adapts far."""
    inner = InnerConfig(steps=steps, learning_rate=rate, support_damping=0.0)
    return build_model(Config(model=model, inner=inner), store, priors)


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


class Untraced:
    """A model's program run as it is: what ``compare`` asks of an exported model."""

    def __init__(self, model: Model):
        self.scorer = with_unknown_item(model.scorer)
        self.program = trace._program(self.scorer)
        stored = tensors.stored_tensors(self.scorer, model.catalogue)
        self.tables = {t.name: torch.cat(list(t.parts)).view(t.shape) for t in stored}

    def user_vector(self, features: dict) -> torch.Tensor:
        assert not features
        return torch.empty(0)

    def scores(self, known, ratings, items, user) -> torch.Tensor:
        label = torch.tensor(ratings, dtype=torch.float32)
        known, items = (torch.tensor(index, dtype=torch.int64) for index in (known, items))
        return self.program(self.tables, user, known, label, items)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("labels", ["ratings", "clicks"])
@pytest.mark.parametrize("name", MODELS)
def test_every_form_of_model_scores_as_before(stores, priors, name, labels, steps):
    form = MODELS[name]
    rate = 0.01 if form.activation == "relu" else 0.05  # relu diverges at more
    model = far_adapting(stores[labels], priors[labels], form, steps=steps, rate=rate)
    untraced = Untraced(model)
    agreement = compare(untraced, untraced.scorer, model.catalogue)
    assert agreement.num_scores > 600
    assert agreement.largest_difference < 2e-5


@pytest.mark.parametrize("name, labels", TRACED)
def test_a_traced_program_scores_as_before(stores, priors, name, labels, tmp_path):
    model = far_adapting(stores[labels], priors[labels], MODELS[name], steps=1)
    agreement = export_model(model, tmp_path, 1, tmp_path / "out")
    assert agreement.largest_difference < 2e-5


@pytest.mark.filterwarnings("ignore:1 values of user features count as unknown")
@pytest.mark.parametrize(
    "known, features",
    [
        ({}, None),
        ({"i3": 5.0}, {"age": 21}),
        ([("i3", 5), ("i4", 1.5), ("i3", 2)], {"country": "c1", "tags": ["a1", "b3"]}),
        ({f"i{k}": 1.0 + k % 5 for k in range(30)}, {"age": 99.5, "tags": "b1", "country": "?"}),
    ],
)
def test_raw_ids_and_features_are_understood_as_the_run_understands_them(
    run, loaded, known, features
):
    predictor, model = Predictor.load(run), loaded
    tokens = predictor.catalogue.item_tokens()
    expected = predictor.score(known, tokens, user_features=features)
    assert model.score(known, tokens, user_features=features) == pytest.approx(expected, abs=1e-5)
    assert model.recommend(known, candidates=[]) == []
    assert model.score(known, []) == []
    for options in ({}, {"candidates": ["i3", "i9", "i11"]}, {"exclude_seen": False}):
        ours = model.recommend(known, np.int64(7), user_features=features, **options)
        theirs = predictor.recommend(known, np.int64(7), user_features=features, **options)
        assert [one.score for one in ours] == pytest.approx([s for _, s in theirs], abs=1e-5)
        assert {one.item for one in ours} == {item for item, _ in theirs}


def test_items_that_are_not_in_the_catalogue_count_as_unknown(run, loaded):
    predictor, model = Predictor.load(run), loaded
    with pytest.warns(UserWarning, match="1 of 2 .* the first is mine"):
        expected = predictor.score({"i1": 4.0, "mine": 5.0}, ["i2"])
    with pytest.warns(UserWarning, match="1 of 2 .* the first is mine") as caught:
        assert model.score({"i1": 4.0, "mine": 5.0}, ["i2"]) == pytest.approx(expected, abs=1e-5)
    with pytest.warns(UserWarning, match="1 of 1 items"):
        assert np.isfinite(model.score({}, ["mine"])).all()
    assert len(caught) == 1


def test_clicks_are_told_by_items_alone_or_by_ratings(stores, priors, tmp_path):
    model = far_adapting(stores["clicks"], priors["clicks"], MODELS["shipped"], steps=1)
    export_model(model, tmp_path, 1, tmp_path / "out")
    exported = ExportedModel.load(tmp_path / "out")
    assert exported.card["labels"] == "clicks"
    assert exported.card["click_at"] == 3.5
    clicked = exported.score(["i1", "i2"], ["i3"])
    assert exported.score({"i1": 4, "i2": 5}, ["i3"]) == clicked
    assert exported.score({"i1": 4, "i2": 1}, ["i3"]) != clicked


def test_the_folder_alone_predicts(run, exported):
    program = ALONE.format(not_needed=NOT_NEEDED)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=exported,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    rows = json.loads(done.stdout.replace("'", '"'))
    expected = Predictor.load(run).recommend({"i1": 5.0}, 3, user_features={"age": 30})
    assert [item for item, _ in rows] == [item for item, _ in expected]
    assert [score for _, score in rows] == pytest.approx([s for _, s in expected], abs=1e-5)


def test_a_run_gives_the_same_bytes_in_another_process(run, exported, tmp_path):
    words = [sys.executable, "-m", "greatmeta_dist", "export", f"run={run}", f"out={tmp_path}/b"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=120)
    assert hashes(tmp_path / "b") == hashes(exported)


def test_large_tables_are_written_part_by_part(run, exported, traced_before, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "ROWS_PER_PART", 3)
    predictor = Predictor.load(run)
    export_model(predictor.model, run, predictor.step, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(exported)


def test_the_card_says_what_the_model_is_and_nothing_of_where_it_was_made(run, exported, tmp_path):
    text = (exported / "card.json").read_text()
    card = json.loads(text)
    assert str(run.parent) not in text
    assert card["data"]["training_ratings"] > 0
    assert card["sizes"]["tensor_bytes"] < (exported / "model.safetensors").stat().st_size
    assert card["config"]["model"]["embedding_dim"] == 4
    assert card["config"].keys() == {"priors", "model", "inner", "scheduler", "train"}
    assert card["versions"].keys() == {"greatmeta_dist", "torch", "safetensors"}
    assert card["licence"] is None
    assert card["evaluation"] is None
    assert {f["name"] for f in card["user_features"]} == {"age", "country", "tags"}
    assert b"test_write" not in (exported / "adapt_and_score.pt2").read_bytes()
    assert str(Path(write.__file__).parent).encode() not in (
        (exported / "adapt_and_score.pt2").read_bytes()
    )


def test_metrics_are_in_the_card_where_they_are_of_the_exported_step(
    run, traced_before, tmp_path, capsys
):
    copy = shutil.copytree(run, tmp_path / "run")
    assert main(["evaluate", f"run={copy}"]) == 0
    assert main(["export", f"run={copy}", f"out={tmp_path}/out"]) == 0
    evaluation = json.loads((copy / "evaluation.json").read_text())
    assert json.loads((tmp_path / "out/card.json").read_text())["evaluation"] == evaluation
    (copy / "evaluation.json").write_text(json.dumps(evaluation | {"step": 999}))
    assert main(["export", f"run={copy}", f"out={tmp_path}/out"]) == 0
    assert json.loads((tmp_path / "out/card.json").read_text())["evaluation"] is None
    assert "has no metrics" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*"))


def test_what_stands_where_the_export_should_is_kept(run, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out, message in (
        (tmp_path / "folder", "holds something else"),
        (tmp_path / "file", "is a file"),
        (run, "holds something else"),
    ):
        assert main(["export", f"run={run}", f"out={out}"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert (tmp_path / "folder/mine.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_an_export_with_somebody_s_file_in_it_is_not_replaced(run, exported, tmp_path):
    predictor = Predictor.load(run)
    copy = shutil.copytree(exported, tmp_path / "out")
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        export_model(predictor.model, run, predictor.step, copy)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda run: (run / "model/blend.json").unlink(), "was not trained to its end"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint yet"),
        (lambda run: shutil.rmtree(run / "model"), "has no model/model.json"),
        (lambda run: (run / "config.yaml").unlink(), "holds no run"),
    ],
)
def test_half_a_run_is_refused_in_one_line(run, tmp_path, capsys, damage, message):
    copy = shutil.copytree(run, tmp_path / "run")
    damage(copy)
    assert main(["export", f"run={copy}", f"out={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_no_program_can_hold_is_refused(stores, priors, tmp_path):
    own = replace(DEEP, context="own", has_kernel=False)
    model = far_adapting(stores["ratings"], priors["ratings"], own)
    with pytest.raises(InputError, match=r"model\.context=own, .* to export"):
        export_model(model, tmp_path, 1, tmp_path / "out")
    model = far_adapting(stores["ratings"], priors["ratings"], DEEP)
    blend = replace(model.scorer.blend, priors=[*model.scorer.blend.priors, object()])
    config = replace(model.config, priors=replace(model.config.priors))
    config.priors.extra = ["mine"]
    with pytest.raises(InputError, match="knows items that its run does not"):
        export_model(
            replace(model, scorer=with_unknown_item(model.scorer)), tmp_path, 1, tmp_path / "out"
        )
    model = replace(model, config=config, scorer=replace(model.scorer, blend=blend))
    with pytest.raises(InputError, match=r"priors\.extra=mine is blended"):
        export_model(model, tmp_path, 1, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_program_that_scores_otherwise_is_not_exported(stores, priors, tmp_path, monkeypatch):
    model = far_adapting(stores["ratings"], priors["ratings"], DEEP, steps=0)
    right = trace._program

    def wrong(scorer):
        program = right(scorer)
        program.form = replace(program.form, user_damping=program.form.user_damping + 1)
        return program

    monkeypatch.setattr(trace, "_program", wrong)
    with pytest.raises(RuntimeError, match=r"differ from those of .* nothing was exported"):
        export_model(model, tmp_path, 1, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_the_earlier_one(
    run, exported, traced_before, tmp_path, monkeypatch
):
    copy = shutil.copytree(exported, tmp_path / "out")
    predictor = Predictor.load(run)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(predictor.model, run, predictor.step, copy)
    assert hashes(copy) == hashes(exported)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_damaged_export_is_not_loaded(exported, tmp_path):
    for name in hashes(exported):
        copy = shutil.copytree(exported, tmp_path / name)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content[:-1])
        with pytest.raises(ValueError, match=r"is not as it was written|is no exported model"):
            ExportedModel.load(copy)
    with pytest.raises(ValueError, match="nowhere is no exported model"):
        ExportedModel.load(tmp_path / "nowhere")
    card = json.loads((exported / "card.json").read_text())
    copy = shutil.copytree(exported, tmp_path / "newer")
    (copy / "card.json").write_text(json.dumps(card | {"format_version": 99}))
    with pytest.raises(ValueError, match="has format version 99"):
        ExportedModel.load(copy)


@pytest.mark.parametrize(
    "known, message",
    [
        ("i1", "the ratings are 'i1'; expected"),
        (7, "the ratings are 7; expected"),
        ({"i1": "5"}, "the rating of i1 is '5'; expected a finite number"),
        ({"i1": float("nan")}, "expected a finite number"),
        (["i1", "i2"], "have no ratings, and this model predicts ratings"),
        ({"i1": 9.0}, "the rating of i1 is 9; ratings of this model go from"),
        ({None: 4.0}, "None is no id; expected a text or a whole number"),
        ({1.5: 4.0}, "1.5 is no id"),
    ],
)
def test_what_is_not_understood_is_one_line(loaded, known, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        loaded.recommend(known)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"k": 0}, "k is 0"),
        ({"k": True}, "k is True"),
        ({"candidates": "i1"}, "candidates are 'i1'"),
        ({"user_features": {"height": 2}}, "no user feature is called height; this model has age"),
        ({"user_features": {"age": "old"}}, "age is 'old'; expected a finite number"),
        ({"user_features": 5}, "user_features are 5"),
    ],
)
def test_arguments_are_checked(loaded, arguments, message):
    with pytest.raises(ValueError, match=message):
        loaded.recommend({"i1": 5.0}, **arguments)
