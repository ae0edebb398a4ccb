"""The memory that each worker needs for its block of the embedding table."""

import os
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.scaling.workers import SIZES, Workers, join_group
from greatmeta_dist.engine.embeddings import EmbeddingTable, block_size, fresh_rows

WIDTH = 32
"""Of the table whose memory is measured."""


def memory(num_rows: int, folder: Path) -> dict[int, list[float]]:
    """MiB that each worker of 1 and of 2 needs for its rows."""
    mib = {}
    for size in SIZES:
        group = Workers(size, folder, hold_rows, num_rows)
        mib[size] = group.receive()
        group.end()
    return mib


def hold_rows(rank: int, size: int, rendezvous: Path, pipe: Connection, num_rows: int) -> None:
    """A worker that holds its block of a table and does nothing."""
    join_group(rank, size, rendezvous)
    before = _resident_mib()
    block = block_size(num_rows, size)
    rows = fresh_rows(
        num_rows,
        WIDTH,
        0.1,
        torch.Generator().manual_seed(0),
        first=rank * block,
        last=min((rank + 1) * block, num_rows),
    )
    table = EmbeddingTable(rows, rate=1e-3, ema_decay=0.99)
    for tensor in table.state().values():
        tensor.add_(0)  # zeros that nobody touched take no memory yet
    pipe.send(_resident_mib() - before)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
