"""A log has grown: how much sooner does a run get there that goes on from the earlier one?

``python -m benchmarks.growth --ml-100k FOLDER --work DIR [--share 0.9] [--seeds 0] [--alone]
[--json FILE]``. MovieLens 100K (atomic files) is split by time: the old log is the first
``--share`` of it. A run is trained on it. Then its store takes the later log in (``data.from``),
and two runs are trained on the new store, with the same validation: one from nothing, one from the
first run (``train.from``). Asked is the first step at which each is within 0.001 of the best
validation RMSE of the run from nothing. With ``--alone`` the model is also judged without the
factorisation, which is fitted anew in either case.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.environment import write_result
from benchmarks.quality.tables import markdown
from greatmeta_dist.config import Config, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Silent
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.loop import train

NAME, TIME = "ml-100k", "timestamp:float"
NEAR = 0.001
"""How near to the best RMSE is near enough."""
VALID_EVERY = 20
"""Steps between validations: what a step is told to."""
Curve = list[tuple[int, float]]
"""Validation RMSE by step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ml-100k", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="stores and runs; made anew")
    parser.add_argument("--share", type=float, default=0.9, help="of the log, in time: the old one")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--alone", action="store_true", help="also without the factorisation")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shutil.rmtree(options.work / "growth", ignore_errors=True)
    work = options.work / "growth"
    old, new = prepare_stores(options.ml_100k, work, options.share)
    forms = {"as shipped": True} | ({"model alone": False} if options.alone else {})
    results = {
        form: [
            measure(old, new, work / f"{form}, seed {seed}", options.steps, seed, is_blended)
            for seed in options.seeds
        ]
        for form, is_blended in forms.items()
    }
    print(table(results))
    write_result(options.json, options, {"results": results})


def prepare_stores(source: Path, work: Path, share: float) -> tuple[Path, Path]:
    """The store of the first ``share`` of the log in time, and that store grown by the rest."""
    log = pl.read_csv(source / f"{NAME}.inter", separator="\t")
    until = int(log[TIME].sort()[int(share * len(log)) - 1])
    is_early = pl.col(TIME) <= until
    stores: list[Path] = []
    for name, part in (("old", log.filter(is_early)), ("new", log.filter(~is_early))):
        folder = work / name / NAME
        folder.mkdir(parents=True)
        part.write_csv(folder / f"{NAME}.inter", separator="\t")
        for entity in ("item", "user"):
            shutil.copyfile(source / f"{NAME}.{entity}", folder / f"{NAME}.{entity}")
        earlier = str(stores[0]) if stores else None
        config = DataConfig(source="recbole", path=str(folder), from_store=earlier)
        prepare(config, work / name / "store")
        stores.append(work / name / "store")
    return stores[0], stores[1]


def measure(
    old: Path, new: Path, work: Path, steps: int, seed: int, is_blended: bool
) -> dict[str, Any]:
    """Train the three runs, and say at which step the two on the new log get there."""
    words = [
        f"train.steps={steps}",
        f"train.seed={seed}",
        f"train.valid_every={VALID_EVERY}",
        f"model.use_bayesian_mf={str(is_blended).lower()}",
    ]

    def trained(name: str, store: Path, earlier: Path | None = None) -> Curve:
        config = compose_config([f"store={store}", *words])
        return curve_of(train_silently(config, work / name, earlier))

    earlier = trained("old", old)
    from_nothing = trained("from nothing", new)
    from_run = trained("from run", new, work / "old")
    best = min(rmse for _, rmse in from_nothing)
    return {
        "best_of_old": min(rmse for _, rmse in earlier),
        "best": best,
        "best_from_run": min(rmse for _, rmse in from_run),
        "at_step_0": from_run[0][1],
        "steps_from_nothing": first_step(from_nothing, best),
        "steps_from_run": first_step(from_run, best),
        "from_nothing": from_nothing,
        "from_run": from_run,
    }


def train_silently(config: Config, run: Path, earlier: Path | None) -> Path:
    """Train a run, from an earlier one if one is given; the run's folder."""
    from_run = str(earlier) if earlier else None
    train(replace(config, train=replace(config.train, from_run=from_run)), run, Silent())
    return run


def curve_of(run: Path) -> Curve:
    """A run's validations, as TensorBoard shows them."""
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("val/valid/rmse")]


def first_step(curve: Curve, best: float) -> int | None:
    """The first step near enough to the best RMSE; None where there is none."""
    return next((step for step, rmse in curve if rmse <= best + NEAR), None)


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each form of predictions and seed."""
    header = ["", "best RMSE from nothing", "steps", "RMSE at step 0 from the run", "steps", "best"]
    rows = [
        [
            form,
            f"{result['best']:.4f}",
            str(result["steps_from_nothing"]),
            f"{result['at_step_0']:.4f}",
            str(result["steps_from_run"]),
            f"{result['best_from_run']:.4f}",
        ]
        for form, seeds in results.items()
        for result in seeds
    ]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
