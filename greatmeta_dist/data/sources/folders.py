"""The files of a log: one file, or all of a folder, with the keys that its folders have in Hive."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from greatmeta_dist.config.checks import require_utf8
from greatmeta_dist.data.text_files import PACKED, local_copy
from greatmeta_dist.errors import require

ENDINGS = {
    "parquet": (".parquet", ".parq", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv", ".txt", ".dat"),
}
"""How the names of files of a format end, before the ending of a packed one."""
NULL_KEY = "__HIVE_DEFAULT_PARTITION__"
"""What Hive calls the folder of rows whose key is null."""


@dataclass(frozen=True)
class DataFile:
    """One file of a log."""

    path: str
    """On this disk, or a URL."""
    name: str
    """As messages call it: inside its folder."""
    keys: dict[str, str | None] = field(default_factory=dict)
    """Columns that folders above it say, as in ``day=0001/part-0.parquet``; text, as spelt."""


def format_of(path: str, default: str) -> str:
    """The format that a file's name tells; ``default`` where it tells none."""
    name = bare_name(path)
    known = (kind for kind, endings in ENDINGS.items() if name.endswith(endings))
    return next(known, default)


def bare_name(path: str) -> str:
    """A file's name in lower case, without the ending of a packed one."""
    name = path.rstrip("/").rpartition("/")[2].lower()
    return next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name)


def files_of(path: str, kind: str) -> list[DataFile]:
    """The file at a path or URL, or all files of that kind in a folder and the folders in it.

    Raises ``InputError`` where there are none.
    """
    root = Path(path)
    if "://" in path or not root.is_dir():
        return [DataFile(path, Path(path).name)]
    visible = visible_files(root)
    chosen = [p for p in visible if bare_name(p.as_posix()).endswith(ENDINGS[kind])]
    if kind != "parquet":  # tools write files without a byte where a part has no row
        chosen = [p for p in chosen if (root / p).stat().st_size] or chosen[:1]
    listing = ", ".join(p.as_posix() for p in visible[:8]) or "nothing"
    require(
        bool(chosen),
        f"{path} holds no {ENDINGS[kind][0]} file; name a file or a folder of them (it holds "
        f"{listing})",
    )
    return [DataFile(str(root / p), p.as_posix(), _keys(p)) for p in chosen]


def visible_files(root: Path) -> list[Path]:
    """All files in a folder and the folders in it, in order, by their paths inside.

    Names that start with a dot or an underscore are left out, as all tools do: they are marks of
    the tools. Raises ``InputError`` where a name is no text.
    """
    inside, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        inside += [Path(folder, name) for name in names if not name.startswith((".", "_"))]
    for path in inside:
        require_utf8("a file in data.path", str(path))
    return sorted(path.relative_to(root) for path in inside if path.is_file())


def _keys(path: Path) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in path.parts[:-1] if "=" in part]
    return {key: None if value == NULL_KEY else unquote(value) for key, value in pairs}


def local_file(file: DataFile, work: Path) -> Path:
    """A file on this disk; packed and remote ones are copied to ``work``."""
    return local_copy(file.path, work)
