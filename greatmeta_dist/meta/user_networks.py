"""Every user's adapted model as a function of an item's features alone.

A recommendation scores the whole catalogue for each user. What does not depend on the item is taken
out of the items' way: the user's own features and the encoder's scales and shifts are folded into
the weights of the hidden layers, and fast weights are formed. What is left is a small network for
each user, applied to all items by matrix products (DESIGN.md section 2, *Model*).

Shapes as in ``batch.py``; Di = Fi·d width of an item's features, n items, h width of a hidden
layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.meta.activations import ACTIVATIONS, Activation
from greatmeta_dist.meta.fast_weights import FastWeights
from greatmeta_dist.meta.layer_input import LayerInput
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.set_input import SetInput


@dataclass(frozen=True)
class UserNetworks:
    """The networks of B users."""

    hidden: list[tuple[Tensor, Tensor]]
    """Of each hidden layer: weight [B, h, in], and bias [B, h, 1]; the first reads Di inputs."""
    output: Tensor
    """[B, 1, h]"""
    linear: Tensor
    """[B, Di] what a prediction adds for each of the item's features: the kernel's share."""
    constant: Tensor
    """[B, 1] what it adds for any item."""
    activation: Activation

    @classmethod
    def of(cls, model: Recommender, query: SetInput, weights: FastWeights) -> "UserNetworks":
        """From the weights that were adapted to users' supports, and what the sets they are asked
        about say of the users themselves: their features and context.

        The model must not read its context from the rows that it predicts (``context="own"``):
        then a prediction depends on what else is asked, and is no function of one item.
        """
        assert model.context == "support" or not model.has_encoder
        user = query.x.shared
        assert user is not None
        num_shared, hidden = user.shape[1], []
        film = _film(model, query, weights)
        for k in range(len(model.hidden)):
            weight, bias = weights.formed(f"hidden_{k + 1}", len(user))
            assert bias is not None
            bias = bias.unsqueeze(2)
            if k == 0:
                bias = bias + weight[:, :, :num_shared] @ user.unsqueeze(2)
                weight = weight[:, :, num_shared:]
            if film:
                scale, shift = film[k]
                weight, bias = scale * weight, scale * bias + shift
            hidden.append((weight, bias))
        output, constant = weights.formed("output", len(user))
        assert constant is not None
        linear = user.new_zeros(len(user), model.num_item_fields * model.embedding_dim)
        if model.has_kernel:
            assert query.context is not None
            kernel, _ = weights.formed("kernel", len(user))
            mean = query.context.rows[:, 0, model.input_dim :]
            weighted = kernel[:, 0] * mean
            linear = weighted[:, num_shared:]
            constant = constant + (weighted[:, :num_shared] * user).sum(1, keepdim=True)
        return cls(hidden, output, linear, constant, ACTIVATIONS[model.activation])

    def take(self, users: Tensor) -> "UserNetworks":
        """The networks of the chosen users."""
        hidden = [(weight[users], bias[users]) for weight, bias in self.hidden]
        return UserNetworks(
            hidden,
            self.output[users],
            self.linear[users],
            self.constant[users],
            self.activation,
        )

    def predict(self, items: Tensor) -> Tensor:
        """Predictions [B, n] for items whose features [Di, n] stand in columns.

        Each user may have items of its own: [B, Di, n].
        """
        _, hidden = self._forward(items)
        output = (self.output @ hidden[-1]).squeeze(1)
        return output + self._linear(items) + self.constant

    def linearised(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """The tangents of all users' predictions at an item ``at`` [Di].

        Returns slopes [B, Di] and constants [B, 1]: an item x is predicted as slope · x + constant.
        Hidden layers are only mildly curved over a catalogue, so this says which items can be among
        a user's best.
        """
        column = at.unsqueeze(1)
        z, hidden = self._forward(column)
        slope = self.output
        for k in reversed(range(len(self.hidden))):
            slope = self.activation.backward(slope, z[k].mT, hidden[k].mT) @ self.hidden[k][0]
        slope = slope.squeeze(1) + self.linear
        constant = self.predict(column) - slope @ column
        return slope, constant

    def _forward(self, items: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Every hidden layer's values [B, h, n] before and after its activation."""
        before: list[Tensor] = []
        after: list[Tensor] = []
        for k, (weight, bias) in enumerate(self.hidden):
            if k == 0 and items.ndim == 2:  # one product for all users
                flat = weight.reshape(-1, weight.shape[2]) @ items
                z = flat.view(*weight.shape[:2], -1).add_(bias)
            else:
                z = torch.baddbmm(bias, weight, after[-1] if k else items)
            before.append(z)
            after.append(self.activation.forward(z))
        return before, after

    def _linear(self, items: Tensor) -> Tensor:
        """[B, n] the kernel's share."""
        if items.ndim == 2:
            return self.linear @ items
        return (self.linear.unsqueeze(1) @ items).squeeze(1)


def _film(model: Recommender, query: SetInput, weights: FastWeights) -> list[tuple[Tensor, Tensor]]:
    """Scale and shift [B, h, 1] of each hidden layer; nothing without encoder."""
    if not model.has_encoder:
        return []
    assert query.context is not None
    encoded = LayerInput(weights.apply("encoder", query.context))
    film = weights.apply("film", encoded).mT.split(model.layers["film"].splits, 1)
    scales = [1 + scale for scale in film[0::2]] if model.is_film_residual else film[0::2]
    return list(zip(scales, film[1::2], strict=True))
