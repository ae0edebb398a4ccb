"""A shape at a batch size, and the four ways to take its meta step."""

from collections.abc import Callable
from typing import TypeVar
from unittest import mock

import torch
from torch import Tensor

from benchmarks.meta_step.loop_step import LoopStep, naive_users
from benchmarks.meta_step.reference import ReferenceStep
from benchmarks.meta_step.shapes import Shape, make_batch, make_model
from benchmarks.meta_step.vmap_step import VmapStep
from benchmarks.naive import NaiveStep, Settings, unstack
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.lane_exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.adapt import task_results
from greatmeta_dist.meta.batch import StepBatch, TaskBatch, to_device
from greatmeta_dist.meta.factor_averages import FactorAverages
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.native import library
from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.step import MetaStep, StepSettings
from greatmeta_dist.meta.weightings.balanced import Balanced
from greatmeta_dist.meta.weightings.base import UserWeighting
from greatmeta_dist.meta.weightings.look_ahead import MlpLookAhead

RATE = 1e-3
WEIGHTINGS: dict[str, UserWeighting] = {
    "paper": MlpLookAhead(magnitude="norm"),
    "shipped": Balanced(),
}
"""The weighting of each form."""

Call = Callable[[], Tensor]
"""Takes a step; the users' losses."""
Step = TypeVar("Step", bound=ReferenceStep)


class Case:
    """A shape at a batch size. Each method makes a call that takes the step in one way."""

    def __init__(
        self, shape: Shape, form: str, num_users: int, device: torch.device, precision: str
    ):
        self.model = make_model(shape, form)
        self.inner = InnerLoop(shape.num_steps, RATE, is_native=library.is_available())
        self.batch = to_device(make_batch(shape, self.model, num_users), device)
        self.layers = self.model.init_layers(torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        self.weight = 0.1 * torch.randn(shape.num_rows, shape.embedding_dim, generator=generator)
        self.device, self.precision = device, precision
        self.weighting = WEIGHTINGS[form]

    def ours(self, weighting: UserWeighting | None = None, *, is_compiled: bool = False) -> Call:
        """This project's step, with the form's own weighting where none is given."""
        table = EmbeddingTable(self.weight.to(self.device, copy=True), rate=RATE)
        return make_step(
            self.model,
            self.batch,
            self.layers,
            table,
            self.inner,
            weighting=weighting or self.weighting,
            precision=self.precision,
            is_compiled=is_compiled,
        )

    def vmap(self) -> Call:
        """Per-user gradients by ``vmap``."""
        num_gap = len(self.layers)
        num_fields = self.model.num_user_fields + self.model.num_item_fields
        step = self._reference(VmapStep, FactorSizes(1, num_gap, num_gap + num_fields))
        return lambda: step(self.batch)

    def loop(self) -> Call:
        """A loop over users."""
        step = self._reference(LoopStep, FactorSizes(1, len(self.layers), len(self.layers) + 1))
        users = step.prepare(self.batch)
        return lambda: step(users)

    def naive(self) -> Call:
        """A loop over users that embeds row by row."""
        model = self.model
        num_fields = model.num_user_fields + model.num_item_fields
        settings = Settings(
            num_steps=self.inner.num_steps,
            inner_rate=self.inner.learning_rate,
            outer_rate=RATE,
            scheduler_rate=RATE / 10,
            nominal_users=self.batch.num_users,
            magnitude="loss" if model.has_support_gradient else "norm",
            loss="mse",
            context=model.context,
            has_encoder=model.has_encoder,
            hidden=model.hidden,
            activation=model.activation,
            is_film_residual=model.is_film_residual,
            is_mean=[False] * num_fields,
            has_kernel=model.has_kernel,
        )
        tables = [self.weight.clone() for _ in range(num_fields)]
        sizes = FactorSizes.of(model, MlpLookAhead().factor_spec)
        scheduler = published_scheduler(sizes, torch.device("cpu"))
        step = NaiveStep(tables, unstack(model, self.layers), scheduler, settings)
        users = naive_users(self.batch)
        return lambda: step(users)["loss"]

    def _reference(self, kind: type[Step], sizes: FactorSizes) -> Step:
        return kind(
            self.model,
            {k: v.to(self.device) for k, v in self.layers.items()},
            self.weight.to(self.device),
            published_scheduler(sizes, self.device),
            self.inner,
            rate=RATE,
            scheduler_rate=RATE / 10,
        )


def published_scheduler(sizes: FactorSizes, device: torch.device) -> Scheduler:
    """The published MLP, with the same fresh parameters at every call."""
    torch.manual_seed(0)
    scheduler: Scheduler = MlpLookAhead().make_scheduler(sizes).to(device)
    return scheduler


def make_step(
    model: Recommender,
    batch: TaskBatch,
    layers: dict[str, Tensor],
    table: EmbeddingTable,
    inner: InnerLoop,
    *,
    weighting: UserWeighting,
    precision: str = "float32",
    is_compiled: bool = False,
) -> Call:
    """A whole step on a fixed batch: from distinct rows to updated θ and φ."""
    device = batch.rows.device
    torch.manual_seed(0)
    sizes = FactorSizes.of(model, weighting.factor_spec)
    scheduler = weighting.make_scheduler(sizes)
    theta = FlatLayers({name: tensor.to(device) for name, tensor in layers.items()})
    coordinator = Coordinator(
        theta,
        scheduler.to(device) if scheduler else None,
        weighting=weighting,
        outer_rate=RATE,
        scheduler_rate=RATE / 10,
    )
    settings = StepSettings(batch.num_users, RATE, is_bf16=precision == "bf16")
    averages = make_averages(weighting, batch.num_users, sizes, device)
    step = MetaStep(model, inner, weighting, settings, averages)
    step_batch = to_device(StepBatch.of([[batch]]), device)
    compiled = torch.compile(task_results, dynamic=False) if is_compiled else task_results

    def call() -> Tensor:
        exchange = LaneExchange(step_batch, table, theta, coordinator, Communicator())
        with mock.patch("greatmeta_dist.meta.step.task_results", compiled):
            step([batch], theta, exchange=exchange)
        return coordinator.report.user_statistics.losses[:, 0]

    return call


def make_averages(
    weighting: UserWeighting, num_users: int, sizes: FactorSizes, device: torch.device
) -> FactorAverages | None:
    """Empty factor averages, where the weighting sees them."""
    spec = weighting.factor_spec
    if spec is None or not spec.is_averaged:
        return None
    return FactorAverages(num_users, sizes, device, first_user=0)


def require_same_losses(calls: list[Call]) -> None:
    """Raises ``AssertionError`` unless all ways of taking the step see the same losses."""
    losses = [call() for call in calls]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-4, atol=1e-5)
