"""Every rejected row, with its place and the reason: nothing is lost silently."""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.errors import InputError

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
    """Every rejected row: its file, line, the column at fault, the value there, and the reason."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    on_disk: Path | None = None
    """The log's rejects. They stay on disk until they are known to be few, because a log of which
    every row is bad has as many as it has rows."""

    def add(self, bad: pl.DataFrame, column: str) -> None:
        """Reject rows of ``file``, ``line``, ``reason``, ``text`` and ``column``, that at fault."""
        value = pl.coalesce("text", pl.col(column).cast(pl.String))
        rejected = bad.select("file", "line", column=pl.lit(column), value=value, reason="reason")
        self.frames.append(rejected.cast(REJECT_SCHEMA))

    def table(self) -> pl.DataFrame:
        """All rejects in memory, by file and line."""
        return pl.concat([REJECT_SCHEMA.to_frame(), *self.frames]).sort("file", "line")

    def write(self, store: Path) -> None:
        """Write ``rejects.parquet`` into ``store``."""
        if self.on_disk is None:
            self.table().write_parquet(store / REJECTS)
            return
        in_memory = [frame.lazy() for frame in self.frames]
        everything = pl.concat([pl.scan_parquet(self.on_disk, glob=False), *in_memory])
        everything.sink_parquet(store / REJECTS)

    def require_few(self, num_read: int, config: DataConfig, store: Path) -> None:
        """Raise ``InputError`` where they are more than the allowed share of the rows read."""
        number = sum(map(len, self.frames))
        first_rows = [f.row(0, named=True) for f in self.frames if len(f)]
        first = min(first_rows, key=lambda row: (row["file"], row["line"]), default={})
        if self.on_disk is not None:
            log = pl.scan_parquet(self.on_disk, glob=False)
            number += log.select(pl.len()).collect().item()
            first = next(log.head(1).collect().iter_rows(named=True), first)
        if number > config.max_rejected_fraction * num_read:
            raise InputError(
                f"{number} rows were rejected, more than {config.max_rejected_fraction:g} of "
                f"{num_read}; the first: {first['file']}, line {first['line']}: "
                f"{first['reason']}; see {store / REJECTS}, mend the files or raise "
                "data.max_rejected_fraction"
            )

    def read_from_disk(self) -> None:
        """Read the rejects on disk into memory; for when they are known to be few."""
        if self.on_disk is not None:
            self.frames.append(pl.read_parquet(self.on_disk, glob=False))
            self.on_disk = None
