"""A, the dense part of θ, as one tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor


class FlatLayers(dict[str, Tensor]):
    """The tensors of A by name: views of one, ``flat``, in which they lie end to end.

    So A's new values cross between workers without a copy. Change tensors in place: one put in
    another's stead would be no part of ``flat``.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        """Copies ``tensors``."""
        self.flat = torch.cat([tensor.detach().flatten() for tensor in tensors.values()])
        super().__init__(tensors)
        self.update(self.cut(self.flat))

    def cut(self, values: Tensor) -> dict[str, Tensor]:
        """Views of values that lie end to end, by name and shaped as A's; what follows is left."""
        sizes = [tensor.numel() for tensor in self.values()]
        pieces = values[: sum(sizes)].split(sizes)
        return {
            name: piece.view(tensor.shape)
            for (name, tensor), piece in zip(self.items(), pieces, strict=True)
        }
