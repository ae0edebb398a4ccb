"""Options of meta-training: the scheduler and the loop."""

from dataclasses import dataclass, field

from greatmeta_dist.config.checks import at_least, in_range, one_of
from greatmeta_dist.errors import require
from greatmeta_dist.extensions import WEIGHTINGS

FACTORS = ("magnitude", "gap", "agreement", "context")


@dataclass
class SchedulerConfig:
    """The preference-aware scheduler."""

    kind: str = "balanced"
    """``balanced``: learns from a user's factors, running means over its visits, and the support's
    context to weigh users as if those of rare and difficult preference groups were met more often.
    ``mlp``, ``lstm``: the published forms, which learn by a look ahead. Without learning:
    ``groups`` (all groups count the same), ``loss`` (every user as its query loss), ``uniform``
    (all the same). Groups are clusters of the log, never labels. Installed packages add others
    (``extensions.WEIGHTINGS``)."""
    magnitude: str = "loss"
    """mlp, lstm: the magnitude factor is the query ``loss`` after adaptation, or the sum of
    gradient norms, ``norm``. ``balanced`` reads the losses before and after."""
    factors: list[str] = field(default_factory=lambda: list(FACTORS))
    """Which factors the scheduler sees; ``context`` is for ``balanced``."""
    balance_strength: float = 1.0
    """balanced: with 1, a rare and difficult group counts as much as one of an even share, 1/G;
    more does more for such groups, at some cost to others; 0 leaves users as they come."""
    learning_rate: float = 5e-3
    """Learning rate of φ."""
    max_weight_ratio: float | None = 8.0
    """No weight exceeds this many times another, so the effective sample size stays above
    4r/(1+r)² of the batch; None leaves weights free, as published."""

    def __post_init__(self) -> None:
        one_of("scheduler.kind", self.kind, tuple(WEIGHTINGS.names()))
        for factor in self.factors:
            one_of("scheduler.factors", factor, FACTORS)
        at_least("scheduler.balance_strength", self.balance_strength, 0)
        one_of("scheduler.magnitude", self.magnitude, ("loss", "norm"))
        at_least("scheduler.learning_rate", self.learning_rate, 0)
        require(
            self.max_weight_ratio is None or self.max_weight_ratio > 1,
            f"scheduler.max_weight_ratio is {self.max_weight_ratio}; it must be above 1, or null",
        )


@dataclass
class TrainConfig:
    """Meta-training."""

    steps: int = 2000
    """Outer steps in all; a finished run goes on when this grows."""
    users_per_batch: int = 32
    """B, users of a global batch."""
    lanes: int | None = None
    """K, slices of the users that make every batch: a power of two. Any number of workers that
    divides K gives the same result. None decides from the store, one for every 4,096 training
    users; with ``cluster.workers`` at least 8, or, if more, the workers."""
    learning_rate: float = 2e-3
    """β, learning rate of θ."""
    resample_support: bool = True
    """Whether each visit deals a training user's rows anew to support and query, so that every
    rating is learnt from; False keeps the store's own split."""
    short_support_rate: float = 0.25
    """Share of visits, where support and query are dealt anew, with a shorter support: of 1 row to
    all, log-uniformly."""
    feature_mask_rate: float = 0.2
    """Share of feature values replaced by their field's unknown row, so that cold users and items
    meet one that has learnt; 0 for none."""
    ema_decay: float = 0.99
    """d of the running mean of θ over steps, mean ← d·mean + (1 − d)·θ, that predictions use; 0
    predicts with θ itself."""
    max_nonfinite_fraction: float = 0.01
    """Users whose loss or gradient is not finite count nothing; past this share of the users met
    since the last record, the training stops."""
    row_update: str = "lazy"
    """Adam on the embedding rows a step touches, ``lazy``, or on all of them, ``dense``."""
    seed: int = 0
    """Decides initial parameters and the order of users."""
    valid_every: int = 100
    """Steps between validations."""
    checkpoint_every: int = 100
    """Steps between checkpoints; they are written while training goes on."""
    keep_checkpoints: int = 3
    """Checkpoints kept besides the best."""
    log_every: int = 20
    """Steps between TensorBoard points."""

    def __post_init__(self) -> None:
        one_of("train.row_update", self.row_update, ("lazy", "dense"))
        for name in (
            "steps",
            "users_per_batch",
            "valid_every",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
        ):
            at_least(f"train.{name}", getattr(self, name), 1)
        in_range("train.short_support_rate", self.short_support_rate, 0, 1)
        in_range("train.feature_mask_rate", self.feature_mask_rate, 0, 1, is_open_above=True)
        in_range("train.ema_decay", self.ema_decay, 0, 0.9999)
        in_range("train.max_nonfinite_fraction", self.max_nonfinite_fraction, 0, 1)
        in_range("train.learning_rate", self.learning_rate, 0, 1, is_open=True)
        in_range("train.seed", self.seed, 0, 2**63, is_open_above=True)
        require(
            self.lanes is None or (self.lanes >= 1 and self.lanes & (self.lanes - 1) == 0),
            f"train.lanes is {self.lanes}; it must be a power of two, or null",
        )
