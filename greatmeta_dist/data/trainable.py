"""Whether there is anything to learn from what a preparation has left to train on."""

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.report import Report
from greatmeta_dist.errors import require


def require_trainable(counts: TrainingCounts, report: Report, config: DataConfig) -> None:
    """Raise ``InputError`` where nothing that can be learnt is left to train on."""
    usable = report.read - report.rejected - report.unrated - report.other_events
    remedy = report.advice or (
        "check data.split"
        if config.split
        else "lower data.valid_fraction and data.test_fraction, the shares of held-out users"
    )
    require(
        report.tasks.get("train", 0) > 0,
        f"no training task came out of {usable} usable rows of {report.read}; {remedy}",
    )
    is_counted = not config.has_ratings and not config.is_click
    require(
        not is_counted or counts.lowest < counts.highest,
        f"every {'weight' if config.events else 'count'} is {counts.lowest:g}, so there is nothing "
        "to learn; set data.label=click",
    )
    share = counts.mean
    require(
        not config.is_implicit or share < 1,
        "no item could be drawn as not clicked, since each user of the training has all that may "
        "be drawn; set data.label=rating, or add rows with other items",
    )
    require(
        not config.is_click or 0 < share < 1,
        f"{share:.0%} of the training rows are clicks, and training needs clicks and others; "
        f"set data.click_at (now {config.click_at}) within the ratings, or data.negatives",
    )
