"""All priors of a store: fitted in order, saved to a folder, loaded from one."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
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
"""Of the required priors' fits. Raise it whenever the same options and rows give other numbers."""
REQUIRED = ("bias", "item_factors", "bayesian_mf", "user_groups")
"""The priors that a model is built from, in the order of their fits."""
MANIFEST = "priors.json"

Priors = Mapping[str, Any]
"""Fitted priors by name."""


def prior_names(options: PriorsConfig) -> list[str]:
    """The priors that are fitted, in order: the required ones, then ``priors.extra``."""
    return [*REQUIRED, *(name for name in options.extra if name not in REQUIRED)]


def fit_priors(rows: TrainingRows, options: PriorsConfig, progress: Progress) -> Priors:
    """Fit every prior to the training rows; ``progress`` is told how much of all is done.

    The same bits with any number of threads.
    """
    priors: dict[str, Any] = {}
    names = prior_names(options)
    with _one_thread():
        for number, name in enumerate(names):

            def overall(stage: str, fraction: float, number: int = number) -> None:
                progress(stage, (number + fraction) / len(names))

            priors[name] = PRIORS.get(name).fit(rows, options, fitted=priors, progress=overall)
    return priors


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, then with as many as before.

    The order of sums in products, decompositions and k-means depends on the number of threads, and
    so do their bits. Little is lost by one thread, for most of the work runs on one anyway.
    """
    # The limit binds libraries that are loaded when it is set: scikit-learn's must be.
    import sklearn  # noqa: F401

    num_threads = torch.get_num_threads()
    # torch's first work in a thread sets OpenMP's threads to its own number, over any limit.
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(num_threads)


def rating_priors(priors: Priors, *, use_bayesian_mf: bool) -> list[RatingPrior]:
    """The priors whose predictions are averaged and blended with the model's."""
    return [
        prior
        for name, prior in priors.items()
        if isinstance(prior, RatingPrior) and (use_bayesian_mf or name != "bayesian_mf")
    ]


def priors_key(store_identity: str, options: PriorsConfig) -> str:
    """A hash of all that decides the priors' bits: store, options, and the fits' versions."""
    versions = {name: PRIORS.get(name).version for name in options.extra}
    basis = {
        "store": store_identity,
        "options": asdict(options),
        "version": VERSION,
        "extra": versions,
    }
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


def write_priors(folder: Path, priors: Mapping[str, Prior], key: str) -> None:
    """Write priors into an existing folder: arrays and details of each, then ``priors.json``.

    That one comes last and has a hash of every other file.
    """
    hashes = {}
    for name, prior in priors.items():
        arrays, details = prior.state()
        # safetensors takes the bytes that follow an array's start in memory. Those of a view that
        # is not contiguous, such as a transpose, are other numbers.
        dense = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        arrays_path, details_path = folder / f"{name}.safetensors", folder / f"{name}.json"
        arrays_path.write_bytes(safetensors_bytes(dense))
        details_path.write_text(json.dumps(details))
        for path in (arrays_path, details_path):
            hashes[path.name] = sha256(path)
    manifest = {"key": key, "names": list(priors), "hashes": hashes}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def read_key(folder: Path) -> str | None:
    """The key of the priors in a folder; None where there are none, or not all were written."""
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
