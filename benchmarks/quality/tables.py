"""Results as Markdown: means over seeds with 95% intervals (Student's t)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.quality.models import ALONE, CVAR, OTHERS, PUBLISHED, SHIPPED, TRAINED, UNIFORM
from benchmarks.quality.results import Results

COLUMNS = [
    ("MAE", "full", "all", "mae"),
    ("RMSE", "full", "all", "rmse"),
    ("nDCG@3", "full", "all", "ndcg@3"),
    ("nDCG@5", "full", "all", "ndcg@5"),
    ("nDCG@10", "full", "all", "ndcg@10"),
    ("RMSE, minority", "full", "minority", "rmse"),
    ("nDCG@5, minority", "full", "minority", "ndcg@5"),
    ("RMSE, worst tenth", "full", "worst_tenth", "rmse"),
    ("nDCG@5, worst tenth", "full", "worst_tenth", "ndcg@5"),
    ("RMSE at 10", "10", "all", "rmse"),
    ("RMSE at 5", "5", "all", "rmse"),
    ("at 10, drawn", "10 drawn", "all", "rmse"),
    ("at 5, drawn", "5 drawn", "all", "rmse"),
]
"""Title, support, users, metric."""
ALONE_COLUMNS = [
    ("RMSE, model alone", "all"),
    ("RMSE, minority, model alone", "minority"),
    ("RMSE, worst tenth, model alone", "worst_tenth"),
]
"""Of rows with a blend: the model without it, at full support, for whom."""
SCENARIO_COLUMNS = [
    ("MAE", "models", "mae"),
    ("RMSE", "models", "rmse"),
    ("nDCG@5", "models", "ndcg@5"),
    ("RMSE, worst tenth", "worst_tenth", "rmse"),
    ("nDCG@5, worst tenth", "worst_tenth", "ndcg@5"),
    ("AUC", "models", "auc"),
    ("HR@10 of all items", "catalogue", "hr@10"),
    ("nDCG@10 of all items", "catalogue", "ndcg@10"),
]
"""Title, kind of metric, metric."""
COMPARED = [
    ("RMSE", "all", "rmse"),
    ("RMSE, minority", "minority", "rmse"),
    ("nDCG@5, minority", "minority", "ndcg@5"),
    ("RMSE, worst tenth", "worst_tenth", "rmse"),
    ("nDCG@5, worst tenth", "worst_tenth", "ndcg@5"),
]
"""Title, users and metric of the columns of ``comparison``."""
SELF = ("unadapted", "adapted")
"""The model's own rows; in the run of the others, of a model that was never trained."""

Rows = dict[str, dict[int, dict[str, Any]]]
"""``{row: {seed: run}}`` of one data set, ``scores`` those of the row's model."""


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval; nan for fewer than two."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def cell(values: Sequence[float | None]) -> str:
    """Mean and interval, as far as there are any; undefined values are None or nan."""
    mean, half = interval([np.nan if v is None else v for v in values])
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" + ("" if np.isnan(half) else f" ±{half:.3f}")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def table(results: Results, data: str) -> str:
    """One data set's rows."""
    names = [column[0] for column in (*COLUMNS, *ALONE_COLUMNS)]
    rows = []
    for name, runs in _rows_of(results, data).items():
        cells = [
            cell([_number(run["scores"], support, who, metric) for run in runs.values()])
            for _, support, who, metric in COLUMNS
        ]
        alone = [run["of_model"] for run in runs.values() if "of_model" in run]
        cells += [
            cell([_number(scores, "full", who, "rmse") for scores in alone]) if alone else ""
            for _, who in ALONE_COLUMNS
        ]
        rows.append([name, f"{len(runs)}", *cells, _mean_seconds(runs.values())])
    return markdown(["", "seeds", *names, "seconds"], rows)


def _number(scores: dict[str, Any], *path: str) -> float | None:
    """The number at ``path``: a support, who, a metric; None where the run does not have it."""
    at: Any = scores
    for name in path:
        at = at.get(name, {})
    return at if isinstance(at, float) else None


def _mean_seconds(runs: Iterable[dict[str, Any]]) -> str:
    """Of the runs that were made in one go; empty without any."""
    known = [run["seconds"] for run in runs if run["seconds"] is not None]
    return f"{np.mean(known):.0f}" if known else ""


def _rows_of(results: Results, data: str) -> Rows:
    """Untrained models first, then trained ones as ``TRAINED`` has them."""
    rows: Rows = {}
    for run in results.of(data, OTHERS).values():
        for name, scores in run["scores"].items():
            if name not in SELF:
                rows[name] = {0: {**run, "scores": scores}}
    for name in TRAINED:
        for seed, run in results.of(data, name).items():
            row = {**run, "scores": run["scores"]["adapted"]}
            if "alone" in run:
                row["of_model"] = run["alone"]["scores"]["adapted"]
            rows.setdefault(name, {})[seed] = row
            if name == SHIPPED:
                unadapted = {**run, "scores": run["scores"]["unadapted"]}
                rows.setdefault(f"{SHIPPED}, unadapted", {})[seed] = unadapted
                alone = {**run, "scores": run["alone"]["scores"]["adapted"]}
                rows.setdefault(ALONE, {})[seed] = alone
    return rows


def scenario_table(results: Results, data: str) -> str:
    """Every scenario of a data set with more than user-cold ratings; empty for others."""
    rows = _scenario_rows(results, data)
    if not rows:
        return ""
    first = next(iter(rows.values()))[0]
    columns = [c for c in SCENARIO_COLUMNS if any(c[2] in s.get(c[1], {}) for s in first.values())]
    cells = [
        [
            scenario,
            name,
            f"{len(runs)}",
            *(
                cell([_number(run[scenario], kind, metric) for run in runs])
                for _, kind, metric in columns
            ),
        ]
        for scenario in first
        for name, runs in rows.items()
    ]
    return markdown(["", "", "seeds", *(column[0] for column in columns)], cells)


def _scenario_rows(results: Results, data: str) -> dict[str, list[dict[str, Any]]]:
    """``{row: [{scenario: {kind: metrics}}]}``, one entry a run; ``kind`` as the run has it."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in results.of(data, OTHERS).values():
        scenarios = run.get("scenarios") or {}
        for scenario in list(scenarios.values())[:1]:
            for other in scenario["models"]:
                if other not in SELF:
                    rows[other] = [_of_model(scenarios, other)]
    for name in TRAINED:
        for run in results.of(data, name).values():
            if not run.get("scenarios"):
                continue
            rows.setdefault(name, []).append(_of_model(run["scenarios"], "adapted"))
            if name == SHIPPED:
                alone = _of_model(run["alone"]["scenarios"], "adapted")
                rows.setdefault(ALONE, []).append(alone)
    return rows


def _of_model(scenarios: dict[str, Any], model: str) -> dict[str, Any]:
    """``{scenario: {kind: metrics}}`` of one model."""
    return {
        scenario: {kind: models[model] for kind, models in kinds.items()}
        for scenario, kinds in scenarios.items()
    }


@dataclass(frozen=True)
class Pair:
    """Two models that are compared seed by seed."""

    title: str
    first: str
    second: str
    second_form: str = "adapted"
    """Of the second model: ``adapted`` or ``unadapted``. The first one is adapted."""


PAIRS = [
    Pair("shipped − uniform weights", SHIPPED, UNIFORM),
    Pair("published scheduler − uniform weights", PUBLISHED, UNIFORM),
    Pair("CVaR over users − uniform weights", CVAR, UNIFORM),
    Pair("shipped, adapted − unadapted", SHIPPED, SHIPPED, "unadapted"),
]
"""What the scheduler adds, in three forms, and what adaptation adds."""


def comparison(results: Results, names: list[str], pair: Pair, *, is_alone: bool) -> str:
    """One model less another, seed by seed: means and intervals; empty without common seeds.

    Of the predictions; or of the models alone, without the factorisation that both share.
    """
    rows: list[list[str]] = []
    pooled: list[list[float]] = []
    for data in names:
        first = _full_scores(results, data, pair.first, "adapted", is_alone=is_alone)
        second = _full_scores(results, data, pair.second, pair.second_form, is_alone=is_alone)
        differences = [
            [_difference(first[seed], second[seed], who, metric) for _, who, metric in COMPARED]
            for seed in first.keys() & second.keys()
        ]
        pooled += differences
        if differences:
            rows.append([data, f"{len(differences)}", *_difference_cells(differences)])
    if not pooled:
        return ""
    rows.append(["all together", f"{len(pooled)}", *_difference_cells(pooled)])
    title = pair.title + (", without factorisation" if is_alone else "")
    return markdown([title, "pairs", *(column[0] for column in COMPARED)], rows)


def _full_scores(
    results: Results, data: str, model: str, form: str, *, is_alone: bool
) -> dict[int, dict[str, Any]]:
    """``{seed: {users: metrics}}`` at full support."""
    return {
        seed: (run["alone"] if is_alone else run)["scores"][form]["full"]
        for seed, run in results.of(data, model).items()
        if not is_alone or "alone" in run
    }


def _difference(first: dict[str, Any], second: dict[str, Any], who: str, metric: str) -> float:
    """nan where either does not have the number."""
    a, b = _number(first, who, metric), _number(second, who, metric)
    return float("nan") if a is None or b is None else a - b


def _difference_cells(differences: list[list[float]]) -> list[str]:
    """Means and intervals of the columns; without an interval where there is one pair."""
    columns = [interval(list(column)) for column in zip(*differences, strict=True)]
    return [
        "" if np.isnan(mean) else f"{mean:+.4f}" + ("" if np.isnan(half) else f" ±{half:.4f}")
        for mean, half in columns
    ]
