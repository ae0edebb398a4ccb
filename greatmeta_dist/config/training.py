"""Options of meta-training: the scheduler and the loop."""

from dataclasses import dataclass, field

from greatmeta_dist.config.checks import (
    at_least,
    check_choices,
    choice,
    in_range,
)
from greatmeta_dist.errors import require
from greatmeta_dist.extensions import WEIGHTINGS

FACTORS = ("magnitude", "gap", "agreement", "context")
"""The same as ``FACTOR_KINDS`` in ``meta/factors.py``, which would import torch: options are read,
and help is shown, without it."""


@dataclass
class SchedulerConfig:
    """The preference-aware scheduler: how much each user counts in a step."""

    kind: str = choice("balanced", WEIGHTINGS.names)
    """How users are weighed. ``balanced`` learns weights that let users of rare and difficult
    preference groups count more; it reads a user's factors, their averages over earlier visits and
    the support context. ``mlp`` and ``lstm`` are the published forms, which learn by a look-ahead
    step. The others learn nothing: ``groups`` lets all preference groups count the same, ``loss``
    weighs users by their query loss, ``cvar`` lets only the users with the largest query losses
    count, ``uniform`` weighs all users the same. Preference groups are clusters of the log, not
    labels."""
    magnitude: str = choice("loss", ("loss", "norm"))
    """mlp, lstm: what the magnitude factor is. ``loss``: the query loss after adaptation.
    ``norm``: the sum of the gradient's norms. ``balanced`` reads the losses before and after
    adaptation, whatever stands here."""
    factors: list[str] = field(default_factory=lambda: list(FACTORS), metadata={"choices": FACTORS})
    """Which factors the scheduler reads. Only ``balanced`` reads ``context``."""
    balance_strength: float = 1.0
    """balanced: how much more rare and difficult groups count. With 1, such a group counts as if
    it had an even share 1/G of the users. More favours it further, at some cost to others. With 0
    all users count the same."""
    worst_fraction: float = 0.2
    """cvar: share of the users of each batch, those with the largest query losses after
    adaptation, on which all weight lies. They count the same. 1 weighs all users the same."""
    learning_rate: float = 5e-3
    """Learning rate of φ, the scheduler's own parameters."""
    max_weight_ratio: float | None = 8.0
    """r: no user's weight exceeds r times another's, so that the effective sample size stays above
    4r/(1+r)² of the batch. null leaves weights free, as published."""

    def __post_init__(self) -> None:
        check_choices("scheduler", self)
        at_least("scheduler.balance_strength", self.balance_strength, 0)
        in_range("scheduler.worst_fraction", self.worst_fraction, 0, 1, is_open_below=True)
        at_least("scheduler.learning_rate", self.learning_rate, 0)
        require(
            self.max_weight_ratio is None or self.max_weight_ratio > 1,
            f"scheduler.max_weight_ratio is {self.max_weight_ratio}; it must be above 1, or null",
        )


@dataclass
class TrainConfig:
    """The loop of meta-training."""

    steps: int = 2000
    """Outer steps in all. A finished run goes on when this is raised."""
    from_run: str | None = field(default=None, metadata={"typed_as": "from"})
    """A finished run to go on from, as on a store that has grown. Its parameters are taken,
    embedding rows by feature and value; priors and optimizers start anew."""
    users_per_batch: int = 32
    """B, users of a step's global batch, over all workers."""
    lanes: int | None = None
    """K, lanes: fixed slices of the training users, each of which gives B/K users to every batch.
    A power of two. Any number of workers that divides K gives the same result. null takes one lane
    for every 4,096 training users; where ``cluster.workers`` is set it takes at least 8, and at
    least one for each worker."""
    learning_rate: float = 2e-3
    """β, learning rate of θ: of the outer steps."""
    resample_support: bool = True
    """Whether a training user's rows are split anew into support and query at every visit, so that
    every rating is learnt from. false keeps the split of the store."""
    short_support_rate: float = 0.25
    """Share of visits with a shortened support set, so that adapting to few rows is learnt. Its
    length is drawn log-uniformly from 1 row to all. Needs ``train.resample_support=true``."""
    feature_mask_rate: float = 0.2
    """Share of feature values that are replaced by their feature's unknown value, so that the
    model learns what to do with new users and items. 0 replaces none."""
    ema_decay: float = 0.99
    """d: predictions use the moving average of θ over steps, mean ← d·mean + (1 − d)·θ. 0 predicts
    with θ itself."""
    max_nonfinite_fraction: float = 0.01
    """Largest share of users whose loss or gradient may be infinite or not a number. Such users
    count nothing. The training stops where their share since the last log point is larger."""
    row_update: str = choice("lazy", ("lazy", "dense"))
    """Which embedding rows a step's Adam update moves. ``lazy``: those that its users touch.
    ``dense``: all of them (the authors' form)."""
    seed: int = 0
    """Decides the initial parameters and every random choice of the training."""
    valid_every: int = 100
    """Outer steps between validations."""
    checkpoint_every: int = 100
    """Outer steps between checkpoints. They are written while training goes on."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep, besides the best one."""
    log_every: int = 20
    """Outer steps between points in TensorBoard."""

    def __post_init__(self) -> None:
        check_choices("train", self)
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
