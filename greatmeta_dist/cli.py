"""``greatmeta <command> [Hydra overrides]``: the command line (DESIGN.md section 6)."""

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from greatmeta_dist.data.prepare import Report, prepare
from greatmeta_dist.data.store import Field, read_manifest
from greatmeta_dist.data.validate import REJECTS
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.evaluation.evaluate import evaluate
from greatmeta_dist.files import write_json_atomically
from greatmeta_dist.launch.local import launch
from greatmeta_dist.options import (
    check_names,
    command_help,
    compose_config,
    help_text,
    nearest,
    opened,
    sweep,
    value_of,
    with_changes,
)
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.run_folder import saved_config


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (failed), 2 (bad usage or input)."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(words)
    except InputError as error:
        print(f"greatmeta: {_one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"greatmeta: {_one_line(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except PermissionError as error:
        print(
            f"greatmeta: {error.filename}: permission denied; choose another folder, or change who "
            "may read and write it",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"greatmeta: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("greatmeta: interrupted; run the same command again to go on", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(version("greatmeta_dist"))
        return 0
    command, *rest = words
    require(command in COMMANDS, f"no command '{command}'; {nearest(command, COMMANDS)}")
    if "-h" in rest or "--help" in rest:
        print(command_help(command))
        return 0
    is_sweep = bool({"-m", "--multirun"} & set(rest))
    overrides = [w for w in rest if w not in ("-m", "--multirun")]
    for word in overrides:
        require(
            "=" in word and not word.startswith("-"),
            f"'{word}' is no option; options read key=value: see greatmeta {command} --help",
        )
    with opened():
        check_names(command, overrides)
        if not is_sweep:
            COMMANDS[command](overrides)
            return 0
        require(command == "train", f"-m sweeps over trainings; run {command} once for each")
        jobs = sweep(overrides)
        for job in jobs:
            compose_config(job)
        for k, job in enumerate(jobs):
            print(f"sweep {k}: {' '.join(job)}")
            COMMANDS[command](job)
    return 0


def _prepare(overrides: list[str]) -> None:
    config, store = compose_config(overrides), value_of(overrides, "store")
    require(store is not None, "store=DIR is not set; name the folder to prepare into")
    display, start = Display(), time.monotonic()
    with display.bar("prepare", 100, "%") as bar:

        def progress(stage: str, share: float) -> None:
            bar.update(int(100 * share), stage)

        report = prepare(config.data, Path(store or ""), progress)
    if not report.is_new:
        display.say(f"{store} is already prepared from the same files in the same way")
    display.say(
        f"{config.data.source}: {report.read} rows read, {report.rejected} rejected, "
        f"{report.unrated + report.out_of_bounds + report.not_in_split + report.unused} left out "
        f"({report.out_of_bounds} of users out of bounds, {report.not_in_split} not in the split, "
        f"{report.unused} more than tasks take, {report.unrated} unrated)"
    )
    for reason, count in report.reasons.items():
        display.say(f"  {count} × {reason} (see {Path(store or '') / REJECTS})")
    for part, count in report.tasks.items():
        display.say(f"  {part}: {count} users, {report.interactions[part]} interactions")
    manifest = read_manifest(Path(store or ""))
    for side in ("user", "item"):
        fields = [_values(f, report) for f in manifest.fields if f.side == side]
        display.say(f"  {side} features: {', '.join(fields) or 'none'}")
    ratings = manifest.ratings
    display.say(
        f"  ratings from {ratings.lowest:g} to {ratings.highest:g}, mean {ratings.mean:.3g}"
    )
    display.say(f"store {store} is ready after {time.monotonic() - start:.1f} s")


def _values(field: Field, report: Report) -> str:
    """A feature, its values that have a row of their own, and how many are too rare for one."""
    rare = report.rare_values.get(field.name, 0)
    more = f", {rare} rare count as unknown" if rare else ""
    return f"{field.name} ({field.num_rows - 1} values{more})"


def _train(overrides: list[str]) -> None:
    config, run = compose_config(overrides), value_of(overrides, "run")
    require(run is not None, "run=DIR is not set; name the folder of the training")
    saved = saved_config(Path(run or ""))
    if saved is not None:
        config = with_changes(saved, config, overrides)
    display = Display()
    metrics = launch(config, Path(run or ""), display)
    best = metrics["best"]
    if best:
        display.say(f"best validation RMSE {best['rmse']:.4f} at step {best['step']}")
    display.say(
        f"run {run} is at step {metrics['step']}; evaluate it: greatmeta evaluate run={run}"
    )
    display.say(f"watch it: tensorboard --logdir {run}/tensorboard")


def _evaluate(overrides: list[str]) -> None:
    run, store = value_of(overrides, "run"), value_of(overrides, "store")
    require(run is not None, "run=DIR is not set; name a folder that train made")
    folder, display = Path(run or ""), Display()
    predictor = Predictor.load(folder, warn=display.say)
    opened = predictor.open_store(Path(store) if store else None)
    total = sum(n for s, n in opened.manifest.splits.items() if s not in ("train", "valid"))
    require(total > 0, f"{opened.folder} holds no scenario to evaluate, only training users")
    with display.bar("evaluate", total, "users") as bar:
        done: dict[str, int] = {}

        def progress(split: str, count: int, users: int) -> None:
            done[split] = count
            bar.update(sum(done.values()), split)

        found = evaluate(predictor.scorer, opened, others=predictor.baselines(), progress=progress)
    weight = predictor.blend_weight
    if weight is not None:
        found = {"factorisation_share": weight, **found}
    found = {"step": predictor.step, **found}
    write_json_atomically(folder / "evaluation.json", found)
    display.results(found)
    if weight is not None:
        display.say(
            f"of items that the factorisation holds, {weight:.0%} of a prediction is its own"
        )
    display.say(f"parameters of step {predictor.step}; written to {folder / 'evaluation.json'}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
