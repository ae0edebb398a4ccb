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
from greatmeta_dist.meta.layer_input import LayerInput, LayerWeight
from greatmeta_dist.meta.model import ONE_ROW_LAYERS, Recommender
from greatmeta_dist.meta.native.library import (
    InnerStep,
    OwnDelta,
    Tensors,
    filled_up,
    inner_step,
    num_delta_rows,
)
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
        self._batch = batch
        self._buckets = [
            _Bucket(model, bucket, support, shared, inner)
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
        by_bucket = [bucket.deltas for bucket in self._buckets]
        if len(by_bucket) == 1:
            return dict(by_bucket[0])
        return {
            name: BucketDeltas([deltas[name] for deltas in by_bucket], self._batch)
            for name in by_bucket[0]
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
    ):
        x = support.x
        self.deltas = {
            name: _unmoved(model, name, support, shared, inner)
            for name in model.layers
            if name not in ONE_ROW_LAYERS
        }
        gram = None
        if isinstance(self.deltas["hidden_1"], LowRankDelta) and inner.num_steps > 1:
            num_users, num_rows, _ = x.rows.shape
            gram = x.rows.new_empty(num_users, num_rows, filled_up(num_rows, x.rows))
        self._tensors = Tensors(x.rows)
        self._work = InnerStep(
            call=self._tensors.call(
                model,
                x,
                inner.loss,
                users=bucket.users,
                num_users=len(x.rows),
                num_delta_rows=num_delta_rows(self.deltas.values()),
            ),
            sets=self._tensors.sets(support, bucket.rows, shared.apply("hidden_1", x)),
            layers=self._tensors.layers(
                model, shared, self.deltas, num_steps=0, num_shared=x.num_shared
            ),
            rate=inner.learning_rate,
            gram=self._tensors.pointer(gram),
        )

    def step(self, film: Tensor | None, d_film: Tensor | None) -> None:
        """As ``RowLayers.step``, for the bucket's users; ``d_film`` is written."""
        self._work.sets.film = self._tensors.pointer(film)
        self._work.sets.d_film = self._tensors.pointer(d_film)
        inner_step(self._work)
        self._work.layers.num_steps += 1


def _unmoved(
    model: Recommender, name: str, support: SetInput, shared: SharedWeights, inner: InnerLoop
) -> OwnDelta:
    """A layer's delta before the first step, with room for all: low-rank where that is less."""
    x, shape = support.x, model.layers[name]
    num_users, num_rows, _ = x.rows.shape
    is_fixed, num_out = name in ("hidden_1", "kernel"), sum(shape.splits)
    most = most_low_rank_rows(shape.num_in, num_out, inner.num_steps, is_fixed=is_fixed)
    if not name.startswith("hidden") or num_rows > most:
        return _copies(shared, name, num_users, x.num_shared if is_fixed else None)
    if is_fixed:
        return LowRankDelta(x.rows.new_zeros(num_users, num_rows, num_out), x, shape.has_bias)
    room = num_users, inner.num_steps * num_rows
    rows = LayerInput(x.rows.new_zeros(*room, shape.num_in))
    return LowRankDelta(x.rows.new_zeros(*room, num_out), rows, shape.has_bias)


def _copies(shared: SharedWeights, name: str, num_users: int, num_shared: int | None) -> DenseDelta:
    """A copy of a layer for every user."""
    weight, bias = shared.weight(name, num_shared).of_each(num_users), shared.bias(name)
    common = None if weight.shared is None else _copy(weight.shared)
    return DenseDelta(
        LayerWeight(common, _copy(weight.rows)),
        None if bias is None else _copy(bias.expand(num_users, -1)),
    )


def _copy(expanded: Tensor) -> Tensor:
    return expanded.clone(memory_format=torch.contiguous_format)
