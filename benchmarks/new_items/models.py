"""What predicts new items from their first ratings: the run's model, and others that know the same.

Shapes: U users, I items.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.fold_in import FOLD_INS, SPEC, FoldIn, Residuals
from benchmarks.new_items.protocol import Draw
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.predict import Predictor
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.recommend.extended import Extension, evidence_model
from greatmeta_dist.recommend.known_supports import RatedBaselines

Floats = NDArray[np.float64]
USERS_PER_BATCH = 256
PLAIN_ITEM_DAMPING, PLAIN_USER_DAMPING = 4.0, 3.0
"""Ratings' worth of prior, at 0, of offsets in a bias model that knows no features."""
SHIPPED, CONTENT = "as shipped", "as shipped, items by content alone"
NAMES = {
    "item_mean": "item mean",
    "bias": "item and user offsets",
    "factorisation": "Bayesian factorisation, folded in",
    "item_neighbours": "item neighbours among the raters",
}


def predictions(
    predictor: Predictor, store: Store, draw: Draw, num_known: int, others: dict[str, FoldIn]
) -> Iterator[tuple[str, Floats]]:
    """Predicted rating of every row asked for, by model; ``others`` are ``fold_ins``."""
    base, priors = predictor.scorer, predictor.model.priors
    model = evidence_model(base, priors)
    tasks, evidence = draw.tasks_knowing(num_known), draw.evidence(model, num_known)
    yield CONTENT, _of_scorer(base, tasks)
    scorer, known_priors = Extension(base, priors, predictor.catalogue).of_indices(evidence)
    if num_known:
        yield SHIPPED, _of_scorer(scorer, tasks)
        yield "… the model alone", _of_scorer(scorer.alone(), tasks)
    yield "plain offsets, no features", _plain_offsets(base, draw, tasks, num_known)
    transform = replace(scorer.collator.target_transform, kind="bias")
    yield "content and offsets", _bias(transform, tasks)
    baselines = RatedBaselines.of(scorer, known_priors, model, evidence, lambda: [tasks])
    for name, rating in baselines.predict(tasks).items():
        if name in NAMES:
            yield NAMES[name], rating
    for name, other in others.items():
        yield f"{name}, fitted with these ratings", _refitted(other, store, transform, tasks)


def _of_scorer(scorer: Scorer, tasks: TaskTable) -> Floats:
    batches = range(0, len(tasks), USERS_PER_BATCH)
    users = (np.arange(first, min(first + USERS_PER_BATCH, len(tasks))) for first in batches)
    return np.concatenate([scorer.predict(tasks.take(batch))["adapted"] for batch in users])


def _bias(transform: TargetTransform, tasks: TaskTable) -> Floats:
    _, prior_mean = transform.prior_means(tasks, is_training=False)
    return transform.in_range(prior_mean)


def _plain_offsets(scorer: Scorer, draw: Draw, tasks: TaskTable, num_known: int) -> Floats:
    """Users' offsets from items that training had, and new items' offsets from what these leave."""
    transform, known = scorer.collator.target_transform, draw.first(num_known)
    fitted, mean = transform.bias, transform.ratings.mean
    num_items = len(fitted.item_count)
    plain = BiasModel(
        fitted.item_count,
        fitted.item_sum,
        np.full(num_items, mean),
        item_damping=PLAIN_ITEM_DAMPING,
        user_damping=PLAIN_USER_DAMPING,
    )
    support = draw.tasks.support_item
    residual = draw.tasks.support_label.values - plain.item_means(support.values)
    user = plain.user_offsets(residual, support.lengths)
    error = known.rating - mean - user[known.user]
    count = np.bincount(known.item, minlength=num_items)
    offset = np.bincount(known.item, error, num_items) / (count + PLAIN_ITEM_DAMPING)
    query = tasks.query_item
    asked = plain.item_means(query.values) + offset[query.values]
    return transform.in_range(asked + np.repeat(user, query.lengths))


def fold_ins(predictor: Predictor, store: Store) -> dict[str, FoldIn]:
    """The models of ``fold_in``, their strengths chosen on the validation users."""
    transform = replace(predictor.scorer.collator.target_transform, kind="bias")
    return {name: kind(store, transform) for name, kind in FOLD_INS.items()}


def _refitted(model: FoldIn, store: Store, transform: TargetTransform, tasks: TaskTable) -> Floats:
    """Predicted ratings after a fit that has the known ratings of new items, too.

    The users who are asked are among its training users, with what is known of them.
    """
    model.transform = transform
    train = store.split("train", SPEC)
    trained = Residuals.of(train.tasks, transform, is_training=True)
    known = Residuals.of(tasks, transform, is_training=False)
    # A training user stands in both: of the tasks only the ratings of new items are more.
    is_new = transform.bias.item_count == 0
    new = Residuals(known.value * is_new, known.is_rated & is_new)
    model.fit(_merged(train.user, trained, draw_users(store), new, known))
    return model.predict(tasks)


def draw_users(store: Store) -> list[str]:
    """The users of a draw, in order."""
    return [name for split in ("item_cold", "both_cold") for name in store.split(split, SPEC).user]


def _merged(
    trained: list[str], train: Residuals, names: list[str], new: Residuals, everything: Residuals
) -> Residuals:
    """Training users with their ratings of new items, and the others with all that is known."""
    number = {name: k for k, name in enumerate(trained)}
    value, is_rated = train.value.copy(), train.is_rated.copy()
    others = []
    for k, name in enumerate(names):
        if name in number:
            value[number[name]] += new.value[k]
            is_rated[number[name]] |= new.is_rated[k]
        else:
            others.append(k)
    return Residuals(
        np.concatenate((value, everything.value[others])),
        np.concatenate((is_rated, everything.is_rated[others])),
    )
