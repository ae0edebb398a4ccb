"""Ratings of a few tastes, for the tests of factorisations."""

from pathlib import Path

import numpy as np
from scipy import sparse


def low_rank_log(num_users=300, num_items=40, rank=2, noise=0.5, density=0.5, seed=0):
    """Ratings [users, items] of a few tastes, and which are given."""
    rng = np.random.default_rng(seed)
    user = rng.normal(size=(num_users, rank)) @ rng.normal(size=(rank, num_items))
    value = user + rng.normal(size=num_items) + 0.7 * rng.normal(size=(num_users, 1))
    value += noise * rng.normal(size=value.shape)
    return value, rng.random(value.shape) < density


def as_sparse(value, is_given) -> sparse.csr_matrix:
    user, item = np.nonzero(is_given)
    return sparse.csr_matrix((value[is_given], (user, item)), shape=value.shape)


def write_low_rank_log(folder: Path) -> Path:
    value, is_given = low_rank_log(num_users=120, density=0.6)
    lines = [f"u{user},i{item},{value[user, item]:.6f},0" for user, item in np.argwhere(is_given)]
    path = folder / "log.csv"
    path.write_text("\n".join(["u,i,r,t", *lines]) + "\n")
    return path
