"""Explanations: exact parts that add up to how far a score moved, and words for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from logs import csv_config, write_log
from model_forms import DEEP, MODELS, fitted_priors
from small_training import prepare_store, small

from greatmeta_dist.config import Config, InnerConfig, ModelConfig, PriorsConfig
from greatmeta_dist.config.priors import BayesianMFConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.export.program import AdaptAndScore, Form
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.predict import Predictor
from greatmeta_dist.priors.base import RatingPrior
from greatmeta_dist.priors.fit import Priors, fit_priors
from greatmeta_dist.ragged import Ragged
from greatmeta_dist.recommend.explain import ExplainedUser, Explainer
from greatmeta_dist.recommend.explanation import Explanation, KnownFeature, KnownRating
from greatmeta_dist.recommend.moved_priors import user_by_rating
from greatmeta_dist.recommend.new_users import NewUsers, with_unknown_item
from greatmeta_dist.recommend.rating_moves import Support, adapt_by_rating
from greatmeta_dist.training.build import build_model
from greatmeta_dist.training.loop import train

OFFSETS_ALONE = replace(
    DEEP, has_encoder=False, has_kernel=False, use_bayesian_mf=False, activation="none"
)


def prepare_with_users(folder: Path, **options) -> Path:
    """A store of users with features."""
    users = folder / "users.csv"
    people = [f"u{k},{20 + k % 40},c{k % 3},a{k % 2}|b{k % 5}" for k in range(120)]
    users.write_text("\n".join(["u,age,country,tags", *people]))
    config = csv_config(
        write_log(folder, num_users=120),
        users_path=str(users),
        user_features={"age": "float", "country": "token", "tags": "token_list"},
        min_value_count=2,
        **options,
    )
    prepare(config, folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Store]:
    ratings, clicks = (tmp_path_factory.mktemp(name) for name in ("ratings", "clicks"))
    return {
        "ratings": Store(prepare_with_users(ratings)),
        "clicks": Store(prepare_with_users(clicks, label="click", click_at=3.5)),
    }


@pytest.fixture(scope="module")
def priors(stores) -> dict[str, Priors]:
    # So few users would all be of one component.
    options = PriorsConfig(bayesian_mf=BayesianMFConfig(min_component_users=15))
    return fitted_priors(stores, options)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    train(small(prepare_with_users(folder)), folder / "run", Display())
    return folder / "run"


def explainer_of(store: Store, priors: Priors, model: ModelConfig, *, steps: int = 3) -> Explainer:
    """Of a model of random parameters, which adapts far."""
    torch.manual_seed(0)
    rate = 0.01 if model.activation == "relu" else 0.05  # relu diverges at more
    inner = InnerConfig(steps=steps, learning_rate=rate, support_damping=0.0)
    scorer = build_model(Config(model=model, inner=inner), store, priors).scorer
    return Explainer(with_unknown_item(scorer), NewUsers(store, scorer.feature_spec))


def user_of(explainer: Explainer, number: int) -> TaskTable:
    tasks = explainer.new_users.catalogue.split("user_cold", explainer.scorer.feature_spec).tasks
    return tasks.take(np.array([number]))


def total(explanation: Explanation) -> float:
    """How far the score moved, in the unit of the amounts."""
    both = np.array([explanation.score, explanation.baseline])
    if explanation.unit == "logit":
        both = np.log(both / (1 - both))
    return float(both[0] - both[1])


def score_of(scorer: Scorer, task: TaskTable, item: int) -> float:
    return float(scorer.predict(task.asking(np.array([[item]])))["adapted"][0])


def nobody(task: TaskTable) -> TaskTable:
    """The same user with nothing known."""
    none = Ragged(np.empty(0, np.int32), np.zeros(2, np.int64))
    unknown = tuple(
        Ragged(np.array([row], np.int32), np.array([0, 1])) for row in task.features.unknown
    )
    return replace(
        task,
        features=replace(task.features, fields=unknown),
        support_item=none,
        support_label=Ragged(np.empty(0, np.float32), none.offsets),
    )


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("labels", ["ratings", "clicks"])
@pytest.mark.parametrize("name", MODELS)
def test_amounts_add_up_to_how_far_the_score_moved(stores, priors, name, labels, steps):
    explainer = explainer_of(stores[labels], priors[labels], MODELS[name], steps=steps)
    for number in range(3):
        task = user_of(explainer, number)
        user = explainer.of_user(task)
        for item in (0, 7, 31, len(explainer.new_users.items)):
            explanation = user.explain(item, item)
            assert explanation.score == pytest.approx(
                score_of(explainer.scorer, task, item), abs=2e-5
            )
            assert explanation.baseline == pytest.approx(
                score_of(explainer.scorer, nobody(task), item), abs=2e-5
            )
            assert explanation.moved == pytest.approx(total(explanation), abs=1e-8)
            assert len(explanation.ratings) == len(task.support_item.values)
            assert [f.name for f in explanation.features] == ["age", "country", "tags"]
            if steps and name != "linear":
                assert all(cause.amount for cause in explanation.features)


def test_a_user_of_whom_nothing_is_known_has_no_causes(stores, priors):
    explainer = explainer_of(stores["ratings"], priors["ratings"], DEEP)
    explanation = explainer.of_user(nobody(user_of(explainer, 0))).explain(3, "i3")
    assert explanation.score == explanation.baseline
    assert explanation.causes == []
    assert explanation.reasons() == []
    assert explanation.text().count("\n") == 0


def shuffled(task: TaskTable, order: np.ndarray) -> TaskTable:
    return replace(
        task,
        support_item=Ragged(task.support_item.values[order], task.support_item.offsets),
        support_label=Ragged(task.support_label.values[order], task.support_label.offsets),
    )


@pytest.mark.parametrize("labels", ["ratings", "clicks"])
def test_the_order_of_ratings_does_not_matter(stores, priors, labels):
    explainer = explainer_of(stores[labels], priors[labels], DEEP)
    task = user_of(explainer, 1)
    order = np.arange(len(task.support_item.values))[::-1]
    forward = explainer.of_user(task).explain(4, "i4").ratings
    backward = explainer.of_user(shuffled(task, order)).explain(4, "i4").ratings
    for one, same in zip(forward, reversed(backward), strict=True):
        assert one.amount == pytest.approx(same.amount, abs=1e-9)


def without(task: TaskTable, row: int) -> TaskTable:
    keep = np.delete(np.arange(len(task.support_item.values)), row)
    offsets = np.array([0, len(keep)])
    return replace(
        task,
        support_item=Ragged(task.support_item.values[keep], offsets),
        support_label=Ragged(task.support_label.values[keep], offsets),
    )


def test_an_unknown_feature_moves_nothing_and_may_as_well_not_be_given(stores, priors):
    explainer = explainer_of(stores["ratings"], priors["ratings"], DEEP)
    new_users = explainer.new_users
    bare = without(user_of(explainer, 0), 0)
    features = [new_users._features([given]) for given in ({"country": "nowhere"}, {})]
    strange, plain = (replace(bare, features=one) for one in features)
    explained = explainer.of_user(strange, features={"country": "nowhere"}).explain(5, "i5")
    (feature,) = explained.features
    assert (feature.name, feature.value, feature.amount) == ("country", "nowhere", 0.0)
    assert explainer.of_user(plain, features={}).explain(5, "i5").score == explained.score
    assert not any("nowhere" in reason for reason in explained.reasons(99))


def factorised(explainer: Explainer):
    return explainer.scorer.blend.priors[0].starts[0]


def test_a_rating_without_a_part_in_the_factorisation_may_as_well_not_be_known(stores, priors):
    explainer = explainer_of(stores["ratings"], priors["ratings"], DEEP)
    start, unknown = factorised(explainer), len(explainer.new_users.items)
    items = np.array([3, unknown, 8], np.int32)
    residual = np.array([1.5, -2.0, 0.5])
    before, parts = user_by_rating(start, Ragged(items, np.array([0, 3])), residual)
    assert not parts[1].any()
    same, fewer = user_by_rating(start, Ragged(items[[0, 2]], np.array([0, 2])), residual[[0, 2]])
    np.testing.assert_array_equal(before, same)
    np.testing.assert_allclose(parts[[0, 2]], fewer, atol=1e-12)


@pytest.mark.parametrize("num_rows", [1, 2, 17, 60])
def test_the_factorisation_s_parts_add_up_to_the_user_that_is_folded_in(stores, priors, num_rows):
    rng = np.random.default_rng(num_rows)
    for labels in ("ratings", "clicks"):
        start = factorised(explainer_of(stores[labels], priors[labels], DEEP))
        assert len(start.users.weight) > 1
        support = Ragged(rng.integers(0, 40, num_rows), np.array([0, num_rows]))
        residual = rng.normal(size=num_rows) * 2
        before, parts = user_by_rating(start, support, residual)
        expected = start.fold_in(support, residual)[0]
        np.testing.assert_allclose(before + parts.sum(0), expected, atol=1e-10)
        np.testing.assert_allclose(before, start.users.weight @ start.users.mean)


def test_with_one_component_a_rating_s_part_is_what_it_adds_linearly(stores, priors):
    start = factorised(explainer_of(stores["ratings"], priors["ratings"], DEEP))
    mixture = replace(start.users, weight=np.ones(1), mean=start.users.mean[:1])
    start = replace(start, users=mixture)
    support, residual = Ragged(np.array([3, 8, 21]), np.array([0, 3])), np.array([1.5, -2.0, 0.5])
    _, parts = user_by_rating(start, support, residual)
    moved = residual + np.array([0.0, 1.0, 0.0])
    _, parts_after = user_by_rating(start, support, moved)
    difference = start.fold_in(support, moved) - start.fold_in(support, residual)
    np.testing.assert_allclose(parts_after[1] - parts[1], difference[0], atol=1e-10)
    np.testing.assert_allclose(parts_after[[0, 2]], parts[[0, 2]], atol=1e-12)


def test_a_user_s_offset_is_split_as_the_mean_that_it_is(stores, priors):
    explainer = explainer_of(stores["ratings"], priors["ratings"], OFFSETS_ALONE, steps=0)
    task, bias = user_of(explainer, 2), explainer.scorer.collator.target_transform.bias
    item, label = task.support_item.values, task.support_label.values
    explanation = explainer.of_user(task).explain(9, "i9")
    expected = (label - bias.item_means(item)) / (len(item) + bias.user_damping)
    assert [r.amount for r in explanation.ratings] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "tanh"])
def test_each_rating_moves_the_layers_by_its_own_gradient(activation, loss):
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = Recommender(
        1, 2, 3, (5, 4), activation, context="support", is_film_residual=True, has_kernel=True
    )
    inner, num_rows = InnerLoop(2, 0.1, loss), 6
    layers = {name: t.double() for name, t in model.init_layers(generator).items()}
    label = (random(num_rows) > 0).double() if loss == "bce" else random(num_rows)
    support = Support(
        random(num_rows, 9),
        random(2, 9),
        label,
        random(num_rows),
        torch.full((6,), 0.2, dtype=torch.float64),
    )
    adapted = adapt_by_rating(model, layers, support, inner)
    form = Form(model, inner, 0.0, "rating", 1.0, 1.0, 5.0, 1.0, None)
    program = AdaptAndScore(form, layers, {})
    current, moves = layers, {name: [0.0] * num_rows for name in layers}
    for _ in range(inner.num_steps):
        start = {name: t.detach().requires_grad_() for name, t in current.items()}
        sums = dict.fromkeys(start, 0.0)
        for row in range(num_rows):
            user, item = support.x[row, :3], support.x[row : row + 1, 3:]
            prediction = program._forward(start, user, item, support.context)
            if loss == "mse":
                by_row = (prediction - label[row]).square()
            else:
                by_row = torch.nn.functional.binary_cross_entropy_with_logits(
                    prediction + support.logit[row], label[row : row + 1], reduction="none"
                )
            gradients = torch.autograd.grad(0.2 * by_row.sum(), list(start.values()))
            for name, gradient in zip(start, gradients, strict=True):
                moves[name][row] = moves[name][row] - inner.learning_rate * gradient
                sums[name] = sums[name] - inner.learning_rate * gradient
        current = {name: current[name] + sums[name] for name in current}
    for name, tensor in current.items():
        torch.testing.assert_close(adapted.layers[name], tensor, atol=1e-10, rtol=1e-8)
    for name, shape in model.layers.items():
        value = random(shape.num_in)
        bias = moves.get(f"{name}.bias", [0.0] * num_rows)
        weights = zip(moves[f"{name}.weight"], bias, strict=True)
        expected = torch.stack([weight @ value + moved for weight, moved in weights])
        torch.testing.assert_close(adapted.moves[name].at(value), expected, atol=1e-10, rtol=1e-8)


def test_another_prior_is_split_by_adding_ratings_in_their_order(stores, priors):
    class Middle(RatingPrior):
        """Predicts the median of a user's residuals."""

        def predict_residual(self, support, residual, query):
            lists = np.split(residual, support.offsets[1:-1])
            middle = np.array([np.median(one) if len(one) else 0.0 for one in lists])
            return np.repeat(middle, query.lengths), np.ones(len(query.values))

        fit = from_state = state = None

    Middle.__abstractmethods__ = frozenset()
    explainer = explainer_of(stores["ratings"], priors["ratings"], OFFSETS_ALONE, steps=0)
    blend = replace(explainer.scorer.blend, priors=[Middle()], weight=1.0)
    explainer = Explainer(replace(explainer.scorer, blend=blend), explainer.new_users)
    task = user_of(explainer, 0)
    explanation = explainer.of_user(task).explain(6, "i6")
    assert explanation.score == pytest.approx(score_of(explainer.scorer, task, 6), abs=2e-5)
    assert explanation.moved == pytest.approx(total(explanation), abs=1e-10)
    assert explanation.ratings[0].amount != 0


def test_a_predictor_explains_what_it_scores(run):
    predictor = Predictor.load(run)
    known, features = {"i3": 5.0, "i8": 1.0}, {"age": 31, "country": "c1", "tags": ["a1"]}
    explanation = predictor.explain(known, "i9", user_features=features)
    assert explanation.item == "i9"
    score = predictor.score(known, ["i9"], user_features=features)[0]
    assert explanation.score == pytest.approx(score, abs=1e-5)
    assert explanation.baseline == pytest.approx(predictor.score({}, ["i9"])[0], abs=1e-5)
    assert [(r.item, r.rating) for r in explanation.ratings] == [("i3", 5.0), ("i8", 1.0)]
    assert {f.name: f.value for f in explanation.features} == features
    assert explanation.moved == pytest.approx(explanation.score - explanation.baseline, abs=1e-12)
    assert explanation.text().startswith(f"i9: {explanation.score:.2f}; ")
    assert "rated i3 5: " in explanation.text(9)
    assert "tags a1: " in explanation.text(9)


def test_recommendations_come_with_reasons_where_asked(run):
    predictor = Predictor.load(run)
    ann, bob = {"i3": 5.0, "i8": 1.0, "i5": 2.0, "i6": 4.5}, {"i7": 3.0}
    plain, explained = predictor.recommend(ann, 3), predictor.recommend(ann, 3, explain=3)
    assert [one[:2] for one in explained] == plain
    for one in explained:
        assert one.why == predictor.explain(ann, one.item).reasons(3)
        assert len(one.why) == 3
    many = predictor.recommend(
        {"ann": ann, "bob": bob}, 2, explain=2, user_features={"bob": {"age": 40}}
    )
    assert [len(one.why) for one in many["ann"]] == [2, 2]
    assert all(len(one.why) == 2 for one in many["bob"])
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["i3", "i8"], "rating": [5.0, 1.0]})
    ranked = predictor.recommend(frame, 2, explain=1)
    assert ranked.columns == ["user", "rank", "item", "score", "why"]
    assert ranked["why"].list.len().to_list() == [1, 1]
    assert predictor.recommend(frame, 2).columns == ["user", "rank", "item", "score"]
    for number in (-1, True, "three", 2.5):
        with pytest.raises(InputError, match="expected a number of reasons from 0 on"):
            predictor.recommend(ann, explain=number)


def test_scores_with_new_items_are_explained_too(run):
    predictor = Predictor.load(run).with_items(["mine"], {"eve": {"mine": 5.0, "i3": 4.0}})
    explanation = predictor.explain({"i3": 5.0, "mine": 4.0}, "mine")
    score = predictor.score({"i3": 5.0, "mine": 4.0}, ["mine"])[0]
    assert explanation.score == pytest.approx(score, abs=1e-5)
    assert explanation.moved == pytest.approx(explanation.score - explanation.baseline, abs=1e-12)


def test_what_cannot_be_explained_is_refused_in_one_line(run, stores, priors):
    predictor = Predictor.load(run)
    with pytest.raises(InputError, match="explained for one user; give"):
        predictor.explain({"ann": {"i3": 5.0}, "bob": {"i4": 1.0}}, "i9")
    with pytest.warns(UserWarning, match="1 of 1 items .* the first is mine"):
        predictor.explain({"i3": 5.0}, "mine")
    own = replace(DEEP, context="own", has_kernel=False)
    with pytest.raises(InputError, match=r"model\.context=own, .* explained"):
        explainer_of(stores["ratings"], priors["ratings"], own)


def explanation_of(*causes: KnownRating | KnownFeature, unit: str = "rating") -> Explanation:
    ratings = tuple(cause for cause in causes if isinstance(cause, KnownRating))
    features = tuple(cause for cause in causes if isinstance(cause, KnownFeature))
    return Explanation("i9", 0.75, 0.5, unit, ratings, features)


def test_words_are_those_of_a_person():
    causes = (
        KnownRating("i3", 5.0, 0.214),
        KnownRating("i4", 1.5, -0.3),
        KnownFeature("age", 31, 0.004),
        KnownFeature("tags", ["a", "b"], 0.1),
        KnownRating("i5", 3.0, 0.0),
    )
    explanation = explanation_of(*causes)
    assert explanation.reasons(5) == [
        "rated i4 1.5: -0.30",
        "rated i3 5: +0.21",
        "tags a, b: +0.10",
        "age 31: +4e-03",
    ]
    assert explanation.text(2) == (
        "i9: 0.75; 0.50 with nothing known\n"
        "  rated i4 1.5: -0.30\n"
        "  rated i3 5: +0.21\n"
        "  3 more: +0.10"
    )
    clicks = explanation_of(KnownRating(7, 1.0, 0.5), KnownRating(8, 0.0, -0.4), unit="logit")
    assert clicks.reasons() == ["clicked 7: +0.50", "did not click 8: -0.40"]
    assert clicks.text(0).splitlines()[0] == "i9: 75.0%; 50.0% with nothing known"


def test_features_of_a_log_are_called_as_its_vocabularies_have_them(stores, priors):
    explainer = explainer_of(stores["ratings"], priors["ratings"], DEEP)
    new_users = explainer.new_users
    field = next(f for f in explainer.user_fields if f.name == "age")
    assert field.edges
    low, high = field.edges[0], field.edges[1]
    bare = without(user_of(explainer, 0), 0)

    def value_of(user: ExplainedUser, name: str):
        return next(f.value for f in user.explain(5, "i5").features if f.name == name)

    for age, words in (
        (low - 1, f"below {low:g}"),
        (low, f"{low:g} to {high:g}"),
        (field.edges[-1] + 9, f"{field.edges[-1]:g} or more"),
    ):
        features = new_users._features([{"age": age, "tags": ["a1", "b2"], "country": "c2"}])
        user = explainer.of_user(replace(bare, features=features))
        assert value_of(user, "age") == words
        assert value_of(user, "tags") == ["a1", "b2"]
        assert value_of(user, "country") == "c2"


def test_users_without_features_are_explained_by_ratings_alone(tmp_path):
    store = Store(prepare_store(tmp_path))
    priors = fit_priors(store.training_rows(), Config().priors, lambda stage, share: None)
    explainer = explainer_of(store, priors, DEEP)
    explanation = explainer.of_user(user_of(explainer, 0)).explain(5, "i5")
    assert explanation.features == ()
    assert explanation.moved == pytest.approx(total(explanation), abs=1e-10)
