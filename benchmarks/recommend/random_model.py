"""A model of the shipped form with random numbers, over a catalogue of any size.

What a recommendation costs depends on sizes alone. Items have an embedding row of their own and two
features; half of the items are known to the factorisation.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import Config
from greatmeta_dist.data.manifest import Field, Ratings
from greatmeta_dist.data.store import FeatureSpec
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.engine.worker import StoreFacts, Worker
from greatmeta_dist.evaluation.blend import Blend
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior
from greatmeta_dist.priors.bayesian_mf_model import BayesianMF
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.priors.mixture import Mixture
from greatmeta_dist.priors.user_groups import UserGroupsPrior
from greatmeta_dist.ragged import Ragged, offsets_of
from greatmeta_dist.recommend.catalogue_scorer import CatalogueScorer
from greatmeta_dist.recommend.new_users import NewUsers, with_unknown_item
from greatmeta_dist.recommend.ranker import Ranker
from greatmeta_dist.training.device import local_device

NUM_VALUES = 40
"""Of each feature."""
USER_FEATURE = "age"
NUM_STARTS, NUM_FACTORS = 2, 20
"""Of the factorisation."""
LOW, HIGH, MEAN = 1.0, 5.0, 3.5


def random_scorer(num_items: int, seed: int = 0) -> Scorer:
    """A model of so many items."""
    rng, config = np.random.default_rng(seed), Config()
    torch.manual_seed(seed)
    # One field of users, then the items' own rows and two features; unknown rows stand last.
    sizes = (NUM_VALUES, num_items, NUM_VALUES, NUM_VALUES)
    starts = np.cumsum((0, *sizes))
    num_rows = int(starts[-1]) + len(sizes)
    unknown = [int(starts[-1]) + k for k in range(len(sizes))]
    ids = starts[1] + np.arange(num_items)
    values = [starts[k] + rng.integers(NUM_VALUES, size=num_items) for k in (2, 3)]
    each = np.arange(num_items + 1)
    items = Features(
        tuple(Ragged(row.astype(np.int32), each) for row in (ids, *values)),
        (False,) * 3,
        tuple(unknown[1:]),
    )
    bias = BiasModel(
        rng.geometric(0.02, num_items),
        np.zeros(num_items),
        MEAN + 0.4 * rng.standard_normal(num_items),
        item_damping=5.0,
        user_damping=5.0,
    )
    # Sums such that items' means are about their content means.
    bias.item_sum[:] = bias.item_count * (bias.content_mean + 0.2 * rng.standard_normal(num_items))
    transform = TargetTransform("bias", Ratings(LOW, HIGH, MEAN, 1.1, 10**6), bias)
    prior = BayesianMFPrior([_random_start(num_items, rng) for _ in range(NUM_STARTS)])
    worker = Worker(config, StoreFacts(1, 3, num_rows), local_device())
    no_groups = UserGrouping(UserGroupsPrior([], [], None), {}, 0.0)
    return Scorer(
        worker,
        Collator(items, True, False, transform, config.inner.support_damping),
        FeatureSpec(True, "mean"),
        no_groups,
        Blend([prior], transform),
    )


class RandomCatalogue:
    """What a ranker reads of a store, of the same model: items 0, 1, 2, … and one user feature."""

    def __init__(self, scorer: Scorer):
        transform = scorer.collator.target_transform
        self._num_items = len(transform.bias.item_count)
        self.manifest = SimpleNamespace(
            is_click=False, is_implicit=False, ratings=transform.ratings
        )

    def item_tokens(self) -> list[str]:
        return [str(item) for item in range(self._num_items)]

    def fields(self, side: str, feature_spec: FeatureSpec) -> list[Field]:
        return [Field(USER_FEATURE, "user", False, NUM_VALUES + 1, NUM_VALUES)]

    def vocabulary(self, field: Field) -> tuple[pa.ChunkedArray, np.ndarray]:
        rows = np.arange(NUM_VALUES, dtype=np.int32)
        return pa.chunked_array([pa.array([str(row) for row in rows])]), rows


def random_ranker(scorer: Scorer) -> Ranker:
    """The model as it is asked about users in raw ids."""
    catalogue: Any = RandomCatalogue(scorer)
    new_users = NewUsers(catalogue, scorer.feature_spec)
    new_users.prepare()
    scorer = with_unknown_item(scorer)
    return Ranker(scorer, CatalogueScorer.of(scorer, len(new_users.items)), new_users)


def raw(users: TaskTable, user: int) -> tuple[list[tuple[int, float]], dict[str, str]]:
    """A user as a caller has it: pairs of items and ratings, and features."""
    rows = slice(*users.support_item.offsets[user : user + 2])
    items, ratings = users.support_item.values[rows], users.support_label.values[rows]
    value = users.features.fields[0].values[user]
    return list(zip(items.tolist(), ratings.tolist(), strict=True)), {USER_FEATURE: str(value)}


def _random_start(num_items: int, rng: np.random.Generator) -> BayesianMF:
    """A factorisation that knows every second item."""
    known = np.arange(0, num_items, 2)
    width = 1 + NUM_FACTORS
    mean = np.concatenate(
        [
            0.2 * rng.standard_normal((len(known), 1)),
            1 + 0.1 * rng.standard_normal((len(known), 1)),
            0.3 * rng.standard_normal((len(known), NUM_FACTORS)),
        ],
        1,
    )
    return BayesianMF(
        known,
        mean=mean,
        variance=np.full((len(known), width), 0.02),
        with_offset=mean[:, :1] * mean[:, 1:],
        noise=0.8,
        users=Mixture.single(np.full(width, 0.25)),
        item_variance=np.full(width + 1, 0.1),
    )


def random_users(scorer: Scorer, num_users: int, *, seed: int = 1) -> TaskTable:
    """Users with 5 to 50 ratings of distinct items each, who are asked nothing."""
    rng = np.random.default_rng(seed)
    num_items = len(scorer.collator.target_transform.bias.item_count)
    sizes = rng.integers(5, 51, num_users)
    items = [rng.choice(num_items, size, replace=False) for size in sizes]
    offsets, none = offsets_of(sizes), np.zeros(num_users + 1, np.int64)
    value = rng.integers(NUM_VALUES, size=num_users).astype(np.int32)
    rating = rng.integers(1, 6, offsets[-1]).astype(np.float32)
    return TaskTable(
        Features((Ragged(value, np.arange(num_users + 1)),), (False,), (NUM_VALUES,)),
        Ragged(np.concatenate(items).astype(np.int32), offsets),
        Ragged(rating, offsets),
        Ragged(np.empty(0, np.int32), none),
        Ragged(np.empty(0, np.float32), none),
    )
