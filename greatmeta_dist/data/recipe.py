"""Which interaction is in whose support or query, and in which split: as the options say."""

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.split import Catalogue, History, SplitTasks
from greatmeta_dist.data.split_by_hash import split_by_hash
from greatmeta_dist.data.split_by_time import split_by_time


def split_by_recipe(history: History, catalogue: Catalogue, config: DataConfig) -> SplitTasks:
    """The tasks of a bucket's users, by a hash of their names or by a point in time."""
    split = split_by_hash if catalogue.split_time is None else split_by_time
    return split(history, catalogue, config)
