"""Features of a catalogue with repeated vectors kept once: the same numbers as item by item."""

import numpy as np
import pytest
import torch
from small_training import prepare_store, small

from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.priors.fit import fit_priors
from greatmeta_dist.ragged import Ragged, offsets_of
from greatmeta_dist.recommend import item_features
from greatmeta_dist.recommend.item_features import ItemFeatures
from greatmeta_dist.training.build import build_model


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Scorer:
    store = Store(prepare_store(tmp_path_factory.mktemp("features")))
    config = small(store.folder)
    priors = fit_priors(store.training_rows(), config.priors, lambda stage, share: None)
    return build_model(config, store, priors).scorer


def num_items(scorer: Scorer) -> int:
    return len(scorer.collator.items.fields[0].lengths)


def item_by_item(scorer: Scorer, monkeypatch) -> ItemFeatures:
    monkeypatch.setattr(item_features, "MAX_DISTINCT", 0.0)
    features = ItemFeatures.of(scorer, num_items(scorer))
    monkeypatch.undo()
    assert all(field.index is None for field in features.fields)
    return features


def shared(scorer: Scorer, monkeypatch) -> ItemFeatures:
    monkeypatch.setattr(item_features, "MAX_DISTINCT", 0.5)
    features = ItemFeatures.of(scorer, num_items(scorer))
    monkeypatch.undo()
    return features


def test_a_field_of_few_values_is_kept_once_for_each(scorer, monkeypatch):
    ids, kinds = shared(scorer, monkeypatch).fields
    assert ids.index is None
    assert kinds.index is not None
    assert kinds.vector.shape[1] == 15  # of pairs of 5 and 3 values


@pytest.mark.parametrize("num_users", [1, 3])
def test_products_columns_and_parts_are_those_of_item_by_item(scorer, monkeypatch, num_users):
    one, other = shared(scorer, monkeypatch), item_by_item(scorer, monkeypatch)
    every = torch.arange(num_items(scorer))
    assert torch.equal(one.columns(every), other.columns(every))
    users = torch.randn(num_users, len(one.columns(every)), generator=torch.manual_seed(0))
    part = slice(7, 31)
    expected = 1 + users.double() @ other.columns(every).double()[:, part]
    for features in (one, other):
        total = torch.ones(num_users, 24)
        features.adder(users)(total, part)
        assert total.numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert one.mean().numpy() == pytest.approx(other.mean().numpy(), abs=1e-6)
    some = torch.tensor([40, 3, 3, 17])
    assert torch.equal(one.take(some).columns(torch.arange(4)), other.columns(some))


def test_lists_are_grouped_by_their_values_in_order():
    rng = np.random.default_rng(0)
    lists = [rng.integers(3, size=rng.integers(5)).tolist() for _ in range(400)]
    lengths = np.array([len(one) for one in lists])
    values = np.array([value for one in lists for value in one], np.int32)
    index = item_features._distinct_lists(Ragged(values, offsets_of(lengths))).index
    group_of: dict[tuple[int, ...], int] = {}
    for one, group in zip(lists, index.tolist(), strict=True):
        assert group_of.setdefault(tuple(one), group) == group
    assert len(set(group_of.values())) == len(group_of)
