"""Every rejected row, with its place and the reason: nothing is lost silently."""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from greatmeta_dist.errors import InputError
from greatmeta_dist.files import written_atomically

REJECTS = "rejects.parquet"
REJECT_SCHEMA = pl.Schema(
    {
        "file": pl.String,
        "line": pl.Int64,
        "column": pl.String,
        "value": pl.String,
        "reason": pl.String,
    }
)


@dataclass
class Rejects:
    """Every rejected row: its file, line, the column at fault, the value there, and the reason.

    Rows of the log, of the users' and the items' features and of the split file are counted apart,
    because a fault in one of them costs nothing of the others.
    """

    path: Path
    """Where they are written: ``rejects.parquet`` in the store."""
    frames: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    """By what they are rows of: ``log``, ``users``, ``items`` or ``split``."""
    on_disk: Path | None = None
    """The log's rejects. They stay on disk until they are known to be few, because a log of which
    every row is bad has as many as it has rows."""

    def add(self, bad: pl.DataFrame, column: str, *, of: str) -> None:
        """Reject rows of ``file``, ``line``, ``reason``, ``text`` and ``column``, that at fault."""
        value = pl.coalesce("text", pl.col(column).cast(pl.String))
        rejected = bad.select("file", "line", column=pl.lit(column), value=value, reason="reason")
        if len(rejected):
            self.frames.setdefault(of, []).append(rejected.cast(REJECT_SCHEMA))

    def add_earlier(self, rejected: pl.DataFrame, *, of: str) -> None:
        """Put rows that were rejected before, as ``table_of`` returned them, before the others."""
        if len(rejected):
            self.frames.setdefault(of, []).insert(0, rejected.cast(REJECT_SCHEMA))

    def table_of(self, of: str) -> pl.DataFrame:
        """The rejects in memory of the log, the users, the items or the split."""
        return pl.concat([REJECT_SCHEMA.to_frame(), *self.frames.get(of, [])])

    @property
    def has_any(self) -> bool:
        return self.on_disk is not None or bool(self.frames)

    def count(self, of: str) -> int:
        """Rejected rows of the log, the users, the items or the split."""
        number = sum(map(len, self.frames.get(of, [])))
        if of == "log" and self.on_disk is not None:
            on_disk = pl.scan_parquet(self.on_disk, glob=False)
            number += on_disk.select(pl.len()).collect().item()
        return number

    def table(self) -> pl.DataFrame:
        """All rejects in memory, by file and line."""
        return pl.concat([REJECT_SCHEMA.to_frame(), *self._in_memory()]).sort("file", "line")

    def write(self) -> None:
        """Write ``rejects.parquet``."""
        with written_atomically(self.path) as partial:
            if self.on_disk is None:
                self.table().write_parquet(partial)
                return
            in_memory = [frame.lazy() for frame in self._in_memory()]
            everything = pl.concat([pl.scan_parquet(self.on_disk, glob=False), *in_memory])
            everything.sink_parquet(partial)

    def require_few(self, num_read: int, *, of: str, option: str, limit: float) -> None:
        """Raise ``InputError`` where more than the share ``limit`` of the rows are rejected."""
        number = self.count(of)
        if number > limit * num_read:
            first = self._first(of)
            raise InputError(
                f"{number} rows were rejected, more than {limit:g} of {num_read}; the first: "
                f"{first['file']}, line {first['line']}: {first['reason']}; see {self.path}, mend "
                f"the files or raise {option}"
            )

    def read_from_disk(self) -> None:
        """Read the rejects on disk into memory; for when they are known to be few."""
        if self.on_disk is not None:
            self.frames.setdefault("log", []).append(pl.read_parquet(self.on_disk, glob=False))
            self.on_disk = None

    def _in_memory(self) -> list[pl.DataFrame]:
        return [frame for frames in self.frames.values() for frame in frames]

    def _first(self, of: str) -> dict[str, object]:
        """The first rejected row by file and line; on disk, the first that is there."""
        if of == "log" and self.on_disk is not None:
            first = pl.scan_parquet(self.on_disk, glob=False).head(1).collect()
            if len(first):
                return first.row(0, named=True)
        return pl.concat(self.frames[of]).sort("file", "line").row(0, named=True)
