"""The production meta step reproduces the traces of the authors' implementation."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.naive import unstack
from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.lane_exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.extensions import WEIGHTINGS
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.factors import Factors, FactorSizes
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.step import MetaStep, StepSettings
from greatmeta_dist.ragged import Ragged, offsets_of

TRACES = Path(__file__).parent / "parity"
FIELDS = ["age", "gender", "occupation", "zip_code", "movie_title", "release_year", "class"]
LAYER_NAMES = {
    "encoder": "1.phi_encoder.0",
    "hidden_1": "1.predictor_layer_1",
    "hidden_2": "1.predictor_layer_2",
    "output": "1.predictor_layer_3",
    "scale_1": "1.gama_1_encoder.0",
    "shift_1": "1.beta_1_encoder.0",
    "scale_2": "1.gama_2_encoder.0",
    "shift_2": "1.beta_2_encoder.0",
}
LSTM_NAMES = {
    "taskStepSize_lstm": "scorer.magnitude",
    "taskKnowledgeNecessity_lstm": "scorer.gap",
    "taskRationality_lstm": "scorer.agreement",
    "mlp": "scorer.mlp",
}
CASES = {
    "trace_mlp_loss": ("mlp", "loss", True),
    "trace_lstm_norm": ("lstm", "norm", True),
    "trace_no_encoder": ("mlp", "norm", False),
}


def fixed_width(columns: np.ndarray, first_row: int) -> Ragged:
    """A feature with the same number of slots everywhere, in the shared row space."""
    columns = columns.reshape(len(columns), -1) + first_row
    return Ragged(columns.ravel(), offsets_of(np.full(len(columns), columns.shape[1])))


def load_tasks(trace, first_row: dict[str, int]) -> tuple[TaskTable, Features]:
    users = tuple(
        fixed_width(trace["user_features"][:, k], first_row[f]) for k, f in enumerate(FIELDS[:4])
    )
    items = tuple(fixed_width(trace[f"item_{f}"], first_row[f]) for f in FIELDS[4:])
    ragged = [
        Ragged(trace[f"{part}_{what}"], trace[f"{part}_offsets"])
        for part in ("support", "query")
        for what in ("item", "rating")
    ]
    return TaskTable(Features(users, (False,) * 4, (0,) * 4), *ragged), Features(
        items, (False,) * 3, (0,) * 3
    )


def load_trace(name: str, *, has_encoder: bool) -> dict[str, np.ndarray]:
    """A trace with the columns of factors, and of what reads them, in our order of tensors.

    Theirs is the order of the model's modules; ours keeps the stacked FiLM weights together.
    """
    trace = dict(np.load(TRACES / f"{name}.npz"))
    gap = np.array([0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11] if has_encoder else range(6))
    agreement = np.concatenate((np.arange(7), 7 + gap))
    joined = np.concatenate(([0], 1 + gap, 1 + len(gap) + agreement))
    for key in trace:
        if "taskKnowledgeNecessity_lstm.weight_ih" in key or key == "factor_gap":
            trace[key] = trace[key][:, gap]
        if "taskRationality_lstm.weight_ih" in key or key == "factor_agreement":
            trace[key] = trace[key][:, agreement]
        if "scheduler/mlp.0.weight" in key and CASES[name][0] == "mlp":
            trace[key] = trace[key][:, joined]
    return trace


def rename_scheduler(name: str) -> str:
    head, rest = name.split(".", 1)
    return f"{LSTM_NAMES[head]}.{rest}"


@pytest.fixture(params=["native", "torch"], autouse=True)
def adaptation(request, monkeypatch) -> None:
    """Users adapt by compiled code, and by torch."""
    monkeypatch.setattr(sys.modules[__name__], "IS_NATIVE", request.param == "native")


IS_NATIVE = False


class RecordedWeights(Coordinator):
    """Learns as ever, but lets θ move by the trace's own w*: the two trajectories stay together."""

    recorded: torch.Tensor

    def update_scheduler(self, weight_gradients):
        super().update_scheduler(weight_gradients)
        return self.recorded


class Run:
    """The production step over a whole trace; holds what it found, aligned with the trace."""

    def __init__(
        self,
        name: str,
        *,
        dtype: torch.dtype = torch.float32,
        coordinator_type: type[Coordinator] = Coordinator,
    ):
        kind, magnitude, has_encoder = CASES[name]
        self.trace = trace = load_trace(name, has_encoder=has_encoder)
        self.tables = [trace[f"init.meta/0.{f}.weight"] for f in FIELDS]
        first_row = dict(zip(FIELDS, np.cumsum([0, *map(len, self.tables)]), strict=False))
        model = Recommender(4, 3, embedding_dim=8, hidden=(16, 12), has_encoder=has_encoder)
        recorded = {
            n: torch.from_numpy(trace[f"init.meta/{theirs(n)}"]).to(dtype)
            for n in unstack(model, model.init_layers(torch.Generator()))
        }
        film = [t for n, t in recorded.items() if n.startswith(("scale", "shift"))]
        self.layers = FlatLayers(
            {
                n: torch.cat(film) if n == "film.weight" else recorded[n]
                for n in model.init_layers(torch.Generator())
            }
        )
        self.model = model
        weighting = WEIGHTINGS.get(kind)(magnitude=magnitude)
        sizes = FactorSizes.of(model, weighting.factor_spec)
        self.scheduler = weighting.make_scheduler(sizes).to(dtype)
        self.scheduler.load_state_dict(scheduler_state(trace, "init"))
        self.table = EmbeddingTable(
            torch.from_numpy(np.concatenate(self.tables)).to(dtype), rate=2e-3, is_lazy=False
        )
        coordinator = coordinator_type(
            self.layers,
            self.scheduler,
            weighting=weighting,
            outer_rate=2e-3,
            scheduler_rate=2e-3,
        )
        inner = InnerLoop(3, 2e-3, is_native=IS_NATIVE)
        step = MetaStep(model, inner, weighting, StepSettings(16, 2e-3))
        tasks, items = load_tasks(trace, first_row)
        self.loss, first, final, factors = [], [], [], []
        offsets = trace["batch_offsets"]
        for start, stop in itertools.pairwise(offsets):
            users = trace["batch_user"][start:stop]
            batch = build_batch(
                tasks,
                items,
                users,
                has_support_gradient=False,
                has_row_norms=True,
                dtype=str(dtype)[6:],
            )
            if isinstance(coordinator, RecordedWeights):
                coordinator.recorded = torch.from_numpy(trace["weight"][start:stop]).to(dtype)
            exchange = LaneExchange(
                StepBatch.of([[batch]]), self.table, self.layers, coordinator, Communicator()
            )
            step([batch], self.layers, exchange=exchange)
            report = coordinator.report
            self.loss.append(float(report.user_statistics.losses[:, 0].double().sum()))
            first.append(report.first_weights)
            final.append(report.weights)
            factors.append(report.user_statistics.factors)
        self.first_weights, self.weights = torch.cat(first), torch.cat(final)
        self.factors = Factors.from_columns(torch.cat(factors), sizes)

    def assert_losses_and_weights(self):
        np.testing.assert_allclose(self.loss, self.trace["loss_sum"], rtol=1e-5)
        recorded = self.trace["weight_before_scheduler_update"]
        np.testing.assert_allclose(self.first_weights, recorded, rtol=1e-3)
        np.testing.assert_allclose(self.weights, self.trace["weight"], rtol=1e-3)

    def assert_factors(self):
        for kind in ("magnitude", "gap", "agreement"):
            np.testing.assert_allclose(
                getattr(self.factors, kind).squeeze(),
                self.trace[f"factor_{kind}"],
                rtol=0,
                atol=1e-4,
            )

    def assert_theta(self):
        rows = self.table.weight.detach().split([len(t) for t in self.tables])
        found = {f"0.{f}.weight": w for f, w in zip(FIELDS, rows, strict=True)}
        found |= {theirs(n): p.detach() for n, p in unstack(self.model, self.layers).items()}
        for n, param in found.items():
            recorded = self.trace[f"final.meta/{n}"]
            np.testing.assert_allclose(param, recorded, rtol=0, atol=1e-5, err_msg=n)

    def phi_differences(self) -> dict[str, np.ndarray]:
        recorded = scheduler_state(self.trace, "final")
        return {n: (p - recorded[n]).abs().numpy() for n, p in self.scheduler.state_dict().items()}


def theirs(name: str) -> str:
    layer, tensor = name.split(".")
    return f"{LAYER_NAMES[layer]}.{tensor}"


def scheduler_state(trace, when: str) -> dict[str, torch.Tensor]:
    prefix = f"{when}.scheduler/"
    return {
        rename_scheduler(k.removeprefix(prefix)): torch.from_numpy(trace[k])
        for k in trace
        if k.startswith(prefix)
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["trace_mlp_loss", "trace_no_encoder"])
def test_step_reproduces_losses_factors_weights_and_parameters(name, dtype):
    run = Run(name, dtype=dtype)
    run.assert_losses_and_weights()
    run.assert_factors()
    run.assert_theta()
    phi = run.phi_differences()
    # The last bias adds the same to every user's score: its gradient is zero but for rounding, and
    # what Adam makes of rounding is not reproducible.
    phi.pop("scorer.mlp.4.bias")
    beyond = {n: d[d > 1e-5] for n, d in phi.items() if (d > 1e-5).any()}
    # In the first trace one entry of mlp.2.weight, [3, 3], is 1.3e-5 away from what float64 gives.
    allowed = {"scorer.mlp.2.weight"} if name == "trace_mlp_loss" else set()
    assert set(beyond) <= allowed
    assert all(len(d) == 1 and d.max() < 3e-5 for d in beyond.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lstm_step_reproduces_losses_weights_and_theta(dtype):
    """φ is reproduced but for the trace's LSTM bias gradients, which are off by 1e-6 or so.

    At the first update five entries of LSTM biases whose gradient is below 2e-6 (the largest is
    1e-4) have the other sign in the trace; Adam makes 4e-3 of a sign, and these five explain 98.7%
    of how w* differs there. Everything else of φ only follows.
    """
    run = Run("trace_lstm_norm", dtype=dtype)
    run.assert_losses_and_weights()
    run.assert_theta()
    phi = run.phi_differences()
    phi.pop("scorer.mlp.4.bias")
    assert max(d.max() for n, d in phi.items() if ".bias_" in n) < 5e-3
    assert max(d.max() for n, d in phi.items() if ".bias_" not in n) < 5e-4


def test_lstm_step_reproduces_factors_and_theta_along_the_recorded_weights():
    """Factors are compared at the trace's own θ, in float64.

    Left to itself the run's w* differs from the recorded by 1e-4 relative from the first scheduler
    update on, in float32, in float64 and in the naive loop alike, and 11 steps amplify that. In
    float32 one of the 176 magnitudes, 84.4535, is 1.07e-4 off.
    """
    run = Run("trace_lstm_norm", dtype=torch.float64, coordinator_type=RecordedWeights)
    run.assert_factors()
    run.assert_theta()
