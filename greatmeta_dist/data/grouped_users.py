"""The users that recommendations are asked for → their tasks, in buckets on disk."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from greatmeta_dist.data.asked_users import AskedUsers
from greatmeta_dist.data.costs import CHECK_COST, CHECK_TEXT_COST, HASH_COST
from greatmeta_dist.data.entities import read_entities
from greatmeta_dist.data.fingerprint import HASH
from greatmeta_dist.data.histories import repeat_reason
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.phases import Phases
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.scan import CHECK, ScannedLog, count_rows, scan_log
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tables import read_tables
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.user_tasks import GROUP, GroupUnit, write_asked_context
from greatmeta_dist.data.vocabulary import read_vocabularies
from greatmeta_dist.errors import InputError, require

ROWS_PER_BUCKET = 1 << 18
"""A bucket is read into memory as a whole; packed files say little of how large that is."""
MAX_BUCKETS = 256
GROUP_COST = 0.5
"""Seconds that grouping a million rows takes, about."""


@dataclass
class AskedCounts:
    """What became of the rows of a log or list of users."""

    read: int = 0
    rows: int = 0
    """Ratings or clicks that are known of users, repeats merged."""
    users: int = 0
    unknown_users: int = 0
    """Users of whom no row is known."""
    long_users: int = 0
    """Users of whom more is known than a support may have."""
    repeats: int = 0
    unrated: int = 0
    other_events: int = 0
    rejected: int = 0
    first_rejected: str | None = None
    """Where the first rejected row is, and why it is one."""
    rejected_features: int = 0
    """Faults in the users' features."""
    unknown_rows: int = 0
    """Those of ``rows`` that are of items which the catalogue does not have."""
    unknown_items: int = 0
    first_unknown_item: str | None = None
    unknown_values: dict[str, int] = field(default_factory=dict)
    """By feature: values that no training user had, or too few."""


@dataclass(frozen=True)
class GroupedUsers:
    """Users with what is known of them, in buckets."""

    counts: AskedCounts
    users_of_bucket: list[int]
    tasks: str
    """Where the tasks of buckets are, with ``{}`` for the number of the bucket."""
    user_type: pa.DataType
    """Of ids: int64 or text, as in the log."""
    has_whole_items: bool
    """Whether the log has whole numbers for items."""


def rows_of_parts(asked: AskedUsers) -> list[int]:
    """The rows of each part of a log; raises ``InputError`` where it has none."""
    part_rows = count_rows(asked.source)
    name = asked.source.files[0].name if asked.source.files else "it"
    require(
        sum(part_rows) > 0,
        f"{asked.option}={asked.config.path}: {name} holds no row below its header",
    )
    return part_rows


def group_costs(num_rows: int, num_bytes: int, *, is_text: bool) -> dict[str, float]:
    """Seconds of each phase up to grouping such a log, about."""
    check, millions = CHECK_TEXT_COST if is_text else CHECK_COST, num_rows / 1e6
    hashing = HASH_COST * num_bytes / 1e9
    return {HASH: hashing, CHECK: check * millions, GROUP: GROUP_COST * millions}


def is_text(asked: AskedUsers) -> bool:
    """Whether the log's ids are text."""
    return bool(asked.source.frames[0].collect_schema()["user"] == pl.String)


@dataclass(frozen=True)
class ScannedUsers:
    """A log whose rows were checked."""

    asked: AskedUsers
    log: ScannedLog
    users: pl.DataFrame | None
    """The users' features by ``id``, where the model reads some and a file has them."""
    rejects: Rejects


def scan_users(
    asked: AskedUsers,
    fields: Sequence[Field],
    phases: Phases,
    *,
    part_rows: Sequence[int],
    work: Path,
    rejects: Rejects,
) -> ScannedUsers:
    """Check every row of a log; ``fields`` are the users' features that the model reads.

    Raises ``InputError`` where too many rows are rejected, which are written then.
    """
    source, users = asked.source, None
    with _rejects_written(rejects):
        if source.users is not None and fields:
            users = read_entities(source.users, "user", rejects, asked.config)
        log = scan_log(
            source,
            asked.config,
            rejects,
            work,
            phases=phases,
            part_rows=part_rows,
            keeps_users=True,
            least_buckets=_num_buckets(sum(part_rows)),
        )
        _require_few_rejected(rejects, log, asked)
    rejects.read_from_disk()
    return ScannedUsers(asked, log, users, rejects)


def _num_buckets(num_rows: int) -> int:
    """A power of two, such that a bucket has about ``ROWS_PER_BUCKET`` rows, or less."""
    number = 1
    while number < MAX_BUCKETS and number * ROWS_PER_BUCKET < num_rows:
        number *= 2
    return number


def items_behind(scans: Sequence[ScannedUsers], catalogue: Sequence[str]) -> list[str]:
    """The items of some logs that a catalogue does not have, ascending."""
    tokens = pl.concat([scan.log.items.cast(pl.String) for scan in scans]).unique().sort()
    known = pl.Series(catalogue, dtype=pl.String)
    return tokens.filter(~tokens.is_in(known.implode())).to_list()


def group_users(
    scanned: ScannedUsers,
    catalogue: Store,
    fields: Sequence[Field],
    phases: Phases,
    *,
    added: Sequence[str],
) -> GroupedUsers:
    """Group a log's rows by user; rejects are written where there are any.

    ``added`` are items behind the catalogue's. Raises ``InputError`` where too many rows are
    rejected as repeats, or none names a user.
    """
    asked, log, rejects = scanned.asked, scanned.log, scanned.rejects
    folder, trained = phases.folder_of(GROUP), catalogue.item_tokens()
    write_asked_context(folder, log, [*trained, *added], scanned.users)
    unit = GroupUnit(
        log,
        asked.config,
        asked.source.has_timestamp,
        len(trained),
        len(trained) + len(added),
        read_vocabularies(catalogue.folder, fields),
        folder,
    )
    results = phases.run(GROUP, unit, range(log.num_buckets))
    with _rejects_written(rejects):
        _add_repeats(rejects, unit, asked)
        _require_few_rejected(rejects, log, asked)
    counts = _counts(log, results, rejects)
    unknown = items_behind([scanned], trained)
    counts.unknown_items, counts.first_unknown_item = len(unknown), next(iter(unknown), None)
    require(counts.users > 0, f"{asked.option}={asked.config.path} names no user")
    if rejects.has_any:
        rejects.write()
    return GroupedUsers(
        counts,
        [result["users"] for result in results],
        str(folder / "tasks-{}.arrow"),
        pa.string() if log.user_type == pl.String else pa.int64(),
        has_whole_items=log.item_type != pl.String,
    )


@contextmanager
def _rejects_written(rejects: Rejects) -> Iterator[None]:
    """Write the rejects where the block ends in bad input: they say what is to be mended."""
    try:
        yield
    except InputError:
        if rejects.has_any:
            rejects.write()
        raise


def _require_few_rejected(rejects: Rejects, log: ScannedLog, asked: AskedUsers) -> None:
    rejects.require_few(
        log.num_read,
        of="log",
        option="data.max_rejected_fraction",
        limit=asked.config.max_rejected_fraction,
    )


def _add_repeats(rejects: Rejects, unit: GroupUnit, asked: AskedUsers) -> None:
    """Reject the rows that repeat another one, where ``data.repeats`` says so."""
    paths = [unit.rejects_path(k) for k in range(unit.log.num_buckets)]
    for rows in read_tables(paths):
        repeats = rows.with_columns(
            line="line_in_file",
            reason=pl.lit(repeat_reason(asked.config)),
            text=pl.lit(None, pl.String),
        )
        rejects.add(repeats, "item", of="log")


def _counts(log: ScannedLog, results: Sequence[Result], rejects: Rejects) -> AskedCounts:
    def total(name: str) -> int:
        return sum(result[name] for result in results)

    unknown_values: dict[str, int] = {}
    for result in results:
        for name, number in result["unknown_values"].items():
            unknown_values[name] = unknown_values.get(name, 0) + number
    first: dict[str, Any] | None = None
    if rejects.has_any:
        first = rejects.table().row(0, named=True)
    return AskedCounts(
        read=log.num_read,
        rows=total("rows"),
        users=total("users"),
        unknown_users=total("unknown_users"),
        long_users=total("long_users"),
        repeats=total("repeats"),
        unrated=log.num_unrated,
        other_events=log.num_other_events,
        rejected=rejects.count("log"),
        first_rejected=f"{first['file']}, line {first['line']}: {first['reason']}"
        if first
        else None,
        rejected_features=rejects.count("users"),
        unknown_rows=total("unknown_rows"),
        unknown_values={name: n for name, n in unknown_values.items() if n},
    )
