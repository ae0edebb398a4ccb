"""What a log's files hold, how they would be read, and which of their first rows rejected."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.config.data import MAPPED_SOURCES
from greatmeta_dist.data.entities import read_entities
from greatmeta_dist.data.heads import write_heads
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.scan import scan_log
from greatmeta_dist.data.sources import Source, open_source
from greatmeta_dist.data.sources.mapped import sample_columns
from greatmeta_dist.errors import InputError

NUM_EXAMPLES = 3
NOT_USED = "not used"


@dataclass(frozen=True)
class Column:
    """A column of a file, and what it is read as."""

    file: str
    name: str
    type: str
    examples: list[str]
    read_as: str
    """``user``, ``item``, ``rating``, ``timestamp``, a feature with its kind, or ``NOT_USED``;
    empty where that is not clear."""


@dataclass
class Inspection:
    """What was found in a log's first rows."""

    columns: list[Column] = field(default_factory=list)
    problem: str | None = None
    """Why the log cannot be read as the options say."""
    num_rows: int = 0
    """Rows of the log that were looked at."""
    num_unrated: int = 0
    num_other_events: int = 0
    events: dict[str, int] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)
    time_unit: str | None = None
    rejects: pl.DataFrame = field(default_factory=pl.DataFrame)
    """As ``prepare`` would write them (``data/rejects``)."""


def inspect_log(config: DataConfig) -> Inspection:
    """Read the first rows of a log as ``prepare`` would; writes nothing that stays.

    A mapping that is not clear is the ``problem`` of what is returned, beside the columns that
    there are. Raises ``InputError`` where there is nothing to show.
    """
    found = Inspection()
    with TemporaryDirectory(prefix="greatmeta-inspect-") as folder:
        heads, work = Path(folder, "heads"), Path(folder, "work")
        heads.mkdir()
        work.mkdir()
        config = write_heads(config, heads)
        try:
            source = open_source(config, work)
            # However many rejects there are, they are shown.
            config = replace(config, max_rejected_fraction=1.0, max_rejected_feature_fraction=1.0)
            if source.columns is not None:
                config = replace(config, columns=source.columns)
            found.columns, found.hints = _columns_of(source, config, work), source.hints
            rejects = Rejects(work / "rejects.parquet")
            log = scan_log(source, config, rejects, work / "log")
            rejects.read_from_disk()
            for side, table in (("user", source.users), ("item", source.items)):
                if table is not None:
                    read_entities(table, side, rejects, config)
            found.num_rows, found.num_unrated = log.num_read, log.num_unrated
            found.num_other_events, found.events = log.num_other_events, log.events
            found.time_unit, found.rejects = log.time_unit, rejects.table()
        except InputError as error:
            found.problem = str(error).replace(f"{heads / 'path'}/", "")
            if not found.columns and config.source in MAPPED_SOURCES:
                found.columns = _samples(config, work)
            if not found.columns:
                raise InputError(found.problem) from error
        except pl.exceptions.PolarsError as error:
            raise InputError("cannot read the log; check data=<preset> and data.path") from error
    return found


def _samples(config: DataConfig, work: Path) -> list[Column]:
    """The columns of a log of any columns as they are; none where they cannot be read."""
    try:
        samples = sample_columns(config, work, num_rows=NUM_EXAMPLES)
    except InputError:
        return []
    return [Column(file, name, kind, values, "") for file, name, kind, values in samples]


def _columns_of(source: Source, config: DataConfig, work: Path) -> list[Column]:
    """What the source reads, and of files of any columns what it does not."""
    named = asdict(source.columns) if source.columns else {}
    name = source.files[0].name if source.files else config.source
    columns = _read_columns(source.interactions, name, named)
    for side, table in (("users", source.users), ("items", source.items)):
        if table is not None:
            kinds = {"id": f"{side[:-1]} id"} | {
                n: f"{side[:-1]} feature, {k}" for n, k in table.features.items()
            }
            columns += _read_columns(table.frame, side, {}, kinds)
    read = {column.name for column in columns}
    if config.source in MAPPED_SOURCES:
        unused = [c for c in _samples(config, work) if c.name not in read]
        return columns + [replace(column, read_as=NOT_USED) for column in unused]
    for file, names in source.not_used.items():
        columns += [Column(file, column, "", [], NOT_USED) for column in names]
    return columns


def _read_columns(
    frame: pl.LazyFrame,
    file: str,
    named: dict[str, str | None],
    read_as: dict[str, str] | None = None,
) -> list[Column]:
    roles = ("user", "item", "rating", "timestamp", "event")
    read_as = read_as or {n: n for n in roles if n in frame.collect_schema()}
    head = frame.filter(pl.col("reason").is_null()).select(*read_as).head(1000).collect()
    columns = []
    for name, role in read_as.items():
        values = head[name].drop_nulls()
        if named.get(name, name) is not None and (len(values) or name in named):
            examples = [
                str(v) for v in values.unique(maintain_order=True).head(NUM_EXAMPLES).to_list()
            ]
            columns.append(Column(file, named.get(name) or name, type_text(values), examples, role))
    return columns


def type_text(values: pl.Series) -> str:
    """A column's type in words; of text, what all of it may be read as."""
    if values.dtype != pl.String:
        return str(values.dtype)
    present = values.filter(values.str.strip_chars() != "").drop_nulls()
    for name, kind in (("integers", pl.Int64), ("numbers", pl.Float64)):
        if len(present) and present.str.strip_chars().cast(kind, strict=False).null_count() == 0:
            return f"text: {name}"
    return "text"
