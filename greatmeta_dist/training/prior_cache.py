"""Priors are fitted once for a store and its options, and kept beside the store.

So a sweep of ten runs fits them once. They are in ``STORE.priors/<key>/``, where the key is a hash
of the store, the options and the version of the fits.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.files import locked, published_folder
from greatmeta_dist.priors.fit import fit_priors, priors_key, read_key, read_priors, write_priors


def cache_folder(store: Path) -> Path:
    """Where a store's priors are kept: beside it, because a store is data alone."""
    return store.with_name(f"{store.name}.priors")


def holds_priors(folder: Path, key: str) -> bool:
    """Whether a folder holds the priors of that key, and no file of them is damaged."""
    if read_key(folder) != key:
        return False
    try:
        read_priors(folder)
    except InputError:
        return False
    return True


def write_cached_priors(target: Path, store: Store, options: PriorsConfig, display: Display) -> str:
    """Write a store's priors into an existing folder, and fit them unless they are cached.

    Of several processes that ask for the same priors one fits them, and the others wait for it.
    Where the folder beside the store cannot be written, they are fitted for ``target`` alone.
    Returns their key.
    """
    key = priors_key(store.identity, options)
    cached = cache_folder(store.folder.resolve()) / key

    def fit(folder: Path) -> None:
        _fit_and_write(folder, store, options, key, display)

    if not holds_priors(cached, key):
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            lock = cached.with_name(f"{key}.lock")
            lock.touch()
        except OSError as error:
            display.say(
                f"priors are fitted for this run alone, because {cached.parent} cannot be written "
                f"({error.strerror})"
            )
            fit(target)
            return key
        _fill_cache(cached, key, lock, fit, display)
    shutil.copytree(cached, target, dirs_exist_ok=True)
    return key


def _fill_cache(
    cached: Path, key: str, lock: Path, fit: Callable[[Path], None], display: Display
) -> None:
    """Have ``fit`` write the priors into the cache, or wait until another process has."""
    with locked(
        lock,
        f"another training fits the priors in {cached}",
        patience_s=math.inf,
        on_wait=lambda: display.say("waiting for another training, which fits the same priors"),
    ):
        if not holds_priors(cached, key):
            with published_folder(cached) as partial:
                fit(partial)


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
