"""Every option of every command: typed, checked once, registered with Hydra.

Each section is a dataclass; a function gets the section it needs. YAML in ``configs/`` only
supplies values. The string below a field is its help text.
"""

import os
from dataclasses import dataclass, field

from greatmeta_dist.config.checks import require_utf8
from greatmeta_dist.config.cluster import ClusterConfig
from greatmeta_dist.config.data import ColumnsConfig, DataConfig
from greatmeta_dist.config.model import InnerConfig, ModelConfig
from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.config.training import SchedulerConfig, TrainConfig

__all__ = [
    "ClusterConfig",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "InnerConfig",
    "ModelConfig",
    "PriorsConfig",
    "SchedulerConfig",
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
    store: str | None = None
    """Folder of the prepared data."""
    run: str | None = None
    """Folder of the training."""
    out: str | None = None
    """Where to write. Of an export, a folder."""

    def __post_init__(self) -> None:
        for name in ("out",):
            path = getattr(self, name)
            if path is not None:
                require_utf8(name, path)
                setattr(self, name, os.path.expanduser(path))
