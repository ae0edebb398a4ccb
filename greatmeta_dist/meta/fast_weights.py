"""Every user's adapted A_i, as the shared A and how far each layer has moved from it.

The gradient of an inner step is Σ_r δ_r v_rᵀ (``gradients.py``), so after T steps a user's layer is
W + Σ −α δ vᵀ over the rows of all steps: a *low-rank delta*, kept as its δ's and v's. Applied to an
input x it gives W x + Σ (−α δ)(v·x): the shared layer's output, for all users in one product, and a
Gram matrix of inputs times δ's. Where the rows are many and the layer small, W + Σ −α δ vᵀ formed
for every user is the smaller form, a *dense delta*; ``most_low_rank_rows`` decides.

Shapes: B users, r rows that a layer saw, in and out its widths, T inner steps at rate α.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.meta.batch import SupportBucket, TaskBatch
from greatmeta_dist.meta.gradients import Layers
from greatmeta_dist.meta.layer_input import LayerInput, LayerWeight
from greatmeta_dist.meta.linear_gradients import LinearGradients
from greatmeta_dist.meta.losses import Loss


@dataclass(frozen=True)
class InnerLoop:
    """How a user adapts: T steps of gradient descent at rate α on the support loss."""

    num_steps: int
    learning_rate: float
    loss: Loss = "mse"
    is_native: bool = False
    """Whether ``native/`` computes it, where it can."""


class SharedWeights:
    """A, the same for all users."""

    def __init__(self, layers: Layers):
        self.layers = layers
        self._outputs: dict[str, list[tuple[LayerInput, Tensor]]] = {}
        """By layer: the fixed inputs it was applied to, and what it made of them."""
        self._weights: dict[str, LayerWeight] = {}

    def weight(self, name: str, num_shared: int | None) -> LayerWeight:
        """A layer's weight, cut as its inputs are, all of which have as many shared columns."""
        if name not in self._weights:
            self._weights[name] = LayerWeight.cut(self.layers[f"{name}.weight"], num_shared)
        return self._weights[name]

    def bias(self, name: str) -> Tensor | None:
        """A layer's bias [out]."""
        return self.layers.get(f"{name}.bias")

    def apply(self, name: str, value: LayerInput) -> Tensor:
        """[B, r, in] → [B, r, out]; of a fixed input computed once for all inner steps."""
        for known, out in self._outputs.get(name, ()):
            if known is value:
                return out
        out = value.linear(self.weight(name, value.num_shared), self.bias(name))
        if value.is_fixed:
            self._outputs.setdefault(name, []).append((value, out))
        return out

    def vjp(self, name: str, value: LayerInput, delta: Tensor, delta_sum: Tensor) -> LayerInput:
        """As ``passes.Weights.vjp``."""
        return value.vjp(self.weight(name, value.num_shared), delta, delta_sum)


@dataclass(frozen=True)
class LowRankDelta:
    """How far every user's layer has moved, Σ_r (−α δ_r) v_rᵀ, not formed."""

    scaled_delta: Tensor
    """[B, r, out] −α δ_r"""
    inputs: LayerInput
    """[B, r, in] v_r"""
    has_bias: bool

    def __len__(self) -> int:
        return len(self.scaled_delta)


@dataclass(frozen=True)
class DenseDelta:
    """A layer's delta, formed and already added to the shared layer: every user's own layer.

    W is added at once, so that a layer is applied by one product in place of two.
    """

    weight: LayerWeight
    """[B, out, in], in two parts"""
    bias: Tensor | None
    """[B, out]"""

    def __len__(self) -> int:
        return len(self.weight.rows)


@dataclass(frozen=True)
class BucketDeltas:
    """Deltas of the users of each length bucket, whose numbers of rows differ."""

    deltas: list[LowRankDelta | DenseDelta]
    batch: TaskBatch

    def buckets(self) -> list[tuple[SupportBucket, LowRankDelta | DenseDelta]]:
        """Each bucket with its users' delta."""
        return list(zip(self.batch.supports, self.deltas, strict=True))


Delta = LowRankDelta | DenseDelta | BucketDeltas


class FastWeights:
    """Every user's A_i: the shared A, and by layer how far it has moved (nothing: not at all)."""

    def __init__(self, shared: SharedWeights, deltas: dict[str, Delta]):
        self.shared = shared
        self.deltas = deltas

    def apply(self, name: str, value: LayerInput) -> Tensor:
        """[B, r, in] → [B, r, out]: W x + b + Σ (−α δ)(v·x + 1 with a bias)."""
        moved = self.deltas.get(name)
        if isinstance(moved, DenseDelta):
            return value.linear(moved.weight, moved.bias)
        out = self.shared.apply(name, value)
        if moved is None:
            return out
        if isinstance(moved, BucketDeltas):
            return moved.batch.join(
                [
                    _apply(delta, value.of_users(bucket.users), bucket.take(out))
                    for bucket, delta in moved.buckets()
                ]
            )
        return _apply(moved, value, out)

    def formed(self, name: str, num_users: int) -> tuple[Tensor, Tensor | None]:
        """Every user's own layer: weight [B, out, in] and bias [B, out]."""
        moved = self.deltas.get(name)
        if isinstance(moved, BucketDeltas):
            formed = [
                FastWeights(self.shared, {name: delta}).formed(name, len(delta))
                for delta in moved.deltas
            ]
            biases = [bias for _, bias in formed if bias is not None]
            bias = moved.batch.join(biases) if biases else None
            return moved.batch.join([weight for weight, _ in formed]), bias
        if isinstance(moved, DenseDelta):
            return moved.weight.joined(), moved.bias
        weight = self.shared.layers[f"{name}.weight"].expand(num_users, -1, -1)
        bias = self.shared.bias(name)
        bias = None if bias is None else bias.expand(num_users, -1)
        if moved is None:
            return weight, bias
        total = moved.scaled_delta.sum(1)
        delta = moved.scaled_delta.mT @ moved.inputs.rows
        if moved.inputs.shared is not None:
            common = total.unsqueeze(2) * moved.inputs.shared.unsqueeze(1)
            delta = torch.cat((common, delta), 2)
        return weight + delta, None if bias is None else bias + total

    def vjp(self, name: str, value: LayerInput, delta: Tensor, delta_sum: Tensor) -> LayerInput:
        """As ``passes.Weights.vjp``: Wᵀ δ + Σ ((−α δ')·δ) v'."""
        moved = self.deltas.get(name)
        if isinstance(moved, DenseDelta):
            return value.vjp(moved.weight, delta, delta_sum)
        through_shared = self.shared.vjp(name, value, delta, delta_sum)
        if moved is None:
            return through_shared
        if isinstance(moved, BucketDeltas):
            through = [
                _vjp(d, through_shared.of_users(b.users), b.take(delta), b.take(delta_sum))
                for b, d in moved.buckets()
            ]
            return joined_inputs(through, moved.batch)
        return _vjp(moved, through_shared, delta, delta_sum)

    def sgd_step(self, grads: dict[str, LinearGradients], inner: InnerLoop) -> "FastWeights":
        """One inner step for every user: A_i − α g_i; in full precision."""
        with torch.autocast(next(iter(grads.values())).delta.device.type, enabled=False):
            moved: dict[str, Delta] = {
                name: self._moved(name, grad, inner) for name, grad in grads.items()
            }
        return FastWeights(self.shared, moved)

    def _moved(
        self, name: str, grad: LinearGradients, inner: InnerLoop
    ) -> LowRankDelta | DenseDelta:
        """A layer's delta after one more step."""
        before = self.deltas.get(name)
        assert not isinstance(before, BucketDeltas)  # a bucket's users adapt by themselves
        num_in = self.shared.layers[f"{name}.weight"].shape[1]
        num_rows, num_out = grad.delta.shape[1:]
        is_fixed = grad.inputs.is_fixed
        if num_rows > most_low_rank_rows(num_in, num_out, inner.num_steps, is_fixed=is_fixed):
            return self._dense_moved(name, grad, before, inner.learning_rate)
        rate, inputs = inner.learning_rate, grad.inputs
        if isinstance(before, LowRankDelta) and before.inputs is inputs:
            # A fixed input: Σ_t δ_t vᵀ, the rank stays r.
            scaled_delta = torch.add(before.scaled_delta, grad.delta, alpha=-rate)
            return LowRankDelta(scaled_delta, inputs, grad.has_bias)
        scaled_delta = grad.delta * -rate
        if isinstance(before, LowRankDelta):
            scaled_delta = torch.cat((before.scaled_delta, scaled_delta), 1)
            inputs = LayerInput(torch.cat((before.inputs.rows, inputs.rows), 1))
        return LowRankDelta(scaled_delta, inputs, grad.has_bias)

    def _dense_moved(
        self,
        name: str,
        grad: LinearGradients,
        before: LowRankDelta | DenseDelta | None,
        rate: float,
    ) -> DenseDelta:
        if isinstance(before, DenseDelta):
            weight, bias = before.weight, before.bias
        else:
            weight = self.shared.weight(name, grad.inputs.num_shared)
            bias = self.shared.bias(name)
        common = weight.shared
        rows = torch.baddbmm(weight.rows, grad.delta.mT, grad.inputs.rows, alpha=-rate)
        if common is not None and grad.inputs.shared is not None:
            delta_sum, shared = grad.delta_sum.unsqueeze(2), grad.inputs.shared.unsqueeze(1)
            common = torch.addcmul(common, delta_sum, shared, value=-rate)
        return DenseDelta(
            LayerWeight(common, rows),
            None if bias is None else torch.add(bias, grad.delta_sum, alpha=-rate),
        )


def _apply(moved: LowRankDelta | DenseDelta, value: LayerInput, out: Tensor) -> Tensor:
    """What users' moved layers make of an input, ``out`` being what the shared layer does."""
    if isinstance(moved, DenseDelta):
        return value.linear(moved.weight, moved.bias)
    gram = value.gram(moved.inputs, with_ones=moved.has_bias)
    return torch.baddbmm(out, gram, moved.scaled_delta)


def _vjp(
    moved: LowRankDelta | DenseDelta, through_shared: LayerInput, delta: Tensor, delta_sum: Tensor
) -> LayerInput:
    """As ``passes.Weights.vjp``, given the gradient through the shared layer."""
    if isinstance(moved, DenseDelta):
        return through_shared.vjp(moved.weight, delta, delta_sum)
    return moved.inputs.add_low_rank_vjp(moved.scaled_delta, delta, delta_sum, through_shared)


def joined(by_bucket: Sequence[FastWeights], batch: TaskBatch) -> FastWeights:
    """A batch's fast weights, from those of its length buckets."""
    if len(by_bucket) == 1:
        return by_bucket[0]
    names = by_bucket[0].deltas
    return FastWeights(
        by_bucket[0].shared,
        {name: _joined([weights.deltas[name] for weights in by_bucket], batch) for name in names},
    )


def _joined(deltas: Sequence[Delta], batch: TaskBatch) -> Delta:
    dense = [delta for delta in deltas if isinstance(delta, DenseDelta)]
    low_rank = [delta for delta in deltas if isinstance(delta, LowRankDelta)]
    if len(dense) == len(deltas):
        common = [d.weight.shared for d in dense if d.weight.shared is not None]
        bias = [d.bias for d in dense if d.bias is not None]
        weight = LayerWeight(
            batch.join(common) if common else None, batch.join([d.weight.rows for d in dense])
        )
        return DenseDelta(weight, batch.join(bias) if bias else None)
    if len({delta.scaled_delta.shape[1] for delta in low_rank}) > 1 or dense:
        plain = [delta for delta in deltas if not isinstance(delta, BucketDeltas)]
        return BucketDeltas(plain, batch)
    return LowRankDelta(
        batch.join([delta.scaled_delta for delta in low_rank]),
        joined_inputs([delta.inputs for delta in low_rank], batch),
        low_rank[0].has_bias,
    )


def joined_inputs(by_bucket: Sequence[LayerInput], batch: TaskBatch) -> LayerInput:
    """A batch's inputs, from those of its length buckets; all have as many rows."""
    shared = [value.shared for value in by_bucket if value.shared is not None]
    return LayerInput(
        batch.join([value.rows for value in by_bucket]), batch.join(shared) if shared else None
    )


def most_low_rank_rows(num_in: int, num_out: int, num_steps: int, *, is_fixed: bool) -> int:
    """Up to how many rows r a layer's delta costs less as δ's and v's than as a copy of the layer
    for every user.

    A fixed input:

    - r ≤ 2T·out: one Gram matrix for all T steps takes r²·in multiplications; forming and applying
      a copy in every step takes 2T·r·in·out.
    - r ≤ in: applying the Gram matrix takes r²·out a step; applying a copy takes r·in·out.

    Any other input:

    - T·r·(out + in) < out·in: r rows of δ and v are kept for each of T steps, or one copy.

    ``LinearGradients.dots`` asks another question, which products are fewer for one gradient whose
    δ's and v's are there already, so its rule is another one: r² against out·in.
    """
    if is_fixed:
        return min(num_in, 2 * num_steps * num_out)
    return (num_out * num_in - 1) // (num_steps * (num_out + num_in))
