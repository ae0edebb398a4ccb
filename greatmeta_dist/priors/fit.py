"""All priors of a store: fitted in order, saved to a folder, loaded from one."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as safetensors_bytes
from threadpoolctl import threadpool_limits

from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.errors import InputError
from greatmeta_dist.extensions import PRIORS
from greatmeta_dist.files import sha256
from greatmeta_dist.priors.base import Prior, Progress, RatingPrior, TrainingRows

VERSION = 1
"""Raise it whenever the same options on the same rows give other numbers."""
BUILT_IN = ("bias", "item_factors", "bayesian_mf", "user_groups")
"""Fitted for every store, in this order."""
MANIFEST = "priors.json"

Priors = Mapping[str, Any]
"""Fitted priors by name."""


def prior_names(options: PriorsConfig) -> list[str]:
    """The priors that are fitted, in order."""
    return [*BUILT_IN, *(name for name in options.extra if name not in BUILT_IN)]


def fit_priors(rows: TrainingRows, options: PriorsConfig, progress: Progress) -> Priors:
    """Fit every prior to the training rows; ``progress`` is told the share of all of them.

    On one thread: waiting threads spin, which is slow beside other busy processes.
    """
    priors: dict[str, Any] = {}
    names = prior_names(options)
    torch.set_num_threads(1)
    import_module(
        "sklearn.cluster"
    )  # brings an OpenMP of its own, which must be there to be limited
    for number, name in enumerate(names):

        def of_all(stage: str, share: float, number: int = number) -> None:
            progress(stage, (number + share) / len(names))

        with threadpool_limits(1):
            priors[name] = PRIORS.get(name).fit(rows, options, fitted=priors, progress=of_all)
    return priors


def rating_priors(priors: Priors, *, use_bayesian_mf: bool) -> list[RatingPrior]:
    """Those whose predictions are averaged and blended with the model's."""
    return [
        prior
        for name, prior in priors.items()
        if isinstance(prior, RatingPrior) and (use_bayesian_mf or name != "bayesian_mf")
    ]


def priors_key(store_identity: str, options: PriorsConfig) -> str:
    """What the priors are a function of: the store, the options, this version of the fits."""
    basis = {"store": store_identity, "options": asdict(options), "version": VERSION}
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


def write_priors(folder: Path, priors: Mapping[str, Prior], key: str) -> None:
    """Write priors into an existing folder; its manifest, with a hash of each file, last."""
    hashes = {}
    for name, prior in priors.items():
        arrays, details = prior.state()
        path = folder / f"{name}.safetensors"
        # safetensors takes the bytes that follow an array's start: a view's would be others.
        dense = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        path.write_bytes(safetensors_bytes(dense))
        (folder / f"{name}.json").write_text(json.dumps(details))
        for written in (path, folder / f"{name}.json"):
            hashes[written.name] = sha256(written)
    manifest = {"key": key, "names": list(priors), "hashes": hashes}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def read_key(folder: Path) -> str | None:
    """The key of the priors in a folder; None where there are none, or not all."""
    try:
        key: str = json.loads((folder / MANIFEST).read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key


def read_priors(folder: Path) -> Priors:
    """Priors that ``write_priors`` wrote.

    Raises ``InputError`` where a file is missing or not as it was written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest["hashes"].items():
            if sha256(folder / name) != expected:
                raise ValueError(f"{name} does not match its hash")
        priors: dict[str, Any] = {}
        for name in manifest["names"]:
            arrays = parse_safetensors((folder / f"{name}.safetensors").read_bytes())
            details = json.loads((folder / f"{name}.json").read_text())
            priors[name] = PRIORS.get(name).from_state(arrays, details, fitted=priors)
        return priors
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"the priors in {folder} are damaged ({error}); delete that folder and train again"
        ) from error
