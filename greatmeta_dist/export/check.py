"""Whether an exported model predicts what the run does: it is loaded from its files and asked."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from greatmeta_dist.data.known_ratings import KnownRatings
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.export.exported_model import ExportedModel
from greatmeta_dist.ragged import offsets_of
from greatmeta_dist.recommend.new_users import NewUsers

NUM_KNOWN = (0, 1, 2, 3, 17, 256)
"""Known ratings of the users that are asked about. A traced program may hold for the number it was
traced with alone, and for 0 and 1 most of all."""
NUM_ASKED = (1, 2, 100)
"""Items that are asked about."""
TOLERANCE = 1e-4
"""Largest difference, as a share of the range of ratings. Both sides compute in float32, in
different orders."""


@dataclass(frozen=True)
class Agreement:
    """How far an exported model's scores are from the run's."""

    largest_difference: float
    """In ratings, or chances; nan where a score is not finite, and the run's is."""
    allowed: float
    num_scores: int

    @property
    def is_good(self) -> bool:
        return self.largest_difference <= self.allowed


def compare(exported: ExportedModel, scorer: Scorer, catalogue: Store) -> Agreement:
    """Score made-up users both ways; ``scorer`` knows the unknown item."""
    new_users, ratings = NewUsers(catalogue, scorer.feature_spec), catalogue.manifest.ratings
    differences: list[float] = []
    num_scores = 0
    for known, features, asked in _cases(new_users):
        tasks = new_users.tasks(known, [features])
        expected = scorer.predict(tasks.asking(asked[None]))["adapted"]
        support, label = tasks.support_item.values, tasks.support_label.values
        scores = exported.scores(
            support.tolist(), label.tolist(), asked.tolist(), exported.user_vector(features)
        )
        differences.append(_difference(scores.numpy(), expected))
        num_scores += len(asked)
    largest = max(differences) if np.isfinite(differences).all() else math.nan
    return Agreement(largest, TOLERANCE * (ratings.highest - ratings.lowest), num_scores)


def _difference(scores: np.ndarray, expected: np.ndarray) -> float:
    """The largest one; nothing is compared where the run itself diverges on a made-up user."""
    return float(np.abs(np.where(np.isfinite(expected), scores - expected, 0.0)).max())


def _cases(new_users: NewUsers) -> Iterator[tuple[KnownRatings, dict[str, Any], np.ndarray]]:
    """Known ratings, features and items asked about; the unknown item is among both."""
    rng, catalogue = np.random.default_rng(0), new_users.catalogue
    fields = catalogue.fields("user", new_users.feature_spec)
    ratings, items = catalogue.manifest.ratings, [*new_users.items, ""]
    for num_known in NUM_KNOWN:
        for num_asked in NUM_ASKED:
            # An item may come twice, for a catalogue may have fewer items.
            known = rng.integers(len(items), size=num_known)
            rating = rng.uniform(ratings.lowest, ratings.highest, num_known)
            yield (
                KnownRatings(
                    [None],
                    [items[index] for index in known],
                    rating,
                    offsets_of(np.array([num_known])),
                    is_rated=True,
                    has_text_ids=True,
                ),
                {field.name: _value(field, catalogue, rng) for field in fields},
                np.append(rng.integers(len(items), size=num_asked - 1), len(items) - 1),
            )


def _value(field: Field, catalogue: Store, rng: np.random.Generator) -> Any:
    """A value of a user's feature, or none; a list of them where the feature is a list."""
    values = catalogue.vocabulary(field)[0].to_pylist()
    if not values or rng.random() < 0.25:
        return None
    if field.edges is not None:
        return float(rng.choice(field.edges)) if field.edges else 0.0
    chosen = rng.choice(values, size=2).tolist()
    return chosen if field.is_list else chosen[0]
