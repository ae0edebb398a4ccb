"""Prepare a log with whichever ``greatmeta_dist`` Python finds, and write the seconds by phase.

Run as a script, since the program may be of another commit, which has no such benchmark:
``python -P run_prepare.py parquet|csv PATH STORE PHASES.json [--without-priors]``.
"""

import argparse
import importlib
import json
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from greatmeta_dist.config import ColumnsConfig, DataConfig

MIN_INTERACTIONS = 13
"""The old version's default: a query of 10 and a support of 3."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("form")
    parser.add_argument("log", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("phases", type=Path)
    parser.add_argument("--without-priors", action="store_true")
    options = parser.parse_args()
    columns = ColumnsConfig("user", "item", "rating", "timestamp")
    config = DataConfig(
        source=options.form,
        path=str(options.log),
        columns=columns,
        max_rejected_fraction=1.0,  # the old version rejected repeats
        **_same_users(),
    )
    prepare = _prepare_module()
    if options.without_priors:
        _leave_priors_out(prepare)
    phases = Phases()
    prepare.prepare(config, options.store, phases.update)
    phases.update("end", 1.0)
    options.phases.write_text(json.dumps(phases.seconds))


class Phases:
    """Seconds, and processor seconds, of each phase that a preparation reports."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._phase, self._start = "start", (time.monotonic(), time.process_time())

    def update(self, phase: str, share: float) -> None:
        now = time.monotonic(), time.process_time()
        spent = self.seconds.setdefault(self._phase, [0.0, 0.0])
        for k in range(2):
            spent[k] += now[k] - self._start[k]
        self._phase, self._start = phase, now


def _same_users() -> dict[str, Any]:
    """Options with which both versions keep the same users: those who can have a whole query.

    The old version asked for 10 rows of everybody; this one asks for less of short histories.
    """
    names = {field.name for field in fields(DataConfig)}
    whole = {"max_query_fraction": 1.0} if "max_query_fraction" in names else {}
    return {"min_interactions": MIN_INTERACTIONS, **whole}


def _prepare_module() -> Any:
    try:
        return importlib.import_module("greatmeta_dist.data.prepare")
    except ModuleNotFoundError:
        return importlib.import_module("greatmeta_dist.tasks.prepare")


def _leave_priors_out(prepare: Any) -> None:
    """Take the fits out of a version that fitted priors while it prepared."""
    whole = prepare._Preparation
    whole._factor_items = lambda self, buckets: (np.zeros(0, np.int64), np.zeros((0, 1)))
    whole._factorise = lambda self, buckets: []


if __name__ == "__main__":
    main()
