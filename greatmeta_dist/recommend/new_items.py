"""Items that training did not have: their features as a run's model reads them.

Shapes: m new items that the catalogue does not list.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from greatmeta_dist.data.known_ratings import named_rows, token_of
from greatmeta_dist.data.manifest import ITEM_ID, Field
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.vocabulary import BIN, bin_token
from greatmeta_dist.errors import require, shown
from greatmeta_dist.priors.base import ItemFeature
from greatmeta_dist.ragged import Ragged, offsets_of

FeaturesByItem = dict[str, dict[str, Any]]
"""Features by item, values by feature."""


def item_features(items: Any) -> FeaturesByItem:
    """New items as callers give them: ``{item: {feature: value}}``, a frame, or ids alone.

    A frame (Arrow, Polars, pandas) has a column of items under a usual name, and a column for each
    feature. Raises ``InputError``.
    """
    if hasattr(items, "__arrow_c_stream__"):
        tokens, columns = named_rows(items, "item")
        rows = zip(*columns.values(), strict=True) if columns else ((),) * len(tokens)
        features = [dict(zip(columns, row, strict=True)) for row in rows]
        return _distinct(tokens, features)
    require(
        isinstance(items, Iterable) and not isinstance(items, str | bytes),
        f"the items are {shown(items)}; expected {{item: {{feature: value}}}}, ids, or a frame",
    )
    if not isinstance(items, Mapping):
        return {token_of(item): {} for item in items}
    for item, features in items.items():
        require(
            isinstance(features, Mapping),
            f"the features of item {item} are {shown(features)}; expected {{feature: value}}",
        )
    return _distinct([token_of(item) for item in items], [dict(f) for f in items.values()])


def _distinct(tokens: Sequence[str], features: Sequence[dict[str, Any]]) -> FeaturesByItem:
    by_item = dict(zip(tokens, features, strict=True))
    if len(by_item) < len(tokens):
        repeated = next(t for t in tokens if tokens.count(t) > 1)
        require(False, f"the items name {repeated} more than once; give each item once")
    return by_item


@dataclass(frozen=True)
class EncodedItems:
    """New items as the model and the priors read them."""

    fields: tuple[Ragged, ...]
    """For each field of items that the model uses, the embedding rows of the m items' values."""
    features: list[ItemFeature]
    """The same for the content regression."""


@dataclass(frozen=True)
class ItemEncoder:
    """Encodes features as the catalogue's items have them."""

    catalogue: Store
    feature_spec: FeatureSpec

    def encode(self, items: Sequence[Mapping[str, Any]]) -> EncodedItems:
        """Items [m], given their features. Raises ``InputError``."""
        every = FeatureSpec(has_item_id=True, list_pooling=self.feature_spec.list_pooling)
        fields = self.catalogue.fields("item", every)
        names = {field.name for field in fields} - {ITEM_ID}
        for item in items:
            strange = [name for name in item if name not in names]
            require(
                not strange,
                f"no item feature is called {''.join(strange[:1])}; this run has "
                f"{', '.join(sorted(names)) or 'none'}",
            )
        tokens = {f.name: [_tokens(item.get(f.name), f) for item in items] for f in fields}
        trained = {f.name: f for f in self.catalogue.training_rows().features}
        rows = [self._rows(f, tokens[f.name]) for f in self._used_fields()]
        features = [_coded(feature, tokens[name]) for name, feature in trained.items()]
        return EncodedItems(tuple(rows), features)

    def _used_fields(self) -> list[Field]:
        return self.catalogue.fields("item", self.feature_spec)

    def _rows(self, field: Field, tokens: Sequence[list[str]]) -> Ragged:
        """[m] embedding rows; the unknown row of values that have none, or where there are none."""
        values, rows = self.catalogue.vocabulary(field)
        row_of = dict(zip(values.to_pylist(), rows.tolist(), strict=True))
        return _ragged(
            [[row_of.get(t, field.unknown_row) for t in ts] for ts in tokens], field.unknown_row
        )


def _ragged(lists: Sequence[list[int]], missing: int) -> Ragged:
    """Lists as one array; an empty one has ``missing``."""
    lists = [one or [missing] for one in lists]
    flat = np.array([value for one in lists for value in one], np.int32)
    return Ragged(flat, offsets_of(np.array([len(one) for one in lists], np.int64)))


def _coded(feature: ItemFeature, tokens: Sequence[list[str]]) -> ItemFeature:
    """A feature of the training items, with the new items' values in their place."""
    unknown = len(feature.values)
    code_of = {value: code for code, value in enumerate(feature.values)}
    codes = _ragged([[code_of.get(t, unknown) for t in ts] for ts in tokens], unknown)
    number = None
    if feature.number is not None:
        number = np.array([_number(ts[0]) if ts else np.nan for ts in tokens], np.float64)
    return replace(feature, codes=codes, number=number)


def _number(token: str) -> float:
    try:
        return float(token.removeprefix(BIN))
    except ValueError:
        return math.nan


def _tokens(value: Any, field: Field) -> list[str]:
    """A feature's values as the vocabulary has them; none where nothing is known."""
    is_list = isinstance(value, list | tuple | np.ndarray)
    require(
        field.is_list or not is_list,
        f"{field.name} is {shown(value)}; it has one value for each item",
    )
    values = list(value) if is_list else [value]
    known = [v for v in values if v is not None and not (isinstance(v, float) and math.isnan(v))]
    if field.edges is None:
        return [token_of(v) for v in known]
    return [bin_token(_finite(v, field), np.array(field.edges)) for v in known]


def _finite(value: Any, field: Field) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    require(math.isfinite(number), f"{field.name} is {shown(value)}; expected a finite number")
    return number
