"""How many torch operations a step dispatches, and where.

``python -m benchmarks.operations store=DIR [Hydra overrides]`` counts one step of the training that
these words describe, for one lane and for eight. Each operation costs its start, however little it
does: for small batches that is most of a step.
"""

import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.untrained import training_lanes, untrained_model
from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.data.store import Store
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.options.compose import compose_config

PACKAGE = "greatmeta_dist/"
LANES = (1, 8)
WARM_UP_STEPS = 2
"""The first steps make the optimizers' state."""


class OperationCount(TorchDispatchMode):
    """Counts what is dispatched in a block, views included, by the function that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.by_function: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.by_function.total()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if not func.name().startswith("profiler"):  # marks of phases compute nothing
            self.by_function[_caller()] += 1
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The innermost function of this package that runs: ``meta/passes.py: forward``."""
    frame = sys._getframe(2)
    while frame.f_back is not None and PACKAGE not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition(PACKAGE)[2]}: {frame.f_code.co_name}"


def count_step(worker: Worker, lanes: Lanes) -> tuple[OperationCount, int]:
    """The operations of a step, and the length buckets that it has."""
    batches = [lanes.step(number).batch for number in range(WARM_UP_STEPS + 2)]
    for batch, following in itertools.pairwise(batches[:-1]):
        worker.step(batch, following)
    *_, batch, following = batches
    with OperationCount() as count:
        worker.step(batch, following)
    return count, sum(len(of_lanes.supports) for of_lanes in batch.batches)


def main() -> None:
    table = Table("lanes", "length buckets", "operations", box=None)
    for num_lanes in LANES:
        config = compose_config([*sys.argv[1:], f"train.lanes={num_lanes}"])
        store = Store(Path(config.store or ""))
        model = untrained_model(config, store)
        count, num_buckets = count_step(model.worker, training_lanes(config, store, model))
        table.add_row(str(num_lanes), str(num_buckets), f"{count.total:,}")
    console = Console(width=100)
    console.print(table)
    for function, number in count.by_function.most_common(25):
        console.print(f"{number:5d} {function}")


if __name__ == "__main__":
    main()
