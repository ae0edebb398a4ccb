"""The data sets that quality is measured on."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store


@dataclass(frozen=True)
class DataSet:
    """How a store is made, and the options of trainings on it."""

    config: DataConfig | None
    """None where the store is there already."""
    store: Path
    options: list[str] = field(default_factory=list)

    def prepared(self) -> Store:
        """The store, prepared unless it is."""
        if self.config is not None:
            prepare(self.config, self.store)
        return Store(self.store)


def quick_data_set(work: Path) -> dict[str, DataSet]:
    """A few users and steps: not for its numbers, but to see that all works."""
    config = DataConfig(users=300, items=200, mean_interactions=25)
    return {"quick": DataSet(config, work / "quick", ["train.steps=20", "train.valid_every=20"])}


def data_sets(work: Path, ml_100k: Path | None, stores: dict[str, Path]) -> dict[str, DataSet]:
    """The synthetic data, MovieLens 100K where it is at hand, and any prepared stores.

    *Few users* leaves 1,300 of the synthetic users for training, and 2,300 new ones to judge by.
    """
    many = DataConfig(users=4000, min_interactions=13, max_query_fraction=1.0)
    few = replace(many, valid_fraction=0.05, test_fraction=0.6)
    sets = {
        "synthetic": DataSet(many, work / "synthetic", ["train.steps=1000"]),
        "synthetic, few users": DataSet(few, work / "synthetic-few"),
        "synthetic, seed 1": DataSet(
            replace(many, seed=1), work / "synthetic-1", ["train.steps=1000"]
        ),
        "synthetic, seed 1, few users": DataSet(replace(few, seed=1), work / "synthetic-1-few"),
    }
    if ml_100k is not None:
        sets |= _ml_100k_data_sets(work, ml_100k)
    return sets | {name: DataSet(None, path) for name, path in stores.items()}


def _ml_100k_data_sets(work: Path, folder: Path) -> dict[str, DataSet]:
    """MovieLens 100K: the given split, random ones, held-out items, and two forms of clicks."""
    options = ["experiment=ml-100k"]
    log = DataConfig(
        source="recbole", path=str(folder), min_interactions=13, max_query_fraction=1.0
    )
    given_split = replace(log, split=str(folder / "split.tsv"))
    sets = {"ml-100k": DataSet(given_split, work / "ml-100k", options)}
    for seed in range(1, 5):
        # The same kind of users as the given split's.
        other_split = replace(
            log, seed=seed, min_interactions=40, max_interactions=200, warm_fraction=0.0
        )
        cold_items = replace(log, seed=seed, cold_item_fraction=0.2)
        sets[f"ml-100k, split {seed}"] = DataSet(other_split, work / f"ml-100k-{seed}", options)
        sets[f"ml-100k, held-out items {seed}"] = DataSet(cold_items, work / f"ml-100k-cold-{seed}")
    clicks = replace(given_split, label="click")
    sets["ml-100k, clicks"] = DataSet(clicks, work / "ml-100k-clicks", options)
    met = replace(clicks, click_at=None)
    sets["ml-100k, met or not"] = DataSet(met, work / "ml-100k-met", options)
    return sets
