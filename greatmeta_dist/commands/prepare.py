"""``greatmeta prepare``: logs → store, with progress and a report."""

import time
from collections.abc import Collection
from pathlib import Path

from greatmeta_dist.commands.prepare_report import report_lines
from greatmeta_dist.config import ClusterConfig, DataConfig
from greatmeta_dist.data.growth import with_earlier_options
from greatmeta_dist.data.manifest import read_manifest
from greatmeta_dist.data.prepare import made_store, prepare_here
from greatmeta_dist.display import Display
from greatmeta_dist.launch.units import unit_runner


def prepare_store(
    config: DataConfig, store: str | Path, cluster: ClusterConfig, *, typed: Collection[str] = ()
) -> None:
    """Prepare logs into a store, and say what was found in them.

    Where a store grows, options of splitting that are not among those ``typed`` are its own.
    """
    display, start = Display(), time.monotonic()
    if config.from_store is not None:
        config = with_earlier_options(config, typed)
    with (
        made_store(store) as folder,
        unit_runner(cluster, display) as run_units,
        display.bar("prepare", 100, "%") as bar,
    ):

        def progress(phase: str, share: float) -> None:
            bar.update(100 * share, phase)

        report = prepare_here(config, folder, progress, run_units=run_units)
        manifest = read_manifest(folder)
    if not report.is_new:
        display.say(f"{store} is already prepared from the same files in the same way")
    for line in report_lines(report, manifest, folder):
        display.say(line)
    display.say(f"store {store} is ready after {time.monotonic() - start:.1f} s")
