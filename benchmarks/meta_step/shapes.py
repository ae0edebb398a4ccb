"""The shapes a meta step is measured at: their models, random tasks, and work."""

from dataclasses import dataclass

import numpy as np

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.weightings.base import UserWeighting
from greatmeta_dist.ragged import Ragged, offsets_of


@dataclass(frozen=True)
class Shape:
    """What a meta step is about; every user has as many rows."""

    name: str
    user_fields: tuple[int, ...]
    """Values of each field."""
    item_fields: tuple[int, ...]
    hidden: tuple[int, ...]
    support_rows: int
    query_rows: int = 10
    embedding_dim: int = 32
    num_items: int = 1682
    num_steps: int = 3

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table."""
        return sum(self.user_fields) + sum(self.item_fields)


ML_USER, ML_ITEM = (61, 2, 21, 795), (2655, 72, 19)
"""Values of MovieLens 100K's fields."""
SHAPES = (
    Shape("ML-100K", ML_USER, ML_ITEM, (64, 64), 97),
    Shape("10 support rows", ML_USER, ML_ITEM, (64, 64), 10),
    Shape("10 support rows, 16 fields, 256/256", (500,) * 8, (500,) * 8, (256, 256), 10),
)


def make_model(shape: Shape, form: str) -> Recommender:
    """The recommender of a shape, in the ``paper`` form or as ``shipped``."""
    is_shipped = form == "shipped"
    return Recommender(
        len(shape.user_fields),
        len(shape.item_fields),
        embedding_dim=shape.embedding_dim,
        hidden=shape.hidden,
        activation="tanh" if is_shipped else "none",
        context="support" if is_shipped else "own",
        is_film_residual=is_shipped,
        has_kernel=is_shipped,
    )


def make_batch(
    shape: Shape,
    model: Recommender,
    num_users: int,
    *,
    row_scale: int = 1,
    dtype: type = np.float32,
) -> TaskBatch:
    """Random tasks; an item's first and last fields are lists. ``row_scale`` spreads the rows."""
    rng = np.random.default_rng(0)

    def features(sizes: tuple[int, ...], first: int, count: int, lists: set[int]) -> Features:
        columns = []
        for f, size in enumerate(sizes):
            lengths = rng.integers(1, 6, count) if f in lists else np.ones(count, np.int64)
            offsets = offsets_of(lengths)
            columns.append(
                Ragged((first + rng.integers(0, size, offsets[-1])) * row_scale, offsets)
            )
            first += size
        return Features(tuple(columns), (False,) * len(sizes), (0,) * len(sizes))

    def rows(count: int) -> tuple[Ragged, Ragged]:
        offsets = offsets_of(np.full(num_users, count))
        items = rng.integers(0, shape.num_items, num_users * count)
        return Ragged(items, offsets), Ragged(rng.normal(size=len(items)), offsets)

    lists = {0, len(shape.item_fields) - 1}
    table = TaskTable(
        features(shape.user_fields, 0, num_users, set()),
        *rows(shape.support_rows),
        *rows(shape.query_rows),
    )
    items = features(shape.item_fields, sum(shape.user_fields), shape.num_items, lists)
    return build_batch(
        table,
        items,
        np.arange(num_users),
        has_support_gradient=model.has_support_gradient,
        has_row_norms=True,
        dtype=dtype,
        user_index=np.arange(num_users),
    )


def flops_per_user(shape: Shape, model: Recommender, weighting: UserWeighting) -> float:
    """Floating-point operations of one user in a step, counted from DESIGN.md section 2.

    Each product of a layer (forward, input gradient, weight gradient) is 2·rows·in·out. In the
    inner loop only the predictor has weight gradients. The fast step does fewer: what a fixed input
    gives is computed once.
    """
    layers = {n: s.num_in * sum(s.splits) for n, s in model.layers.items()}
    predictor = {n: v for n, v in layers.items() if n not in ("encoder", "film")}
    encoder = sum(layers.values()) - sum(predictor.values())

    def passes(rows: int, *, weight_gradient: bool, to_inputs: bool) -> float:
        forward = rows * sum(predictor.values()) + encoder
        back = forward - (0 if to_inputs else rows * layers["hidden_1"] + layers.get("encoder", 0))
        return 2 * (forward + back + (rows * sum(predictor.values()) if weight_gradient else 0))

    inner = passes(shape.support_rows, weight_gradient=True, to_inputs=False)
    adapted = passes(shape.query_rows, weight_gradient=False, to_inputs=True)
    unadapted = passes(shape.query_rows, weight_gradient=False, to_inputs=False)
    product = 2 * (shape.query_rows * sum(predictor.values()) + encoder)
    uniform = shape.num_steps * inner + adapted + product
    if weighting.factor_spec is None:
        return uniform
    # Factors need the unadapted pass, the sum ḡ, and dot products with it and with g⁰. A look
    # ahead needs the pass at θ', the sums θ' and ∇L_φ, and dot products with the latter.
    factors = unadapted + (1 + 1) * product
    return uniform + factors + (adapted + (2 + 1) * product if weighting.looks_ahead else 0)
