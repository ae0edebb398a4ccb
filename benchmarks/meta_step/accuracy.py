"""How far a first step's gradient, factors and weights are from float64's, by precision."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.meta_step.cases import RATE, Case, make_averages
from benchmarks.meta_step.shapes import Shape, make_batch
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.lane_exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.batch import StepBatch, to_device
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.gradients import LaneSums
from greatmeta_dist.meta.step import MetaStep, StepSettings
from greatmeta_dist.meta.weightings.balanced import Balanced
from greatmeta_dist.meta.weightings.look_ahead import MlpLookAhead

NUM_USERS = 64
PRECISIONS = ("float32", "tf32", "bf16")


class FirstStep(NamedTuple):
    """What a first step came to, in float64 whatever computed it."""

    gradient: Tensor
    """The gradient of A that moves θ, end to end."""
    factors: Tensor
    """[B, columns]"""
    weights: Tensor
    """[B]"""


def accuracy(shape: Shape, form: str, device: torch.device) -> list[dict[str, Any]]:
    """Differences from float64, by precision. Without a GPU, TF32 is emulated."""
    exact = _first_step(shape, form, device, "float64")
    results = []
    for precision in PRECISIONS:
        step = _first_step(shape, form, device, precision)
        distance = (step.gradient - exact.gradient).norm() / exact.gradient.norm()
        results.append(
            {
                "precision": precision,
                "gradient": float(distance),
                "factors": float((step.factors - exact.factors).abs().max()),
                "weights": float((step.weights / exact.weights - 1).abs().max()),
            }
        )
    return results


def _first_step(shape: Shape, form: str, device: torch.device, precision: str) -> FirstStep:
    case = Case(shape, form, NUM_USERS, device, precision)
    is_exact = precision == "float64"
    dtype, batch = torch.float32, case.batch
    if is_exact:
        dtype = torch.float64
        batch = to_device(make_batch(shape, case.model, NUM_USERS, dtype=np.float64), device)
    layers = FlatLayers({k: v.to(device, dtype) for k, v in case.layers.items()})
    weighting = Balanced() if form == "shipped" else MlpLookAhead()
    sizes = FactorSizes.of(case.model, weighting.factor_spec)
    torch.manual_seed(0)
    scheduler = weighting.make_scheduler(sizes)
    for param in scheduler.parameters():  # the shipped form starts with equal weights
        torch.nn.init.normal_(param, std=0.1)
    scheduler.to(device, dtype)
    coordinator = Coordinator(
        layers, scheduler, weighting=weighting, outer_rate=RATE, scheduler_rate=RATE / 10
    )
    table = EmbeddingTable(case.weight.to(device, dtype), rate=RATE)
    exchange = _Recorder(StepBatch.of([[batch]]), table, layers, coordinator, Communicator())
    settings = StepSettings(NUM_USERS, RATE, is_bf16=precision == "bf16")
    torch.backends.cuda.matmul.allow_tf32 = precision in ("tf32", "bf16")
    averages = make_averages(weighting, NUM_USERS, sizes, device)
    if averages is not None:
        averages.mean = averages.mean.to(dtype)
    step = MetaStep(case.model, case.inner, weighting, settings, averages)
    is_emulated = precision == "tf32" and device.type == "cpu"
    with _AsTF32() if is_emulated else nullcontext():
        step([batch], layers, exchange=exchange)
    report = coordinator.report
    factors = report.user_statistics.factors.double()
    return FirstStep(exchange.gradient.double(), factors, report.weights.double())


class _Recorder(LaneExchange):
    """Keeps the gradient that would move θ."""

    gradient: Tensor
    """Of A, end to end."""

    def apply(self, gradients: Iterable[LaneSums]) -> None:
        hosted = self._sum_hosted_lanes(gradients)
        layers = hosted.layout.layers(hosted.flat, hosted.by_user)
        self.gradient = torch.cat([layers[name].flatten() for name in self._layers])


class _AsTF32(TorchDispatchMode):
    """Rounds what enters a matrix product to TF32's 10 bits, as a GPU does; sums stay float32."""

    PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::mv", "aten::addmv")

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.name().partition(".")[0] in self.PRODUCTS:
            args = (*args[:-2], *(self.rounded(operand) for operand in args[-2:]))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def rounded(operand: Tensor) -> Tensor:
        """To the nearest number of 10 bits, ties to even: the low 13 of float32's 23 are cut."""
        bits = operand.contiguous().view(torch.int32)
        return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
