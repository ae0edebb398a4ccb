"""Parquet files of one log → one frame, though their types differ.

Parts of a folder may differ in number types, in the order of columns, and in columns that nobody
asked for. Parts of the same types are one scan, so that ten thousand small files are read as one.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from greatmeta_dist.data.phases import run_phase
from greatmeta_dist.data.sources.base import Role
from greatmeta_dist.data.sources.columns import other_cases
from greatmeta_dist.data.sources.folders import DataFile, local_file
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.values import as_text, moment
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import written_atomically

BATCH_ROWS = 1 << 19
MAX_GROUP_ROWS = 1 << 22
MAX_FORM_FILES = 512
"""Whoever reads rows amid many files opens those before them, too."""
MAX_PRECISION = 38
"""Digits of a decimal that Polars has."""
CONVERT_COST = 0.3
"""Seconds that a million rows take, about."""

INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
PATH, ROW = "path of file ", "row of log "
"""Columns that a scan adds. They end in a space, because a file may have any plain name."""


@dataclass
class _Form:
    """Files in a row whose columns of interest have the same types."""

    types: dict[str, pl.DataType]
    paths: list[Path] = field(default_factory=list)
    shifts: list[int] = field(default_factory=list)
    """Of each file: its first row in the log, less its first row in this form."""
    num_rows: int = 0


Footer = tuple[Path, pq.FileMetaData, pa.Schema]
"""Where a file is that Polars can read, and what its footer says."""


def parquet_columns(file: DataFile, work: Path) -> list[str]:
    """The names of a file's columns, and of the keys of its folders."""
    names = _footer(file, local_file(file, work))[1].names
    return [*dict.fromkeys(names), *(key for key in file.keys if key not in names)]


def scan_parquet_files(
    files: Sequence[DataFile], roles: dict[str, Role], work: Path
) -> list[pl.LazyFrame]:
    """Columns of Parquet files, in frames of a source (``sources/base``): one for each form.

    A column has one type throughout: that of all files, or one that holds all their values.
    ``line`` is the row in its file. Raises ``InputError`` where a file is unreadable or lacks a
    column, or a column is of a type that its role has no use for.
    """
    footers = _footers(files, list(roles), work)
    forms, first_rows = _forms(files, footers, roles)
    common = {c: _common_type([f.types[c] for f in forms], r) for c, r in roles.items()}
    folder = Path(files[0].path.removesuffix(files[0].name)).name
    for column, kind in common.items():
        require(
            kind is not None,
            f"{folder}: column {column} holds lists in some files, and no lists in others",
        )
    paths = [str(path) for path, _, _ in footers]
    keys = {path: file.keys for path, file in zip(paths, files, strict=True)}
    frames = [_scan(form, roles, common, keys) for form in forms]
    name, before = pl.lit(files[0].name), pl.lit(0)
    if len(files) > 1:
        number = pl.col(PATH).replace_strict(paths, range(len(paths)), return_dtype=pl.UInt32)
        name = pl.lit(pl.Series([file.name for file in files])).gather(number)
        before = pl.lit(pl.Series(first_rows, dtype=pl.Int64)).gather(number)
    nothing = pl.lit(None, pl.String)
    line = pl.col(ROW).cast(pl.Int64) + 1 - before
    return [f.select(*roles, file=name, line=line, reason=nothing, text=nothing) for f in frames]


def _forms(
    files: Sequence[DataFile], footers: Sequence[Footer], roles: dict[str, Role]
) -> tuple[list[_Form], list[int]]:
    """The files by form, in order, and the first row in the log of each file."""
    forms: list[_Form] = []
    first_rows: list[int] = []
    first_row, types_before = 0, None
    for file, (path, metadata, schema) in zip(files, footers, strict=True):
        types = tuple(
            str(schema.field(c).type) if c in schema.names else "key of a folder" for c in roles
        )
        if types != types_before or len(forms[-1].paths) == MAX_FORM_FILES:
            forms.append(_Form(_polars_types(file, path, roles)))
        form, types_before = forms[-1], types
        form.paths.append(path)
        form.shifts.append(first_row - form.num_rows)
        form.num_rows += metadata.num_rows
        first_rows.append(first_row)
        first_row += metadata.num_rows
    return forms, first_rows


def _footers(files: Sequence[DataFile], columns: list[str], work: Path) -> list[Footer]:
    """The footer of each file; files that Polars cannot read well are converted.

    Raises ``InputError`` where a file is unreadable or lacks a column.
    """
    footers, strange = [], {}
    for number, file in enumerate(files):
        path, metadata, schema = footer = _read_footer(file, work, columns)
        wanted = [c for c in columns if c in schema.names]
        is_strange = len({*schema.names}) < len(schema.names) or any(
            _is_strange(f.type) or (f.name in wanted and _is_extension(f)) for f in schema
        )
        is_renamed = schema.names != metadata.schema.to_arrow_schema().names
        # Polars decodes a whole row group at once, so a large one is cut first.
        if is_strange or is_renamed or _largest_group(metadata) > MAX_GROUP_ROWS:
            # A file may be converted more than once, for other columns.
            of_file = zlib.crc32("\n".join([file.path, *wanted]).encode())
            target = work / f"converted-{of_file:08x}.parquet"
            strange[number] = [str(path), wanted, str(target), metadata.num_rows]
        footers.append(footer)
    if strange:
        key = zlib.crc32("\n".join(files[number].path for number in strange).encode())
        cost = CONVERT_COST * sum(num_rows for *_, num_rows in strange.values()) / 1e6
        run_phase("cut row groups", f"{key:08x}", _convert, list(strange.values()), cost=cost)
        for number, (*_, target, _) in strange.items():
            footers[number] = (Path(target), *_footer(files[number], Path(target)))
    return footers


def _read_footer(file: DataFile, work: Path, columns: list[str]) -> Footer:
    path = local_file(file, work)
    metadata, schema = _footer(file, path)
    renamed = other_cases(columns, schema.names)
    schema = pa.schema([f.with_name(renamed.get(f.name, f.name)) for f in schema])
    missing = [c for c in columns if c not in schema.names and c not in file.keys]
    available = [*schema.names, *(k for k in file.keys if k not in schema.names)]
    require(
        not missing,
        f"{file.name} has no column {', '.join(missing)}; it has {', '.join(available)}",
    )
    repeated = [c for c in columns if schema.names.count(c) > 1]
    require(not repeated, f"{file.name} has several columns {''.join(repeated[:1])}; rename them")
    return path, metadata, schema


def _footer(file: DataFile, path: Path) -> tuple[pq.FileMetaData, pa.Schema]:
    require(path.exists(), f"{file.path} does not exist; check the path")
    try:
        metadata = pq.read_metadata(path)
        return metadata, metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.name} is not a readable Parquet file; it may be cut off, or of another format"
        ) from error


def _largest_group(metadata: pq.FileMetaData) -> int:
    return max((metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)), default=0)


def _is_extension(field_: pa.Field) -> bool:
    """Whether a column is of a type that some other package adds to Arrow."""
    metadata = field_.metadata or {}
    return isinstance(field_.type, pa.BaseExtensionType) or b"ARROW:extension:name" in metadata


def _is_strange(kind: pa.DataType) -> bool:
    """Whether Polars has no such type, perhaps inside of it."""
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return True
    if pa.types.is_decimal256(kind):
        return kind.precision > MAX_PRECISION
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return not _is_known_zone(kind.tz)
    return pa.types.is_nested(kind) and any(
        _is_strange(kind.field(k).type) for k in range(kind.num_fields)
    )


@cache
def _is_known_zone(zone: str) -> bool:
    """Whether a time zone has a name in the database; ``+05:30`` has none."""
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):  # for a name that is none, that looks like a path, …
        return False
    return True


def _convert(number: int, unit: Sequence[Any]) -> Result:
    """Write a file's columns in types that Polars has, in small row groups; a batch at a time."""
    path, columns, target, _ = unit
    with (
        written_atomically(Path(target)) as partial,
        pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as source,
    ):
        renamed = other_cases(columns, source.schema_arrow.names)
        in_file = {new: old for old, new in renamed.items()}
        names = [in_file.get(c, c) for c in columns]
        fields = [source.schema_arrow.field(source.schema_arrow.names.index(c)) for c in names]
        plain = zip(columns, map(_plain_field, fields), strict=True)
        schema = pa.schema([f.with_name(name) for name, f in plain])
        with pq.ParquetWriter(partial, schema, compression="lz4") as writer:
            for batch in source.iter_batches(BATCH_ROWS, columns=names):
                pairs = zip(names, schema.types, strict=True)
                arrays = [_as_plain(batch.column(c), kind) for c, kind in pairs]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return {}


def _as_plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        return _as_plain(array.storage, kind)
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        return list_of_view(array).cast(kind)
    if pa.types.is_decimal256(array.type) and kind == pa.string():
        return pc.replace_substring_regex(array.cast(kind), r"\.0+$", "")
    return array.cast(kind)


def list_of_view(array: pa.Array) -> pa.Array:
    """A list view's lists, one after the other: a cast of it loses the last one."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, array.flatten(), mask=array.is_null())


def _plain_field(field_: pa.Field) -> pa.Field:
    kind = field_.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_field(pa.field(field_.name, kind.storage_type))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.field(field_.name, pa.large_list(kind.value_type))
    if pa.types.is_decimal256(kind):
        return pa.field(field_.name, pa.string())
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.field(field_.name, pa.timestamp(kind.unit, "UTC"))
    return pa.field(field_.name, kind)


def _polars_types(file: DataFile, path: Path, roles: dict[str, Role]) -> dict[str, pl.DataType]:
    """Each column's type; raises ``InputError`` where its role has no use for it."""
    schema = pl.scan_parquet(path, glob=False, hive_partitioning=False).collect_schema()
    types = {c: schema.get(c, pl.String()) for c in roles}
    for column, kind in types.items():
        is_list = isinstance(kind, pl.List | pl.Array)
        inner = _inner(kind)
        is_plain = not inner.is_nested() and inner not in (pl.Object, pl.Duration, pl.Time)
        require(
            is_plain and (roles[column] == "feature" or not is_list),
            f"{file.name}: column {column} is of type {kind}; expected plain values"
            + (" or lists of them" if roles[column] == "feature" else ""),
        )
    return types


def _scan(
    form: _Form,
    roles: dict[str, Role],
    common: dict[str, pl.DataType | None],
    keys: dict[str, dict[str, str | None]],
) -> pl.LazyFrame:
    """A form's columns of interest in the common types, with ``PATH`` and ``ROW``."""
    paths = [str(path) for path in form.paths]
    of_folders = [c for c in roles if all(c in keys[p] for p in paths) and not _in_files(form, c)]
    frame = pl.scan_parquet(
        paths,
        glob=False,
        hive_partitioning=False,
        schema={c: kind for c, kind in form.types.items() if c not in of_folders},
        extra_columns="ignore",
        row_index_name=ROW,
        include_file_paths=PATH,
    )
    path = pl.col(PATH)
    row = pl.col(ROW).cast(pl.Int64)
    if any(form.shifts):
        row = row + path.replace_strict(paths, form.shifts, return_dtype=pl.Int64)
    values = {
        c: path.replace_strict(paths, [keys[p][c] for p in paths], return_dtype=pl.String)
        for c in of_folders
    }
    frame = frame.with_columns(row.alias(ROW), **values)
    return frame.select(*(_cast(c, form.types[c], common[c]) for c in roles), PATH, ROW)


def _in_files(form: _Form, column: str) -> bool:
    return column in pq.read_schema(form.paths[0]).names


def _common_type(kinds: list[pl.DataType], role: Role) -> pl.DataType | None:
    """The type that holds the values of all; None where some are lists and others are not.

    Ids and values that have one type everywhere keep it.
    """
    distinct = [kind for kind in dict.fromkeys(kinds) if kind != pl.Null] or [pl.String()]
    if role == "feature":
        is_list = {isinstance(kind, pl.List | pl.Array) for kind in distinct}
        if len(is_list) > 1:
            return None
        return pl.List(pl.String()) if True in is_list else pl.String()
    if len(distinct) == 1 and distinct[0] not in (pl.Binary, pl.Categorical, pl.Enum):
        return distinct[0]
    if all(kind in INTEGERS or kind == pl.Boolean for kind in distinct):
        return pl.Int64()
    if role == "value" and all(kind.is_numeric() or kind == pl.Boolean for kind in distinct):
        return pl.Float64()
    if all(kind in (pl.Date, pl.Datetime) for kind in distinct):
        return pl.Datetime("us")
    return pl.String()


def _inner(kind: pl.DataType) -> pl.DataType:
    """The type of a list's values; of anything else, its own."""
    if not isinstance(kind, pl.List | pl.Array):
        return kind
    return kind.inner if isinstance(kind.inner, pl.DataType) else kind.inner()


def _cast(column: str, kind: pl.DataType, target: pl.DataType | None) -> pl.Expr:
    value = pl.col(column)
    if target is None or kind == target:
        return value
    if target == pl.String:
        return as_text(value, kind).alias(column)
    if isinstance(kind, pl.List | pl.Array):
        value = value.arr.to_list() if isinstance(kind, pl.Array) else value
        return value.list.eval(as_text(pl.element(), _inner(kind))).alias(column)
    if target == pl.Datetime("us") and kind != pl.Null:
        return moment(value, kind).alias(column)
    return value.cast(target).alias(column)
