"""What reading costs: an epoch through store and loader against the same steps kept in memory."""

import tempfile
from pathlib import Path

from benchmarks.meta_step.timing import median_seconds
from benchmarks.untrained import training_lanes, untrained_model
from greatmeta_dist.batching.loader import Loader
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.options.compose import compose_config

MAX_STEPS = 24


def loading(
    batch_sizes: list[int], *, num_users: int = 4000, rounds: int = 9
) -> list[dict[str, float]]:
    """Users a second both ways, by batch size.

    Synthetic users of uneven activity, 107 interactions on average, the shipped configuration.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = DataConfig(
            users=num_users,
            items=1682,
            mean_interactions=107,
            min_interactions=13,
            max_query_fraction=1.0,
        )
        prepare(config, Path(folder) / "store")
        store = Store(Path(folder) / "store")
        return [_loading_at(store, size, rounds) for size in batch_sizes]


def _loading_at(store: Store, users_per_batch: int, rounds: int) -> dict[str, float]:
    words = [f"store={store.folder}", f"train.users_per_batch={users_per_batch}"]
    config = compose_config(words)
    model = untrained_model(config, store)
    lanes, worker = training_lanes(config, store, model), model.worker
    numbers = range(min(lanes.steps_per_epoch, MAX_STEPS))
    batches = [lanes.step(number).batch for number in numbers]

    def in_memory() -> None:
        for batch in batches:
            worker.step(batch)

    def loaded() -> None:
        with Loader.suited(lanes, numbers, worker.device) as loader:
            for step in loader:
                worker.step(step.batch)

    seconds = median_seconds([in_memory, loaded], worker.device, rounds=rounds)
    rates = [len(numbers) * users_per_batch / s for s in seconds]
    return {
        "users": users_per_batch,
        "in_memory_users_per_s": rates[0],
        "loaded_users_per_s": rates[1],
        "share": rates[1] / rates[0],
    }
