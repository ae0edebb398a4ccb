"""``greatmeta prepare``: logs → store, with progress and a report."""

import time
from collections.abc import Collection
from pathlib import Path

from greatmeta_dist.commands.prepare_report import report_lines
from greatmeta_dist.config import ClusterConfig, DataConfig
from greatmeta_dist.data.growth import with_earlier_options
from greatmeta_dist.data.manifest import read_manifest
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Display
from greatmeta_dist.launch.units import unit_runner


def prepare_store(
    config: DataConfig, store: Path, cluster: ClusterConfig, *, typed: Collection[str] = ()
) -> None:
    """Prepare logs into a store, and say what was found in them.

    Where a store grows, options of splitting that are not among those ``typed`` are its own.
    """
    display, start = Display(), time.monotonic()
    if config.from_store is not None:
        config = with_earlier_options(config, typed)
    with (
        unit_runner(cluster, display) as run_units,
        display.bar("prepare", 100, "%") as bar,
    ):

        def progress(phase: str, share: float) -> None:
            bar.update(100 * share, phase)

        report = prepare(config, store, progress, run_units=run_units)
    if not report.is_new:
        display.say(f"{store} is already prepared from the same files in the same way")
    for line in report_lines(report, read_manifest(store), store):
        display.say(line)
    display.say(f"store {store} is ready after {time.monotonic() - start:.1f} s")
