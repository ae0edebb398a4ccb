"""What lists add to the time of an evaluation, in one run and in turns.

``python -m benchmarks.evaluation --run DIR [--repeats 3] [--json FILE]``. Times an evaluation of a
run without lists, with lists of the query candidates alone, and with the whole catalogue, which is
what ``evaluate`` does. Ratios are to the first; the least of the repeats counts.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.environment import write_result
from greatmeta_dist.batching.read import read_split
from greatmeta_dist.config import EvaluateConfig
from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.evaluation.evaluate import evaluate, evaluate_users, list_settings
from greatmeta_dist.evaluation.scoring import score_split
from greatmeta_dist.predict import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor = Predictor.load(options.run)
    store, scorer, others = predictor.open_store(), predictor.scorer, predictor.baselines()
    lists = list_settings(EvaluateConfig(), store)
    splits = [split for split in SCENARIOS if store.manifest.splits.get(split)]

    def candidates(settings: object) -> None:
        for split in splits:
            score_split(scorer, store, split, others=others, lists=settings)  # type: ignore[arg-type]

    kinds: dict[str, Callable[[], object]] = {
        "without lists": lambda: candidates(None),
        "candidates": lambda: candidates(lists),
        "evaluate, without lists": lambda: evaluate(scorer, store, others=others),
        "evaluate": lambda: evaluate_users(scorer, store, others=others, options=EvaluateConfig()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.repeats + 1):
        for name, call in kinds.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    least = {name: min(values[1:]) for name, values in seconds.items()}
    num_users = sum(
        len(users)
        for split in splits
        for users in read_split(store, split, scorer.feature_spec, users_per_batch=256)
        if users is not None
    )
    print(f"{num_users} users, {store.manifest.num_items} items")
    for name, value in least.items():
        print(f"{name}: {value:.3f} s, {value / least['without lists']:.2f} times")
    write_result(options.json, options, {"seconds": least, "users": num_users})


if __name__ == "__main__":
    main()
