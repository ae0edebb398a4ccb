"""The tensors of A are views of one."""

import torch

from greatmeta_dist.engine.layers import FlatLayers


def test_tensors_are_copies_and_views_of_one():
    tensors = {"b": torch.ones(2, 3), "a": torch.zeros(1)}
    layers = FlatLayers(tensors)
    layers.flat.add_(1)
    assert list(layers) == ["b", "a"]
    assert layers["b"].tolist() == [[2.0] * 3] * 2
    assert layers["a"].tolist() == [1.0]
    assert tensors["b"].eq(1).all()


def test_values_are_cut_as_the_tensors_lie_and_zeros_behind_them_are_ignored():
    layers = FlatLayers({"b": torch.ones(2, 3), "a": torch.zeros(1)})
    values = layers.cut(torch.arange(9.0))
    assert values["b"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert values["a"].tolist() == [6.0]
