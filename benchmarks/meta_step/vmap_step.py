"""A meta step for all users at once by ``torch.func.vmap``, in autograd.

Shapes: B users, n rows of a set, U distinct embedding rows of the batch, Fu and Fi fields of user
and item, d embedding width, D = (Fu + Fi)·d.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from benchmarks.meta_step.reference import ReferenceStep, UserSet, user_loss
from greatmeta_dist.meta.batch import RowSet, TaskBatch
from greatmeta_dist.meta.factors import Factors
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.gradients import Layers
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.row_gradients import RowGradients
from greatmeta_dist.meta.set_input import embed


class TaskGradient(NamedTuple):
    """One user's, or by ``vmap`` all users' [B, ·]."""

    loss: Tensor
    """Query loss after adaptation."""
    layers: Layers
    """g of A."""
    support_x: Tensor
    """[n, D] gradient of the support's features."""
    query_x: Tensor
    """[n, D]"""
    unadapted: Layers
    """g⁰ of A."""


class VmapStep(ReferenceStep):
    """All users at once, every user's gradient of A formed."""

    def __call__(self, batch: TaskBatch) -> Tensor:
        """A step; the users' losses [B]."""
        model = self.model
        layers = {k: v.detach() for k, v in self.layers.items()}
        rows = self.weight.detach()[batch.rows]
        support, query = _user_sets(batch, rows)
        task = vmap(lambda s, q: _task_gradient(model, self.inner, layers, s, q))(support, query)
        row_grads = self._row_gradients(batch, task)
        equal = torch.full_like(task.loss, 1 / len(task.loss))
        columns = _factors(task, row_grads, equal).columns()
        weights = self.scheduler(columns)
        loss_ahead = self._loss_ahead(batch, task, row_grads, columns, weights)
        final = self.update_scheduler(loss_ahead, columns)
        layer_sums = [torch.tensordot(final, g, 1) for g in task.layers.values()]
        self.update_theta(layer_sums, batch.rows, row_grads.weighted_sum(final))
        return task.loss

    def _loss_ahead(
        self,
        batch: TaskBatch,
        task: TaskGradient,
        row_grads: RowGradients,
        columns: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """What has the gradient of L_φ with regard to the users' weights [B]."""
        detached = weights.detach()
        layers = {
            k: p.detach() - self.rate * torch.tensordot(detached, task.layers[k], 1)
            for k, p in self.layers.items()
        }
        rows = self.weight.detach()[batch.rows] - self.rate * row_grads.weighted_sum(detached)
        total, total_rows = self._gradient_ahead(batch, layers, rows)
        weight_gradients = row_grads.dots_with(total_rows).sum(1)
        for k, g in task.layers.items():
            weight_gradients = weight_gradients + g.flatten(1) @ total[k].flatten()
        return -self.rate * (weights * weight_gradients).mean()

    def _gradient_ahead(
        self, batch: TaskBatch, layers: Layers, rows: Tensor
    ) -> tuple[Layers, Tensor]:
        """Gradients of the users' summed loss at θ': of A, and of the rows [U, d]."""
        rows = rows.requires_grad_()
        support, query = _user_sets(batch, rows)
        layers = {k: v.requires_grad_() for k, v in layers.items()}
        loss = vmap(lambda s, q: user_loss(self.model, layers, q, s))(support, query).sum()
        *grads, row_grad = torch.autograd.grad(loss, [*layers.values(), rows])
        return dict(zip(layers, grads, strict=True)), row_grad

    def _row_gradients(self, batch: TaskBatch, task: TaskGradient) -> RowGradients:
        num_user_columns = self.model.num_user_fields * self.model.embedding_dim
        user = task.query_x[:, :, :num_user_columns].sum(1)
        query = task.query_x[:, :, num_user_columns:]
        if not self.model.has_support_gradient:
            return RowGradients(user, query, None, [], batch)
        # Each support row stands for a component of the context by itself.
        identity = torch.eye(task.support_x.shape[1]).expand(len(user), -1, -1)
        user = user + task.support_x[:, :, :num_user_columns].sum(1)
        return RowGradients(user, query, task.support_x[:, :, num_user_columns:], [identity], batch)


def _user_sets(batch: TaskBatch, rows: Tensor) -> tuple[UserSet, UserSet]:
    """Support and query sets of all users, [B, n, ·] each, from the distinct rows [U, d]."""
    features = embed(batch, rows)

    def joined(row_set: RowSet, item: Tensor, user: Tensor) -> UserSet:
        repeated = user.unsqueeze(1).expand(-1, item.shape[1], -1)
        return UserSet(torch.cat((repeated, item), 2), row_set.label, row_set.row_weight)

    user = features.supports[0].shared
    assert user is not None
    return (
        joined(batch.supports[0].rows, features.supports[0].rows, user),
        joined(batch.query, features.query.rows, user),
    )


def _task_gradient(
    model: Recommender, inner: InnerLoop, layers: Layers, support: UserSet, query: UserSet
) -> TaskGradient:
    """One user's task: adapted, and its gradients at both points."""
    a = layers
    for _ in range(inner.num_steps):
        inner_grads = grad(lambda a: user_loss(model, a, support, support))(a)
        a = {k: v - inner.learning_rate * inner_grads[k] for k, v in a.items()}

    def loss(a: Layers, support_x: Tensor, query_x: Tensor) -> Tensor:
        return user_loss(model, a, query._replace(x=query_x), support._replace(x=support_x))

    (layer_grads, support_x, query_x), value = grad_and_value(loss, argnums=(0, 1, 2))(
        a, support.x, query.x
    )
    unadapted = grad(loss)(layers, support.x, query.x)
    return TaskGradient(value, layer_grads, support_x, query_x, unadapted)


def _factors(task: TaskGradient, rows: RowGradients, equal: Tensor) -> Factors:
    """The factors, from formed gradients [B, …]; ``film`` counts as one tensor here.

    ``equal`` [B] are the weights of ḡ.
    """

    def norms(grads: Layers) -> Tensor:
        return torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()], 1)

    grads, unadapted = task.layers, task.unadapted
    mean = {k: torch.tensordot(equal, g, 1) for k, g in grads.items()}
    own_norms = norms(grads)
    mixed = torch.stack([(g * unadapted[k]).flatten(1).sum(1) for k, g in grads.items()], 1)
    with_mean = torch.stack([g.flatten(1) @ mean[k].flatten() for k, g in grads.items()], 1)
    mean_norms = torch.stack([m.norm() for m in mean.values()])
    row_norms = rows.squared_norms().sqrt()
    row_dots = rows.dots_with(rows.weighted_sum(equal))
    agreement = torch.cat((row_dots, with_mean / (own_norms * mean_norms)), 1)
    magnitude = row_norms.sum(1) + own_norms.sum(1)
    gap = mixed / (own_norms * norms(unadapted))
    return Factors(magnitude.unsqueeze(1), gap, agreement, magnitude.new_empty(len(magnitude), 0))
