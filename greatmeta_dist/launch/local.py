"""Who runs a training: this process, processes of this machine, torchrun's, or workers on Ray.

A group that loses a worker starts anew from its last checkpoint, as a whole, until it gets no
further (DESIGN.md section 7).
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display, Silent
from greatmeta_dist.engine.communicator import (
    START_PATIENCE,
    DistributedCommunicator,
    PeerLost,
    join,
)
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.launch.restart import Outcome, RestartPolicy, attempt
from greatmeta_dist.training.device import local_device
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.run_folder import open_run

GRACE_S = 10.0
"""How long the others have to notice that a worker died, before they are ended."""


def launch(config: Config, run: str | Path, display: Display | None = None) -> dict[str, Any]:
    """Train as ``config.cluster`` says; returns what ``metrics.json`` holds.

    Goes on with the run if the folder holds one of the same config. Raises ``InputError`` where the
    options or the store do not allow it, ``RuntimeError`` where the training failed, and
    ``KeyboardInterrupt`` where it was stopped, after a checkpoint.
    """
    run, display = Path(run), display or Display()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1:
        require(
            started.bit_count() == 1,
            f"torchrun started {started} processes; workers come in powers of two, take "
            f"{1 << started.bit_length() - 1}",
        )
        cluster = replace(config.cluster, workers=started)
        return _as_member(replace(config, cluster=cluster), run, display)
    if config.cluster.kind == "ray":
        try:
            from greatmeta_dist.launch.ray import fit
        except ModuleNotFoundError as error:
            raise InputError(
                f"cluster=ray needs Ray, and it is not installed ({error}); "
                "pip install 'ray[train]', or take cluster=local"
            ) from error
        return fit(config, run, display)
    if config.cluster.most_workers == 1:
        return train(config, run, display)
    return _on_this_machine(config, run, display)


def _as_member(config: Config, run: Path, display: Display) -> dict[str, Any]:
    """As one of the processes that torchrun started, with its own restarts; all but the first
    end here."""
    communicator = join(local_device(), is_fast=config.cluster.reduction == "fast")
    if not communicator.is_first:
        told = communicator.broadcast_object(None)
        if isinstance(told, Config):
            train(told, run, Silent(), communicator=communicator)
        sys.exit(0 if isinstance(told, Config) else 2)
    is_told = False
    try:
        with open_run(config, run, display) as config:
            is_told = communicator.broadcast_object(config) is config
            return train(config, run, display, communicator=communicator)
    finally:
        if not is_told:
            communicator.broadcast_object("bad input")


def _on_this_machine(config: Config, run: Path, display: Display) -> dict[str, Any]:
    """Processes of this machine, one for each worker."""
    size, gpus = config.cluster.most_workers, torch.cuda.device_count()
    require(
        gpus == 0 or gpus >= size,
        f"cluster.workers={size}, and this machine has {gpus} GPUs, one for each worker at most; "
        "take fewer workers, or hide the GPUs with CUDA_VISIBLE_DEVICES=",
    )
    with open_run(config, run, display) as config, _forwarded_signals() as signals:
        starts = RestartPolicy(run)
        while True:
            outcome = starts.allow() or _one_group(config, run, display, signals)
            if outcome is None and signals.is_received:
                outcome = Outcome("interrupted")
            if outcome is not None:
                return outcome.unwrap()
            display.say("starting the workers again, from the last checkpoint")


def _one_group(config: Config, run: Path, display: Display, signals: "Signals") -> Outcome | None:
    """Start all workers and wait for them; None where one died."""
    context = multiprocessing.get_context("spawn")
    size = config.cluster.most_workers
    with tempfile.TemporaryDirectory() as folder:
        workers: list[BaseProcess] = []
        pipes: list[Connection] = []
        try:
            for rank in range(size):
                here, there = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_local_worker,
                    args=(rank, size, Path(folder) / "meet", config, run, there),
                    name=f"worker {rank}",
                )
                process.start()
                there.close()
                workers.append(process)
                pipes.append(here)
            signals.workers = workers
            return _watch(workers, pipes, display)
        finally:
            signals.workers = []
            for process in workers:
                if process.is_alive():
                    process.kill()
                process.join()


def _watch(workers: list[BaseProcess], pipes: list[Connection], display: Display) -> Outcome | None:
    """Until all workers are done, or one has died and the others had time to say why."""
    outcomes: list[Outcome] = []
    running = dict(zip(workers, pipes, strict=True))
    patience: float | None = None
    while running:
        ready = wait([process.sentinel for process in running], patience)
        if not ready:
            break
        for process in [p for p in running if p.sentinel in ready]:
            process.join()
            pipe = running.pop(process)
            with suppress(EOFError):
                if pipe.poll():
                    outcomes.append(pipe.recv())
                    continue
            patience = GRACE_S
            if process.exitcode and process.exitcode < 0:
                display.say(f"{process.name} died of {signal.Signals(-process.exitcode).name}")
        if any(o.kind in ("bad input", "failed") for o in outcomes):
            patience = GRACE_S
    worst = {"failed": 0, "bad input": 1, "interrupted": 2, "done": 3}
    # The first worker's word counts where the others only followed.
    outcomes.sort(key=lambda o: (worst[o.kind], o.metrics is None))
    is_final = outcomes and (outcomes[0].kind != "done" or len(outcomes) == len(workers))
    return outcomes[0] if is_final else None


def _local_worker(
    rank: int, size: int, meet: Path, config: Config, run: Path, tell: Connection
) -> None:
    """What each of the processes does."""
    os.setpgid(0, 0)  # Ctrl-C goes to the parent, which passes it on once
    _end_with_parent()
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

    def train_here() -> dict[str, Any]:
        device = local_device()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=meet.as_uri(),
            rank=rank,
            world_size=size,
            timeout=START_PATIENCE,
        )
        communicator = DistributedCommunicator(is_fast=config.cluster.reduction == "fast")
        return train(config, run, Silent() if rank else Display(), communicator=communicator)

    try:
        tell.send(attempt(train_here))
    except PeerLost:
        sys.exit(1)
    # Others may still listen: leave without the farewells that wait for them.
    sys.stdout.flush()
    os._exit(0)


def _end_with_parent() -> None:
    """Die when the parent does, however it dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class Signals:
    """Passes Ctrl-C and SIGTERM on to the workers."""

    def __init__(self) -> None:
        self.workers: list[BaseProcess] = []
        self.is_received = False

    def forward(self, number: int, frame: Any) -> None:
        self.is_received = True
        for process in self.workers:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
        if not self.workers:
            raise KeyboardInterrupt


@contextmanager
def _forwarded_signals() -> Iterator[Signals]:
    signals = Signals()
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, signals.forward) for kind in kinds]
    try:
        yield signals
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
