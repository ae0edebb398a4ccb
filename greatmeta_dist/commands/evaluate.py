"""``greatmeta evaluate``: run → a table and ``evaluation.json``."""

import json
from pathlib import Path
from typing import Any

from greatmeta_dist.display import Display
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.evaluate import evaluate
from greatmeta_dist.training.run_folder import Setup, load_run


def evaluate_run(run: Path, *, store: Path | None) -> None:
    """Score a run in every scenario of its store, or of ``store`` where that has moved."""
    display = Display()
    setup, step = load_run(run, store, display)
    evaluation = _evaluate(setup, display)
    target_transform = setup.collator.target_transform
    if target_transform.factorisations:
        evaluation = {"factorisation_share": target_transform.blend_weight, **evaluation}
    evaluation = {"step": step, **evaluation}
    _write_json(run / "evaluation.json", evaluation)
    display.results(evaluation)
    if target_transform.factorisations:
        display.say(
            "of items that the factorisation holds, "
            f"{target_transform.blend_weight:.0%} of a prediction is its own"
        )
    display.say(f"parameters of step {step}; written to {run / 'evaluation.json'}")


def _evaluate(setup: Setup, display: Display) -> dict[str, Any]:
    """Score all users of the scenarios, with a bar."""
    splits = setup.store.manifest.parts
    total = sum(n for split, n in splits.items() if split not in ("train", "valid"))
    require(total > 0, f"{setup.store.folder} holds no scenario to evaluate, only training users")
    with display.bar("evaluate", total, "users") as bar:
        done: dict[str, int] = {}

        def progress(split: str, count: int, users: int) -> None:
            done[split] = count
            bar.update(sum(done.values()), split)

        return evaluate(setup.worker, setup.store, setup.collator, setup.choice, progress)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file so that it is whole whenever it is there."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.rename(path)
