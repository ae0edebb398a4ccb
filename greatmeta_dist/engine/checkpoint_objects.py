"""Checkpoints on an object store, which has no renaming: the manifest alone commits one.

Workers write their files as ``step-<n>/<token>/<file>``, with a token of their group, so that a
worker that was taken for dead writes nothing that another group reads. Rank 0 writes
``step-<n>/manifest.json`` when all are there: from then on, and not before, there is a checkpoint.
What has no manifest is passed over, and deleted when the next group begins.

Reading fetches the files that are wanted into the machine's copy, in the form of ``checkpoint.py``,
and checks the hash of each.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial as bound
from pathlib import Path

from greatmeta_dist.files import sha256
from greatmeta_dist.storage.local_copy import LocalCopy
from greatmeta_dist.storage.objects import patiently

MANIFEST = "manifest.json"
GROUP = ".group"
"""Beside the checkpoints, the token of the group that writes them."""

Wanted = Mapping[str, range | None]
"""Tables to read, by name: which of their entries, as far as there are so many, or None for all."""


def copy_of(folder: Path) -> LocalCopy | None:
    """The copy that a run's folder of checkpoints is in; None where it is on disk."""
    return LocalCopy.of(folder.parent)


def committed(copy: LocalCopy, folder: Path) -> list[str]:
    """Names of the checkpoints that have a manifest."""
    names = (name.split("/") for name in patiently(lambda: copy.origin.files(folder.name)))
    return [parts[1] for parts in names if len(parts) == 3 and parts[2] == MANIFEST]


def fetch(copy: LocalCopy, path: Path, wanted: Wanted | None) -> dict[str, str]:
    """Have the wanted files of a checkpoint here, their hashes checked; these hashes, by name.

    Raises ``FileNotFoundError`` or ``ValueError`` where one is missing or damaged, and
    ``RuntimeError`` where the object store does not answer: that is no damage.
    """
    try:
        return _fetch(copy, path, wanted)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RuntimeError(f"cannot read the checkpoint {path}: {error}") from error


def _fetch(copy: LocalCopy, path: Path, wanted: Wanted | None) -> dict[str, str]:
    name = path.relative_to(copy.folder).as_posix()
    manifest = json.loads(patiently(lambda: copy.origin.read(f"{name}/{MANIFEST}")))
    keys = {key.rsplit("/", 1)[-1]: key for key in manifest}
    files = [file for file in keys if _is_wanted(file, list(keys), wanted)]
    for file in files:
        _fetch_file(copy, f"{name}/{keys[file]}", path / file, manifest[keys[file]])
    return {file: manifest[keys[file]] for file in files}


def _fetch_file(copy: LocalCopy, name: str, path: Path, expected: str) -> None:
    """Have one file here; raises ``ValueError`` where it is not as its hash says."""
    with suppress(FileNotFoundError):
        if sha256(path) == expected:
            return
    patiently(lambda: copy.origin.download(name, path))
    if sha256(path) != expected:
        raise ValueError(f"{path.name} does not match its hash")


def upload(copy: LocalCopy, partial: Path, name: str, token: str) -> None:
    """Write all files of a folder as a part of the checkpoint ``name``, as yet without manifest."""
    for path in sorted(partial.iterdir()):
        key = f"{name}/{token}/{path.name}"
        patiently(bound(copy.origin.upload, path, key))


def note(copy: LocalCopy, name: str, token: str, file: str, hashes: Mapping[str, str]) -> None:
    """Tell rank 0 that a worker's files are there, in an object ``file``."""
    content = json.dumps(hashes).encode()
    patiently(lambda: copy.origin.write(f"{name}/{token}/{file}", content))


def take_note(copy: LocalCopy, name: str, token: str, file: str) -> dict[str, str] | None:
    """What a worker told with ``note``, which is deleted; None before it did."""
    key = f"{name}/{token}/{file}"
    try:
        hashes: dict[str, str] = json.loads(patiently(lambda: copy.origin.read(key)))
    except FileNotFoundError:
        return None
    copy.origin.delete(key)
    return hashes


def commit(copy: LocalCopy, name: str, token: str, hashes: Mapping[str, str]) -> None:
    """Write the manifest: the checkpoint is there.

    Raises ``OSError`` where another group of workers has begun since.
    """
    group = f"{name.split('/')[0]}/{GROUP}"
    if patiently(lambda: copy.origin.read(group)) != token.encode():
        raise OSError("another group of workers writes this run")
    manifest = {f"{token}/{file}": value for file, value in hashes.items()}
    content = json.dumps(manifest, indent=1).encode()
    patiently(lambda: copy.origin.write(f"{name}/{MANIFEST}", content))


def delete(copy: LocalCopy, name: str) -> None:
    """Delete a checkpoint, its manifest first."""
    copy.origin.delete(f"{name}/{MANIFEST}")
    copy.origin.delete_all(name)


def forget_all_but(folder: Path, steps: Iterable[str]) -> None:
    """Delete this machine's copies of checkpoints that are no longer there."""
    kept = set(steps)
    for path in folder.glob("step-*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def begin(copy: LocalCopy, folder: Path, token: str) -> None:
    """Delete what earlier groups left unfinished; from here on they commit nothing."""
    patiently(lambda: copy.origin.write(f"{folder.name}/{GROUP}", token.encode()))
    whole = set(committed(copy, folder))
    for file in copy.origin.files(folder.name):
        name = file.split("/")[1]
        if name != GROUP and name not in whole:
            copy.origin.delete(file)


def _is_wanted(file: str, files: list[str], wanted: Wanted | None) -> bool:
    """Whether a file has wanted entries; files that are of no table always have."""
    table, _, first = file.removesuffix(".safetensors").rpartition("-")
    if wanted is None or not table:
        return True
    if table not in wanted:
        return False
    entries = wanted[table]
    if entries is None:
        return True
    starts = sorted(_first_entry(f) for f in files if f.startswith(f"{table}-"))
    following = [start for start in starts if start > int(first)]
    ends_behind = not following or following[0] > entries.start
    return int(first) < entries.stop and ends_behind


def _first_entry(file: str) -> int:
    return int(file.removesuffix(".safetensors").rpartition("-")[2])
