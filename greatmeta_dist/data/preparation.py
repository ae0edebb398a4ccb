"""The phases of one preparation, in order (DESIGN.md section 5).

The log is checked in units of rows, which go to buckets of users; each bucket is then split, and
written as shards. What is here is what lies between: the catalogue, the vocabularies, the report
and the manifest. Nothing is fitted: a store is data.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.config.data import AUTO
from greatmeta_dist.data.arrow import map_arrow, write_arrow
from greatmeta_dist.data.costs import FINISH, ROW_BYTES, expected_costs
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.encode import encode_items
from greatmeta_dist.data.entities import catalogue_of, read_entities
from greatmeta_dist.data.fields import Fields, build_fields
from greatmeta_dist.data.fingerprint import files_in, hash_files, is_made_from
from greatmeta_dist.data.growth import EarlierStore
from greatmeta_dist.data.histories import repeat_reason
from greatmeta_dist.data.kept_log import LOG, LogIndex, keep_rows
from greatmeta_dist.data.manifest import FORMAT_VERSION, Manifest, write_manifest
from greatmeta_dist.data.phases import Phases, shared_with_sources
from greatmeta_dist.data.rejects import REJECTS, Rejects
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.scan import (
    ScannedLog,
    count_rows,
    most_common,
    scan_log,
    source_bytes,
)
from greatmeta_dist.data.sources import Table, open_source
from greatmeta_dist.data.split import held_out_items
from greatmeta_dist.data.split_buckets import SPLIT, SplitUnit, write_context
from greatmeta_dist.data.split_file import read_split
from greatmeta_dist.data.split_time import find_split_time, require_times
from greatmeta_dist.data.store import ITEMS
from greatmeta_dist.data.summary import LogSummary
from greatmeta_dist.data.tables import read_tables, write_table
from greatmeta_dist.data.trainable import require_trainable
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.vocabulary import Vocabulary
from greatmeta_dist.data.write_shards import WRITE, WriteUnit, number_shards
from greatmeta_dist.errors import InputError
from greatmeta_dist.files import publish, sha256

FOLDERS = ("shards", "vocab", LOG)


class Preparation:
    """The phases of one preparation, with what they pass on."""

    def __init__(self, config: DataConfig, store: Path, work: Path, phases: Phases):
        """``work`` is a folder for what is not kept."""
        self.config, self.store, self.work, self.phases = config, store, work, phases
        self.earlier: EarlierStore | None = None
        self.staged = work / "store"
        """Where the files of the store are written; they are moved when all are there."""
        self.rejects, self.report = Rejects(store / REJECTS), Report()

    def run(self) -> Report:
        """Make the store, unless it is already made from the same files in the same way."""
        num_bytes = sum(path.stat().st_size for path in files_in(self.config.path))
        self._expect(num_bytes // ROW_BYTES, num_bytes, is_text=True)
        if self.config.from_store is not None:
            self.earlier = EarlierStore.open(self.config.from_store, self.store)
        self._open_source()
        self.given = read_split(self.config.split, self.work) if self.config.split else None
        part_rows = count_rows(self.source)
        is_text = self.source.frames[0].collect_schema()["user"] == pl.String
        self._expect(sum(part_rows), source_bytes(self.source), is_text=is_text)
        fingerprint = self._fingerprint()
        if is_made_from(self.config, fingerprint, self.store):
            report = json.loads((self.store / "report.json").read_text())
            return Report(**{**report, "is_new": False})
        try:
            self._make(fingerprint, part_rows)
        except InputError:
            if self.rejects.has_any:
                self.rejects.write()
            raise
        return self.report

    def _expect(self, num_rows: int, num_bytes: int, *, is_text: bool) -> None:
        """Tell the phases what is to come."""
        num_earlier = self.earlier.index.num_read if self.earlier is not None else 0
        costs = expected_costs(
            self.config, num_rows, num_bytes, num_earlier=num_earlier, is_text=is_text
        )
        self.phases.expect(costs)

    def _open_source(self) -> None:
        """Open the log, and check that it has what the options need."""
        with shared_with_sources(self.phases):
            self.source = source = open_source(self.config, self.work)
        if source.columns is not None:
            self.config = replace(self.config, columns=source.columns)
            columns = asdict(source.columns)
            self.report.columns = {role: c for role, c in columns.items() if c != AUTO}
        self.report.not_used, self.report.hints = source.not_used, source.hints
        require_times(self.config, has_times=source.has_timestamp)
        tables = {"user": source.users, "item": source.items}
        if self.earlier is None:
            self.kinds = {side: table.features if table else {} for side, table in tables.items()}
        else:
            self.earlier.require_fits(self.config, source)
            self.kinds = {side: self.earlier.kinds(side, table) for side, table in tables.items()}

    def _fingerprint(self) -> str:
        """Of every source file: its name and what it holds; and of the store that grows."""
        files = [*self.source.files, *([Path(self.config.split)] if self.config.split else [])]
        hashes = hash_files(files, self.phases)
        named = [f"{path.name} {digest}" for path, digest in zip(files, hashes, strict=True)]
        if self.earlier is not None:
            named.insert(0, json.dumps(self.earlier.manifest.checksums))
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    def _make(self, fingerprint: str, part_rows: Sequence[int]) -> None:
        listed = self._entities("item", self.source.items)
        self.users = self._entities("user", self.source.users)
        log = scan_log(
            self.source,
            self.config,
            self.rejects,
            self.work / "log",
            phases=self.phases,
            part_rows=part_rows,
            earlier=self.earlier.rows if self.earlier is not None else None,
        )
        self._require_few_rejected(log.num_read)
        self.rejects.read_from_disk()
        if self.earlier is not None:
            log = self._with_earlier_counts(log, self.earlier)
        rejected = self.rejects.table_of("log")
        self.report.read, self.report.unrated = log.num_read, log.num_unrated
        self.report.other_events, self.report.events = log.num_other_events, log.events
        self.report.time_unit = log.time_unit
        first = self.earlier.items() if self.earlier is not None else pl.Series([], dtype=pl.String)
        self.items, self.report.unlisted_items = catalogue_of(first, listed, log.items)
        split, tasks = self._split_users(log)
        self._check_rejects()
        require_trainable(self.counts, self.report, self.config)
        fields = build_fields(
            self.users, self.items, self.kinds, self.counts, self.config, self.earlier
        )
        self.report.rare_values = {v.field.name: v.num_rare for v in fields.vocabularies}
        for folder in FOLDERS:
            (self.staged / folder).mkdir(parents=True, exist_ok=True)
        shards, checksums, known_groups = self._write_shards(split, tasks, fields)
        self.phases.run(FINISH, _nothing, [])
        for vocabulary in fields.vocabularies:
            vocabulary.write(self.staged / "vocab")
        items = encode_items(fields.items, fields.vocabularies, self.counts)
        write_arrow(self.staged / ITEMS, items)
        (self.staged / "report.json").write_text(json.dumps(asdict(self.report), indent=1))
        if self.config.keep_log:
            checksums |= self._keep_log(log, fields, listed, rejected)
        publish(self.staged, self.store)
        self._write_manifest(fingerprint, fields.vocabularies, shards, checksums, known_groups)

    def _entities(self, side: str, table: Table | None) -> pl.DataFrame | None:
        """The features of users or items: of the earlier store's, then of the files."""
        new = None if table is None else read_entities(table, side, self.rejects, self.config)
        return new if self.earlier is None else self.earlier.with_earlier(side, new)

    def _with_earlier_counts(self, log: ScannedLog, earlier: EarlierStore) -> ScannedLog:
        """Count the rows of the earlier log, and its rejects, too."""
        self.rejects.add_earlier(earlier.rejected(), of="log")
        self.report.read_earlier = earlier.index.num_read
        return replace(
            log,
            num_read=log.num_read + earlier.index.num_read,
            num_unrated=log.num_unrated + earlier.index.num_unrated,
            num_other_events=log.num_other_events + earlier.index.num_other_events,
            events=most_common(Counter(log.events) + Counter(earlier.index.events)),
            time_unit=log.time_unit or earlier.index.time_unit,
        )

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
        self._gather(split, results)
        self._require_few_rejected(log.num_read)
        self.report.cold_items = int(is_cold.sum())
        return split, [result["tasks"] for result in results]

    def _gather(self, split: SplitUnit, results: Sequence[Result]) -> None:
        """Add up what the buckets counted; repeats that they reject join the rejects."""
        self.counts = TrainingCounts.zeros(len(self.items))
        summary = LogSummary.zeros(len(self.items))
        for number, result in enumerate(results):
            self.report.repeats += result["repeats"]
            self.report.unlisted_users += result["unlisted_users"]
            for name, (num_tasks, num_rows) in result["tasks"].items():
                for total, count in (
                    (self.report.tasks, num_tasks),
                    (self.report.interactions, num_rows),
                ):
                    total[name] = total.get(name, 0) + count
            summary.add(LogSummary.read(split.summary_path(number), len(self.items)))
            self.counts.add_file(split.counts_path(number))
            if "train" in result["tasks"] and self.users is not None:
                users = map_arrow(split.tasks_path(number, "train")).column("user")
                self.counts.users.append(pl.Series(pl.from_arrow(users)))
        numbers = range(len(results))
        for repeats in read_tables([split.rejects_path(k) for k in numbers]):
            self._reject_repeats(repeats)
        for used in read_tables([split.used_lines_path(k) for k in numbers]):
            assert self.given is not None
            self.given = self.given.join(used, on="line", how="anti", maintain_order="left")
        self.report.add_summary(summary, self.config)
        self.report.untrained_items = int((self.counts.item_count == 0).sum())

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

    def _require_few_rejected(self, num_read: int) -> None:
        self.rejects.require_few(
            num_read,
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

    def _write_shards(
        self,
        split: SplitUnit,
        tasks: list[dict[str, list[int]]],
        fields: Fields,
    ) -> tuple[dict[str, int], dict[str, str], dict[str, int]]:
        """Every split's shards: their numbers, their checksums, and the users of known groups."""
        units, shards = number_shards(tasks, split.log.num_buckets)
        folder, users_path = self.phases.folder_of(WRITE), None
        users, names = fields.users, self._known_groups()
        if users is not None:
            if self.source.group is not None:
                index = {name: k for k, name in enumerate(names)}
                group = users[self.source.group].replace_strict(index, return_dtype=pl.Int32)
                users = users.with_columns(known_group=group)
            users_path = folder / "users.arrow"
            write_table(users_path, users)
        of_users = [v for v in fields.vocabularies if v.field.side == "user"]
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

    def _keep_log(
        self, log: ScannedLog, fields: Fields, listed: pl.DataFrame | None, rejected: pl.DataFrame
    ) -> dict[str, str]:
        """Keep the checked rows and the features, so that the store can grow; their checksums."""
        names, checksums = keep_rows(log.files, self.staged)
        num_bytes = self.earlier.index.num_bytes if self.earlier is not None else 0
        index = LogIndex(
            num_buckets=log.num_buckets,
            user_type=str(log.user_type),
            item_type=str(log.item_type),
            num_read=log.num_read,
            num_unrated=log.num_unrated,
            num_other_events=log.num_other_events,
            events=log.events,
            num_bytes=num_bytes + source_bytes(self.source),
            has_time=self.source.has_timestamp,
            has_ratings=self.config.has_ratings,
            time_unit=log.time_unit,
            user_features=dict(self.kinds["user"]),
            item_features=dict(self.kinds["item"]),
            files=names,
            buckets=[list(file.buckets) for file in log.files],
        )
        return checksums | index.write(self.staged, self.users, listed, rejected)

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
            notes=(self.earlier.manifest.notes if self.earlier else {}) | self.source.notes,
            checksums={name: sha256(self.store / name) for name in files} | checksums,
        )
        write_manifest(self.store, manifest)

    def _label_range(self) -> list[float] | None:
        """Lowest and highest label, where the options say it."""
        if self.config.is_click:
            return [0.0, 1.0]
        # Sums and counts of ratings have another range than ratings.
        is_rating = self.config.repeats_rule not in ("sum", "count") and not self.config.events
        return self.config.rating_range if is_rating else None


def _nothing(number: int, unit: object) -> dict:
    return {}
