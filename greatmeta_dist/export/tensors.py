"""All parameters of a model as the exported files name them.

- ``layers.<name>``: A.
- ``items.features`` [I + 1, Di]: every item's embedding rows, looked up and pooled; the last one is
  the unknown item.
- ``items.prior_mean``, ``items.content_mean`` [I + 1]: what a rating of an item is expected to be,
  and what its features alone say of that.
- ``values.<feature>`` [values + 1, d]: embedding rows of a feature's values, in the order of its
  vocabulary, and of any other value; for all features but items' ids.
- ``items.mf_position`` [I + 1], ``mf.*`` and ``mixture.*``: the Bayesian factorisation
  (``program.py``); the position is −1 of items that it does not know.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from greatmeta_dist.data.manifest import ITEM_ID, Field
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import Features, slot_starts
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.export.tensor_file import StoredTensor
from greatmeta_dist.meta.batch import SlotTable
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior
from greatmeta_dist.ragged import Grouped

ROWS_PER_PART = 1 << 14
"""Rows of a large table that are in memory at a time."""


def stored_tensors(scorer: Scorer, catalogue: Store) -> list[StoredTensor]:
    """What ``model.safetensors`` holds, in its order; ``scorer`` knows the unknown item."""
    layers = scorer.worker.averaged_layers
    tensors = [StoredTensor.of(f"layers.{name}", tensor) for name, tensor in layers.items()]
    tensors += [StoredTensor.of(f"items.{name}", t) for name, t in _item_means(scorer).items()]
    prior = factorisation(scorer)
    if prior is not None:
        num_items = len(scorer.collator.target_transform.bias.item_count)
        tensors.append(StoredTensor.of("items.mf_position", _positions(prior, num_items)))
        tensors += [_factors(prior, name) for name in ("mean", "variance", "with_offset")]
        tensors += [StoredTensor.of(f"mixture.{name}", t) for name, t in mixture(prior).items()]
    fields = [
        field
        for side in ("user", "item")
        for field in catalogue.fields(side, scorer.feature_spec)
        if field.name != ITEM_ID
    ]
    tensors += [_values(scorer, catalogue, field) for field in fields]
    return [*tensors, _item_features(scorer)]


def factorisation(scorer: Scorer) -> BayesianMFPrior | None:
    """The Bayesian factorisation that is blended in, if one is."""
    priors = [p for p in scorer.blend.priors if isinstance(p, BayesianMFPrior)]
    return priors[0] if priors else None


def mixture(prior: BayesianMFPrior) -> dict[str, Tensor]:
    """The prior of users in every start, as ``AdaptAndScore`` takes it."""
    starts = prior.starts
    num_components = max(len(start.users.weight) for start in starts)

    def padded(array: NDArray[np.float64]) -> NDArray[np.float64]:
        """[C, …] with components of weight 0 where another start has more."""
        missing = num_components - len(array)
        return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

    return {
        "noise": torch.tensor([start.noise for start in starts], dtype=torch.float64),
        "weight": _stacked([padded(start.users.weight) for start in starts]),
        "mean": _stacked([padded(start.users.mean) for start in starts]),
        "precision": _stacked([start.users.precision for start in starts]),
    }


def _factors(prior: BayesianMFPrior, name: str) -> StoredTensor:
    """[S, P, …] the items of every start; all starts know the same ones."""
    arrays = [getattr(start, name) for start in prior.starts]
    parts = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    return StoredTensor(f"mf.{name}", torch.float64, (len(arrays), *arrays[0].shape), parts)


def _positions(prior: BayesianMFPrior, num_items: int) -> Tensor:
    """[I + 1] the position of each item among those that the factorisation knows, or −1."""
    position = np.full(num_items, -1, np.int64)
    known = prior.starts[0].item
    position[known] = np.arange(len(known))
    return torch.from_numpy(position)


def _stacked(arrays: list[NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float64))


def _item_means(scorer: Scorer) -> dict[str, Tensor]:
    transform = scorer.collator.target_transform
    num_items = len(transform.bias.item_count)
    prior_mean = transform.item_means(np.arange(num_items))
    return {
        "prior_mean": torch.from_numpy(prior_mean),
        "content_mean": torch.from_numpy(transform.bias.content_mean.astype(np.float64)),
    }


def _values(scorer: Scorer, catalogue: Store, field: Field) -> StoredTensor:
    """The embedding rows of a feature's values, and the unknown row."""
    _, rows = catalogue.vocabulary(field)
    index = torch.from_numpy(np.append(rows, field.unknown_row).astype(np.int64))
    table = scorer.worker.table
    parts = (table.lookup_averaged(p.to(scorer.worker.device)) for p in index.split(ROWS_PER_PART))
    shape = (len(index), scorer.worker.model.embedding_dim)
    return StoredTensor(f"values.{field.name}", torch.float32, shape, parts)


def _item_features(scorer: Scorer) -> StoredTensor:
    items, model = scorer.collator.items, scorer.worker.model
    num_items = len(items.fields[0].lengths)
    starts = range(0, num_items, ROWS_PER_PART)
    parts = map(partial(_pooled, scorer, items), starts)
    shape = (num_items, model.num_item_fields * model.embedding_dim)
    return StoredTensor("items.features", torch.float32, shape, parts)


def _pooled(scorer: Scorer, items: Features, start: int) -> Tensor:
    """[rows, Di] features of the items from ``start`` on, ``ROWS_PER_PART`` of them."""
    last = min(start + ROWS_PER_PART, len(items.fields[0].lengths))
    slots = items.slots(np.arange(start, last), None)
    rows = Grouped.of(slots.row)
    table = SlotTable(
        torch.from_numpy(rows.index),
        torch.from_numpy(slots.weight(items.is_mean, np.float32)),
        torch.from_numpy(slot_starts(slots.length)),
    )
    return scorer.worker.pooled_features(table, torch.from_numpy(rows.distinct))
