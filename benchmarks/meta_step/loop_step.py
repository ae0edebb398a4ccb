"""A meta step by loops over users, in autograd.

Shapes: B users, n rows of one user's set, F feature fields, M slots (embedding rows that make up
features), D input width, d embedding width.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.meta_step.reference import ReferenceStep, UserSet, user_loss
from benchmarks.naive import User
from greatmeta_dist.meta.batch import RowSet, SlotTable, TaskBatch
from greatmeta_dist.meta.factors import COSINE_EPS
from greatmeta_dist.meta.gradients import Layers


@dataclass(frozen=True)
class Slots:
    """The embedding rows that make up the features of some entities."""

    row: Tensor
    """[M]"""
    weight: Tensor
    """[M]"""
    start: Tensor
    """[entities, F] first slot of each field."""

    @classmethod
    def of(cls, table: SlotTable, entities: Tensor, rows: Tensor) -> "Slots":
        """Those of the chosen entities; ``rows`` are the batch's distinct embedding rows."""
        start = torch.cat((table.start.flatten(), torch.tensor([len(table.row)])))
        num_fields = table.start.shape[1]
        field = (entities[:, None] * num_fields + torch.arange(num_fields)).flatten()
        first, length = start[field], start[field + 1] - start[field]
        ends = length.cumsum(0)
        at = torch.arange(int(ends[-1])) + (first - ends + length).repeat_interleave(length)
        new_start = (ends - length).view(-1, num_fields)
        return cls(rows[table.row[at]], table.weight[at], new_start)

    def pool(self, table: Tensor) -> Tensor:
        """Features [entities, F·d] from the table of all embedding rows."""
        pooled = F.embedding_bag(
            self.row, table, self.start.flatten(), mode="sum", per_sample_weights=self.weight
        )
        return pooled.view(len(self.start), -1)


@dataclass(frozen=True)
class LoopSet:
    """One user's support or query set."""

    item: Slots
    label: Tensor
    """[n]"""
    row_weight: Tensor
    """[n]"""


@dataclass(frozen=True)
class LoopUser:
    """One user's task, picked out of its batch before the clock starts."""

    user: Slots
    support: LoopSet
    query: LoopSet


class LoopStep(ReferenceStep):
    """One user after the other."""

    def prepare(self, batch: TaskBatch) -> list[LoopUser]:
        """The batch's users, one by one."""

        def loop_set(rows: RowSet, user: int) -> LoopSet:
            item = Slots.of(batch.item_slots, rows.item[user], batch.rows)
            return LoopSet(item, rows.label[user], rows.row_weight[user])

        return [
            LoopUser(
                Slots.of(batch.user_slots, torch.tensor([user]), batch.rows),
                loop_set(batch.supports[0].rows, user),
                loop_set(batch.query, user),
            )
            for user in range(batch.num_users)
        ]

    def __call__(self, users: list[LoopUser]) -> Tensor:
        """A step; the users' losses [B]."""
        losses, grads, gaps = (
            list(column)
            for column in zip(*(self._task_gradient(user) for user in users), strict=True)
        )
        columns = _columns(grads, gaps)
        params = [*self.layers.values(), self.weight]
        first_weights = self.scheduler(columns)
        ahead = [
            param.detach() - self.rate * _weighted_sum(first_weights, gradients)
            for param, gradients in zip(params, zip(*grads, strict=True), strict=True)
        ]
        layers_ahead = dict(zip(self.layers, ahead, strict=False))
        loss_ahead = torch.stack(
            [self._loss(ahead[-1], layers_ahead, user, user.query) for user in users]
        ).mean()
        weights = self.update_scheduler(loss_ahead, columns)
        *layers, rows = (_weighted_sum(weights, g) for g in zip(*grads, strict=True))
        self.update_theta(layers, torch.arange(len(rows)), rows)
        return torch.stack(losses)

    def _task_gradient(self, user: LoopUser) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """The query loss after adaptation, g of A and of the table, and the gap factors."""
        a = {k: v.detach().clone().requires_grad_() for k, v in self.layers.items()}
        for _ in range(self.inner.num_steps):
            loss = self._loss(self.weight, a, user, user.support)
            inner_grads = torch.autograd.grad(loss, list(a.values()))
            a = {
                k: (v - self.inner.learning_rate * g).detach().requires_grad_()
                for (k, v), g in zip(a.items(), inner_grads, strict=True)
            }
        loss = self._loss(self.weight, a, user, user.query)
        grads = torch.autograd.grad(loss, [*a.values(), self.weight])
        unadapted_loss = self._loss(self.weight, self.layers, user, user.query)
        unadapted = torch.autograd.grad(unadapted_loss, list(self.layers.values()))
        gap = torch.stack([_cosine(g, g0) for g, g0 in zip(grads, unadapted, strict=False)])
        return loss.detach(), grads, gap

    def _loss(self, table: Tensor, a: Layers, user: LoopUser, rows: LoopSet) -> Tensor:
        row_set = support = _embedded(table, user, rows)
        if rows is not user.support and self.model.has_support_gradient:
            support = _embedded(table, user, user.support)
        return user_loss(self.model, a, row_set, support)


def _embedded(table: Tensor, user: LoopUser, rows: LoopSet) -> UserSet:
    item = rows.item.pool(table)
    x = torch.cat((user.user.pool(table).expand(len(item), -1), item), 1)
    return UserSet(x, rows.label, rows.row_weight)


def _columns(grads: list[tuple[Tensor, ...]], gaps: list[Tensor]) -> Tensor:
    """The factors of all users as columns [B, ·]."""
    mean = [torch.stack(gradients).mean(0) for gradients in zip(*grads, strict=True)]
    agreement = [
        torch.stack(
            [_cosine(g, m) for g, m in zip(of_user[:-1], mean[:-1], strict=True)]
            + [(of_user[-1] * mean[-1]).sum()]
        )
        for of_user in grads
    ]
    magnitude = torch.stack([torch.stack([g.norm() for g in of_user]).sum() for of_user in grads])
    kinds = (magnitude[:, None], torch.stack(gaps), torch.stack(agreement))
    return torch.cat(kinds, 1).detach()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    norms = a.norm().clamp(min=COSINE_EPS) * b.norm().clamp(min=COSINE_EPS)
    return (a * b).sum() / norms


def _weighted_sum(weights: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
    return sum(w * g for w, g in zip(weights, gradients, strict=True))


def naive_users(batch: TaskBatch) -> list[User]:
    """A batch's tasks in the plainest form."""

    def lists(slots: SlotTable, entity: int) -> list[list[int]]:
        first, num_fields = entity * slots.start.shape[1], slots.start.shape[1]
        ends = [*slots.start.flatten().tolist(), len(slots.row)][first : first + num_fields + 1]
        return [batch.rows[slots.row[a:b]].tolist() for a, b in itertools.pairwise(ends)]

    def rows(row_set: RowSet, user: int) -> tuple[list[list[list[int]]], list[float]]:
        is_row = row_set.row_weight[user] > 0
        items = row_set.item[user][is_row].tolist()
        return [lists(batch.item_slots, k) for k in items], row_set.label[user][is_row].tolist()

    return [
        User(lists(batch.user_slots, i), *rows(batch.supports[0].rows, i), *rows(batch.query, i))
        for i in range(batch.num_users)
    ]
