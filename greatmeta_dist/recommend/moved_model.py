"""A user's model before and after what is known of the user, at any item.

Before, no rating is known and all of the user's features are unknown: A is as training left it, and
the context is zeros. After, the context is made of the known ratings and A is adapted to them.

Shapes: n known ratings, F features of the user, K = n + F causes, the ratings first; d embedding
width, Du = F·d and Di widths of the user's and an item's features, D = Du + Di.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.meta.activations import ACTIVATIONS
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.recommend.moved import Moved, joined
from greatmeta_dist.recommend.rating_moves import Adapted, Support, adapt_by_rating

Layers = Mapping[str, Tensor]


@dataclass(frozen=True)
class KnownRows:
    """The known ratings as the model sees them."""

    items: Tensor
    """[n, Di] features of their items."""
    label: Tensor
    """[n] as ``Support.label``."""
    context_label: Tensor
    """[n] what they tell the context."""
    logit: Tensor | None
    """[n] as ``Support.logit``."""
    row_weight: Tensor
    """[n]"""


@dataclass(frozen=True)
class MovedModel:
    """One user's model; ``at`` predicts an item."""

    model: Recommender
    before: Layers
    adapted: Adapted
    user: Moved
    """[Du]"""
    mean: Moved
    """[D] the label-weighted half of the context, which the kernel reads."""
    film: list[Moved]
    """Scale and shift of each hidden layer, one after the other; empty without encoder."""

    @classmethod
    def of(
        cls,
        model: Recommender,
        layers: Layers,
        inner: InnerLoop,
        user: tuple[Tensor, Tensor],
        rows: KnownRows,
    ) -> "MovedModel":
        """Adapt to the known rows; ``user`` [Du] are the features unknown, and as they are."""
        moved_user = _moved_user(*user, rows, model)
        context = _context(moved_user, rows)
        x = torch.cat((user[1].expand(len(rows.label), -1), rows.items), 1)
        support = Support(
            x,
            torch.stack([half.after for half in context]),
            rows.label,
            rows.logit,
            rows.row_weight,
        )
        adapted = adapt_by_rating(model, layers, support, inner)
        bare = cls(model, layers, adapted, moved_user, context[1], [])
        if not model.has_encoder:
            return bare
        encoded = bare._layer("encoder", joined(context))
        film = bare._layer("film", encoded).split(list(model.layers["film"].splits))
        return cls(model, layers, adapted, moved_user, context[1], film)

    def at(self, item: Tensor) -> Moved:
        """The prediction [1] for an item's features [Di], in the model's units."""
        model, num_causes = self.model, len(self.user.by_cause)
        x = joined([self.user, Moved.fixed(item, num_causes)])
        activation, value = ACTIVATIONS[model.activation], x
        for k in range(len(model.hidden)):
            z = self._layer(f"hidden_{k + 1}", value)
            if self.film:
                scale, shift = self.film[2 * k : 2 * k + 2]
                z = z.times(scale + 1.0 if model.is_film_residual else scale) + shift
            value = z.through(
                activation.forward,
                lambda z: activation.backward(torch.ones_like(z), z, activation.forward(z)),
            )
        prediction = self._layer("output", value)
        if model.has_kernel:
            prediction = prediction + self._layer("kernel", x.times(self.mean))
        return prediction

    def _layer(self, name: str, value: Moved) -> Moved:
        """A layer that each rating moves, at an input that may move, too: both as one product."""
        before, after = (layers[f"{name}.weight"] for layers in (self.before, self.adapted.layers))
        out = Moved(
            before @ value.before,
            after @ value.after,
            value.by_cause @ ((before + after) / 2).T,
        )
        of_ratings = self.adapted.moves[name].at((value.before + value.after) / 2)
        num_features = len(out.by_cause) - len(of_ratings)
        nothing = of_ratings.new_zeros(num_features, of_ratings.shape[1])
        by_cause = out.by_cause + torch.cat((of_ratings, nothing))
        before, after = out.before, out.after
        if self.model.layers[name].has_bias:
            before = before + self.before[f"{name}.bias"]
            after = after + self.adapted.layers[f"{name}.bias"]
        return Moved(before, after, by_cause)


def _moved_user(unknown: Tensor, known: Tensor, rows: KnownRows, model: Recommender) -> Moved:
    """The user's features [Du]; each feature moves its own columns."""
    num_rows, num_fields = len(rows.label), model.num_user_fields
    by_cause = known.new_zeros(num_rows + num_fields, len(known))
    for field in range(num_fields):
        columns = slice(field * model.embedding_dim, (field + 1) * model.embedding_dim)
        by_cause[num_rows + field, columns] = (known - unknown)[columns]
    return Moved(unknown, known, by_cause)


def _context(user: Moved, rows: KnownRows) -> list[Moved]:
    """Both halves [D] of the context."""
    num_features = len(user.by_cause) - len(rows.label)
    halves = []
    for weight in (rows.row_weight, rows.row_weight * rows.context_label):
        of_all = torch.cat((weight, weight.new_zeros(num_features))).unsqueeze(1)
        of_items = torch.cat(
            (weight.unsqueeze(1) * rows.items, rows.items.new_zeros(num_features, _width(rows)))
        )
        total = Moved.from_zero(of_all)
        halves.append(joined([user.times(total), Moved.from_zero(of_items)]))
    return halves


def _width(rows: KnownRows) -> int:
    return rows.items.shape[1]
