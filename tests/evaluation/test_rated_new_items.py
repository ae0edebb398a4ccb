"""New items in evaluation: by content alone, and with the ratings that the supports hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from logs import csv_config
from small_training import small

from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.evaluate import evaluate
from greatmeta_dist.evaluation.new_item_neighbours import DAMPING, PRIOR_WEIGHT
from greatmeta_dist.evaluation.rated_new_items import tables_of
from greatmeta_dist.predict import Predictor
from greatmeta_dist.ragged import Ragged
from greatmeta_dist.recommend.extended import evidence_model
from greatmeta_dist.recommend.known_supports import know_supports, support_evidence
from greatmeta_dist.training.loop import train

NUM_TRAIN, NUM_TEST, NUM_WARM, NUM_COLD = 70, 40, 30, 12


def write_files(folder: Path) -> tuple[Path, Path]:
    """A log in which items differ in how good they are, and a split whose supports have new ones.

    Training users are asked about new items (``item_cold``), and so are new users (``both_cold``).
    """
    rng = np.random.default_rng(0)
    quality = np.concatenate([rng.normal(3, 0.5, NUM_WARM), np.tile([1.8, 4.2], NUM_COLD // 2)])
    log, split = ["u,i,r,t"], ["part\tuser_id\trole\titem_id"]
    for user in range(NUM_TRAIN + NUM_TEST):
        warm = rng.choice(NUM_WARM, 16, replace=False)
        cold = NUM_WARM + rng.choice(NUM_COLD, 6, replace=False)
        rating = quality + rng.normal(0, 0.5, len(quality)) + rng.normal(0, 0.4)
        log += [f"u{user},i{i},{np.clip(rating[i], 1, 5):.2f},0" for i in (*warm, *cold)]
        parts = (
            {"both_cold": (warm[:3], cold)} if user >= NUM_TRAIN else {"item_cold": (warm, cold)}
        )
        if user >= NUM_TRAIN:
            parts["user_cold"] = (warm[:8], None)
        for part, (known, new) in parts.items():
            roles = [("support", known)]
            if new is not None:
                roles += [("support", new[:2]), ("query", new[2:])]
            else:
                roles += [("query", warm[8:])]
            split += [f"{part}\tu{user}\t{role}\ti{i}" for role, items in roles for i in items]
        if user < NUM_TRAIN:
            part = "valid" if user % 7 == 0 else "train"
            if part == "valid":
                split = [line for line in split if f"\tu{user}\t" not in line]
            roles = [("support", warm[:10]), ("query", warm[10:])]
            split += [f"{part}\tu{user}\t{role}\ti{i}" for role, items in roles for i in items]
    (folder / "log.csv").write_text("\n".join(log) + "\n")
    (folder / "split.tsv").write_text("\n".join(split) + "\n")
    return folder / "log.csv", folder / "split.tsv"


def prepared(folder: Path, **options) -> Path:
    log, split = write_files(folder)
    prepare(csv_config(log, split=str(split), **options), folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    folder = tmp_path_factory.mktemp("rated")
    train(small(prepared(folder)), folder / "run", Display())
    return Predictor.load(folder / "run")


@pytest.fixture(scope="module")
def evaluation(predictor) -> dict:
    store = predictor.open_store()
    return evaluate(
        predictor.scorer,
        store,
        others=predictor.baselines(),
        know_new_items=predictor.know_supports,
    )


@pytest.mark.parametrize("scenario", ["item_cold", "both_cold"])
def test_the_supports_ratings_of_new_items_help_everybody(predictor, evaluation, scenario):
    tasks = predictor.open_store().split(scenario, predictor.feature_spec).tasks
    is_new = predictor.model.priors["bias"].model.item_count[tasks.support_item.values] == 0
    alone, rated = (evaluation["scenarios"][name] for name in (scenario, f"{scenario}_rated"))
    counts = {"items": NUM_COLD, "ratings": int(is_new.sum())}
    assert alone["known_of_new_items"] == rated["known_of_new_items"] == counts
    assert is_new.sum() == 2 * len(tasks)
    models = {"global_mean", "item_mean", "bias", "factorisation", "unadapted", "adapted"}
    assert models == alone["models"].keys()
    assert models | {"item_neighbours"} == rated["models"].keys()
    for name in models - {"global_mean"}:
        assert rated["models"][name]["rmse"] < 0.8 * alone["models"][name]["rmse"]
    assert rated["models"]["global_mean"] == alone["models"]["global_mean"]


def test_without_the_supports_ratings_numbers_are_as_they_were(predictor, evaluation):
    store = predictor.open_store()
    plain = evaluate(predictor.scorer, store, others=predictor.baselines())
    for name, scenario in plain["scenarios"].items():
        with_counts = dict(evaluation["scenarios"][name])
        with_counts.pop("known_of_new_items", None)
        assert with_counts == scenario
    assert "known_of_new_items" not in evaluation["scenarios"]["user_cold"]


def test_supports_without_ratings_of_new_items_are_told(tmp_path, predictor):
    everything = predictor.open_store().split("item_cold", predictor.feature_spec).tasks
    is_warm = predictor.model.priors["bias"].model.item_count[everything.support_item.values] > 0
    user = np.repeat(np.arange(len(everything)), everything.support_item.lengths)[is_warm]
    offsets = np.searchsorted(user, np.arange(len(everything) + 1))
    warm = replace(
        everything,
        support_item=Ragged(everything.support_item.values[is_warm], offsets),
        support_label=Ragged(everything.support_label.values[is_warm], offsets),
    )
    assert predictor.know_supports(lambda: [warm]) is None


def test_a_users_own_query_never_counts(predictor):
    store = predictor.open_store()
    tasks = store.split("both_cold", predictor.feature_spec).tasks
    other = replace(
        tasks, query_label=Ragged(6 - tasks.query_label.values, tasks.query_label.offsets)
    )
    predicted = [
        known.scorer.predict(tasks)["adapted"]
        for known in (predictor.know_supports(lambda t=t: [t]) for t in (tasks, other))
    ]
    assert np.array_equal(*predicted)


def test_evidence_does_not_depend_on_the_order_of_users_or_of_their_supports(predictor):
    model = evidence_model(predictor.scorer, predictor.model.priors)
    tasks = predictor.open_store().split("item_cold", predictor.feature_spec).tasks
    whole, rng = support_evidence(model, tasks), np.random.default_rng(0)
    taken = tasks.take(rng.permutation(len(tasks)))
    half = len(taken) // 2
    parts = [taken.take(np.arange(half)), taken.take(np.arange(half, len(taken)))]
    total = support_evidence(model, shuffled(parts[1], rng)) + support_evidence(model, parts[0])
    assert np.array_equal(whole.item, total.item)
    assert np.array_equal(whole.units, total.units)


def shuffled(tasks: TaskTable, rng) -> TaskTable:
    """The same users, each one's support in another order."""
    bounds = zip(tasks.support_item.offsets[:-1], tasks.support_item.offsets[1:], strict=True)
    order = np.concatenate([a + rng.permutation(b - a) for a, b in bounds])
    item, label = tasks.support_item, tasks.support_label
    return replace(
        tasks,
        support_item=Ragged(item.values[order], item.offsets),
        support_label=Ragged(label.values[order], label.offsets),
    )


def test_neighbours_of_new_items_are_those_of_a_loop(predictor):
    tables = tables_of(predictor.open_store(), "item_cold", predictor.feature_spec)
    tasks = next(iter(tables()))
    known = know_supports(
        predictor.scorer, predictor.model.priors, predictor.catalogue, lambda: [tasks]
    )
    assert known is not None
    neighbours = known.others.neighbours
    transform = neighbours.transform
    support_mean, query_mean = transform.prior_means(tasks, is_training=False)
    residual = tasks.support_label.values - support_mean
    users = []
    for u in range(len(tasks)):
        rows = slice(*tasks.support_item.offsets[u : u + 2])
        users.append(
            dict(zip(tasks.support_item.values[rows].tolist(), residual[rows], strict=True))
        )
    count = transform.bias.item_count

    def similarity(new, old):
        both = [user for user in users if new in user and old in user]
        if not both or count[old] == 0:
            return 0.0
        product = sum(user[new] * user[old] for user in both)
        scale = sum(u[new] ** 2 for u in both) * sum(u[old] ** 2 for u in both)
        return product / np.sqrt(scale) * len(both) / (len(both) + DAMPING)

    predicted = neighbours.predict(tasks)
    for row in range(0, len(predicted), 17):
        u = int(np.searchsorted(tasks.query_item.offsets, row, side="right") - 1)
        item = int(tasks.query_item.values[row])
        weights = {old: similarity(item, old) for old in users[u]}
        total = sum(weight * users[u][old] for old, weight in weights.items())
        mean = total / (sum(abs(w) for w in weights.values()) + PRIOR_WEIGHT)
        assert predicted[row] == pytest.approx(np.clip(query_mean[row] + mean, 1, 5), abs=1e-9)


def test_clicks_have_both_scenarios_and_their_catalogues(tmp_path):
    store = prepared(tmp_path, label="click", click_at=3.0)
    train(small(store), tmp_path / "run", Display())
    predictor = Predictor.load(tmp_path / "run")
    scenarios = evaluate(
        predictor.scorer,
        Store(store),
        others=predictor.baselines(),
        know_new_items=predictor.know_supports,
    )["scenarios"]
    alone, rated = scenarios["item_cold"], scenarios["item_cold_rated"]
    assert rated["models"]["adapted"]["auc"] > alone["models"]["adapted"]["auc"] + 0.1
    assert rated["catalogue"].keys() == rated["models"].keys()
    assert rated["known_of_new_items"]["items"] == NUM_COLD
