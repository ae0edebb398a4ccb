"""The stages of one preparation, in order (DESIGN.md section 5).

The log is checked in one streaming pass and dealt to buckets of users. Each bucket, the unit of
work, is then split and encoded by itself, so memory does not grow with the log (it does with the
catalogue and the users' features). Nothing is fitted here: a store is data.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from greatmeta_dist.config import DataConfig
from greatmeta_dist.config.data import AUTO
from greatmeta_dist.data.arrow import map_arrow, write_arrow
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.encode import encode_items, encode_tasks, with_user_features
from greatmeta_dist.data.entities import read_catalogue, read_entities
from greatmeta_dist.data.hashing import hash_tokens
from greatmeta_dist.data.histories import BucketHistory, index_of_items, read_history
from greatmeta_dist.data.manifest import (
    FORMAT_VERSION,
    ITEM_ID,
    MANIFEST,
    Manifest,
    write_manifest,
)
from greatmeta_dist.data.negatives import add_negatives
from greatmeta_dist.data.rejects import REJECTS, Rejects
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.scan import ScannedLog, scan_log
from greatmeta_dist.data.sources import Kind, Source, open_source
from greatmeta_dist.data.split import (
    SPLITS,
    Catalogue,
    History,
    SplitTasks,
    held_out_items,
    split_by_recipe,
)
from greatmeta_dist.data.split_file import read_split, split_as_given
from greatmeta_dist.data.store import ITEMS, Store, shard_name
from greatmeta_dist.data.vocabulary import (
    Vocabulary,
    bin_edges,
    binned,
    build_vocabularies,
    count_values,
)
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import sha256

MIN_SHARDS = 8
"""So that a small store, too, can be read in eight lanes."""
FOLDERS = ("shards", "vocab")

Progress = Callable[[str, float], None]
"""Told the stage, and the share of the whole preparation that is done."""


class Preparation:
    """The stages of one preparation, with what they pass on."""

    def __init__(self, config: DataConfig, store: Path, work: Path, progress: Progress):
        """``work`` is a folder for what is not kept."""
        self.config, self.store, self.work, self.progress = config, store, work, progress
        self.rejects, self.report = Rejects(store / REJECTS), Report()

    def run(self) -> Report:
        """Make the store, unless it is already made from the same files in the same way."""
        self.progress("open the source", 0)
        self.source = open_source(self.config, self.work)
        if self.source.columns is not None:
            self.config = replace(self.config, columns=self.source.columns)
            columns = asdict(self.source.columns)
            self.report.columns = {role: c for role, c in columns.items() if c != AUTO}
        self.report.not_used, self.report.hints = self.source.not_used, self.source.hints
        require(
            self.config.query_by != "time" or self.source.has_timestamp,
            "data.query_by=time needs times, and the log has none; set data.columns.timestamp or "
            "data.query_by=random",
        )
        self.given = read_split(self.config.split, self.work) if self.config.split else None
        fingerprint = _fingerprint(self.source, self.config)
        if self._is_done(fingerprint):
            report = json.loads((self.store / "report.json").read_text())
            return Report(**{**report, "is_new": False})
        try:
            self._make(fingerprint)
        except InputError:
            self.rejects.write()
            raise
        return self.report

    def _make(self, fingerprint: str) -> None:
        self.progress("check the log", 0.02)
        table = self.source.users
        self.users = (
            None if table is None else read_entities(table, "user", self.rejects, self.config)
        )
        log = scan_log(self.source, self.config, self.rejects, self.work / "log")
        self.report.read, self.report.unrated = log.num_read, log.num_unrated
        self.report.time_unit = log.time_unit
        self.report.other_events, self.report.events = log.num_other_events, log.events
        self._require_few_rejected()
        self.rejects.read_from_disk()
        self.items, self.report.unlisted_items = read_catalogue(
            self.source.items, log.items, self.rejects, self.config
        )

        tasks = self._split_users(log)
        self._check_rejects()
        self._require_trainable(log)
        vocabularies = self._build_vocabularies()
        for folder in FOLDERS:
            shutil.rmtree(self.store / folder, ignore_errors=True)
            (self.store / folder).mkdir()
        shards, known_groups = self._write_shards(tasks, vocabularies, log.num_buckets)
        self.progress("write the manifest", 0.98)
        write_arrow(self.store / ITEMS, encode_items(self.items, vocabularies, self.counts))
        for vocabulary in vocabularies:
            vocabulary.write(self.store / "vocab")
        self._write_manifest(fingerprint, vocabularies, shards, known_groups)

    def _is_done(self, fingerprint: str) -> bool:
        """Whether the store was made from the same files in the same way.

        Raises ``InputError`` where it was made otherwise, or where a file of it has changed.
        """
        if not (self.store / MANIFEST).exists():
            return False
        store = Store(self.store)
        store.check()
        manifest = store.manifest
        changed = [
            f"data.{k}" for k, v in asdict(self.config).items() if manifest.recipe.get(k) != v
        ]
        if manifest.fingerprint != fingerprint:
            changed.append("the source files")
        require(
            not changed,
            f"{self.store} was prepared differently ({', '.join(changed[:5])}); "
            "choose another store=DIR, or delete it",
        )
        return True

    # --- splitting ------------------------------------------------------------------------

    def _split_users(self, log: ScannedLog) -> list[dict[str, Path]]:
        """Every bucket's tasks by split, in files; counts the training rows."""
        catalogue = self._catalogue()
        index_of_item = index_of_items(log.items, self.items)
        self.counts = TrainingCounts.zeros(len(self.items))
        files: list[dict[str, Path]] = []
        for k in range(log.num_buckets):
            self.progress("split users", 0.4 + 0.4 * k / log.num_buckets)
            bucket = read_history(
                log.bucket(k), index_of_item, self.config, has_time=self.source.has_timestamp
            )
            self._count_left_out(bucket)
            tasks = self._split(bucket.history, catalogue)
            splits = tasks.splits
            if self.config.is_implicit:
                splits = add_negatives(splits, tasks.history, catalogue, self.config)
            files.append({})
            for split, rows in splits.items():
                if len(rows):
                    path = files[-1][split] = self.work / f"{split}-{k}.arrow"
                    write_arrow(path, encode_tasks(tasks.history, rows))
                    self.report.interactions[split] = self.report.interactions.get(split, 0) + len(
                        rows
                    )
            if "train" in splits:
                self.counts.add(tasks.history, splits["train"])
        return files

    def _catalogue(self) -> Catalogue:
        tokens = self.items["id"]
        if self.given is None:
            is_cold = held_out_items(tokens, self.config)
        else:
            asks_cold = pl.col("split").is_in(["item_cold", "both_cold"])
            cold = self.given.filter(asks_cold & (pl.col("role") == "query"))["item"]
            is_cold = tokens.is_in(cold.implode()).to_numpy()
        return Catalogue(tokens, hash_tokens(tokens), is_cold)

    def _split(self, history: History, catalogue: Catalogue) -> SplitTasks:
        """A bucket's tasks, by the recipe or by the given split."""
        if self.given is None:
            tasks = split_by_recipe(history, catalogue, self.config)
            self.report.out_of_bounds += tasks.num_out_of_bounds
            self.report.unused += tasks.num_unused
            self.report.kept += len(history.user) - tasks.num_out_of_bounds - tasks.num_unused
            return tasks
        tasks, used_lines = split_as_given(history, catalogue, self.given)
        self.report.not_in_split += tasks.num_unused
        self.report.kept += len(history.user) - tasks.num_unused
        self.given = self.given.filter(~pl.col("line").is_in(used_lines.implode()))
        return tasks

    def _count_left_out(self, bucket: BucketHistory) -> None:
        self.report.repeats += bucket.num_repeats
        if self.users is not None:
            is_listed = bucket.history.token.is_in(self.users["id"].implode())
            self.report.unlisted_users += int((~is_listed).sum())
        if len(bucket.rejected):
            repeats = bucket.rejected.with_columns(
                line="line in file",
                reason=pl.lit("repeats a user and item; the latest is kept"),
                text=pl.lit(None, pl.String),
            )
            self.rejects.add(repeats, "item", of="log")
            self._require_few_rejected()

    def _require_few_rejected(self) -> None:
        self.rejects.require_few(
            self.report.read,
            of="log",
            option="data.max_rejected_fraction",
            limit=self.config.max_rejected_fraction,
        )

    def _check_rejects(self) -> None:
        """Write the rejects; stop if the split file names too many interactions that are not."""
        if self.given is not None:
            missing = self.given.with_columns(
                file=pl.lit(Path(self.config.split or "").name),
                reason=pl.lit("names an interaction that the log does not hold"),
                text=pl.concat_str("user", "item", separator=" "),
            )
            self.rejects.add(missing, "item", of="split")
        rejected = self.rejects.table()
        self.rejects.write()
        self.report.rejected = self.rejects.count("log")
        counts = {of: self.rejects.count(of) for of in ("users", "items", "split")}
        self.report.rejected_elsewhere = {of: count for of, count in counts.items() if count}
        reasons = rejected.group_by("reason").len().sort("len", "reason", descending=[True, False])
        self.report.reasons = dict(reasons.head(20).iter_rows())
        self.rejects.require_few(
            self.report.read,
            of="split",
            option="data.max_rejected_fraction",
            limit=self.config.max_rejected_fraction,
        )

    def _require_trainable(self, log: ScannedLog) -> None:
        """Raises ``InputError`` where nothing that can be learnt is left to train on."""
        usable = log.num_read - self.report.rejected - log.num_unrated - log.num_other_events
        remedy = (
            "check data.split"
            if self.config.split
            else f"lower data.min_interactions (now {self.config.min_interactions}), or keep fewer "
            "query rows and held-out users"
        )
        require(
            bool(self.counts.users),
            f"no training task came out of {usable} usable rows of {log.num_read}; {remedy}",
        )
        noun = "weight" if self.config.events else "count"
        is_counted = not self.config.has_ratings and not self.config.is_click
        require(
            not is_counted or self.counts.lowest < self.counts.highest,
            f"every {noun} is {self.counts.lowest:g}, so there is nothing to learn; set "
            "data.label=click",
        )
        share = self.counts.mean
        require(
            not self.config.is_click or 0 < share < 1,
            f"{share:.0%} of the training rows are clicks, and training needs clicks and others; "
            f"set data.click_at (now {self.config.click_at}) within the ratings, or data.negatives",
        )

    # --- vocabularies ---------------------------------------------------------------------

    def _build_vocabularies(self) -> list[Vocabulary]:
        """Rows for every value that training users and their items have."""
        self.items = self.items.with_columns(pl.col("id").alias(ITEM_ID))
        item_kinds: dict[str, Kind] = {ITEM_ID: "token"}
        item_kinds |= self.source.items.features if self.source.items else {}
        user_kinds = self.source.users.features if self.source.users else {}
        both = sorted(user_kinds.keys() & item_kinds.keys())
        require(
            not both,
            f"{', '.join(both)} is a feature of users and of items; rename one of the two columns",
        )
        counted, least = [], self.config.min_value_count
        if self.users is not None:
            is_seen = pl.col("id").is_in(pl.concat(self.counts.users).implode())
            self.users, counts = _count(self.users, user_kinds, is_seen, least)
            counted += [(n, "user", user_kinds[n], c) for n, c in counts.items()]
        is_seen = pl.lit(pl.Series(self.counts.item_count > 0))
        self.items, counts = _count(self.items, item_kinds, is_seen, least)
        counted += [(n, "item", item_kinds[n], c) for n, c in counts.items()]
        vocabularies = build_vocabularies(counted, min_count=least, seed=self.config.seed)
        self.report.rare_values = {v.field.name: v.num_rare for v in vocabularies}
        return vocabularies

    def _known_groups(self) -> tuple[list[str], pl.Series | None]:
        """The true groups of synthetic data, and that of each row of ``users``."""
        column = self.source.group
        if column is None:
            return [], None
        assert self.users is not None
        names = sorted(self.users[column].unique().to_list())
        index = {name: k for k, name in enumerate(names)}
        return names, self.users[column].replace_strict(index, return_dtype=pl.Int32)

    # --- writing --------------------------------------------------------------------------

    def _write_shards(
        self, tasks: list[dict[str, Path]], vocabularies: list[Vocabulary], num_buckets: int
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Every split's shards; their numbers, and the training users of each known group.

        A bucket's training users are dealt evenly to its shards.
        """
        shards = dict.fromkeys(SPLITS, 0)
        names, group = self._known_groups()
        sizes = np.zeros(len(names), np.int64)
        for k, files in enumerate(tasks):
            self.progress("write tasks", 0.8 + 0.18 * k / len(tasks))
            for split in (name for name in SPLITS if name in files):
                batch = with_user_features(map_arrow(files[split]), self.users, vocabularies, group)
                num_shards = 1
                if split == "train":
                    num_shards = max(1, MIN_SHARDS // num_buckets)
                    if names:
                        known = batch.column("known_group").to_numpy()
                        sizes += np.bincount(known, minlength=len(names))
                self.report.tasks[split] = self.report.tasks.get(split, 0) + batch.num_rows
                for number in range(num_shards):
                    assigned = pa.array(np.arange(number, batch.num_rows, num_shards))
                    shard = batch.take(assigned) if num_shards > 1 else batch
                    write_arrow(self.store / shard_name(split, shards[split]), shard)
                    shards[split] += 1
                files[split].unlink()
        written = {split: count for split, count in shards.items() if count}
        return written, dict(zip(names, sizes.tolist(), strict=True))

    def _write_manifest(
        self,
        fingerprint: str,
        vocabularies: list[Vocabulary],
        shards: dict[str, int],
        known_groups: dict[str, int],
    ) -> None:
        """The report, then the manifest: from here on the folder is a store."""
        (self.store / "report.json").write_text(json.dumps(asdict(self.report), indent=1))
        files = [ITEMS, REJECTS, "report.json"]
        files += [f"vocab/{v.field.name}.parquet" for v in vocabularies]
        files += [shard_name(split, k) for split, count in shards.items() for k in range(count)]
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            fields=[v.field for v in vocabularies],
            num_rows=sum(v.field.num_rows for v in vocabularies),
            num_items=len(self.items),
            splits=self.report.tasks,
            shards=shards,
            ratings=self.counts.ratings(self._label_range()),
            is_click=self.config.is_click,
            is_implicit=self.config.is_implicit,
            known_groups=known_groups,
            recipe=asdict(self.config),
            fingerprint=fingerprint,
            notes=self.source.notes,
            checksums={name: sha256(self.store / name) for name in files},
        )
        write_manifest(self.store, manifest)

    def _label_range(self) -> list[float] | None:
        """Lowest and highest label, where the options say it."""
        if self.config.is_click:
            return [0.0, 1.0]
        # Sums and counts of ratings have another range than ratings.
        is_rating = self.config.repeats_rule not in ("sum", "count") and not self.config.events
        return self.config.rating_range if is_rating else None


def _count(
    frame: pl.DataFrame, kinds: dict[str, Kind], is_seen: pl.Expr, min_count: int
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Bin numeric features by the seen entities, and count every feature's values among them."""
    for name, kind in kinds.items():
        if kind == "float":
            edges = bin_edges(frame.filter(is_seen)[name], min_count=min_count)
            frame = frame.with_columns(binned(frame[name], edges).alias(name))
    return frame, count_values(frame.filter(is_seen), kinds)


def _fingerprint(source: Source, config: DataConfig) -> str:
    """Of every source file: its name and what it holds."""
    files = [*source.files, *([Path(config.split)] if config.split else [])]
    named = [f"{path.name} {sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()
