"""Do the shipped defaults train everywhere, and how wide is the good region of learning rates?

``python -m benchmarks.robustness --work DIR [--ml-100k FOLDER] [--jobs 2] [--plot FILE]
[--json FILE]``. Trains on synthetic data as it is, with ratings and a numeric feature ten times as
large, and with ten times the support rows. Then it sweeps β (``train.learning_rate``) and α
(``inner.learning_rate``). The model is judged by itself: the factorisation, which knows no learning
rates, would cover for it. Results are kept in ``DIR/robustness.json`` and not repeated; ``--plot``
(needs matplotlib) draws the sweeps; ``--quick`` takes few steps, to see that all works.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.environment import write_result
from benchmarks.fold_in import SPEC
from benchmarks.quality.data_sets import DataSet
from benchmarks.quality.results import Results, Run, run_key
from benchmarks.quality.runs import run_trained
from benchmarks.quality.tables import markdown
from benchmarks.untrained import untrained_model
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.synthetic import write_synthetic
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.options.compose import compose_config

USERS, ITEMS, INTERACTIONS, STEPS = 1000, 1000, 40.0, 600
QUICK_USERS, QUICK_STEPS = 200, 20
LONG = 10
"""Times as many interactions, for long supports."""
WHOLE_QUERIES: dict[str, Any] = {"min_interactions": 13, "max_query_fraction": 1.0}
"""Options with which every user has ten query rows."""
SWEEPS = {
    "train.learning_rate": (2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "inner.learning_rate": (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
}

Sweeps = dict[str, tuple[float, ...]]
"""Learning rates by option."""
Point = tuple[str, str, float]
"""Data set, option and learning rate."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ml-100k", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="draw the sweeps here (SVG, PNG, …)")
    parser.add_argument("--quick", action="store_true", help="few users, steps and learning rates")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.work / "robustness.json")
    data = data_sets(options.work, options.ml_100k, is_quick=options.quick)
    stores = {name: d.prepared() for name, d in data.items()}
    threads = max(1, torch.get_num_threads() // options.jobs)

    def run_of(name: str, option: str | None) -> Run:
        words = [*data[name].options, *([option] if option else [])]
        key = run_key(name, option or "as shipped", 0)
        arguments = (data[name], words, 0, threads, options.work / "unfinished")
        return Run(key, stores[name], words, run_trained, arguments)

    swept: list[str] = [name for name in ("plain", "ml-100k") if name in data]
    sweeps: Sweeps = {name: r[:2] if options.quick else r for name, r in SWEEPS.items()}
    shipped = {name: run_of(name, None) for name in data}
    points: dict[Point, Run] = {
        (name, option, rate): run_of(name, f"{option}={rate:g}")
        for name in swept
        for option, rates in sweeps.items()
        for rate in rates
    }
    results.make_missing([*shipped.values(), *points.values()], options.jobs, "robustness")
    bias = {name: bias_rmse(store, data[name].options) for name, store in stores.items()}
    as_shipped = {name: adapted_rmse(results.runs[run.key]) for name, run in shipped.items()}
    errors = {point: adapted_rmse(results.runs[run.key]) for point, run in points.items()}
    rows = [[name, f"{bias[name]:.3f}", f"{as_shipped[name]:.3f}"] for name in data]
    print(markdown(["data", "bias", "as shipped"], rows))
    for option, rates in sweeps.items():
        rows = [[name, *(f"{errors[name, option, rate]:.3f}" for rate in rates)] for name in swept]
        print("\n" + markdown([option, *(f"{rate:g}" for rate in rates)], rows))
    if options.plot:
        draw(options.plot, errors, sweeps, swept)
    swept_points = [
        {"data": d, "option": o, "rate": r, "rmse": e} for (d, o, r), e in errors.items()
    ]
    write_result(
        options.json, options, {"bias": bias, "as_shipped": as_shipped, "sweeps": swept_points}
    )


def data_sets(work: Path, ml_100k: Path | None, *, is_quick: bool) -> dict[str, DataSet]:
    """The data sets of the table."""
    users = QUICK_USERS if is_quick else USERS
    options = [f"train.steps={QUICK_STEPS if is_quick else STEPS}", "model.use_bayesian_mf=false"]
    scales = {
        "plain": {},
        "ratings-x10": {"rating": 10.0},
        "features-x10": {"feature": 10.0},
    }
    sets = {
        name: DataSet(write_scaled(work / f"log-{name}", users, **scale), work / name, options)
        for name, scale in scales.items()
    }
    long = DataConfig(
        users=users, items=5 * ITEMS, mean_interactions=LONG * INTERACTIONS, **WHOLE_QUERIES
    )
    sets["support-x10"] = DataSet(long, work / "support-x10", options)
    if ml_100k is not None:
        config = DataConfig(source="recbole", path=str(ml_100k), split=str(ml_100k / "split.tsv"))
        sets["ml-100k"] = DataSet(config, work / "ml-100k", ["experiment=ml-100k", *options])
    return sets


def write_scaled(
    folder: Path, users: int, *, rating: float = 1.0, feature: float = 1.0
) -> DataConfig:
    """Write a synthetic log with ratings, and a numeric feature of items, multiplied."""
    write_synthetic(folder, users=users, items=ITEMS, mean_interactions=INTERACTIONS, seed=0)
    log, user_table, item_table = (
        pq.read_table(folder / f"{n}.parquet") for n in ("interactions", "users", "items")
    )
    at = log.schema.get_field_index("rating")
    log = log.set_column(at, "rating", pa.array(log["rating"].to_numpy() * rating))
    price = np.random.default_rng(0).lognormal(size=len(item_table)) * feature
    pq.write_table(log, folder / "interactions.parquet")
    item_table = item_table.append_column("price", pa.array(price))
    pq.write_table(item_table.rename_columns({"id": "item"}), folder / "items.parquet")
    pq.write_table(user_table.rename_columns({"id": "user"}), folder / "users.parquet")
    return DataConfig(
        source="parquet",
        path=str(folder / "interactions.parquet"),
        users_path=str(folder / "users.parquet"),
        items_path=str(folder / "items.parquet"),
        user_features={"age": "token", "region": "token"},
        item_features={"category": "token_list", "maker": "token", "price": "float"},
        **WHOLE_QUERIES,
    )


def adapted_rmse(run: dict[str, Any]) -> float:
    """Of all user-cold users, at full support."""
    return float(run["scores"]["adapted"]["full"]["all"]["rmse"])


def bias_rmse(store: Store, options: list[str]) -> float:
    """Of the bias baseline, on the same users."""
    model = untrained_model(compose_config([f"store={store.folder}", *options]), store)
    transform = model.scorer.collator.target_transform
    tasks = store.split("user_cold", SPEC).tasks
    predicted = Baselines.of(transform, model.priors["bayesian_mf"]).predict(tasks)["bias"]
    return float(np.sqrt(((predicted - tasks.query_label.values) ** 2).mean()))


def draw(
    path: Path,
    errors: dict[Point, float],
    sweeps: Sweeps,
    swept: list[str],
) -> None:
    """Write a figure of RMSE by learning rate, a panel for each; the shipped one is marked."""
    from matplotlib.figure import Figure

    from greatmeta_dist.config import InnerConfig, TrainConfig

    shipped = {
        "train.learning_rate": TrainConfig().learning_rate,
        "inner.learning_rate": InnerConfig().learning_rate,
    }
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (option, rates) in zip(figure.subplots(1, 2), sweeps.items(), strict=True):
        for name in swept:
            values = [errors[name, option, rate] for rate in rates]
            axes.plot(rates, np.array(values) / min(values), marker="o", label=name)
        axes.axvline(shipped[option], color="grey", linestyle=":", label="shipped")
        axes.set_xscale("symlog" if 0.0 in rates else "log", **_symlog(rates))
        axes.set_xlabel(option)
        axes.set_ylabel("test RMSE over the best")
        axes.legend()
    figure.savefig(path)


def _symlog(rates: tuple[float, ...]) -> dict[str, float]:
    """Where a scale that shows 0 is linear."""
    return {"linthresh": min(r for r in rates if r)} if 0.0 in rates else {}


if __name__ == "__main__":
    main()
