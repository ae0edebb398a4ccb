"""Rates, memory and phases of a step at each shape, against the references."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import PeakMemory
from benchmarks.meta_step.cases import (
    RATE,
    WEIGHTINGS,
    Call,
    Case,
    make_step,
    require_same_losses,
)
from benchmarks.meta_step.shapes import SHAPES, Shape, flops_per_user, make_batch, make_model
from benchmarks.meta_step.timing import median_seconds
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.meta.batch import to_device
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.native import library
from greatmeta_dist.meta.weightings.uniform import Uniform

PHASES = ("embed", "inner loop", "query", "factors", "scheduler", "outer update")
FEW_USERS = 8
"""Users of a step that loops over them."""


def compare(
    shape: Shape, options: argparse.Namespace, device: torch.device, matrix_gflop_per_s: float
) -> dict[str, Any]:
    """One entry of ``sizes`` for each batch size; the loops at theirs.

    Raises ``AssertionError`` where the ways to take the step do not agree.
    """
    flops = flops_per_user(shape, make_model(shape, options.form), WEIGHTINGS[options.form])
    uniform_flops = flops_per_user(shape, make_model(shape, options.form), Uniform())
    few = Case(shape, options.form, FEW_USERS, torch.device("cpu"), "float32")
    require_same_losses([few.naive(), few.loop(), few.vmap(), few.ours()])
    naive_s, loop_s = median_seconds([few.naive(), few.loop()], device, rounds=2)
    sizes = [_compare_at(shape, num, options, device) for num in options.users]
    best_vmap = max(size["vmap_users_per_s"] for size in sizes)
    for size in sizes:
        gflop_per_s = size["users_per_s"] * flops / 1e9
        size["gflop_per_s"] = gflop_per_s
        size["fraction_of_matrix_rate"] = gflop_per_s / matrix_gflop_per_s
        size["times_best_vmap"] = size["users_per_s"] / best_vmap
        size["times_naive"] = size["users_per_s"] / (FEW_USERS / naive_s)
    return {
        "shape": asdict(shape),
        "mflop_per_user": flops / 1e6,
        "work_over_uniform": flops / uniform_flops,
        "naive_users_per_s": FEW_USERS / naive_s,
        "loop_users_per_s": FEW_USERS / loop_s,
        "sizes": sizes,
    }


def _compare_at(
    shape: Shape, num_users: int, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Rates and memory at a batch size."""
    case = Case(shape, options.form, num_users, device, options.precision)
    calls = {"ours": case.ours(), "uniform": case.ours(Uniform()), "vmap": case.vmap()}
    if options.compile:
        calls["compiled"] = case.ours(is_compiled=True)
    seconds = median_seconds(list(calls.values()), device, rounds=options.rounds)
    rates = {name: num_users / s for name, s in zip(calls, seconds, strict=True)}
    return {
        "users": num_users,
        "users_per_s": rates["ours"],
        "compiled_users_per_s": rates.get("compiled"),
        "uniform_users_per_s": rates["uniform"],
        "vmap_users_per_s": rates["vmap"],
        "cost_over_uniform": rates["uniform"] / rates["ours"],
        "mib_per_user": _working_mib(calls["ours"], device) / num_users,
        "vmap_mib_per_user": _working_mib(calls["vmap"], device) / num_users,
    }


def _working_mib(call: Call, device: torch.device) -> float:
    with PeakMemory(device) as peak:
        call()
    return peak.mib


def compare_table_sizes(
    device: torch.device, table_sizes: tuple[int, ...], *, rounds: int
) -> list[dict[str, float]]:
    """The same step with tables of few and of many embedding rows: Adam moves touched rows only."""
    shape = SHAPES[1]
    model = make_model(shape, "paper")
    layers = model.init_layers(torch.Generator().manual_seed(0))
    inner = InnerLoop(shape.num_steps, RATE, is_native=library.is_available())
    calls, results = [], []
    for num_rows in table_sizes:
        scale = num_rows // shape.num_rows
        batch = to_device(make_batch(shape, model, 128, row_scale=scale), device)
        rows = 0.1 * torch.randn(num_rows, shape.embedding_dim, device=device)
        table = EmbeddingTable(rows, rate=RATE)
        call = make_step(model, batch, layers, table, inner, weighting=WEIGHTINGS["paper"])
        call()
        calls.append(call)
        results.append({"rows": num_rows, "working_mib": _working_mib(call, device)})
    for result, seconds in zip(results, median_seconds(calls, device, rounds=rounds), strict=True):
        result["ms"] = 1e3 * seconds
    return results


def phases(call: Callable[[], Any], trace: Path | None) -> dict[str, float]:
    """Share of a step's time in each phase; writes the Chrome trace of ten steps, if asked for."""
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
    total = sum(times.get(phase, 0) for phase in PHASES)
    return {phase: times.get(phase, 0) / total for phase in PHASES}
