"""Every option of every command: typed, checked once, registered with Hydra.

Each section is a dataclass; a function gets the section it needs. YAML in ``configs/`` only
supplies values. The string below a field is its help text.
"""

import os
from dataclasses import dataclass, field

from greatmeta_dist.config.checks import at_least, require_no_half_url, require_utf8
from greatmeta_dist.config.cluster import ClusterConfig
from greatmeta_dist.config.data import ColumnsConfig, DataConfig
from greatmeta_dist.config.evaluation import EvaluateConfig
from greatmeta_dist.config.model import InnerConfig, ModelConfig
from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.config.serving import ServeConfig
from greatmeta_dist.config.submitting import SubmitConfig
from greatmeta_dist.config.sweep import SweepConfig
from greatmeta_dist.config.training import SchedulerConfig, TrainConfig
from greatmeta_dist.errors import require

__all__ = [
    "ClusterConfig",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "InnerConfig",
    "ModelConfig",
    "PriorsConfig",
    "SchedulerConfig",
    "ServeConfig",
    "SubmitConfig",
    "SweepConfig",
    "TrainConfig",
]


@dataclass
class Config:
    """All sections; each command reads the ones it needs."""

    data: DataConfig = field(default_factory=DataConfig)
    priors: PriorsConfig = field(default_factory=PriorsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    inner: InnerConfig = field(default_factory=InnerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    submit: SubmitConfig = field(default_factory=SubmitConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    store: str | None = None
    """Folder of the prepared data: a path, or a URL such as s3://bucket/folder."""
    run: str | None = None
    """Folder of the training: a path, or a URL."""
    users: str | None = None
    """What is known of the users to recommend for: a log, or a list of users. Its ending tells its
    format; ``data=<preset>`` says another one. ``evaluate``: a log of other users to score, read
    as the run's own was, or as ``data=<preset>`` says."""
    against: str | None = None
    """Folder of another training. ``run`` is tested against it, user by user, on the same users."""
    out: str | None = None
    """Where to write. A name that ends in .parquet is one file; any other is a folder of them. Of
    an export, a folder. A path, or a URL."""
    k: int = 10
    """Items for each user. A user gets fewer where fewer are left."""
    exclude_seen: bool = True
    """Whether items that a user knows are left out."""
    candidates: str | None = None
    """File of the only items that may be recommended: text with an item on each line, or csv, jsonl
    or parquet with a column of items. null: the whole catalogue."""
    new_items: bool = True
    """Whether items that training did not have are learnt from their ratings in ``users`` and
    ``ratings``, and may be recommended."""
    items: str | None = None
    """File of new items: a column of items, and columns called as the run's item features; or text
    with an item on each line. They may be recommended, rated or not, and no other new items. null:
    those that are rated."""
    ratings: str | None = None
    """Log of ratings by anybody, of which those of new items are learnt from. It is read as
    ``users`` is; of users who are in both, only what ``users`` has counts."""

    explain: int = 0
    """Things that moved each score most, so many, in words: the column why. 0: no such column."""

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)
        at_least("explain", self.explain, 0)
        require(
            self.new_items or (self.items is None and self.ratings is None),
            "new_items=false, and items or ratings names a file of them; leave one out",
        )
        for name in ("users", "out", "candidates", "items", "ratings", "against"):
            path = getattr(self, name)
            if path is not None:
                require_utf8(name, path)
                setattr(self, name, os.path.expanduser(path))
        for name in ("store", "run", "out", "against"):
            require_no_half_url(name, getattr(self, name))
