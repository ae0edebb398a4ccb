"""The best anyone could do on synthetic data: all is known of it but the user at hand.

The oracle knows the truth that all users share (groups' tastes, items' and makers' offsets, items'
latent features) and how users are drawn. It infers a new user from the support ratings. For each
group it finds the mode of the user's offset, tastes and latent features under their Gaussian prior
and the binomial ratings, with Laplace's approximation around it; groups are weighed by their
evidence. The noise floor is lower, because it knows the user, too.

Shapes: I items, n support rows and q query rows of one user, D = 1 + categories + latent features.
"""

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.store import Store
from greatmeta_dist.data.synthetic import (
    GROUP_SHARES,
    LATENT_DIM,
    LATENT_SD,
    LEVELS,
    NUM_CATEGORIES,
    OFFSET_SD,
    TASTE_SCALE,
    TASTE_SD,
    draw_truth,
)
from greatmeta_dist.data.tasks import TaskTable

Floats = NDArray[np.float64]

NEWTON_STEPS = 15


class Oracle:
    """A user is b = (offset, tastes, latent features) [D]; a rating's logit is fixed + x·b."""

    def __init__(self, store: Store):
        """For a store of synthetic data, whose truth is drawn again from the seed."""
        recipe = store.manifest.recipe
        truth = draw_truth(np.random.default_rng([recipe["seed"], 1]), recipe["items"])
        item = np.array([int(t.removeprefix("item_")) for t in store.item_tokens()])
        category = truth.item_category[item]
        taste = np.zeros((len(item), NUM_CATEGORIES))
        for column in category.T:
            has_one = np.flatnonzero(column >= 0)
            taste[has_one, column[has_one]] += TASTE_SCALE
        self.x: Floats = np.concatenate(
            (np.ones((len(item), 1)), taste, truth.item_latent[item]), 1
        )
        """[I, D]"""
        self.fixed: Floats = (truth.item_offset + truth.maker_offset[truth.item_maker])[item]
        """[I]"""
        deviation = [OFFSET_SD] + [TASTE_SD] * NUM_CATEGORIES + [LATENT_SD] * LATENT_DIM
        self.precision = np.array(deviation) ** -2.0
        self.group_means = [
            np.concatenate(([offset], tastes, np.zeros(LATENT_DIM)))
            for offset, tastes in zip(truth.group_offset, truth.group_taste, strict=True)
        ]
        """[D] each: what a user of each group is drawn about."""

    def predict(self, tasks: TaskTable) -> Floats:
        """Predicted rating of every query row, users' rows end to end."""
        ratings = []
        for user in range(len(tasks)):
            support = slice(*tasks.support_item.offsets[user : user + 2])
            query = slice(*tasks.query_item.offsets[user : user + 2])
            rating = tasks.support_label.values[support].astype(np.float64)
            successes = (rating - 0.5) * 2
            known, asked = tasks.support_item.values[support], tasks.query_item.values[query]
            chances, evidence = zip(
                *(self._as_of_group(known, successes, asked, mean) for mean in self.group_means),
                strict=True,
            )
            score = np.array(evidence) + np.log(GROUP_SHARES)
            weight = np.exp(score - score.max())
            ratings.append(0.5 + LEVELS / 2 * (weight / weight.sum()) @ np.stack(chances))
        return np.concatenate(ratings)

    def _as_of_group(
        self, known: NDArray, successes: NDArray, asked: NDArray, mean: Floats
    ) -> tuple[Floats, float]:
        """Chances of a success of each asked item [q], and the log evidence, were the user of a
        group of this mean [D], from the successes [n] with the known items [n]."""
        x, fixed, b = self.x[known], self.fixed[known], mean.copy()
        for _ in range(NEWTON_STEPS):
            p = 1 / (1 + np.exp(-(fixed + x @ b)))
            gradient = x.T @ (successes - LEVELS * p) - self.precision * (b - mean)
            curvature = (x.T * (LEVELS * p * (1 - p))) @ x + np.diag(self.precision)
            b = b + np.linalg.solve(curvature, gradient)
        logit = fixed + x @ b
        likelihood = (successes * logit - LEVELS * np.logaddexp(0, logit)).sum()
        prior = -0.5 * (self.precision * (b - mean) ** 2).sum()
        evidence = likelihood + prior - 0.5 * np.linalg.slogdet(curvature)[1]
        x_asked = self.x[asked]
        variance = ((x_asked @ np.linalg.inv(curvature)) * x_asked).sum(1)
        # The mean of a logistic over a Gaussian logit, by the usual probit approximation.
        logit = (self.fixed[asked] + x_asked @ b) / np.sqrt(1 + np.pi * variance / 8)
        return 1 / (1 + np.exp(-logit)), float(evidence)
