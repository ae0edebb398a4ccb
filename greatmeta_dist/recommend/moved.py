"""Values with what moved them: the arithmetic by which a change of a score is split among causes.

A *cause* is something known of a user: a rating, or a feature. A value has a size before anything
was known and one after, and each cause's part of the difference. The parts add up exactly, because
each operation here keeps the sum:

- *Sums and fixed linear maps* act on the parts as on the values.
- *Products*: a₁b₁ − a₀b₀ = ½(a₀ + a₁)(b₁ − b₀) + ½(b₀ + b₁)(a₁ − a₀). Both factors' parts are
  weighed by the other factor's mean, which is the Shapley value of two factors.
- *Functions of one number*: the parts are scaled by (f(z₁) − f(z₀)) / (z₁ − z₀), the mean slope.

So no order of causes matters, and nothing is left over. Where causes act together, as two factors
do, these rules say how they share: each operation by itself, in equal parts.

Shapes: K causes, d numbers of a value.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SAME = 1e-10
"""Values that differ by less are taken as equal, and the slope between them as the derivative."""

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Moved:
    """A value, float64."""

    before: Tensor
    """[d] with nothing known."""
    after: Tensor
    """[d]"""
    by_cause: Tensor
    """[K, d] parts of the difference; they add up to ``after − before``."""

    @classmethod
    def fixed(cls, value: Tensor, num_causes: int) -> "Moved":
        """A value [d] that nothing moves."""
        return cls(value, value, value.new_zeros(num_causes, len(value)))

    @classmethod
    def from_zero(cls, by_cause: Tensor) -> "Moved":
        """The sum of its parts [K, d], and 0 before."""
        return cls(by_cause.new_zeros(by_cause.shape[1]), by_cause.sum(0), by_cause)

    def __add__(self, other: "Moved | Tensor | float") -> "Moved":
        if isinstance(other, Moved):
            return Moved(
                self.before + other.before,
                self.after + other.after,
                self.by_cause + other.by_cause,
            )
        return Moved(self.before + other, self.after + other, self.by_cause)

    def scaled(self, factor: Tensor | float) -> "Moved":
        """Times what nothing moves."""
        return Moved(self.before * factor, self.after * factor, self.by_cause * factor)

    def times(self, other: "Moved") -> "Moved":
        """The product, number by number; one of the two may have a single number."""
        mine, others = (self.before + self.after) / 2, (other.before + other.after) / 2
        return Moved(
            self.before * other.before,
            self.after * other.after,
            self.by_cause * others + other.by_cause * mine,
        )

    def through(self, function: Function, derivative: Function) -> "Moved":
        """A function of each number."""
        before, after = function(self.before), function(self.after)
        difference = self.after - self.before
        is_same = difference.abs() < SAME
        secant = (after - before) / torch.where(is_same, torch.ones_like(difference), difference)
        slope = torch.where(is_same, derivative((self.before + self.after) / 2), secant)
        return Moved(before, after, self.by_cause * slope)

    def clamped(self, lowest: float, highest: float) -> "Moved":
        """Kept within bounds; where it stays at one of them, nothing moves it."""

        def derivative(value: Tensor) -> Tensor:
            return ((value >= lowest) & (value <= highest)).double()

        return self.through(lambda value: value.clamp(lowest, highest), derivative)

    def split(self, widths: list[int]) -> list["Moved"]:
        """Parts of the d numbers."""
        pieces = zip(
            self.before.split(widths),
            self.after.split(widths),
            self.by_cause.split(widths, 1),
            strict=True,
        )
        return [Moved(*piece) for piece in pieces]


def joined(values: list[Moved]) -> Moved:
    """Values end to end."""
    return Moved(
        torch.cat([value.before for value in values]),
        torch.cat([value.after for value in values]),
        torch.cat([value.by_cause for value in values], 1),
    )
