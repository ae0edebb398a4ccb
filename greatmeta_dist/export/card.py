"""``card.json`` of an exported model: what it was made of, how large and how good it is."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from greatmeta_dist.config import Config
from greatmeta_dist.data.manifest import ITEM_ID, Field
from greatmeta_dist.data.store import Store
from greatmeta_dist.export.exported_model import FORMAT, FORMAT_VERSION
from greatmeta_dist.export.tensor_file import StoredTensor
from greatmeta_dist.training.build import Model

PACKAGES = ("torch", "safetensors")
OF_TRAINING = ("priors", "model", "inner", "scheduler", "train")
"""Sections of the config that say how the model was trained."""
OF_FILES = ("path", "users_path", "items_path", "split", "from_store")
"""Options of ``data`` that name where files lay: they mean nothing elsewhere."""
LICENCE_NOTE = (
    "None is stated. The data's licence is its owner's to state, and may bind what is learnt from "
    "the data. Ids of items and values of features are the data's."
)


def make_card(
    model: Model, run: Path, step: int, tensors: Sequence[StoredTensor], *, is_blended: bool
) -> dict[str, Any]:
    """The card, but for the hashes of the files beside it. It has no dates and no paths."""
    catalogue, spec = model.catalogue, model.scorer.feature_spec
    manifest = catalogue.manifest
    click_at = manifest.recipe.get("click_at") if manifest.is_click else None
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": step,
        "labels": "clicks" if manifest.is_click else "ratings",
        "click_at": None if manifest.is_implicit else click_at,
        "ratings": asdict(manifest.ratings),
        "user_features": [_field(f, spec.list_pooling) for f in catalogue.fields("user", spec)],
        "item_features": [_field(f, spec.list_pooling) for f in catalogue.fields("item", spec)],
        "factorisation_share": model.scorer.blend.weight if is_blended else None,
        "data": _data(catalogue),
        "sizes": _sizes(catalogue, tensors),
        "evaluation": _evaluation(run, step),
        "config": _config(model.config),
        "versions": {"greatmeta_dist": version("greatmeta_dist")}
        | {package: version(package) for package in PACKAGES},
        "licence": None,
        "licence_note": LICENCE_NOTE,
    }


def _field(field: Field, list_pooling: str) -> dict[str, Any]:
    is_mean = field.is_list and list_pooling == "mean"
    return {
        "name": field.name,
        "is_id": field.name == ITEM_ID,
        "pooling": "mean" if is_mean else "sum",
        "edges": field.edges,
        "values": field.num_rows - 1,
    }


def _data(catalogue: Store) -> dict[str, Any]:
    """What the training data were, without where they lay."""
    manifest = catalogue.manifest
    recipe = {k: v for k, v in manifest.recipe.items() if k not in OF_FILES}
    return {
        "training_ratings": manifest.ratings.count,
        "items": manifest.num_items,
        "is_implicit": manifest.is_implicit,
        "recipe": recipe,
        "fingerprint": manifest.fingerprint,
        "store": catalogue.identity,
        "notes": manifest.notes,
    }


def _sizes(catalogue: Store, tensors: Sequence[StoredTensor]) -> dict[str, int]:
    layers = [tensor for tensor in tensors if tensor.name.startswith("layers.")]
    return {
        "embedding_rows": catalogue.manifest.num_rows,
        "adapted_parameters": sum(t.num_bytes // t.dtype.itemsize for t in layers),
        "tensor_bytes": sum(tensor.num_bytes for tensor in tensors),
    }


def _evaluation(run: Path, step: int) -> dict[str, Any] | None:
    """What ``evaluate`` wrote of these parameters; None where it did not look at them."""
    try:
        evaluation = json.loads((run / "evaluation.json").read_text())
        return dict(evaluation) if evaluation["step"] == step else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _config(config: Config) -> dict[str, Any]:
    """The options of the training; not which run it began with, whose name is a path."""
    options = {name: asdict(getattr(config, name)) for name in OF_TRAINING}
    del options["train"]["from_run"]
    return options
