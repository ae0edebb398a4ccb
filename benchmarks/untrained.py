"""A model with fresh parameters, its priors fitted or taken from beside the store."""

import tempfile
from pathlib import Path

from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.config import Config
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Silent
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.priors.fit import read_priors
from greatmeta_dist.training.build import Model, build_model
from greatmeta_dist.training.prior_cache import write_cached_priors


def untrained_model(
    config: Config, store: Store, communicator: Communicator | None = None
) -> Model:
    """As a training starts with; ``communicator`` joins it to a group of workers."""
    with tempfile.TemporaryDirectory() as folder:
        write_cached_priors(Path(folder), store, config.priors, Silent())
        priors = read_priors(Path(folder))
    return build_model(config, store, priors, communicator)


def training_lanes(
    config: Config, store: Store, model: Model, communicator: Communicator | None = None
) -> Lanes:
    """A training's lanes; the model's worker is made ready to take their steps."""
    communicator = communicator or Communicator()
    scorer = model.scorer
    lanes = Lanes(
        store,
        scorer.collator,
        scorer.feature_spec,
        scorer.grouping,
        config.train,
        rank=communicator.rank,
        world_size=communicator.size,
        padding=model.worker.padding,
    )
    model.worker.keep_averages(lanes.user_range, lanes.num_users)
    return lanes
