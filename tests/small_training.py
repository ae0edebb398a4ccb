"""Trainings that take a second or two, and what they leave."""

from pathlib import Path
from typing import Any

import torch
from logs import csv_config, write_log

from greatmeta_dist.config import Config, ModelConfig, TrainConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint

CHEAP_PRIORS = ("priors.bayesian_mf.num_starts=1", "priors.content.tree_iterations=5")
"""Words of a command, for claims that hold of any priors."""


def prepare_store(folder: Path, *, seed: int = 0) -> Path:
    """A store of 120 users with an item feature, preference groups and all four scenarios.

    The seed decides who is in which split.
    """
    items = folder / "items.csv"
    items.write_text("i,kind\n" + "".join(f"i{k},c{k % 5}|d{k % 3}\n" for k in range(50)))
    prepare(
        csv_config(
            write_log(folder, num_users=120),
            items_path=str(items),
            item_features={"kind": "token_list"},
            cold_item_fraction=0.1,
            test_fraction=0.3,
            max_query_fraction=1.0,
            seed=seed,
        ),
        folder / "store",
    )
    return folder / "store"


def small(store: Path, **options: Any) -> Config:
    """A small model's training of 12 steps; ``options`` are those of ``train``."""
    options = {"steps": 12, "users_per_batch": 8, "valid_every": 5, "log_every": 2} | options
    return Config(
        model=ModelConfig(embedding_dim=4, hidden=[8]),
        train=TrainConfig(**{"checkpoint_every": 4, **options}),
        store=str(store),
    )


def final_state(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest whole checkpoint."""
    newest, _ = checkpoint.load_latest(run / "checkpoints")
    assert newest is not None
    tables = {f"{t}/{k}": v for t, entries in newest.tables.items() for k, v in entries.items()}
    return newest.dense | tables


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


class Lines(Display):
    """A display that keeps its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
