"""What was fitted into a store of ``d9985ce``, as the priors of today's program.

That version fitted its models while it prepared the data, and added ratings up in another order.
With its own numbers as priors, today's program must train the same bits.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.data.arrow import map_arrow
from greatmeta_dist.data.store import Store
from greatmeta_dist.priors.base import Prior, UserRows
from greatmeta_dist.priors.bayesian_mf import BayesianMF, BayesianMFPrior
from greatmeta_dist.priors.bias import BiasModel, BiasPrior
from greatmeta_dist.priors.fit import priors_key, write_priors
from greatmeta_dist.priors.item_factors import ItemFactorsPrior
from greatmeta_dist.priors.mixture import Mixture
from greatmeta_dist.priors.user_groups import Categories, Profiler, UserGroupsPrior
from greatmeta_dist.ragged import Ragged
from greatmeta_dist.training.prior_cache import cache_folder

TASK_COLUMNS = ("user", "support_item", "support_rating", "query_item", "query_rating")


def require_same_tasks(old: Path, store: Store) -> None:
    """Raises ``RuntimeError`` unless both stores hold the same items, and the same tasks in order.

    Embedding rows must be the same, too.
    """
    tokens = map_arrow(old / "items.arrow").column("item").to_pylist()
    if tokens != store.item_tokens():
        raise RuntimeError(f"the items of {old} and {store.folder} differ")
    features = [f"feature:{f.name}" for f in store.manifest.fields if f.side == "user"]
    for split, num_shards in store.manifest.shards.items():
        for number in range(num_shards):
            before = map_arrow(old / f"shards/{split}-{number:05d}.arrow")
            now = store.shard(split, number)
            for name in (*TASK_COLUMNS, *features):
                if not before.column(name).equals(now.column(name)):
                    raise RuntimeError(f"{name} of {split} shard {number} differs")


def write_old_priors(old: Path, store: Store, options: PriorsConfig) -> int:
    """Put an old store's fitted numbers where today's program looks for the priors of ``store``.

    Returns the number of training users whose preference group is another than in the old store,
    for groups are recovered from what users were in: 0, or bits will differ.
    """
    manifest = json.loads((old / "manifest.json").read_text())
    bias = _bias(old, manifest)
    groups, num_moved = _user_groups(old, manifest, store, bias, options)
    priors: dict[str, Prior] = {
        "bias": bias,
        "item_factors": _item_factors(old),
        "bayesian_mf": _bayesian_mf(old),
        "user_groups": groups,
    }
    key = priors_key(store.identity, options)
    folder = cache_folder(store.folder.resolve()) / key
    folder.mkdir(parents=True)
    write_priors(folder, priors, key)
    return num_moved


def _bias(old: Path, manifest: dict[str, Any]) -> BiasPrior:
    items, ratings = map_arrow(old / "items.arrow"), manifest["ratings"]
    return BiasPrior(
        BiasModel(
            item_count=items.column("train_count").to_numpy(),
            item_sum=items.column("train_sum").to_numpy(),
            content_mean=items.column("expected").to_numpy(),
            item_damping=ratings["item_prior"],
            user_damping=ratings["user_prior"],
        )
    )


def _item_factors(old: Path) -> ItemFactorsPrior:
    batch = map_arrow(old / "item_factors.arrow")
    return ItemFactorsPrior(batch.column("item").to_numpy(), _matrix(batch.column("factors")))


def _bayesian_mf(old: Path) -> BayesianMFPrior:
    paths = (old / f"factorisations/{start}-items.arrow" for start in itertools.count())
    return BayesianMFPrior([_start(path) for path in itertools.takewhile(Path.exists, paths)])


def _start(items_path: Path) -> BayesianMF:
    """The factorisation of one random start."""
    items = map_arrow(items_path)
    users = map_arrow(items_path.with_name(items_path.name.replace("items", "users")))
    return BayesianMF(
        items.column("item").to_numpy(),
        mean=_matrix(items.column("mean")),
        variance=_matrix(items.column("variance")),
        with_offset=_matrix(items.column("with_offset")),
        noise=float(items.schema.metadata[b"noise"]),
        users=Mixture(
            users.column("weight").to_numpy(),
            _matrix(users.column("mean")),
            np.array(json.loads(users.schema.metadata[b"precision"])),
        ),
    )


def _matrix(column: pa.Array) -> NDArray:
    matrix: NDArray = column.values.to_numpy().reshape(len(column), column.type.list_size)
    return matrix


def _user_groups(
    old: Path, manifest: dict[str, Any], store: Store, bias: BiasPrior, options: PriorsConfig
) -> tuple[UserGroupsPrior, int]:
    """The old store's clusters of users, and how many training users are put in another one.

    The old store has users' clusters, not the centers. A center of k-means is the mean of its
    users' profiles, so the centers come back from profiles made anew.
    """
    rows, fitted = store.training_rows(), {"bias": bias}
    fresh = UserGroupsPrior.fit(rows, options, fitted=fitted, progress=lambda stage, share: None)
    arrays, details = fresh.state()
    clusters = manifest["clusters"]
    groups = [{"name": f"cluster {k}", **cluster} for k, cluster in enumerate(clusters)]
    details |= {"groups": groups, "minority": []}
    users = list(rows.chunks())
    cluster = np.concatenate(
        [
            map_arrow(old / f"shards/train-{k:05d}.arrow").column("cluster").to_numpy()
            for k in range(store.manifest.shards["train"])
        ]
    )
    if "categories" in details:
        arrays["centers"] = _centers(users, cluster, len(clusters), arrays, details, bias)
    prior = UserGroupsPrior.from_state(arrays, details, fitted=fitted)
    assigned = np.concatenate([prior.assign(chunk.item, chunk.rating) for chunk in users])
    return prior, int((assigned != cluster).sum())


def _centers(
    users: list[UserRows],
    cluster: NDArray[np.int32],
    num_clusters: int,
    arrays: dict[str, NDArray],
    details: dict[str, Any],
    bias: BiasPrior,
) -> NDArray[np.float64]:
    """Mean profile of the users in each cluster."""
    of_item = Ragged(arrays["categories.values"], arrays["categories.offsets"])
    profiler = Profiler(
        Categories(details["categories"], of_item),
        bias.model,
        details["is_implicit"],
        details["liking_damping"],
    )
    profiles = np.concatenate(
        [
            np.concatenate(
                [p * s for p, s in zip(profiler.profiles(chunk), details["scales"], strict=True)], 1
            )
            for chunk in users
        ]
    )
    return np.stack([profiles[cluster == k].mean(0) for k in range(num_clusters)])
