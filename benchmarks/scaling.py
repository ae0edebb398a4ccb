"""What another worker brings, what crosses the wire, and what many would do.

``python -m benchmarks.scaling [--users 256] [--rounds 7] [--rows 10000000] [--json FILE]
[--gbit 10] [--latency-us 50]``. Groups of 1 and 2 workers, each bound to one core, take the same
steps in turns: synthetic data of MovieLens 100K's shape (97 support and 10 query rows a user, 1,682
items), the shipped configuration, batches built in between; and two lone workers at a time, which
say what two cores of this machine can do at best. The same with users of uneven activity (107 rows
on average), where workers wait for each other. Then the memory that each worker needs for a table
of ``--rows`` rows of 32, and what a checkpoint costs. Then a model, calibrated from these
measurements, of up to 512 workers and 10⁹ rows.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from greatmeta_dist.batching.lanes import Lanes, shared_lanes
from greatmeta_dist.config import DataConfig, ModelConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.engine.checkpoint import Block, steps
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.communicator import START_PATIENCE, Communicator, DistributedCommunicator
from greatmeta_dist.engine.embeddings import EmbeddingTable, block_size, fresh_rows
from greatmeta_dist.meta.factors import FactorAverages
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.run_folder import set_up

SIZES = (1, 2)
ALONE = 0
"""Stands for two lone workers at a time."""
SHAPES = {
    "ml-100k": DataConfig(
        users=2500,
        items=1682,
        mean_interactions=250,
        min_interactions=107,
        max_support_items=97,
    ),
    "uneven users": DataConfig(users=4000, items=1682, mean_interactions=107),
}
STEPS = 12
"""Of a round."""
MODELLED = (2, 8, 32, 128, 512)
ROWS_MODELLED = 10**9
WIDTH = 32
"""Of the table whose memory is measured."""
WORTH = 0.05
"""The share of a step's time that a plain all-reduce must save to be worth other bits."""
ROWS_SAVED = 1_000_000
USERS_SAVED = 1_000_000
"""Embedding rows, and training users with their remembered factors, of a measured checkpoint."""


@dataclass
class Round:
    """What one worker measured in a round."""

    seconds: float
    computing: float
    """CPU seconds, in which nobody waits for anybody."""
    sent: dict[str, int]
    in_messages: dict[str, float]
    rows: float
    """Mean of the distinct embedding rows that a step touches here."""


def join_group(rank: int, size: int, rendezvous: Path) -> Communicator:
    """One core, one thread, and the others."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    if size == 1:
        return Communicator()
    dist.init_process_group(
        "gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=size, timeout=START_PATIENCE
    )
    return DistributedCommunicator()


def train_rounds(
    rank: int, size: int, rendezvous: Path, pipe: Connection, words: list[str]
) -> None:
    """A worker: takes a round of steps for every message from the parent."""
    communicator = join_group(rank, size or 1, rendezvous)
    rank, size = communicator.rank, communicator.size
    config = compose_config(words)
    setup = set_up(config, Store(Path(config.store or "")), communicator)
    lanes = Lanes.of(setup.store, setup.collator, setup.choice, config.train, rank=rank, size=size)
    setup.worker.keep_averages(lanes.places, lanes.num_users)
    number, following = 0, lanes.step(0).batch
    pipe.send(sum(p.numel() for p in setup.worker.layers.values()))
    while pipe.recv():
        communicator.all_true(True)
        communicator.traffic.take()
        rows, start, computing = 0, time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            batch, following = following, lanes.step(number + 1).batch
            setup.worker.step(batch, following)
            rows += len(batch.rows)
            number += 1
        seconds = time.perf_counter() - start
        computing = time.process_time() - computing
        traffic = communicator.traffic.take()
        pipe.send(Round(seconds, computing, traffic.sent, traffic.seconds, rows / STEPS))


def hold_rows(rank: int, size: int, rendezvous: Path, pipe: Connection, num_rows: int) -> None:
    """A worker that holds its block of a table and does nothing."""
    join_group(rank, size, rendezvous)
    before = resident_mib()
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
    pipe.send(resident_mib() - before)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Workers:
    """A group's processes, and a pipe to each."""

    def __init__(self, size: int, folder: Path, target: Any, *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self._processes = []
        for rank in range(size or 2):
            here, there = context.Pipe()
            process = context.Process(
                target=target,
                args=(
                    rank,
                    size,
                    folder / f"rendezvous-{target.__name__}-{size}",
                    there,
                    *arguments,
                ),
                daemon=True,
            )
            process.start()
            self.pipes.append(here)
            self._processes.append(process)

    def receive(self) -> list[Any]:
        return [pipe.recv() for pipe in self.pipes]

    def send(self, message: Any) -> None:
        for pipe in self.pipes:
            pipe.send(message)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def measure(data: DataConfig, users: int, rounds: int, folder: Path) -> dict[str, Any]:
    """All groups on the same work, in turns; medians over rounds."""
    prepare(data, folder / "store")
    lanes = shared_lanes(Store(folder / "store"), users, max(SIZES))
    words = [
        f"store={folder / 'store'}",
        f"train.users_per_batch={users}",
        f"train.lanes={lanes}",
        "cluster.threads=1",
    ]
    groups = {size: Workers(size, folder, train_rounds, words) for size in (*SIZES, ALONE)}
    num_parameters, *_ = [number for group in groups.values() for number in group.receive()]
    found: dict[int, list[list[Round]]] = {size: [] for size in groups}
    for number in range(rounds + 1):
        for size, group in groups.items():
            group.send(True)
            heard = group.receive()
            if number:  # the first one warms up
                found[size].append(heard)
    for group in groups.values():
        group.end()
    seconds = {
        size: [max(w.seconds for w in heard) / STEPS for heard in found[size]] for size in groups
    }
    computing = {
        size: statistics.median(sum(w.computing for w in heard) for heard in found[size])
        for size in groups
    }
    efficiency = [one / (2 * two) for one, two in zip(seconds[1], seconds[2], strict=True)]
    ceiling = [one / two for one, two in zip(seconds[1], seconds[ALONE], strict=True)]
    pairs = found[2]
    phases = pairs[0][0].sent.keys() | pairs[0][0].in_messages.keys()
    return {
        "users_per_batch": users,
        "lanes": lanes,
        "parameters_of_A": num_parameters,
        "users_per_s": {size: users / statistics.median(seconds[size]) for size in SIZES},
        "efficiency": statistics.median(efficiency),
        "efficiency_range": [min(efficiency), max(efficiency)],
        "efficiency_of_fastest": min(seconds[1]) / (2 * min(seconds[2])),
        "ceiling": statistics.median(ceiling),
        "computing": computing[2] / computing[1],
        "computing_alone": computing[ALONE] / (2 * computing[1]),
        "share_in_messages": statistics.median(
            statistics.mean(sum(w.in_messages.values()) / w.seconds for w in heard)
            for heard in pairs
        ),
        "bytes_per_user": statistics.median(
            sum(sum(w.sent.values()) for w in heard) / (STEPS * users) for heard in pairs
        ),
        "phases": {
            phase: {
                "bytes_per_step": sum(w.sent.get(phase, 0) for w in pairs[0]) / STEPS,
                "ms_per_step": 1e3
                * statistics.median(
                    statistics.mean(w.in_messages.get(phase, 0.0) for w in heard) / STEPS
                    for heard in pairs
                ),
            }
            for phase in sorted(phases)
        },
        "rows_per_worker": {
            size: statistics.mean(w.rows for heard in found[size] for w in heard) for size in SIZES
        },
    }


def memory(num_rows: int, folder: Path) -> dict[int, list[float]]:
    """MiB that each worker of 1 and of 2 needs for its rows."""
    found = {}
    for size in SIZES:
        group = Workers(size, folder, hold_rows, num_rows)
        found[size] = group.receive()
        group.end()
    return found


def checkpointing(folder: Path) -> dict[str, float]:
    """Seconds that training waits for a checkpoint, that writing takes, and of a step meanwhile."""
    prepare(SHAPES["ml-100k"], folder / "store")
    config = compose_config([f"store={folder / 'store'}", "cluster.threads=1"])
    setup = set_up(config, Store(folder / "store"))
    lanes = Lanes.of(setup.store, setup.collator, setup.choice, config.train, rank=0, size=1)
    setup.worker.keep_averages(lanes.places, lanes.num_users)
    batch = lanes.step(0).batch

    def step() -> float:
        start = time.perf_counter()
        setup.worker.step(batch)
        return time.perf_counter() - start

    table = EmbeddingTable(torch.randn(ROWS_SAVED, WIDTH), rate=1e-3, ema_decay=0.99)
    memory = FactorAverages(USERS_SAVED, setup.worker.sizes, torch.device("cpu"), first=0)
    remembered = {"factors": memory.mean.normal_(), "visits": memory.visits}
    writer = CheckpointWriter.open(folder / "checkpoints", Communicator(), keep=1)
    blocks = {
        "rows": Block(table.state(), 0, ROWS_SAVED),
        "users": Block(remembered, 0, USERS_SAVED),
    }
    writer.save(0, {}, blocks, {})
    writer.wait()
    alone = [step() for _ in range(25)][5:]
    start = time.perf_counter()
    writer.save(1, {}, blocks, {})
    waited = time.perf_counter() - start
    meanwhile = []
    while steps(folder / "checkpoints") != [1]:
        meanwhile.append(step())
    written = time.perf_counter() - start
    alone += [step() for _ in range(20)]
    return {
        "mib": sum(
            tensor.numel() * tensor.element_size()
            for block in blocks.values()
            for tensor in block.tensors.values()
        )
        / 2**20,
        "training_waits_s": waited,
        "written_after_s": written,
        "steps_meanwhile": len(meanwhile),
        "step_slower": statistics.median(meanwhile) / statistics.median(alone),
    }


def model(found: dict[str, Any], gbit: float, latency_us: float) -> list[dict[str, float]]:
    """Predictions for as many users a worker as half the measured step.

    Assumes: computing takes a worker what it takes one here; a worker touches as many distinct
    rows, of the default width, as one of 2 does here, spread evenly over owners; every
    link carries ``gbit`` both ways, every message ``latency_us`` more; an all-to-all posts a
    message to every peer, on which A's sums and the next plan piggyback; gather, scatter and
    broadcast take log₂ W hops, the broadcast all of A in each; with ``fast`` the two sums of A
    leave the all-to-alls for the best all-reduces there are (halving and doubling: log₂ W messages
    each way, all of A once each way); nothing overlaps, though the engine computes while ḡ and
    A's new values travel.
    """
    users = found["users_per_batch"] / 2
    compute = users / found["users_per_s"][1]
    bandwidth, latency = gbit * 1e9 / 8, latency_us * 1e-6
    of_a = 4 * found["parameters_of_A"]
    rows, width = found["rows_per_worker"][2], ModelConfig().embedding_dim
    columns = found["phases"]["statistics"]["bytes_per_step"] / (4 * users)
    rows_bytes = ROWS_MODELLED * (4 * 4 * width + 8)
    out = []
    for size in MODELLED:
        hops, away = math.log2(size), (size - 1) / size
        is_pair = size == 2
        # Fetch; ḡ to owners and back, of two workers at once; the outer update to owners, the next
        # plan piggybacked.
        num_messages = 3 if is_pair else 4
        in_rows = (
            num_messages * latency * (size - 1) + away * rows * (4 * 4 * width + 4) / bandwidth
        )
        statistics_s = (size - 1) * users * 4 * (columns + 1) / bandwidth + 2 * latency * hops
        new_a = hops * (latency + of_a / bandwidth)
        # ḡ in slices, out and back, or all of it at once, which is as much; the update in slices,
        # and the sums to the coordinator; of two workers the update straight to it.
        exact = 4 * away * of_a / bandwidth + (0 if is_pair else latency * hops)
        plain = 2 * 2 * (hops * latency + away * of_a / bandwidth)
        plain += latency if is_pair else 0  # ḡ's rows there and back
        step = compute + in_rows + statistics_s + exact + new_a
        times_a = 4 if is_pair else 5
        sent = away * (rows * (4 + 4 * 4 * width) + times_a * of_a) + users * 4 * (columns + 1)
        out.append(
            {
                "workers": size,
                "users_per_s": size * users / step,
                "efficiency": compute / step,
                "bytes_per_user": sent / users,
                "messages_ms": 1e3 * (step - compute),
                "sums_of_A_ms": 1e3 * exact,
                "fast_ms": 1e3 * plain,
                "fast_saves": (exact - plain) / step,
                "gib_of_rows": rows_bytes / size / 2**30,
            }
        )
    return out


def show_measured(name: str, found: dict[str, Any], console: Console) -> None:
    rate = found["users_per_s"]
    console.print(
        f"{name}, {found['users_per_batch']} users a step, {found['lanes']} lanes: 1 worker "
        f"{rate[1]:.0f} users/s, 2 workers {rate[2]:.0f} users/s: efficiency "
        f"{found['efficiency']:.0%} (rounds from {found['efficiency_range'][0]:.0%} to "
        f"{found['efficiency_range'][1]:.0%}, fastest rounds of each "
        f"{found['efficiency_of_fastest']:.0%}; two lone workers at a time: "
        f"{found['ceiling']:.0%}), "
        f"CPU time in all {found['computing']:.2f} times one worker's (each lone one's: "
        f"{found['computing_alone']:.2f}), "
        f"{found['share_in_messages']:.1%} of the time in "
        f"messages, waiting included, {found['bytes_per_user']:.0f} bytes a user and step",
        soft_wrap=True,
        highlight=False,
    )
    table = Table("phase", "bytes a step", "ms a step", box=SIMPLE)
    for phase, values in found["phases"].items():
        table.add_row(phase, f"{values['bytes_per_step']:.0f}", f"{values['ms_per_step']:.2f}")
    console.print(table)


def show(found: dict[str, Any], console: Console) -> None:
    for name, measured in found["measured"].items():
        show_measured(name, measured, console)
    for size, mib in found["memory"].items():
        each = ", ".join(f"{m:.0f}" for m in mib)
        console.print(
            f"{found['rows']:,} rows of {WIDTH}: {size} workers hold {each} MiB", highlight=False
        )
    saved = found["checkpoint"]
    console.print(
        f"checkpoint of {ROWS_SAVED:,} rows of {WIDTH} and the factors of {USERS_SAVED:,} users, "
        f"{saved['mib']:.0f} MiB: training waits "
        f"{saved['training_waits_s']:.2f} s; written after {saved['written_after_s']:.1f} s, "
        f"{saved['steps_meanwhile']} steps meanwhile, {saved['step_slower']:.2f} times as long",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(
        "workers",
        "users/s",
        "of ideal",
        "bytes/user",
        "messages",
        "sums of A",
        "if fast",
        "saves",
        "GiB of rows",
        box=SIMPLE,
        title=f"model: {found['gbit']:g} Gbit/s, {found['latency_us']:g} µs, 10⁹ rows of "
        f"{ModelConfig().embedding_dim}",
    )
    for row in found["model"]:
        table.add_row(
            f"{row['workers']}",
            f"{row['users_per_s']:.0f}",
            f"{row['efficiency']:.0%}",
            f"{row['bytes_per_user']:.0f}",
            f"{row['messages_ms']:.2f} ms",
            f"{row['sums_of_A_ms']:.2f} ms",
            f"{row['fast_ms']:.2f} ms",
            f"{row['fast_saves']:.1%}",
            f"{row['gib_of_rows']:.1f}",
        )
    console.print(table)
    worth = [row["workers"] for row in found["model"] if row["fast_saves"] > WORTH]
    console.print(
        f"cluster.reduction=fast saves more than {WORTH:.0%} of a step "
        + (f"from {worth[0]} workers on" if worth else "at none of these sizes"),
        highlight=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--gbit", type=float, default=10.0)
    parser.add_argument("--latency-us", type=float, default=50.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"measured": {}, "rows": options.rows}
    for name, data in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            found["measured"][name] = measure(data, options.users, options.rounds, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        found["memory"] = memory(options.rows, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        found["checkpoint"] = checkpointing(Path(folder))
    found |= {"gbit": options.gbit, "latency_us": options.latency_us}
    found["model"] = model(found["measured"]["ml-100k"], options.gbit, options.latency_us)
    show(found, Console(width=100))
    if options.json:
        options.json.write_text(json.dumps({"environment": environment(), **found}, indent=1))


if __name__ == "__main__":
    main()
