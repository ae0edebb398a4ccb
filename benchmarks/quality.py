"""How good recommendations are: data sets × models × seeds, against what people would use instead.

``python -m benchmarks.quality --work DIR [--ml-100k FOLDER] [--store NAME=DIR …] [--data NAME …]
[--models NAME …] [--seeds 5] [--jobs 2]``. Every training is added to ``DIR/quality.json`` as it
ends, and one that is there is not repeated: the same command goes on where it was stopped, and
``--table`` only prints. Tables are Markdown: means over seeds with 95% intervals (Student's t),
at full support and at the first 10 and 5 support rows; minority users as the store names them.
"""

import argparse
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy import stats

from benchmarks.environment import environment
from benchmarks.fold_in import FOLD_INS, MAX_ITEMS
from benchmarks.oracle import Oracle
from greatmeta_dist.batching.resample import shorten
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import DataConfig
from greatmeta_dist.config.training import FACTORS
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.evaluation.evaluate import Scored, evaluate, score_part
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.run_folder import Setup, load_run, set_up

SUPPORTS: dict[str, int | None] = {"full": None, "10": 10, "5": 5}
DRAWS = 4
"""Random supports of 10 and 5 rows besides the first ones; ``10 drawn`` is the mean over all."""
PLAIN = ["model.has_encoder=false", "model.has_kernel=false"]

TRAINED: dict[str, list[str]] = {
    "GreatMeta as shipped": [],
    "… uniform weights": ["scheduler=uniform"],
    "… group-balanced": ["scheduler=groups"],
    "… loss-proportional": ["scheduler=loss"],
    "… published scheduler": ["scheduler=mlp"],
    **{
        f"… without {left_out}": [
            f"scheduler.factors=[{','.join(f for f in FACTORS if f != left_out)}]"
        ]
        for left_out in FACTORS
    },
    "… without kernel": ["model.has_kernel=false"],
    "… without spectral start": ["model.item_init=random"],
    "… without encoder": PLAIN,
    "MeLU": [
        *PLAIN,
        "model.embedding_dim=16",
        "model.embedding_std=0.2",
        "model.item_init=random",
        "model.use_bayesian_mf=false",
        "scheduler=uniform",
        "model.target=standardised",
        "model.activation=relu",
        "inner.support_damping=0",
        "inner.learning_rate=0.01",
        "train.short_support_rate=0",
        "train.steps=2000",
    ],
    "GreatMeta, authors' form and settings": ["experiment=paper"],
}
"""Options of each trained model, on top of its data set's."""
ALONE = "… without factorisation"
"""The row of the shipped trainings' models by themselves, at the step that was best with it."""


@dataclass(frozen=True)
class Data:
    """A data set: how its store is made, and what training on it is told."""

    config: DataConfig | None
    store: Path
    options: list[str] = field(default_factory=list)

    def ready(self) -> Store:
        if self.config is not None:
            prepare(self.config, self.store)
        return Store(self.store)


def data_sets(work: Path, ml_100k: Path | None, stores: dict[str, Path]) -> dict[str, Data]:
    """The synthetic data, MovieLens 100K where it is at hand, and any prepared stores.

    *Few users* leaves 1,300 of the synthetic users for training, and 2,300 new ones to judge by.
    """
    many = DataConfig(users=4000)
    few = replace(many, valid_fraction=0.05, test_fraction=0.6)
    found = {
        "synthetic": Data(many, work / "synthetic", ["train.steps=1000"]),
        "synthetic, few users": Data(few, work / "synthetic-few"),
        "synthetic, seed 1": Data(
            replace(many, seed=1), work / "synthetic-1", ["train.steps=1000"]
        ),
        "synthetic, seed 1, few users": Data(replace(few, seed=1), work / "synthetic-1-few"),
    }
    if ml_100k is not None:
        known = DataConfig(source="recbole", path=str(ml_100k))
        options = ["experiment=ml-100k"]
        given = replace(known, split=str(ml_100k / "split.tsv"))
        found["ml-100k"] = Data(given, work / "ml-100k", options)
        for seed in range(1, 5):
            # The same kind of users as the given split's.
            other = replace(
                known, seed=seed, min_interactions=40, max_interactions=200, warm_fraction=0.0
            )
            found[f"ml-100k, split {seed}"] = Data(other, work / f"ml-100k-{seed}", options)
            cold = replace(known, seed=seed, cold_item_fraction=0.2)
            name = f"ml-100k, held-out items {seed}"
            found[name] = Data(cold, work / f"ml-100k-cold-{seed}")
        clicks = replace(given, label="click")
        found["ml-100k, clicks"] = Data(clicks, work / "ml-100k-clicks", options)
        met = replace(clicks, click_at=None)
        found["ml-100k, met or not"] = Data(met, work / "ml-100k-met", options)
    return found | {name: Data(None, path) for name, path in stores.items()}


Cut = Callable[[TaskTable], TaskTable]


def cuts(length: int | None) -> Iterator[Cut]:
    """The supports that users are judged with: whole; or the first rows, then random ones."""
    if length is None:
        yield lambda tasks: tasks
        return
    yield lambda tasks: shorten(tasks, length)
    for draw in range(DRAWS):
        yield lambda tasks, draw=draw: shorten(tasks, length, np.random.default_rng([draw, 7]))  # type: ignore[misc]


class _Others:
    """The predictions of everything that is not trained by gradient steps."""

    def __init__(self, store: Store):
        self._baselines = Baselines.of(store)
        self._labels = TargetTransform.of(store, "bias")
        self._models: dict[str, Any] = {}
        if store.manifest.num_items <= MAX_ITEMS:
            self._models = {name: kind(store) for name, kind in FOLD_INS.items()}
        if store.manifest.recipe["source"] == "synthetic" and not store.manifest.is_click:
            self._models["all known but the user"] = Oracle(store)

    def predict(self, tasks: TaskTable) -> dict[str, Any]:
        ratings = self._labels.ratings
        _, expected = self._labels.expected(tasks, is_training=False)
        expected = np.clip(expected, ratings.lowest, ratings.highest)
        return {
            **self._baselines.predict(tasks),
            "bias, strengths and content from the data": expected,
            **{name: model.predict(tasks) for name, model in self._models.items()},
        }


def scores(setup: Setup, others: _Others | None) -> dict[str, Any]:
    """``{model: {support: {"all" | "minority": metrics}}}`` on the user-cold users."""
    found: dict[str, Any] = {}
    minority = setup.store.manifest.minority
    for support, length in SUPPORTS.items():
        drawn: list[Scored] = []
        for cut in cuts(length):
            scored = score_part(
                setup.worker,
                setup.store,
                setup.collator,
                setup.choice,
                "user_cold",
                baselines=others,
                given=cut,
            )
            assert scored is not None
            drawn.append(scored)
        for model in drawn[0].models:
            each = [
                {"all": s.models[model].summary(), "minority": _of_minority(s, model, minority)}
                for s in drawn
            ]
            of_model = found.setdefault(model, {})
            of_model[support] = each[0]
            if length is not None:
                of_model[f"{support} drawn"] = {
                    who: {m: float(np.mean([e[who][m] for e in each])) for m in each[0][who]}
                    for who in each[0]
                }
    return found


def _of_minority(scored: Scored, model: str, minority: list[int]) -> dict[str, float]:
    """Metrics of the minority users; nan where there are none."""
    chosen = np.isin(scored.group, minority)
    found = scored.models[model].summary(chosen)
    return found if chosen.any() else dict.fromkeys(found, float("nan"))


def scenarios(setup: Setup, others: _Others | None) -> dict[str, Any]:
    """``{scenario: {"models": …, "catalogue": …}}`` where there is more than user-cold ratings."""
    manifest = setup.store.manifest
    if not manifest.is_click and "item_cold" not in manifest.parts:
        return {}
    found = evaluate(setup.worker, setup.store, setup.collator, setup.choice, others=others)
    return {
        name: {k: v for k, v in scenario.items() if k in ("models", "catalogue")}
        for name, scenario in found["scenarios"].items()
    }


def options_of(data: Data, model: str) -> list[str]:
    """A data set's options and a model's; an experiment of the model's own replaces the former."""
    own = TRAINED[model]
    return own if any(o.startswith("experiment=") for o in own) else [*data.options, *own]


def run_trained(data: Data, options: list[str], seed: int, threads: int) -> dict[str, Any]:
    """Train once; scores of the best checkpoint, adapted and unadapted.

    With a factorisation besides, its ``share``, and those of the model ``alone``, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = compose_config(
            [
                f"store={data.store}",
                f"train.seed={seed}",
                f"cluster.threads={threads}",
                *options,
            ]
        )
        silent = Display(Console(file=io.StringIO()))
        start = time.monotonic()
        train(config, Path(folder) / "run", silent)
        seconds = time.monotonic() - start
        setup, step = load_run(Path(folder) / "run", None, silent)
        found: dict[str, Any] = _scores(setup, None)
        if setup.collator.target_transform.factorisations:
            labels = replace(setup.collator.target_transform, factorisations=[])
            alone = replace(setup, collator=replace(setup.collator, target_transform=labels))
            found["alone"] = _scores(alone, None)
            found["share"] = setup.collator.target_transform.blend_weight
    return {"seconds": seconds, "step": step, **found}


def _scores(setup: Setup, others: _Others | None) -> dict[str, Any]:
    return {"scores": scores(setup, others), "scenarios": scenarios(setup, others)}


def run_others(data: Data, threads: int) -> dict[str, Any]:
    """Scores of everything that needs no training."""
    torch.set_num_threads(threads)
    config = compose_config([f"store={data.store}", *data.options])
    store = Store(data.store)
    start = time.monotonic()
    others = _Others(store)
    seconds = time.monotonic() - start
    setup = set_up(config, store)
    return {"seconds": seconds, **_scores(setup, others)}


@dataclass(frozen=True)
class Run:
    """One entry of the results file, and how to make it."""

    key: str
    store: Store
    options: list[str]
    call: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]


class Results:
    """The results file: read at the start, written whole after every run."""

    def __init__(self, path: Path):
        self.path = path
        self.runs: dict[str, Any] = {}
        if path.exists():
            self.runs = json.loads(path.read_text())["runs"]

    @staticmethod
    def key(data: str, model: str, seed: int) -> str:
        return f"{data} | {model} | {seed}"

    def holds(self, key: str, store: Store, options: list[str]) -> bool:
        """Whether the run is there, made in the same way on the same store."""
        run = self.runs.get(key)
        return run is not None and run["store"] == store.identity and run["options"] == options

    def fill(self, runs: list[Run], jobs: int, label: str) -> None:
        """Make what is missing, ``jobs`` at a time in processes of their own, with a bar."""
        waiting = [run for run in runs if not self.holds(run.key, run.store, run.options)]
        context = multiprocessing.get_context("spawn")
        with (
            Display(Console(stderr=True)).bar(label, len(waiting), "runs") as bar,
            ProcessPoolExecutor(jobs, mp_context=context) as pool,
        ):
            futures = {pool.submit(run.call, *run.arguments): run for run in waiting}
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    run = futures[future]
                    made = {"store": run.store.identity, "options": run.options}
                    self.add(run.key, {**future.result(), **made})
                    bar.update(done, run.key)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def add(self, key: str, run: dict[str, Any]) -> None:
        self.runs[key] = run
        partial = self.path.with_suffix(".partial")
        whole = {"environment": environment(), "runs": self.runs}
        partial.write_text(json.dumps(whole, indent=1, ensure_ascii=False))
        partial.replace(self.path)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval; nan for fewer than two."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def cell(values: list[float]) -> str:
    """Mean and interval, as far as there are any."""
    mean, half = interval(values)
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" + ("" if np.isnan(half) else f" ±{half:.3f}")


Found = dict[str, dict[int, dict[str, Any]]]
"""``{row: {seed: run}}`` of one data set, ``scores`` those of the row's model."""


def rows_of(results: Results, data: str) -> Found:
    """Untrained models first, then trained ones as ``TRAINED`` has them."""
    found: Found = {}
    others = results.runs.get(Results.key(data, "others", 0))
    if others:
        for name, of_model in others["scores"].items():
            if name in ("unadapted", "adapted"):  # of a model that was never trained
                continue
            found[name] = {0: {**others, "scores": of_model}}
    for name in TRAINED:
        for key, run in results.runs.items():
            of, model, seed = key.split(" | ")
            if (of, model) != (data, name):
                continue
            adapted = {**run, "scores": run["scores"]["adapted"]}
            if "alone" in run:
                adapted["of_model"] = run["alone"]["scores"]["adapted"]
            found.setdefault(name, {})[int(seed)] = adapted
            if name == "GreatMeta as shipped":
                before = {**run, "scores": run["scores"]["unadapted"]}
                found.setdefault("GreatMeta as shipped, unadapted", {})[int(seed)] = before
                alone = {**run, "scores": run["alone"]["scores"]["adapted"]}
                found.setdefault(ALONE, {})[int(seed)] = alone
    return found


COLUMNS = [
    ("MAE", "full", "all", "mae"),
    ("RMSE", "full", "all", "rmse"),
    ("nDCG@3", "full", "all", "ndcg@3"),
    ("nDCG@5", "full", "all", "ndcg@5"),
    ("nDCG@10", "full", "all", "ndcg@10"),
    ("RMSE, minority", "full", "minority", "rmse"),
    ("nDCG@5, minority", "full", "minority", "ndcg@5"),
    ("RMSE at 10", "10", "all", "rmse"),
    ("RMSE at 5", "5", "all", "rmse"),
    ("at 10, drawn", "10 drawn", "all", "rmse"),
    ("at 5, drawn", "5 drawn", "all", "rmse"),
]


OF_MODEL = [("RMSE, model alone", "all"), ("RMSE, minority, model alone", "minority")]
"""Of rows with a factorisation besides: at full support, for whom."""


def table(results: Results, data: str) -> str:
    """One data set's rows as Markdown."""
    names = [c[0] for c in COLUMNS + OF_MODEL]
    lines = [
        "| | seeds | " + " | ".join(names) + " | seconds |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row, runs in rows_of(results, data).items():
        cells = []
        for _, support, who, metric in COLUMNS:
            cells.append(cell([r["scores"][support][who][metric] for r in runs.values()]))
        of_models = [r["of_model"]["full"] for r in runs.values() if "of_model" in r]
        cells += [
            cell([m[who]["rmse"] for m in of_models]) if of_models else "" for _, who in OF_MODEL
        ]
        seconds = np.mean([r["seconds"] for r in runs.values()])
        lines.append(f"| {row} | {len(runs)} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return "\n".join(lines)


SCENARIO_COLUMNS = [
    ("MAE", "models", "mae"),
    ("RMSE", "models", "rmse"),
    ("nDCG@5", "models", "ndcg@5"),
    ("AUC", "models", "auc"),
    ("HR@10 of all items", "catalogue", "hr@10"),
    ("nDCG@10 of all items", "catalogue", "ndcg@10"),
]


def scenario_table(results: Results, data: str) -> str:
    """Every scenario of a data set with more than user-cold ratings; empty for others."""
    of_row: dict[str, list[dict[str, Any]]] = {}
    for name in ["others", *TRAINED]:
        for key, run in results.runs.items():
            of, model, _ = key.split(" | ")
            if (of, model) != (data, name) or not run.get("scenarios"):
                continue
            if name != "others":
                of_row.setdefault(name, []).append(_of_model(run["scenarios"], "adapted"))
                if name == "GreatMeta as shipped":
                    alone = _of_model(run["alone"]["scenarios"], "adapted")
                    of_row.setdefault(ALONE, []).append(alone)
                continue
            models = next(iter(run["scenarios"].values()))["models"]
            for other in models:
                if other not in ("unadapted", "adapted"):
                    of_row[other] = [_of_model(run["scenarios"], other)]
    if not of_row:
        return ""
    first = next(iter(of_row.values()))[0]
    columns = [c for c in SCENARIO_COLUMNS if any(c[2] in s.get(c[1], {}) for s in first.values())]
    lines = ["| | | seeds | " + " | ".join(c[0] for c in columns) + " |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for scenario in first:
        for row, found in of_row.items():
            cells = []
            for _, kind, metric in columns:
                cells.append(cell([f[scenario][kind][metric] for f in found]))
            lines.append(f"| {scenario} | {row} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _of_model(found: dict[str, Any], model: str) -> dict[str, Any]:
    """``{scenario: {"models" | "catalogue": metrics}}`` of one model."""
    return {
        scenario: {kind: models[model] for kind, models in kinds.items()}
        for scenario, kinds in found.items()
    }


def comparison(results: Results, names: list[str], *, is_alone: bool) -> str:
    """The shipped model less the one with uniform weights, seed by seed: means and intervals.

    Of the predictions; or of the models alone, without the factorisation that both share.
    """

    def of_seeds(data: str, model: str) -> dict[int, dict[str, Any]]:
        found = {}
        for key, run in results.runs.items():
            *of, seed = key.split(" | ")
            if of == [data, model]:
                scored = run["alone"] if is_alone else run
                found[int(seed)] = scored["scores"]["adapted"]["full"]
        return found

    what = "shipped − uniform weights" + (", without factorisation" if is_alone else "")
    lines = [f"| {what} | pairs | RMSE | RMSE, minority | nDCG@5, minority |"]
    lines.append("|---|---|---|---|---|")
    pooled: list[list[float]] = []
    for data in names:
        ours, uniform = of_seeds(data, "GreatMeta as shipped"), of_seeds(data, "… uniform weights")
        differences = [
            [
                ours[seed][who][metric] - uniform[seed][who][metric]
                for who, metric in (("all", "rmse"), ("minority", "rmse"), ("minority", "ndcg@5"))
            ]
            for seed in ours.keys() & uniform.keys()
        ]
        pooled += differences
        if differences:
            lines.append(f"| {data} | {len(differences)} | " + _cells(differences) + " |")
    if pooled:
        lines.append(f"| all together | {len(pooled)} | " + _cells(pooled) + " |")
    return "\n".join(lines)


def _cells(differences: list[list[float]]) -> str:
    found = [interval(list(column)) for column in zip(*differences, strict=True)]
    return " | ".join(f"{mean:+.4f} ±{half:.4f}" for mean, half in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="stores and results go here")
    parser.add_argument("--ml-100k", type=Path, help="RecBole atomic files and split.tsv")
    parser.add_argument("--store", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--data", nargs="+", help="data sets to run; all if not given")
    parser.add_argument("--models", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.work / "quality.json")
    stores = {name: Path(path) for name, _, path in (s.partition("=") for s in options.store)}
    known = data_sets(options.work, options.ml_100k, stores)
    names = options.data or list(known)
    for name in names:
        if name not in known:
            parser.error(f"--data {name} is not one of {', '.join(known)}")
    if not options.table:
        run_all(results, {n: known[n] for n in names}, options)
    for name in names:
        print(f"\n{name}\n\n{scenario_table(results, name) or table(results, name)}")
    for is_alone in (False, True):
        print("\n" + comparison(results, names, is_alone=is_alone))


def run_all(results: Results, chosen: dict[str, Data], options: argparse.Namespace) -> None:
    """Run what is missing, seed by seed: a stop leaves whole seeds."""
    threads = max(1, torch.get_num_threads() // options.jobs)
    stores = {name: data.ready() for name, data in chosen.items()}
    runs = [
        Run(Results.key(name, "others", 0), stores[name], [], run_others, (data, threads))
        for name, data in chosen.items()
    ]
    for seed in range(options.seeds):
        for model in options.models:
            for name, data in chosen.items():
                given = options_of(data, model)
                call = (data, given, seed, threads)
                key = Results.key(name, model, seed)
                runs.append(Run(key, stores[name], given, run_trained, call))
    results.fill(runs, options.jobs, "quality")


if __name__ == "__main__":
    main()
