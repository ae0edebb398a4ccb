"""``RUN/model/``: what a run needs to predict besides its parameters; the store may be gone.

``catalogue/`` is the store without its tasks, ``priors/`` what was fitted on its training rows, and
``model.json`` says which store and priors these are. The three are written together, before
training begins. ``blend.json``, the blend weight, is written when a training ends or is stopped.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.data.store import Store, write_catalogue
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import published_folder, write_json_atomically
from greatmeta_dist.priors.fit import Priors, priors_key, read_priors
from greatmeta_dist.signals import noted_stop_signals
from greatmeta_dist.training.prior_cache import holds_priors, write_cached_priors

VERSION = 1
"""Raise it whenever a model folder holds something else. Models of other versions are refused."""
MODEL, MODEL_JSON, BLEND = "model", "model.json", "blend.json"


@dataclass(frozen=True)
class SavedModel:
    """A run's model folder."""

    folder: Path
    store_identity: str
    priors_key: str

    @classmethod
    def open(cls, run: Path) -> "SavedModel":
        """Raises ``InputError`` where there is none, or one of another version."""
        folder = run / MODEL
        path = folder / MODEL_JSON
        require(
            path.is_file(),
            f"{run} has no {MODEL}/{MODEL_JSON}: it was trained by an older version, or no "
            "training of it began; train anew with another run=DIR",
        )
        try:
            saved = json.loads(path.read_text())
            version, identity, key = saved["version"], saved["store"], saved["priors"]
        except (ValueError, KeyError, TypeError):
            version, identity, key = "unreadable", "", ""
        require(
            version == VERSION,
            f"{path} has version {version}, and this program reads {VERSION}; train anew with "
            "another run=DIR, or predict with the version that trained it",
        )
        return cls(folder, identity, key)

    def catalogue(self) -> Store:
        """The items and vocabularies of the store: a store without tasks.

        Raises ``InputError`` where they are damaged.
        """
        folder = self.folder / "catalogue"
        try:
            catalogue = Store(folder)
            catalogue.check()
        except InputError as error:
            fault = str(error).split(";")[0]
            raise InputError(
                f"{folder} is damaged ({fault}); restore it from a copy, or train anew with "
                "another run=DIR"
            ) from error
        return catalogue

    def priors(self) -> Priors:
        """The priors that were fitted for the run; raises ``InputError`` where they are damaged."""
        return read_priors(self.folder / "priors")

    def blend_weight(self, step: int) -> float | None:
        """The fitted weight for the parameters of a step; None where none was fitted."""
        try:
            saved = json.loads((self.folder / BLEND).read_text())
            return float(saved["weight"]) if saved["step"] == step else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_blend_weight(self, step: int, weight: float) -> None:
        """Save the weight that was fitted for the parameters of a step."""
        write_json_atomically(self.folder / BLEND, {"step": step, "weight": weight})


def write_model(run: Path, store: Store, options: PriorsConfig, display: Display) -> None:
    """Write a run's model folder, and fit its priors unless they are cached.

    A whole folder that is already there for the same store and options stays. Ctrl-C and SIGTERM
    raise ``KeyboardInterrupt`` and leave nothing unfinished.
    """
    if _is_written(run, store, options):
        return
    # By default SIGTERM ends a process at once, and its unfinished folders would stay.
    with noted_stop_signals(_interrupt) as stop, published_folder(run / MODEL) as partial:
        (partial / "catalogue").mkdir()
        (partial / "priors").mkdir()
        write_catalogue(store, partial / "catalogue")
        key = write_cached_priors(partial / "priors", store, options, display, stop=stop)
        content = {"version": VERSION, "store": store.identity, "priors": key}
        (partial / MODEL_JSON).write_text(json.dumps(content, indent=1, allow_nan=False))


def _is_written(run: Path, store: Store, options: PriorsConfig) -> bool:
    """Whether a run has the model folder for this store and these options, whole."""
    try:
        saved = SavedModel.open(run)
        saved.catalogue().check()
    except InputError:
        return False
    key = priors_key(store.identity, options)
    is_same = (saved.store_identity, saved.priors_key) == (store.identity, key)
    return is_same and holds_priors(saved.folder / "priors", key)


def _interrupt() -> None:
    raise KeyboardInterrupt
