"""What is known of new users → tasks of a run's model.

Items that training did not have stand as one *unknown item*, which comes after the catalogue: it
has no features, and a rating of it still tells something of the user.

Shapes: U users, I items of the catalogue.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.known_ratings import KnownRatings, token_of
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.data.vocabulary import bin_token
from greatmeta_dist.errors import require, shown
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.ragged import Ragged, concatenate, offsets_of

UserFeatures = Mapping[str, Any]
"""A user's values by feature: one value, or a list of a list's values."""


def with_unknown_item(scorer: Scorer) -> Scorer:
    """The scorer, whose catalogue ends in an item of which nothing is known."""
    items, transform = scorer.collator.items, scorer.collator.target_transform
    fields = tuple(
        concatenate([field, Ragged(np.array([row], np.int32), np.array([0, 1]))])
        for field, row in zip(items.fields, items.unknown, strict=True)
    )
    bias = transform.bias.with_items(np.array([transform.ratings.mean]))
    transform = replace(transform, bias=bias)
    collator = replace(
        scorer.collator, items=replace(items, fields=fields), target_transform=transform
    )
    return replace(scorer, collator=collator, blend=replace(scorer.blend, transform=transform))


@dataclass(frozen=True)
class NewUsers:
    """Makes tasks of new users, for the model of a catalogue."""

    catalogue: Store
    feature_spec: FeatureSpec
    added: tuple[str, ...] = ()
    """Tokens of items that came after the training, and stand behind the catalogue's."""

    @cached_property
    def items(self) -> list[str]:
        """[I] tokens of the catalogue's items and of those added."""
        return [*self.catalogue.item_tokens(), *self.added]

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Each item's index in the catalogue, by its token."""
        return {token: index for index, token in enumerate(self.items)}

    @cached_property
    def has_whole_ids(self) -> bool:
        """Whether all items' ids are whole numbers."""
        return all(map(is_whole_id, self.items))

    @cached_property
    def fields(self) -> list[Field]:
        """The fields of users."""
        return self.catalogue.fields("user", self.feature_spec)

    @cached_property
    def rows_of(self) -> dict[str, dict[str, int]]:
        """By field of users: the embedding row of each value that training has seen."""
        known = {field.name: self.catalogue.vocabulary(field) for field in self.fields}
        return {
            name: dict(zip(values.to_pylist(), rows.tolist(), strict=True))
            for name, (values, rows) in known.items()
        }

    def prepare(self) -> None:
        """Make now what is kept, so that no user waits for it, and no two threads make it."""
        _ = self.index_of, self.has_whole_ids, self.rows_of

    def indices(self, tokens: Sequence[str]) -> NDArray[np.int64]:
        """[n] items' indices; that of the unknown item where an item is not in the catalogue."""
        unknown = len(self.items)
        return np.array([self.index_of.get(token, unknown) for token in tokens], np.int64)

    def tasks(
        self, known: KnownRatings, features: Sequence[UserFeatures] | None = None
    ) -> TaskTable:
        """Tasks that ask for nothing: users' known ratings, and each user's features."""
        num_users = len(known.users)
        items = self.indices(known.item).astype(np.int32)
        label = self.labels(known).astype(np.float32)
        none = Ragged(np.empty(0, np.int32), np.zeros(num_users + 1, np.int64))
        return TaskTable(
            self._features(features or [{}] * num_users),
            Ragged(items, known.offsets),
            Ragged(label, known.offsets),
            none,
            Ragged(np.empty(0, np.float32), none.offsets),
        )

    def labels(self, known: KnownRatings) -> NDArray[np.float64]:
        """[n] ratings or clicks, as the model was trained on them. Raises ``InputError``."""
        manifest = self.catalogue.manifest
        if manifest.is_click:
            if manifest.is_implicit or not known.is_rated:
                return np.ones(len(known.rating))
            clicked: NDArray[np.float64] = (known.rating >= manifest.recipe["click_at"]) * 1.0
            return clicked
        require(
            known.is_rated or not len(known.rating),
            "the interactions have no ratings, and this run predicts ratings; give pairs (item, "
            "rating), or {item: rating}",
        )
        low, high = manifest.ratings.lowest, manifest.ratings.highest
        is_out = (known.rating < low) | (known.rating > high)
        if is_out.any():
            first = int(np.argmax(is_out))
            require(
                False,
                f"the rating of {known.item[first]} is {known.rating[first]:g}; ratings of this "
                f"run go from {low:g} to {high:g}",
            )
        return known.rating

    def unknown_values(self, users: Iterable[UserFeatures]) -> list[tuple[str, str]]:
        """Features with values that have no row of their own. The features are checked before."""
        fields = {field.name: field for field in self.fields}
        return [
            (name, token)
            for user in users
            for name, value in user.items()
            for token in _tokens(value, fields[name])
            if token not in self.rows_of[name]
        ]

    def _features(self, users: Sequence[UserFeatures]) -> Features:
        fields, names = self.fields, self.rows_of.keys()
        for user in users:
            strange = [name for name in user if name not in names]
            require(
                not strange,
                f"no user feature is called {''.join(strange[:1])}; this run has "
                f"{', '.join(sorted(names)) or 'none'}",
            )
        return Features(
            tuple(self._encoded(field, users) for field in fields),
            tuple(f.is_list and self.feature_spec.list_pooling == "mean" for f in fields),
            tuple(field.unknown_row for field in fields),
        )

    def _encoded(self, field: Field, users: Sequence[UserFeatures]) -> Ragged:
        """[U] embedding rows of each user's values; the unknown row where there is none."""
        rows, lists = self.rows_of[field.name], []
        for user in users:
            tokens = _tokens(user.get(field.name), field)
            known = [rows.get(token, field.unknown_row) for token in tokens]
            lists.append(known or [field.unknown_row])
        flat = np.array([row for one in lists for row in one], np.int32)
        return Ragged(flat, offsets_of(np.array([len(one) for one in lists], np.int64)))


def is_whole_id(token: str) -> bool:
    """Whether a token is that of a whole number; 007 is not."""
    return token.isdecimal() and (token == "0" or token[0] != "0")


def _tokens(value: Any, field: Field) -> list[str]:
    """A feature's values as the vocabulary has them. Raises ``InputError``."""
    values = value if isinstance(value, list | tuple) else [value]
    is_missing = [v is None or (isinstance(v, float) and math.isnan(v)) for v in values]
    return [_token(v, field) for v, lacks in zip(values, is_missing, strict=True) if not lacks]


def _token(value: Any, field: Field) -> str:
    """A feature's value as the vocabulary has it. Raises ``InputError``."""
    if field.edges is None:
        return token_of(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    require(np.isfinite(number), f"{field.name} is {shown(value)}; expected a finite number")
    return bin_token(number, np.array(field.edges))
