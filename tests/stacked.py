"""The published names of what the ``film`` layer stacks, for references that know it unstacked."""

from torch import Tensor

from greatmeta_dist.meta.model import Recommender


def unstack(model: Recommender, layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """A by published tensors, in the order in which factors list them."""
    out: dict[str, Tensor] = {}
    for name, tensor in layers.items():
        if name != "film.weight":
            out[name] = tensor
            continue
        parts = tensor.split(model.layers["film"].splits)
        for k in range(len(model.hidden)):
            out[f"scale_{k + 1}.weight"], out[f"shift_{k + 1}.weight"] = parts[2 * k : 2 * k + 2]
    return out
