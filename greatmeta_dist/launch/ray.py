"""Training by the workers of a Ray cluster: Ray Train starts, watches and restarts them.

The only file that imports Ray. Workers leave word for the driver at a *mailbox*, an actor on the
driver's node: what to show, and how it ended. The driver leaves there that it is to stop.
"""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

# No reports of usage, workers stay in their directory, no warning where there are no GPUs.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from greatmeta_dist.config import Config
from greatmeta_dist.display import Bar, Display, Silent
from greatmeta_dist.engine.communicator import START_PATIENCE, PeerLost, join
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.restart import Outcome, RestartPolicy, attempt
from greatmeta_dist.processors import available_processors
from greatmeta_dist.training.device import local_device
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.run_folder import open_run

OBJECT_STORE_BYTES = 200 << 20
"""Of a local Ray; nothing large goes through it."""
POLL_S = 0.2
CONNECT_S = 10.0


class Mailbox:
    """Where workers and the driver leave word for each other."""

    def __init__(self, run: Path):
        self._starts = RestartPolicy(run)
        self._words: list[tuple[Any, ...]] = []
        self._outcome: Outcome | None = None
        self._is_stopped = False

    def start(self) -> Outcome | None:
        """The first worker is about to begin; an outcome where it should not."""
        self._outcome = self._outcome or self._starts.allow()
        return self._outcome

    def tell(self, *word: Any) -> None:
        """Something to show."""
        self._words.append(word)

    def take(self) -> list[tuple[Any, ...]]:
        """What is new to show."""
        words, self._words = self._words, []
        return words

    def conclude(self, outcome: Outcome) -> None:
        """How it ended. A failure outweighs that others were done or stopped."""
        if self._outcome is None or outcome.kind in ("bad input", "failed"):
            self._outcome = outcome

    def outcome(self) -> Outcome | None:
        return self._outcome

    def stop(self) -> None:
        self._is_stopped = True

    def is_stopped(self) -> bool:
        return self._is_stopped


class _Relayed(Display):
    """A worker's display: shows on the driver's."""

    def __init__(self, mailbox: Any):
        super().__init__()
        self._desk = mailbox

    def say(self, text: str) -> None:
        self._desk.tell.remote("say", text)

    @contextmanager
    def bar(self, label: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        self._desk.tell.remote("bar", label, total, unit, done)
        try:
            yield _RelayedBar(self._desk)
        finally:
            self._desk.tell.remote("end")


class _RelayedBar(Bar):
    def __init__(self, mailbox: Any):
        self._desk = mailbox

    def update(self, done: int, detail: str = "") -> None:
        self._desk.tell.remote("update", done, detail)


def fit(config: Config, run: Path, display: Display) -> dict[str, Any]:
    """Train on Ray as ``config.cluster`` says; what ``metrics.json`` holds."""
    if config.cluster.address is not None:
        _require_answer(config.cluster.address)
    with open_run(config, run, display) as config, _cluster(config, display):
        run = run.resolve()
        given = replace(config, store=str(Path(config.store or "").resolve()))
        node = ray.get_runtime_context().get_node_id()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote(run)
        own = run / ".ray"
        shutil.rmtree(own, ignore_errors=True)
        trainer = TorchTrainer(
            _work,
            train_loop_config={"config": given, "run": run, "mailbox": mailbox},
            torch_config=TorchConfig(timeout_s=int(START_PATIENCE.total_seconds())),
            scaling_config=_scaling(config, display),
            run_config=RunConfig(
                name=own.name,
                storage_path=str(run),
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        problem: list[BaseException] = []

        def run_it() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                problem.append(error)

        thread = threading.Thread(target=run_it, name="ray train", daemon=True)
        with _stopping(mailbox):
            thread.start()
            _show(mailbox, thread, display)
        outcome: Outcome | None = ray.get(mailbox.outcome.remote())
        shutil.rmtree(own, ignore_errors=True)
    if outcome is None:
        why = str(problem[0]).strip().splitlines()[-1:] if problem else ["no worker said why"]
        outcome = Outcome("failed", message=f"Ray ended the training: {''.join(why)}")
    return outcome.unwrap()


def _work(given: dict[str, Any]) -> None:
    """What each worker does."""
    config, run, mailbox = given["config"], given["run"], given["mailbox"]
    communicator = join(local_device(), is_fast=config.cluster.reduction == "fast")
    if communicator.is_spare:
        _stand_by(mailbox)
        return
    told: Outcome | None = ray.get(mailbox.start.remote()) if communicator.is_first else None
    if communicator.broadcast_object(told) is not None:
        return
    display = _Relayed(mailbox) if communicator.is_first else Silent()
    is_stopped, is_over = threading.Event(), threading.Event()

    def listen() -> None:
        while not is_over.wait(POLL_S):
            with suppress(ray.exceptions.RayError):
                if ray.get(mailbox.is_stopped.remote()):
                    is_stopped.set()

    threading.Thread(target=listen, name="mailbox", daemon=True).start()
    try:
        outcome = attempt(
            lambda: train(
                config, run, display, communicator=communicator, is_stopped=is_stopped.is_set
            )
        )
    except PeerLost:
        if ray.get(mailbox.outcome.remote()) is None:
            raise  # Ray Train starts the group again
        return
    finally:
        is_over.set()
    if communicator.is_first or outcome.kind != "done":
        ray.get(mailbox.conclude.remote(outcome))


def _stand_by(mailbox: Any) -> None:
    """One worker more than the power of two: wait for the end, or to be needed."""
    over = threading.Event()
    while ray.get(mailbox.outcome.remote()) is None:
        over.wait(1.0)


def _scaling(config: Config, display: Display) -> ScalingConfig:
    """Workers and what each is given."""
    cluster = config.cluster
    found = ray.cluster_resources()
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if found.get("GPU", 0) >= 1 else 0.0
    resources = {"CPU": float(cluster.threads)} | ({"GPU": gpus} if gpus else {})
    workers = cluster.workers
    is_elastic = isinstance(workers, (list, tuple))
    fewest = workers[0] if is_elastic else cluster.most_workers
    lacking = [k for k, v in resources.items() if found.get(k, 0) < v * fewest]
    for kind in lacking:
        display.say(
            f"waiting for the cluster to grow: {fewest} workers need {resources[kind] * fewest:g} "
            f"{kind}, and it has {found.get(kind, 0):g}"
        )
    return ScalingConfig(
        num_workers=(fewest, cluster.most_workers) if is_elastic else fewest,  # type: ignore[arg-type]
        use_gpu=gpus > 0,
        resources_per_worker=resources,
    )


def _require_answer(address: str) -> None:
    """Of ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise _no_answer(address, str(error)) from error


def _no_answer(address: str | None, why: str) -> InputError:
    return InputError(
        f"no Ray cluster answers at cluster.address={address} ({why}); start one there with: "
        "ray start --head, or leave cluster.address out"
    )


@contextmanager
def _cluster(config: Config, display: Display) -> Iterator[None]:
    """A connection to ``cluster.address``, or to a Ray of our own; closed after, if we made it."""
    if ray.is_initialized():
        yield
        return
    cluster = config.cluster
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if cluster.address is not None:
            ray.init(address=cluster.address, **common)
        else:
            display.say("starting a local Ray")
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            ray.init(
                address="local",
                num_cpus=max(available_processors(), cluster.most_workers * cluster.threads),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except ConnectionError as error:
        raise _no_answer(cluster.address, str(error).splitlines()[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def _show(mailbox: Any, thread: threading.Thread, display: Display) -> None:
    """Show what workers tell until the training is over."""
    opened, bar = None, None
    is_last = False
    while not is_last:
        thread.join(POLL_S)
        is_last = not thread.is_alive()
        for kind, *word in ray.get(mailbox.take.remote()):
            if kind == "say":
                display.say(*word)
            elif kind == "update" and bar is not None:
                bar.update(*word)
            elif kind in ("bar", "end"):
                if opened is not None:
                    opened.__exit__(None, None, None)
                opened = bar = None
                if kind == "bar":
                    label, total, unit, done = word
                    opened = display.bar(label, total, unit, done=done)
                    bar = opened.__enter__()
    if opened is not None:
        opened.__exit__(None, None, None)


@contextmanager
def _stopping(mailbox: Any) -> Iterator[None]:
    """A first Ctrl-C or SIGTERM asks the workers to stop; the second one ends the process."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def ask(number: int, frame: Any) -> None:
        mailbox.stop.remote()
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in kinds:
        signal.signal(kind, ask)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
