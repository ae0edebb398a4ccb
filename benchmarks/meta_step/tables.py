"""The results of ``benchmarks.meta_step``, printed."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(result: dict[str, Any], console: Console) -> None:
    """Print the table, and a line for each of the rest."""
    console.print(_rates(result))
    console.print(
        f"Rates in users a second. float32 matrix rate {result['matrix_gflop_per_s']:.0f} GFLOP/s."
    )
    for shape in result["shapes"]:
        shares = ", ".join(f"{phase} {share:.0%}" for phase, share in shape["phases"].items())
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


def _rates(result: dict[str, Any]) -> Table:
    title = f"Whole meta steps, {result['form']} form, {result['precision']}"
    table = Table(title=title)
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
    return table
