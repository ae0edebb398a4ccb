"""``greatmeta evaluate`` of a sweep's folder: every finished run, and one table of all."""

from pathlib import Path

from greatmeta_dist.commands.evaluate import evaluate_run
from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.sweep.folder import SweepFolder
from greatmeta_dist.sweep.results import Result, read_results
from greatmeta_dist.sweep.summary import show_summary, write_summary


class _BarsAlone(Display):
    """Shows how far an evaluation is, and none of its tables."""

    def say(self, text: str) -> None:
        pass

    def results(self, evaluation: object) -> None:
        pass


def evaluate_sweep(config: Config, *, is_anew: bool) -> None:
    """Evaluate the finished runs that have no evaluation of their best step; all if ``is_anew``.

    Raises ``RuntimeError`` where some runs could not be evaluated, after the others were.
    """
    folder = Path(config.run or "")
    display, sweep = Display(), SweepFolder.read(folder)
    for name in ("users", "against"):
        require(
            getattr(config, name) is None,
            f"{folder} is a sweep, and {name} is for one run; name one of it: run={folder}/RUN",
        )
    finished = [result for result in read_results(sweep) if result.status == "done"]
    require(bool(finished), f"no run of {folder} is finished; train them: greatmeta train -m …")
    due = [result for result in finished if is_anew or not result.scenarios]
    display.say(f"{len(finished)} runs are finished, and {len(due)} of them to be evaluated")
    failed = [result for result in due if not _is_evaluated(config, sweep, result, display)]
    show_summary(display, folder, write_summary(sweep, read_results(sweep)))
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(due)} runs could not be evaluated")


def _is_evaluated(config: Config, sweep: SweepFolder, result: Result, display: Display) -> bool:
    """Evaluate a run; False where it failed, which is said."""
    run = sweep.run(result.job)
    display.say(f"evaluating {result.job.name}")
    try:
        evaluate_run(run, store=config.store, options=config.evaluate, display=_BarsAlone())
    except (InputError, RuntimeError, OSError) as error:
        display.say(f"failed {result.job.name}: {' '.join(str(error).split())}")
        return False
    return True
