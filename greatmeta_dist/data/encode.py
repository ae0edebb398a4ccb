"""Split interactions → record batches of tasks and items, and what training users' ratings say."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.data.split import uniform_hash
from greatmeta_dist.data.store import Ratings, list_array
from greatmeta_dist.data.vocabulary import Vocabulary
from greatmeta_dist.priors.content import ItemFeature, content_means
from greatmeta_dist.priors.user_groups import Grouping, History
from greatmeta_dist.ragged import Ragged, offsets_of

LEAST_PRIOR, MOST_PRIOR = 1e-2, 1e6


@dataclass
class VarianceComponents:
    """Variance within and between groups of unequal sizes, groups added up in any chunks.

    The analysis-of-variance estimates of a one-way random-effects model (Searle, Casella and
    McCulloch, *Variance Components*, 1992, section 3.6).
    """

    groups: int = 0
    rows: float = 0.0
    squared_rows: float = 0.0
    total: float = 0.0
    within: float = 0.0
    of_means: float = 0.0

    def add(self, count: NDArray, total: NDArray, squares: NDArray) -> None:
        """Rows of each group [groups], their sum, and the sum of their squares."""
        seen = count > 0
        count, total, squares = count[seen].astype(np.float64), total[seen], squares[seen]
        self.groups += len(count)
        self.rows += float(count.sum())
        self.squared_rows += float((count**2).sum())
        self.total += float(total.sum())
        of_means = float((total**2 / count).sum())
        self.of_means += of_means
        self.within += float(squares.sum()) - of_means

    @property
    def prior(self) -> float:
        """Rows' worth of prior that makes a group's shrunk mean the best linear one."""
        if self.rows <= self.groups or self.groups < 2:
            return MOST_PRIOR
        within = max(self.within, 0.0) / (self.rows - self.groups)
        between = self.of_means - self.total**2 / self.rows - (self.groups - 1) * within
        between /= self.rows - self.squared_rows / self.rows
        if between <= within / MOST_PRIOR:
            return MOST_PRIOR
        return max(within / between, LEAST_PRIOR)


@dataclass
class TrainingStatistics:
    """Ratings of the training users, added up bucket by bucket in order."""

    item_count: NDArray[np.int64]
    item_sum: NDArray[np.float64]
    item_squares: NDArray[np.float64]
    content_mean: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """[items] what means shrink to; see ``expect``."""
    users: list[pl.Series] = field(default_factory=list)
    lowest: float = np.inf
    highest: float = -np.inf
    offsets: VarianceComponents = field(default_factory=VarianceComponents)
    """Of the training users' ratings about their items' means."""

    @classmethod
    def empty(cls, num_items: int) -> "TrainingStatistics":
        return cls(np.zeros(num_items, np.int64), np.zeros(num_items), np.zeros(num_items))

    def add(self, train: pl.DataFrame) -> None:
        """Count in one bucket's training interactions."""
        if not len(train):
            return
        item, rating = train["item"].to_numpy(), train["rating"].to_numpy()
        self.item_count += np.bincount(item, minlength=len(self.item_count))
        self.item_sum += np.bincount(item, rating, len(self.item_sum))
        self.item_squares += np.bincount(item, rating**2, len(self.item_sum))
        self.users.append(train["user"].unique(maintain_order=True))
        self.lowest = min(self.lowest, float(rating.min()))
        self.highest = max(self.highest, float(rating.max()))

    @property
    def mean(self) -> float:
        return float(self.item_sum.sum()) / int(self.item_count.sum())

    def expect(self, features: Sequence[ItemFeature], seed: int) -> None:
        """Learn what the items' features say of their ratings; after the last ``add``."""
        plain = self._prior_about(np.full(len(self.item_count), self.mean))
        self.content_mean = content_means(
            features, self.item_count, self.item_sum, prior=plain, seed=seed
        )

    @cached_property
    def item_damping(self) -> float:
        """Of item means, about what their features say; asked for after ``expect``."""
        return self._prior_about(self.content_mean)

    def _prior_about(self, expected: NDArray[np.float64]) -> float:
        total = self.item_sum - expected * self.item_count
        squares = self.item_squares - expected * (self.item_sum + total)
        found = VarianceComponents()
        found.add(self.item_count, total, squares)
        return found.prior

    def item_means(self) -> NDArray[np.float64]:
        """[items] shrunk towards what the items' features say."""
        total = self.item_sum - self.content_mean * self.item_count
        return self.content_mean + total / (self.item_count + self.item_damping)

    def add_offsets(self, train: pl.DataFrame) -> None:
        """Count in how one bucket's training users stand to the means of the items they rated."""
        by_user = (
            train.select("user", rest=pl.Series(self._about_item_means(train)))
            .group_by("user", maintain_order=True)
            .agg(pl.len(), total=pl.col("rest").sum(), squares=(pl.col("rest") ** 2).sum())
        )
        self.offsets.add(*(by_user[name].to_numpy() for name in ("len", "total", "squares")))

    def residuals(self, train: pl.DataFrame) -> sparse.csr_matrix:
        """What items and users leave of one bucket's training ratings: [users, items]; asked for
        after the last ``add_offsets``."""
        rest, user = self._about_item_means(train), _ranks(train["user"])
        rest -= (np.bincount(user, rest) / (np.bincount(user) + self.offsets.prior))[user]
        return self._matrix(user, train["item"], rest.astype(np.float32))

    def about_expected(self, train: pl.DataFrame) -> sparse.csr_matrix:
        """One bucket's training ratings less what their items' features lead to expect: [users,
        items]; asked for after ``expect``."""
        rest = train["rating"].to_numpy() - self.content_mean[train["item"].to_numpy()]
        return self._matrix(_ranks(train["user"]), train["item"], rest)

    def _matrix(
        self, user: NDArray[np.int64], item: pl.Series, value: NDArray
    ) -> sparse.csr_matrix:
        shape = (user.max(initial=-1) + 1, len(self.item_count))
        return sparse.csr_matrix((value, (user, item.to_numpy())), shape=shape)

    def residual_mse(self, train: pl.DataFrame) -> pl.DataFrame:
        """``user``, and the mean square of the user's ``residuals``, ``left``."""
        residuals = self.residuals(train)
        squares = residuals.multiply(residuals).sum(1).A1.astype(np.float64)
        users = train["user"].unique().sort()
        return pl.DataFrame({"user": users, "left": squares / np.diff(residuals.indptr)})

    def _about_item_means(self, train: pl.DataFrame) -> NDArray[np.float64]:
        """Ratings less the means of their items, each mean without the rating itself."""
        item = train["item"].to_numpy()
        rating = train["rating"].to_numpy() - self.content_mean[item]
        others = self.item_sum[item] - self.content_mean[item] * self.item_count[item] - rating
        rest: NDArray[np.float64] = rating - others / (
            self.item_count[item] - 1 + self.item_damping
        )
        return rest

    def ratings(self, given_range: list[float] | None) -> Ratings:
        """Their summary, with the range as given or as found."""
        low, high = given_range or (self.lowest, self.highest)
        count = int(self.item_count.sum())
        variance = max(float(self.item_squares.sum()) / count - self.mean**2, 0.0)
        return Ratings(
            float(low),
            float(high),
            self.mean,
            variance**0.5,
            count,
            self.item_damping,
            self.offsets.prior,
        )


def _ranks(token: pl.Series) -> NDArray[np.int64]:
    """Of each row's token among the distinct ones, from 0."""
    return token.rank("dense").to_numpy().astype(np.int64) - 1


def encode_tasks(
    rows: pl.DataFrame,
    users: pl.DataFrame | None,
    vocabularies: Sequence[Vocabulary],
    groups: Grouping,
    clusters: Grouping,
    *,
    seed: int,
) -> pa.RecordBatch:
    """One part's tasks of a bucket, users in an order that their tokens alone decide."""
    tokens = rows["user"].unique(maintain_order=True)
    order = np.argsort(uniform_hash(tokens, seed, "order"), kind="stable")
    position = pl.DataFrame({"user": tokens[order], "position": np.arange(len(tokens))})
    rows = rows.join(position, on="user", maintain_order="left")
    rows = rows.sort("position", maintain_order=True)
    columns: dict[str, pa.Array] = {"user": pa.array(position["user"].to_list(), pa.string())}
    for role in ("support", "query"):
        chosen = rows.filter(pl.col("role") == role)
        offsets = offsets_of(np.bincount(chosen["position"].to_numpy(), minlength=len(tokens)))
        item = Ragged(chosen["item"].to_numpy(), offsets)
        rating = Ragged(chosen["rating"].to_numpy().astype(np.float32), offsets)
        columns[f"{role}_item"] = list_array(item, pa.int32())
        columns[f"{role}_rating"] = list_array(rating, pa.float32())
    # Of a training user the query, too, is known.
    known = rows if rows["part"][0] == "train" else rows.filter(pl.col("role") == "support")
    offsets = offsets_of(np.bincount(known["position"].to_numpy(), minlength=len(tokens)))
    history = History(Ragged(known["item"].to_numpy(), offsets), known["rating"].to_numpy())
    user_rows = position.select(id="user")
    if users is not None:
        user_rows = user_rows.join(users, on="id", how="left", maintain_order="left")
    columns |= _feature_columns(user_rows, "user", vocabularies)
    columns["group"] = pa.array(groups.of(history, user_rows), pa.int32())
    columns["cluster"] = pa.array(clusters.of(history, user_rows), pa.int32())
    return pa.RecordBatch.from_pydict(columns)


def encode_items(
    items: pl.DataFrame, vocabularies: Sequence[Vocabulary], statistics: TrainingStatistics
) -> pa.RecordBatch:
    """The catalogue: token, features, and the training users' ratings of each item."""
    columns = {
        "item": pa.array(items["id"].to_list(), pa.string()),
        "train_count": pa.array(statistics.item_count, pa.int64()),
        "train_sum": pa.array(statistics.item_sum, pa.float64()),
        "expected": pa.array(statistics.content_mean, pa.float64()),
        **_feature_columns(items, "item", vocabularies),
    }
    return pa.RecordBatch.from_pydict(columns)


def _feature_columns(
    entities: pl.DataFrame, side: str, vocabularies: Sequence[Vocabulary]
) -> dict[str, pa.Array]:
    return {
        f"feature:{v.field.name}": list_array(v.encode(entities[v.field.name]), pa.int32())
        for v in vocabularies
        if v.field.side == side
    }
