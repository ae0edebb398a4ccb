"""The second pass: each bucket of users is read whole, and its tasks are written by split."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.arrow import write_arrow
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.encode import encode_tasks
from greatmeta_dist.data.hashing import hash_tokens
from greatmeta_dist.data.histories import index_of_items, read_history
from greatmeta_dist.data.negatives import add_negatives
from greatmeta_dist.data.recipe import split_by_recipe
from greatmeta_dist.data.scan import ScannedLog
from greatmeta_dist.data.split import Catalogue, History, SplitTasks
from greatmeta_dist.data.split_file import split_as_given
from greatmeta_dist.data.summary import LogSummary
from greatmeta_dist.data.tables import shared_table, write_table
from greatmeta_dist.data.units import Result
from greatmeta_dist.files import written_atomically

SPLIT = "split users"


@dataclass(frozen=True)
class SplitUnit:
    """Splits a bucket; a unit is the bucket's number.

    The result counts ``repeats``, ``unlisted_users`` and ``rejected`` rows, and in ``tasks`` the
    tasks and interactions of each split.
    """

    log: ScannedLog
    config: DataConfig
    has_time: bool
    split_time: float | None
    """The point in time at which users are split; None where a hash or a file splits them."""
    folder: Path
    """Has what ``write_context`` wrote."""

    def tasks_path(self, number: int, split: str) -> Path:
        """A split's tasks, if the bucket has any."""
        return self.folder / f"{split}-{number}.arrow"

    def counts_path(self, number: int) -> Path:
        """Counts of the training rows."""
        return self.folder / f"counts-{number}.arrow"

    def summary_path(self, number: int) -> Path:
        """What the bucket's log is like."""
        return self.folder / f"summary-{number}.arrow"

    def rejects_path(self, number: int) -> Path:
        """Rows that repeat another one, where these are rejected."""
        return self.folder / f"rejects-{number}.arrow"

    def used_lines_path(self, number: int) -> Path:
        """Lines of the split file that name a row of the bucket."""
        return self.folder / f"used-{number}.arrow"

    def __call__(self, number: int, unit: int) -> Result:
        catalogue = _catalogue(self.folder / "catalogue.arrow", self.split_time)
        bucket = read_history(
            self.log.bucket(unit),
            shared_table(self.folder / "index.arrow"),
            self.config,
            has_time=self.has_time,
            split_time=self.split_time,
        )
        users, num_unlisted = self.folder / "users.arrow", 0
        if users.exists():
            is_listed = bucket.history.token.is_in(shared_table(users)["id"].implode())
            num_unlisted = int((~is_listed).sum())
        if len(bucket.rejected):
            write_table(self.rejects_path(number), bucket.rejected)
        tasks = self._split(number, bucket.history, catalogue)
        with written_atomically(self.summary_path(number)) as partial:
            LogSummary.of(tasks, len(catalogue.token), bucket.times).write(partial)
        splits = tasks.splits
        if self.config.is_implicit:
            splits = add_negatives(splits, tasks.history, catalogue, self.config)
        written = {}
        for split, rows in splits.items():
            if len(rows):
                batch = encode_tasks(tasks.history, rows)
                with written_atomically(self.tasks_path(number, split)) as partial:
                    write_arrow(partial, batch)
                written[split] = [batch.num_rows, len(rows)]
        training = TrainingCounts.zeros(len(catalogue.token))
        if "train" in splits:
            training.add(tasks.history, splits["train"])
        with written_atomically(self.counts_path(number)) as partial:
            training.write(partial)
        return {
            "repeats": bucket.num_repeats,
            "unlisted_users": num_unlisted,
            "rejected": len(bucket.rejected),
            "tasks": written,
        }

    def _split(self, number: int, history: History, catalogue: Catalogue) -> SplitTasks:
        """A bucket's tasks, by the recipe or by the given split."""
        given = self.folder / "given.arrow"
        if not given.exists():
            return split_by_recipe(history, catalogue, self.config)
        tasks, used_lines = split_as_given(history, catalogue, shared_table(given))
        write_table(self.used_lines_path(number), used_lines.to_frame("line"))
        return tasks


def write_context(
    folder: Path,
    log: ScannedLog,
    items: pl.DataFrame,
    is_cold: pl.Series,
    *,
    users: pl.DataFrame | None,
    given: pl.DataFrame | None,
) -> None:
    """Write what every bucket needs to know, as files: they may be large, and workers share them.

    ``items`` is the catalogue, and ``is_cold`` says which of its items are held out.
    """
    tokens = items["id"]
    catalogue = pl.DataFrame({"id": tokens, "hash": hash_tokens(tokens), "is_cold": is_cold})
    write_table(folder / "catalogue.arrow", catalogue)
    write_table(folder / "index.arrow", index_of_items(log.items, items))
    if users is not None:
        write_table(folder / "users.arrow", users.select("id"))
    if given is not None:
        write_table(folder / "given.arrow", given)


def _catalogue(path: Path, split_time: float | None) -> Catalogue:
    table = shared_table(path)
    is_cold = table["is_cold"].to_numpy()
    return Catalogue(table["id"], table["hash"].to_numpy(), is_cold, split_time)
