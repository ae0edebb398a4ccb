"""The phases of one preparation, in order (DESIGN.md section 5).

The log is checked in units of rows and dealt to buckets of users; each bucket is then split, and
written as shards. What is here is what lies between: the catalogue, the vocabularies, the report
and the manifest. Nothing is fitted: a store is data.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.arrow import map_arrow, write_arrow
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.encode import encode_items
from greatmeta_dist.data.entities import read_catalogue, read_entities
from greatmeta_dist.data.fingerprint import HASH, files_in, hash_files
from greatmeta_dist.data.histories import repeat_reason
from greatmeta_dist.data.manifest import (
    FORMAT_VERSION,
    ITEM_ID,
    MANIFEST,
    Manifest,
    write_manifest,
)
from greatmeta_dist.data.phases import Phases, shared_with_sources
from greatmeta_dist.data.rejects import REJECTS, Rejects
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.scan import CHECK, ScannedLog, count_rows, scan_log, source_bytes
from greatmeta_dist.data.sources import Kind, open_source
from greatmeta_dist.data.split import held_out_items
from greatmeta_dist.data.split_buckets import (
    SPLIT,
    SplitUnit,
    read_all,
    write_context,
    write_table,
)
from greatmeta_dist.data.split_file import read_split
from greatmeta_dist.data.split_time import FIND_POINT, find_split_time, require_times
from greatmeta_dist.data.store import ITEMS, Store
from greatmeta_dist.data.summary import LogSummary
from greatmeta_dist.data.vocabulary import (
    Vocabulary,
    bin_edges,
    binned,
    build_vocabularies,
    count_values,
)
from greatmeta_dist.data.write_shards import WRITE, WriteUnit, number_shards
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import sha256

FOLDERS = ("shards", "vocab")
FINISH = "write the manifest"
COSTS = {CHECK: 0.45, FIND_POINT: 0.05, SPLIT: 0.4, WRITE: 0.05, FINISH: 0.01}
"""Seconds that a million rows take, about: the shares that the progress shows."""
HASH_COST = 0.7
"""Seconds of a GB of files."""
ROW_BYTES = 30
"""Of a log of text, about: before it is read, its rows are not known."""


class Preparation:
    """The phases of one preparation, with what they pass on."""

    def __init__(self, config: DataConfig, store: Path, work: Path, phases: Phases):
        """``work`` is a folder for what is not kept."""
        self.config, self.store, self.work, self.phases = config, store, work, phases
        self.staged = work / "store"
        """Where the files of the store are written; they are moved when all are there."""
        self.rejects, self.report = Rejects(store / REJECTS), Report()

    def run(self) -> Report:
        """Make the store, unless it is already made from the same files in the same way."""
        num_bytes = sum(path.stat().st_size for path in files_in(self.config.path))
        self._expect(num_bytes // ROW_BYTES, num_bytes)
        with shared_with_sources(self.phases):
            self.source = open_source(self.config, self.work)
        if self.source.columns is not None:
            self.config = replace(self.config, columns=self.source.columns)
            self.report.columns = asdict(self.source.columns)
        self.report.not_used = self.source.not_used
        require_times(self.config, has_times=self.source.has_timestamp)
        self.given = read_split(self.config.split, self.work) if self.config.split else None
        part_rows = count_rows(self.source)
        self._expect(sum(part_rows), source_bytes(self.source))
        fingerprint = self._fingerprint()
        if self._is_done(fingerprint):
            report = json.loads((self.store / "report.json").read_text())
            return Report(**{**report, "is_new": False})
        try:
            self._make(fingerprint, part_rows)
        except InputError:
            if self.rejects.has_any:
                self.rejects.write()
            raise
        return self.report

    def _expect(self, num_rows: int, num_bytes: int) -> None:
        """Tell the phases what is to come."""
        costs = {HASH: HASH_COST * num_bytes / 1e9}
        phases = COSTS if self.config.is_split_by_time else COSTS | {FIND_POINT: 0.0}
        self.phases.expect(costs | {name: cost * num_rows / 1e6 for name, cost in phases.items()})

    def _fingerprint(self) -> str:
        """Of every source file: its name and what it holds."""
        files = [*self.source.files, *([Path(self.config.split)] if self.config.split else [])]
        hashes = hash_files(files, self.phases)
        named = [f"{path.name} {digest}" for path, digest in zip(files, hashes, strict=True)]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

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

    def _make(self, fingerprint: str, part_rows: Sequence[int]) -> None:
        table = self.source.users
        self.users = (
            None if table is None else read_entities(table, "user", self.rejects, self.config)
        )
        log = scan_log(
            self.source,
            self.config,
            self.rejects,
            self.work / "log",
            phases=self.phases,
            part_rows=part_rows,
        )
        self.report.read, self.report.unrated = log.num_read, log.num_unrated
        self.report.time_unit = log.time_unit
        self._require_few_rejected()
        self.rejects.read_from_disk()
        self.items, self.report.unlisted_items = read_catalogue(
            self.source.items, log.items, self.rejects, self.config
        )
        split, tasks = self._split_users(log)
        self._check_rejects()
        self._require_trainable(log)
        vocabularies = self._build_vocabularies()
        for folder in FOLDERS:
            (self.staged / folder).mkdir(parents=True, exist_ok=True)
        shards, checksums, known_groups = self._write_shards(split, tasks, vocabularies)
        self.phases.run(FINISH, _nothing, [])
        for vocabulary in vocabularies:
            vocabulary.write(self.staged / "vocab")
        write_arrow(self.staged / ITEMS, encode_items(self.items, vocabularies, self.counts))
        (self.staged / "report.json").write_text(json.dumps(asdict(self.report), indent=1))
        self._publish()
        self._write_manifest(fingerprint, vocabularies, shards, checksums, known_groups)

    # --- splitting ------------------------------------------------------------------------

    def _split_users(self, log: ScannedLog) -> tuple[SplitUnit, list[dict[str, list[int]]]]:
        """Split every bucket; the tasks and interactions of each split, by bucket."""
        is_cold, split_time = self._is_cold(), None
        if self.config.is_split_by_time:
            point = find_split_time(log, self.config, self.phases)
            split_time = self.report.split_time = point.seconds
            seen = point.seen_items.cast(pl.String)
            is_cold |= ~self.items["id"].is_in(seen.implode())
        split = SplitUnit(
            log,
            self.config,
            self.source.has_timestamp,
            split_time,
            self.phases.folder_of(SPLIT),
        )
        write_context(split.folder, log, self.items, is_cold, users=self.users, given=self.given)
        results = self.phases.run(SPLIT, split, range(log.num_buckets))
        self.counts = TrainingCounts.zeros(len(self.items))
        summary = LogSummary.zeros(len(self.items))
        for number, result in enumerate(results):
            self.report.repeats += result["repeats"]
            self.report.unlisted_users += result["unlisted_users"]
            summary.add(LogSummary.read(split.summary_path(number), len(self.items)))
            for name, (num_tasks, num_rows) in result["tasks"].items():
                for total, count in (
                    (self.report.tasks, num_tasks),
                    (self.report.interactions, num_rows),
                ):
                    total[name] = total.get(name, 0) + count
            self.counts.add_file(split.counts_path(number))
            train = split.tasks_path(number, "train")
            if "train" in result["tasks"] and self.users is not None:
                users = pl.from_arrow(map_arrow(train).column("user"))
                self.counts.users.append(pl.Series(users))
        numbers = range(log.num_buckets)
        for repeats in read_all([split.rejects_path(k) for k in numbers]):
            self._reject_repeats(repeats)
        for used in read_all([split.used_lines_path(k) for k in numbers]):
            assert self.given is not None
            self.given = self.given.join(used, on="line", how="anti", maintain_order="left")
        self._require_few_rejected()
        self.report.add_summary(summary, self.config)
        self.report.cold_items = int(is_cold.sum())
        self.report.untrained_items = int((self.counts.item_count == 0).sum())
        return split, [result["tasks"] for result in results]

    def _is_cold(self) -> pl.Series:
        """Whether each item is held out."""
        tokens = self.items["id"]
        if self.given is None:
            return pl.Series(held_out_items(tokens, self.config))
        asks_cold = pl.col("split").is_in(["item_cold", "both_cold"])
        cold = self.given.filter(asks_cold & (pl.col("role") == "query"))["item"]
        return tokens.is_in(cold.implode())

    def _reject_repeats(self, rows: pl.DataFrame) -> None:
        repeats = rows.with_columns(
            line="line_in_file",
            reason=pl.lit(repeat_reason(self.config)),
            text=pl.lit(None, pl.String),
        )
        self.rejects.add(repeats, "item", of="log")

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
        self.report.add_rejects(rejected)
        self.rejects.require_few(
            self.report.read,
            of="split",
            option="data.max_rejected_fraction",
            limit=self.config.max_rejected_fraction,
        )

    def _require_trainable(self, log: ScannedLog) -> None:
        """Raises ``InputError`` where nothing that can be learnt is left to train on."""
        usable = log.num_read - self.report.rejected - log.num_unrated
        remedy = self.report.advice or (
            "check data.split"
            if self.config.split
            else "lower data.valid_fraction and data.test_fraction, the shares of held-out users"
        )
        require(
            self.report.tasks.get("train", 0) > 0,
            f"no training task came out of {usable} usable rows of {log.num_read}; {remedy}",
        )
        is_counted = not self.config.has_ratings and not self.config.is_click
        require(
            not is_counted or self.counts.lowest < self.counts.highest,
            f"every count is {self.counts.lowest:g}, so there is nothing to learn; set "
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

    # --- writing --------------------------------------------------------------------------

    def _write_shards(
        self,
        split: SplitUnit,
        tasks: list[dict[str, list[int]]],
        vocabularies: list[Vocabulary],
    ) -> tuple[dict[str, int], dict[str, str], dict[str, int]]:
        """Every split's shards: their numbers, their checksums, and the users of known groups."""
        units, shards = number_shards(tasks, split.log.num_buckets)
        folder, users_path = self.phases.folder_of(WRITE), None
        users, names = self.users, self._known_groups()
        if users is not None:
            if self.source.group is not None:
                index = {name: k for k, name in enumerate(names)}
                group = users[self.source.group].replace_strict(index, return_dtype=pl.Int32)
                users = users.with_columns(known_group=group)
            users_path = folder / "users.arrow"
            write_table(users_path, users)
        of_users = [v for v in vocabularies if v.field.side == "user"]
        write = WriteUnit(split, of_users, users_path, len(names), self.staged)
        results = self.phases.run(WRITE, write, units)
        checksums: dict[str, str] = {}
        for result in results:
            checksums |= result["checksums"]
        sizes = [sum(r["groups"][k] for r in results) for k in range(len(names))]
        return shards, checksums, dict(zip(names, sizes, strict=True))

    def _known_groups(self) -> list[str]:
        """The true groups of synthetic data."""
        if self.source.group is None:
            return []
        assert self.users is not None
        return sorted(self.users[self.source.group].unique().to_list())

    def _publish(self) -> None:
        """Move the files of the store to where they belong.

        A folder in which nothing is was moved before this process was started again.
        """
        for path in list(self.staged.iterdir()):
            target = self.store / path.name
            if path.is_dir():
                if not any(path.iterdir()):
                    continue
                shutil.rmtree(target, ignore_errors=True)
            path.rename(target)

    def _write_manifest(
        self,
        fingerprint: str,
        vocabularies: list[Vocabulary],
        shards: dict[str, int],
        checksums: dict[str, str],
        known_groups: dict[str, int],
    ) -> None:
        """From here on the folder is a store."""
        files = [ITEMS, REJECTS, "report.json"]
        files += [f"vocab/{v.field.name}.parquet" for v in vocabularies]
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
            checksums={name: sha256(self.store / name) for name in files} | checksums,
        )
        write_manifest(self.store, manifest)

    def _label_range(self) -> list[float] | None:
        """Lowest and highest label, where the options say it."""
        if self.config.is_click:
            return [0.0, 1.0]
        # Sums and counts of ratings have another range than ratings.
        is_rating = self.config.repeats_rule not in ("sum", "count")
        return self.config.rating_range if is_rating else None


def _nothing(number: int, unit: object) -> dict:
    return {}


def _count(
    frame: pl.DataFrame, kinds: dict[str, Kind], is_seen: pl.Expr, min_count: int
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Bin numeric features by the seen entities, and count every feature's values among them."""
    for name, kind in kinds.items():
        if kind == "float":
            edges = bin_edges(frame.filter(is_seen)[name], min_count=min_count)
            frame = frame.with_columns(binned(frame[name], edges).alias(name))
    return frame, count_values(frame.filter(is_seen), kinds)
