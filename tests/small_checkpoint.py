"""A checkpoint of a few tensors, for tests of reading and of writing."""

from pathlib import Path

import torch

from greatmeta_dist.engine.checkpoint import Block, folder_name
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.communicator import Communicator


def write_checkpoint(folder: Path, step: int) -> Path:
    """Write the checkpoint of a step; its folder."""
    dense = {"theta.a": torch.full((2, 3), float(step)), "adam.step": torch.tensor(float(step))}
    rows = {"rows": torch.arange(12.0).view(6, 2) + step, "num_steps": torch.tensor(step)}
    users = {"visits": torch.arange(3)}
    blocks = {"rows": Block(rows, 0, 6), "users": Block(users, 0, 3)}
    writer = CheckpointWriter.open(folder, Communicator(), keep=10)
    writer.save(step, dense, blocks, {"best": {"step": step}})
    writer.wait()
    return folder / folder_name(step)


def truncate_dense(path: Path) -> None:
    """Damage a checkpoint: half of a file is missing."""
    data = (path / "dense.safetensors").read_bytes()
    (path / "dense.safetensors").write_bytes(data[: len(data) // 2])
