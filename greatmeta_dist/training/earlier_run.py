"""Going on from a trained run (``train.from``): its parameters, at another store's embedding rows.

What is taken are the parameters with which that run predicts: the running means, at its best step,
of A and of each embedding row whose feature and value the new store has too, and the scheduler's φ
where it has the same form. Rows that the run has not stay as a fresh run's. Priors are fitted anew.

Optimizers start fresh: Adam's moments are means of gradients on the other store and under its
priors. With them kept, validation went the same way on MovieLens 100K. Users' running means of
factors start fresh too, for the new store has other users in another order.

Shapes: n embedding rows of the new store that the run has too; d embedding width.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from greatmeta_dist.config import Config
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.weighting import make_weighting
from greatmeta_dist.errors import require
from greatmeta_dist.training.run_config import saved_config
from greatmeta_dist.training.saved_model import SavedModel

MAY_DIFFER = ("embedding_std", "item_init", "use_bayesian_mf")
"""Options of ``model`` that say nothing of what the parameters mean."""
ROWS_PER_PART = 1 << 17
"""Rows of the earlier run in memory at a time."""


@dataclass(frozen=True)
class CommonRows:
    """Embedding rows of the same feature and value in two stores."""

    earlier: NDArray[np.int64]
    """[n] rows of the earlier run, ascending."""
    here: NDArray[np.int64]
    """[n] the rows of the new store that stand for the same values."""


@dataclass(frozen=True)
class EarlierRun:
    """A finished run, and the step whose parameters it predicts with."""

    folder: Path
    config: Config
    step: int
    catalogue: Store

    @classmethod
    def open(cls, folder: Path) -> "EarlierRun":
        """Raises ``InputError`` where the folder holds no run, or one that is not trained."""
        config = saved_config(folder)
        require(
            config is not None,
            f"train.from={folder} holds no run (no config.yaml); name a trained run",
        )
        assert config is not None
        state = checkpoint.newest_state(folder / checkpoint.FOLDER)
        require(
            state is not None,
            f"train.from={folder} has no checkpoint; train it: greatmeta train run={folder}",
        )
        assert state is not None
        require(
            state["step"] >= config.train.steps,
            f"train.from={folder} is at step {state['step']} of {config.train.steps}; finish it: "
            f"greatmeta train run={folder}, with train.steps={state['step']} to leave it there",
        )
        step = state["best"]["step"] if state["best"] else state["step"]
        return cls(folder, config, step, SavedModel.open(folder).catalogue())

    def require_fits(self, config: Config, store: Store) -> None:
        """Raises ``InputError`` unless the parameters mean the same on ``store``.

        They do with the same form of the model, the same features and the same kind of label.
        """
        ours, theirs = asdict(config.model), asdict(self.config.model)
        differences = [
            f"model.{name} is {theirs[name]} there, {value} here"
            for name, value in ours.items()
            if name not in MAY_DIFFER and value != theirs[name]
        ]
        require(
            not differences,
            f"train.from={self.folder} has another model: {'; '.join(differences[:4])}; take the "
            "same options, or leave train.from out",
        )
        labels = [_label(s) for s in (self.catalogue, store)]
        require(
            labels[0] == labels[1],
            f"train.from={self.folder} predicts {labels[0]}, and {store.folder} holds {labels[1]}; "
            f"prepare the store with the same data.label, or leave train.from out",
        )
        features = [_describe(s.manifest.fields) for s in (self.catalogue, store)]
        require(
            features[0] == features[1],
            f"train.from={self.folder} has the features {features[0]}, and {store.folder} "
            f"{features[1]}; prepare the store with the same features, or leave train.from out",
        )

    def describe(self, config: Config, store: Store) -> str:
        """What a new run takes, in one line."""
        num_taken = len(self.common_rows(config, store).here)
        num_rows = sum(field.num_rows for field in _fields(store, _spec(config)))
        scheduler = ", the scheduler" if self.has_scheduler_of(config) else ""
        return (
            f"from {self.folder} at step {self.step}: {num_taken:,} of {num_rows:,} embedding "
            f"rows, all layers{scheduler}; the other {num_rows - num_taken:,} rows, the priors and "
            "the optimizers start anew"
        )

    def has_scheduler_of(self, config: Config) -> bool:
        """Whether φ has the same form as that of ``config``, and there is one."""
        ours, theirs = config.scheduler, self.config.scheduler
        names = ("kind", "magnitude", "factors")
        is_same = all(getattr(ours, name) == getattr(theirs, name) for name in names)
        return is_same and make_weighting(ours).factor_spec is not None

    def common_rows(self, config: Config, store: Store) -> CommonRows:
        """The rows of both, of the features that the model uses."""
        spec = _spec(config)
        fields = zip(_fields(self.catalogue, spec), _fields(store, spec), strict=True)
        parts = [self._common_rows_of(theirs, ours, store) for theirs, ours in fields]
        earlier, here = (np.concatenate(rows) for rows in zip(*parts, strict=True))
        order = np.argsort(earlier)
        return CommonRows(earlier[order], here[order])

    def _common_rows_of(
        self, theirs: Field, ours: Field, store: Store
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of one feature's common values, and of unknown values."""
        their_values, their_rows = self.catalogue.vocabulary(theirs)
        our_values, our_rows = store.vocabulary(ours)
        found = pc.index_in(
            our_values.cast(pa.large_string()), value_set=their_values.cast(pa.large_string())
        )
        index = found.fill_null(-1).to_numpy()
        is_common = index >= 0
        return (
            np.append(their_rows[index[is_common]], theirs.unknown_row).astype(np.int64),
            np.append(our_rows[is_common], ours.unknown_row).astype(np.int64),
        )

    def read_dense(self, communicator: Communicator) -> dict[str, Tensor]:
        """All but the embedding rows, as ``Worker.dense_state``, once hashes were checked.

        All workers call it together. Raises ``InputError`` where the checkpoint is damaged.
        """
        saved = checkpoint.load(self.folder / checkpoint.FOLDER, self.step, communicator, wanted={})
        require(
            saved is not None,
            f"the checkpoint of step {self.step} in train.from={self.folder} is damaged or gone; "
            "restore it from a copy, or train that run anew",
        )
        assert saved is not None
        return saved.dense

    def read_rows(self, rows: NDArray[np.int64]) -> Iterator[tuple[slice, Tensor]]:
        """The running means of ``rows``, which ascend: slices of them, and values [·, d]."""
        for start, entries in checkpoint.read_parts(
            self.folder / checkpoint.FOLDER, self.step, "rows", entries_per_part=ROWS_PER_PART
        ):
            length = len(entries["rows"])
            first, last = np.searchsorted(rows, [start, start + length])
            if first < last:
                table = EmbeddingTable(
                    entries["rows"], rate=0.0, ema_decay=self.config.train.ema_decay
                )
                table.load_state(entries)
                wanted = torch.from_numpy(rows[first:last] - start)
                yield slice(int(first), int(last)), table.lookup_averaged(wanted)


def _spec(config: Config) -> FeatureSpec:
    return FeatureSpec(config.model.has_item_id, config.model.list_pooling)


def _fields(store: Store, spec: FeatureSpec) -> list[Field]:
    return [*store.fields("user", spec), *store.fields("item", spec)]


def _label(store: Store) -> str:
    return "clicks" if store.manifest.is_click else "ratings"


def _describe(fields: list[Field]) -> str:
    """Names of features, lists marked: what must be the same, in this order."""
    return ", ".join(f"{f.side}'s {f.name}{' (list)' if f.is_list else ''}" for f in fields)
