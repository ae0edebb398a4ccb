"""Priors are fitted once for a store and its options, and kept beside the store.

So a sweep of ten runs fits them once. They stand in ``STORE.priors/<key>/``, where the key is a hash
of the store, the options and the version of the fits.
"""

import math
import shutil
from pathlib import Path

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.files import locked, published_folder
from greatmeta_dist.priors.fit import fit_priors, priors_key, read_key, write_priors


def cache_folder(store: Path) -> Path:
    """Where a store's priors are kept: beside it, for a store is data alone."""
    return store.with_name(f"{store.name}.priors")


def write_fitted_priors(target: Path, store: Store, options: PriorsConfig, display: Display) -> str:
    """Put a store's priors into an existing folder; fits them unless they are cached. Their key.

    Of several processes that ask for the same priors one fits them, and the others wait for it.
    Where the folder beside the store cannot be written, they are fitted for ``target`` alone.
    """
    key = priors_key(store.identity, options)
    cached = cache_folder(store.folder.resolve()) / key
    if read_key(cached) != key:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            lock = cached.with_name(f"{key}.lock")
            lock.touch()
        except OSError as error:
            display.say(f"priors are not kept beside the store ({error.strerror})")
            _fit_and_write(target, store, options, key, display)
            return key
        with locked(
            lock,
            f"another training fits the priors of {store.folder}",
            patience_s=math.inf,
            on_wait=lambda: display.say("waiting for another training, which fits these priors"),
        ):
            if read_key(cached) != key:
                with published_folder(cached) as partial:
                    _fit_and_write(partial, store, options, key, display)
    shutil.copytree(cached, target, dirs_exist_ok=True)
    return key


def _fit_and_write(
    folder: Path, store: Store, options: PriorsConfig, key: str, display: Display
) -> None:
    with display.bar("fit priors", 100, "%") as bar:
        priors = fit_priors(
            store.training_rows(),
            options,
            lambda stage, share: bar.update(int(100 * share), stage),
        )
        write_priors(folder, priors, key)
        bar.update(100, "written")
