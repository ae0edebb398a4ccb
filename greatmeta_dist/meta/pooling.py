"""From embedding rows to features; from items to rows of a set. Shapes as in ``batch.py``."""

import torch.nn.functional as F
from torch import Tensor

from greatmeta_dist.meta.batch import SlotTable


def pool_slots(rows: Tensor, slots: SlotTable) -> Tensor:
    """Feature vectors [entities, fields·d] from embedding rows [U, d]."""
    if not slots.start.numel():
        return rows.new_zeros(slots.start.shape)
    pooled = F.embedding_bag(
        slots.row, rows, slots.start.flatten(), mode="sum", per_sample_weights=slots.weight
    )
    return pooled.view(len(slots.start), -1)


def gather_items(item: Tensor, index: Tensor) -> Tensor:
    """Items' vectors [I, ·] at every row of a set, index [B, n]: [B, n, ·]."""
    return F.embedding(index, item)
