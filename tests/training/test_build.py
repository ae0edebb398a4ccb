"""A model is built from a config, a catalogue and priors."""

from dataclasses import replace

import pytest
import torch
from logs import csv_config, write_log
from small_training import small

from greatmeta_dist.config import ClusterConfig, ModelConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.errors import InputError
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.build import build_model
from greatmeta_dist.training.loop import train


def test_a_model_with_nothing_to_tell_items_by_is_refused(tmp_path):
    prepare(csv_config(write_log(tmp_path, num_users=120)), tmp_path / "plain")
    model = ModelConfig(embedding_dim=4, hidden=[8], has_item_id=False)
    config = replace(small(tmp_path / "plain"), model=model)
    with pytest.raises(InputError, match="nothing tells items apart"):
        train(config, tmp_path / "run", Display())


def test_any_model_has_as_many_threads_as_its_config_says(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        model = Predictor.load(tmp_path / "run").model
        assert torch.get_num_threads() == 1
        of_two = replace(model.config, cluster=ClusterConfig(workers=2, threads=2))
        for communicator in (None, Communicator()):
            torch.set_num_threads(3)
            build_model(of_two, Store(store), model.priors, communicator)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_items_rows_start_at_their_factors_or_at_random(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    model = Predictor.load(tmp_path / "run").model
    rows = {}
    for start in ("factors", "random"):
        options = replace(model.config.model, item_init=start)
        config = replace(model.config, model=options)
        rows[start] = build_model(config, Store(store), model.priors).worker.table.weight
    (field,) = [f for f in Store(store).manifest.fields if f.name == "item_id"]
    is_moved = (rows["factors"] != rows["random"]).any(1)
    assert 0 < is_moved.sum() < field.num_rows
    assert not is_moved[field.unknown_row]
