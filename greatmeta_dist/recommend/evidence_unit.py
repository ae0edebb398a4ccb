"""Ratings of new items by a bucket's users → evidence, as one unit of work.

Evidence is whole numbers that add up to the same in any order, so that it does not matter how a log
is cut, nor who works.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.store import FeatureSpec
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.user_tasks import read_asked, user_hashes
from greatmeta_dist.files import written_atomically
from greatmeta_dist.priors.item_evidence import ItemEvidence
from greatmeta_dist.ragged import Ints, Ragged, offsets_of
from greatmeta_dist.recommend.loaded_model import LoadsModel, made_once
from greatmeta_dist.recommend.new_item_evidence import NewItemEvidence

EVIDENCE = "learn new items"
USERS_PER_BLOCK = 8192
"""Read at a time."""


@dataclass(frozen=True)
class EvidenceUnit:
    """Reads users' ratings; a unit is ``[tasks of a bucket, number of users, is beside]``.

    Users of a log beside that of the users asked about (``is beside``) are left out where they are
    among these, so that no rating counts twice. The result counts ``ratings``.
    """

    load: LoadsModel
    items: str
    """File of the catalogue's items and those added, as ``write_items`` writes it."""
    asked: str
    """File of the users asked about, as ``write_user_hashes`` writes it."""
    folder: Path

    def path(self, number: int) -> Path:
        """What a unit writes."""
        return self.folder / f"evidence-{number}.npz"

    def __call__(self, number: int, unit: Sequence) -> Result:
        tasks, num_users, is_beside = unit
        evidence = self.load.new_item_evidence()
        for first in range(0, num_users, USERS_PER_BLOCK):
            size = min(USERS_PER_BLOCK, num_users - first)
            evidence = self._with(evidence, Path(tasks), first, size, is_beside=is_beside)
        write_evidence(self.path(number), evidence)
        return {"ratings": evidence.num_ratings}

    def _with(
        self, evidence: NewItemEvidence, path: Path, first: int, size: int, *, is_beside: bool
    ) -> NewItemEvidence:
        """The evidence with the ratings of some users."""
        asked = read_asked(path, first, size, (), FeatureSpec(True, "mean"))
        users = np.arange(size)
        if is_beside:
            known = made_once(self.asked, lambda: np.load(self.asked))
            users = users[~np.isin(user_hashes(asked.user), known)]
        item, rating = asked.tasks.support_item.take(users), asked.tasks.support_label.take(users)
        tokens = made_once(self.items, lambda: read_items_file(Path(self.items)))
        # Items that are neither in the catalogue nor added say nothing, and nothing is learnt.
        is_item = item.values < len(tokens)
        num_rows = evidence.num_rows + int(np.count_nonzero(~is_item))
        user = np.repeat(np.arange(len(users)), item.lengths)[is_item]
        index = item.values[is_item].astype(np.int64)
        offsets = offsets_of(np.bincount(user, minlength=len(users)))

        def token_of(rows: Ints) -> NDArray:
            return tokens[index[rows]]

        values = rating.values[is_item].astype(np.float64)
        evidence = replace(evidence, num_rows=num_rows)
        return evidence.add_rows(Ragged(index, offsets), values, token_of)


def write_items_file(path: Path, items: Sequence[str]) -> None:
    """Write items' tokens, in their order."""
    with written_atomically(path) as partial, partial.open("wb") as file:
        np.save(file, np.array(items, np.str_), allow_pickle=False)


def read_items_file(path: Path) -> NDArray:
    """[I] tokens that ``write_items_file`` wrote."""
    items: NDArray = np.load(path, allow_pickle=False)
    return items


def write_evidence(path: Path, evidence: NewItemEvidence) -> None:
    """Write sums over ratings."""
    sums, rows = evidence.sums, np.array(evidence.num_rows)
    with written_atomically(path) as partial, partial.open("wb") as file:
        np.savez(file, item=sums.item, count=sums.count, units=sums.units, rows=rows)


def read_evidence(path: Path, evidence: NewItemEvidence) -> NewItemEvidence:
    """``evidence`` with the sums that were written to a file."""
    with np.load(path, allow_pickle=False) as saved:
        sums = ItemEvidence(saved["item"], saved["count"], saved["units"])
        num_rows = evidence.num_rows + int(saved["rows"])
    return replace(evidence, sums=evidence.sums + sums, num_rows=num_rows)
