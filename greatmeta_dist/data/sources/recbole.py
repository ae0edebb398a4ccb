"""RecBole atomic files: typed headers; an ``.inter`` file, with a ``.user`` and an ``.item``."""

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.sources.base import (
    Kind,
    Source,
    Table,
    entity_table,
    interactions_of,
    reads,
    single_value,
)
from greatmeta_dist.data.sources.columns import columns_of, needed_columns, usual_columns
from greatmeta_dist.data.sources.folders import bare_name, visible_files
from greatmeta_dist.data.sources.lists import value_list
from greatmeta_dist.data.text import TextFormat, scan_text, split_header
from greatmeta_dist.data.text_files import local_copy, utf8_file
from greatmeta_dist.errors import InputError, require

KINDS: dict[str, Kind] = {"token": "token", "token_seq": "token_list", "float": "float"}
"""Types of RecBole as kinds of features. A ``float_seq`` is one feature for each number."""
TYPES = {*KINDS, "float_seq"}
MAX_ENTRIES = 16
"""Numbers of a ``float_seq`` that become features: each has rows in the embedding table, and widens
the model."""
ROLE_TYPES = {
    "user": ("token",),
    "item": ("token",),
    "rating": ("float", "token"),
    "timestamp": ("float", "token"),
    "event": ("token",),
}
"""The types that a column of the log may have, the more usual one first."""
PART = re.compile(r"(^|[._-])part[._-]?\d.*$|[._](train|valid|val|test|\d+)$")
"""How the name of one of several parts ends, before ``.inter``."""


@reads("path", "events")
def open_recbole(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path``, which holds one log: one ``.inter`` file, or its parts.

    ``data.path`` may also be the ``.inter`` file itself.
    """
    assert config.path is not None
    logs = _logs(Path(config.path), config)
    folder = logs[0].parent if Path(config.path).is_file() else Path(config.path)
    log = _Atomic.scan(logs, work)
    columns = _columns(log, config)
    names = columns_of(columns)
    not_used = {log.name: [f"{n}:{t}" for n, t in log.types.items() if n not in names.values()]}
    tables: dict[str, Table | None] = {"user": None, "item": None}
    files = [*logs]
    for side in tables:
        found = _beside(folder, f".{side}", _bare(logs[0]))
        if found:
            entities = _Atomic.scan(found, work)
            tables[side], not_used[entities.name] = _entities(entities, side, names[side], config)
            files += found
    parts = tuple(interactions_of(frame, names) for frame in log.frames)
    return Source(
        pl.concat(parts),
        has_timestamp="timestamp" in names,
        users=tables["user"],
        items=tables["item"],
        files=tuple(local_copy(str(file), work) for file in files),
        columns=columns,
        not_used={name: unused for name, unused in not_used.items() if unused},
        parts=parts,
    )


def _logs(path: Path, config: DataConfig) -> list[Path]:
    """The files of the log; raises ``InputError`` where there are none, or those of several."""
    if path.is_file():
        return [path]
    require(
        path.is_dir(),
        f"data.path={path} is no folder here; data={config.source} reads a local folder",
    )
    logs = _with_ending(path, ".inter")
    bare = sorted({_bare(log) for log in logs})
    names = ", ".join(log.relative_to(path).as_posix() for log in logs[:8])
    require(
        len(bare) == 1,
        f"{path} holds {len(bare)} .inter files{f' ({names})' if names else ''}; data=recbole "
        "expects exactly one, or its parts, with its .user and .item beside it",
    )
    wholes = [log for log in logs if _stem(log) == bare[0]]
    require(
        not wholes or len(wholes) == len(logs),
        f"{path} holds a whole log and parts of it ({names}); name one file in data.path",
    )
    return logs


def _beside(folder: Path, ending: str, bare: str) -> list[Path]:
    """The files of users or items: those called as the log, or all if they are of one name."""
    found = _with_ending(folder, ending)
    own = [file for file in found if _bare(file) == bare]
    return own or (found if len({_bare(file) for file in found}) == 1 else [])


def _with_ending(folder: Path, ending: str) -> list[Path]:
    return [folder / p for p in visible_files(folder) if bare_name(p.name).endswith(ending)]


def _stem(path: Path) -> str:
    """``ml-100k.part1.inter.gz`` → ``ml-100k.part1``."""
    return bare_name(path.name).rpartition(".")[0]


def _bare(path: Path) -> str:
    """``ml-100k.part1.inter`` → ``ml-100k``."""
    return PART.sub("", _stem(path))


@dataclass(frozen=True)
class _Atomic:
    """Atomic files that together are one table."""

    name: str
    """That of the first file."""
    frames: list[pl.LazyFrame]
    """Of each file the columns of the first one, by their bare names."""
    types: dict[str, str]
    """Bare name → RecBole's type."""

    @classmethod
    def scan(cls, paths: list[Path], work: Path) -> "_Atomic":
        """Raises ``InputError`` where a header is wrong, or lacks a column of the first file."""
        frame, types = _scan(paths[0], work)
        frames = [frame]
        for path in paths[1:]:
            frame, others = _scan(path, work)
            lacking = [name for name in types if name not in others]
            require(
                not lacking,
                f"{path.name} has no column {', '.join(lacking)}, which {paths[0].name} has; it "
                f"has {', '.join(others)}",
            )
            frames.append(frame.select(*types, "file", "line", "reason", "text"))
        return cls(paths[0].name, frames, types)

    @property
    def frame(self) -> pl.LazyFrame:
        return pl.concat(self.frames)


def _scan(path: Path, work: Path) -> tuple[pl.LazyFrame, dict[str, str]]:
    """A file's columns by their bare names, and each one's RecBole type."""
    fmt = TextFormat("\t")
    header = split_header(utf8_file(str(path), "utf-8", work), fmt)
    bare = [name.partition(" (column")[0].partition(":")[0] for name in header]
    repeated = [name for name in bare if bare.count(name) > 1]
    require(
        not repeated,
        f"{path.name} names column '{''.join(repeated[:1])}' {len(repeated)} times; name each once",
    )
    types = {name.partition(":")[0]: name.partition(":")[2] for name in header}
    untyped = [name for name, type_ in types.items() if type_ not in TYPES]
    require(
        not untyped,
        f"{path.name}: column '{untyped[0] if untyped else ''}' has no type; RecBole headers read "
        "name:token, name:token_seq, name:float or name:float_seq",
    )
    frame = scan_text(str(path), fmt, work).rename(dict(zip(header, types, strict=True)))
    return frame, types


def _columns(log: _Atomic, config: DataConfig) -> ColumnsConfig:
    """The log's columns, found by their types and usual names.

    Where one of user and item has no usual name, it is the only other column of tokens; where
    neither has one, the first two are the user and the item. Raises ``InputError`` where it is not
    clear.
    """
    needed = needed_columns(config)
    found = {role: _find(role, log.types) for role in ROLE_TYPES}
    if "event" not in needed:
        found.pop("event")
    elif config.events:
        found["rating"] = None
    tokens = [n for n, t in log.types.items() if t == "token" and n not in found.values()]
    unknown = [role for role in ("user", "item") if found[role] is None]
    if len(tokens) == len(unknown):
        found.update(zip(unknown, tokens, strict=True))
    for role in sorted(needed):
        if found[role] is None:
            typed = ", ".join(f"{name}:{type_}" for name, type_ in log.types.items())
            usual = f"{role}_id" if role in ("user", "item") else role
            raise InputError(
                f"{log.name} has no column {usual}, nor one of a like name; it has {typed}; call "
                f"the column {usual}:{ROLE_TYPES[role][0]}"
            )
    return ColumnsConfig(**found)  # type: ignore[arg-type]


def _find(role: str, types: dict[str, str]) -> str | None:
    """The column of that role with the most usual name; None where there is none, or several."""
    candidates = usual_columns(role, [n for n, t in types.items() if t in ROLE_TYPES[role]])
    return candidates[0] if len(candidates) == 1 else None


def _entities(
    entities: _Atomic, side: str, in_log: str, config: DataConfig
) -> tuple[Table, list[str]]:
    """A file's features, and what of it is none."""
    types = entities.types
    id_column = in_log if in_log in types else _find(side, types)
    require(
        id_column is not None,
        f"{entities.name} has no column {in_log}; it has {', '.join(types)}",
    )
    assert id_column is not None
    missing, not_used = config.missing_values, []
    kinds = {n: KINDS[t] for n, t in types.items() if n != id_column and t in KINDS}
    columns = [
        value_list(n, " ", missing) if k == "token_list" else single_value(n, missing)
        for n, k in kinds.items()
    ]
    for name in (n for n, t in types.items() if t == "float_seq"):
        numbers, length = _numbers(entities, name)
        entries = [f"{name}_{k + 1}" for k in range(min(length, MAX_ENTRIES))]
        clashing = [entry for entry in entries if entry in types]
        require(
            not clashing,
            f"{entities.name}: number {''.join(clashing[:1])} of {name} is called as another "
            "column; rename that column",
        )
        columns += [numbers.list.get(k, null_on_oob=True).alias(e) for k, e in enumerate(entries)]
        kinds |= dict.fromkeys(entries, "float")
        if length > len(entries):
            not_used.append(f"{name}:float_seq, after its first {len(entries)} numbers")
    return entity_table(entities.frame, id_column, columns, kinds, missing=missing), not_used


def _numbers(entities: _Atomic, name: str) -> tuple[pl.Expr, int]:
    """The numbers of a ``float_seq``, as text; and the length of the longest one."""
    numbers = pl.col(name).str.extract_all(r"[^\s,;\[\]()]+")
    length = entities.frame.select(numbers.list.len().max()).collect().item()
    return numbers, length or 0
