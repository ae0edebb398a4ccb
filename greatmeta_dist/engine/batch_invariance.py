"""Whether what is computed for a user depends on who else is in its batch.

A worker's lanes pass through a step as one batch (``meta/batch.py``), and how many lanes it hosts
depends on how many workers there are. Results must not (``lane_exchange.py``). Matrix libraries
choose code by the shapes of products, and promise nothing: so it is tried out, on the batches in
use.
"""

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from greatmeta_dist.meta.adapt import task_results, unadapted_query_gradients
from greatmeta_dist.meta.batch import StepBatch, TaskBatch
from greatmeta_dist.meta.factors import FactorSpec, gradient_dots, read_factors
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.gradients import LaneSums, Layers, MetaGradient, TaskGradients
from greatmeta_dist.meta.model import Recommender

ROUNDING = 1e-3
"""Share of the largest number by which results of two ways may differ."""


def is_batch_invariant(
    together: StepBatch,
    apart: StepBatch,
    *,
    model: Recommender,
    layers: Layers,
    inner: InnerLoop,
    spec: FactorSpec | None,
    users_per_batch: int,
) -> bool:
    """Whether a step's users get the same bits as one batch and lane by lane.

    ``together`` and ``apart`` are the same tasks, in the same order. ``users_per_batch`` is the
    number of users of the global batch.
    """
    values = _random_rows(len(together.rows), model, layers)
    outcomes = [
        [
            torch.cat(list(of_batches))
            for of_batches in zip(
                *(
                    _outcome(
                        model,
                        batch,
                        values.index_select(0, at),
                        layers,
                        inner,
                        spec,
                        users_per_batch,
                    )
                    for batch, at in zip(step.batches, step.positions, strict=True)
                ),
                strict=True,
            )
        ]
        for step in (together, apart)
    ]
    return all(torch.equal(*both) for both in zip(*outcomes, strict=True))


def is_native_right(
    step: StepBatch, *, model: Recommender, layers: Layers, inner: InnerLoop
) -> bool:
    """Whether compiled code adapts a step's users as torch does, but for rounding."""
    for batch in step.batches:
        rows = _random_rows(len(batch.rows), model, layers)
        native, by_torch = (
            task_results(
                model, batch, rows, layers, replace(inner, is_native=is_native), has_unadapted=False
            )
            for is_native in (True, False)
        )
        pairs = [(native.losses, by_torch.losses)]
        for name, gradients in by_torch.gradients.layers.items():
            pairs.append((native.gradients.layers[name].delta, gradients.delta))
        if not all(_agree(*pair) for pair in pairs):
            return False
    return True


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether they are the same but for rounding, where what is expected is finite."""
    is_finite = expected.isfinite()
    found, expected = found[is_finite], expected[is_finite]
    if not expected.numel():
        return True
    return bool((found - expected).abs().max() <= ROUNDING * expected.abs().max())


def _random_rows(num_rows: int, model: Recommender, layers: Layers) -> Tensor:
    """[U, d] embedding rows to try out."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(num_rows, model.embedding_dim, generator=generator)
    return 0.1 * values.to(next(iter(layers.values())))


def _outcome(
    model: Recommender,
    batch: TaskBatch,
    rows: Tensor,
    layers: Layers,
    inner: InnerLoop,
    spec: FactorSpec | None,
    users_per_batch: int,
) -> list[Tensor]:
    """What a step reads from a batch: by user, by lane, or by a lane's row."""
    has_unadapted = spec is not None
    results = task_results(model, batch, rows, layers, inner, has_unadapted=has_unadapted)
    outcome = [results.losses, *_sums(results.gradients, users_per_batch)]
    if spec is not None:
        dots = gradient_dots(results)
        factors = read_factors(results, dots, MetaGradient(layers, rows), spec)
        ahead = unadapted_query_gradients(model, batch, rows, layers, inner)
        outcome += [factors.columns(), *_sums(ahead, users_per_batch)]
    return outcome


def _sums(gradients: TaskGradients, users_per_batch: int) -> list[Tensor]:
    weights = torch.linspace(0.5, 1.5, 7).to(gradients.rows.user)
    num_users = len(gradients.rows.user)
    per_lane = num_users // gradients.rows.batch.num_lanes
    weights = weights.repeat(-(-per_lane // 7))[:per_lane].repeat(num_users // per_lane)
    sums: LaneSums = gradients.weighted_sum(weights, users_per_batch)
    factors = itertools.chain.from_iterable(sums.outer_products.values())
    return [*sums.layers.values(), sums.rows, *factors]
