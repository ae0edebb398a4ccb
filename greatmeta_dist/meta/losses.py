"""The loss of a set, and its gradient by the predictions. Shapes: B users, n rows of a set."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from greatmeta_dist.meta.batch import RowSet

Loss = Literal["mse", "bce"]
"""Squared error, for ratings; binary cross-entropy, for clicks."""


def set_loss(prediction: Tensor, rows: RowSet, loss: Loss) -> Tensor:
    """Loss of each user's rows, weighted by ``row_weight`` and summed: [B, n] → [B].

    0 for a user without rows.
    """
    if loss == "mse":
        by_row = (prediction - rows.label).square()
    else:
        by_row = F.binary_cross_entropy_with_logits(
            _logits(prediction, rows), rows.label, reduction="none"
        )
    return (by_row * rows.row_weight).sum(1)


def loss_gradient(prediction: Tensor, rows: RowSet, loss: Loss) -> Tensor:
    """∂ of ``set_loss`` by the predictions: [B, n]."""
    if loss == "mse":
        return (prediction - rows.label) * rows.twice_weight
    return (torch.sigmoid(_logits(prediction, rows)) - rows.label) * rows.row_weight


def _logits(prediction: Tensor, rows: RowSet) -> Tensor:
    return prediction if rows.logit is None else prediction + rows.logit
