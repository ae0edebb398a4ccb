"""Builds a model from a config, a catalogue and priors.

A model is a worker, and the scorer that turns the worker's predictions into ratings.
"""

from dataclasses import dataclass

import numpy as np
import torch

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import Config, ModelConfig
from greatmeta_dist.data.manifest import ITEM_ID
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.worker import RowStart, Sizes, Worker, make_weighting
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.blend import Blend
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.meta.weightings.base import GroupStatistics
from greatmeta_dist.priors.fit import Priors, rating_priors
from greatmeta_dist.priors.item_factors import ItemFactorsPrior
from greatmeta_dist.priors.user_groups import UserGroupsPrior
from greatmeta_dist.training.device import configure_torch, local_device


@dataclass(frozen=True)
class Model:
    """A worker with what it was built from, and the scorer around it."""

    config: Config
    catalogue: Store
    """The store, or a run's copy of it without tasks."""
    priors: Priors
    scorer: Scorer

    @property
    def worker(self) -> Worker:
        return self.scorer.worker


def build_model(
    config: Config,
    catalogue: Store,
    priors: Priors,
    communicator: Communicator | None = None,
) -> Model:
    """A model with fresh parameters, on this worker's GPU where there is one.

    ``communicator`` joins it to a group of workers. Sets this process's torch up as
    ``config.cluster`` says. Raises ``InputError`` where the model has nothing to tell items by.
    """
    configure_torch(config.cluster)
    model, manifest = config.model, catalogue.manifest
    spec = FeatureSpec(model.has_item_id, model.list_pooling)
    require(
        bool(catalogue.fields("item", spec)),
        f"model.has_item_id=false, and {catalogue.folder} has no item features: nothing tells "
        "items apart; take model.has_item_id=true, or prepare with item features",
    )
    transform = TargetTransform(
        model.target, manifest.ratings, priors["bias"].model, manifest.is_click
    )
    groups: UserGroupsPrior = priors["user_groups"]
    weighting = make_weighting(config.scheduler)
    factor_spec = weighting.factor_spec
    collator = Collator(
        catalogue.item_features(spec),
        has_support_gradient=model.has_encoder and model.context == "support",
        has_row_norms=factor_spec is not None and factor_spec.magnitude.has_row_norms,
        target_transform=transform,
        support_damping=config.inner.support_damping,
        target_weights=weighting.target_weights(_group_statistics(groups)),
    )
    minority_share = config.priors.user_groups.minority_share
    sizes = Sizes(
        len(catalogue.fields("user", spec)),
        len(catalogue.fields("item", spec)),
        manifest.num_rows,
        "bce" if manifest.is_click else "mse",
    )
    start = _row_start(catalogue, spec, priors["item_factors"], model)
    scorer = Scorer(
        Worker(config, sizes, local_device(), communicator, start),
        collator,
        spec,
        UserGrouping(groups, manifest.known_groups, minority_share),
        Blend(rating_priors(priors, use_bayesian_mf=model.use_bayesian_mf), transform),
    )
    return Model(config, catalogue, priors, scorer)


def _group_statistics(prior: UserGroupsPrior) -> GroupStatistics:
    """What a weighting knows of the preference groups."""
    return GroupStatistics(
        size=np.array([g.size for g in prior.groups], np.float64),
        difficulty=np.array([g.difficulty for g in prior.groups]),
        difficulty_error=np.array([g.difficulty_error for g in prior.groups]),
    )


def _row_start(
    catalogue: Store, spec: FeatureSpec, prior: ItemFactorsPrior, options: ModelConfig
) -> RowStart | None:
    """Where items' own embedding rows start: at their factors, or at random (None)."""
    if options.item_init != "factors" or not options.has_item_id:
        return None
    names = [f.name for f in catalogue.fields("item", spec)]
    item_rows = catalogue.item_features(spec).fields[names.index(ITEM_ID)]
    rows = item_rows.values[item_rows.offsets[prior.item]]
    order = np.argsort(rows)
    return RowStart(torch.from_numpy(rows[order]).long(), torch.from_numpy(prior.factors[order]))
