"""How lanes exchange sums and per-user numbers; here within one process (DESIGN.md section 4)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from greatmeta_dist.engine.coordinator import GRADIENT_BOUND, Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.gradients import MetaGradient


def tree_sum(parts: Sequence[Tensor]) -> Tensor:
    """Add tensors along a fixed binary tree, so that who holds which never changes a bit."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return tree_sum(parts[:half]) + tree_sum(parts[half:])


class LocalExchange:
    """All lanes in this process: the messages of a step, left out."""

    def __init__(self, step: StepBatch, table: EmbeddingTable, coordinator: Coordinator):
        self._step, self._table, self._coordinator = step, table, coordinator
        ends = list(itertools.accumulate(step.lanes))
        self._lanes = [slice(a, b) for a, b in itertools.pairwise([0, *ends])]

    def fetch_rows(self) -> list[Tensor]:
        rows = self._table.fetch(self._step.rows)
        return [rows.index_select(0, at) for at in self._step.positions]

    def sum(self, parts: list[MetaGradient]) -> list[MetaGradient]:
        total = self._total(parts)
        return [
            MetaGradient(total.layers, total.rows.index_select(0, at))
            for at in self._step.positions
        ]

    def gather(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)

    def scatter(self, values: Tensor) -> list[Tensor]:
        return list(values.split([part.num_users for part in self._step.parts]))

    def apply(self, parts: list[MetaGradient]) -> None:
        total = self._total(parts)
        self._coordinator.step(total.layers)
        self._table.step(self._step.rows, total.rows.clamp(-GRADIENT_BOUND, GRADIENT_BOUND))

    def _tree(self, parts: Sequence[Tensor]) -> Tensor:
        """Add within each lane, then over lanes."""
        return tree_sum([tree_sum(parts[lane]) for lane in self._lanes])

    def _total(self, parts: list[MetaGradient]) -> MetaGradient:
        if len(parts) == 1:
            return parts[0]
        layers = {name: self._tree([p.layers[name] for p in parts]) for name in parts[0].layers}
        spread = [
            part.rows.new_zeros(self._step.rows.shape[0], part.rows.shape[1]).index_copy_(
                0, at, part.rows
            )
            for part, at in zip(parts, self._step.positions, strict=True)
        ]
        return MetaGradient(layers, self._tree(spread))
