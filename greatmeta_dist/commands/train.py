"""``greatmeta train``: store → run."""

from pathlib import Path

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.launch.local import launch
from greatmeta_dist.options.compose import with_changes
from greatmeta_dist.training.run_config import saved_config
from greatmeta_dist.training.run_copy import folder_to_train


def train_run(config: Config, run: str | Path, *, overrides: list[str]) -> None:
    """Train, or go on with a run: its own config holds but for what ``overrides`` name."""
    run = folder_to_train(run)
    saved = saved_config(run)
    if saved is not None:
        config = with_changes(saved, config, overrides)
    display = Display()
    metrics = launch(config, run, display)
    best = metrics["best"]
    if best:
        is_click = "log_loss" in best  # the best step is that of the least one
        number = f"log loss {best['log_loss']:.4f}" if is_click else f"RMSE {best['rmse']:.4f}"
        display.say(f"best validation {number} at step {best['step']}")
    display.say(
        f"run {run} is at step {metrics['step']}; evaluate it: greatmeta evaluate run={run}"
    )
    display.say_as_is(
        f"watch it: tensorboard --logdir {run}/tensorboard  "
        "(then http://localhost:6006/#custom_scalars)"
    )
