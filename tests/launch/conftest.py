"""A store that is hard to share out, and a training to compare disturbed ones with."""

import multiprocessing
from pathlib import Path

import pytest
from small_training import CHEAP_PRIORS

from benchmarks.chaos import Undisturbed
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.launch import local


@pytest.fixture(scope="session")
def uneven(tmp_path_factory) -> Path:
    """Users of 2 to 60 rows, some without query rows, all of whom know item 0; 13 steps an epoch
    and a few users left over."""
    folder = tmp_path_factory.mktemp("uneven")
    lines, split = ["user,item,rating"], ["part\tuser_id\trole\titem_id"]
    for user in range(120):
        split_name = "train" if user < 110 else "valid"
        for k in range(2 + user * user % 59):
            item = 0 if k == 0 else 1 + (7 * user + 11 * k) % 97
            lines.append(f"u{user},i{item},{1 + (user + item * k) % 5}")
            is_query = k % 4 == 1 and not (split_name == "train" and user % 10 == 3)
            split.append(f"{split_name}\tu{user}\t{'query' if is_query else 'support'}\ti{item}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "split.tsv").write_text("\n".join(split) + "\n")
    config = DataConfig(
        source="csv",
        path=str(folder / "log.csv"),
        split=str(folder / "split.tsv"),
        min_interactions=1,
    )
    prepare(config, folder / "store")
    return folder / "store"


@pytest.fixture
def quick_start(monkeypatch):
    """Workers are copies of a process that has imported all: the bits do not depend on it.

    Else imports would take most of the time of the seventy workers that start here. PyArrow imports
    pandas where the first column is read.
    """
    multiprocessing.set_forkserver_preload(["greatmeta_dist.launch.local", "pandas"])
    monkeypatch.setattr(local, "START_METHOD", "forkserver")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    """A quarter as long as the benchmark's, with six checkpoints."""
    folder = tmp_path_factory.mktemp("undisturbed")
    options = ("train.steps=60", "train.checkpoint_every=10", *CHEAP_PRIORS)
    return Undisturbed.of(str(folder), folder / "log", *options)
