"""Growing a store (``data.from``): its log, then the new files, without reading the old files.

The grown store holds what a fresh preparation of both logs would, under the ids that the earlier
store had: items keep their index, feature values their embedding row, numeric bins their edges.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.kept_log import INDEX, LOG, REJECTED, KeptRows, LogIndex
from greatmeta_dist.data.manifest import MANIFEST, WORK, Manifest, read_manifest
from greatmeta_dist.data.sources import Kind, Source, Table
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.vocabulary import Vocabulary, read_vocabularies
from greatmeta_dist.errors import require
from greatmeta_dist.storage.local_copy import LocalCopy, address, local_folder

OF_FILES = (
    "source", "path", "from_store", "split", "columns", "separator", "encoding", "has_header",
    "list_separator", "missing_values", "unrated_value", "users_path", "items_path",
    "user_features", "item_features", "max_rejected_fraction",
    "max_rejected_feature_fraction", "keep_log", "users", "items", "mean_interactions",
)  # fmt: skip
"""Options that say how files are read. The others say how rows become tasks, and must be those of
the earlier store."""


@dataclass(frozen=True)
class EarlierStore:
    """The store that grows."""

    folder: Path
    manifest: Manifest
    index: LogIndex

    @classmethod
    def open(cls, path: str, store: Path) -> "EarlierStore":
        """Open ``data.from``, to grow into ``store``.

        Raises ``InputError`` where it is no whole store, keeps no log, or is ``store`` itself.
        """
        folder = _folder_of(path)
        require(
            address(folder) != address(store),
            f"data.from={path} is store={store} itself; a store grows into another folder",
        )
        _require_store(folder)
        opened = Store(folder)
        manifest = opened.manifest
        require(
            INDEX in manifest.checksums,
            f"data.from={path} keeps no log (data.keep_log=false), so it cannot grow; prepare its "
            "logs and the new ones together",
        )
        for name in manifest.checksums:
            is_rows = name.startswith(f"{LOG}/rows-")  # these are checked as they are copied
            if not is_rows and not name.startswith("shards/"):
                opened.path(name)
        return cls(folder, manifest, LogIndex.read(folder / INDEX))

    @property
    def rows(self) -> KeptRows:
        return KeptRows(self.folder, self.index, self.manifest.checksums, self.items())

    def require_fits(self, config: DataConfig, source: Source) -> None:
        """Raise ``InputError`` unless the new log can stand beside the earlier one."""
        named = f"data.from={self.folder}"
        require(
            source.group is None or bool(self.manifest.known_groups),
            f"{named} holds a log of files, and data={config.source} generates one; name the new "
            "files: data=<preset> data.path=<files>",
        )
        require(
            source.group is not None or not self.manifest.known_groups,
            f"{named} holds a generated log; it grows by data=synthetic alone",
        )
        self._require_same_options(config)
        for has, here, what, option in (
            (self.index.has_time, source.has_timestamp, "times", "data.columns.timestamp"),
            (self.index.has_ratings, config.has_ratings, "ratings", "data.columns.rating"),
        ):
            texts = [f"has {what}" if h else f"has no {what}" for h in (has, here)]
            require(
                has == here,
                f"{named} {texts[0]}, and the new log {texts[1]}; set {option}"
                + ("" if has else "=null"),
            )
        require(
            (config.split is None) == (self.manifest.recipe["split"] is None),
            f"{named} was split {'by' if self.manifest.recipe['split'] else 'without'} a file, and "
            "data.split is not as there; give a file for both logs, or for none",
        )
        for side in ("user", "item"):
            self.kinds(side, getattr(source, f"{side}s"))

    def _require_same_options(self, config: DataConfig) -> None:
        earlier, here = self.manifest.recipe, asdict(config)
        differing = [
            name for name in here if name not in OF_FILES and here[name] != earlier.get(name)
        ]
        settings = " ".join(f"data.{name}={_typed(earlier.get(name))}" for name in differing)
        require(
            not differing,
            f"data.from={self.folder} was split with other options; set {settings}, as there",
        )

    def kinds(self, side: str, table: Table | None) -> dict[str, Kind]:
        """The features of users or items; new files have the same ones, or none."""
        earlier: dict[str, Any] = getattr(self.index, f"{side}_features")
        require(
            table is None or table.features == earlier,
            f"data.from={self.folder} has the {side} features {_typed(earlier)}, and the new files "
            f"{_typed(table.features if table else None)}; read the same ones, or none",
        )
        return earlier

    def with_earlier(self, side: str, new: pl.DataFrame | None) -> pl.DataFrame | None:
        """The features of all users or items in files: those of the earlier store stay."""
        path = self.folder / LOG / f"{side}s.parquet"
        if not path.exists():
            return new
        earlier = pl.read_parquet(path, glob=False)
        if new is None:
            return earlier
        unknown = new.join(earlier.select("id"), on="id", how="anti", maintain_order="left")
        return pl.concat([earlier, unknown.select(earlier.columns)], how="vertical_relaxed")

    def items(self) -> pl.Series:
        """The tokens of its catalogue, in order."""
        return pl.Series("id", Store(self.folder).item_tokens(), dtype=pl.String)

    def rejected(self) -> pl.DataFrame:
        """The rejected rows of its log."""
        return pl.read_parquet(self.folder / REJECTED, glob=False)

    def vocabularies(self) -> dict[str, Vocabulary]:
        """By field."""
        read = read_vocabularies(self.folder, self.manifest.fields)
        return {vocabulary.field.name: vocabulary for vocabulary in read}


def with_earlier_options(config: DataConfig, typed: Collection[str]) -> DataConfig:
    """The options of a growth: those that were not typed are the earlier store's.

    Raises ``InputError`` where ``data.from`` is no store.
    """
    assert config.from_store is not None
    folder = _folder_of(config.from_store)
    _require_store(folder)
    recipe = read_manifest(folder).recipe
    taken = {
        name: recipe[name]
        for name in asdict(config)
        if name not in OF_FILES and name in recipe and name not in typed
    }
    return replace(config, **taken)


def _folder_of(path: str) -> Path:
    """The folder of ``data.from``; of one on an object store a copy, with the log that it keeps."""
    folder = local_folder(path)
    copy = LocalCopy.of(folder)
    if copy is not None:
        copy.origin.require_reachable()
        copy.pull(lambda name: name == MANIFEST or name.startswith(f"{LOG}/"))
    return folder


def _require_store(folder: Path) -> None:
    state = "is not finished" if (folder / WORK).exists() else "is no store"
    remedy = "repeat the command that makes it" if "finished" in state else "name one"
    require((folder / MANIFEST).is_file(), f"data.from={folder} {state}; {remedy}")


def _typed(value: object) -> str:
    """An option's value, as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_typed(v)}" for k, v in value.items()) + "}"
    return str(value)
