"""What a preparation is made from: hashes of files, a cheap key of a work folder, what is done."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from greatmeta_dist.config import DataConfig
from greatmeta_dist.config.checks import typed_name
from greatmeta_dist.data.manifest import FORMAT_VERSION, MANIFEST
from greatmeta_dist.data.phases import Phases
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.units import Result
from greatmeta_dist.errors import require
from greatmeta_dist.files import sha256
from greatmeta_dist.storage.local_copy import local_folder

HASH = "hash the files"
UNIT_BYTES = 1 << 28
"""Of small files, about; a large file is a unit."""
UNIT_FILES = 1024


def hash_files(files: Sequence[Path], phases: Phases) -> list[str]:
    """The SHA-256 of each file, in units of files."""
    units: list[list[str]] = []
    sizes: list[int] = []
    for path in files:
        size = path.stat().st_size
        is_full = not units or len(units[-1]) == UNIT_FILES or sizes[-1] + size > UNIT_BYTES
        if is_full:
            units.append([])
            sizes.append(0)
        units[-1].append(str(path))
        sizes[-1] += size
    results = phases.run(HASH, _hash_unit, units, unit_costs=[size + 1 for size in sizes])
    return [digest for result in results for digest in result["hashes"]]


def _hash_unit(number: int, unit: Sequence[str]) -> Result:
    return {"hashes": [sha256(Path(path)) for path in unit]}


def is_made_from(config: DataConfig, fingerprint: str, folder: Path) -> bool:
    """Whether the store in ``folder`` is made from the files with that fingerprint, in that way.

    Raises ``InputError`` where it was made otherwise, or where a file of it has changed.
    """
    if not (folder / MANIFEST).exists():
        return False
    store = Store(folder)
    store.check()
    changed = [
        f"data.{typed_name(config, name)}"
        for name, value in asdict(config).items()
        if store.manifest.recipe.get(name) != value
    ]
    if store.manifest.fingerprint != fingerprint:
        changed.append("the source files")
    require(
        not changed,
        f"{folder} was prepared differently ({', '.join(changed[:5])}); choose another store=DIR, "
        "or delete it",
    )
    return True


def work_key(config: DataConfig, store: Path) -> str:
    """Names the work folder of a preparation: another one of any other options or files.

    Files are told by their size and time of change, so that going on after a kill costs no reading
    of the log. Files behind a URL are told by it alone. ``store``, where the work is, may lie in
    the folder of the log.
    """
    paths = (config.path, config.users_path, config.items_path, config.split)
    files = [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns]
        for name in paths
        for path in files_in(name)
        if not path.resolve().is_relative_to(store.resolve())
    ]
    earlier = local_folder(config.from_store) / MANIFEST if config.from_store is not None else None
    if earlier is not None and earlier.exists():
        status = earlier.stat()
        files.append([config.from_store, status.st_size, status.st_mtime_ns])
    content = [version("greatmeta_dist"), FORMAT_VERSION, asdict(config), files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def files_in(name: str | None) -> Iterator[Path]:
    """The file at a path, or all of a folder; none behind a URL."""
    if name is None or "://" in name:
        return
    path = Path(name)
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(p for p in path.rglob("*") if p.is_file())
