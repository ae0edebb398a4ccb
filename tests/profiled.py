"""Users of two kinds, for the tests of profiles and groups."""

import numpy as np

from greatmeta_dist.priors.base import ItemFeature, UserRows
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.ragged import Ragged, offsets_of


def bias_of(num_items: int, mean: float) -> BiasModel:
    """A bias model of items that nobody rated, all of the same mean."""
    nothing = np.zeros(num_items)
    return BiasModel(nothing.astype(np.int64), nothing, np.full(num_items, mean), 5.0, 3.0)


def users_of_two_kinds(
    rng, *, likes: bool, chooses: bool
) -> tuple[UserRows, ItemFeature, np.ndarray]:
    """200 users of two kinds, who rate 30 items of four categories; and each user's kind."""
    kind = np.arange(200) % 2
    category = rng.integers(0, 4, 400)
    codes = Ragged(category, np.arange(401))
    feature = ItemFeature("category", list("abcd"), True, codes, num_frequent=4, number=None)
    items = []
    for k in kind:
        wanted = np.where(category == k, 8.0 if chooses else 1.0, 1.0)
        items.append(rng.choice(400, 30, replace=False, p=wanted / wanted.sum()))
    item = np.concatenate(items)
    owner = np.repeat(np.arange(200), 30)
    rating = 3 + rng.normal(size=len(item))
    if likes:
        rating += np.where(category[item] == kind[owner], 1.5, 0.0)
    return UserRows(Ragged(item, offsets_of(np.full(200, 30))), rating), feature, kind
