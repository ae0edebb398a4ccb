"""``greatmeta train``: store → run."""

from pathlib import Path

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.launch.local import launch
from greatmeta_dist.sweep.plan import config_of_run
from greatmeta_dist.sweep.results import describe_best
from greatmeta_dist.training.run_copy import folder_to_train


def train_run(config: Config, run: str | Path, *, overrides: list[str]) -> None:
    """Train, or go on with a run: its own config holds but for what ``overrides`` name."""
    run = folder_to_train(run)
    display = Display()
    metrics = launch(config_of_run(run, config, overrides), run, display)
    if metrics["best"]:
        display.say(f"best validation {describe_best(metrics['best'])}")
    display.say(
        f"run {run} is at step {metrics['step']}; evaluate it: greatmeta evaluate run={run}"
    )
    display.say_as_is(
        f"watch it: tensorboard --logdir {run}/tensorboard  "
        "(then http://localhost:6006/#custom_scalars)"
    )
