"""Adapt-and-score for one user as a module that ``torch.export`` can write.

The same numbers as ``Scorer.predict``, written anew with ``torch.autograd.grad``: the passes of
``meta/`` are planned for batches of many users, and what they keep between steps (Gram matrices,
shared outputs) are Python objects, which a program does not have. Numbers of known ratings and of
items are dynamic from 0 on.

Shapes: n known ratings, m items asked about, I items of the catalogue and one unknown item behind
them, Du and Di widths of the user's and an item's features, D = Du + Di. Of the Bayesian
factorisation (``priors/bayesian_mf_model.py``): S starts, P items it knows, E numbers of a user,
C components.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from greatmeta_dist.batching.collate import CLICK_CONTEXT_SCALE
from greatmeta_dist.batching.target_transform import LEAST_CHANCE
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import Recommender

Tables = dict[str, Tensor]
"""What the program reads of the items, by name (``tensors.py``)."""


@dataclass(frozen=True)
class Form:
    """All that is fixed in a program besides its tensors."""

    model: Recommender
    inner: InnerLoop
    support_damping: float
    target: str
    """As ``TargetTransform.kind``."""
    scale: float
    """Ratings for each unit of the model's output."""
    lowest: float
    highest: float
    user_damping: float
    """Ratings' worth of prior of a user's offset."""
    blend_weight: float | None
    """Share of a score that is the factorisation's; None where there is none."""

    @property
    def is_click(self) -> bool:
        return self.inner.loss == "bce"


class AdaptAndScore(nn.Module):
    """The model, adapted to one user's known ratings, and its scores of items.

    Layers are applied by plain products. What ``F.linear`` keeps for its gradient, a traced program
    loses track of (see ``_Tanh``).
    """

    mixture_noise: Tensor
    mixture_weight: Tensor
    mixture_mean: Tensor
    mixture_precision: Tensor

    def __init__(self, form: Form, layers: Mapping[str, Tensor], mixture: Mapping[str, Tensor]):
        """``layers`` are A by name; ``mixture`` is empty where nothing is blended, else ``noise``
        [S], ``weight`` [S, C], ``mean`` [S, C, E] and ``precision`` [S, E, E]."""
        super().__init__()
        self.form = form
        self.layers = nn.ModuleDict()
        for name, shape in form.model.layers.items():
            layer = nn.Linear(shape.num_in, sum(shape.splits), bias=shape.has_bias)
            named = dict(layer.named_parameters())
            with torch.no_grad():
                for kind, parameter in named.items():
                    parameter.copy_(layers[f"{name}.{kind}"])
            self.layers[name] = layer
        for name, tensor in mixture.items():
            self.register_buffer(f"mixture_{name}", tensor)

    def forward(
        self, tables: Tables, user: Tensor, known: Tensor, rating: Tensor, items: Tensor
    ) -> Tensor:
        """Predicted ratings, or chances of a click, of ``items``: float64 [m].

        ``user`` [Du] are the user's features, ``known`` [n] and ``items`` [m] are indices of items,
        ``rating`` float32 [n] what the user gave (of clicks 0 or 1).
        """
        known_prior, prior = self._prior_means(tables, known, rating, items)
        prediction = self._predict(tables, user, known, rating, items, known_prior)
        score = self._to_rating(prediction, prior)
        if self.form.blend_weight is None:
            return score
        of_factorisation, is_known = self._factorisation(tables, known, rating, items)
        blended = score + self.form.blend_weight * (of_factorisation - score)
        return torch.where(is_known, blended, score)

    # --- ratings and the model's units --------------------------------------------------------

    def _prior_means(
        self, tables: Tables, known: Tensor, rating: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What ratings are expected to be before the model: [n] and [m]."""
        of_known = tables["items.prior_mean"].index_select(0, known)
        of_items = tables["items.prior_mean"].index_select(0, items)
        if self.form.target != "bias":
            return of_known, of_items
        residual = rating.double() - of_known
        count = torch.ones_like(residual).sum() + self.form.user_damping
        # Without damping and without ratings it would be 0 / 0.
        offset = residual.sum() / count.clamp(min=torch.finfo(torch.float64).tiny)
        return of_known + offset, of_items + offset

    def _logit(self, prior_mean: Tensor) -> Tensor:
        if self.form.target == "rating":
            return torch.zeros_like(prior_mean)
        chance = prior_mean.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE)
        return torch.log(chance / (1 - chance))

    def _to_rating(self, prediction: Tensor, prior_mean: Tensor) -> Tensor:
        if self.form.is_click:
            return torch.sigmoid(prediction.double() + self._logit(prior_mean))
        rating = prediction.double() * self.form.scale + prior_mean
        return rating.clamp(self.form.lowest, self.form.highest)

    # --- the model ----------------------------------------------------------------------------

    def _predict(
        self,
        tables: Tables,
        user: Tensor,
        known: Tensor,
        rating: Tensor,
        items: Tensor,
        known_prior: Tensor,
    ) -> Tensor:
        """[m] in the model's units, after adaptation."""
        features = tables["items.features"]
        support = features.index_select(0, known)
        logit = self._logit(known_prior).float()
        if self.form.is_click:
            label = rating
            context_label = CLICK_CONTEXT_SCALE * (label - torch.sigmoid(logit))
        else:
            label = ((rating.double() - known_prior) / self.form.scale).float()
            context_label = label
        ones = torch.ones_like(label)
        row_weight = ones / (ones.sum().clamp(min=1) + self.form.support_damping)
        context = _context(user, support, row_weight, context_label)
        layers: dict[str, Tensor] = dict(self.layers.named_parameters())
        for _ in range(self.form.inner.num_steps):
            prediction = self._forward(layers, user, support, context)
            if self.form.is_click:
                by_row = F.binary_cross_entropy_with_logits(
                    prediction + logit, label, reduction="none"
                )
            else:
                by_row = (prediction - label).square()
            gradients = torch.autograd.grad((by_row * row_weight).sum(), list(layers.values()))
            rate = self.form.inner.learning_rate
            moved = zip(layers.items(), gradients, strict=True)
            layers = {name: value - rate * gradient for (name, value), gradient in moved}
        layers = {name: value.detach() for name, value in layers.items()}
        return self._forward(layers, user, features.index_select(0, items), context)

    def _forward(
        self, layers: Mapping[str, Tensor], user: Tensor, rows: Tensor, context: Tensor
    ) -> Tensor:
        """Predictions [r] for the features ``rows`` [r, Di]; ``context`` is [2, D]."""
        model, num_shared = self.form.model, user.shape[0]
        film: list[Tensor] = []
        if model.has_encoder:
            encoded = layers["encoder.weight"] @ context.flatten() + layers["encoder.bias"]
            stacked = layers["film.weight"] @ encoded
            film = list(stacked.split(list(model.layers["film"].splits)))
        hidden = rows
        for k in range(len(model.hidden)):
            weight, bias = (layers[f"hidden_{k + 1}.{kind}"] for kind in ("weight", "bias"))
            if k == 0:
                bias = bias + weight[:, :num_shared] @ user
                weight = weight[:, num_shared:]
            hidden = hidden @ weight.T + bias
            if film:
                scale, shift = film[2 * k : 2 * k + 2]
                hidden = (1 + scale if model.is_film_residual else scale) * hidden + shift
            hidden = _activated(model.activation, hidden)
        output = hidden @ layers["output.weight"][0] + layers["output.bias"]
        if model.has_kernel:
            weighted = layers["kernel.weight"][0] * context[1]
            output = output + rows @ weighted[num_shared:] + weighted[:num_shared] @ user
        return output

    # --- the Bayesian factorisation -----------------------------------------------------------

    def _factorisation(
        self, tables: Tables, known: Tensor, rating: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Its ratings of the items [m], and whether it knows them."""
        content_mean = tables["items.content_mean"]
        residual = rating.double() - content_mean.index_select(0, known)
        x = self._fold_in(tables, known, residual)
        position = tables["items.mf_position"].index_select(0, items)
        t = tables["mf.mean"].index_select(1, position.clamp(min=0))
        predicted = (t[:, :, 0] + (t[:, :, 1:] @ x.unsqueeze(2)).squeeze(2)).mean(0)
        rating_of_items = predicted + content_mean.index_select(0, items)
        return rating_of_items.clamp(self.form.lowest, self.form.highest), position >= 0

    def _fold_in(self, tables: Tables, known: Tensor, residual: Tensor) -> Tensor:
        """E[x] [S, E] of the user, given what ratings leave of content means [n]."""
        position = tables["items.mf_position"].index_select(0, known)
        is_known = (position >= 0).double().unsqueeze(1)
        position = position.clamp(min=0)
        loading = tables["mf.mean"].index_select(1, position)[:, :, 1:] * is_known
        variance = (tables["mf.variance"].index_select(1, position) * is_known).sum(1)
        with_offset = (tables["mf.with_offset"].index_select(1, position) * is_known).sum(1)
        noise = self.mixture_noise
        precision = (loading.mT @ loading + torch.diag_embed(variance)) / noise[:, None, None]
        linear = ((loading * residual.unsqueeze(1)).sum(1) - with_offset) / noise[:, None]
        prior_linear = self.mixture_mean @ self.mixture_precision
        both = linear.unsqueeze(1) + prior_linear
        root = torch.linalg.cholesky(precision + self.mixture_precision)
        mean = torch.cholesky_solve(both.mT, root).mT
        evidence = (mean * both).sum(2) - (prior_linear * self.mixture_mean).sum(2)
        share = torch.softmax(torch.log(self.mixture_weight) + evidence / 2, 1)
        return (share.unsqueeze(2) * mean).sum(1)


def _context(user: Tensor, support: Tensor, row_weight: Tensor, label: Tensor) -> Tensor:
    """[2, D] the shrunk mean of the support's features, and of features times labels."""
    weights = torch.stack((row_weight, row_weight * label))
    return torch.cat((weights.sum(1, keepdim=True) * user, weights @ support), 1)


def _activated(name: str, z: Tensor) -> Tensor:
    if name == "tanh":
        return _Tanh.apply(z)
    if name == "relu":
        return torch.where(z > 0, z, torch.zeros_like(z))
    return F.gelu(z) if name == "gelu" else z


class _Tanh(torch.autograd.Function):
    """tanh whose gradient is taken from its input.

    The library's own keeps its output for the gradient. A program that is traced through
    ``torch.autograd.grad`` loses track of an output that is kept (seen with torch 2.13.0), as it
    would of that of a relu; inputs that are kept it knows.
    """

    @staticmethod
    def forward(context: Any, z: Tensor) -> Tensor:
        context.save_for_backward(z)
        return torch.tanh(z)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (z,) = context.saved_tensors
        return gradient * (1 - torch.tanh(z).square())
