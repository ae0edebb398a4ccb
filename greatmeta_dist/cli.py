"""``greatmeta <command> [Hydra overrides]``: the command line (DESIGN.md section 6).

Help, versions and most usage errors are answered from the words alone. Hydra is imported where a
config is composed, and what a command computes with where it runs.
"""

import sys
from collections.abc import Callable

import greatmeta_dist
from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.options.checks import check_folders, check_words
from greatmeta_dist.options.hints import command_hint
from greatmeta_dist.options.job_words import jobs_words, submitted_words
from greatmeta_dist.options.names import COMMANDS
from greatmeta_dist.storage.local_copy import shown

HELP, SWEEP = ("-h", "--help"), ("-m", "--multirun")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (failed), 2 (bad usage or input)."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _run(words))


def exit_code(run: Callable[[], int | None]) -> int:
    """The exit code of what runs, which None leaves at 0; errors are printed in one line."""
    try:
        return run() or 0
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


def _fail(message: str, code: int) -> int:
    """Print an error in one line; returns the exit code."""
    print(f"greatmeta: {' '.join(shown(message).split())}", file=sys.stderr)
    return code


def _run(words: list[str]) -> int | None:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in HELP:
        from greatmeta_dist.options.help import help_text

        print(help_text())
        return 0
    if words[0] == "--version":
        print(greatmeta_dist.__version__)
        return 0
    command, *options = words
    require(command in COMMANDS, f"no command '{command}'; {command_hint(command)}")
    own = options[: options.index("--")] if command == "submit" and "--" in options else options
    if set(HELP) & set(own):
        from greatmeta_dist.options.help import command_help

        print(command_help(command))
        return 0
    if command in ON_A_CLUSTER:
        return ON_A_CLUSTER[command](options)
    overrides = [word for word in options if word not in SWEEP]
    _run_command(command, overrides, is_sweep=len(overrides) < len(options))
    return 0


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

    prepare_store(config.data, config.store or "", config.cluster, typed=_typed(overrides, "data"))


def _train(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.train import train_run

    train_run(config, config.run or "", overrides=overrides)


def _evaluate(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.evaluate import evaluate_config
    from greatmeta_dist.commands.evaluate_sweep import evaluate_sweep
    from greatmeta_dist.sweep.folder import is_sweep

    if is_sweep(config.run or ""):
        evaluate_sweep(config, is_anew=bool(_typed(overrides, "evaluate")))
    else:
        evaluate_config(config, _typed(overrides, "data"))


def _export(config: Config, overrides: list[str]) -> None:
    from greatmeta_dist.commands.export import export_run

    export_run(config.run or "", config.out or "")


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


def _submit(words: list[str]) -> int:
    own, command, inner = submitted_words(words)
    from greatmeta_dist.commands.submit import submit
    from greatmeta_dist.options.compose import compose_config

    return submit(compose_config(own), command, inner)


def _jobs(words: list[str]) -> int:
    action, job_id, options = jobs_words(words)
    from greatmeta_dist.commands.jobs import jobs
    from greatmeta_dist.options.compose import compose_config

    return jobs(compose_config(options), action, job_id)


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

ON_A_CLUSTER: dict[str, Callable[[list[str]], int]] = {"submit": _submit, "jobs": _jobs}
"""Commands that are about jobs, with words of their own form."""
