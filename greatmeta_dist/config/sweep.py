"""Options of a sweep, ``train -m``: how many trainings it starts, and how many at a time."""

from dataclasses import dataclass

from greatmeta_dist.config.checks import at_least, in_range


@dataclass
class SweepConfig:
    """How ``train -m`` goes through its trainings."""

    parallel: int | None = None
    """Trainings at a time. null: as many as the processors hold, or the GPUs, or the Ray cluster,
    each with its ``cluster.workers`` of ``cluster.threads``."""
    budget: int | None = None
    """Trainings in all, each with values that Optuna chooses by the results of the earlier ones,
    from ranges such as ``tag(log,interval(1e-4,1e-1))`` and from comma lists. null: every
    combination of the comma lists."""
    seed: int = 0
    """Decides the values that Optuna draws."""

    def __post_init__(self) -> None:
        for name in ("parallel", "budget"):
            if getattr(self, name) is not None:
                at_least(f"sweep.{name}", getattr(self, name), 1)
        in_range("sweep.seed", self.seed, 0, 2**31, is_open_above=True)
