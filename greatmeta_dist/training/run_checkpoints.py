"""A run's checkpoints: what a training saves so that it can go on, and how it goes on.

All workers of a group call it together: each saves and loads what it holds.
"""

from dataclasses import dataclass
from pathlib import Path

from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.training.run_folder import CHECKPOINTS, require_same_store
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
        writer = CheckpointWriter.open(run / CHECKPOINTS, worker.communicator, keep=keep)
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

    def resume(self, display: Display) -> int:
        """Load the newest whole checkpoint; returns its step, or 0 where there is none."""
        found, skipped = checkpoint.load_latest(
            self.run / CHECKPOINTS, self.worker.communicator, wanted=self._entries_here()
        )
        for step in skipped:
            display.say(f"checkpoint of step {step} is damaged or partial; going further back")
        if found is None:
            if skipped:
                display.say("no whole checkpoint is left; starting from step 0")
            return 0
        require_same_store(found.state["store"], self.store, self.run)
        self.worker.load(found.dense, found.tables)
        self.validation.best, self.validation.latest = found.state["best"], found.state["valid"]
        display.say(f"resuming {self.run} after step {found.step}")
        return found.step

    def load_parameters(self, step: int) -> bool:
        """Load a step's parameters in place of the present ones; whether its checkpoint is whole.

        Without one the present parameters stay.
        """
        found = checkpoint.load(
            self.run / CHECKPOINTS, step, self.worker.communicator, wanted=self._entries_here()
        )
        if found is None:
            return False
        self.worker.load(found.dense, found.tables)
        return True

    def _entries_here(self) -> dict[str, range | None]:
        """The entries of each table that this worker holds."""
        return {name: block.entries for name, block in self.worker.blocks().items()}
