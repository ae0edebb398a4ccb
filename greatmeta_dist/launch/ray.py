"""Training by the workers of a Ray cluster: Ray Train starts, watches and restarts them.

Workers and the driver write to each other through a mailbox (``mailbox.py``).
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before Ray: it says what Ray reads when it is imported.
from greatmeta_dist.launch.ray_cluster import connected  # isort: split

import ray
from ray.train import FailureConfig, RunConfig
from ray.train.v2.api.config import ScalingConfig

from greatmeta_dist.config import ClusterConfig, Config
from greatmeta_dist.display import Display, Silent
from greatmeta_dist.engine.communicator import START_PATIENCE, PeerLost, join
from greatmeta_dist.launch.mailbox import Mailbox, PostingDisplay, shown_messages
from greatmeta_dist.launch.network import TorchConfigOnRaysNetwork
from greatmeta_dist.launch.restart import Outcome, attempt
from greatmeta_dist.launch.scaling import Trainer, on_this_node, policy_of
from greatmeta_dist.launch.sigterm import is_terminated
from greatmeta_dist.launch.waiting import Need, Waiting, needed, require_possible
from greatmeta_dist.signals import noted_stop_signals
from greatmeta_dist.storage.local_copy import LocalCopy, absolute, address
from greatmeta_dist.training.device import local_device
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.regroup import Regroup, Regrouping, Requests
from greatmeta_dist.training.run_copy import folder_to_train
from greatmeta_dist.training.run_folder import open_run

RAY_FOLDER = ".ray"
"""What Ray Train writes, inside the run's folder; deleted when a training ends."""
POLL_S = 0.2
STAND_BY_POLL_S = 1.0
END_S = 10.0
"""How long a trainer may take to notice that it was ended."""
IDLE_S = 5.0
"""Workers that train ask for a stop more often than that; so after it, none train."""


def train_on_ray(config: Config, run: Path, display: Display) -> dict[str, Any]:
    """Train on Ray as ``config.cluster`` says; returns what ``metrics.json`` holds."""
    with open_run(config, run, display) as config, connected(config.cluster, display):
        run = run.resolve()
        config = replace(config, store=absolute(config.store or ""))
        need = needed(config.cluster)
        require_possible(need)
        mailbox = _start_mailbox(run)
        waiting = Waiting(need, config.cluster.wait_s, display, is_group=True)
        try:
            error = _run_trainer(_trainer(config, run, mailbox, need), mailbox, display, waiting)
        finally:
            with suppress(OSError):  # an object store that does not answer says so elsewhere
                _delete_ray_folder(run)
        outcome: Outcome | None = ray.get(mailbox.outcome.remote())
        if outcome is None:
            reason = str(error).strip().splitlines()[-1:] if error else ["no worker reported why"]
            outcome = Outcome("failed", message=f"Ray ended the training: {''.join(reason)}")
        return outcome.unwrap()  # in the block, so that the run's records say how it ended


def _start_mailbox(run: Path) -> Any:
    """The mailbox's actor."""
    options = {"num_cpus": 0, "scheduling_strategy": on_this_node()}
    return ray.remote(Mailbox).options(**options).remote(run)


def _trainer(config: Config, run: Path, mailbox: Any, need: Need) -> Trainer:
    """Ray Train's group of workers. It restarts without limit: ``RestartPolicy`` sets the limit."""
    _delete_ray_folder(run)
    copy = LocalCopy.of(run)
    system, path = copy.origin.system if copy is not None else (None, str(run))
    return Trainer(
        policy_of(_scaling(config.cluster, need), mailbox),
        _run_worker,
        train_loop_config={"config": config, "run": address(run), "mailbox": mailbox},
        torch_config=TorchConfigOnRaysNetwork(timeout_s=int(START_PATIENCE.total_seconds())),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=path,
            storage_filesystem=system,
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def _delete_ray_folder(run: Path) -> None:
    """Delete what Ray Train wrote for itself."""
    copy = LocalCopy.of(run)
    if copy is None:
        shutil.rmtree(run / RAY_FOLDER, ignore_errors=True)
    else:
        copy.origin.delete_all(RAY_FOLDER)


def _run_trainer(
    trainer: Trainer, mailbox: Any, display: Display, waiting: Waiting
) -> BaseException | None:
    """Train to the end, show what workers post, pass stops on; the error that Ray ended with.

    Raises ``KeyboardInterrupt`` where a stop comes while there are no workers to pass it on to, and
    ``RuntimeError`` where the cluster takes too long to have room for them.
    Ray Train runs in a thread, because this one must show messages and receive signals meanwhile.
    """
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit, name="ray train", daemon=True)
    with (
        noted_stop_signals(lambda: mailbox.stop.remote()) as stop,
        shown_messages(display) as show,
        _ended(trainer, thread),
    ):
        thread.start()
        waiting.look()  # what is missing at the start is said at once
        is_over = False
        while not is_over:
            thread.join(POLL_S)
            is_over = not thread.is_alive()
            show(ray.get(mailbox.drain.remote()))
            idle_s = ray.get(mailbox.idle_s.remote())
            if idle_s < IDLE_S:
                waiting.over()
            elif stop.is_received and not is_over:
                raise KeyboardInterrupt
            else:
                waiting.look()
    return errors[0] if errors else None


@contextmanager
def _ended(trainer: Trainer, thread: threading.Thread) -> Iterator[None]:
    """Have a trainer's thread end with the block, and the workers with it.

    Else they would go on in a Ray that stays connected, and train once there is room for them.
    """
    try:
        yield
    finally:
        trainer.end()
        thread.join(END_S)


def _run_worker(arguments: dict[str, Any]) -> None:
    """What each worker does."""
    config, mailbox = arguments["config"], arguments["mailbox"]
    run = folder_to_train(arguments["run"])
    communicator = join(local_device(), is_fast=config.cluster.reduction == "fast")
    if communicator.is_spare:
        _stand_by(mailbox)
        return
    earlier: Outcome | None = ray.get(mailbox.start.remote()) if communicator.is_first else None
    if communicator.broadcast_object(earlier) is not None:
        return
    display = PostingDisplay(mailbox) if communicator.is_first else Silent()
    try:
        with _requests_from(mailbox) as requests:
            outcome = attempt(
                lambda: train(
                    config,
                    run,
                    display,
                    communicator=communicator,
                    is_stopped=requests.is_stopped,
                    regroup=requests.regroup,
                )
            )
    except (PeerLost, Regrouping):
        if ray.get(mailbox.outcome.remote()) is None:
            raise  # Ray Train starts the group again
        return
    if communicator.is_first or outcome.kind != "done":
        ray.get(mailbox.conclude.remote(outcome))


@contextmanager
def _requests_from(mailbox: Any) -> Iterator[Requests]:
    """What is asked of this worker; a thread looks for it while in the block."""
    is_over = threading.Event()
    newest: tuple[bool, Regroup | None] = (False, None)

    def poll() -> None:
        nonlocal newest
        while not is_over.wait(POLL_S):
            with suppress(ray.exceptions.RayError):
                if is_terminated():
                    mailbox.regroup.remote(Regroup("preemption", "a worker received SIGTERM"))
                newest = ray.get(mailbox.requests.remote())

    threading.Thread(target=poll, name="mailbox", daemon=True).start()
    try:
        yield Requests(is_stopped=lambda: newest[0], regroup=lambda: newest[1])
    finally:
        is_over.set()


def _stand_by(mailbox: Any) -> None:
    """What a worker beyond the power of two does: nothing until the training ends.

    If another worker dies meanwhile, Ray Train starts the group again, with this one in it.
    """
    never = threading.Event()
    while ray.get(mailbox.outcome.remote()) is None:
        never.wait(STAND_BY_POLL_S)


def _scaling(cluster: ClusterConfig, need: Need) -> ScalingConfig:
    """The workers of a group, from the fewest to the most, and what each of them takes."""
    is_elastic = cluster.most_workers > need.workers
    return ScalingConfig(
        num_workers=(need.workers, cluster.most_workers) if is_elastic else need.workers,
        elastic_resize_monitor_interval_s=cluster.growth_interval_s,
        use_gpu="GPU" in need.each,
        resources_per_worker=dict(need.each),
    )
