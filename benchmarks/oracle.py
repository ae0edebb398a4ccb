"""The best anyone could do on synthetic data: all is known of it but the user at hand.

Knows the world (groups' tastes, items' and makers' offsets, items' latent features) and how users
are drawn, and infers a new user from the support ratings: for each group the mode of the user's
offset, tastes and latent features under their Gaussian prior and the binomial ratings, Laplace's
approximation around it, and the groups weighed by their evidence. The noise floor is lower: it
knows the user, too.
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

NEWTON_STEPS = 15


class Oracle:
    """A user is b = (offset, tastes, latent features); a rating's logit is fixed + x·b."""

    def __init__(self, store: Store):
        recipe = store.manifest.recipe
        world = draw_truth(np.random.default_rng([recipe["seed"], 1]), recipe["items"])
        of_store = np.array([int(t.removeprefix("item_")) for t in store.item_tokens()])
        category = world.item_category[of_store]
        taste = np.zeros((len(of_store), NUM_CATEGORIES))
        for column in category.T:
            here = np.flatnonzero(column >= 0)
            taste[here, column[here]] += TASTE_SCALE
        latent = world.item_latent[of_store]
        self.x = np.concatenate((np.ones((len(of_store), 1)), taste, latent), 1)
        self.fixed = (world.item_offset + world.maker_offset[world.item_maker])[of_store]
        sd = [OFFSET_SD] + [TASTE_SD] * NUM_CATEGORIES + [LATENT_SD] * LATENT_DIM
        self.precision = np.array(sd) ** -2.0
        self.means = [
            np.concatenate(([offset], of_group, np.zeros(LATENT_DIM)))
            for offset, of_group in zip(world.group_offset, world.group_taste, strict=True)
        ]

    def predict(self, tasks: TaskTable) -> NDArray[np.float64]:
        """Predicted rating of every query row, users' rows end to end."""
        out = []
        for user in range(len(tasks)):
            support = slice(*tasks.support_item.offsets[user : user + 2])
            query = slice(*tasks.query_item.offsets[user : user + 2])
            rating = tasks.support_label.values[support].astype(np.float64)
            successes = (rating - 0.5) * 2
            known, asked = tasks.support_item.values[support], tasks.query_item.values[query]
            chances, evidence = zip(
                *(self._of_group(known, successes, asked, mean) for mean in self.means),
                strict=True,
            )
            score = np.array(evidence) + np.log(GROUP_SHARES)
            weight = np.exp(score - score.max())
            out.append(0.5 + LEVELS / 2 * (weight / weight.sum()) @ np.stack(chances))
        return np.concatenate(out)

    def _of_group(
        self, known: NDArray, successes: NDArray, asked: NDArray, mean: NDArray
    ) -> tuple[NDArray[np.float64], float]:
        """Chances of a success of each asked item, and the log evidence, if of this group."""
        x, fixed, b = self.x[known], self.fixed[known], mean.copy()
        for _ in range(NEWTON_STEPS):
            p = 1 / (1 + np.exp(-(fixed + x @ b)))
            slope = x.T @ (successes - LEVELS * p) - self.precision * (b - mean)
            curvature = (x.T * (LEVELS * p * (1 - p))) @ x + np.diag(self.precision)
            b = b + np.linalg.solve(curvature, slope)
        logit = fixed + x @ b
        likelihood = (successes * logit - LEVELS * np.logaddexp(0, logit)).sum()
        prior = -0.5 * (self.precision * (b - mean) ** 2).sum()
        evidence = likelihood + prior - 0.5 * np.linalg.slogdet(curvature)[1]
        of_asked = self.x[asked]
        spread = ((of_asked @ np.linalg.inv(curvature)) * of_asked).sum(1)
        # The mean of a logistic over a Gaussian logit, by the usual probit approximation.
        logit = (self.fixed[asked] + of_asked @ b) / np.sqrt(1 + np.pi * spread / 8)
        return 1 / (1 + np.exp(-logit)), float(evidence)
