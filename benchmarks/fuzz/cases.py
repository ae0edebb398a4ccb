"""What logs are generated, and how each is prepared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fuzz.compare import require_equal
from benchmarks.fuzz.generate import write_csv, write_parquet
from benchmarks.fuzz.generate_forms import write_json, write_parts
from benchmarks.fuzz.reader import read_log
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.report import Report

RATINGS = ColumnsConfig("u", "i", "r", "t")
FORMS: dict[str, tuple[str, str, Callable[..., None]]] = {
    "csv": ("csv", "log.csv", write_csv),
    "parquet": ("parquet", "log", write_parquet),
    "jsonl": ("jsonl", "log.jsonl", write_json),
    "parts": ("csv", "log", write_parts),
}
"""Forms of logs: the source, the name of the file or folder, and what writes it."""
UNRATED = ColumnsConfig("u", "i", None, "t")
EVENTS = ColumnsConfig("u", "i", None, "t", "e")
RATED_EVENTS = ColumnsConfig("u", "i", "r", "t", "e")
WEIGHTS = {"view": 1.0, "cart": 2.0, "purchase": 4.0}
UNTIMED = ColumnsConfig("u", "i", "r", None)


@dataclass(frozen=True)
class Case:
    """A generated log, and options."""

    name: str
    kind: str
    """One of ``FORMS``."""
    seed: int
    num_rows: int
    num_users: int
    num_items: int
    options: dict[str, Any]

    def write(self, folder: Path) -> DataConfig:
        """Write the log into a folder; returns how it is to be prepared."""
        source, name, write = FORMS[self.kind]
        path = folder / name
        write(
            path,
            num_rows=self.num_rows,
            num_users=self.num_users,
            num_items=self.num_items,
            seed=self.seed,
        )
        options: dict[str, Any] = {
            "columns": RATINGS,
            "min_interactions": 2,
            "query_items": 1,
            "max_rejected_fraction": 1.0,
            **self.options,
        }
        return DataConfig(source=source, path=str(path), seed=self.seed, **options)

    def check(self, folder: Path) -> Report:
        """Prepare the log in a new folder, and raise ``AssertionError`` where a row is lost."""
        config = self.write(folder)
        assert config.path is not None
        report = prepare(config, folder / "store")
        log = read_log(Path(config.path), config)
        require_equal(folder / "store", report, log, config)
        return report


OPTIONS: dict[str, dict[str, Any]] = {
    "latest": {"rating_range": [0.0, 5.0], "warm_fraction": 0.4},
    "first": {"repeats": "first", "cold_item_fraction": 0.3, "query_items": 2},
    "max": {"repeats": "max", "query_by": "time", "cold_item_fraction": 0.2},
    "sum": {"repeats": "sum", "max_support": 3, "query_fraction": 0.3, "query_items": None},
    "short": {
        "min_interactions": 1,
        "query_items": 10,
        "warm_fraction": 0.5,
        "cold_item_fraction": 0.3,
        "max_query_fraction": 0.4,
    },
    "capped": {"max_support": 2, "support_by": "latest", "warm_fraction": 0.5},
    "mean": {"repeats": "mean", "min_interactions": 4, "max_interactions": 40},
    "count": {"columns": UNRATED, "query_by": "time", "query_fraction": 0.5, "query_items": None},
    "reject": {"repeats": "reject", "unrated_value": 0.0, "rating_range": [0.5, 5.0]},
    "untimed": {"columns": UNTIMED, "valid_fraction": 0.3},
    "click": {"label": "click", "click_at": 3.0},
    "click-count": {"label": "click", "click_at": 2.0, "repeats": "count"},
    "split at": {
        "split_at": "2001-10-01",
        "cold_item_fraction": 0.1,
        "warm_fraction": 0.7,
        "query_items": 3,
        "test_fraction": 0.4,
    },
    "split last": {
        "split_last": 0.3,
        "repeats": "reject",
        "unrated_value": 0.0,
        "warm_fraction": 0.5,
        "min_interactions": 3,
        "max_support": 4,
    },
    "split last, sums": {"split_last": 0.9, "repeats": "sum", "test_fraction": 0.5},
    "implicit, by time": {
        "label": "click",
        "columns": UNRATED,
        "split_last": 0.25,
        "warm_fraction": 0.5,
        "query_fraction": 0.4,
        "query_items": None,
    },
    "implicit": {
        "label": "click",
        "columns": UNRATED,
        "cold_item_fraction": 0.3,
        "warm_fraction": 0.5,
    },
}
"""Options by what is special about them."""


EVENT_OPTIONS: dict[str, dict[str, Any]] = {
    "events": {"columns": EVENTS, "events": WEIGHTS},
    "events, sums": {"columns": EVENTS, "events": WEIGHTS, "repeats": "sum", "query_by": "time"},
    "events, rated": {"columns": RATED_EVENTS, "events": WEIGHTS, "unrated_value": 0.0},
    "events, clicks": {"columns": EVENTS, "events": WEIGHTS, "label": "click", "click_at": 2.0},
    "events, implicit": {
        "columns": EVENTS,
        "events": {"purchase": 1.0, "cart": 1.0},
        "label": "click",
        "click_at": None,
    },
}
"""The same of logs with events."""


def form_cases(*, num_rows: int) -> Iterator[Case]:
    """Cases of so many rows altogether in the other forms: with events, and some without."""
    plain = {name: OPTIONS[name] for name in ("latest", "reject", "untimed", "implicit")}
    chosen = {**EVENT_OPTIONS, **plain}
    size = num_rows // (2 * len(chosen))
    for k, (name, options) in enumerate(chosen.items()):
        for kind in ("jsonl", "parts"):
            num_users = max(2, size // (4 + 8 * (k % 3)))
            yield Case(f"{name}, {kind}", kind, k, size, num_users, size // 10 + 5, options)


def cases(*, num_rows: int) -> Iterator[Case]:
    """Cases of so many rows altogether: every set of options with CSV and with Parquet."""
    size = num_rows // (2 * len(OPTIONS))
    for k, (name, options) in enumerate(OPTIONS.items()):
        for kind in ("csv", "parquet"):
            num_users = max(2, size // (4 + 8 * (k % 3)))
            seed = 2 * k + (kind == "csv") * (k % 2)
            yield Case(f"{name}, {kind}", kind, seed, size, num_users, size // 10 + 5, options)
