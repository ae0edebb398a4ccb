"""A log of users → the best items of each, in files: the phases of a batch recommendation.

The log is checked in units of rows, which go to buckets of users (``data/scan``). Each bucket's
rows are grouped by user, users are recommended to in units of about equal work, and what these
wrote is joined. What a unit is depends on the log and the catalogue alone, so any number of workers
writes the same bytes. Units that have ended are never run again: a recommendation that was stopped,
by whatever, goes on.
"""

import hashlib
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.asked_users import AskedUsers, open_asked
from greatmeta_dist.data.costs import ROW_BYTES
from greatmeta_dist.data.fingerprint import files_in, hash_files
from greatmeta_dist.data.grouped_users import (
    AskedCounts,
    GroupedUsers,
    group_costs,
    group_users,
    is_text,
    rows_of_parts,
)
from greatmeta_dist.data.item_list import read_items
from greatmeta_dist.data.phases import Phases, shared_with_sources
from greatmeta_dist.data.recommendations import join_files, made_from, recommendation_schema
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.units import Result, RunUnits
from greatmeta_dist.errors import require
from greatmeta_dist.recommend.ranker import Ranker
from greatmeta_dist.recommend.recommend_unit import RECOMMEND, WHY, LoadRanker, RecommendUnit

WRITE = "write"
SCORES_PER_UNIT = 1 << 27
"""Items of all users of a unit, about: some seconds of one processor."""
MIN_USERS, MAX_USERS = 64, 4096
"""Of a unit; whoever stops a recommendation waits for those that are under way."""
USER_COST, SCORE_COST = 5e-4, 4e-8
"""Seconds for a user, and for each item of the catalogue that is scored, about."""
ROWS_PER_USER = 20
"""About, before the users are counted."""
ROW_COST = 1e-6
"""Seconds to join a row of the output."""
VERSION = 1
"""Raise it whenever the same input gives other files."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    users: str
    out: Path
    k: int = 10
    exclude_seen: bool = True
    candidates: str | None = None
    explain: int = 0
    """Reasons for each item, in words."""

    @property
    def is_one_file(self) -> bool:
        return self.out.suffix == ".parquet"


@dataclass(frozen=True)
class TrainedModel:
    """A run's model in this process, and how others load it."""

    ranker: Ranker
    load: LoadRanker
    identity: Sequence[Any]
    """Plain values that are others for another model."""


@dataclass
class Summary:
    """What became of the users."""

    is_new: bool = True
    """False where the same recommendations were there before."""
    counts: AskedCounts = field(default_factory=AskedCounts)
    columns: dict[str, str | None] = field(default_factory=dict)
    """The log's columns, where ``data.columns`` is read."""
    is_list: bool = False
    """Whether nothing was known of any user."""
    rows: int = 0
    """Recommendations."""
    no_items: int = 0
    """Users who got none."""
    candidates: int = 0
    """Candidates of the catalogue, with ``candidates``; others are ``unknown_candidates``."""
    unknown_candidates: int = 0
    users_per_second: float = 0.0
    """Of those that were recommended to since this start."""


class BatchRecommendation:
    """The phases of one batch recommendation, with what they pass on."""

    def __init__(
        self, request: Request, model: TrainedModel, work: Path, phases: Phases, rejects: Rejects
    ):
        """``work`` is a folder for what is not kept."""
        self.request, self.model, self.work, self.phases = request, model, work, phases
        self.rejects, self.summary = rejects, Summary()

    def run(
        self, config: DataConfig, typed: Collection[str], run_model_units: RunUnits | None
    ) -> tuple[Path | None, Summary]:
        """Make the recommendations; returns where they are, and what became of the users.

        That is None where the same ones are at ``out`` already. ``run_model_units`` says who
        recommends; by default whoever does all else.
        """
        catalogue = self.model.ranker.new_users.catalogue
        request, summary = self.request, self.summary
        num_bytes = sum(path.stat().st_size for path in files_in(request.users))
        self._expect(num_bytes // ROW_BYTES, num_bytes, is_text=True)
        with shared_with_sources(self.phases):
            asked = open_asked(request.users, config, catalogue.manifest, self.work, typed=typed)
        summary.is_list = asked.is_list
        if asked.source.columns is not None:
            summary.columns = asdict(asked.source.columns)
        candidates = self._candidates()
        part_rows = rows_of_parts(asked)
        self._expect(sum(part_rows), num_bytes, is_text=is_text(asked))
        key = self._key(asked, candidates)
        if self._is_made(key):
            summary.is_new = False
            return None, summary
        fields = catalogue.fields("user", self.model.ranker.new_users.feature_spec)
        grouped = group_users(
            asked,
            catalogue,
            fields,
            self.phases,
            part_rows=part_rows,
            work=self.work,
            rejects=self.rejects,
        )
        summary.counts = grouped.counts
        self.phases.expect(self._costs(grouped.counts.users))
        schema = recommendation_schema(
            grouped.user_type, grouped.item_type, key, [WHY] if request.explain else []
        )
        pieces = self._recommend(grouped, candidates, schema, run_model_units)
        return self._join(pieces, schema), summary

    def _expect(self, num_rows: int, num_bytes: int, *, is_text: bool) -> None:
        """Tell the phases what is to come, before the users are counted."""
        costs = group_costs(num_rows, num_bytes, is_text=is_text)
        self.phases.expect({**costs, **self._costs(num_rows // ROWS_PER_USER)})

    def _costs(self, num_users: int) -> dict[str, float]:
        each = USER_COST + SCORE_COST * self._num_items
        rows = num_users * min(self.request.k, self._num_items)
        return {RECOMMEND: num_users * each, WRITE: ROW_COST * rows}

    @property
    def _num_items(self) -> int:
        return len(self.model.ranker.new_users.items)

    def _candidates(self) -> tuple[int, ...] | None:
        """Indices of the only items that may be recommended; None for all."""
        if self.request.candidates is None:
            return None
        new_users = self.model.ranker.new_users
        in_log = new_users.catalogue.manifest.recipe["columns"]["item"]
        tokens = read_items(self.request.candidates, "candidates", in_log, self.work)
        indices = np.unique(new_users.indices(tokens))
        known = indices[indices < self._num_items]
        require(
            bool(len(known)),
            f"none of the {len(tokens)} items of candidates={self.request.candidates} is in the "
            f"catalogue; the first is {tokens[0]}",
        )
        self.summary.candidates = len(known)
        self.summary.unknown_candidates = len(tokens) - len(known)
        return tuple(known.tolist())

    def _key(self, asked: AskedUsers, candidates: tuple[int, ...] | None) -> str:
        """What the recommendations are made from: the same key is the same bytes."""
        hashes = hash_files(asked.source.files, self.phases)
        names = [path.name for path in asked.source.files]
        options = {k: v for k, v in asdict(asked.config).items() if not k.endswith("path")}
        request = [self.request.k, self.request.exclude_seen, candidates, self.request.explain]
        content = [VERSION, [*self.model.identity], request, options, names, hashes]
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

    def _recommend(
        self,
        grouped: GroupedUsers,
        candidates: tuple[int, ...] | None,
        schema: pa.Schema,
        run_units: RunUnits | None,
    ) -> list[list[Path]]:
        """Recommend to all users; the pieces that were written, by bucket."""
        unit = RecommendUnit(
            self.model.load,
            grouped.tasks,
            schema,
            self.request.k,
            self.request.exclude_seen,
            candidates,
            self.phases.folder_of(RECOMMEND),
            self.request.explain,
        )
        size = min(max(SCORES_PER_UNIT // max(self._num_items, 1), MIN_USERS), MAX_USERS)
        units = _units(grouped.users_of_bucket, size)
        counts = [count for _, _, count in units]
        num_before = self.phases.num_done(RECOMMEND, counts)
        start = time.monotonic()
        results = self.phases.run(RECOMMEND, unit, units, unit_costs=counts, run_units=run_units)
        seconds = max(time.monotonic() - start, 1e-3)
        self.summary.users_per_second = (sum(counts) - num_before) / seconds
        self.summary.rows = sum(result["rows"] for result in results)
        self.summary.no_items = sum(result["no_items"] for result in results)
        pieces: list[list[Path]] = [[] for _ in grouped.users_of_bucket]
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
