"""What the phases of a preparation cost, about: the shares that its progress shows."""

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.fingerprint import HASH
from greatmeta_dist.data.kept_log import CARRY
from greatmeta_dist.data.scan import CHECK
from greatmeta_dist.data.split_buckets import SPLIT
from greatmeta_dist.data.split_time import FIND_POINT
from greatmeta_dist.data.write_shards import WRITE

FINISH = "write the manifest"
OF_ALL_ROWS = {FIND_POINT: 0.05, SPLIT: 0.8, WRITE: 0.03, FINISH: 0.01}
"""Seconds that a million rows take."""
CHECK_COST, CHECK_TEXT_COST, CARRY_COST = 0.25, 0.8, 0.05
"""Seconds of a million new rows, of such rows of text, and of rows of an earlier store."""
HASH_COST = 0.7
"""Seconds of a GB of files."""
ROW_BYTES = 30
"""Of a log of text, about: before it is read, its rows are not known."""


def expected_costs(
    config: DataConfig, num_rows: int, num_bytes: int, *, num_earlier: int, is_text: bool
) -> dict[str, float]:
    """Seconds by phase, in order, of that many new rows, bytes and rows of an earlier store.

    What a source does before its rows are known says its own costs.
    """
    check = CHECK_TEXT_COST if is_text else CHECK_COST
    costs = {
        HASH: HASH_COST * num_bytes / 1e9,
        CARRY: CARRY_COST * num_earlier / 1e6,
        CHECK: check * num_rows / 1e6,
    }
    num_all = num_rows + num_earlier
    costs |= {name: cost * num_all / 1e6 for name, cost in OF_ALL_ROWS.items()}
    return costs if config.is_split_by_time else costs | {FIND_POINT: 0.0}
