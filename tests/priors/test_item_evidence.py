"""What ratings say of new items: against a loop over items and ratings, and in any order."""

from dataclasses import replace

import numpy as np
import pytest
from low_rank import as_sparse, low_rank_log
from scipy.stats import multivariate_normal

from greatmeta_dist.config.priors import BayesianMFConfig
from greatmeta_dist.priors.base import UserRows
from greatmeta_dist.priors.bayesian_mf_fit import factorise
from greatmeta_dist.priors.bayesian_mf_items import ItemFolding
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.priors.item_evidence import EvidenceModel, ItemEvidence
from greatmeta_dist.priors.new_item_prior import NewItemPrior
from greatmeta_dist.ragged import Ragged, offsets_of

NUM_NEW = 7
PRIOR = NewItemPrior(damping=3.0, noise=0.7, noise_ratings=12.0)


@pytest.fixture(scope="module")
def model() -> EvidenceModel:
    """Two starts, of a log of 40 items."""
    value, is_given = low_rank_log()
    chunk = as_sparse(value, is_given)
    options = BayesianMFConfig(num_factors=4, num_passes=12)
    starts = [
        factorise(lambda: [chunk], np.arange(40), options=options, seed=(0, k)) for k in (0, 1)
    ]
    rng = np.random.default_rng(1)
    count = is_given.sum(0)
    content = rng.normal(3, 0.2, 40)
    total = (np.where(is_given, value, 0) + content * is_given).sum(0)
    bias = BiasModel(count, total, content, item_damping=2.5, user_damping=1.5)
    return EvidenceModel(bias, PRIOR, [ItemFolding(start) for start in starts], centre=3.0)


def known_users(rng, num_users: int = 60):
    """What users gave to items of the training, and to new ones: user, item and rating."""
    lengths = rng.integers(0, 12, num_users)
    items = [np.sort(rng.choice(40, n, replace=False)) for n in lengths]
    rows = Ragged(np.concatenate(items), offsets_of(lengths))
    known = UserRows(rows, rng.normal(3, 1, len(rows.values)))
    user = np.sort(rng.integers(0, num_users, 90))
    item = rng.integers(0, NUM_NEW - 1, 90)  # the last one has no rating
    distinct = np.unique(np.stack([user, item], 1), axis=0)
    return known, distinct[:, 0], distinct[:, 1], rng.normal(3, 1, len(distinct))


def rows_of_user(known: UserRows, user: int) -> list[tuple[int, float]]:
    rows = slice(*known.item.offsets[user : user + 2])
    return list(zip(known.item.values[rows].tolist(), known.rating[rows].tolist(), strict=True))


def offset_by_loop(model, known, ratings, content):
    """The posterior mean of one item's offset, from (user, rating) pairs."""
    terms = []
    for user, rating in ratings:
        own = rows_of_user(known, user)
        rest = sum(r - model.bias.item_means(np.array([i]))[0] for i, r in own)
        certainty = len(own) + model.bias.user_damping
        terms.append((certainty / (certainty + 1), rating - content - rest / certainty))
    weight = sum(w for w, _ in terms)
    if not terms:
        return 0.0
    mean = sum(w * e for w, e in terms) / weight
    scatter = sum(w * (e - mean) ** 2 for w, e in terms)
    noise = (PRIOR.noise_ratings * PRIOR.noise + scatter) / (PRIOR.noise_ratings + len(terms) - 1)
    return weight * mean / (weight + PRIOR.damping * noise / PRIOR.noise)


def user_by_loop(start, model, rows):
    """E[h] and the covariance of x of one user of the factorisation."""
    width = start.mean.shape[1]
    precision, linear = np.zeros((width - 1, width - 1)), np.zeros(width - 1)
    for item, rating in rows:
        loading = start.mean[item, 1:]
        precision += (np.outer(loading, loading) + np.diag(start.variance[item])) / start.noise
        residual = rating - model.bias.content_mean[item]
        linear += (residual * loading - start.with_offset[item]) / start.noise
    prior = np.linalg.inv(start.users.precision)
    covariance = np.linalg.inv(start.users.precision + precision)
    means, logs = [], []
    for weight, mean in zip(start.users.weight, start.users.mean, strict=True):
        means.append(covariance @ (linear + start.users.precision @ mean))
        # ∫ exp(b·x − xᵀPx/2) N(x; μ, Λ⁻¹) dx, by the density of x at 0 before and after.
        after = multivariate_normal(means[-1], covariance).logpdf(np.zeros(width - 1))
        before = multivariate_normal(mean, prior).logpdf(np.zeros(width - 1))
        logs.append(np.log(weight) + before - after)
    chance = np.exp(logs - np.max(logs))
    chance /= chance.sum()
    mean = sum(c * m for c, m in zip(chance, means, strict=True))
    spread = sum(c * np.outer(m - mean, m - mean) for c, m in zip(chance, means, strict=True))
    return np.array([1.0, *mean]), covariance + spread


def factors_by_loop(start, model, known, ratings, content):
    """E[t] of one item, its covariance, and how well it is known."""
    variance = start.item_variance.copy()
    variance[0] = max(variance[0], PRIOR.noise / PRIOR.damping)
    width = len(variance)
    prior_mean = np.array([0.0, 1.0, *[0.0] * (width - 2)])
    precision, linear = np.diag(1 / variance), prior_mean / variance
    for user, rating in ratings:
        h, covariance = user_by_loop(start, model, rows_of_user(known, user))
        noise = start.noise + sum(
            covariance[k, k] * (start.item_variance[1 + k] + prior_mean[1 + k] ** 2)
            for k in range(width - 1)
        )
        precision = precision + np.outer(h, h) / noise
        linear = linear + (rating - content) * h / noise
    covariance = np.linalg.inv(precision)
    moment = np.zeros((width, width))
    for weight, mean in zip(start.users.weight, start.users.mean, strict=True):
        h = np.array([1.0, *mean])
        moment += weight * np.outer(h, h)
    moment[1:, 1:] += np.linalg.inv(start.users.precision)
    known_share = 1 - np.trace(covariance @ moment) / np.trace(np.diag(variance) @ moment)
    return covariance @ linear, covariance, known_share


@pytest.mark.parametrize("seed", range(2))
def test_posteriors_are_those_of_a_loop_over_items_and_ratings(model, seed):
    rng = np.random.default_rng(seed)
    known, user, item, rating = known_users(rng)
    content = rng.normal(3, 0.5, NUM_NEW)
    evidence = model.evidence(known, user, item, rating).of(np.arange(NUM_NEW))
    posterior = model.posterior(evidence, np.arange(NUM_NEW), content)
    for k in range(NUM_NEW):
        ratings = list(zip(user[item == k].tolist(), rating[item == k].tolist(), strict=True))
        expected = offset_by_loop(model, known, ratings, content[k])
        assert posterior.offset[k] == pytest.approx(expected, abs=1e-8)
        for folding, folded in zip(model.foldings, posterior.factors, strict=True):
            t, cov, share = factors_by_loop(folding.start, model, known, ratings, content[k])
            assert folded.mean[k] == pytest.approx(t, abs=1e-7)
            assert folded.variance[k] == pytest.approx(np.diag(cov)[1:], abs=1e-7)
            with_offset = (np.outer(t, t) + cov)[0, 1:]
            assert folded.with_offset[k] == pytest.approx(with_offset, abs=1e-7)
            assert folded.known[k] == pytest.approx(share, abs=1e-7)


def test_no_rating_leaves_an_item_exactly_as_its_prior_has_it(model):
    known, user, item, rating = known_users(np.random.default_rng(0))
    evidence = model.evidence(known, user, item, rating).of(np.arange(NUM_NEW))
    posterior = model.posterior(evidence, np.arange(NUM_NEW), np.full(NUM_NEW, 3.3))
    assert evidence.count[-1] == 0 < evidence.count[0]
    assert posterior.offset[-1] == 0
    assert (posterior.offset[:-1] != 0).all()


def chosen(known: UserRows, user, item, rating, users):
    """The rows of some users, in the order given."""
    positions, lengths = known.item.positions(users)
    rows = Ragged(known.item.values[positions], offsets_of(lengths))
    at = [np.flatnonzero(user == u) for u in users]
    number = np.repeat(np.arange(len(users)), [len(a) for a in at])
    at = np.concatenate(at)
    return UserRows(rows, known.rating[positions]), number, item[at], rating[at]


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_evidence_has_the_same_bits_in_whatever_batches_and_order_users_come(model, size):
    rng = np.random.default_rng(3)
    everything = known_users(rng)
    whole = model.evidence(*everything)
    order = rng.permutation(60)
    parts = [
        model.evidence(*chosen(*everything, order[first : first + size]))
        for first in range(0, 60, size)
    ]
    total = ItemEvidence.none(len(model.unit))
    for part in rng.permutation(np.array([*parts, None], object)[:-1]):
        total = total + part
    assert np.array_equal(total.item, whole.item)
    assert np.array_equal(total.count, whole.count)
    assert np.array_equal(total.units, whole.units)


def test_ratings_that_agree_move_an_item_further_than_ratings_that_do_not(model):
    nothing = UserRows(Ragged(np.empty(0, np.int64), np.zeros(7, np.int64)), np.empty(0))
    user, item = np.arange(6), np.zeros(6, np.int64)

    def offset(ratings):
        evidence = model.evidence(nothing, user[: len(ratings)], item[: len(ratings)], ratings)
        return model.posterior(evidence, np.array([0]), np.array([3.0])).offset[0]

    agreeing, scattered = np.full(6, 4.0), np.array([3.0, 5.0, 2.5, 5.5, 3.0, 5.0])
    assert offset(agreeing) > 1.1 * offset(scattered) > 0
    assert offset(agreeing) > offset(agreeing[:3]) > offset(agreeing[:1]) > 0


def test_a_rating_of_a_user_of_whom_much_is_known_counts_more(model):
    items = Ragged(np.arange(30), np.array([0, 30]))
    known = UserRows(items, model.bias.item_means(np.arange(30)))
    stranger = UserRows(Ragged(np.empty(0, np.int64), np.array([0, 0])), np.empty(0))

    def offset(rows):
        evidence = model.evidence(rows, np.array([0]), np.array([0]), np.array([5.0]))
        return model.posterior(evidence, np.array([0]), np.array([3.0])).offset[0]

    assert offset(known) > 1.05 * offset(stranger)


def test_terms_are_cut_off_before_their_sums_overflow(model):
    nothing = UserRows(Ragged(np.empty(0, np.int64), np.array([0, 0])), np.empty(0))
    huge = replace(model, prior=replace(PRIOR, noise=1e-9))
    evidence = huge.evidence(nothing, np.array([0]), np.array([0]), np.array([1e12]))
    assert (np.abs(evidence.units) <= 2**44).all()
