"""A run → a folder that predicts without this package: tensors, vocabularies, a card, a program.

The same run gives the same bytes. The folder appears whole or not at all, and only once what it
predicts was found to be what the run predicts.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from greatmeta_dist.data.manifest import ITEM_ID
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.export import exported_model
from greatmeta_dist.export.card import make_card
from greatmeta_dist.export.check import Agreement, compare
from greatmeta_dist.export.exported_model import (
    CARD,
    FORMAT,
    ITEMS,
    PROGRAM,
    TENSORS,
    VOCABULARIES,
    ExportedModel,
)
from greatmeta_dist.export.program import AdaptAndScore, Form, Tables
from greatmeta_dist.export.tensor_file import write_tensors
from greatmeta_dist.export.tensors import factorisation, mixture, stored_tensors
from greatmeta_dist.files import locked, published_folder, sha256
from greatmeta_dist.recommend.new_users import with_unknown_item
from greatmeta_dist.signals import noted_stop_signals
from greatmeta_dist.training.build import Model

LOADER = "exported_model.py"


def export_model(model: Model, run: Path, step: int, out: Path) -> Agreement:
    """Write a run's model into the folder ``out``; returns how well its scores agree.

    ``out`` may be new, empty, or an earlier export, which is replaced. Raises ``InputError`` where
    it is something else or where the model cannot be exported, and ``RuntimeError`` where the
    exported scores are not the run's.
    """
    _require_exportable(model)
    out = out.resolve()
    _require_writable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with noted_stop_signals(_interrupt), _held(out), published_folder(out) as partial:
        scorer = with_unknown_item(model.scorer)
        _write(partial, model, scorer, run, step)
        agreement = compare(ExportedModel.load(partial), scorer, model.catalogue)
        if not agreement.is_good:
            raise RuntimeError(
                f"the exported program's scores differ from those of {run} by up to "
                f"{agreement.largest_difference:g}, more than {agreement.allowed:g}; nothing was "
                "exported"
            )
    return agreement


def _require_exportable(model: Model) -> None:
    recommender = model.worker.model
    require(
        recommender.context == "support" or not recommender.has_encoder,
        "this run has model.context=own, so what it predicts of an item depends on what else is "
        "asked, and no program scores one item; train with model.context=support to export",
    )
    blended, known = model.scorer.blend.priors, factorisation(model.scorer)
    require(
        all(prior is known for prior in blended),
        f"priors.extra={','.join(model.config.priors.extra)} is blended into this run's "
        "predictions, and only its own package can compute it; train without it to export",
    )


def _require_writable(out: Path) -> None:
    """Raises ``InputError`` where the folder holds something that is no export."""
    if not out.exists():
        return
    remedy = "name a new or empty folder, or an earlier export"
    require(out.is_dir(), f"out={out} is a file; {remedy}")
    is_ours = _is_export(out)
    require(is_ours or not any(out.iterdir()), f"out={out} holds something else; {remedy}")


def _is_export(folder: Path) -> bool:
    """Whether a folder is an export, of any version, and holds nothing besides."""
    try:
        card = json.loads((folder / CARD).read_text("utf-8"))
        names = {*card["files"], CARD, "__pycache__"}
        return bool(card["format"] == FORMAT) and all(p.name in names for p in folder.iterdir())
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keep other processes from writing the same folder."""
    path = out.with_name(f".lock-{out.name}")
    with locked(path, f"another export writes {out}"):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _write(folder: Path, model: Model, scorer: Scorer, run: Path, step: int) -> None:
    """Write every file; the card, which has the others' hashes, last."""
    catalogue, prior = model.catalogue, factorisation(model.scorer)
    tensors = stored_tensors(scorer, catalogue)
    card = make_card(model, run, step, tensors, is_blended=prior is not None)
    write_tensors(folder / TENSORS, tensors)
    _write_json(folder / ITEMS, catalogue.item_tokens())
    _write_json(folder / VOCABULARIES, _vocabularies(catalogue, scorer))
    _write_program(folder / PROGRAM, scorer)
    shutil.copyfile(exported_model.__file__, folder / LOADER)
    names = (TENSORS, ITEMS, VOCABULARIES, PROGRAM, LOADER)
    card["files"] = {name: sha256(folder / name) for name in names}
    _write_json(folder / CARD, card, indent=1)


def _write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def _vocabularies(catalogue: Store, scorer: Scorer) -> dict[str, list[str]]:
    """Values of every feature but items' ids, in the order of their embedding rows."""
    return {
        field.name: catalogue.vocabulary(field)[0].to_pylist()
        for side in ("user", "item")
        for field in catalogue.fields(side, scorer.feature_spec)
        if field.name != ITEM_ID
    }


def _write_program(path: Path, scorer: Scorer) -> None:
    """Trace adapt-and-score with a tiny catalogue, since the program holds for any, and write it."""
    program, example = _program(scorer), _example(scorer)
    known, asked, item, factor = (
        torch.export.Dim(name, min=0) for name in ("known", "asked", "items", "factorised")
    )
    of_tables = {
        name: {1: factor} if name.startswith("mf.") else {0: item} for name in example[0]
    }
    exported = torch.export.export(
        program,
        example,
        dynamic_shapes=(of_tables, None, {0: known}, {0: known}, {0: asked}),
        strict=False,
    )
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # where this package lies is nobody's business
    torch.export.save(exported, path)


def _program(scorer: Scorer) -> AdaptAndScore:
    worker, transform = scorer.worker, scorer.collator.target_transform
    prior = factorisation(scorer)
    form = Form(
        worker.model,
        worker.inner,
        scorer.collator.support_damping,
        transform.kind,
        transform.scale,
        transform.ratings.lowest,
        transform.ratings.highest,
        transform.bias.user_damping,
        scorer.blend.weight if prior is not None else None,
    )
    layers = {name: tensor.cpu() for name, tensor in worker.averaged_layers.items()}
    return AdaptAndScore(form, layers, {} if prior is None else mixture(prior))


def _example(scorer: Scorer) -> tuple[Tables, Tensor, Tensor, Tensor, Tensor]:
    """Arguments of a program: any will do whose sizes are no constants of the model."""
    model, prior = scorer.worker.model, factorisation(scorer)
    num_items, num_known, num_asked, num_factorised = 11, 5, 7, 9
    width = model.embedding_dim
    tables = {
        "items.features": torch.zeros(num_items, model.num_item_fields * width),
        "items.prior_mean": torch.zeros(num_items, dtype=torch.float64),
        "items.content_mean": torch.zeros(num_items, dtype=torch.float64),
    }
    if prior is not None:
        tables["items.mf_position"] = torch.arange(num_items).clamp(max=num_factorised - 1)
        num_starts, size = len(prior.starts), prior.starts[0].mean.shape[1]
        for name, columns in (("mean", size), ("variance", size - 1), ("with_offset", size - 1)):
            shape = (num_starts, num_factorised, columns)
            tables[f"mf.{name}"] = torch.zeros(shape, dtype=torch.float64)
    return (
        tables,
        torch.zeros(model.num_user_fields * width),
        torch.arange(num_known),
        torch.ones(num_known),
        torch.arange(num_asked),
    )
