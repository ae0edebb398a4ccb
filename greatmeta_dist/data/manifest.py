"""``manifest.json``: what a store holds, and the checksum of each of its files."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import write_json_atomically

FORMAT_VERSION = 9
MANIFEST = "manifest.json"
WORK = ".preparing"
"""What a preparation works in; one that was stopped leaves it, and the same one goes on there."""
HASH = "sha256"
"""Of the manifest's other entries."""
ITEM_ID = "item_id"
"""The field of an item's own embedding row."""


@dataclass(frozen=True)
class Field:
    """One feature, with its own block of ids in the shared row space."""

    name: str
    side: str
    """``user`` or ``item``."""
    is_list: bool
    num_rows: int
    """Values with a row of their own, and the unknown row."""
    unknown_row: int
    """The embedding row of every other value."""
    edges: list[float] | None = None
    """Inner edges of a numeric feature's bins, ascending; None for features that are no numbers."""


@dataclass(frozen=True)
class Ratings:
    """The training users' ratings, counted."""

    lowest: float
    highest: float
    mean: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Manifest:
    """What a store holds."""

    format_version: int
    fields: list[Field]
    num_rows: int
    """Embedding rows of all fields together."""
    num_items: int
    splits: dict[str, int]
    """Tasks of each split."""
    shards: dict[str, int]
    """Files of each split."""
    ratings: Ratings
    is_click: bool
    """Whether labels are clicks, 0 or 1, in place of ratings."""
    is_implicit: bool
    """Whether rows of label 0 were drawn: they say nothing of what a user met."""
    known_groups: dict[str, int]
    """True preference groups of synthetic data and the training users of each; else empty. A
    task's ``known_group`` is an index here."""
    recipe: dict[str, Any]
    """The ``data`` options that made the store: every option that changes its bytes."""
    fingerprint: str
    """Hash of the source files and the given split."""
    notes: dict[str, float]
    """Facts about the data, such as a known noise floor."""
    checksums: dict[str, str]
    """SHA-256 of every other file."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it last, with a hash of itself: from here on the folder is a store."""
    content = asdict(manifest)
    write_json_atomically(folder / MANIFEST, content | {HASH: _hash(content)})


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest; raises ``InputError`` if the folder is no store."""
    path = folder / MANIFEST
    require(
        path.is_file(),
        f"{folder} is not a prepared store (no {MANIFEST}); name one with store=DIR, or make it: "
        f"greatmeta prepare data=<preset> data.path=<files> store={folder}",
    )
    try:
        raw = json.loads(path.read_text())
        require(
            isinstance(raw, dict) and "format_version" in raw,
            f"{folder} is not a prepared store ({MANIFEST} in it is something else); choose "
            "another folder",
        )
        version = raw["format_version"]
        require(
            version == FORMAT_VERSION,
            f"{folder} has format version {version}, this program reads {FORMAT_VERSION}; "
            f"delete {folder} and prepare the data again",
        )
        require(
            raw.pop(HASH, None) == _hash(raw),
            f"{path} is not as it was written; delete {folder} and prepare the data again",
        )
        raw["fields"] = [Field(**f) for f in raw["fields"]]
        raw["ratings"] = Ratings(**raw["ratings"])
        return Manifest(**raw)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged; if {folder} is a store, delete it and prepare the data again"
        ) from error
