"""A log of users → the best items of each, in files: the phases of a batch recommendation.

The log is checked in units of rows, which go to buckets of users (``data/scan``). Each bucket's
rows are grouped by user, users are recommended to in units of about equal work, and what these
wrote is joined. What a unit is depends on the log and the catalogue alone, so any number of workers
writes the same bytes. Units that have ended are never run again: a recommendation that was stopped,
by whatever, goes on.
"""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.asked_users import AskedUsers, open_asked
from greatmeta_dist.data.costs import ROW_BYTES
from greatmeta_dist.data.fingerprint import files_in, hash_files
from greatmeta_dist.data.grouped_users import (
    GroupedUsers,
    ScannedUsers,
    group_costs,
    group_users,
    is_text,
    items_behind,
    rows_of_parts,
    scan_users,
)
from greatmeta_dist.data.item_list import read_items
from greatmeta_dist.data.manifest import ITEM_ID
from greatmeta_dist.data.new_item_file import read_new_items
from greatmeta_dist.data.phases import Phases, shared_with_sources
from greatmeta_dist.data.recommendations import join_files, made_from, recommendation_schema
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.units import Result, RunUnits
from greatmeta_dist.data.user_tasks import write_user_hashes
from greatmeta_dist.errors import require
from greatmeta_dist.files import write_text_atomically
from greatmeta_dist.recommend.batch_request import Request, Summary, TrainedModel
from greatmeta_dist.recommend.evidence_unit import (
    EVIDENCE,
    EvidenceUnit,
    read_evidence,
    write_evidence,
    write_items_file,
)
from greatmeta_dist.recommend.loaded_model import LoadsModel
from greatmeta_dist.recommend.new_users import is_whole_id
from greatmeta_dist.recommend.recommend_unit import RECOMMEND, WHY, RecommendUnit

WRITE = "write"
SCORES_PER_UNIT = 1 << 27
"""Items of all users of a unit, about: some seconds of one processor."""
MIN_USERS, MAX_USERS = 64, 4096
"""Of a unit; whoever stops a recommendation waits for those that are under way."""
USER_COST, SCORE_COST = 5e-4, 4e-8
"""Seconds for a user, and for each item of the catalogue that is scored, about."""
USER_EVIDENCE_COST = 2e-5
"""Seconds to look for a user's ratings of new items, about."""
ROWS_PER_USER = 20
"""About, before the users are counted."""
ROW_COST = 1e-6
"""Seconds to join a row of the output."""
VERSION = 1
"""Raise it whenever the same input gives other files."""


class BatchRecommendation:
    """The phases of one batch recommendation, with what they pass on."""

    def __init__(
        self, request: Request, model: TrainedModel, work: Path, phases: Phases, rejects: Rejects
    ):
        """``work`` is a folder for what is not kept."""
        self.request, self.model, self.work, self.phases = request, model, work, phases
        self.rejects, self.summary = rejects, Summary()

    def run(
        self,
        config: DataConfig,
        typed: Collection[str],
        run_model_units: RunUnits | None,
        phases_beside: Phases,
    ) -> tuple[Path | None, Summary]:
        """Make the recommendations; returns where they are, and what became of the users.

        That is None where the same ones are at ``out`` already. ``run_model_units`` says who
        recommends; by default whoever does all else. ``phases_beside`` runs what the log
        ``ratings`` needs.
        """
        request, summary = self.request, self.summary
        num_bytes = sum(path.stat().st_size for path in files_in(request.users))
        self._expect(num_bytes // ROW_BYTES, num_bytes, is_text=True)
        asked = self._open(request.users, config, typed, self.phases, "users")
        summary.is_list = asked.is_list
        if asked.source.columns is not None:
            summary.columns = asdict(asked.source.columns)
        part_rows = rows_of_parts(asked)
        self._expect(sum(part_rows), num_bytes, is_text=is_text(asked))
        beside = None
        if request.ratings is not None:
            without_features = replace(config, users_path=None, user_features={})
            beside = self._open(request.ratings, without_features, typed, phases_beside, "ratings")
            require(not beside.is_list, f"ratings={request.ratings} has no column of items")
        listed, candidate_tokens = self._listed_items(), self._candidate_tokens()
        key = self._key([asked, *([beside] if beside else [])])
        if self._is_made(key):
            summary.is_new = False
            return None, summary
        scanned = self._scan(asked, self.phases, "log", self.rejects, part_rows)
        logs = [(scanned, self.phases)]
        if beside is not None:
            rejects = Rejects(self.rejects.path.with_suffix(".ratings.parquet"))
            rows = rows_of_parts(beside)
            logs.append(
                (self._scan(beside, phases_beside, "log-beside", rejects, rows), phases_beside)
            )
        added = self._added([log for log, _ in logs], listed)
        grouped = [
            group_users(log, self.model.catalogue, self.model.user_fields, phases, added=[*added])
            for log, phases in logs
        ]
        summary.counts = grouped[0].counts
        summary.beside = grouped[1].counts if beside else None
        items = [*self.model.catalogue.item_tokens(), *added]
        self.phases.expect(self._costs(summary.counts.users, len(items)))
        load = self._learnt(grouped, items, added)
        candidates = self._candidates(items, candidate_tokens)
        summary.items = len(items) if candidates is None else len(candidates)
        are_whole = grouped[0].has_whole_items and all(map(is_whole_id, items))
        item_type = pa.int64() if are_whole else pa.string()
        why = [WHY] if request.explain else []
        schema = recommendation_schema(grouped[0].user_type, item_type, key, why)
        unit = RecommendUnit(
            load,
            grouped[0].tasks,
            schema,
            request.k,
            request.exclude_seen,
            candidates,
            self.phases.folder_of(RECOMMEND),
            request.explain,
        )
        pieces = self._recommend(unit, grouped[0].users_of_bucket, len(items), run_model_units)
        return self._join(pieces, schema), summary

    def _open(
        self, path: str, config: DataConfig, typed: Collection[str], phases: Phases, option: str
    ) -> AskedUsers:
        work = self.work / option
        work.mkdir(exist_ok=True)
        manifest = self.model.catalogue.manifest
        with shared_with_sources(phases):
            return open_asked(path, config, manifest, work, typed=typed, option=option)

    def _scan(
        self, asked: AskedUsers, phases: Phases, name: str, rejects: Rejects, rows: Sequence[int]
    ) -> ScannedUsers:
        return scan_users(
            asked,
            self.model.user_fields,
            phases,
            part_rows=rows,
            work=self.work / name,
            rejects=rejects,
        )

    def _expect(self, num_rows: int, num_bytes: int, *, is_text: bool) -> None:
        """Tell the phases what is to come, before the users are counted."""
        costs = group_costs(num_rows, num_bytes, is_text=is_text)
        num_items = self.model.catalogue.manifest.num_items
        self.phases.expect({**costs, **self._costs(1 + num_rows // ROWS_PER_USER, num_items)})

    def _costs(self, num_users: int, num_items: int) -> dict[str, float]:
        rows = num_users * min(self.request.k, num_items)
        return {
            EVIDENCE: USER_EVIDENCE_COST * num_users if self.request.new_items else 0.0,
            RECOMMEND: num_users * (USER_COST + SCORE_COST * num_items),
            WRITE: ROW_COST * rows,
        }

    def _key(self, logs: Sequence[AskedUsers]) -> str:
        """What the recommendations are made from: the same key is the same bytes."""
        request = self.request
        files = [path for log in logs for path in log.source.files]
        named = [path for name in (request.candidates, request.items) for path in files_in(name)]
        hashes = hash_files([*files, *named], self.phases)
        options = [
            {k: v for k, v in asdict(log.config).items() if not k.endswith("path")} for log in logs
        ]
        what = [request.k, request.exclude_seen, request.new_items, request.explain]
        what += [request.candidates is not None, request.items is not None]
        content = [VERSION, [*self.model.identity], what, options, [p.name for p in files], hashes]
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def _is_made(self, key: str) -> bool:
        """Whether the same recommendations are at ``out``; raises ``InputError`` for others."""
        out = self.request.out
        is_empty = out.is_dir() and not any(out.iterdir())
        if not out.exists() or is_empty:
            return False
        require(
            made_from(out) == key,
            f"{out} holds recommendations of another run, of other users or with other options; "
            "choose another out=FILE, or delete it",
        )
        return True

    def _listed_items(self) -> dict[str, dict[str, Any]] | None:
        """The new items of ``items`` with their features; None where no file is named."""
        if self.request.items is None:
            return None
        manifest = self.model.catalogue.manifest
        fields = [f for f in manifest.fields if f.side == "item" and f.name != ITEM_ID]
        found = read_new_items(
            self.request.items, fields, self._item_in_log, self.work, self.rejects
        )
        self.summary.unused_item_columns = found.not_used
        return found.items

    def _added(
        self, logs: Sequence[ScannedUsers], listed: dict[str, dict[str, Any]] | None
    ) -> dict[str, dict[str, Any]]:
        """New items with their features: those that are listed, or else those that are rated."""
        if not self.request.new_items:
            return {}
        known = self.model.catalogue.item_tokens()
        if listed is None:
            return {token: {} for token in items_behind(logs, known)}
        in_catalogue = set(known)
        return {token: f for token, f in listed.items() if token not in in_catalogue}

    @property
    def _item_in_log(self) -> str:
        """How the run's log calls the item."""
        return str(self.model.catalogue.manifest.recipe["columns"]["item"])

    def _candidate_tokens(self) -> list[str] | None:
        path = self.request.candidates
        if path is None:
            return None
        return read_items(path, "candidates", self._item_in_log, self.work)

    def _candidates(self, items: Sequence[str], tokens: list[str] | None) -> tuple[int, ...] | None:
        """Indices of the only items that may be recommended; None for all."""
        if tokens is None:
            return None
        asked = set(tokens)
        known = tuple(index for index, token in enumerate(items) if token in asked)
        require(
            bool(known),
            f"none of the {len(tokens)} items of candidates={self.request.candidates} is in the "
            f"catalogue; the first is {tokens[0]}",
        )
        self.summary.candidates = len(tokens)
        self.summary.unknown_candidates = len(tokens) - len(known)
        return known

    def _learnt(
        self,
        grouped: Sequence[GroupedUsers],
        items: Sequence[str],
        added: dict[str, dict[str, Any]],
    ) -> LoadsModel:
        """The model that knows new items by their features, and by their ratings in the logs."""
        if not self.request.new_items:
            return self.model.load
        folder = self.phases.folder_of(EVIDENCE)
        unit = EvidenceUnit(
            self.model.load, str(folder / "items.npy"), str(folder / "asked.npy"), folder
        )
        write_items_file(Path(unit.items), items)
        write_user_hashes(Path(unit.asked), [Path(t) for t, _, _ in _buckets(grouped[:1])])
        units = _buckets(grouped)
        results = self.phases.run(EVIDENCE, unit, units, unit_costs=[n for _, n, _ in units])
        ratings = sum(result["ratings"] for result in results)
        self.summary.added_items, self.summary.new_item_ratings = len(added), ratings
        if not ratings and not added:
            return self.model.load
        evidence = self.model.load.new_item_evidence()
        for number in range(len(units)):
            evidence = read_evidence(unit.path(number), evidence)
        write_evidence(self.work / "evidence.npz", evidence)
        write_text_atomically(self.work / "items.json", json.dumps(added))
        return self.model.load.with_new_items(
            str(self.work / "evidence.npz"), str(self.work / "items.json")
        )

    def _recommend(
        self,
        unit: RecommendUnit,
        users_of_bucket: Sequence[int],
        num_items: int,
        run_units: RunUnits | None,
    ) -> list[list[Path]]:
        """Recommend to all users; the pieces that were written, by bucket."""
        size = min(max(SCORES_PER_UNIT // max(num_items, 1), MIN_USERS), MAX_USERS)
        units = _units(users_of_bucket, size)
        counts = [count for _, _, count in units]
        num_before = self.phases.num_done(RECOMMEND, counts)
        start = time.monotonic()
        results = self.phases.run(RECOMMEND, unit, units, unit_costs=counts, run_units=run_units)
        seconds = max(time.monotonic() - start, 1e-3)
        self.summary.users_per_second = (sum(counts) - num_before) / seconds
        self.summary.rows = sum(result["rows"] for result in results)
        self.summary.no_items = sum(result["no_items"] for result in results)
        pieces: list[list[Path]] = [[] for _ in users_of_bucket]
        for number, (bucket, _, _) in enumerate(units):
            pieces[bucket].append(unit.path(number))
        return [paths for paths in pieces if paths]

    def _join(self, pieces: list[list[Path]], schema: pa.Schema) -> Path:
        """Join the pieces, into one file for each bucket, or into one file at all."""
        folder = self.work / "lists"
        folder.mkdir(exist_ok=True)
        if self.request.is_one_file:
            pieces = [[path for paths in pieces for path in paths]]
        join = _JoinUnit(schema, folder)
        self.phases.run(WRITE, join, [[str(path) for path in paths] for paths in pieces])
        return join.path(0) if self.request.is_one_file else folder


def _buckets(grouped: Sequence[GroupedUsers]) -> list[list[Any]]:
    """Units of ``EvidenceUnit``: of each log the buckets that have users."""
    return [
        [log.tasks.format(bucket), num_users, number > 0]
        for number, log in enumerate(grouped)
        for bucket, num_users in enumerate(log.users_of_bucket)
        if num_users
    ]


@dataclass(frozen=True)
class _JoinUnit:
    """Joins files; a unit is their paths."""

    schema: pa.Schema
    folder: Path

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def __call__(self, number: int, unit: Sequence[str]) -> Result:
        return {"rows": join_files([Path(p) for p in unit], self.path(number), self.schema)}


def _units(users_of_bucket: Sequence[int], size: int) -> list[list[int]]:
    """``[bucket, first user, number of users]``: parts of buckets of at most ``size`` users."""
    return [
        [bucket, first, min(size, num_users - first)]
        for bucket, num_users in enumerate(users_of_bucket)
        for first in range(0, num_users, size)
    ]
