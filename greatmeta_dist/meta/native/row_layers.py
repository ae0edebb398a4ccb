"""The layers that see a support's rows, adapted in C: every user's own copies. Shapes as in
``batch.py``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from greatmeta_dist.meta.batch import SupportBucket, TaskBatch
from greatmeta_dist.meta.fast_weights import (
    BucketDeltas,
    Delta,
    DenseDelta,
    InnerLoop,
    LowRankDelta,
    SharedWeights,
    most_low_rank_rows,
)
from greatmeta_dist.meta.layer_input import LayerWeight
from greatmeta_dist.meta.model import ONE_ROW_LAYERS, Recommender
from greatmeta_dist.meta.native.library import InnerStep, Tensors, filled_up, inner_step
from greatmeta_dist.meta.set_input import SetInput


class RowLayers:
    """Every user's own ``hidden_1``, …, ``output`` and ``kernel``, before and between inner steps.

    ``supports`` are the sets of each length bucket's users.
    """

    def __init__(
        self,
        model: Recommender,
        batch: TaskBatch,
        supports: Sequence[SetInput],
        shared: SharedWeights,
        inner: InnerLoop,
    ):
        num_shared = supports[0].x.num_shared
        self._batch = batch
        self._others: dict[str, DenseDelta] = {
            name: _copies(shared, name, batch.num_users, num_shared if name == "kernel" else None)
            for name in model.layers
            if name not in (*ONE_ROW_LAYERS, "hidden_1")
        }
        self._buckets = [
            _Bucket(model, bucket, support, shared, inner, self._others)
            for bucket, support in zip(batch.supports, supports, strict=True)
        ]

    def step(self, film: Tensor | None) -> Tensor | None:
        """One inner step of all users: the layers move, and ∂L/∂film is returned.

        ``film`` [B, 2 Σ h] scales and shifts, as of ``passes.modulation``; None without encoder.
        """
        d_film = None if film is None else torch.empty_like(film)
        for bucket in self._buckets:
            bucket.step(film, d_film)
        return d_film

    def deltas(self) -> dict[str, Delta]:
        """How far every layer has moved."""
        first = [bucket.first for bucket in self._buckets]
        return {
            "hidden_1": first[0] if len(first) == 1 else BucketDeltas(first, self._batch),
            **self._others,
        }


class _Bucket:
    """A length bucket's users."""

    def __init__(
        self,
        model: Recommender,
        bucket: SupportBucket,
        support: SetInput,
        shared: SharedWeights,
        inner: InnerLoop,
        others: dict[str, DenseDelta],
    ):
        x, width = support.x, model.hidden[0]
        num_users, num_rows, _ = x.rows.shape
        most = most_low_rank_rows(x.width, width, inner.num_steps, is_fixed=True)
        self.first: LowRankDelta | DenseDelta
        """How far the first layer has moved."""
        gram = None
        if num_rows <= most:
            self.first = LowRankDelta(x.rows.new_zeros(num_users, num_rows, width), x, True)
            if inner.num_steps > 1:
                gram = x.rows.new_empty(num_users, num_rows, filled_up(num_rows, x.rows))
        else:
            self.first = _copies(shared, "hidden_1", num_users, x.num_shared)
        self._tensors = Tensors()
        self._work = InnerStep(
            call=self._tensors.call(
                model,
                x.rows,
                x.num_shared or 0,
                inner.loss,
                users=bucket.users,
                num_users=num_users,
                num_support_rows=num_rows,
            ),
            sets=self._tensors.sets(support, bucket.rows, shared.apply("hidden_1", x)),
            layers=self._tensors.layers(others, len(model.hidden), is_own=True),
            first=self._tensors.first(self.first, bucket.rows.row_weight),
            is_first_step=True,
            rate=inner.learning_rate,
            gram=self._tensors.pointer(gram),
        )

    def step(self, film: Tensor | None, d_film: Tensor | None) -> None:
        """As ``RowLayers.step``, for the bucket's users; ``d_film`` is written."""
        self._work.sets.film = self._tensors.pointer(film)
        self._work.sets.d_film = self._tensors.pointer(d_film)
        inner_step(self._work)
        self._work.is_first_step = False


def _copies(
    shared: SharedWeights, name: str, num_users: int, num_shared: int | None
) -> DenseDelta:
    """A copy of a layer for every user."""
    weight, bias = shared.weight(name, num_shared).of_each(num_users), shared.bias(name)
    common = None if weight.shared is None else _copy(weight.shared)
    return DenseDelta(
        LayerWeight(common, _copy(weight.rows)),
        None if bias is None else _copy(bias.expand(num_users, -1)),
    )


def _copy(expanded: Tensor) -> Tensor:
    return expanded.clone(memory_format=torch.contiguous_format)
