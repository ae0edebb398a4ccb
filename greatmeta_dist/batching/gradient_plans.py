"""Where the gradients of pooled features go: plans that a step follows without a search.

A model looks features up, pools them, and so gets one gradient for each field of each user or item
(an *atom*). From there gradients go two ways. Their sums by embedding row update the rows
(``UnpoolPlan``). Their sums by user and embedding row have the norms that some factors need
(``PairPlan``). Both are sums over runs of a sorted list, so that their order, and with it their
bits, is fixed here, once a batch, and no step sorts or scatters.

Shapes and words are those of ``meta/batch.py``: B users, n rows of a set, I distinct items, Fu and
Fi fields of users and items, F = Fu + Fi, U distinct embedding rows; M slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from greatmeta_dist.data.tasks import Floats, Slots
from greatmeta_dist.meta.batch import ItemPlan, PairPlan, UnpoolPlan
from greatmeta_dist.ragged import Grouped, Ints, stable_order


@dataclass(frozen=True)
class SetRows:
    """Where the rows of all users' support or query sets stand, user by user."""

    position: Ints
    """[rows] among the padded rows of all buckets, which stand end to end."""
    user: Ints
    """[rows]"""
    item: Ints
    """[rows] which of the batch's I distinct items each is about."""
    num_padded: int


def item_plan(rows: SetRows, *, num_items: int) -> ItemPlan:
    """A set's rows by item: no scatter is needed, and the order, and so the bits, are fixed."""
    order = stable_order(rows.item)
    start = np.searchsorted(rows.item[order], np.arange(num_items))
    return ItemPlan(*(torch.from_numpy(a) for a in (rows.position[order], rows.user[order], start)))


def unpool_plan(
    slots: tuple[Slots, Slots], weights: tuple[Floats, Floats], rows: Grouped
) -> UnpoolPlan:
    """The batch's slots, sorted by embedding row.

    ``slots`` and their pooling ``weights`` are those of users and of items. ``rows`` groups both
    sides' slots, users' first, by embedding row.
    """
    # Atoms are numbered like cells of the two [entities, fields] arrays, users' first.
    slots_of_atom = np.concatenate([s.length.ravel() for s in slots])
    atom = np.repeat(np.arange(len(slots_of_atom)), slots_of_atom)[rows.order]
    weight = np.concatenate(weights)[rows.order]
    return UnpoolPlan(*(torch.from_numpy(a) for a in (atom, weight, rows.start)))


def pair_plan(
    slots: tuple[Slots, Slots],
    weights: tuple[Floats, Floats],
    sets: Sequence[SetRows],
    *,
    num_rows: int,
) -> PairPlan:
    """The slots that the query loss reaches, sorted by user, field and embedding row.

    ``sets`` are the query set, and the support set where the query loss reaches it. ``num_rows`` is
    U: the slots' embedding rows are numbered 0 to U − 1.

    Items are pooled once a batch, whoever rated them. Here each row of each user lists its item's
    slots again, because norms are of one user's gradient.
    """
    user_slots, item_slots = slots
    num_users, num_user_fields = user_slots.length.shape
    num_fields = num_user_fields + item_slots.length.shape[1]

    # A slot's key is (user, field, embedding row) written as one integer: sorting by one key is one
    # radix sort, and equal keys are the slots that must be added up before they are squared.
    user = np.repeat(np.arange(num_users), user_slots.length.sum(1))
    atoms = [user * num_user_fields + user_slots.field]
    keys = [(user * num_fields + user_slots.field) * num_rows + user_slots.row]
    slot_weights = [weights[0]]
    item_field = item_slots.field
    item_key = (num_user_fields + item_field) * num_rows + item_slots.row  # but for the user
    first_atom = num_users * num_user_fields
    for rows in sets:
        slot, num_slots = item_slots.by_entity.positions(rows.item)
        row_atom = first_atom + rows.position * item_slots.length.shape[1]
        atoms.append(np.repeat(row_atom, num_slots) + item_field[slot])
        keys.append(np.repeat(rows.user * (num_fields * num_rows), num_slots) + item_key[slot])
        slot_weights.append(weights[1][slot])
        first_atom += rows.num_padded * item_slots.length.shape[1]

    pairs = Grouped.of(np.concatenate(keys))
    field_start = np.searchsorted(pairs.distinct // num_rows, np.arange(num_users * num_fields + 1))
    atom = np.concatenate(atoms)[pairs.order]
    weight = np.concatenate(slot_weights)[pairs.order]
    return PairPlan(*(torch.from_numpy(a) for a in (atom, weight, pairs.start, field_start)))
