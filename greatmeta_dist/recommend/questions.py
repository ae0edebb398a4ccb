"""What a service is asked about single users, answered for many users at once.

A question is checked by itself when it comes, so that a bad one is nobody else's error.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from greatmeta_dist.data.known_ratings import known_ratings
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.errors import require
from greatmeta_dist.ragged import Ints, Ragged, concatenate, offsets_of
from greatmeta_dist.recommend.catalogue_scorer import TopItems
from greatmeta_dist.recommend.ranker import Ranker, Recommendation, check_k, tokens_of
from greatmeta_dist.recommend.user_features import features_of


@dataclass(frozen=True)
class Question:
    """What somebody wants to know about one user."""

    user: TaskTable
    """Of one task."""
    are_texts: bool
    """Whether the asker names items by texts."""
    unknown_items: list[str]
    """Items of the question that the catalogue does not have."""
    k: int = 0
    """How many of the best items are wanted."""
    exclude_seen: bool = True
    candidates: Ints | None = None
    """Indices of the only items that may be recommended."""
    asked: Ints | None = None
    """Indices of items whose scores are wanted; None where the best items are."""


Answer = list[Recommendation] | list[float]


def ask_best(
    ranker: Ranker,
    interactions: Any = None,
    k: int = 10,
    *,
    user_features: Any = None,
    exclude_seen: bool = True,
    candidates: Iterable[Any] | None = None,
) -> Question:
    """Which items are best for a user? As ``Predictor.recommend``. Raises ``InputError``."""
    check_k(k)
    question = _about(ranker, interactions, user_features)
    question = replace(question, k=int(k), exclude_seen=exclude_seen)
    if candidates is None:
        return question
    items, unknown = _known(ranker, tokens_of(candidates, "candidates"))
    unknown = list(dict.fromkeys(question.unknown_items + unknown))
    return replace(question, candidates=items, unknown_items=unknown)


def ask_scores(
    ranker: Ranker, interactions: Any, items: Iterable[Any], *, user_features: Any = None
) -> Question:
    """What will a user give certain items? As ``Predictor.score``. Raises ``InputError``."""
    question = _about(ranker, interactions, user_features)
    asked, unknown = _known(ranker, tokens_of(items, "items"))
    unknown = list(dict.fromkeys(question.unknown_items + unknown))
    return replace(question, asked=asked, unknown_items=unknown)


def answers(ranker: Ranker, questions: Sequence[Question]) -> list[Answer]:
    """The answer to each question: its best items, or its items' scores.

    Users whose whole catalogue is asked about are scored together. Scores do not depend on who
    else asks, but for their last bits.
    """
    together = [n for n, q in enumerate(questions) if q.asked is None and q.candidates is None]
    of_number: dict[int, Answer] = {}
    for number, top in zip(together, _best(ranker, [questions[n] for n in together]), strict=True):
        of_number[number] = ranker.named(top, questions[number].are_texts)
    return [
        of_number[number] if number in of_number else _alone(ranker, question)
        for number, question in enumerate(questions)
    ]


def _about(ranker: Ranker, interactions: Any, user_features: Any) -> Question:
    known = known_ratings(interactions)
    require(known.is_one_user, "the interactions are of many users; ask about one at a time")
    _, unknown = _known(ranker, known.item)
    return Question(
        ranker.new_users.tasks(known, features_of(user_features, known)),
        known.has_text_ids,
        unknown,
    )


def _known(ranker: Ranker, tokens: list[str]) -> tuple[Ints, list[str]]:
    """Indices of items, and the tokens that the catalogue does not have."""
    indices = ranker.new_users.indices(tokens)
    is_unknown = indices == len(ranker.new_users.items)
    return indices, [token for token, lacks in zip(tokens, is_unknown, strict=True) if lacks]


def _best(ranker: Ranker, questions: list[Question]) -> list[TopItems]:
    """The best items of the whole catalogue."""
    if not questions:
        return []
    users = _joined([question.user for question in questions])
    exclude = _of_those(users.support_item, [question.exclude_seen for question in questions])
    most = ranker.of_catalogue.top(users, max(q.k for q in questions), exclude=exclude)
    return [
        TopItems(top.item[: question.k], top.score[: question.k])
        for top, question in zip(most, questions, strict=True)
    ]


def _alone(ranker: Ranker, question: Question) -> Answer:
    """The answer to a question about some items."""
    if question.asked is not None:
        if not len(question.asked):
            return []
        asking = question.user.asking(question.asked[None])
        scores: list[float] = ranker.scorer.predict(asking)["adapted"].tolist()
        return scores
    assert question.candidates is not None
    seen = question.user.support_item if question.exclude_seen else None
    some = ranker.of_catalogue.restricted(question.candidates)
    (top,) = some.top(question.user, question.k, exclude=seen)
    return ranker.named(top, question.are_texts)


def _joined(tables: list[TaskTable]) -> TaskTable:
    """Tasks one after the other, which ask for nothing."""
    features = tables[0].features
    fields = zip(*(table.features.fields for table in tables), strict=True)
    none = Ragged(np.empty(0, np.int32), np.zeros(len(tables) + 1, np.int64))
    return TaskTable(
        replace(features, fields=tuple(concatenate(field) for field in fields)),
        concatenate([table.support_item for table in tables]),
        concatenate([table.support_label for table in tables]),
        none,
        Ragged(np.empty(0, np.float32), none.offsets),
    )


def _of_those(lists: Ragged, is_kept: list[bool]) -> Ragged:
    """The lists, those that are not kept emptied."""
    kept = np.array(is_kept)
    values = lists.values[np.repeat(kept, lists.lengths)]
    return Ragged(values, offsets_of(np.where(kept, lists.lengths, 0)))
