"""The first rows of a log's files, as small files: to look at a log of any size."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.folders import ENDINGS, bare_name, visible_files
from greatmeta_dist.data.text_files import PACKED, open_unpacked
from greatmeta_dist.errors import InputError

NUM_ROWS = 100_000
NUM_BYTES = 1 << 26
"""Of a text file: no more of it is read, however few rows that is."""
NUM_FILES = 32
"""Of a folder: its first files by name."""


def write_heads(config: DataConfig, folder: Path) -> DataConfig:
    """Write the first rows of every file that the options name into ``folder``.

    Returns the options with the paths of these. Raises ``InputError`` where a file is unreadable; a
    path that does not exist stays as it is, for the source to say so.
    """
    paths = {}
    for name in ("path", "users_path", "items_path"):
        path = getattr(config, name)
        if path is not None:
            paths[name] = _head_of(path, folder / name)
    return replace(config, **paths)  # type: ignore[arg-type]


def _head_of(path: str, folder: Path) -> str:
    folder.mkdir()
    root = Path(path)
    if "://" not in path and not root.exists():
        return path
    if "://" in path or root.is_file():
        return str(_write_head(path, folder / _unpacked_name(root.name))[0])
    visible = visible_files(root)
    target, num_rows = folder / (root.resolve().name or "log"), 0
    target.mkdir()
    for file in visible[:NUM_FILES]:
        head = target / file.with_name(_unpacked_name(file.name))
        head.parent.mkdir(parents=True, exist_ok=True)
        if num_rows < NUM_ROWS:
            _, written = _write_head(str(root / file), head)
            # Text files of one folder may be of users and items, so that each is looked at.
            num_rows += written if _is_parquet(file.name) else 0
    return str(target)


def _unpacked_name(name: str) -> str:
    is_packed = name.lower().endswith(tuple(PACKED))
    return name.rpartition(".")[0] if is_packed else name


def _is_parquet(name: str) -> bool:
    return bare_name(name).endswith(ENDINGS["parquet"])


def _write_head(path: str, target: Path) -> tuple[Path, int]:
    """Write a file's first rows; returns where, and how many these are."""
    if _is_parquet(path) and "://" not in path:
        return target, _write_parquet_head(path, target)
    num_lines = 0
    try:
        with open_unpacked(path) as source, target.open("wb") as sink:
            budget = NUM_BYTES
            while num_lines <= NUM_ROWS and budget > 0 and (part := source.read(1 << 20)):
                num_lines += part.count(b"\n")
                budget -= len(part)
                sink.write(part)
    except InputError:
        raise
    except Exception as error:  # every decompressor and every file system raises its own
        raise InputError(f"cannot read {path}; it may be damaged") from error
    if num_lines > NUM_ROWS or budget <= 0:
        _cut(target)
    return target, num_lines


def _cut(path: Path) -> None:
    """Keep a file's first lines, whole, in place."""
    lines = path.read_bytes().split(b"\n")[:-1][: NUM_ROWS + 1]
    path.write_bytes(b"\n".join(lines) + b"\n" if lines else b"")


def _write_parquet_head(path: str, target: Path) -> int:
    num_rows = 0
    try:
        with (
            pq.ParquetFile(path, memory_map=True) as source,
            pq.ParquetWriter(target, source.schema_arrow) as writer,
        ):
            for batch in source.iter_batches(batch_size=1 << 14):
                writer.write_batch(batch.slice(0, NUM_ROWS - num_rows))
                num_rows += len(batch)
                if num_rows >= NUM_ROWS:
                    break
    except (pa.ArrowException, OSError):
        target.unlink(missing_ok=True)
        target.symlink_to(Path(path).resolve())  # what is wrong with it, the source says
    return min(num_rows, NUM_ROWS)
