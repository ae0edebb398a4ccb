"""A, the dense part of θ, as one flat tensor.

Shapes: N numbers of A.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class FlatLayers(dict[str, Tensor]):
    """The tensors of A by name, all of them views of one tensor ``flat`` [N], end to end.

    So A is sent and received as one message, without a copy. Change the tensors in place: a tensor
    assigned to a name would not be part of ``flat``.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        """Copies ``tensors``, and keeps their order."""
        self.flat = torch.cat([tensor.detach().flatten() for tensor in tensors.values()])
        super().__init__(tensors)
        self.update(self.cut(self.flat))

    def cut(self, values: Tensor) -> dict[str, Tensor]:
        """Views of values [N], by name and of the shapes of A's tensors."""
        return cut_flat(values, {name: tensor.shape for name, tensor in self.items()})


def cut_flat(values: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Views of values that stand end to end, by name and of these shapes; what is left over is
    ignored."""
    sizes = [shape.numel() for shape in shapes.values()]
    views = values[: sum(sizes)].split(sizes)
    return {
        name: view if len(shape) == 1 else view.view(shape)
        for (name, shape), view in zip(shapes.items(), views, strict=True)
    }
