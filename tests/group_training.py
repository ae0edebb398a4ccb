"""Trainings by several workers, and what is compared between them."""

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.chaos import digest
from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.launch.local import launch
from greatmeta_dist.options.compose import compose_config

STEPS = 50


def config_for(store: Path, workers: int, *options: str) -> Config:
    return compose_config(
        [
            f"store={store}",
            f"cluster.workers={workers}",
            f"train.steps={STEPS}",
            "train.log_every=1",
            "train.valid_every=25",
            *options,
        ]
    )


def scalars(run: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {name: [e.value for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def num_workers(run: Path) -> int:
    """How many workers trained last."""
    return len(json.loads((run / "workers.json").read_text()))


def model_files(run: Path) -> dict[str, bytes]:
    """What a run predicts with besides its parameters: catalogue, priors and blend weight."""
    model = run / "model"
    files = {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    assert "blend.json" in files
    assert "priors/bayesian_mf.safetensors" in files
    return files


def assert_same_at_every_size(store: Path, folder: Path, *options: str, steps: int = STEPS) -> None:
    """Train with 1, 2, 4 and 8 workers, each into the folder of its number."""
    options = (*options, f"train.steps={steps}")
    results = {}
    for workers in (1, 2, 4, 8):
        run = folder / str(workers)
        metrics = launch(config_for(store, workers, *options), run, Display())
        losses = scalars(run)["train/loss"]
        assert len(losses) == steps
        assert num_workers(run) == workers
        results[workers] = digest(run), losses, metrics["valid"], model_files(run)
    assert all(results[workers] == results[1] for workers in (2, 4, 8))
