"""``greatmeta evaluate``: run → a table and ``evaluation.json``."""

from pathlib import Path
from typing import Any

from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.evaluate import evaluate
from greatmeta_dist.files import write_json_atomically
from greatmeta_dist.predict import Predictor


def evaluate_run(
    run: str | Path, *, store: str | Path | None = None, display: Display | None = None
) -> dict[str, Any]:
    """Score a run in every scenario of its store, or of ``store`` where that has moved.

    Returns what ``evaluation.json`` holds. Raises ``InputError`` where the run or the store cannot
    be read, or where the store holds no scenario.
    """
    run, display = Path(run), display or Display()
    predictor = Predictor.load(run, warn=display.say)
    evaluation = _evaluate(predictor, predictor.open_store(Path(store) if store else None), display)
    weight = predictor.blend_weight
    if weight is not None:
        evaluation = {"factorisation_share": weight, **evaluation}
    evaluation = {"step": predictor.step, **evaluation}
    write_json_atomically(run / "evaluation.json", evaluation)
    display.results(evaluation)
    if weight is not None:
        display.say(f"{weight:.0%} of a prediction is the priors', where they know the item")
    display.say(f"parameters of step {predictor.step}; written to {run / 'evaluation.json'}")
    return evaluation


def _evaluate(predictor: Predictor, store: Store, display: Display) -> dict[str, Any]:
    """Score all users of the scenarios, with a bar."""
    splits = store.manifest.splits
    total = sum(n for split, n in splits.items() if split not in ("train", "valid"))
    require(total > 0, f"{store.folder} holds no scenario to evaluate, only training users")
    with display.bar("evaluate", total, "users") as bar:
        by_split: dict[str, int] = {}

        def progress(split: str, num_scored: int) -> None:
            by_split[split] = num_scored
            bar.update(sum(by_split.values()), split)

        return evaluate(
            predictor.scorer,
            store,
            others=predictor.baselines(),
            know_new_items=predictor.know_supports,
            progress=progress,
        )
