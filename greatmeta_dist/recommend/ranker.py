"""Recommendations and scores for users as callers have them: plain types and frames, raw ids."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.known_ratings import KnownRatings, known_ratings, like, token_of
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.errors import require, shown
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.recommend.catalogue_scorer import CatalogueScorer, TopItems
from greatmeta_dist.recommend.explain import ExplainedUser, Explainer
from greatmeta_dist.recommend.explanation import Explanation
from greatmeta_dist.recommend.new_users import NewUsers, UserFeatures, with_unknown_item
from greatmeta_dist.recommend.user_features import features_of

RECOMMENDATION = ("item", "score")
"""Columns of a recommendation."""
USERS_PER_BATCH = 64
"""Users at a time, which bounds memory: each has a score for every item."""


class Recommendation(NamedTuple):
    """An item for a user."""

    item: Any
    """Its id: a text, or a whole number where all ids are and no text was given for one."""
    score: float
    """The predicted rating, or the chance of a click."""


class ExplainedRecommendation(NamedTuple):
    """An item for a user, with what moved its score."""

    item: Any
    score: float
    why: list[str]
    """What moved the score most, in words: ``Explanation.reasons``."""


AnyRecommendation = Recommendation | ExplainedRecommendation


@dataclass(frozen=True)
class Ranker:
    """A model with its catalogue."""

    scorer: Scorer
    """Knows one item more than the catalogue: the unknown one."""
    of_catalogue: CatalogueScorer
    new_users: NewUsers

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        catalogue: Store,
        feature_spec: FeatureSpec,
        *,
        added: tuple[str, ...] = (),
    ) -> "Ranker":
        """Look at every item once; ``added`` are those that the scorer has behind the catalogue."""
        new_users = NewUsers(catalogue, feature_spec, added)
        new_users.prepare()
        scorer = with_unknown_item(scorer)
        return cls(scorer, CatalogueScorer.of(scorer, len(new_users.items)), new_users)

    def recommend(
        self,
        interactions: Any,
        k: int,
        *,
        user_features: Any,
        exclude_seen: bool,
        candidates: Iterable[Any] | None,
        explain: int = 0,
    ) -> Any:
        """As ``Predictor.recommend``."""
        check_k(k)
        is_number = isinstance(explain, int | np.integer) and not isinstance(explain, bool)
        require(
            is_number and explain >= 0,
            f"explain is {shown(explain)}; expected a number of reasons from 0 on",
        )
        require(
            isinstance(exclude_seen, bool | np.bool_),
            f"exclude_seen is {shown(exclude_seen)}; expected True or False",
        )
        known = known_ratings(interactions)
        features = features_of(user_features, known)
        tasks = self._tasks(known, features)
        of_catalogue = self.of_catalogue
        if candidates is not None:
            tokens = tokens_of(candidates, "candidates")
            of_catalogue = of_catalogue.restricted(self._indices(tokens, "candidates"))
        top: list[TopItems] = []
        for first in range(0, len(tasks), USERS_PER_BATCH):
            users = tasks.take(np.arange(first, min(first + USERS_PER_BATCH, len(tasks))))
            seen = users.support_item if exclude_seen else None
            top += of_catalogue.top(users, int(k), exclude=seen)
        lists = [self.named(one, known.has_text_ids) for one in top]
        if not explain:
            return _as_asked(known, lists, RECOMMENDATION)
        explained: list[Sequence[ExplainedRecommendation]] = []
        for number, (best, named) in enumerate(zip(top, lists, strict=True)):
            user = self._explained_user(known, tasks, number, features[number])
            rows = zip(best.item.tolist(), named, strict=True)
            whys = [user.explain(index, one.item).reasons(int(explain)) for index, one in rows]
            pairs = zip(named, whys, strict=True)
            explained.append([ExplainedRecommendation(*one, why) for one, why in pairs])
        return _as_asked(known, explained, (*RECOMMENDATION, "why"))

    def explain(self, interactions: Any, item: Any, *, user_features: Any) -> Explanation:
        """As ``Predictor.explain``."""
        known = known_ratings(interactions)
        require(
            known.is_one_user and len(known.users) == 1,
            "a score is explained for one user; give {item: rating}, pairs (item, rating) or items",
        )
        features = features_of(user_features, known)
        tasks = self._tasks(known, features)
        index = self._indices([token_of(item)], "items")
        user = self._explained_user(known, tasks, 0, features[0])
        return user.explain(int(index[0]), item)

    def score(
        self, interactions: Any, items: Iterable[Any], *, user_features: Any
    ) -> NDArray[np.float64]:
        """As ``Predictor.score``."""
        known = known_ratings(interactions)
        tasks = self._tasks(known, features_of(user_features, known))
        asked = self._indices(tokens_of(items, "items"), "items")
        of_all = np.tile(asked, (len(tasks), 1))
        if not of_all.size:
            return np.empty(of_all.shape[1:] if known.is_one_user else of_all.shape)
        scores = self.scorer.predict(tasks.asking(of_all))["adapted"].reshape(of_all.shape)
        return scores[0] if known.is_one_user else scores

    @cached_property
    def explainer(self) -> Explainer:
        return Explainer(self.scorer, self.new_users)

    def _explained_user(
        self, known: KnownRatings, tasks: TaskTable, number: int, features: UserFeatures
    ) -> ExplainedUser:
        """One of the users, whose items and features are called as the caller called them."""
        items = known.item[slice(*known.offsets[number : number + 2])]
        return self.explainer.of_user(
            tasks.take(np.array([number])),
            items=self._ids(items, known.has_text_ids),
            features=features,
        )

    def _tasks(self, known: KnownRatings, features: Sequence[UserFeatures]) -> TaskTable:
        """The users as tasks; warns of items and values that training did not have."""
        self._indices(known.item, "interactions", stacklevel=5)
        tasks = self.new_users.tasks(known, features)
        unknown = self.new_users.unknown_values(features)
        if unknown:
            warnings.warn(
                f"{len(unknown)} values of user features count as unknown: training did not have "
                f"them, or hardly; the first is {' '.join(unknown[0])}",
                stacklevel=4,
            )
        return tasks

    def _indices(
        self, tokens: Sequence[str], what: str, *, stacklevel: int = 4
    ) -> NDArray[np.int64]:
        """Items' indices; warns of those that are not in the catalogue."""
        indices = self.new_users.indices(tokens)
        is_unknown = indices == len(self.new_users.items)
        if is_unknown.any():
            first = tokens[int(np.argmax(is_unknown))]
            warnings.warn(
                f"{int(is_unknown.sum())} of {len(tokens)} {what} are of items that the catalogue "
                f"does not have, and count as unknown; the first is {first}",
                stacklevel=stacklevel,
            )
        return indices

    def named(self, top: TopItems, are_texts: bool) -> list[Recommendation]:
        """Recommendations with ids as the caller knows them."""
        tokens = [self.new_users.items[index] for index in top.item]
        ids = self._ids(tokens, are_texts)
        return [Recommendation(*row) for row in zip(ids, top.score.tolist(), strict=True)]

    def _ids(self, tokens: Sequence[str], are_texts: bool) -> list[Any]:
        """Items' ids: whole numbers where all of the catalogue are and the caller wrote no text."""
        if self.new_users.has_whole_ids and not are_texts:
            return [int(token) if token.isdecimal() else token for token in tokens]
        return list(tokens)


def check_k(k: Any) -> None:
    """Raise ``InputError`` unless k is a number of items."""
    is_number = isinstance(k, int | np.integer) and not isinstance(k, bool)
    require(is_number and k > 0, f"k is {shown(k)}; expected a whole number from 1 on")


def tokens_of(items: Iterable[Any], what: str) -> list[str]:
    """Items as a catalogue has them. Raises ``InputError``."""
    is_list = isinstance(items, Iterable) and not isinstance(items, str | bytes)
    is_list = is_list and not hasattr(items, "columns")  # a frame
    require(is_list, f"{what} are {shown(items)}; expected a list of items")
    return [token_of(item) for item in items]


def _as_asked(
    known: KnownRatings, lists: Sequence[Sequence[AnyRecommendation]], columns: Sequence[str]
) -> Any:
    """A list, a dictionary of lists, or a frame, as the users came."""
    if known.frame is None:
        return lists[0] if known.is_one_user else dict(zip(known.users, lists, strict=True))
    rows = [
        (user, rank, *one)
        for user, of_user in zip(known.users, lists, strict=True)
        for rank, one in enumerate(of_user, start=1)
    ]
    names = ("user", "rank", *columns)
    by_name = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    if known.is_one_user:
        del by_name["user"]
    return like(known.frame, by_name)
