"""The step in lower precision, and on a GPU, where it never waits for the device."""

import numpy as np
import pytest
import torch
from random_tasks import make_tasks

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.lane_exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.extensions import WEIGHTINGS
from greatmeta_dist.meta.batch import StepBatch, to_device
from greatmeta_dist.meta.factor_averages import FactorAverages
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.step import MetaStep, StepSettings


class Steps:
    """A few steps on the same two length buckets; the losses of each."""

    def __init__(self, *, device="cpu", is_bf16=False, kind="mlp"):
        self.device = torch.device(device)
        tasks = make_tasks(np.random.default_rng(0), num_users=12)
        buckets = [
            build_batch(
                tasks.table,
                tasks.items,
                chosen,
                has_support_gradient=True,
                has_row_norms=True,
                user_index=chosen,
            )
            for chosen in np.array_split(np.arange(12), 2)
        ]
        self.batch = to_device(StepBatch.of([buckets]), self.device)
        torch.manual_seed(0)
        model = Recommender(
            2, 3, embedding_dim=8, hidden=(16, 16), activation="tanh", context="support"
        )
        layers = model.init_layers(torch.Generator().manual_seed(0))
        self.layers = FlatLayers({k: v.to(self.device) for k, v in layers.items()})
        weighting = WEIGHTINGS.get(kind)(magnitude="norm")
        sizes = FactorSizes.of(model, weighting.factor_spec)
        scheduler = weighting.make_scheduler(sizes)
        scheduler = scheduler.to(self.device) if scheduler else None
        self.coordinator = Coordinator(
            self.layers,
            scheduler,
            weighting=weighting,
            outer_rate=1e-2,
            scheduler_rate=1e-3,
            ema_decay=0.9,
        )
        weight = 0.1 * torch.randn(tasks.num_rows, 8)
        self.table = EmbeddingTable(weight.to(self.device), rate=1e-2, ema_decay=0.9)
        settings = StepSettings(12, 1e-2, is_bf16=is_bf16)
        averages = None
        if kind == "balanced":
            averages = FactorAverages(12, sizes, self.device, first_user=0)
        self.step = MetaStep(model, InnerLoop(3, 0.01), weighting, settings, averages)

    def take(self, count: int) -> torch.Tensor:
        losses = []
        for _ in range(count):
            exchange = LaneExchange(
                self.batch, self.table, self.layers, self.coordinator, Communicator()
            )
            self.step(self.batch.batches, self.layers, exchange=exchange)
            losses.append(self.coordinator.report.user_statistics.losses[:, 0])
        return torch.stack(losses)


@pytest.mark.parametrize("kind", ["uniform", "mlp", "balanced"])
def test_bf16_passes_learn_what_float32_learns(kind):
    exact = Steps(kind=kind).take(25)
    low = Steps(is_bf16=True, kind=kind).take(25)
    assert low.dtype == torch.float32
    assert not torch.equal(low, exact)
    torch.testing.assert_close(low[:8], exact[:8], rtol=0.05, atol=0.02)
    learned = [float(losses[0].mean() - losses[-1].mean()) for losses in (exact, low)]
    assert learned[0] > 0.2
    assert learned[1] == pytest.approx(learned[0], rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("is_bf16", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "mlp", "balanced"])
def test_a_step_never_waits_for_the_gpu(is_bf16, kind):
    steps = Steps(device="cuda", is_bf16=is_bf16, kind=kind)
    steps.take(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = steps.take(3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = Steps(kind=kind).take(4)[1:]
    tolerance = 0.05 if is_bf16 else 1e-3
    torch.testing.assert_close(losses.cpu(), expected, rtol=tolerance, atol=tolerance)
