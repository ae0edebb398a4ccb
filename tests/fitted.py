"""Priors fitted to small stores, and what is made of them."""

from typing import Any

from stores import CHOICE

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.data.store import Store
from greatmeta_dist.extensions import PRIORS
from greatmeta_dist.priors.base import Progress, TrainingRows
from greatmeta_dist.priors.fit import Priors, fit_priors

OPTIONS = PriorsConfig()


def untold(stage: str, share: float) -> None:
    """A ``Progress`` that tells nobody."""


def fit_named(
    rows: TrainingRows,
    *names: str,
    options: PriorsConfig = OPTIONS,
    progress: Progress = untold,
) -> dict[str, Any]:
    """Fit only these priors, in this order."""
    priors: dict[str, Any] = {}
    for name in names:
        priors[name] = PRIORS.get(name).fit(rows, options, fitted=priors, progress=progress)
    return priors


def fit_all(store: Store, options: PriorsConfig = OPTIONS) -> Priors:
    return fit_priors(store.training_rows(), options, untold)


def transform_of(store: Store, priors: Priors, kind: str = "bias") -> TargetTransform:
    manifest = store.manifest
    return TargetTransform(kind, manifest.ratings, priors["bias"].model, manifest.is_click)


def collator_of(store: Store, transform: TargetTransform) -> Collator:
    return Collator(store.item_features(CHOICE), True, True, transform, support_damping=0.0)


def grouping_of(store: Store, priors: Priors) -> UserGrouping:
    share = OPTIONS.user_groups.minority_share
    return UserGrouping(priors["user_groups"], store.manifest.known_groups, share)
