"""Do the shipped defaults train everywhere, and how wide is the good region of learning rates?

``python -m benchmarks.robustness --work DIR [--ml-100k FOLDER] [--jobs 2] [--plot FILE]``. Trains
on synthetic data as it is, with ratings and a numeric feature ten times as large, and with ten
times the support rows; and sweeps β (``train.learning_rate``) and α (``inner.learning_rate``). The model is judged by
itself: the factorisation, which knows no rates, would cover for it. Results are kept in
``DIR/robustness.json`` and not repeated; ``--plot`` (needs matplotlib) draws the sweeps.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.quality import Data, Results, Run, run_trained
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.synthetic import write_synthetic
from greatmeta_dist.evaluation.baselines import Baselines

USERS, ITEMS, INTERACTIONS, STEPS = 1000, 1000, 40.0, 600
LONG = 10
SWEEPS = {
    "train.learning_rate": (2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "inner.learning_rate": (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
}


def scaled(folder: Path, *, rating: float = 1.0, feature: float = 1.0) -> DataConfig:
    """The synthetic log with ratings, and a numeric feature of items, multiplied."""
    write_synthetic(folder, users=USERS, items=ITEMS, mean_interactions=INTERACTIONS, seed=0)
    log, users, items = (
        pq.read_table(folder / f"{n}.parquet") for n in ("interactions", "users", "items")
    )
    at = log.schema.get_field_index("rating")
    log = log.set_column(at, "rating", pa.array(log["rating"].to_numpy() * rating))
    price = np.random.default_rng(0).lognormal(size=len(items)) * feature
    pq.write_table(log, folder / "interactions.parquet")
    items = items.append_column("price", pa.array(price)).rename_columns({"id": "item"})
    pq.write_table(items, folder / "items.parquet")
    pq.write_table(users.rename_columns({"id": "user"}), folder / "users.parquet")
    return DataConfig(
        source="parquet",
        path=str(folder / "interactions.parquet"),
        users_path=str(folder / "users.parquet"),
        items_path=str(folder / "items.parquet"),
        user_features={"age": "token", "region": "token"},
        item_features={"category": "token_list", "maker": "token", "price": "float"},
    )


def data_sets(work: Path, ml_100k: Path | None) -> dict[str, Data]:
    options = [f"train.steps={STEPS}", "model.use_bayesian_mf=false"]
    long = DataConfig(users=USERS, items=5 * ITEMS, mean_interactions=LONG * INTERACTIONS)
    found = {
        name: Data(scaled(work / f"log-{name}", **how), work / name, options)
        for name, how in {
            "plain": {},
            "ratings-x10": {"rating": 10.0},
            "features-x10": {"feature": 10.0},
        }.items()
    }
    found["support-x10"] = Data(long, work / "support-x10", options)
    if ml_100k is not None:
        given = DataConfig(source="recbole", path=str(ml_100k), split=str(ml_100k / "split.tsv"))
        found["ml-100k"] = Data(given, work / "ml-100k", ["experiment=ml-100k", *options])
    return found


def rmse(run: dict[str, Any]) -> float:
    return float(run["scores"]["adapted"]["full"]["all"]["rmse"])


def bias_rmse(store: Store) -> float:
    """Of the bias baseline, on the same users."""
    tasks = store.part("user_cold", FeatureSpec(has_item_id=True, list_pooling="mean")).tasks
    error = Baselines.of(store).predict(tasks)["bias"] - tasks.query_label.values
    return float(np.sqrt((error**2).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ml-100k", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="draw the sweeps here (SVG, PNG, …)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.work / "robustness.json")
    data = data_sets(options.work, options.ml_100k)
    threads = max(1, torch.get_num_threads() // options.jobs)
    stores = {name: d.ready() for name, d in data.items()}

    def run_of(name: str, option: str | None) -> Run:
        given = [*data[name].options, *([option] if option else [])]
        key = Results.key(name, option or "as shipped", 0)
        return Run(key, stores[name], given, run_trained, (data[name], given, 0, threads))

    swept: list[str] = [name for name in ("plain", "ml-100k") if name in data]
    points = {
        (name, option, rate): run_of(name, f"{option}={rate:g}")
        for name in swept
        for option, rates in SWEEPS.items()
        for rate in rates
    }
    shipped = {name: run_of(name, None) for name in data}
    results.fill([*shipped.values(), *points.values()], options.jobs, "robustness")
    bias = {name: bias_rmse(store) for name, store in stores.items()}
    print("| data | bias | as shipped |\n|---|---|---|")
    for name, run in shipped.items():
        print(f"| {name} | {bias[name]:.3f} | {rmse(results.runs[run.key]):.3f} |")
    found = {point: rmse(results.runs[run.key]) for point, run in points.items()}
    for option, rates in SWEEPS.items():
        print(f"\n| {option} | " + " | ".join(f"{r:g}" for r in rates) + " |")
        print("|---" * (len(rates) + 1) + "|")
        for name in swept:
            cells = [f"{found[name, option, rate]:.3f}" for rate in rates]
            print(f"| {name} | " + " | ".join(cells) + " |")
    if options.plot:
        draw(options.plot, found, swept)


def draw(path: Path, found: dict[tuple[str, str, float], float], swept: list[str]) -> None:
    """RMSE by rate, a panel for each option; the shipped rate is marked."""
    from matplotlib.figure import Figure

    from greatmeta_dist.config import InnerConfig, TrainConfig

    shipped = {
        "train.learning_rate": TrainConfig().learning_rate,
        "inner.learning_rate": InnerConfig().learning_rate,
    }
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (option, rates) in zip(figure.subplots(1, 2), SWEEPS.items(), strict=True):
        for name in swept:
            values = [found[name, option, rate] for rate in rates]
            axes.plot(rates, np.array(values) / min(values), marker="o", label=name)
        axes.axvline(shipped[option], color="grey", linestyle=":", label="shipped")
        axes.set_xscale("symlog" if 0.0 in rates else "log", **_symlog(rates))
        axes.set_xlabel(option)
        axes.set_ylabel("test RMSE over the best")
        axes.legend()
    figure.savefig(path)


def _symlog(rates: tuple[float, ...]) -> dict[str, float]:
    return {"linthresh": min(r for r in rates if r)} if 0.0 in rates else {}


if __name__ == "__main__":
    main()
