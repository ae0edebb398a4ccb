"""What a large checkpoint costs the training that goes on meanwhile."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.scaling.memory import WIDTH
from benchmarks.untrained import training_lanes, untrained_model
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.engine.checkpoint import Block, steps
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.meta.factor_averages import FactorAverages
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.build import Model


def checkpointing(
    data: DataConfig, folder: Path, *, num_rows: int, num_users: int
) -> dict[str, float]:
    """Seconds that training waits for a checkpoint, that writing takes, and of a step meanwhile.

    The checkpoint holds ``num_rows`` embedding rows, and the factor averages of ``num_users``.
    """
    prepare(data, folder / "store")
    store = Store(folder / "store")
    config = compose_config([f"store={store.folder}", "cluster.threads=1"])
    model = untrained_model(config, store)
    batch = training_lanes(config, store, model).step(0).batch

    def step() -> float:
        start = time.perf_counter()
        model.worker.step(batch)
        return time.perf_counter() - start

    blocks = _blocks(model, num_rows, num_users)
    writer = CheckpointWriter.open(folder / "checkpoints", Communicator(), keep=1)
    writer.save(0, {}, blocks, {})
    writer.wait()
    undisturbed = [step() for _ in range(25)][5:]
    waited, written, meanwhile = _save(writer, blocks, folder / "checkpoints", step)
    undisturbed += [step() for _ in range(20)]
    num_bytes = sum(
        tensor.numel() * tensor.element_size()
        for block in blocks.values()
        for tensor in block.tensors.values()
    )
    return {
        "rows": num_rows,
        "users": num_users,
        "mib": num_bytes / 2**20,
        "training_waits_s": waited,
        "written_after_s": written,
        "steps_meanwhile": len(meanwhile),
        "step_slower": statistics.median(meanwhile) / statistics.median(undisturbed),
    }


def _blocks(model: Model, num_rows: int, num_users: int) -> dict[str, Block]:
    table = EmbeddingTable(torch.randn(num_rows, WIDTH), rate=1e-3, ema_decay=0.99)
    sizes = model.worker.factor_sizes
    averages = FactorAverages(num_users, sizes, torch.device("cpu"), first_user=0)
    users = {"factors": averages.mean.normal_(), "visits": averages.visits}
    return {"rows": Block(table.state(), 0, num_rows), "users": Block(users, 0, num_users)}


def _save(
    writer: CheckpointWriter,
    blocks: dict[str, Block],
    checkpoints: Path,
    step: Callable[[], float],
) -> tuple[float, float, list[float]]:
    """Save once while steps go on: seconds waited, seconds until written, seconds of the steps."""
    start = time.perf_counter()
    writer.save(1, {}, blocks, {})
    waited = time.perf_counter() - start
    meanwhile = [step()]
    while steps(checkpoints) != [1]:
        meanwhile.append(step())
    return waited, time.perf_counter() - start, meanwhile
