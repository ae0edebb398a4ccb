"""The results of ``benchmarks.scaling``, printed."""

from collections.abc import Collection
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.scaling.memory import WIDTH
from benchmarks.scaling.model import WORTH
from greatmeta_dist.config import ModelConfig

MODEL_COLUMNS = {
    "workers": ("workers", "{}"),
    "users/s": ("users_per_s", "{:.0f}"),
    "of ideal": ("efficiency", "{:.0%}"),
    "bytes/user": ("bytes_per_user", "{:.0f}"),
    "messages": ("messages_ms", "{:.2f} ms"),
    "sums of A": ("sums_of_A_ms", "{:.2f} ms"),
    "if fast": ("fast_ms", "{:.2f} ms"),
    "saves": ("fast_saves", "{:.1%}"),
    "GiB of rows": ("gib_of_rows", "{:.1f}"),
}
"""Of each column a prediction's key and its form."""


def show(results: dict[str, Any], options: dict[str, float], console: Console) -> None:
    """Print everything; ``options`` are those of the model."""
    for name, measured in results["measured"].items():
        _show_measured(name, measured, console)
    for size, mib in results["memory"].items():
        by_worker = ", ".join(f"{m:.0f}" for m in mib)
        console.print(
            f"{results['rows']:,} rows of {WIDTH}: {size} workers hold {by_worker} MiB",
            highlight=False,
        )
    _show_checkpoint(results["checkpoint"], console)
    _show_model(results["model"], options, console)


def _show_measured(name: str, measured: dict[str, Any], console: Console) -> None:
    rate, spread = measured["users_per_s"], measured["efficiency_range"]
    console.print(
        f"{name}, {measured['users_per_batch']} users a step, {measured['lanes']} lanes: 1 worker "
        f"{rate[1]:.0f} users/s, 2 workers {rate[2]:.0f} users/s: efficiency "
        f"{measured['efficiency']:.0%} (rounds from {spread[0]:.0%} to {spread[1]:.0%}, fastest "
        f"rounds of each {measured['efficiency_of_fastest']:.0%}; two lone workers at a time: "
        f"{measured['ceiling']:.0%}), "
        f"CPU time in all {measured['cpu_time']:.2f} times one worker's (each lone one's: "
        f"{measured['cpu_time_of_lone_ones']:.2f}), "
        f"{measured['share_in_messages']:.1%} of the time in "
        f"messages, waiting included, {measured['bytes_per_user']:.0f} bytes a user and step",
        soft_wrap=True,
        highlight=False,
    )
    table = Table("phase", "bytes a step", "ms a step", box=SIMPLE)
    for phase, values in measured["phases"].items():
        table.add_row(phase, f"{values['bytes_per_step']:.0f}", f"{values['ms_per_step']:.2f}")
    console.print(table)


def _show_checkpoint(saved: dict[str, Any], console: Console) -> None:
    console.print(
        f"checkpoint of {saved['rows']:,} rows of {WIDTH} and the factors of {saved['users']:,} "
        f"users, {saved['mib']:.0f} MiB: training waits "
        f"{saved['training_waits_s']:.2f} s; written after {saved['written_after_s']:.1f} s, "
        f"{saved['steps_meanwhile']} steps meanwhile, {saved['step_slower']:.2f} times as long",
        soft_wrap=True,
        highlight=False,
    )


def model_table(
    predictions: list[dict[str, float]],
    *,
    gbit: float,
    latency_us: float,
    without: Collection[str] = (),
) -> Table:
    """What the model predicts, a row for each number of workers; not the columns ``without``."""
    title = f"model: {gbit:g} Gbit/s, {latency_us:g} µs, 10⁹ rows of {ModelConfig().embedding_dim}"
    columns = {name: form for name, form in MODEL_COLUMNS.items() if name not in without}
    table = Table(*columns, box=SIMPLE, title=title)
    for row in predictions:
        table.add_row(*(form.format(row[key]) for key, form in columns.values()))
    return table


def _show_model(
    predictions: list[dict[str, float]], options: dict[str, float], console: Console
) -> None:
    table = model_table(predictions, gbit=options["gbit"], latency_us=options["latency_us"])
    console.print(table)
    worth = [row["workers"] for row in predictions if row["fast_saves"] > WORTH]
    console.print(
        f"cluster.reduction=fast saves more than {WORTH:.0%} of a step "
        + (f"from {worth[0]} workers on" if worth else "at none of these sizes"),
        highlight=False,
    )
