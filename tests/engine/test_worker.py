"""A worker holds its block of the embedding rows, and loads what it saved."""

import torch

from greatmeta_dist.engine.worker import StoreFacts, Worker
from greatmeta_dist.options.compose import compose_config

META = torch.device("meta")


def test_optimizer_state_is_loaded_to_where_its_parameters_are():
    config = compose_config([])
    sizes = StoreFacts(2, 3, 50)
    here, there = Worker(config, sizes, torch.device("cpu")), Worker(config, sizes, META)
    here.coordinator.step_layers({k: torch.ones_like(v) for k, v in here.layers.items()})
    here.coordinator.compute_weights(torch.ones(4, here.factor_sizes.total + 3))
    there.load(here.dense_state(), {k: v.tensors for k, v in here.blocks().items()})
    for optimizer in (there.coordinator.optimizer, there.coordinator.scheduler_optimizer):
        state = optimizer.state("of")
        assert {value.device for value in state.values()} == {META}
        assert state.keys() == {
            f"of.{name}.{key}"
            for name in optimizer.params
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
