"""The shipped defaults on MovieLens 100K's given split: the README's table.

``python -m benchmarks.ml_100k --path FOLDER [--seeds 3] [--json FILE]``. FOLDER holds RecBole
atomic files and ``split.tsv``. Rows of several seeds are means over them.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from greatmeta_dist.config import DataConfig
from greatmeta_dist.display import Display
from greatmeta_dist.evaluate import MODELS, evaluate
from greatmeta_dist.options import compose_config, opened
from greatmeta_dist.tasks.prepare import prepare
from greatmeta_dist.train import load_run, train

METRICS = ("mae", "rmse", "ndcg@3", "ndcg@5", "ndcg@10")


def run(path: Path, num_seeds: int, experiment: str) -> dict[str, Any]:
    """Train and evaluate with every seed; scores by seed, and seconds of each training."""
    with tempfile.TemporaryDirectory() as folder, opened():
        store = Path(folder) / "store"
        data = DataConfig(source="recbole", path=str(path), split=str(path / "split.tsv"))
        prepare(data, store)
        config = compose_config([f"experiment={experiment}", f"store={store}"])
        scores, seconds = [], []
        for seed in range(num_seeds):
            where = Path(folder) / str(seed)
            start = time.monotonic()
            train(replace(config, train=replace(config.train, seed=seed)), where, Display())
            seconds.append(time.monotonic() - start)
            setup, _ = load_run(where, None, Display())
            found = evaluate(setup.worker, setup.store, setup.maker, setup.choice)
            scores.append(found["scenarios"]["user_cold"])
    return {
        "hardware": {"processor": platform.processor(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "experiment": experiment,
        "seconds": seconds,
        "by_seed": scores,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    seeds = result["by_seed"]
    for model in MODELS:
        means = [sum(s["models"][model][m] for s in seeds) / len(seeds) for m in METRICS]
        lines.append(f"| {model} | " + " | ".join(f"{v:.3f}" for v in means) + " |")
    chance = [f"{seeds[0]['chance'][m]:.3f}" if m in seeds[0]["chance"] else "" for m in METRICS]
    lines.append("| chance | " + " | ".join(chance) + " |")
    longest = max(result["seconds"])
    return "\n".join(lines) + f"\n\nLongest training: {longest:.0f} s."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--experiment", default="ml-100k")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = run(options.path, options.seeds, options.experiment)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
