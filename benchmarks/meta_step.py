"""Users a second, memory and time by phase of whole meta steps, against the two usual ways.

``python -m benchmarks.meta_step [--json FILE] [--form paper|shipped] [--users 32 128]
[--precision float32|tf32|bf16] [--profile FILE]``. Every rate is the median over rounds that take
the variants in turn, so that a noisy machine touches all alike; all figures come from one run. The
references take the published step on the form's model; this project's step is the form's own.

Work is counted by ``shapes.flops_per_user``.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.environment import PeakMemory, environment
from benchmarks.naive import NaiveStep, Settings, unstack
from benchmarks.references import LoopStep, VmapStep, naive_users
from benchmarks.shapes import SHAPES, Shape, flops_per_user, make_batch, make_model
from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.batching.loader import Loader
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.adapt import task_gradients
from greatmeta_dist.meta.batch import StepBatch, TaskBatch, to_device
from greatmeta_dist.meta.factor_averages import FactorAverages
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.gradients import MetaGradient
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.step import MetaStep, StepSettings, UserWeighting
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.run_folder import Setup, set_up

RATE = 1e-3
WEIGHTINGS: dict[str, UserWeighting] = {
    "paper": MlpLookAhead(magnitude="norm"),
    "shipped": Balanced(),
}
"""Of each form."""
PHASES = ("embed", "inner loop", "query", "factors", "scheduler", "outer update")


def matrix_rate(device: torch.device) -> float:
    """GFLOP/s of a large float32 matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device)
    seconds = timed([lambda: a @ a], device, rounds=5)[0]
    return 2 * size**3 / seconds / 1e9


def timed(calls: list[Callable[[], Any]], device: torch.device, *, rounds: int) -> list[float]:
    """Median seconds of each call, taken in turn after a round that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for round_ in range(rounds + 1):
        for k, call in enumerate(calls):
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            if round_:
                seconds[k].append(time.perf_counter() - start)
    return [statistics.median(s) for s in seconds]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Case:
    """A shape at a batch size, and the four ways to take its step."""

    def __init__(
        self, shape: Shape, form: str, num_users: int, device: torch.device, precision: str
    ):
        self.model = make_model(shape, form)
        self.inner = InnerLoop(shape.num_steps, RATE)
        self.batch = to_device(make_batch(shape, self.model, num_users), device)
        self.layers = self.model.init_layers(torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        self.weight = 0.1 * torch.randn(shape.num_rows, shape.embedding_dim, generator=generator)
        self.device, self.precision = device, precision
        self.weighting = WEIGHTINGS[form]

    def ours(
        self, weighting: UserWeighting | None = None, *, is_compiled: bool = False
    ) -> Callable[[], Tensor]:
        """With the form's own weighting where none is given."""
        table = EmbeddingTable(self.weight.to(self.device, copy=True), rate=RATE)
        return step_of(
            self.model,
            self.batch,
            self.layers,
            table,
            self.inner,
            weighting=weighting or self.weighting,
            precision=self.precision,
            is_compiled=is_compiled,
        )

    def vmap(self) -> Callable[[], Tensor]:
        num_gap = len(self.layers)
        num_fields = self.model.num_user_fields + self.model.num_item_fields
        scheduler = published(FactorSizes(1, num_gap, num_gap + num_fields), self.device)
        step = self._reference(VmapStep, scheduler)
        return lambda: step(self.batch)

    def loop(self) -> Callable[[], Tensor]:
        sizes = FactorSizes(1, len(self.layers), len(self.layers) + 1)
        step = self._reference(LoopStep, published(sizes, self.device))
        users = step.prepare(self.batch)
        return lambda: step(users)

    def naive(self) -> Callable[[], Tensor]:
        model = self.model
        num_fields = model.num_user_fields + model.num_item_fields
        settings = Settings(
            self.inner.num_steps,
            self.inner.learning_rate,
            RATE,
            RATE / 10,
            self.batch.num_users,
            "loss" if model.has_support_gradient else "norm",
            "mse",
            model.context,
            model.has_encoder,
            model.hidden,
            model.activation,
            model.is_film_residual,
            [False] * num_fields,
            model.has_kernel,
        )
        tables = [self.weight.clone() for _ in range(num_fields)]
        sizes = FactorSizes.of(model, MlpLookAhead().factor_spec)
        scheduler = published(sizes, torch.device("cpu"))
        step = NaiveStep(tables, unstack(model, self.layers), scheduler, settings)
        users = naive_users(self.batch)
        return lambda: step(users)["loss"]

    def _reference(self, kind: type, scheduler: Scheduler) -> Any:
        layers = {k: v.to(self.device) for k, v in self.layers.items()}
        weight = self.weight.to(self.device)
        return kind(
            self.model, layers, weight, scheduler, self.inner, rate=RATE, scheduler_rate=RATE / 10
        )


def published(sizes: FactorSizes, device: torch.device) -> Scheduler:
    torch.manual_seed(0)
    return MlpLookAhead().make_scheduler(sizes).to(device)


def step_of(
    model: Recommender,
    batch: TaskBatch,
    layers: dict[str, Tensor],
    table: EmbeddingTable,
    inner: InnerLoop,
    *,
    weighting: UserWeighting,
    precision: str = "float32",
    is_compiled: bool = False,
) -> Callable[[], Tensor]:
    """A whole step on a fixed batch: from distinct rows to updated θ and φ; the users' losses."""
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
    planned = to_device(StepBatch.of([[batch]]), device)
    compiled = torch.compile(task_gradients, dynamic=False) if is_compiled else task_gradients

    def call() -> Tensor:
        exchange = LaneExchange(planned, table, theta, coordinator, Communicator())
        with mock.patch("greatmeta_dist.meta.step.task_gradients", compiled):
            step([batch], theta, exchange=exchange)
        return coordinator.report.user_statistics.losses[:, 0]

    return call


def make_averages(
    weighting: UserWeighting, num_users: int, sizes: FactorSizes, device: torch.device
) -> FactorAverages | None:
    spec = weighting.factor_spec
    if spec is None or not spec.is_averaged:
        return None
    return FactorAverages(num_users, sizes, device, first_user=0)


def compare(
    shape: Shape, options: argparse.Namespace, device: torch.device, rate: float
) -> dict[str, Any]:
    """One row of the table for each batch size; the references at theirs."""
    model = make_model(shape, options.form)
    flops = flops_per_user(shape, model, WEIGHTINGS[options.form])
    work = flops / flops_per_user(shape, model, Uniform())
    result: dict[str, Any] = {
        "shape": asdict(shape),
        "mflop_per_user": flops / 1e6,
        "work_over_uniform": work,
        "sizes": [],
    }
    few = Case(shape, options.form, 8, torch.device("cpu"), "float32")
    require_same([few.naive(), few.loop(), few.vmap(), few.ours()])
    naive, loop = timed([few.naive(), few.loop()], device, rounds=2)
    result["naive_users_per_s"], result["loop_users_per_s"] = 8 / naive, 8 / loop
    for num_users in options.users:
        case = Case(shape, options.form, num_users, device, options.precision)
        calls = [case.ours(), case.ours(Uniform()), case.vmap()]
        if options.compile:
            calls.append(case.ours(is_compiled=True))
        found = timed(calls, device, rounds=options.rounds)
        ours, uniform, by_vmap = (num_users / s for s in found[:3])
        memory = []
        for call in (calls[0], calls[2]):
            with PeakMemory(device) as peak:
                call()
            memory.append(peak.mib / num_users)
        result["sizes"].append(
            {
                "users": num_users,
                "users_per_s": ours,
                "compiled_users_per_s": num_users / found[3] if options.compile else None,
                "uniform_users_per_s": uniform,
                "vmap_users_per_s": by_vmap,
                "cost_over_uniform": uniform / ours,
                "gflop_per_s": ours * flops / 1e9,
                "fraction_of_matrix_rate": ours * flops / 1e9 / rate,
                "mib_per_user": memory[0],
                "vmap_mib_per_user": memory[1],
            }
        )
    best = max(s["vmap_users_per_s"] for s in result["sizes"])
    for size in result["sizes"]:
        size["times_best_vmap"] = size["users_per_s"] / best
        size["times_naive"] = size["users_per_s"] / result["naive_users_per_s"]
    return result


def require_same(calls: list[Callable[[], Tensor]]) -> None:
    """All ways of taking the step see the same losses."""
    losses = [call() for call in calls]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-4, atol=1e-5)


def row_scaling(device: torch.device) -> list[dict[str, float]]:
    """The same step with 10⁴ and 10⁷ embedding rows: lazy row-wise Adam."""
    shape = SHAPES[1]
    model = make_model(shape, "paper")
    layers = model.init_layers(torch.Generator().manual_seed(0))
    calls, found = [], []
    for num_rows in (10_000, 10_000_000):
        scale = num_rows // shape.num_rows
        batch = to_device(make_batch(shape, model, 128, row_scale=scale), device)
        table = EmbeddingTable(
            0.1 * torch.randn(num_rows, shape.embedding_dim, device=device), rate=RATE
        )
        inner = InnerLoop(shape.num_steps, RATE)
        calls.append(step_of(model, batch, layers, table, inner, weighting=WEIGHTINGS["paper"]))
        calls[-1]()
        with PeakMemory(device) as peak:
            calls[-1]()
        found.append({"rows": num_rows, "working_mib": peak.mib})
    for entry, seconds in zip(found, timed(calls, device, rounds=30), strict=True):
        entry["ms"] = 1e3 * seconds
    return found


class _Recorder(LaneExchange):
    """Keeps the gradient that moves θ."""

    total: Tensor
    """Of A, end to end."""

    def apply(self, parts: Iterable[MetaGradient]) -> None:
        self.total, _ = self._sum_hosted_lanes(parts)


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
            args = (*args[:-2], *(self.rounded(factor) for factor in args[-2:]))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def rounded(factor: Tensor) -> Tensor:
        bits = factor.contiguous().view(torch.int32)
        return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def accuracy(shape: Shape, form: str, device: torch.device) -> list[dict[str, Any]]:
    """How far a first step's gradient, factors and weights are from float64's, by precision.

    Without a GPU, TF32 is emulated.
    """
    found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for kind in ("float64", "float32", "tf32", "bf16"):
        case = Case(shape, form, 64, device, kind)
        dtype = torch.float64 if kind == "float64" else torch.float32
        batch = case.batch
        if kind == "float64":
            batch = to_device(make_batch(shape, case.model, 64, dtype=np.float64), device)
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
        settings = StepSettings(64, RATE, is_bf16=kind == "bf16")
        torch.backends.cuda.matmul.allow_tf32 = kind in ("tf32", "bf16")
        averages = make_averages(weighting, 64, sizes, device)
        if averages is not None:
            averages.mean = averages.mean.to(dtype)
        step = MetaStep(case.model, case.inner, weighting, settings, averages)
        is_emulated = kind == "tf32" and device.type == "cpu"
        with _AsTF32() if is_emulated else nullcontext():
            step([batch], layers, exchange=exchange)
        report = coordinator.report
        factors = report.user_statistics.factors.double()
        found[kind] = exchange.total.double(), factors, report.weights.double()
    exact = found.pop("float64")
    return [
        {
            "precision": kind,
            "gradient": float((total - exact[0]).norm() / exact[0].norm()),
            "factors": float((factors - exact[1]).abs().max()),
            "weights": float((weights / exact[2] - 1).abs().max()),
        }
        for kind, (total, factors, weights) in found.items()
    ]


def loading(users: list[int]) -> list[dict[str, float]]:
    """An epoch through a store and the loader against the same steps kept in memory.

    Synthetic users of uneven activity, 107 interactions on average, the shipped configuration.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(DataConfig(users=4000, items=1682, mean_interactions=107), Path(folder))
        for count in users:
            config = compose_config([f"store={folder}", f"train.users_per_batch={count}"])
            setup = set_up(config, Store(Path(folder)))
            lanes = Lanes.of(setup.store, setup.collator, setup.choice, config.train)
            setup.worker.keep_averages(lanes.places, lanes.num_users)
            numbers = range(min(lanes.steps_per_epoch, 24))
            kept = [lanes.step(k).batch for k in numbers]
            device = setup.worker.device

            def in_memory(setup: Setup = setup, kept: list[StepBatch] = kept) -> None:
                for batch in kept:
                    setup.worker.step(batch)

            def loaded(
                setup: Setup = setup, lanes: Lanes = lanes, numbers: range = numbers
            ) -> None:
                with Loader.suited(lanes, numbers, setup.worker.device) as loader:
                    for step in loader:
                        setup.worker.step(step.batch)

            seconds = timed([in_memory, loaded], device, rounds=9)
            rates = [len(numbers) * count / s for s in seconds]
            found.append(
                {
                    "users": count,
                    "in_memory_users_per_s": rates[0],
                    "loaded_users_per_s": rates[1],
                    "share": rates[1] / rates[0],
                }
            )
    return found


def phases(call: Callable[[], Any], trace: Path | None) -> dict[str, float]:
    """Share of a step's time in each phase; the Chrome trace of ten steps, if asked for."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    call()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(10):
            call()
    if trace is not None:
        profile.export_chrome_trace(str(trace))
    times = {e.key.removeprefix("meta/"): e.cpu_time_total for e in profile.key_averages()}
    total = sum(times.get(p, 0) for p in PHASES)
    return {p: times.get(p, 0) / total for p in PHASES}


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"Whole meta steps, {result['form']} form, {result['precision']}")
    for name in (
        "shape", "users", "naive", "loop", "vmap", "ours", "uniform", "× naive", "× best vmap",
        "cost / uniform", "work / uniform", "MFLOP/user", "of matrix rate", "MiB/user", "vmap's",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "shape" else "right")
    for shape in result["shapes"]:
        for size in shape["sizes"]:
            table.add_row(
                shape["shape"]["name"],
                str(size["users"]),
                f"{shape['naive_users_per_s']:.1f}",
                f"{shape['loop_users_per_s']:.0f}",
                f"{size['vmap_users_per_s']:.0f}",
                f"{size['users_per_s']:.0f}",
                f"{size['uniform_users_per_s']:.0f}",
                f"{size['times_naive']:.0f}",
                f"{size['times_best_vmap']:.1f}",
                f"{size['cost_over_uniform']:.2f}",
                f"{shape['work_over_uniform']:.2f}",
                f"{shape['mflop_per_user']:.1f}",
                f"{size['fraction_of_matrix_rate']:.0%}",
                f"{size['mib_per_user']:.2f}",
                f"{size['vmap_mib_per_user']:.2f}",
            )
    console.print(table)
    console.print(
        f"Rates in users a second. float32 matrix rate {result['matrix_gflop_per_s']:.0f} GFLOP/s."
    )
    for shape in result["shapes"]:
        shares = ", ".join(f"{p} {s:.0%}" for p, s in shape["phases"].items())
        console.print(f"{shape['shape']['name']}: {shares}")
    for entry in result["rows"]:
        console.print(
            f"{entry['rows']:,} embedding rows: {entry['ms']:.1f} ms a step, "
            f"{entry['working_mib']:.0f} MiB of working memory"
        )
    for entry in result["loading"]:
        console.print(
            f"An epoch through store and loader, {entry['users']} users a step: "
            f"{entry['loaded_users_per_s']:.0f} users/s, {entry['share']:.0%} of the same steps "
            "kept in memory"
        )
    for entry in result["accuracy"]:
        console.print(
            f"{entry['precision']} against float64: gradient {entry['gradient']:.1e} relative, "
            f"factors {entry['factors']:.1e} absolute, weights {entry['weights']:.1e} relative"
        )
    for shape in result["shapes"]:
        for size in shape["sizes"]:
            if size["compiled_users_per_s"]:
                console.print(
                    f"{shape['shape']['name']}, {size['users']} users: "
                    f"{size['compiled_users_per_s']:.0f} users/s with torch.compile"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--form", choices=("paper", "shipped"), default="paper")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--users", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--profile", type=Path, help="write a Chrome trace of the first shape here")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate = matrix_rate(device)
    torch.backends.cuda.matmul.allow_tf32 = options.precision == "tf32"
    result: dict[str, Any] = {
        "environment": environment(),
        "form": options.form,
        "precision": options.precision,
        "matrix_gflop_per_s": rate,
        "shapes": [],
    }
    for shape in SHAPES:
        found = compare(shape, options, device, rate)
        case = Case(shape, options.form, options.users[-1], device, options.precision)
        trace = options.profile if shape is SHAPES[0] else None
        found["phases"] = phases(case.ours(), trace)
        result["shapes"].append(found)
    result["rows"] = row_scaling(device)
    result["loading"] = loading(options.users)
    result["accuracy"] = accuracy(SHAPES[0], options.form, device)
    show(result, Console(width=160))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
