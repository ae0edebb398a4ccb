"""Strong models without meta-learning, which fold new users in from their support ratings.

Both are fitted to what the bias model leaves of a rating, as this project's model is, and choose
their strength on the validation users.

Shapes: U users, I items, n rows of a set, all users' rows end to end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import TaskTable

Floats = NDArray[np.float64]

MAX_ITEMS = 20_000
"""Both hold a matrix of items × items."""
SPEC = FeatureSpec(has_item_id=True, list_pooling="mean")


@dataclass(frozen=True)
class Residuals:
    """Users' ratings less their prior means."""

    value: Floats
    """[U, I], 0 where unrated."""
    is_rated: NDArray[np.bool_]
    """[U, I]"""

    @classmethod
    def of(cls, tasks: TaskTable, transform: TargetTransform, *, is_training: bool) -> "Residuals":
        """Those of the support sets; of training users, of the query sets, too."""
        num_users, num_items = len(tasks), len(transform.bias.item_count)
        value, is_rated = np.zeros((num_users, num_items)), np.zeros((num_users, num_items), bool)
        support_mean, query_mean = transform.prior_means(tasks, is_training=is_training)
        sets = [(tasks.support_item, tasks.support_label, support_mean)]
        if is_training:
            sets.append((tasks.query_item, tasks.query_label, query_mean))
        for item, rating, prior_mean in sets:
            at = np.repeat(np.arange(num_users), item.lengths), item.values
            value[at], is_rated[at] = rating.values - prior_mean, True
        return cls(value, is_rated)


class FoldIn:
    """A matrix [I, I] that carries residuals from rated items to others."""

    strengths: tuple[float, ...]
    """What the model's one parameter is chosen from."""

    def __init__(self, store: Store, transform: TargetTransform):
        """Fit to the training users; ``transform`` must be of kind ``bias``."""
        self.transform = transform
        self.fit(Residuals.of(store.split("train", SPEC).tasks, transform, is_training=True))
        valid = store.split("valid", SPEC).tasks
        errors = {s: self._mean_squared_error(valid, s) for s in self.strengths}
        self.strength = min(errors, key=lambda s: errors[s])

    def fit(self, train: Residuals) -> None:
        """Learn from the training users' residuals, whatever the strength."""
        raise NotImplementedError

    def fold_in(self, known: Residuals, strength: float) -> Floats:
        """Predicted residuals of every item [U, I]."""
        raise NotImplementedError

    def predict(self, tasks: TaskTable, strength: float | None = None) -> Floats:
        """Predicted rating of every query row [n]."""
        known = Residuals.of(tasks, self.transform, is_training=False)
        residual = self.fold_in(known, self.strength if strength is None else strength)
        user = np.repeat(np.arange(len(tasks)), tasks.query_item.lengths)
        _, prior_mean = self.transform.prior_means(tasks, is_training=False)
        return self.transform.in_range(prior_mean + residual[user, tasks.query_item.values])

    def _mean_squared_error(self, tasks: TaskTable, strength: float) -> float:
        error = self.predict(tasks, strength) - tasks.query_label.values
        return float((error**2).mean())


class Ease(FoldIn):
    """Ridge regression of every item on all others (Steck, *EASE*, WWW 2019)."""

    strengths = (30.0, 100.0, 300.0, 1000.0, 3000.0)

    def fit(self, train: Residuals) -> None:
        self.gram = train.value.T @ train.value
        self._weights: dict[float, Floats] = {}

    def fold_in(self, known: Residuals, strength: float) -> Floats:
        if strength not in self._weights:
            inverse = np.linalg.inv(self.gram + strength * np.eye(len(self.gram)))
            weight = -inverse / np.diag(inverse)
            np.fill_diagonal(weight, 0)
            self._weights[strength] = weight
        return known.value @ self._weights[strength]


class ItemNeighbours(FoldIn):
    """Similarity-weighted means over rated items: shrunk correlations of residuals."""

    strengths = (0.3, 1.0, 3.0, 10.0, 30.0)
    damping = 20.0
    """Users' worth of prior, at 0, of a correlation."""

    def fit(self, train: Residuals) -> None:
        is_rated = train.is_rated.astype(np.float64)
        squares = train.value**2
        num_both = is_rated.T @ is_rated
        scale = np.sqrt((squares.T @ is_rated) * (is_rated.T @ squares))
        cosine = np.divide(
            train.value.T @ train.value, scale, np.zeros_like(num_both), where=scale > 0
        )
        self.similarity = cosine * num_both / (num_both + self.damping)
        np.fill_diagonal(self.similarity, 0)

    def fold_in(self, known: Residuals, strength: float) -> Floats:
        """The strength is the weight of a prior of 0, in tenths of a neighbour."""
        total = np.abs(self.similarity).T @ known.is_rated.T.astype(np.float64)
        residual: Floats = (known.value @ self.similarity) / (total.T + strength / 10)
        return residual


FOLD_INS: dict[str, type[FoldIn]] = {"EASE": Ease, "item neighbours": ItemNeighbours}
"""By the names of their rows."""
