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
    HASH,
    ITEMS,
    PROGRAM,
    TENSORS,
    VOCABULARIES,
    ExportedModel,
    hash_of,
)
from greatmeta_dist.export.tensor_file import write_tensors
from greatmeta_dist.export.tensors import factorisation, stored_tensors
from greatmeta_dist.export.trace import write_program
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
    num_items = len(model.scorer.collator.target_transform.bias.item_count)
    require(
        num_items == model.catalogue.manifest.num_items,
        "this model knows items that its run does not; export the run itself",
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
    write_program(folder / PROGRAM, scorer)
    shutil.copyfile(exported_model.__file__, folder / LOADER)
    names = (TENSORS, ITEMS, VOCABULARIES, PROGRAM, LOADER)
    card["files"] = {name: sha256(folder / name) for name in names}
    _write_json(folder / CARD, card | {HASH: hash_of(card)}, indent=1)


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
