"""How sums of A's tensors are packed to travel.

Most are summed by lane, and travel end to end as one flat tensor. Those that are one product over
all users (``LaneSums.outer_products``) travel as their users' rows, side by side.

Shapes: L lanes, B users, N numbers of the tensors that are summed by lane, K columns of the others.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.engine.layers import cut_flat
from greatmeta_dist.meta.gradients import LaneSums, Layers


@dataclass(frozen=True)
class SumLayout:
    """Which tensors of A stand where; the same for all batches of a step."""

    shapes: dict[str, torch.Size]
    """Of the tensors that are summed by lane."""
    widths: dict[str, tuple[int, int]]
    """Outputs and inputs of the layers that are one product."""

    @classmethod
    def of(cls, gradient: LaneSums, names: Iterable[str]) -> "SumLayout":
        """``names`` are those of A's tensors, in the order in which they are to stand."""
        layers = gradient.layers
        return cls(
            {name: layers[name].shape[1:] for name in names if name in layers},
            {name: (d.shape[1], v.shape[1]) for name, (d, v) in gradient.outer_products.items()},
        )

    def flat(self, gradient: LaneSums) -> Tensor:
        """[L, N]"""
        return torch.cat([gradient.layers[name].flatten(1) for name in self.shapes], 1)

    def by_user(self, gradient: LaneSums) -> Tensor:
        """[B, K]"""
        pairs = gradient.outer_products.values()
        if not pairs:
            return gradient.rows.new_empty(0, 0)
        return torch.cat([factor for pair in pairs for factor in pair], 1)

    def layers(self, flat: Tensor, by_user: Tensor) -> Layers:
        """The tensors of A's sum, from the lanes' sum [N or more] and all users' rows [B, K].

        Users stand in the order of the lanes: so the products have the same bits wherever and by
        however many workers they are taken.
        """
        layers = cut_flat(flat, self.shapes)
        factors = iter(by_user.split([n for pair in self.widths.values() for n in pair], 1))
        for name, delta, inputs in zip(self.widths, factors, factors, strict=True):
            layers[f"{name}.weight"] = torch.mm(delta.mT, inputs)
        return layers
