"""New items with 0, 5 and 20 known ratings, on MovieLens 100K with a fifth of the items held out.

``python -m benchmarks.new_items --ml-100k FOLDER --work DIR [--draws 4] [--known 0 5 20]
[--json FILE]``. Means of four draws of the held-out items and of the known ratings, with 95%
intervals; and intervals of each row's difference from the shipped model, draw by draw. Stores and
trainings stay in ``--work``, and the same command goes on where it was stopped.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.environment import write_result
from benchmarks.new_items.models import CONTENT, SHIPPED, fold_ins, predictions
from benchmarks.new_items.protocol import Draw, Log
from benchmarks.quality.data_sets import DataSet, data_sets
from benchmarks.quality.tables import interval, markdown
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.metrics.base import measure
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train

METRICS = ("rmse", "ndcg@5")
Scores = dict[str, dict[str, dict[str, float]]]
"""``{known: {model: {metric: value}}}`` of one draw."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ml-100k", type=Path, required=True, help="RecBole atomic files")
    parser.add_argument("--work", type=Path, required=True, help="stores and trainings go here")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--known", type=int, nargs="+", default=[0, 5, 20])
    parser.add_argument("--steps", type=int, help="of a training; the default of train")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sets = data_sets(options.work, options.ml_100k, {})
    draws: list[Scores] = []
    for number in range(1, options.draws + 1):
        data = sets[f"ml-100k, held-out items {number}"]
        draws.append(scores_of(data, number, options))
        print(table(draws[-1:], options.known), flush=True)
    print(f"\nmean of {len(draws)} draws\n\n{table(draws, options.known)}")
    print(f"\nless as shipped, draw by draw\n\n{differences(draws, options.known)}")
    write_result(options.json, options, {"draws": draws})


def scores_of(data: DataSet, number: int, options: argparse.Namespace) -> Scores:
    """Train unless it is there, and score one draw."""
    store = data.prepared()
    predictor = trained(data, options.work / f"run-{number}", options.steps)
    log, users = read_log(options.ml_100k, store)
    draw = Draw.of(store, predictor.feature_spec, log, users, seed=number)
    rating = draw.tasks.query_label.values.astype(np.float64)
    lengths, lowest = draw.tasks.query_label.lengths, store.manifest.ratings.lowest
    scores: Scores = {}
    others = fold_ins(predictor, store)
    for known in options.known:
        for model, predicted in predictions(predictor, store, draw, known, others):
            numbers = measure(rating, predicted, lengths, lowest=lowest, is_click=False).summary()
            of_model = {metric: numbers[metric] for metric in METRICS}
            scores.setdefault(str(known), {})[model] = of_model
    return scores


def trained(data: DataSet, run: Path, steps: int | None) -> Predictor:
    """The shipped model, trained on a store; a training that was stopped goes on."""
    words = [f"store={data.store}", *data.options]
    if steps:
        words.append(f"train.steps={steps}")
    train(compose_config(words), run, Display())
    return Predictor.load(run)


def read_log(folder: Path, store: Store) -> tuple[Log, list[str]]:
    """All ratings, with items as the store numbers them, and the users' names."""
    (path,) = folder.glob("*.inter")
    frame = pl.read_csv(path, separator="\t", infer_schema=False)
    user, item, rating = (frame[:, k] for k in range(3))
    names = user.unique().sort()
    number = {token: k for k, token in enumerate(store.item_tokens())}
    users = {name: k for k, name in enumerate(names)}
    log = Log(
        np.array([users[name] for name in user]),
        np.array([number[token] for token in item]),
        rating.cast(pl.Float64).to_numpy(),
    )
    return log, names.to_list()


def table(draws: list[Scores], known: list[int]) -> str:
    """Means over draws, with intervals; the gain is the shipped model's over content alone."""
    header = ["known ratings", "", *METRICS, "RMSE less than content alone"]
    rows = []
    for count in known:
        for model in draws[0][str(count)]:
            cells = []
            for metric in METRICS:
                values = [draw[str(count)][model][metric] for draw in draws]
                mean, half = interval(values)
                cells.append(f"{mean:.4f}" + ("" if np.isnan(half) else f" ±{half:.4f}"))
            gains = [_gain(draw, count, model) for draw in draws]
            rows.append([str(count), model, *cells, f"{np.mean(gains):.1%}"])
    return markdown(header, rows)


def _gain(draw: Scores, count: int, model: str) -> float:
    content = draw[str(count)][CONTENT]["rmse"]
    return 1 - draw[str(count)][model]["rmse"] / content


def differences(draws: list[Scores], known: list[int]) -> str:
    """Each row less the shipped model, draw by draw, with 95% intervals."""
    rows = []
    for count in known:
        if SHIPPED not in draws[0][str(count)]:
            continue
        for model in draws[0][str(count)]:
            cells: list[Any] = []
            for metric in METRICS:
                values = [
                    d[str(count)][model][metric] - d[str(count)][SHIPPED][metric] for d in draws
                ]
                mean, half = interval(values)
                cells.append(f"{mean:+.4f}" + ("" if np.isnan(half) else f" ±{half:.4f}"))
            if model != SHIPPED:
                rows.append([str(count), model, *cells])
    return markdown(["known ratings", "", *METRICS], rows)


if __name__ == "__main__":
    main()
