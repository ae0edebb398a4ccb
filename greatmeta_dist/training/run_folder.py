"""A run's folder: what it was started with, and the worker that it stands for.

``config.yaml``, ``checkpoints/``, ``tensorboard/``, ``workers.json`` and ``metrics.json``; held by
a lock while a training writes it.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.lanes import dealt, shared_lanes
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import Config
from greatmeta_dist.data.store import ITEM_ID, FeatureSpec, Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.worker import RowStart, Sizes, Worker, make_weighting
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.evaluation.evaluate import MAX_VALID_USERS, fit_blend_weight
from greatmeta_dist.files import locked
from greatmeta_dist.meta.weightings.base import GroupStatistics

MAY_CHANGE = ("steps", "checkpoint_every", "keep_checkpoints", "log_every")
"""Options of ``train`` that a resumed run may set anew."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As malloc.h has them."""
CLUSTER_KEEPS = ("precision", "reduction")
"""Options of ``cluster`` that change bits, which it may not."""
UNFINISHED = (".lock", "config.yaml.partial")
"""What a start leaves that ends before there is a config."""
FOR_PREDICTIONS: checkpoint.Wanted = {"rows": None}
"""Predictions take embedding rows, and nothing that is remembered of users."""


@dataclass(frozen=True)
class Setup:
    """A worker with the store it learns from."""

    config: Config
    store: Store
    choice: FeatureSpec
    collator: Collator
    worker: Worker


def set_up(config: Config, store: Store, communicator: Communicator | None = None) -> Setup:
    """A fresh worker for a store, on its GPU where there is one; in a ``communicator``, or by itself.

    Raises ``InputError`` where the model has nothing to tell items by.
    """
    if config.cluster.threads is not None:
        torch.set_num_threads(config.cluster.threads)
    elif communicator is not None and config.cluster.workers is not None:
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = config.cluster.precision != "float32"
    _keep_freed_memory()
    model = config.model
    choice = FeatureSpec(model.has_item_id, model.list_pooling)
    require(
        bool(store.fields("item", choice)),
        f"model.has_item_id=false, and {store.folder} has no item features: nothing tells items "
        "apart; take model.has_item_id=true, or prepare with item features",
    )
    weighting = make_weighting(config.scheduler)
    factor_spec = weighting.factor_spec
    collator = Collator(
        store.item_features(choice),
        has_support_gradient=model.has_encoder and model.context == "support",
        has_row_norms=factor_spec is not None and factor_spec.magnitude.has_row_norms,
        target_transform=TargetTransform.of(
            store, model.target, use_bayesian_mf=model.use_bayesian_mf
        ),
        support_damping=config.inner.support_damping,
        balance=weighting.target_weights(_group_statistics(store)),
    )
    sizes = Sizes(
        len(store.fields("user", choice)),
        len(store.fields("item", choice)),
        store.manifest.num_rows,
        "bce" if store.manifest.is_click else "mse",
    )
    start = (
        _row_start(store, choice) if model.item_init == "factors" and model.has_item_id else None
    )
    worker = Worker(config, sizes, local_device(), communicator, start)
    return Setup(config, store, choice, collator, worker)


def _keep_freed_memory() -> None:
    """Have the allocator keep what is freed, for the next step's tensors are as large.

    Else glibc gives large blocks back to the system, which must fill them with zeros anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that older ones allow


def _group_statistics(store: Store) -> GroupStatistics:
    """What the manifest says of each preference group."""
    groups = store.manifest.clusters
    return GroupStatistics(
        size=np.array([g.size for g in groups], np.float64),
        difficulty=np.array([g.difficulty for g in groups]),
        difficulty_error=np.array([g.difficulty_error for g in groups]),
    )


def _row_start(store: Store, choice: FeatureSpec) -> RowStart:
    """Items' own rows at the factors of the training users' ratings."""
    item, factors = store.item_factors()
    names = [f.name for f in store.fields("item", choice)]
    own = store.item_features(choice).fields[names.index(ITEM_ID)]
    rows = own.values[own.offsets[item]]
    order = np.argsort(rows)
    return RowStart(torch.from_numpy(rows[order]).long(), torch.from_numpy(factors[order]))


def local_device() -> torch.device:
    """This worker's GPU, the one that its place on the machine names, or the CPU.

    The CPU, too, where a group of workers is up that speaks by way of it.
    """
    is_on_host = dist.is_initialized() and dist.get_backend() == "gloo"
    if is_on_host or not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def load_run(run: Path, store: Path | None, display: Display) -> tuple[Setup, int]:
    """A run with its best parameters, and their step; raises ``InputError`` if there are none.

    With factorisations, their share in predictions is fitted to the validation users, which are
    scored for it.
    """
    config = saved_config(run)
    require(
        config is not None,
        f"{run} holds no run (no config.yaml); run: greatmeta train store=DIR run={run}",
    )
    assert config is not None
    require(
        store is not None or config.store is not None,
        f"{run}/config.yaml names no store; add store=DIR",
    )
    opened = Store(store or Path(config.store or ""))
    opened.check()
    setup = set_up(config, opened)
    chosen, skipped = checkpoint.load_latest(run / "checkpoints", wanted=FOR_PREDICTIONS)
    require(
        chosen is not None or not skipped,
        f"{run} has {len(skipped)} checkpoints, and all are damaged or partial; restore "
        f"{run}/checkpoints from a copy, or train anew with another run=DIR",
    )
    require(chosen is not None, f"{run} has no checkpoint yet; run greatmeta train run={run}")
    assert chosen is not None
    say_skipped(skipped, display)
    require_same_store(chosen.state, setup.store, run)
    best = chosen.state["best"]
    if best and best["step"] != chosen.step:
        found = checkpoint.load(run / "checkpoints", best["step"], wanted=FOR_PREDICTIONS)
        if found is None:
            display.say(
                f"the best checkpoint, of step {best['step']}, is damaged or gone; "
                f"taking step {chosen.step}"
            )
        chosen = found or chosen
    setup.worker.load(chosen.dense, chosen.tables)
    if setup.collator.target_transform.factorisations:
        total = min(MAX_VALID_USERS, setup.store.manifest.parts.get("valid", 0))
        with display.bar("validate", total, "users") as bar:
            share = fit_blend_weight(
                setup.worker,
                setup.store,
                setup.collator,
                setup.choice,
                lambda part, done, users: bar.update(done, part),
            )
        target_transform = replace(setup.collator.target_transform, blend_weight=share)
        setup = replace(setup, collator=replace(setup.collator, target_transform=target_transform))
    return setup, chosen.step


def say_skipped(steps: list[int], display: Display) -> None:
    """Of checkpoints that could not be loaded."""
    for step in steps:
        display.say(f"checkpoint of step {step} is damaged or partial; going further back")


def require_same_store(state: dict[str, Any], store: Store, run: Path) -> None:
    """That a checkpoint of such a state was made on this store."""
    require(
        state["store"] == store.identity,
        f"{run} was trained on another store than {store.folder} now is (its data was prepared "
        "anew); prepare that data as before, or start a new run=DIR",
    )


def saved_config(run: Path) -> Config | None:
    """The config a run was started with."""
    path = run / "config.yaml"
    if not path.exists():
        return None
    text = path.read_text()
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except Exception as error:
        raise InputError(f"{path} is not a config of this version: {error}") from error


@contextmanager
def open_run(config: Config, run: Path) -> Iterator[Config]:
    """Check the store and that ``run`` can be trained so; hold it, and write its config.

    Gives the config with ``train.lanes`` decided.
    """
    require(config.store is not None, "store=DIR is not set; name the folder that prepare made")
    store = Store(Path(config.store or ""))
    config = replace(config, train=replace(config.train, lanes=_lanes(config, run, store)))
    _require_own(run, config, store)
    dealt(store, config.train.lanes, config.train.users_per_batch, config.cluster.most_workers)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run / ".lock", f"another training writes {run}"):
        _save_config(run, config)
        yield config


def _lanes(config: Config, run: Path, store: Store) -> int | None:
    """K: as asked for, as the run has it, or as suits a group; None leaves it to the store."""
    before, options = saved_config(run), config.train
    if options.lanes is not None:
        return options.lanes
    if before is not None and checkpoint.steps(run / "checkpoints"):
        return before.train.lanes
    if config.cluster.workers is None:
        return None
    return shared_lanes(store, options.users_per_batch, config.cluster.most_workers)


def _save_config(run: Path, config: Config) -> None:
    partial = run / "config.yaml.partial"
    settings = {k: v for k, v in asdict(config).items() if k != "data"}
    settings["store"] = str(Path(config.store or "").resolve())
    OmegaConf.save(OmegaConf.create(settings), partial)
    partial.rename(run / "config.yaml")


def _require_own(run: Path, config: Config, store: Store) -> None:
    """A folder is a run's if it is new or empty, holds no checkpoint yet, or this config's, made on
    this store."""
    before = saved_config(run)
    if before is None:
        require(
            not run.exists() or (run.is_dir() and all(p.name in UNFINISHED for p in run.iterdir())),
            f"run={run} exists and is no run; choose an empty or new folder",
        )
        return
    if not checkpoint.steps(run / "checkpoints"):
        return
    old, new = asdict(before), asdict(config)
    differ = [
        f"{section}.{name} was {old[section][name]}, is {value}"
        for section in ("model", "inner", "scheduler", "train", "cluster")
        for name, value in new[section].items()
        if old[section][name] != value
        and not (section == "train" and name in MAY_CHANGE)
        and not (section == "cluster" and name not in CLUSTER_KEEPS)
    ]
    require(
        not differ,
        f"{run} is a run with another config: {'; '.join(differ[:6])}. "
        "Choose another run=DIR, or leave these options out",
    )
    state = checkpoint.newest_state(run / "checkpoints")
    if state is not None:
        require_same_store(state, store, run)
