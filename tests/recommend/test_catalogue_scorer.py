"""The whole catalogue at once: the same scores as item by item, and the same best items."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_forms import DEEP, MODELS, fitted_priors, rating_and_click_stores

from greatmeta_dist.config import Config, InnerConfig, ModelConfig
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.priors.base import RatingPrior
from greatmeta_dist.priors.fit import Priors
from greatmeta_dist.recommend import catalogue_scorer
from greatmeta_dist.recommend.catalogue_scorer import CatalogueScorer
from greatmeta_dist.training.build import build_model


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Store]:
    return rating_and_click_stores(tmp_path_factory)


@pytest.fixture(scope="module")
def priors(stores) -> dict[str, Priors]:
    return fitted_priors(stores)


def scorer_of(store: Store, priors: Priors, model: ModelConfig, *, steps: int = 3) -> Scorer:
    """A model of random parameters, which adapts far."""
    torch.manual_seed(0)
    inner = InnerConfig(steps=steps, learning_rate=0.05, support_damping=0.0)
    return build_model(Config(model=model, inner=inner), store, priors).scorer


def users_of(store: Store, scorer: Scorer) -> TaskTable:
    return store.split("user_cold", scorer.feature_spec).tasks


def every_score(scorer: Scorer, tasks: TaskTable, num_items: int) -> np.ndarray:
    """[U, I] as evaluation has it: every item asked for as a query row."""
    items = np.tile(np.arange(num_items), (len(tasks), 1))
    return scorer.predict(tasks.asking(items))["adapted"].reshape(items.shape)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("labels", ["ratings", "clicks"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_and_best_items_are_those_of_evaluation(stores, priors, name, labels, steps):
    store = stores[labels]
    scorer = scorer_of(store, priors[labels], MODELS[name], steps=steps)
    tasks, num_items = users_of(store, scorer), store.manifest.num_items
    expected = every_score(scorer, tasks, num_items)
    of_catalogue = CatalogueScorer.of(scorer, num_items)
    assert of_catalogue.scores(tasks) == pytest.approx(expected, abs=2e-5)
    top = of_catalogue.top(tasks, 5, exclude=tasks.support_item)
    for user, best in enumerate(top):
        known = tasks.support_item.take(np.array([user])).values
        allowed = np.setdiff1d(np.arange(num_items), known)
        highest = np.sort(expected[user][allowed])[::-1][:5]
        assert best.score == pytest.approx(highest, abs=2e-5)
        assert expected[user][best.item] == pytest.approx(best.score, abs=2e-5)
        assert not set(best.item) & set(known)


def test_too_few_candidates_are_noticed(stores, priors, monkeypatch):
    monkeypatch.setattr(catalogue_scorer, "MIN_CANDIDATES", 5)
    monkeypatch.setattr(catalogue_scorer, "CANDIDATES_PER_ITEM", 1)
    curved = replace(DEEP, embedding_std=4.0)  # far from its tangent
    scorer = scorer_of(stores["ratings"], priors["ratings"], curved)
    tasks, num_items = users_of(stores["ratings"], scorer), stores["ratings"].manifest.num_items
    expected = np.sort(every_score(scorer, tasks, num_items), 1)[:, ::-1][:, :5]
    top = CatalogueScorer.of(scorer, num_items).top(tasks, 5)
    assert np.stack([best.score for best in top]) == pytest.approx(expected, abs=2e-5)


def test_a_prior_that_is_no_inner_product_is_blended_all_the_same(stores, priors, monkeypatch):
    scorer = scorer_of(stores["ratings"], priors["ratings"], DEEP)
    tasks, num_items = users_of(stores["ratings"], scorer), stores["ratings"].manifest.num_items
    expected = every_score(scorer, tasks, num_items)
    monkeypatch.setattr(type(scorer.blend.priors[0]), "item_vectors", RatingPrior.item_vectors)
    top = CatalogueScorer.of(scorer, num_items).top(tasks, 3)
    highest = np.sort(expected, 1)[:, ::-1][:, :3]
    assert np.stack([best.score for best in top]) == pytest.approx(highest, abs=2e-5)


def test_the_batch_does_not_matter(stores, priors):
    scorer = scorer_of(stores["ratings"], priors["ratings"], DEEP)
    tasks, num_items = users_of(stores["ratings"], scorer), stores["ratings"].manifest.num_items
    of_catalogue = CatalogueScorer.of(scorer, num_items)
    together = of_catalogue.top(tasks, 4)
    for user in range(len(tasks)):
        (alone,) = of_catalogue.top(tasks.take(np.array([user])), 4)
        assert alone.score == pytest.approx(together[user].score, abs=1e-5)


def test_a_model_that_reads_what_else_is_asked_has_no_best_items(stores, priors):
    own = replace(DEEP, context="own", has_kernel=False)
    scorer = scorer_of(stores["ratings"], priors["ratings"], own)
    tasks, num_items = users_of(stores["ratings"], scorer), stores["ratings"].manifest.num_items
    with pytest.raises(InputError, match=r"model\.context=own, .* train with model\.context"):
        CatalogueScorer.of(scorer, num_items).top(tasks, 5)
