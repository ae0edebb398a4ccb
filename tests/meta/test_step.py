"""The meta step equals a naive loop over users, in float64."""

import itertools
import sys

import numpy as np
import pytest
import torch
from random_tasks import make_tasks

from benchmarks import naive
from benchmarks.naive import unstack
from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.lane_exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.extensions import WEIGHTINGS
from greatmeta_dist.meta import factors
from greatmeta_dist.meta import step as step_module
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.factor_averages import FactorAverages
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import CONTEXT_COLUMNS, Recommender
from greatmeta_dist.meta.step import MetaStep, StepSettings

CASES = list(
    itertools.product(
        [("own", False), ("own", True), ("support", True)],
        ["mlp", "lstm"],
        ["loss", "norm"],
        ["mse", "bce"],
    )
)


@pytest.fixture(params=["native", "torch"], autouse=True)
def adaptation(request, monkeypatch) -> None:
    """Users adapt by compiled code, and by torch."""
    monkeypatch.setattr(sys.modules[__name__], "IS_NATIVE", request.param == "native")


IS_NATIVE = False


def inner_loop(rate: float, loss: str = "mse") -> InnerLoop:
    return InnerLoop(3, rate, loss, is_native=IS_NATIVE)


@pytest.mark.parametrize("lanes", [[1], [1, 1], [2, 1]], ids=str)
@pytest.mark.parametrize("form, kind, magnitude, loss", CASES)
def test_step_equals_naive_loop(form, kind, magnitude, loss, lanes):
    check((form, kind, magnitude, loss), lanes)


@pytest.mark.parametrize("form", [("own", False), ("own", True), ("support", True)])
def test_step_equals_naive_loop_where_a_first_layer_per_user_is_smaller_than_its_rows(form):
    check((form, "mlp", "norm", "mse"), [1], embedding_dim=1, longest=12)


@pytest.mark.parametrize("form", [("own", False), ("own", True), ("support", True)])
def test_step_equals_naive_loop_where_inner_steps_are_smaller_than_a_layer(form):
    check((form, "mlp", "norm", "mse"), [1], hidden=(40, 41))


@pytest.mark.parametrize("support_damping", [0.0, 3.0])
@pytest.mark.parametrize("lanes", [[1], [2, 1]], ids=str)
def test_step_with_kernel_equals_naive_loop(lanes, support_damping):
    for magnitude, loss in itertools.product(["loss", "norm"], ["mse", "bce"]):
        case = (("support", True), "mlp", magnitude, loss)
        check(case, lanes, has_kernel=True, support_damping=support_damping)


@pytest.mark.parametrize("lanes", [[1], [2, 1]], ids=str)
@pytest.mark.parametrize("form", [("own", False), ("own", True), ("support", True)])
def test_step_with_balanced_weights_equals_naive_loop(form, lanes):
    for loss in ("mse", "bce"):
        check((form, "balanced", "losses", loss), lanes, has_kernel=form[0] == "support")


def test_step_with_factor_averages_equals_naive_loop():
    for loss in ("mse", "bce"):
        case = (("support", True), "balanced", "losses", loss)
        check(case, [2, 1], has_kernel=True, is_averaging=True)


def test_step_with_balanced_weights_equals_naive_loop_where_rows_are_wider_than_context_features():
    case = (("support", True), "balanced", "losses", "mse")
    check(case, [2, 1], has_kernel=True, embedding_dim=CONTEXT_COLUMNS + 2)


@pytest.mark.parametrize("form", [("own", False), ("own", True), ("support", True)])
@pytest.mark.parametrize("kind, magnitude", [("balanced", "losses"), ("mlp", "norm")])
def test_step_on_clicks_with_prior_logits_equals_naive_loop(form, kind, magnitude):
    is_support = form[0] == "support"
    check((form, kind, magnitude, "bce"), [2, 1], has_kernel=is_support, has_logits=True)


@pytest.mark.parametrize("kind", ["uniform", "loss", "groups"])
def test_fixed_weights_are_what_they_say(kind):
    tasks = make_tasks(np.random.default_rng(0))
    model = Recommender(2, 3, embedding_dim=4, hidden=(6,))
    layers = FlatLayers(model.init_layers(torch.Generator().manual_seed(0)))
    table = EmbeddingTable(torch.randn(tasks.num_rows, 4), rate=0.01)
    target_weight = np.arange(1.0, 8.0)
    batch = build_batch(
        tasks.table, tasks.items, np.arange(7),
        has_support_gradient=False, has_row_norms=False, target_weight=target_weight,
    )  # fmt: skip
    weighting = WEIGHTINGS.get(kind)()
    coordinator = Coordinator(
        layers, None, weighting=weighting, outer_rate=0.01, scheduler_rate=0.0
    )
    step = MetaStep(model, inner_loop(0.02), weighting, StepSettings(7, 0.01))
    exchange = LaneExchange(StepBatch.of([[batch]]), table, layers, coordinator, Communicator())
    step([batch], layers, exchange=exchange)
    report = coordinator.report
    losses = report.user_statistics.losses[:, 0]
    expected = {
        "uniform": torch.full((7,), 1 / 7),
        "loss": losses.clamp(min=1e-6) / losses.clamp(min=1e-6).sum(),
        "groups": torch.tensor(target_weight / target_weight.sum(), dtype=torch.float32),
    }
    torch.testing.assert_close(report.weights, expected[kind])
    assert not report.user_statistics.factors.numel()


@pytest.mark.parametrize("is_support", [True, False])
@pytest.mark.parametrize("kind", ["uniform", "loss", "groups", "balanced", "mlp"])
def test_user_whose_loss_is_not_finite_counts_nothing(kind, is_support):
    tasks = make_tasks(np.random.default_rng(0))
    given = tasks.table
    lengths = np.minimum(given.support_label.lengths, given.query_label.lengths)
    nonfinite = int(lengths.argmax())
    others = [k for k in range(7) if k != nonfinite]
    side = given.support_label if is_support else given.query_label
    side.values[side.offsets[nonfinite]] = np.inf
    context = {"has_encoder": True, "context": "support", "has_kernel": True}
    model = Recommender(2, 3, embedding_dim=4, hidden=(6,), **context)
    weighting = WEIGHTINGS.get(kind)(magnitude="norm")
    sizes = FactorSizes.of(model, weighting.factor_spec)
    weight = 0.2 * torch.randn(tasks.num_rows, 4, generator=torch.Generator().manual_seed(1))
    found = {}
    for name, chosen in (("all", list(range(7))), ("others", others)):
        torch.manual_seed(0)
        layers = FlatLayers(model.init_layers(torch.Generator().manual_seed(0)))
        scheduler = weighting.make_scheduler(sizes)
        batch = build_batch(
            given, tasks.items, np.array(chosen),
            has_support_gradient=True, has_row_norms=True,
            target_weight=np.arange(1.0, 8.0)[chosen],
        )  # fmt: skip
        coordinator = Coordinator(
            layers, scheduler, weighting=weighting, outer_rate=0.01, scheduler_rate=0.01
        )
        table = EmbeddingTable(weight.clone(), rate=0.01)
        step = MetaStep(model, inner_loop(0.02), weighting, StepSettings(7, 0.01))
        for _ in range(2):
            planned = StepBatch.of([[batch]])
            step(
                [batch],
                layers,
                exchange=LaneExchange(planned, table, layers, coordinator, Communicator()),
            )
        found[name] = coordinator.report, layers, table.weight, scheduler
    (report, layers, rows, scheduler), (expected, *theta) = found["all"], found["others"]
    assert report.is_finite.tolist() == [k != nonfinite for k in range(7)]
    assert report.weights[nonfinite] == 0
    for name, param in layers.items():
        assert param.isfinite().all(), name
    assert rows.isfinite().all()
    if scheduler is not None:
        assert all(t.isfinite().all() for t in scheduler.state_dict().values())
    if not weighting.looks_ahead:  # whose factors are standardised over all users of the batch
        torch.testing.assert_close(report.weights[others], expected.weights, rtol=1e-4, atol=1e-6)
        for name, param in layers.items():
            torch.testing.assert_close(param, theta[0][name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows, theta[1], rtol=1e-4, atol=1e-5)


def check(
    case,
    lanes,
    *,
    embedding_dim=4,
    hidden=(6, 5),
    longest=5,
    has_kernel=False,
    support_damping=0.0,
    has_logits=False,
    is_averaging=False,
):
    (context, has_encoder), kind, magnitude, loss = case
    rate = 5e-3 if has_kernel else 0.02
    seed = CASES.index(case) if case in CASES else 10 + len(loss) + len(context)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    tasks = make_tasks(rng, longest=longest, is_click=loss == "bce", has_logits=has_logits)
    model = Recommender(
        2,
        3,
        embedding_dim=embedding_dim,
        hidden=hidden,
        activation=["none", "relu", "gelu", "tanh"][seed % 4],
        has_encoder=has_encoder,
        context=context,
        is_film_residual=seed % 2 == 1,
        has_kernel=has_kernel,
    )
    generator = torch.Generator().manual_seed(seed)
    layers = FlatLayers({k: v.double() for k, v in model.init_layers(generator).items()})
    weight = (0.2 if has_kernel else 0.5) * torch.randn(
        tasks.num_rows, embedding_dim, dtype=torch.float64
    )
    is_balanced = kind == "balanced"
    weighting = WEIGHTINGS.get(kind)(
        magnitude=magnitude, max_weight_ratio=None if seed % 2 else 4.0
    )
    sizes = FactorSizes.of(model, weighting.factor_spec)
    schedulers = [weighting.make_scheduler(sizes).double() for _ in range(2)]
    if is_balanced:  # it starts with equal scores, where most gradients of φ are nothing
        torch.nn.init.normal_(schedulers[0].scorer.mlp[-1].weight)
    schedulers[1].load_state_dict(schedulers[0].state_dict())
    settings = naive.Settings(
        3, rate, 0.01, 0.02, 8, magnitude, loss, context, has_encoder, model.hidden,
        model.activation, model.is_film_residual, tasks.is_mean, has_kernel, support_damping,
        is_balanced, is_averaging,
    )  # fmt: skip
    reference = naive.NaiveStep(
        [weight.clone()] * 5, unstack(model, layers), schedulers[1], settings
    )

    table = EmbeddingTable(weight.clone(), rate=0.01, is_lazy=False)
    coordinator = Coordinator(
        layers, schedulers[0], weighting=weighting, outer_rate=0.01, scheduler_rate=0.02
    )
    if has_kernel and not is_balanced:
        # Some entries of φ's gradient are next to nothing here. Adam divides by their size, and
        # would make a rounding error as large as a step.
        coordinator.scheduler_optimizer.eps = reference.phi.param_groups[0]["eps"] = 1e-4
    averages = None
    if is_averaging:
        averages = FactorAverages(len(tasks.users), sizes, torch.device("cpu"), first_user=100)
        averages.mean = averages.mean.double()
    step = MetaStep(model, inner_loop(rate, loss), weighting, StepSettings(8, 0.01), averages)
    for _ in range(3 if is_averaging else 2):
        buckets = [
            build_batch(
                tasks.table,
                tasks.items,
                chosen,
                has_support_gradient=context == "support",
                has_row_norms=True,
                support_damping=support_damping,
                dtype=np.float64,
                target_weight=np.array([u.target_weight for u in tasks.users])[chosen],
                user_index=100 + chosen,
            )
            for chosen in np.array_split(np.arange(len(tasks.users)), sum(lanes))
        ]
        in_order = iter(buckets)
        batch = StepBatch.of([list(itertools.islice(in_order, n)) for n in lanes])
        exchange = LaneExchange(batch, table, layers, coordinator, Communicator())
        step(buckets, layers, exchange=exchange)
        report = coordinator.report
        expected = reference(tasks.users)
        assert_close(report.user_statistics.losses[:, 0], expected["loss"])
        assert_close(report.user_statistics.factors, expected["columns"])
        assert_close(report.first_weights, expected["first_weights"])
        assert_close(report.weights, expected["weights"])
    for name, param in unstack(model, layers).items():
        assert_close(param, reference.layers[name])
    for field, rows in enumerate(tasks.field_rows):
        assert_close(table.weight[list(rows)], reference.tables[field][list(rows)])
    for ours, theirs in zip(*(s.parameters() for s in schedulers), strict=True):
        # The bias of the last layer has no gradient: a softmax does not see it.
        if ours.shape != (1,):
            assert_close(ours, theirs)


def test_gradient_dots_are_taken_while_the_mean_gradient_is_on_its_way(monkeypatch):
    events = []

    class RecordedExchange(LaneExchange):
        def sum(self, gradients):
            await_sum = super().sum(gradients)
            events.append("begun")
            return lambda: events.append("awaited") or await_sum()

    def dots(results):
        events.append("dots")
        return factors.gradient_dots(results)

    monkeypatch.setattr(sys.modules[__name__], "LaneExchange", RecordedExchange)
    monkeypatch.setattr(step_module, "gradient_dots", dots)
    check((("support", True), "balanced", "losses", "mse"), [2, 1])
    assert events[:5] == ["begun", "dots", "dots", "dots", "awaited"]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.isfinite().all()
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=1e-9, atol=1e-9)
