"""A run's checkpoints: what a training saves so that it can go on, and how it goes on.

All workers of a group call it together: each saves and loads what it holds.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from greatmeta_dist.config import Config
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.training.earlier_run import EarlierRun
from greatmeta_dist.training.history import History
from greatmeta_dist.training.run_copy import write_back_records
from greatmeta_dist.training.run_folder import require_same_store
from greatmeta_dist.training.validation import Validation


@dataclass(frozen=True)
class RunCheckpoints:
    """Saves and loads a worker's parameters, and the validations' numbers with them."""

    run: Path
    store: Store
    worker: Worker
    validation: Validation
    writer: CheckpointWriter

    @classmethod
    def open(
        cls, run: Path, store: Store, worker: Worker, validation: Validation, *, keep: int
    ) -> "RunCheckpoints":
        """The checkpoints of a run; deletes what earlier workers left unfinished."""
        writer = CheckpointWriter.open(
            run / checkpoint.FOLDER,
            worker.communicator,
            keep=keep,
            on_commit=lambda: write_back_records(run),
        )
        return cls(run, store, worker, validation, writer)

    def save(self, step: int) -> None:
        """Copy what a checkpoint holds, and write it while training goes on."""
        best = self.validation.best
        state = {"best": best, "valid": self.validation.latest, "store": self.store.identity}
        self.writer.save(
            step,
            self.worker.dense_state(),
            self.worker.blocks(),
            state,
            best=best["step"] if best else None,
        )

    def resume(self, display: Display) -> int | None:
        """Load the newest whole checkpoint; returns its step, or None where there is none."""
        saved, skipped = checkpoint.load_latest(
            self.run / checkpoint.FOLDER, self.worker.communicator, wanted=self._entries_here()
        )
        for step in skipped:
            display.say(f"checkpoint of step {step} is damaged or partial; going further back")
            if self.worker.communicator.is_first:
                History(self.run).add("damage", step, "its checkpoint is damaged or partial")
        if saved is None:
            if skipped:
                display.say("no whole checkpoint is left; starting from step 0")
            return None
        require_same_store(saved.state["store"], self.store, self.run)
        self.worker.load(saved.dense, saved.tables)
        self.validation.best, self.validation.latest = saved.state["best"], saved.state["valid"]
        display.say(f"resuming {self.run} after step {saved.step}")
        return saved.step

    def start_from(self, earlier: EarlierRun, config: Config) -> None:
        """Take an earlier run's parameters in place of fresh ones (``train.from``)."""
        common = earlier.common_rows(config, self.store)
        dense = earlier.read_dense(self.worker.communicator)
        has_scheduler = earlier.has_scheduler_of(config)
        self.worker.start_layers_from(dense, has_scheduler=has_scheduler)
        for part, values in earlier.read_rows(common.earlier):
            self.worker.start_rows_from(torch.from_numpy(common.here[part]), values)

    def load_parameters(self, step: int) -> bool:
        """Load a step's parameters in place of the present ones; whether its checkpoint is whole.

        Without one the present parameters stay.
        """
        saved = checkpoint.load(
            self.run / checkpoint.FOLDER,
            step,
            self.worker.communicator,
            wanted=self._entries_here(),
        )
        if saved is None:
            return False
        self.worker.load(saved.dense, saved.tables)
        return True

    def _entries_here(self) -> dict[str, range | None]:
        """The entries of each table that this worker holds."""
        return {name: block.entries for name, block in self.worker.blocks().items()}
