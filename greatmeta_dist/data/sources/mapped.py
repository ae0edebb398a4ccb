"""CSV, JSON Lines and Parquet logs of any columns: ``data.columns`` says which column is what."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from greatmeta_dist.config import DataConfig
from greatmeta_dist.config.data import AUTO
from greatmeta_dist.data.sources.base import (
    ENTITY_OPTIONS,
    MAPPED_OPTIONS,
    Kind,
    Role,
    Source,
    Table,
    entity_table,
    file_columns,
    interactions_of,
    reads,
    require_feature_names,
    single_value,
)
from greatmeta_dist.data.sources.columns import (
    columns_of,
    entity_column,
    find_columns,
    in_yaml,
    needed_columns,
    other_cases,
    require_known,
    usual_columns,
)
from greatmeta_dist.data.sources.folders import DataFile, files_of, format_of, local_file
from greatmeta_dist.data.sources.json_lines import (
    json_columns,
    list_columns,
    parse_json,
    scan_json,
)
from greatmeta_dist.data.sources.lists import distinct_values, value_list
from greatmeta_dist.data.sources.parquet import parquet_columns, scan_parquet_files
from greatmeta_dist.data.text import INTERNAL, TextFormat, parse_texts, scan_text
from greatmeta_dist.data.values import id_value
from greatmeta_dist.errors import require

NUM_SAMPLED = 1000
"""First rows that tell whether a column of text holds floats."""
MAX_COMPARED = 100
"""Files of a log whose columns are compared with those of the first one."""
MAX_EVENTS = 12
"""A column of more different values says something else than a kind of event."""
ROLES: dict[str, Role] = {
    "user": "id",
    "item": "id",
    "rating": "value",
    "timestamp": "value",
    "event": "id",
}


@reads(*MAPPED_OPTIONS)
def open_csv(config: DataConfig, work: Path) -> Source:
    """Open the CSV file ``data.path`` (local or a URL, perhaps packed) or such a folder."""
    return open_mapped(config, work, "csv")


@reads(*(name for name in MAPPED_OPTIONS if name not in ("has_header",)))
def open_jsonl(config: DataConfig, work: Path) -> Source:
    """Open the file ``data.path`` with a JSON object on each line, or a folder of such files."""
    return open_mapped(config, work, "jsonl")


@reads("path", "columns", "events", *ENTITY_OPTIONS, "separator", "encoding", "list_separator")
def open_parquet(config: DataConfig, work: Path) -> Source:
    """Open the Parquet file ``data.path``, or all of such a folder and the folders in it."""
    return open_mapped(config, work, "parquet")


def open_mapped(config: DataConfig, work: Path, kind: str) -> Source:
    """Open a log of that format, and the features of users and items where these are named."""
    assert config.path is not None
    _check_features(config)
    reader = Reader(config, work)
    log = Files.at(config.path, kind)
    available, name = reader.columns(log), log.files[0].name
    columns = find_columns(config.columns, available, name, needed_columns(config))
    require_known(columns, available, name)
    column_of = columns_of(columns)
    if config.columns.timestamp == AUTO and columns.timestamp is None:
        _require_no_times(reader, log)
    not_used = {name: [c for c in available if c not in column_of.values()]}
    files = [local_file(file, work) for file in log.files]
    tables: dict[str, Table | None] = {"user": None, "item": None}
    for side in tables:
        path = getattr(config, f"{side}s_path")
        if path is not None:
            entities = Files.at(path, format_of(path, kind))
            kinds = dict(getattr(config, f"{side}_features"))
            names = reader.columns(entities)
            id_column = entity_column(column_of[side], side, names, entities.files[0].name)
            tables[side] = reader.table(entities, id_column, kinds)
            unused = [c for c in names if c not in (id_column, *kinds)]
            not_used[entities.files[0].name] = unused
            files += [local_file(file, work) for file in entities.files]
    frames = reader.parts(log, {column_of[k]: ROLES[k] for k in column_of})
    parts = tuple(interactions_of(frame, column_of) for frame in frames)
    return Source(
        pl.concat(parts),
        has_timestamp="timestamp" in column_of,
        users=tables["user"],
        items=tables["item"],
        files=tuple(files),
        columns=columns,
        not_used={name: unused for name, unused in not_used.items() if unused},
        hints=[] if config.events else events_hint(reader, log, available),
        parts=parts,
    )


def _require_no_times(reader: "Reader", log: "Files") -> None:
    """Raise ``InputError`` where the first file has no times, and another one has."""
    for file in log.files[1:MAX_COMPARED]:
        found = usual_columns("timestamp", reader.columns(Files([file], log.kind)))
        require(
            not found,
            f"{file.name} has a column {''.join(found[:1])}, and {log.files[0].name} has none; add "
            "it there, or set data.columns.timestamp=null",
        )


def _check_features(config: DataConfig) -> None:
    """Raise ``InputError`` where columns or features are named that cannot be read."""
    clashing = sorted({*INTERNAL} & {*asdict(config.columns).values()})
    require(
        not clashing,
        f"data.columns names '{''.join(clashing[:1])}', as the preparation calls a column of its "
        "own; rename that column",
    )
    require_feature_names([*config.user_features, *config.item_features])
    for name, feature_kind in {**config.user_features, **config.item_features}.items():
        require(
            feature_kind in ("token", "token_list", "float"),
            f"feature {name} has kind '{feature_kind}'; expected token, token_list or float",
        )
    for side in ("user", "item"):
        path, features = getattr(config, f"{side}s_path"), getattr(config, f"{side}_features")
        require(
            path is not None or not features,
            f"features {', '.join(features)} are named but {side}s_path is not set",
        )
        require(
            path is None or bool(features),
            f"data.{side}s_path={path} is set, and data.{side}_features names no column of it; set "
            f"data.{side}_features='{{COLUMN: token}}'",
        )


def events_hint(reader: "Reader", log: "Files", available: list[str]) -> list[str]:
    """What to type where a log seems to have events, and ``data.events`` is not set."""
    candidates = usual_columns("event", available)
    if len(candidates) != 1:
        return []
    frame = reader.scan(Files(log.files[:1], log.kind), {candidates[0]: "id"})
    value = id_value("event", frame.collect_schema()[candidates[0]], reader.config.missing_values)
    head = frame.rename({candidates[0]: "event"}).head(NUM_SAMPLED)
    found = head.select(value.value.cast(pl.String)).collect().to_series()
    events = found.drop_nulls().unique().sort().to_list()
    if not 1 < len(events) <= MAX_EVENTS:
        return []
    typed = ", ".join(f"{in_yaml(event)}: 1" for event in events)
    return [
        f"column {candidates[0]} says which event a row is ({', '.join(events)}), and every row "
        f"counts alike; to filter and weigh them: data.events='{{{typed}}}'"
    ]


@dataclass(frozen=True)
class Files:
    """Files of one format that together are one table."""

    files: list[DataFile]
    kind: str

    @classmethod
    def at(cls, path: str, kind: str) -> "Files":
        """The file at that path, or all of that folder."""
        return cls(files_of(path, kind), kind)


@dataclass(frozen=True)
class Reader:
    """Reads columns of files of each format, in the frame of a source (``sources/base``)."""

    config: DataConfig
    work: Path
    parsed: dict[str, pl.LazyFrame] = field(default_factory=dict)
    """CSV files, so that each is parsed once."""

    def columns(self, table: Files) -> list[str]:
        """The columns of the first file, and of its folders' keys."""
        file = table.files[0]
        if table.kind == "parquet":
            return parquet_columns(file, self.work)
        if table.kind == "jsonl":
            return json_columns(file, self.work)
        names = file_columns(self._scan_csv(file))
        return [*names, *(key for key in file.keys if key not in names)]

    def scan(self, table: Files, roles: dict[str, Role]) -> pl.LazyFrame:
        """The columns, as they come; of text files, text."""
        frames = self.parts(table, roles)
        return pl.concat(frames) if len(frames) > 1 else frames[0]

    def parts(self, table: Files, roles: dict[str, Role]) -> list[pl.LazyFrame]:
        """The same in one or more frames: of text files, one of each."""
        files, columns = table.files, list(roles)
        if table.kind == "parquet":
            return scan_parquet_files(files, roles, self.work)
        if table.kind == "jsonl":
            lists = list_columns(files, roles, self.work)
            parse_json(files, roles, lists, self.work)
            frames = [scan_json(file, roles, lists, self.work) for file in files]
        else:
            parse_texts({file.path: self._format(file) for file in files}, self.work)
            frames = [self._csv_columns(file, columns) for file in files]
        return [_without_points(frame, roles) for frame in frames]

    def table(self, table: Files, id_column: str, kinds: dict[str, Kind]) -> Table:
        """Users or items with their features."""
        missing = self.config.missing_values
        roles: dict[str, Role] = {id_column: "id"}
        roles |= dict.fromkeys(kinds, "feature")
        frame = self.scan(table, roles)
        schema = frame.collect_schema()
        columns = []
        for name, kind in kinds.items():
            is_list = isinstance(schema[name], pl.List)
            require(
                not is_list or kind == "token_list",
                f"{table.files[0].name}: column {name} holds lists, and its kind is {kind}; say "
                f"{name}: token_list",
            )
            if is_list:
                columns.append(distinct_values(pl.col(name), missing).alias(name))
            elif kind == "token_list":
                columns.append(value_list(name, self.config.list_separator, missing))
            else:
                columns.append(single_value(name, missing))
        return entity_table(frame, id_column, columns, kinds, missing=missing)

    def _csv_columns(self, file: DataFile, columns: list[str]) -> pl.LazyFrame:
        frame = self._scan_csv(file)
        names = file_columns(frame)
        frame = frame.rename(other_cases(columns, names))
        names = file_columns(frame)
        keys = {k: v for k, v in file.keys.items() if k not in names}
        missing = [c for c in columns if c not in names and c not in keys]
        require(
            not missing,
            f"{file.name} has no column {', '.join(missing)}; it has {', '.join([*names, *keys])}",
        )
        frame = frame.with_columns(
            **{c: pl.lit(keys[c], pl.String) for c in columns if c in keys}, file=pl.lit(file.name)
        )
        return frame.select(*columns, "file", "line", "reason", "text")

    def _scan_csv(self, file: DataFile) -> pl.LazyFrame:
        if file.path not in self.parsed:
            self.parsed[file.path] = scan_text(file.path, self._format(file), self.work)
        return self.parsed[file.path]

    def _format(self, file: DataFile) -> TextFormat:
        separator = "\t" if ".tsv" in file.name and self.config.separator == "," else None
        return TextFormat(
            separator or self.config.separator,
            has_header=self.config.has_header,
            is_quoted=self.config.separator != "::",
            encoding=self.config.encoding,
        )


def _without_points(frame: pl.LazyFrame, roles: dict[str, Role]) -> pl.LazyFrame:
    """The frame with ids such as 7.0 as 7, where a column has such ones only.

    Many tools write a column of integers with a missing value as floats.
    """
    ids = [column for column, role in roles.items() if role == "id"]
    sample = frame.select(ids).head(NUM_SAMPLED).collect()
    pattern = r"^(\s*-?\d+)\.0+\s*$"
    floats = []
    for column in ids:
        values = sample[column].drop_nulls()
        values = values.filter(values.str.contains(r"\d"))
        if len(values) and values.str.contains(pattern).all():
            floats.append(column)
    return frame.with_columns(pl.col(c).str.replace(pattern, "$1") for c in floats)


def sample_columns(
    config: DataConfig, work: Path, *, num_rows: int
) -> list[tuple[str, str, str, list[str]]]:
    """Each column of the first file of a log: file, name, type, and its first values as text."""
    assert config.path is not None
    table = Files.at(config.path, config.source)
    file = table.files[0]
    if table.kind == "parquet":
        with pq.ParquetFile(local_file(file, work)) as parquet:
            batch = next(parquet.iter_batches(batch_size=num_rows), None)
            schema = parquet.schema_arrow
        columns = [
            (f.name, str(f.type), [] if batch is None else batch.column(k).to_pylist())
            for k, f in enumerate(schema)
        ]
    else:
        reader = Reader(config, work)
        names = reader.columns(table)
        one_file = Files([file], table.kind)
        roles: dict[str, Role] = dict.fromkeys(names, "value")
        head = reader.scan(one_file, roles).head(num_rows).collect()
        columns = [(name, "text", head[name].to_list()) for name in names]
    return [
        (file.name, name, kind, [str(v) for v in values if v is not None])
        for name, kind, values in columns
    ]
