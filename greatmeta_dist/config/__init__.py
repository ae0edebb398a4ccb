"""Every option of every command: typed, checked once, registered with Hydra.

Each section is a dataclass; a function gets the section it needs. YAML in ``configs/`` only
supplies values. The string below a field is its help text.
"""

from dataclasses import dataclass, field

from greatmeta_dist.config.cluster import ClusterConfig
from greatmeta_dist.config.data import ColumnsConfig, DataConfig
from greatmeta_dist.config.model import InnerConfig, ModelConfig
from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.config.serving import ServeConfig
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
    "ServeConfig",
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
    serve: ServeConfig = field(default_factory=ServeConfig)
    store: str | None = None
    """Folder of the prepared data."""
    run: str | None = None
    """Folder of the training."""
