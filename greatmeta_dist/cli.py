"""``greatmeta <command> [Hydra overrides]``: the command line (DESIGN.md section 6).

Help, versions and most usage errors are answered from the words alone. Hydra is imported where a
config is composed, and what a command computes with where it runs.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import greatmeta_dist
from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.options.checks import check_folders, check_words
from greatmeta_dist.options.hints import command_hint
from greatmeta_dist.options.names import COMMANDS

HELP, SWEEP = ("-h", "--help"), ("-m", "--multirun")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (failed), 2 (bad usage or input)."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        _run(words)
    except InputError as error:
        return _fail(str(error), 2)
    except RuntimeError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        return 1
    except PermissionError as error:
        remedy = "choose another folder, or change who may read and write it"
        return _fail(f"{error.filename}: permission denied; {remedy}", 2)
    except MemoryError as error:
        return _fail(f"not enough memory: {error}; take a smaller model or fewer workers", 1)
    except OSError as error:
        prefix = f"{error.filename}: " if error.filename else ""
        return _fail(f"{prefix}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on", 1)
    return 0


def _fail(message: str, code: int) -> int:
    """Print an error in one line; returns the exit code."""
    print(f"greatmeta: {' '.join(message.split())}", file=sys.stderr)
    return code


def _run(words: list[str]) -> None:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in HELP:
        from greatmeta_dist.options.help import help_text

        print(help_text())
        return
    if words[0] == "--version":
        print(greatmeta_dist.__version__)
        return
    command, *options = words
    require(command in COMMANDS, f"no command '{command}'; {command_hint(command)}")
    if set(HELP) & set(options):
        from greatmeta_dist.options.help import command_help

        print(command_help(command))
        return
    overrides = [word for word in options if word not in SWEEP]
    _run_command(command, overrides, is_sweep=len(overrides) < len(options))


def _run_command(command: str, overrides: list[str], *, is_sweep: bool) -> None:
    """Check the words, compose the config, and run the command."""
    check_words(command, overrides, is_sweep=is_sweep)
    require(
        not is_sweep or command == "train",
        f"-m sweeps over trainings; run {command} once for each",
    )
    check_folders(command, overrides, is_sweep=is_sweep)
    if is_sweep:
        from greatmeta_dist.commands.sweep import train_sweep

        train_sweep(overrides)
        return
    from greatmeta_dist.options.compose import compose_config

    RUN[command](compose_config(overrides), overrides)


def _inspect(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.inspect import inspect_files

    inspect_files(config.data)


def _prepare(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.prepare import prepare_store

    prepare_store(
        config.data, Path(config.store or ""), config.cluster, typed=_typed(overrides, "data")
    )


def _train(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.train import train_run

    train_run(config, Path(config.run or ""), overrides=overrides)


def _evaluate(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.evaluate import evaluate_config
    from greatmeta_dist.commands.evaluate_sweep import evaluate_sweep
    from greatmeta_dist.sweep.folder import is_sweep

    run = Path(config.run or "")
    if is_sweep(run):
        evaluate_sweep(config, run, is_anew=bool(_typed(overrides, "evaluate")))
    else:
        evaluate_config(config, _typed(overrides, "data"))


def _export(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.export import export_run

    export_run(Path(config.run or ""), Path(config.out or ""))


def _recommend(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.recommend import recommend_users

    recommend_users(config, typed=_typed(overrides, "data"))


def _typed(words: list[str], section: str) -> set[str]:
    """The options of a section that were typed; the section's name where a preset was."""
    keys = [word.partition("=")[0].split(".") for word in words]
    return {key[1] if len(key) > 1 else section for key in keys if key[0] == section}


def _serve(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.serve import serve_run

    serve_run(config)


RUN: dict[str, Callable[[Config, list[str]], None]] = {
    "inspect": _inspect,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "recommend": _recommend,
    "serve": _serve,
}
"""What each command runs, from its config and its words."""
