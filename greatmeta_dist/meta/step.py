"""One meta step: DESIGN.md section 2, steps 1 to 6, for any number of lanes and workers.

The step sees other lanes, the scheduler φ and the optimizers through an ``Exchange`` alone. Lists
hold one entry for each batch hosted here: one of all lanes, or more (``StepBatch``). Shapes as in
``batch.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from greatmeta_dist.meta.adapt import TaskResults, task_results, unadapted_query_gradients
from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.meta.exchange import Exchange
from greatmeta_dist.meta.factor_averages import FactorAverages
from greatmeta_dist.meta.factors import FactorSpec, gradient_dots, read_factors
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.gradients import LaneSums, Layers, MetaGradient
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import UserWeighting


@dataclass(frozen=True)
class StepSettings:
    """Numbers of a step that neither the model nor the weighting has."""

    users_per_batch: int
    """B of ḡ = (1/B) Σ g: the size of a full global batch. Users who are not finite count as zeros
    in it."""
    look_ahead_rate: float
    """β of θ' = θ − β Σ w g, where φ looks ahead."""
    is_bf16: bool = False
    """Whether passes through the model run in bf16; what is read from them stays as it is."""


@dataclass(frozen=True)
class MetaStep:
    """Adapt, weigh, learn to weigh, move θ."""

    model: Recommender
    inner: InnerLoop
    weighting: UserWeighting
    settings: StepSettings
    averages: FactorAverages | None = None
    """Of the users hosted here, where φ is to see running means of their factors."""

    def __call__(self, batches: Sequence[TaskBatch], layers: Layers, *, exchange: Exchange) -> None:
        """One step on the global batch of which ``batches`` are hosted here; moves θ in place."""
        rows = exchange.fetch_rows()
        # Steps 1 and 2: adapt to every user; its gradients at the adapted and unadapted points.
        results = self._task_results(batches, rows, layers)
        # Step 3: what is read from a user's gradients.
        with record_function("meta/factors"):
            user_statistics = self._user_statistics(batches, results, exchange)
        with record_function("meta/scheduler"):
            # Step 4: how much every user counts. A φ that needs no look ahead has learnt by then.
            weights = exchange.compute_weights(user_statistics)
            # Step 5: where a step with these weights would lead, and what φ learns from it.
            if self.weighting.looks_ahead:
                outer_gradient = exchange.sum(self._weighted_sums(results, weights))()
                gradient_ahead = self._gradient_ahead(
                    batches, rows, layers, outer_gradient, exchange
                )
                weight_gradients = self._weight_gradients(results, gradient_ahead)
                weights = exchange.update_scheduler(weight_gradients)
        # Step 6: move θ along the weighted gradients, which are still those of step 2.
        with record_function("meta/outer update"):
            exchange.apply(self._weighted_sums(results, weights))

    def _task_results(
        self, batches: Sequence[TaskBatch], rows: list[Tensor], layers: Layers
    ) -> list[TaskResults]:
        has_unadapted = self.weighting.factor_spec is not None
        with self.precision(rows[0]):
            return [
                task_results(
                    self.model, batch, batch_rows, layers, self.inner, has_unadapted=has_unadapted
                )
                for batch, batch_rows in zip(batches, rows, strict=True)
            ]

    def _user_statistics(
        self, batches: Sequence[TaskBatch], results: list[TaskResults], exchange: Exchange
    ) -> list[UserStatistics]:
        spec = self.weighting.factor_spec
        factors = [result.losses[:, :0] for result in results]  # [B, 0]: none are read
        if spec is not None:
            factors = self._factor_columns(batches, results, spec, exchange)
        return [
            UserStatistics(result.losses, batch.target_weight, columns)
            for batch, result, columns in zip(batches, results, factors, strict=True)
        ]

    def _factor_columns(
        self,
        batches: Sequence[TaskBatch],
        results: list[TaskResults],
        spec: FactorSpec,
        exchange: Exchange,
    ) -> list[Tensor]:
        """[B, ·] of each batch's users: ``Factors.columns``, or means of them over visits."""
        equal_weights = [
            torch.full_like(result.loss, 1 / self.settings.users_per_batch) for result in results
        ]
        await_mean_gradient = exchange.sum(self._weighted_sums(results, equal_weights))
        dots = [gradient_dots(result) for result in results]  # while the sums are on their way
        columns = [
            read_factors(result, batch_dots, mean_gradient, spec).columns()
            for result, batch_dots, mean_gradient in zip(
                results, dots, await_mean_gradient(), strict=True
            )
        ]
        if self.averages is None:
            return columns
        averaged = []
        for batch, batch_columns in zip(batches, columns, strict=True):
            assert batch.user_index is not None
            averaged.append(self.averages.update(batch.user_index, batch_columns))
        return averaged

    def _gradient_ahead(
        self,
        batches: Sequence[TaskBatch],
        rows: list[Tensor],
        layers: Layers,
        outer_gradient: list[MetaGradient],
        exchange: Exchange,
    ) -> list[MetaGradient]:
        """∇ of all users' summed query loss at θ' = θ − β Σ w g, without adaptation."""
        rate = self.settings.look_ahead_rate
        # θ' = (E', A'). Every batch's entry of the sum has the same tensors of A.
        layers_ahead = {
            name: tensor - rate * outer_gradient[0].layers[name] for name, tensor in layers.items()
        }
        rows_ahead = [  # [U, d] of each batch
            values - rate * gradient.rows
            for values, gradient in zip(rows, outer_gradient, strict=True)
        ]
        with self.precision(rows[0]):
            gradients = [
                unadapted_query_gradients(self.model, batch, batch_rows, layers_ahead, self.inner)
                for batch, batch_rows in zip(batches, rows_ahead, strict=True)
            ]
        ones = [
            values.new_ones(batch.num_users)
            for batch, values in zip(batches, rows_ahead, strict=True)
        ]
        num_users = self.settings.users_per_batch
        return exchange.sum(
            g.weighted_sum(w, num_users) for g, w in zip(gradients, ones, strict=True)
        )()

    def _weight_gradients(
        self, results: list[TaskResults], gradient_ahead: list[MetaGradient]
    ) -> list[Tensor]:
        """∂(Σ L(θ'))/∂w_i = −β ⟨∇Σ L(θ'), g_i⟩ [B]: one number a user is all that travels."""
        rate = self.settings.look_ahead_rate
        return [
            -rate * result.gradients.dots_with(gradient).sum(1)
            for result, gradient in zip(results, gradient_ahead, strict=True)
        ]

    def _weighted_sums(
        self, results: list[TaskResults], weights: list[Tensor]
    ) -> Iterator[LaneSums]:
        """Σ_i w_i g_i over the users of each batch's lanes, each made when it is asked for."""
        return (
            result.gradients.weighted_sum(w, self.settings.users_per_batch)
            for result, w in zip(results, weights, strict=True)
        )

    def precision(self, like: Tensor) -> torch.autocast:
        """The precision of passes through the model, on the device of ``like``."""
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.settings.is_bf16)
