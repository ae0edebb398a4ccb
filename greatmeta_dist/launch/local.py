"""Who runs a training: this process, processes of this machine, torchrun's, or workers on Ray.

Here are this process and processes of this machine. A group of them that loses a worker starts anew
from its last checkpoint, as a whole, until it gets no further (DESIGN.md section 7).
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display, Silent
from greatmeta_dist.engine.communicator import START_PATIENCE, DistributedCommunicator, PeerLost
from greatmeta_dist.errors import require
from greatmeta_dist.launch.access import prepare_to_join
from greatmeta_dist.launch.restart import Outcome, RestartPolicy, attempt
from greatmeta_dist.launch.torchrun import train_as_member
from greatmeta_dist.launch.units import no_ray
from greatmeta_dist.signals import noted_stop_signals
from greatmeta_dist.training.device import local_device
from greatmeta_dist.training.history import History
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.run_copy import folder_to_train
from greatmeta_dist.training.run_folder import open_run

GRACE_S = 10.0
"""How long the other workers may take to notice that one died, before they are ended."""
START_METHOD = "spawn"
"""How processes start: each from nothing, since a copy of one that used a GPU cannot use it."""
SEVERITY = ("failed", "bad input", "interrupted", "done")
"""Kinds of outcomes, the one that counts most first."""


def launch(config: Config, run: str | Path, display: Display | None = None) -> dict[str, Any]:
    """Train as ``config.cluster`` says; returns what ``metrics.json`` holds.

    Goes on with the run if the folder holds one of the same config. Raises ``InputError`` where the
    options or the store do not allow it, ``RuntimeError`` where the training failed, and
    ``KeyboardInterrupt`` where it was stopped, after a checkpoint.
    """
    run, display = folder_to_train(run), display or Display()
    started = os.environ.get("WORLD_SIZE", "1")
    require(
        started.isdecimal() and int(started) >= 1,
        f"WORLD_SIZE is '{started}' in the environment; torchrun sets it to a number: unset it",
    )
    num_started = int(started)
    if num_started > 1:
        require(
            num_started.bit_count() == 1,
            f"torchrun started {num_started} processes; workers come in powers of two, take "
            f"{1 << num_started.bit_length() - 1}",
        )
        cluster = replace(config.cluster, workers=num_started)
        return train_as_member(replace(config, cluster=cluster), run, display)
    if config.cluster.kind == "ray":
        return _train_on_ray(config, run, display)
    if config.cluster.most_workers == 1:
        return train(config, run, display)
    return _train_in_processes(config, run, display)


def _train_on_ray(config: Config, run: Path, display: Display) -> dict[str, Any]:
    prepare_to_join(config.cluster)  # before Ray is imported
    try:
        from greatmeta_dist.launch.ray import train_on_ray
    except ModuleNotFoundError as error:
        raise no_ray(error) from error
    return train_on_ray(config, run, display)


def _train_in_processes(config: Config, run: Path, display: Display) -> dict[str, Any]:
    """Train by processes of this machine, one for each worker."""
    size, num_gpus = config.cluster.most_workers, torch.cuda.device_count()
    require(
        num_gpus == 0 or num_gpus >= size,
        f"cluster.workers={size}, and this machine has {num_gpus} GPUs, one for each worker at "
        "most; take fewer workers, or hide the GPUs with CUDA_VISIBLE_DEVICES=",
    )
    group = _Group()
    with open_run(config, run, display) as config, noted_stop_signals(group.stop) as stop:
        policy = RestartPolicy(run)
        while True:
            outcome = policy.check() or group.run(config, run, display)
            if outcome is None and stop.is_received:
                outcome = Outcome("interrupted")
            if outcome is not None:
                return outcome.unwrap()
            display.say("starting the workers again, from the last checkpoint")


@dataclass
class _Group:
    """The processes that train, and the pipes through which each reports its outcome."""

    workers: dict[BaseProcess, Connection] = field(default_factory=dict)

    def run(self, config: Config, run: Path, display: Display) -> Outcome | None:
        """Start all workers and wait for them; None where one died."""
        with tempfile.TemporaryDirectory() as folder:
            workers: dict[BaseProcess, Connection] = {}
            try:
                for rank in range(config.cluster.most_workers):
                    process, pipe = _start_worker(rank, Path(folder) / "rendezvous", config, run)
                    workers[process] = pipe
                self.workers = workers
                return _watch(workers, run, display)
            finally:
                self.workers = {}
                for process in workers:
                    if process.is_alive():
                        process.kill()
                    process.join()

    def stop(self) -> None:
        """Pass a Ctrl-C or SIGTERM on to the workers; without any it stops this process."""
        if not self.workers:
            raise KeyboardInterrupt
        for process in self.workers:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)


def _start_worker(
    rank: int, rendezvous: Path, config: Config, run: Path
) -> tuple[BaseProcess, Connection]:
    """Start one worker; its process, and the pipe that its outcome comes through."""
    context: Any = multiprocessing.get_context(START_METHOD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_run_worker, args=(rank, rendezvous, config, run, sender), name=f"worker {rank}"
    )
    process.start()
    sender.close()
    return process, receiver


def _watch(workers: dict[BaseProcess, Connection], run: Path, display: Display) -> Outcome | None:
    """Wait until all workers are done, or one has died and the others had time to report.

    Returns the outcome that counts most; None where the workers should start again.
    """
    outcomes: list[Outcome] = []
    running = dict(workers)
    patience: float | None = None
    while running:
        ended = wait([process.sentinel for process in running], patience)
        if not ended:
            break
        for process in [p for p in running if p.sentinel in ended]:
            outcome = _outcome_of(process, running.pop(process))
            if outcome is not None:
                outcomes.append(outcome)
            elif process.exitcode and process.exitcode < 0:
                death = f"{process.name} died of {signal.Signals(-process.exitcode).name}"
                display.say(death)
                history = History(run)
                history.add("death", history.last_step, death)
            if outcome is None or outcome.kind in ("bad input", "failed"):
                patience = GRACE_S
    if len(outcomes) < len(workers) and all(o.kind == "done" for o in outcomes):
        return None
    return min(outcomes, key=lambda outcome: SEVERITY.index(outcome.kind))


def _outcome_of(process: BaseProcess, pipe: Connection) -> Outcome | None:
    """What a worker that ended has reported; None where it died before it could."""
    process.join()
    with suppress(EOFError):
        if pipe.poll():
            outcome: Outcome = pipe.recv()
            return outcome
    return None


def _run_worker(rank: int, rendezvous: Path, config: Config, run: Path, sender: Connection) -> None:
    """What each of the processes does."""
    os.setpgid(0, 0)  # Ctrl-C goes to the parent alone, which passes it on once
    _end_with_parent()
    size = config.cluster.most_workers
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

    def train_here() -> dict[str, Any]:
        device = local_device()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=rendezvous.as_uri(),
            rank=rank,
            world_size=size,
            timeout=START_PATIENCE,
        )
        communicator = DistributedCommunicator(is_fast=config.cluster.reduction == "fast")
        return train(config, run, Silent() if rank else Display(), communicator=communicator)

    try:
        sender.send(attempt(train_here))
    except PeerLost:
        sys.exit(1)
    # An orderly exit closes torch's connections, and waits for workers that may still use them.
    sys.stdout.flush()
    os._exit(0)


def _end_with_parent() -> None:
    """Have this process end when its parent does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
