"""To how many rows supports are padded, so that a user's bits do not depend on it.

How far a support is padded depends on who else is in the batch. Rows of zeros behind it change no
result, as long as all that is computed for the user goes the same way with more of them.
"""

from dataclasses import dataclass

from greatmeta_dist.meta.fast_weights import most_low_rank_rows
from greatmeta_dist.meta.layer_input import FEWEST_ROWS
from greatmeta_dist.meta.model import ONE_ROW_LAYERS, Recommender

FEWEST_QUERY_ROWS = 10
"""Queries are padded to no fewer rows."""
SMALLEST_PRODUCT = 400
"""torch multiplies users' own matrices by a loop of its own where one product takes fewer
multiplications, and by a library where it takes more: seen with torch 2.13."""


@dataclass(frozen=True)
class Padding:
    """Bounds of the numbers of rows that supports may be padded to."""

    fewest: int = FEWEST_ROWS
    turning_points: tuple[int, ...] = ()
    """Numbers of rows up to which the model computes some layer in one way, and above in another:
    nobody may be padded across one."""

    @classmethod
    def of(cls, model: Recommender, num_steps: int) -> "Padding":
        """Those of a model that takes so many inner steps."""
        of_rows = {k: v for k, v in model.layers.items() if k not in ONE_ROW_LAYERS}
        item_columns = model.num_item_fields * model.embedding_dim
        # By layer that sees a support's rows: the multiplications that each of them takes.
        products, points = [item_columns], []
        for name, shape in of_rows.items():
            is_fixed = name == next(iter(of_rows)) or name == "kernel"
            num_out = sum(shape.splits)
            products.append(num_out * (item_columns if is_fixed else shape.num_in))
            if num_steps == 0:
                continue
            most = most_low_rank_rows(shape.num_in, num_out, num_steps, is_fixed=is_fixed)
            points.append(most)
            if most > FEWEST_ROWS:  # a query's rows meet the support's
                products.append(FEWEST_QUERY_ROWS * num_out)
        fewest = -(-SMALLEST_PRODUCT // min(products))
        return cls(max(FEWEST_ROWS, fewest), tuple(points))
