"""A run's folder: its config and its lock, and whether it may be trained as asked.

``config.yaml``, ``model/``, ``checkpoints/``, ``tensorboard/``, ``history.jsonl``, ``workers.json``
and ``metrics.json``; held by a lock while a training writes it.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from greatmeta_dist.batching.lane_counts import checked_lane_sizes, lanes_for_workers
from greatmeta_dist.config import Config
from greatmeta_dist.config.checks import typed_name
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import locked, write_json_atomically
from greatmeta_dist.storage.local_copy import absolute, address, local_folder
from greatmeta_dist.training.earlier_run import EarlierRun
from greatmeta_dist.training.run_config import saved_config, saved_note, write_config
from greatmeta_dist.training.run_copy import folder_to_read, held_copy, write_back_start
from greatmeta_dist.training.run_status import recorded_end
from greatmeta_dist.training.saved_model import MODEL, SavedModel, write_model

MAY_CHANGE = ("steps", "checkpoint_every", "keep_checkpoints", "log_every")
"""Options of ``train`` that a resumed run may set anew."""
CLUSTER_KEEPS = ("precision", "reduction")
"""Options of ``cluster`` that it may not, because they change bits."""
SWEEP = "sweep.json"
"""What makes a folder a sweep's: its options, and its jobs."""
LOG = "train.log"
"""What a training of a sweep prints."""
UNFINISHED = (".lock", LOG, "config.yaml.partial", MODEL, f".partial-{MODEL}")
"""What may be in a folder whose first training ended before it wrote its config."""


@contextmanager
def open_run(config: Config, run: Path, display: Display) -> Iterator[Config]:
    """Hold a run's folder while in the block, with its config and its model folder written.

    Gives the config with ``train.lanes`` decided. Priors that nobody has fitted yet are fitted
    first, which can take minutes. Raises ``InputError`` as ``checked_config`` does.
    """
    with held_copy(run, display), _open_here(config, run, display) as config:
        yield config


@contextmanager
def _open_here(config: Config, run: Path, display: Display) -> Iterator[Config]:
    """The same for a folder on disk."""
    config = checked_config(config, run)
    store = Store(local_folder(config.store or ""))
    note = saved_note(run)
    is_new = not checkpoint.steps(run / checkpoint.FOLDER)
    if is_new:
        note = _describe_start(config, store)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run / ".lock", f"another training writes {run}"):
        _require_writable(run / checkpoint.FOLDER)
        if is_new:
            write_model(run, store, config.priors, display)
        write_config(run, config, note=note)
        write_back_start(run)
        if is_new and note:
            display.say(note)
        with recorded_end(run, steps=config.train.steps):
            yield config


def checked_config(config: Config, run: Path) -> Config:
    """The config of a training that may be, with ``train.lanes`` decided; nothing is written.

    Raises ``InputError`` where the folder, the store or the options do not allow it.
    """
    require(config.store is not None, "store=DIR is not set; name the folder that prepare made")
    store = Store(local_folder(config.store or ""))
    earlier = absolute(config.train.from_run) if config.train.from_run else None
    require(
        earlier != address(run),
        f"train.from={run} is the run itself; name another run=DIR to train",
    )
    lanes = _decide_lanes(config, run, store)
    config = replace(config, train=replace(config.train, lanes=lanes, from_run=earlier))
    _require_resumable(run, config, store)
    checked_lane_sizes(
        store, config.train.lanes, config.train.users_per_batch, config.cluster.most_workers
    )
    return config


def require_same_store(identity: str, store: Store, run: Path) -> None:
    """Raises ``InputError`` unless ``identity`` is that of the store."""
    require(
        identity == store.identity,
        f"{run} was trained on another store than {store.folder} now is (its data was prepared "
        "anew); prepare that data as before, or start a new run=DIR",
    )


def write_workers(run: Path, communicator: Communicator, device: torch.device) -> None:
    """Write ``workers.json``: where each worker runs. All workers call it together."""
    here = {"host": socket.gethostname(), "pid": os.getpid(), "device": str(device)}
    by_worker = communicator.gather_objects(here)
    if by_worker is not None:
        write_json_atomically(run / "workers.json", by_worker)


def _require_writable(folder: Path) -> None:
    """Raises ``InputError`` where a folder is there and cannot be written.

    Else the first checkpoint would fail, when much has been computed.
    """
    if not folder.exists():
        return
    probe = folder / ".partial-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write into {folder} ({error.strerror}); change who may write it, or take "
            "another run=DIR"
        ) from error


def _describe_start(config: Config, store: Store) -> str | None:
    """What a new run takes from ``train.from``; None where it begins from nothing.

    Raises ``InputError`` where nothing can be taken from there.
    """
    if config.train.from_run is None:
        return None
    earlier = EarlierRun.open(folder_to_read(config.train.from_run))
    earlier.require_fits(config, store)
    return earlier.describe(config, store)


def _decide_lanes(config: Config, run: Path, store: Store) -> int | None:
    """K: as the options, the run or a group of workers want it; None takes the store's rule."""
    before, options = saved_config(run), config.train
    if options.lanes is not None:
        return options.lanes
    if before is not None and checkpoint.steps(run / checkpoint.FOLDER):
        return before.train.lanes
    if config.cluster.workers is None:
        return None
    return lanes_for_workers(store, options.users_per_batch, config.cluster.most_workers)


def _require_resumable(run: Path, config: Config, store: Store) -> None:
    """Raises ``InputError`` unless the folder may be trained in with this config on this store.

    It may where it is new or empty, where it has no checkpoint yet, and where its checkpoints are
    of the same config and store.
    """
    before = saved_config(run)
    if before is None:
        require(
            not (run / SWEEP).exists(),
            f"run={run} is the folder of a sweep; go on with it by greatmeta train -m run={run}, "
            "or choose another folder",
        )
        require(
            not run.exists() or (run.is_dir() and all(p.name in UNFINISHED for p in run.iterdir())),
            f"run={run} exists and is no run; choose an empty or new folder",
        )
        return
    if not checkpoint.steps(run / checkpoint.FOLDER):
        return
    step = checkpoint.steps(run / checkpoint.FOLDER)[-1]
    require(
        config.train.steps >= step,
        f"train.steps is {config.train.steps}, and {run} is at step {step} already; take {step} "
        "or more, or another run=DIR",
    )
    differences = _differences(before, config)
    require(
        not differences,
        f"{run} is a run with another config: {'; '.join(differences[:6])}. "
        "Choose another run=DIR, or leave these options out",
    )
    require_same_store(SavedModel.open(run).store_identity, store, run)


def _differences(before: Config, now: Config) -> list[str]:
    """Options that a resumed run would have otherwise, and may not."""
    old, new = asdict(before), asdict(now)
    return [
        f"{section}.{typed_name(getattr(now, section), name)} was {old[section][name]}, is {value}"
        for section in ("priors", "model", "inner", "scheduler", "train", "cluster")
        for name, value in new[section].items()
        if old[section][name] != value
        and not (section == "train" and name in MAY_CHANGE)
        and not (section == "cluster" and name not in CLUSTER_KEEPS)
    ]
