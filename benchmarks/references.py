"""What the fast step is measured against: loops over users, and per-user gradients by ``vmap``.

All take a meta step on a ``TaskBatch``, in autograd, with every user's gradient of A formed:
``naive.NaiveStep``, which embeds row by row as DESIGN.md section 2 writes it, ``LoopStep``, the
same loop with a user's set embedded at once, and ``VmapStep``, all users at once.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from benchmarks.naive import ACTIVATIONS, User
from greatmeta_dist.engine.coordinator import GRADIENT_BOUND
from greatmeta_dist.meta.batch import RowSet, SlotTable, TaskBatch
from greatmeta_dist.meta.factors import COSINE_EPS, Factors
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.gradients import Layers
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.row_gradients import RowGradients
from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.set_input import embed

Set = tuple[Tensor, Tensor, Tensor]
"""x [n, D], labels [n], shares [n] of one user's set."""


def predict(model: Recommender, a: Layers, x: Tensor, context: Tensor | None) -> Tensor:
    """One user's predictions [n] from x [n, D] and a context [C]."""
    scales: list[Tensor] = []
    shifts: list[Tensor] = []
    if context is not None:
        code = F.linear(context, a["encoder.weight"], a["encoder.bias"])
        film = F.linear(code, a["film.weight"]).split(model.layers["film"].splits)
        scales, shifts = list(film[0::2]), list(film[1::2])
    h = x
    for k in range(len(model.hidden)):
        h = F.linear(h, a[f"hidden_{k + 1}.weight"], a[f"hidden_{k + 1}.bias"])
        if context is not None:
            h = (scales[k] + float(model.is_film_residual)) * h + shifts[k]
        h = ACTIVATIONS[model.activation](h)
    return F.linear(h, a["output.weight"], a["output.bias"]).squeeze(-1)


def user_loss(model: Recommender, a: Layers, rows: Set, support: Set) -> Tensor:
    """One user's mean squared error on a set; ``support`` where the context is made of it."""
    x, label, share = rows
    context = None
    if model.has_encoder and model.context == "own":
        context = share @ x
    elif model.has_encoder:
        context = torch.cat((support[2] @ support[0], (support[2] * support[1]) @ support[0]))
    prediction = predict(model, a, x, context)
    if model.has_kernel:
        assert context is not None
        prediction = prediction + F.linear(
            x * context[model.input_dim :], a["kernel.weight"]
        ).squeeze(-1)
    return ((prediction - label).square() * share).sum()


class _Reference:
    """θ, φ and both Adams."""

    def __init__(
        self,
        model: Recommender,
        layers: Layers,
        weight: Tensor,
        scheduler: Scheduler,
        inner: InnerLoop,
        *,
        rate: float,
        scheduler_rate: float,
    ):
        self.model, self.inner, self.rate, self.scheduler = model, inner, rate, scheduler
        self.layers = {k: v.clone().requires_grad_() for k, v in layers.items()}
        self.weight = weight.clone().requires_grad_()
        self.theta = torch.optim.Adam(self.layers.values(), lr=rate)
        self.rows = torch.optim.SparseAdam([self.weight], lr=rate)
        self.phi = torch.optim.Adam(scheduler.parameters(), lr=scheduler_rate)

    def _update_scheduler(self, loss: Tensor, columns: Tensor) -> Tensor:
        """One Adam step on φ along the gradient of a loss; the new weights."""
        self.phi.zero_grad()
        loss.backward(inputs=list(self.scheduler.parameters()))
        torch.nn.utils.clip_grad_value_(self.scheduler.parameters(), GRADIENT_BOUND)
        self.phi.step()
        with torch.no_grad():
            return self.scheduler(columns)

    def _move(self, layers: list[Tensor], rows: Tensor, row_grad: Tensor) -> None:
        for param, g in zip(self.layers.values(), layers, strict=True):
            param.grad = g.clamp(-GRADIENT_BOUND, GRADIENT_BOUND)
        self.weight.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0),
            row_grad.clamp(-GRADIENT_BOUND, GRADIENT_BOUND),
            self.weight.shape,
            is_coalesced=True,
            check_invariants=False,
        )
        self.theta.step()
        self.rows.step()


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    norms = left.norm().clamp(min=COSINE_EPS) * right.norm().clamp(min=COSINE_EPS)
    return (left * right).sum() / norms


@dataclass
class _User:
    """One user's slots, picked before the clock starts."""

    user: tuple[Tensor, Tensor, Tensor]
    support: tuple[Tensor, Tensor, Tensor]
    query: tuple[Tensor, Tensor, Tensor]
    support_rows: tuple[Tensor, Tensor]
    query_rows: tuple[Tensor, Tensor]


class LoopStep(_Reference):
    """One user after the other."""

    def prepare(self, batch: TaskBatch) -> list[_User]:
        return [
            _User(
                _slots(batch.user_slots, torch.tensor([i]), batch.rows),
                _slots(batch.item_slots, batch.support.item[i], batch.rows),
                _slots(batch.item_slots, batch.query.item[i], batch.rows),
                (batch.support.label[i], batch.support.row_weight[i]),
                (batch.query.label[i], batch.query.row_weight[i]),
            )
            for i in range(batch.num_users)
        ]

    def _loss(self, table: Tensor, a: Layers, user: _User, which: str) -> Tensor:
        rows = self._set(table, user, which)
        is_enough = which == "support" or not self.model.has_support_gradient
        return user_loss(
            self.model, a, rows, rows if is_enough else self._set(table, user, "support")
        )

    def _set(self, table: Tensor, user: _User, which: str) -> Set:
        own = _pool(table, user.user)
        item = _pool(table, getattr(user, which))
        x = torch.cat((own.expand(len(item), -1), item), 1)
        return x, *getattr(user, f"{which}_rows")

    def __call__(self, users: list[_User]) -> Tensor:
        names = list(self.layers)
        grads, gaps, losses = [], [], []
        for user in users:
            a = {k: v.detach().clone().requires_grad_() for k, v in self.layers.items()}
            for _ in range(self.inner.num_steps):
                loss = self._loss(self.weight, a, user, "support")
                found = torch.autograd.grad(loss, list(a.values()))
                a = {
                    k: (v - self.inner.learning_rate * g).detach().requires_grad_()
                    for (k, v), g in zip(a.items(), found, strict=True)
                }
            loss = self._loss(self.weight, a, user, "query")
            own = torch.autograd.grad(loss, [*a.values(), self.weight])
            before = torch.autograd.grad(
                self._loss(self.weight, self.layers, user, "query"), list(self.layers.values())
            )
            losses.append(loss.detach())
            grads.append(own)
            gaps.append(torch.stack([_cosine(g, b) for g, b in zip(own, before, strict=False)]))
        mean = [torch.stack(parts).mean(0) for parts in zip(*grads, strict=True)]
        agreement = [
            torch.stack(
                [_cosine(g, m) for g, m in zip(own[:-1], mean[:-1], strict=True)]
                + [(own[-1] * mean[-1]).sum()]
            )
            for own in grads
        ]
        magnitude = torch.stack([torch.stack([g.norm() for g in own]).sum() for own in grads])
        columns = torch.cat(
            (magnitude[:, None], torch.stack(gaps), torch.stack(agreement)), 1
        ).detach()
        first = self.scheduler(columns)
        ahead = [
            p.detach() - self.rate * _weighted(first, parts)
            for p, parts in zip(
                [*self.layers.values(), self.weight], zip(*grads, strict=True), strict=True
            )
        ]
        there = dict(zip(names, ahead, strict=False))
        total = torch.stack([self._loss(ahead[-1], there, user, "query") for user in users]).mean()
        weights = self._update_scheduler(total, columns)
        *layers, rows = (_weighted(weights, parts) for parts in zip(*grads, strict=True))
        self._move(layers, torch.arange(len(rows)), rows)
        return torch.stack(losses)


def naive_users(batch: TaskBatch) -> list[User]:
    """A batch's tasks in the plainest form."""

    def lists(slots: SlotTable, entity: int) -> list[list[int]]:
        first, fields = entity * slots.start.shape[1], slots.start.shape[1]
        ends = [*slots.start.flatten().tolist(), len(slots.row)][first : first + fields + 1]
        return [batch.rows[slots.row[a:b]].tolist() for a, b in itertools.pairwise(ends)]

    def rows(which: RowSet, user: int) -> tuple[list[list[list[int]]], list[float]]:
        kept = which.row_weight[user] > 0
        items = which.item[user][kept].tolist()
        return [lists(batch.item_slots, k) for k in items], which.label[user][kept].tolist()

    return [
        User(lists(batch.user_slots, i), *rows(batch.support, i), *rows(batch.query, i))
        for i in range(batch.num_users)
    ]


def _weighted(weights: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    return sum(w * g for w, g in zip(weights, parts, strict=True))


def _slots(table: SlotTable, entities: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The slots of chosen entities: embedding rows, weights, and the first of each field."""
    start = torch.cat((table.start.flatten(), torch.tensor([len(table.row)])))
    num_fields = table.start.shape[1]
    field = (entities[:, None] * num_fields + torch.arange(num_fields)).flatten()
    first, length = start[field], start[field + 1] - start[field]
    ends = length.cumsum(0)
    at = torch.arange(int(ends[-1])) + (first - ends + length).repeat_interleave(length)
    return rows[table.row[at]], table.weight[at], (ends - length).view(-1, num_fields)


def _pool(table: Tensor, slots: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    row, weight, start = slots
    pooled = F.embedding_bag(
        row, table, start.flatten(), mode="sum", per_sample_weights=weight, sparse=False
    )
    return pooled.view(len(start), -1)


class VmapStep(_Reference):
    """All users at once through ``torch.func.vmap``, every user's gradient of A formed."""

    def __call__(self, batch: TaskBatch) -> Tensor:
        model = self.model
        layers = {k: v.detach() for k, v in self.layers.items()}
        rows = self.weight.detach()[batch.rows]
        support, query = _sets(batch, rows)
        found = vmap(lambda s, q: _task(model, self.inner, layers, s, q))(support, query)
        loss, own, d_support, d_query, before = found
        row_grads = self._row_gradients(batch, d_support, d_query)
        everyone = torch.full_like(loss, 1 / len(loss))
        mean = {k: torch.tensordot(everyone, g, 1) for k, g in own.items()}
        columns = _columns(own, before, mean, row_grads, everyone).columns()
        weights = self.scheduler(columns)
        first = weights.detach()
        ahead = {k: p - self.rate * torch.tensordot(first, own[k], 1) for k, p in layers.items()}
        rows_ahead = rows - self.rate * row_grads.weighted_sum(first)
        total, total_rows = self._look_ahead(batch, ahead, rows_ahead)
        weight_gradients = row_grads.dot_shared(total_rows).sum(1)
        for k, g in own.items():
            weight_gradients = weight_gradients + g.flatten(1) @ total[k].flatten()
        final = self._update_scheduler(-self.rate * (weights * weight_gradients).mean(), columns)
        moves = [torch.tensordot(final, g, 1) for g in own.values()]
        self._move(moves, batch.rows, row_grads.weighted_sum(final))
        return loss

    def _look_ahead(self, batch: TaskBatch, layers: Layers, rows: Tensor) -> tuple[Layers, Tensor]:
        rows = rows.requires_grad_()
        support, query = _sets(batch, rows)
        layers = {k: v.requires_grad_() for k, v in layers.items()}
        loss = vmap(lambda s, q: user_loss(self.model, layers, q, s))(support, query).sum()
        *found, row_grad = torch.autograd.grad(loss, [*layers.values(), rows])
        return dict(zip(layers, found, strict=True)), row_grad

    def _row_gradients(self, batch: TaskBatch, d_support: Tensor, d_query: Tensor) -> RowGradients:
        num_user = self.model.num_user_fields * self.model.embedding_dim
        user, query = d_query[:, :, :num_user].sum(1), d_query[:, :, num_user:]
        if not self.model.has_support_gradient:
            return RowGradients(user, query, None, None, batch)
        each = torch.eye(d_support.shape[1]).expand(len(user), -1, -1)
        user = user + d_support[:, :, :num_user].sum(1)
        return RowGradients(user, query, d_support[:, :, num_user:], each, batch)


def _sets(batch: TaskBatch, rows: Tensor) -> tuple[Set, Set]:
    x = embed(batch, rows)

    def joined(which: RowSet, item: Tensor, user: Tensor) -> Set:
        everywhere = user.unsqueeze(1).expand(-1, item.shape[1], -1)
        return torch.cat((everywhere, item), 2), which.label, which.row_weight

    assert x.support.shared is not None
    return (
        joined(batch.support, x.support.rows, x.support.shared),
        joined(batch.query, x.query.rows, x.support.shared),
    )


def _task(
    model: Recommender, inner: InnerLoop, layers: Layers, support: Set, query: Set
) -> tuple[Tensor, Layers, Tensor, Tensor, Layers]:
    """One user: query loss, g of A, gradients of both sets' x, g⁰ of A."""
    a = layers
    for _ in range(inner.num_steps):
        found = grad(lambda a: user_loss(model, a, support, support))(a)
        a = {k: v - inner.learning_rate * found[k] for k, v in a.items()}

    def loss(a: Layers, x_support: Tensor, x_query: Tensor) -> Tensor:
        return user_loss(model, a, (x_query, *query[1:]), (x_support, *support[1:]))

    (own, d_support, d_query), value = grad_and_value(loss, argnums=(0, 1, 2))(
        a, support[0], query[0]
    )
    before = grad(loss)(layers, support[0], query[0])
    return value, own, d_support, d_query, before


def _columns(
    own: Layers, before: Layers, mean: Layers, rows: RowGradients, everyone: Tensor
) -> Factors:
    """The factors, from formed gradients [B, …]; ``film`` counts as one tensor here."""

    def norms(grads: Layers) -> Tensor:
        return torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()], 1)

    own_norms = norms(own)
    mixed = torch.stack([(g * before[k]).flatten(1).sum(1) for k, g in own.items()], 1)
    with_mean = torch.stack([g.flatten(1) @ mean[k].flatten() for k, g in own.items()], 1)
    mean_norms = torch.stack([m.norm() for m in mean.values()])
    row_norms = rows.squared_norms().sqrt()
    agreement = torch.cat(
        (rows.dot_shared(rows.weighted_sum(everyone)), with_mean / (own_norms * mean_norms)), 1
    )
    magnitude = row_norms.sum(1) + own_norms.sum(1)
    gap = mixed / (own_norms * norms(before))
    return Factors(magnitude.unsqueeze(1), gap, agreement, magnitude.new_empty(len(magnitude), 0))
