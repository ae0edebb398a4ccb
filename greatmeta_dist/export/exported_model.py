"""An exported model: load it, and ask it for scores and recommendations.

This file needs torch and safetensors alone. It stands in every exported folder, too, so that a
machine which serves the model need not have the package that trained it:

    from exported_model import ExportedModel

    model = ExportedModel.load("folder")
    model.recommend({"i1": 5.0, "i7": 2.0}, k=10)
    model.score({"i1": 5.0}, ["i2", "i3"], user_features={"age": 31})

Ids and feature values are as in the log. ``card.json`` says what the model is, and
``adapt_and_score.pt2`` holds all of its arithmetic, as a program of ``torch.export``.

Shapes: n known ratings, m items asked about, I items of the catalogue and one unknown item behind
them, Du width of the user's features.
"""

import bisect
import hashlib
import json
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

FORMAT, FORMAT_VERSION = "greatmeta_dist export", 1
CARD, ITEMS, TENSORS, PROGRAM = (
    "card.json",
    "items.json",
    "model.safetensors",
    "adapt_and_score.pt2",
)
VOCABULARIES = "vocabularies.json"
HASH = "sha256"
"""Of the card's other entries."""
ITEMS_PER_CALL = 1 << 16
"""Items scored at a time, which bounds memory."""
CLICKED = 1.0


class Recommendation(NamedTuple):
    """An item for a user."""

    item: Any
    """Its id: a text, or a whole number where all ids are and no text was given for one."""
    score: float
    """The predicted rating, or the chance of a click."""


class ExportedModel:
    """A catalogue and the program that scores its items; safe among threads."""

    def __init__(
        self,
        card: dict[str, Any],
        items: list[str],
        vocabularies: dict[str, list[str]],
        tensors: dict[str, Tensor],
        program: Callable[..., Tensor],
    ):
        """``load`` makes one of a folder."""
        self.card = card
        """What ``card.json`` says."""
        self.items = items
        """[I] ids of the catalogue."""
        self.tensors = tensors
        """All parameters by name."""
        self._program = program
        self._index = {item: index for index, item in enumerate(items)}
        self._row_of = {
            name: {value: row for row, value in enumerate(values)}
            for name, values in vocabularies.items()
        }
        self._tables = {k: v for k, v in tensors.items() if k.startswith(("items.", "mf."))}
        self._has_whole_ids = all(_is_whole(item) for item in items)

    @classmethod
    def load(cls, folder: str | Path, *, check: bool = True) -> "ExportedModel":
        """Load an exported folder.

        The tensors are mapped, not read: what is not needed takes no memory. ``check`` compares
        every file with its hash first, which reads it. Raises ``ValueError`` where the folder is no
        export, one of another version, or not as it was written.
        """
        folder = Path(folder)
        card = read_card(folder)
        for name, expected in card["files"].items():
            path = folder / name
            is_whole = path.is_file() and (not check or _sha256(path) == expected)
            if not is_whole:
                raise ValueError(f"{path} is not as it was written; export the model again")
        try:
            items = json.loads((folder / ITEMS).read_text("utf-8"))
            vocabularies = json.loads((folder / VOCABULARIES).read_text("utf-8"))
            tensors = load_file(folder / TENSORS)
            program = torch.export.load(folder / PROGRAM).module()
        except (OSError, ValueError, SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{folder} cannot be read ({error}); export the model again"
            ) from error
        return cls(card, items, vocabularies, tensors, program)

    def recommend(
        self,
        interactions: Any = None,
        k: int = 10,
        *,
        user_features: Mapping[str, Any] | None = None,
        exclude_seen: bool = True,
        candidates: Iterable[Any] | None = None,
    ) -> list[Recommendation]:
        """The k best items for one user, the best first; equal ones as the catalogue has them.

        ``interactions`` are what is known of the user: ``{item: rating}``, pairs ``(item,
        rating)``, or items alone where the model predicts clicks; nothing at all is a user of whom
        nothing is known. Items that the user knows are left out with ``exclude_seen``.
        ``candidates`` are the only items that may be recommended. Fewer items give fewer rows.
        """
        if not isinstance(k, numbers.Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k is {k!r}; expected a whole number from 1 on")
        known, ratings, has_text = self._known(interactions)
        asked: Iterable[int] = range(len(self.items))
        if candidates is not None:
            asked = sorted({*self._indices(_tokens(candidates, "candidates"), "candidates")})
        left_out = {*known, len(self.items)} if exclude_seen else {len(self.items)}
        index = [item for item in asked if item not in left_out]
        scores = self.scores(known, ratings, index, self.user_vector(user_features))
        # A stable sort keeps equal scores in the order of the catalogue.
        order = torch.argsort(scores, descending=True, stable=True)[:k].tolist()
        are_whole = self._has_whole_ids and not has_text
        tokens = [self.items[index[place]] for place in order]
        ids = [int(token) for token in tokens] if are_whole else tokens
        return [Recommendation(*one) for one in zip(ids, scores[order].tolist(), strict=True)]

    def score(
        self,
        interactions: Any,
        items: Iterable[Any],
        *,
        user_features: Mapping[str, Any] | None = None,
    ) -> list[float]:
        """What one user will give ``items``, in their order; arguments as in ``recommend``.

        An item that is not in the catalogue is scored as one of which nothing is known, with a
        warning.
        """
        known, ratings, _ = self._known(interactions)
        asked = self._indices(_tokens(items, "items"), "items")
        scores: list[float] = self.scores(
            known, ratings, asked, self.user_vector(user_features)
        ).tolist()
        return scores

    def scores(
        self, known: Sequence[int], ratings: Sequence[float], items: Sequence[int], user: Tensor
    ) -> Tensor:
        """[m] scores by indices into the catalogue; the index I is the unknown item.

        ``known`` [n] and ``ratings`` [n] are the user's (of clicks 0 or 1), and ``user`` [Du] is
        ``user_vector``'s.
        """
        support = torch.tensor(list(known), dtype=torch.int64)
        rating = torch.tensor(list(ratings), dtype=torch.float32)
        asked = torch.tensor(list(items), dtype=torch.int64)
        with torch.no_grad():
            parts = [
                self._program(self._tables, user, support, rating, part)
                for part in asked.split(ITEMS_PER_CALL)
            ]
        return torch.cat(parts)

    def user_vector(self, features: Mapping[str, Any] | None = None) -> Tensor:
        """[Du] a user's features, ``{feature: value}``; what is not given counts as unknown."""
        features, fields = features or {}, self.card["user_features"]
        names = [field["name"] for field in fields]
        if not isinstance(features, Mapping):
            raise ValueError(f"user_features are {features!r}; expected {{feature: value}}")
        for name in features:
            if name not in names:
                known = ", ".join(sorted(names)) or "none"
                raise ValueError(f"no user feature is called {name}; this model has {known}")
        parts = [self._pooled(field, features.get(field["name"])) for field in fields]
        return torch.cat(parts) if parts else torch.empty(0)

    def _pooled(self, field: dict[str, Any], value: Any) -> Tensor:
        """[d] a feature's embedding: of several values their sum or mean."""
        rows, table = self._row_of[field["name"]], self.tensors[f"values.{field['name']}"]
        values = value if isinstance(value, list | tuple) else [value]
        tokens = [_value_token(v, field) for v in values if not _is_missing(v)]
        unknown = len(rows)
        index = [rows.get(token, unknown) for token in tokens] or [unknown]
        chosen = table[torch.tensor(index)]
        return chosen.mean(0) if field["pooling"] == "mean" else chosen.sum(0)

    def _known(self, interactions: Any) -> tuple[list[int], list[float], bool]:
        """Indices and ratings of the known items, of repeats the last; whether any id is text."""
        entries, is_rated = _entries(interactions)
        by_item = {_token(item): _number(rating, item) for item, rating in entries}
        ratings = self._labels(by_item, is_rated)
        has_text = any(isinstance(item, str) for item, _ in entries)
        index = self._indices([*by_item], "interactions", stacklevel=4)
        return index, ratings, has_text

    def _labels(self, by_item: Mapping[str, float], is_rated: bool) -> list[float]:
        """Ratings or clicks, as the model was trained on them."""
        if self.card["labels"] == "clicks":
            click_at = self.card["click_at"]
            if click_at is None or not is_rated:
                return [CLICKED] * len(by_item)
            return [float(rating >= click_at) for rating in by_item.values()]
        if by_item and not is_rated:
            raise ValueError(
                "the interactions have no ratings, and this model predicts ratings; give pairs "
                "(item, rating), or {item: rating}"
            )
        low, high = (self.card["ratings"][name] for name in ("lowest", "highest"))
        for item, rating in by_item.items():
            if not low <= rating <= high:
                raise ValueError(
                    f"the rating of {item} is {rating:g}; ratings of this model go from {low:g} "
                    f"to {high:g}"
                )
        return list(by_item.values())

    def _indices(self, tokens: Sequence[str], what: str, *, stacklevel: int = 3) -> list[int]:
        """Items' indices; that of the unknown item, with a warning, where one is not known."""
        unknown = [token for token in tokens if token not in self._index]
        if unknown:
            warnings.warn(
                f"{len(unknown)} of {len(tokens)} {what} are of items that the catalogue does not "
                f"have, and count as unknown; the first is {unknown[0]}",
                stacklevel=stacklevel,
            )
        return [self._index.get(token, len(self.items)) for token in tokens]


def read_card(folder: Path) -> dict[str, Any]:
    """``card.json``. Raises ``ValueError`` where it is not ours, or of another version."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text("utf-8"))
        is_ours = card["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{folder} is no exported model (no {CARD} of one)")
    if card.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder} has format version {card.get('format_version')}, and this file reads "
            f"{FORMAT_VERSION}; load it with the exported_model.py beside it"
        )
    if card.pop(HASH, None) != hash_of(card):
        raise ValueError(f"{path} is not as it was written; export the model again")
    return dict(card)


def hash_of(card: Mapping[str, Any]) -> str:
    """The SHA-256 of a card's entries but for the hash itself."""
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(interactions: Any) -> tuple[list[tuple[Any, Any]], bool]:
    """Pairs of items and ratings, and whether ratings were given."""
    is_listed = interactions is None or isinstance(interactions, Mapping | Iterable)
    if isinstance(interactions, str | bytes) or not is_listed:
        raise ValueError(
            f"the ratings are {interactions!r}; expected {{item: rating}}, pairs (item, rating), "
            "or items"
        )
    is_mapping = isinstance(interactions, Mapping)
    entries = list(interactions.items() if is_mapping else interactions or ())
    if all(isinstance(entry, tuple | list) and len(entry) == 2 for entry in entries):
        return [(item, rating) for item, rating in entries], True
    return [(item, CLICKED) for item in entries], False


def _tokens(items: Iterable[Any], what: str) -> list[str]:
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise ValueError(f"{what} are {items!r}; expected a list of items")
    return [_token(item) for item in items]


def _token(value: Any) -> str:
    """An id or a feature's value as the vocabularies have it: text, or a whole number's digits."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value != math.floor(value):
        raise ValueError(f"{value!r} is no id; expected a text or a whole number")
    return str(math.floor(value))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _value_token(value: Any, field: dict[str, Any]) -> str:
    """A feature's value as its vocabulary has it; of a number, its bin."""
    if field["edges"] is None:
        return _token(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{field['name']} is {value!r}; expected a finite number")
    return f"bin_{bisect.bisect_right(field['edges'], number)}"


def _number(rating: Any, item: Any) -> float:
    if not isinstance(rating, numbers.Real) or not math.isfinite(rating):
        raise ValueError(f"the rating of {item} is {rating!r}; expected a finite number")
    return float(rating)


def _is_whole(token: str) -> bool:
    return token.isdecimal() and (token == "0" or token[0] != "0")
