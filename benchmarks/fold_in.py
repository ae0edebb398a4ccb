"""Strong models without meta-learning, which fold new users in from their support ratings.

Both work on what the ``bias`` label leaves of a rating (mean, item and user offsets, shrunk as the
store says), as this project's model does, and choose their strength on the validation users.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import TaskTable

MAX_ITEMS = 20_000
"""Both hold items × items."""
CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


@dataclass(frozen=True)
class Residuals:
    """Users' ratings less what is expected of them: [users, items], 0 where unrated."""

    value: NDArray[np.float64]
    is_rated: NDArray[np.bool_]

    @classmethod
    def of(cls, tasks: TaskTable, labels: TargetTransform, *, is_training: bool) -> "Residuals":
        """Of the support sets; of training users, of all rows."""
        num_users, num_items = len(tasks), len(labels.item_count)
        value, is_rated = np.zeros((num_users, num_items)), np.zeros((num_users, num_items), bool)
        expected = labels.expected(tasks, is_training=is_training)
        sets = [(tasks.support_item, tasks.support_label, expected[0])]
        if is_training:
            sets.append((tasks.query_item, tasks.query_label, expected[1]))
        for item, rating, mean in sets:
            at = np.repeat(np.arange(num_users), item.lengths), item.values
            value[at], is_rated[at] = rating.values - mean, True
        return cls(value, is_rated)


class _FoldIn:
    """A matrix [items, items] that carries residuals from rated items to others."""

    strengths: tuple[float, ...]

    def __init__(self, store: Store):
        self.labels = TargetTransform.of(store, "bias")
        self.fit(Residuals.of(store.part("train", CHOICE).tasks, self.labels, is_training=True))
        valid = store.part("valid", CHOICE).tasks
        errors = {s: self._error(valid, s) for s in self.strengths}
        self.strength = min(errors, key=lambda s: errors[s])

    def fit(self, train: Residuals) -> None:
        raise NotImplementedError

    def fold_in(self, known: Residuals, strength: float) -> NDArray[np.float64]:
        """Residuals of every item [users, items]."""
        raise NotImplementedError

    def predict(self, tasks: TaskTable, strength: float | None = None) -> NDArray[np.float64]:
        """Predicted rating of every query row, users' rows end to end."""
        known = Residuals.of(tasks, self.labels, is_training=False)
        found = self.fold_in(known, self.strength if strength is None else strength)
        user = np.repeat(np.arange(len(tasks)), tasks.query_item.lengths)
        _, expected = self.labels.expected(tasks, is_training=False)
        ratings = self.labels.ratings
        return np.clip(
            expected + found[user, tasks.query_item.values], ratings.lowest, ratings.highest
        )

    def _error(self, tasks: TaskTable, strength: float) -> float:
        rest = self.predict(tasks, strength) - tasks.query_label.values
        return float((rest**2).mean())


class Ease(_FoldIn):
    """Ridge regression of every item on all others (Steck, *EASE*, WWW 2019)."""

    strengths = (30.0, 100.0, 300.0, 1000.0, 3000.0)

    def fit(self, train: Residuals) -> None:
        self.gram = train.value.T @ train.value
        self._made: dict[float, NDArray[np.float64]] = {}

    def fold_in(self, known: Residuals, strength: float) -> NDArray[np.float64]:
        if strength not in self._made:
            inverse = np.linalg.inv(self.gram + strength * np.eye(len(self.gram)))
            weight = -inverse / np.diag(inverse)
            np.fill_diagonal(weight, 0)
            self._made[strength] = weight
        return known.value @ self._made[strength]


class ItemNeighbours(_FoldIn):
    """Similarity-weighted means over rated items: shrunk correlations of residuals."""

    strengths = (0.3, 1.0, 3.0, 10.0, 30.0)
    shrink = 20.0
    """Raters' worth of prior of a correlation."""

    def fit(self, train: Residuals) -> None:
        rated = train.is_rated.astype(np.float64)
        squares = train.value**2
        both = rated.T @ rated
        scale = np.sqrt((squares.T @ rated) * (rated.T @ squares))
        cosine = np.divide(train.value.T @ train.value, scale, np.zeros_like(both), where=scale > 0)
        self.similarity = cosine * both / (both + self.shrink)
        np.fill_diagonal(self.similarity, 0)

    def fold_in(self, known: Residuals, strength: float) -> NDArray[np.float64]:
        """The strength is the weight of a prior of 0, in tenths of a neighbour."""
        total = np.abs(self.similarity).T @ known.is_rated.T.astype(np.float64)
        found: NDArray[np.float64] = (known.value @ self.similarity) / (total.T + strength / 10)
        return found


FOLD_INS = {"EASE": Ease, "item neighbours": ItemNeighbours}
