"""The fitted content regression for items without ratings: features in, mean ratings out.

It is kept with a run, so that an item which came after training is predicted from its features as
it would have been by the training itself. Plain arrays, for no pickle may stand on a load path.

Shapes: m items, F features, T trees, N nodes of all trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.priors.base import ItemFeature, State
from greatmeta_dist.ragged import Ragged, offsets_of

Floats = NDArray[np.float64]
CHUNK_ITEMS = 100_000
"""Items that trees predict at a time: bounds memory, changes no result."""


@dataclass(frozen=True)
class ContentModel:
    """Predicts the mean ratings of items from features alone.

    Every item is predicted ``mean`` where there is neither a ridge regression nor trees.
    """

    mean: float
    """Mean of all training ratings."""
    ridge: "RidgeOfValues | None" = None
    trees: "Trees | None" = None

    def predict(self, features: Sequence[ItemFeature]) -> Floats:
        """[m] mean ratings of items with these features, which are those of the fit, in order."""
        if self.trees is not None:
            return self.mean + self.trees.predict(features)
        if self.ridge is not None:
            return self.mean + self.ridge.predict(features)
        num_items = len(features[0].codes.lengths) if features else 0
        return np.full(num_items, self.mean)

    def state(self) -> State:
        """As ``Prior.state``."""
        arrays: dict[str, NDArray] = {}
        details: dict[str, Any] = {"mean": self.mean}
        if self.trees is not None:
            arrays, details["baseline"] = self.trees.arrays(), self.trees.baseline
        elif self.ridge is not None:
            arrays = {"coefficient": self.ridge.coefficient, "first": self.ridge.first}
            details["intercept"] = self.ridge.intercept
        return arrays, details

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray], details: dict[str, Any]) -> Self:
        """The inverse of ``state``."""
        ridge = trees = None
        if "baseline" in details:
            trees = Trees.of_arrays(arrays, details["baseline"])
        elif "intercept" in details:
            ridge = RidgeOfValues(arrays["coefficient"], arrays["first"], details["intercept"])
        return cls(details["mean"], ridge, trees)


@dataclass(frozen=True)
class RidgeOfValues:
    """A linear model of indicators of values."""

    coefficient: Floats
    """[columns] of every value of every feature, feature by feature."""
    first: NDArray[np.int64]
    """[F + 1] where each feature's columns start; the last one, where they end."""
    intercept: float

    def predict(self, features: Sequence[ItemFeature]) -> Floats:
        """[m] mean ratings, less the mean of all."""
        values = indicators([f.codes for f in features], self.first)
        predicted: Floats = values @ self.coefficient + self.intercept
        return predicted


def first_columns(fields: Sequence[Ragged]) -> NDArray[np.int64]:
    """[F + 1] where each field's columns start in ``indicators``: one column for each code."""
    return offsets_of(np.array([f.values.max(initial=-1) + 1 for f in fields], np.int64))


def indicators(fields: Sequence[Ragged], first: NDArray[np.int64]) -> sparse.csr_matrix:
    """One column for each value of each field: [m, columns]. A value without column has none.

    An item of n values of a field has 1/√n in each of their columns. So the row has length 1, and
    an item of many values does not count more.
    """
    item = np.concatenate([np.repeat(np.arange(len(f.lengths)), f.lengths) for f in fields])
    size = np.concatenate(
        [np.repeat(1 / np.sqrt(np.maximum(n, 1)), n) for n in (f.lengths for f in fields)]
    )
    column = np.concatenate([f.values + start for f, start in zip(fields, first, strict=False)])
    end = np.repeat(first[1:], [f.lengths.sum() for f in fields])
    has_column = column < end
    return sparse.csr_matrix(
        (size[has_column], (item[has_column], column[has_column])),
        shape=(len(fields[0].lengths), first[-1]),
    )


@dataclass(frozen=True)
class Trees:
    """Gradient-boosted regression trees, with the columns that they read."""

    columns: "TreeColumns"
    baseline: float
    root: NDArray[np.int64]
    """[T] the first node of each tree."""
    feature: NDArray[np.int64]
    """[N] the column that the node asks for."""
    threshold: Floats
    """[N] an item goes left where its number is at most this."""
    is_missing_left: NDArray[np.bool_]
    """[N] whether items without a number go left."""
    child: NDArray[np.int64]
    """[N, 2] left and right; a leaf is its own child."""
    value: Floats
    """[N] what a leaf adds."""

    @classmethod
    def of_regressor(cls, model: Any, columns: "TreeColumns") -> Self:
        """From a fitted ``HistGradientBoostingRegressor``: its predictions, bit for bit."""
        nodes = [iteration[0].nodes for iteration in model._predictors]
        root = offsets_of(np.array([len(tree) for tree in nodes], np.int64))
        flat = np.concatenate(nodes)
        start = np.repeat(root[:-1], np.diff(root))
        is_leaf = flat["is_leaf"].astype(bool)
        itself = np.arange(len(flat))
        child = [np.where(is_leaf, itself, start + flat[side]) for side in ("left", "right")]
        return cls(
            columns,
            float(model._baseline_prediction.item()),
            root[:-1],
            np.where(is_leaf, 0, flat["feature_idx"]).astype(np.int64),
            flat["num_threshold"].astype(np.float64),
            flat["missing_go_to_left"].astype(bool),
            np.stack(child, 1).astype(np.int64),
            flat["value"].astype(np.float64),
        )

    def predict(self, features: Sequence[ItemFeature]) -> Floats:
        """[m] mean ratings, less the mean of all."""
        num_items = len(features[0].codes.lengths)
        chunks = [
            self._predict_columns(
                self.columns.of(features, np.arange(i, min(i + CHUNK_ITEMS, num_items)))
            )
            for i in range(0, num_items, CHUNK_ITEMS)
        ]
        return np.concatenate(chunks) if chunks else np.empty(0)

    def _predict_columns(self, columns: NDArray[np.float32]) -> Floats:
        predicted = np.full(len(columns), self.baseline)
        item = np.arange(len(columns))
        for root in self.root:  # added one by one, in the order of the boosting: the same bits
            node = np.full(len(columns), root)
            while True:
                number = columns[item, self.feature[node]].astype(np.float64)
                is_left = np.where(
                    np.isnan(number), self.is_missing_left[node], number <= self.threshold[node]
                )
                following = self.child[node, np.where(is_left, 0, 1)]
                if np.array_equal(following, node):
                    break
                node = following
            predicted += self.value[node]
        return predicted

    def arrays(self) -> dict[str, NDArray]:
        """All but the baseline, by name."""
        values = self.columns.values
        return {
            "root": self.root,
            "feature": self.feature,
            "threshold": self.threshold,
            "is_missing_left": self.is_missing_left,
            "child": self.child,
            "value": self.value,
            "column_values": values.values.astype(np.int64),
            "column_offsets": values.offsets,
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray], baseline: float) -> Self:
        """The inverse of ``arrays``."""
        columns = TreeColumns(Ragged(arrays["column_values"], arrays["column_offsets"]))
        names = ("root", "feature", "threshold", "is_missing_left", "child", "value")
        return cls(columns, baseline, *(arrays[name] for name in names))


@dataclass(frozen=True)
class TreeColumns:
    """What trees see of items: a number where values have an order, else an indicator a value."""

    values: Ragged
    """For each feature without numbers, the values that have an indicator."""

    def of(self, features: Sequence[ItemFeature], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """The columns of items [m]: [m, columns]."""
        columns = [f.number[items, None] for f in features if f.number is not None]
        unordered = [f.codes.take(items) for f in features if f.number is None]
        for k, codes in enumerate(unordered):
            values = self.values.take(np.array([k])).values
            columns.append(
                value_matrix(codes, num_values=int(values.max(initial=-1)) + 1)[:, values].toarray()
            )
        return np.concatenate([c.astype(np.float32) for c in columns], 1)


def value_matrix(codes: Ragged, *, num_values: int) -> sparse.csr_matrix:
    """[m, values] how often each item has each of the first values of a feature."""
    item = np.repeat(np.arange(len(codes.lengths)), codes.lengths)
    is_in = codes.values < num_values
    return sparse.csr_matrix(
        (np.ones(int(is_in.sum()), np.float32), (item[is_in], codes.values[is_in])),
        shape=(len(codes.lengths), num_values),
    )
