"""An explanation of a score, as callers get it, and in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SMALL = 0.01
"""Amounts below it are written with one digit, in place of two decimals."""


@dataclass(frozen=True)
class KnownRating:
    """A rating that is known of the user, and what it moved."""

    item: Any
    rating: float
    """Of clicks 1, or 0 where the user did not click."""
    amount: float


@dataclass(frozen=True)
class KnownFeature:
    """A feature that is known of the user, and what it moved."""

    name: str
    value: Any
    amount: float


@dataclass(frozen=True)
class Explanation:
    """What moved a score from that of a user of whom nothing is known.

    The amounts add up: in ratings to ``score − baseline``, in logits to the difference of these
    chances' logits.
    """

    item: Any
    score: float
    """The predicted rating, or the chance of a click, as ``Predictor.score`` gives it."""
    baseline: float
    """The same for a user of whom nothing is known: no rating and no feature."""
    unit: str
    """Of the amounts: ``rating`` or ``logit``."""
    ratings: tuple[KnownRating, ...]
    """Every known rating."""
    features: tuple[KnownFeature, ...]
    """Every known feature of the user."""

    @property
    def moved(self) -> float:
        """The sum of all amounts."""
        return sum(cause.amount for cause in self.causes)

    @property
    def causes(self) -> Sequence[KnownRating | KnownFeature]:
        """Ratings and features together, those that moved the score most first."""
        return sorted((*self.ratings, *self.features), key=lambda cause: -abs(cause.amount))

    def reasons(self, top: int = 3) -> list[str]:
        """The ``top`` causes in words, each with its amount; none that moved nothing."""
        causes = [cause for cause in self.causes[:top] if cause.amount]
        return [f"{self._words(cause)}: {_signed(cause.amount)}" for cause in causes]

    def text(self, top: int = 3) -> str:
        """The score, its ``top`` causes and the sum of all others, in words."""
        is_chance = self.unit == "logit"
        score, baseline = (
            f"{value:.1%}" if is_chance else f"{value:.2f}" for value in (self.score, self.baseline)
        )
        lines = [f"{self.item}: {score}; {baseline} with nothing known"]
        reasons, others = self.reasons(top), self.causes[top:]
        lines += [f"  {reason}" for reason in reasons]
        if others:
            rest = sum(cause.amount for cause in others)
            lines.append(f"  {len(others)} more: {_signed(rest)}")
        return "\n".join(lines)

    def _words(self, cause: KnownRating | KnownFeature) -> str:
        if isinstance(cause, KnownFeature):
            values = cause.value if isinstance(cause.value, list | tuple) else [cause.value]
            return f"{cause.name} {', '.join(map(str, values))}"
        if self.unit == "rating":
            return f"rated {cause.item} {cause.rating:g}"
        return f"clicked {cause.item}" if cause.rating else f"did not click {cause.item}"


def _signed(amount: float) -> str:
    return f"{amount:+.2f}" if abs(amount) >= SMALL else f"{amount:+.0e}"
