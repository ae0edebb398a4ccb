"""How lanes exchange sums and per-user numbers; here within one process (DESIGN.md section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from greatmeta_dist.engine.coordinator import GRADIENT_BOUND, Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable, StepRows
from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.meta.gradients import MetaGradient


def tree_sum(parts: Sequence[Tensor]) -> Tensor:
    """Add K tensors along the fixed binary tree over lanes, so that W never changes a bit."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return tree_sum(parts[:half]) + tree_sum(parts[half:])


class LocalExchange:
    """All lanes in this process: the messages of a step, left out."""

    def __init__(self, lanes: Sequence[TaskBatch], table: EmbeddingTable, coordinator: Coordinator):
        self._sizes = [batch.num_users for batch in lanes]
        self._step_rows = StepRows.of(lanes)
        self._table = table
        self._coordinator = coordinator

    def fetch_rows(self) -> list[Tensor]:
        rows = self._table.fetch(self._step_rows.rows)
        return [rows[at] for at in self._step_rows.positions]

    def sum(self, parts: list[MetaGradient]) -> list[MetaGradient]:
        total = self._total(parts)
        return [MetaGradient(total.layers, total.rows[at]) for at in self._step_rows.positions]

    def gather(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)

    def scatter(self, values: Tensor) -> list[Tensor]:
        return list(values.split(self._sizes))

    def apply(self, parts: list[MetaGradient]) -> None:
        total = self._total(parts)
        self._coordinator.step(total.layers)
        self._table.step(self._step_rows.rows, total.rows.clamp(-GRADIENT_BOUND, GRADIENT_BOUND))

    def _total(self, parts: list[MetaGradient]) -> MetaGradient:
        layers = {name: tree_sum([p.layers[name] for p in parts]) for name in parts[0].layers}
        if len(parts) == 1:
            return parts[0]
        spread = [
            part.rows.new_zeros(self._step_rows.rows.shape[0], part.rows.shape[1]).index_copy_(
                0, at, part.rows
            )
            for part, at in zip(parts, self._step_rows.positions, strict=True)
        ]
        return MetaGradient(layers, tree_sum(spread))
