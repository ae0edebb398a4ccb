"""``greatmeta export``: run → a folder that predicts without this package."""

from pathlib import Path

from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.export.exported_model import CARD, read_card
from greatmeta_dist.export.write import export_model
from greatmeta_dist.predict import Predictor
from greatmeta_dist.storage.output import made_at


def export_run(run: str | Path, out: str | Path, *, display: Display | None = None) -> None:
    """Export a run's best parameters into the folder ``out``.

    Raises ``InputError`` where the run is not whole, cannot be exported, or ``out`` is something
    else than a new or empty folder or an earlier export; then nothing was written.
    """
    display = display or Display()
    predictor = Predictor.load(run, warn=_refuse)
    with made_at(out, taken=f"another export writes {out}", last=CARD) as folder:
        agreement = export_model(predictor.model, predictor.run, predictor.step, folder)
        has_metrics = read_card(folder)["evaluation"] is not None
    if not has_metrics:
        display.say(f"the card has no metrics; greatmeta evaluate run={run}, then export again")
    display.say(
        f"loaded and asked for {agreement.num_scores} scores: at most "
        f"{agreement.largest_difference:.1g} off the run's"
    )
    display.say(f"parameters of step {predictor.step}; written to {out}")


def _refuse(message: str) -> None:
    """What is a warning to others: who gets an export has no run to look it up in."""
    raise InputError(f"{message}; nothing was exported")
