"""From the options of the scheduler to a user weighting."""

from greatmeta_dist.config import SchedulerConfig
from greatmeta_dist.extensions import WEIGHTINGS
from greatmeta_dist.meta.weightings.base import UserWeighting


def make_weighting(options: SchedulerConfig) -> UserWeighting:
    """The user weighting that ``scheduler.kind`` names, built in or from another package."""
    weighting: UserWeighting = WEIGHTINGS.get(options.kind)(
        magnitude=options.magnitude,
        factors=tuple(options.factors),
        balance_strength=options.balance_strength,
        worst_fraction=options.worst_fraction,
        max_weight_ratio=options.max_weight_ratio,
    )
    return weighting
