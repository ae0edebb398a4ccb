"""Every option of every command: typed, checked once, registered with Hydra.

Each section is a dataclass; a function gets the section it needs. YAML in ``configs/`` only
supplies values. ``InputError`` is how anything here or below says that the user's input must
change.
"""

from dataclasses import dataclass, field
from typing import Any


class InputError(ValueError):
    """Bad usage or input: what was found, what was expected, what to do. Exit code 2."""


def require(condition: bool, message: str) -> None:
    """Raise ``InputError(message)`` unless the condition holds."""
    if not condition:
        raise InputError(message)


SOURCES = (
    "synthetic",
    "recbole",
    "movielens_100k",
    "movielens_1m",
    "movielens_csv",
    "bookcrossing",
    "csv",
    "parquet",
)


@dataclass
class ColumnsConfig:
    """Column names of a csv or parquet log."""

    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    """None where the log says only who met what; needs ``data.label=click``."""
    timestamp: str | None = None
    """None where the log has no times."""


@dataclass
class DataConfig:
    """Where interactions come from and how they become tasks (``prepare``)."""

    source: str = "synthetic"
    """One of the presets of the ``data`` group."""
    path: str | None = None
    """Folder (or, for csv and parquet, the interactions file) to read; local or a URL."""
    split: str | None = None
    """TSV ``part user_id role item_id`` that says which interaction goes where; else by hash."""
    seed: int = 0
    """Decides every random choice of the preparation."""

    valid_fraction: float = 0.1
    """Share of users held out for validation."""
    test_fraction: float = 0.2
    """Share of users held out for the user-cold scenario."""
    warm_fraction: float = 0.1
    """Share of training users who also keep some interactions back for the warm scenario."""
    cold_item_fraction: float = 0.0
    """Share of items held out; gives the item-cold and both-cold scenarios."""
    min_interactions: int = 13
    """Users with fewer interactions are left out."""
    max_interactions: int | None = None
    """Users with more are left out."""
    query_items: int | None = 10
    """Query rows of each user; the rest is support."""
    query_fraction: float | None = None
    """Query share of each user's interactions, in place of ``query_items``."""
    query_by: str = "random"
    """Which of a user's interactions are the query: ``random``, or the latest by ``time``."""
    max_support_items: int | None = None
    """Keep at most this many support rows (random, or the latest by time)."""

    label: str = "rating"
    """What is predicted: the ``rating``, or the chance of a ``click``."""
    click_at: float | None = 4.0
    """click: ratings from this on are clicks, lower ones are not. None: every interaction is a
    click, and others are drawn."""
    negatives: int = 4
    """click, where every interaction is one: for each, this many items that the user has not met
    are drawn as not clicked."""

    rating_range: list[float] | None = None
    """Lowest and highest valid rating; others are rejected. None takes what the log holds."""
    unrated_value: float | None = None
    """A rating that means none was given; such rows are left out and counted."""
    max_rejected_fraction: float = 0.01
    """Past this share of rejected rows the preparation stops."""
    min_value_count: int = 10
    """A feature value of fewer training users, or of fewer items that these rated, counts as
    unknown to the model: it says hardly more than a name, and would be learnt by heart."""
    category: str | None = None
    """Item feature whose shares make a user's preference profile; None takes the first list
    feature with at most 64 values."""
    num_groups: int = 8
    """Preference groups to cluster users into."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """csv, parquet: what the log's columns are called: ``{user: uid, item: iid, …}``."""
    separator: str = ","
    """csv: field separator."""
    encoding: str = "utf-8"
    """csv: ``utf-8`` or ``latin-1``."""
    users_path: str | None = None
    """csv, parquet: a file of user features."""
    items_path: str | None = None
    """csv, parquet: a file of item features."""
    user_features: dict[str, str] = field(default_factory=dict)
    """csv, parquet: kind of each user feature column: ``token``, ``token_list`` or ``float``."""
    item_features: dict[str, str] = field(default_factory=dict)
    """csv, parquet: kind of each item feature column."""
    list_separator: str = "|"
    """csv: separator inside a ``token_list``."""

    users: int = 2000
    """synthetic: number of users."""
    items: int = 1000
    """synthetic: number of items."""
    mean_interactions: float = 40.0
    """synthetic: mean interactions of a user; activity is long-tailed."""

    def __post_init__(self) -> None:
        held_out = self.valid_fraction + self.test_fraction
        require(
            self.valid_fraction >= 0 and self.test_fraction >= 0 and held_out < 1,
            f"data.valid_fraction + data.test_fraction is {held_out:g}; it must be below 1",
        )
        require(self.source in SOURCES, f"data.source is '{self.source}'; choose data=<preset>")
        for name in ("valid_fraction", "test_fraction", "warm_fraction", "cold_item_fraction"):
            _in_range(f"data.{name}", getattr(self, name), 0, 1, is_open_above=True)
        _in_range("data.max_rejected_fraction", self.max_rejected_fraction, 0, 1)
        _one_of("data.label", self.label, ("rating", "click"))
        require(
            self.columns.rating is not None or self.label == "click",
            "data.columns.rating is null, and data.label is rating; name the column, or set "
            "data.label=click",
        )
        for name in (
            "min_interactions",
            "min_value_count",
            "num_groups",
            "users",
            "items",
            "negatives",
        ):
            _at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("max_interactions", "query_items", "max_support_items"):
            if getattr(self, name) is not None:
                _at_least(f"data.{name}", getattr(self, name), 1)
        if self.query_fraction is not None:
            _in_range("data.query_fraction", self.query_fraction, 0, 1, is_open=True)
        _at_least("data.mean_interactions", self.mean_interactions, 1)
        _at_least("data.seed", self.seed, 0)
        require(
            (self.query_items is None) != (self.query_fraction is None),
            "data.query_items and data.query_fraction are both "
            f"{'unset' if self.query_items is None else 'set'}; set one and make the other null",
        )
        require(
            self.query_by in ("random", "time"),
            f"data.query_by is '{self.query_by}'; expected random or time",
        )
        require(
            self.encoding in ("utf-8", "latin-1"),
            f"data.encoding is '{self.encoding}'; expected utf-8 or latin-1",
        )
        require(
            self.rating_range is None
            or (len(self.rating_range) == 2 and self.rating_range[0] < self.rating_range[1]),
            f"data.rating_range is {self.rating_range}; expected [lowest,highest]",
        )
        require(
            len(self.separator) == 1 and self.separator not in '"\r\n',
            f"data.separator is {self.separator!r}; expected one character, or \\t for a tab",
        )
        require(
            self.source != "synthetic" or self.path is None,
            f"data.path={self.path} is set, and data=synthetic reads no files; take the preset of "
            "that log, such as data=csv",
        )
        is_mapped = self.source in ("csv", "parquet")
        for name in ("users_path", "items_path", "user_features", "item_features"):
            require(
                is_mapped or not getattr(self, name),
                f"data.{name} is set, and data={self.source} does not read it; data=csv and "
                "data=parquet do",
            )
        require(bool(self.list_separator), "data.list_separator is empty; expected a character")
        require(
            self.max_interactions is None or self.max_interactions >= self.min_interactions,
            f"data.max_interactions={self.max_interactions} is below "
            f"data.min_interactions={self.min_interactions}; no user has so many",
        )

    @property
    def is_click(self) -> bool:
        return self.label == "click"

    @property
    def is_implicit(self) -> bool:
        """Whether the log says what was met, and nothing of what was not."""
        return self.is_click and (self.click_at is None or self.columns.rating is None)


@dataclass
class ModelConfig:
    """The recommender."""

    embedding_dim: int = 64
    """Width of every embedding row."""
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """Widths of the predictor's hidden layers."""
    activation: str = "tanh"
    """After every hidden layer: ``none`` (the authors' form), ``relu``, ``gelu`` or ``tanh``."""
    has_encoder: bool = True
    """Whether the personalized encoder modulates the hidden layers."""
    context: str = "support"
    """What the encoder reads: ``own`` (the set's own rows, the authors' form) or the rated
    ``support`` set, for both sets."""
    is_film_residual: bool = True
    """Whether the encoder's scales are 1 + γ."""
    has_item_id: bool = True
    """Whether an item has an embedding of its own besides its features."""
    is_list_mean: bool = True
    """Whether token lists are averaged; the authors sum them."""
    label: str = "bias"
    """What the model predicts: the ``rating`` (the authors' form), ``standardised`` over the
    training ratings, or, in those units, the rest that a ``bias`` leaves: item mean and the user's
    offset from the support, shrunk as the store's ratings suggest."""
    has_kernel: bool = True
    """Whether predictions add a learnt kernel between an item and the rated support; needs the
    ``support`` context."""
    embedding_std: float = 0.1
    """Standard deviation of fresh embedding rows; best about 0.8 over the root of their width."""
    is_spectral: bool = True
    """Whether items' own rows start, besides, at the store's factors of the training ratings, as
    long as a fresh row is expected to be."""
    has_factorisation: bool = True
    """Whether the store's Bayesian factorisations of the training ratings have a part in what is
    predicted of items that they hold: a half in training, where no gradient knows of them, and the
    best step is chosen so; afterwards the share that suits the validation users."""

    def __post_init__(self) -> None:
        _one_of("model.activation", self.activation, ("none", "relu", "gelu", "tanh"))
        _one_of("model.context", self.context, ("own", "support"))
        _one_of("model.label", self.label, ("rating", "standardised", "bias"))
        require(
            not self.has_kernel or (self.has_encoder and self.context == "support"),
            "model.has_kernel=true needs model.has_encoder=true and model.context=support",
        )
        require(bool(self.hidden), "model.hidden is empty; expected at least one width")
        _at_least("model.hidden", min(self.hidden), 1)
        _at_least("model.embedding_dim", self.embedding_dim, 1)
        _at_least("model.embedding_std", self.embedding_std, 0)


@dataclass
class InnerConfig:
    """Adaptation to one user."""

    steps: int = 3
    """T, inner steps."""
    rate: float = 0.02
    """α, inner learning rate."""
    prior_rows: float = 80.0
    """Sums over a support set are divided by its rows and this many more, so that few rows move a
    user less."""

    def __post_init__(self) -> None:
        _at_least("inner.steps", self.steps, 0)
        _at_least("inner.rate", self.rate, 0)
        _at_least("inner.prior_rows", self.prior_rows, 0)


FACTORS = ("magnitude", "gap", "agreement", "context")


@dataclass
class SchedulerConfig:
    """The preference-aware scheduler."""

    kind: str = "balanced"
    """``balanced``: learns from a user's factors, running means over its visits, and the support's
    context to weigh users as if those of rare and difficult preference groups were met more often.
    ``mlp``, ``lstm``: the published forms, which learn by a look ahead. Without learning:
    ``groups`` (all groups count the same), ``loss`` (every user as its query loss), ``uniform``
    (all the same). Groups are clusters of the log, never labels."""
    magnitude: str = "loss"
    """mlp, lstm: the magnitude factor is the query ``loss`` after adaptation, or the sum of
    gradient norms, ``norm``. ``balanced`` reads the losses before and after."""
    factors: list[str] = field(default_factory=lambda: list(FACTORS))
    """Which factors the scheduler sees; ``context`` is for ``balanced``."""
    evenness: float = 1.0
    """balanced: with 1, a rare and difficult group counts as much as one of an even share, 1/G;
    more does more for such groups, at some cost to others; 0 leaves users as they come."""
    rate: float = 5e-3
    """Learning rate of φ."""
    max_weight_ratio: float | None = 8.0
    """No weight exceeds this many times another, so the effective sample size stays above
    4r/(1+r)² of the batch; None leaves weights free, as published."""

    def __post_init__(self) -> None:
        kinds = ("balanced", "mlp", "lstm", "groups", "loss", "uniform")
        _one_of("scheduler.kind", self.kind, kinds)
        for factor in self.factors:
            _one_of("scheduler.factors", factor, FACTORS)
        _at_least("scheduler.evenness", self.evenness, 0)
        _one_of("scheduler.magnitude", self.magnitude, ("loss", "norm"))
        _at_least("scheduler.rate", self.rate, 0)
        require(
            self.max_weight_ratio is None or self.max_weight_ratio > 1,
            f"scheduler.max_weight_ratio is {self.max_weight_ratio}; it must be above 1, or null",
        )


@dataclass
class TrainConfig:
    """Meta-training."""

    steps: int = 2000
    """Outer steps in all; a finished run goes on when this grows."""
    users_per_step: int = 32
    """B, users of a global batch."""
    lanes: int | None = None
    """K, slices of the users that make every batch: a power of two. Any number of workers that
    divides K gives the same result. None decides from the store, one for every 4,096 training
    users; with ``cluster.workers`` at least 8, or, if more, the workers."""
    rate: float = 2e-3
    """β, learning rate of θ."""
    is_resplit: bool = True
    """Whether each visit deals a training user's rows anew to support and query, so that every
    rating is learnt from; False keeps the store's own split."""
    short_share: float = 0.25
    """Share of visits, where support and query are dealt anew, with a shorter support: of 1 row to
    all, log-uniformly."""
    hidden_share: float = 0.2
    """Share of feature values replaced by their field's unknown row, so that cold users and items
    meet one that has learnt; 0 for none."""
    averaging: float = 0.99
    """d of the running mean of θ over steps, mean ← d·mean + (1 − d)·θ, that predictions use; 0
    predicts with θ itself."""
    max_poisoned_fraction: float = 0.01
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
        _one_of("train.row_update", self.row_update, ("lazy", "dense"))
        for name in (
            "steps",
            "users_per_step",
            "valid_every",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
        ):
            _at_least(f"train.{name}", getattr(self, name), 1)
        _in_range("train.short_share", self.short_share, 0, 1)
        _in_range("train.hidden_share", self.hidden_share, 0, 1, is_open_above=True)
        _in_range("train.averaging", self.averaging, 0, 0.9999)
        _in_range("train.max_poisoned_fraction", self.max_poisoned_fraction, 0, 1)
        _in_range("train.rate", self.rate, 0, 1, is_open=True)
        _in_range("train.seed", self.seed, 0, 2**63, is_open_above=True)
        require(
            self.lanes is None or (self.lanes >= 1 and self.lanes & (self.lanes - 1) == 0),
            f"train.lanes is {self.lanes}; it must be a power of two, or null",
        )


@dataclass
class ClusterConfig:
    """Who computes."""

    kind: str = "local"
    """``local``: processes on this machine, without Ray. ``ray``: workers of a Ray cluster."""
    workers: Any = None
    """Number of workers, or with Ray ``[fewest,most]``, between which it follows what the cluster
    has; a power of two. None: this process alone, or one Ray worker."""
    address: str | None = None
    """ray: address of a running cluster to join (``auto``: the one on this machine); None starts
    one here."""
    gpus_per_worker: float | None = None
    """ray: GPUs of a worker; None is 1 where the cluster has any."""
    reduction: str = "tree"
    """How gradients of A are added over workers: along a ``tree``, the same bits with any number of
    workers, or ``fast``, as the library likes."""
    threads: int | None = None
    """torch threads of a worker; None leaves torch's choice, and is 1 with ``cluster.workers``."""
    precision: str = "float32"
    """Matrix products in ``float32``, in ``tf32`` (a GPU's), or, inside the model, in ``bf16``."""

    def __post_init__(self) -> None:
        _one_of("cluster.kind", self.kind, ("local", "ray"))
        _one_of("cluster.precision", self.precision, ("float32", "tf32", "bf16"))
        _one_of("cluster.reduction", self.reduction, ("tree", "fast"))
        if self.threads is not None:
            _at_least("cluster.threads", self.threads, 1)
        if self.gpus_per_worker is not None:
            require(
                self.gpus_per_worker == 0 or self.gpus_per_worker >= 1,
                f"cluster.gpus_per_worker is {self.gpus_per_worker:g}; workers cannot share a GPU: "
                "take 1 or more, or 0 for CPUs",
            )
        given = list(self.workers) if isinstance(self.workers, (list, tuple)) else [self.workers]
        require(
            self.workers is None
            or (
                len(given) in (1, 2)
                and all(isinstance(n, int) and n >= 1 and n & (n - 1) == 0 for n in given)
                and given == sorted(given)
            ),
            f"cluster.workers is {self.workers}; expected a power of two, or [fewest,most] of them",
        )
        require(
            len(given) == 1 or self.kind == "ray",
            f"cluster.workers is {self.workers}, a range, which needs cluster=ray",
        )

    @property
    def most_workers(self) -> int:
        """The largest group there may be."""
        if self.workers is None:
            return 1
        return int(self.workers if isinstance(self.workers, int) else self.workers[-1])


@dataclass
class Config:
    """All sections; each command reads the ones it needs."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    inner: InnerConfig = field(default_factory=InnerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    store: str | None = None
    """Folder of the prepared data."""
    run: str | None = None
    """Folder of the training."""


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{name} is '{value}'; expected one of {', '.join(allowed)}")


def _at_least(name: str, value: float, lowest: float) -> None:
    require(value >= lowest, f"{name} is {value:g}; it must be {lowest:g} or more")


def _in_range(
    name: str,
    value: float,
    lowest: float,
    highest: float,
    *,
    is_open: bool = False,
    is_open_above: bool = False,
) -> None:
    """``is_open`` leaves both ends out, ``is_open_above`` the upper one."""
    above = value > lowest if is_open else value >= lowest
    below = value < highest if is_open or is_open_above else value <= highest
    ends = (" above" if is_open else "", " below" if is_open or is_open_above else "")
    require(
        above and below,
        f"{name} is {value:g}; it must be from{ends[0]} {lowest:g} to{ends[1]} {highest:g}",
    )
