"""From a CSV to scored predictions: ``python examples/own_csv.py [LOG.csv] [--work FOLDER]``.

COLUMNS says which columns LOG.csv has. Without LOG.csv a small log is written first. Users of fewer
than 13 ratings are left out.
"""

import argparse
from pathlib import Path

import numpy as np

from greatmeta_dist import evaluate, prepare, train
from greatmeta_dist.config import ColumnsConfig, Config, DataConfig, TrainConfig

COLUMNS = ColumnsConfig(user="uid", item="iid", rating="stars", timestamp=None)


def write_small_log(path: Path) -> None:
    """300 users of two tastes rate 20 of 100 items each."""
    rng, lines = np.random.default_rng(0), ["uid,iid,stars"]
    taste = 3 + rng.normal(size=(2, 100))
    for user in range(300):
        for item in rng.choice(100, 20, replace=False):
            stars = round(taste[user % 2, item] + rng.normal(scale=0.5))
            lines.append(f"u{user},i{item},{min(max(stars, 1), 5)}")
    path.write_text("\n".join(lines) + "\n")


parser = argparse.ArgumentParser()
parser.add_argument("log", type=Path, nargs="?")
parser.add_argument("--work", type=Path, default=Path("runs/own-csv"))
parser.add_argument("--steps", type=int, default=200)
log, work, steps = vars(parser.parse_args()).values()
if log is None:
    work.mkdir(parents=True, exist_ok=True)
    write_small_log(log := work / "log.csv")
prepare(DataConfig(source="csv", path=str(log), columns=COLUMNS), work / "store")
train(Config(store=str(work / "store"), train=TrainConfig(steps=steps)), work / "run")
evaluate(work / "run")
