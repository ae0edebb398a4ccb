"""Bayesian factorisation: against loops over users and items, and what predictions make of it."""

from dataclasses import replace

import numpy as np
import pytest
from logs import csv_config, write_log
from scipy import linalg, sparse
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data import validate
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import FeatureSpec, Store, write_factorisations
from greatmeta_dist.priors import bayesian_mf
from greatmeta_dist.priors.bayesian_mf import (
    COLUMN,
    NUM_FACTORS,
    NUM_PASSES,
    NUM_STARTS,
    NUM_WARM_UP,
    ROW,
    WIDTH,
)
from greatmeta_dist.priors.mixture import PRIOR_COUNT, Mixture, Moments
from greatmeta_dist.ragged import Ragged

CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


def low_rank_log(num_users=300, num_items=40, rank=2, noise=0.5, density=0.5, seed=0):
    """Ratings [users, items] of a few tastes, and which are given."""
    rng = np.random.default_rng(seed)
    user = rng.normal(size=(num_users, rank)) @ rng.normal(size=(rank, num_items))
    value = user + rng.normal(size=num_items) + 0.7 * rng.normal(size=(num_users, 1))
    value += noise * rng.normal(size=value.shape)
    return value, rng.random(value.shape) < density


def as_sparse(value, is_given):
    user, item = np.nonzero(is_given)
    return sparse.csr_matrix((value[is_given], (user, item)), shape=value.shape)


def turn_of(user_square, item_square):
    """z to unit second moments, then to the axes of the items' v that go with it."""
    whiten = np.linalg.inv(linalg.sqrtm(np.mean(user_square, axis=0)[2:, 2:]))
    back = np.linalg.inv(whiten)
    _, axes = np.linalg.eigh(back @ np.sum(item_square, axis=0)[2:, 2:] @ back.T)
    turn = np.eye(WIDTH)
    turn[2:, 2:] = axes[:, ::-1].T @ whiten
    return turn


class Component:
    """One normal of users' (a, z)."""

    def __init__(self, share, mean, cov):
        self.share, self.mean, self.cov = share, mean, cov

    def given(self, precision, said):
        """The log of share × likelihood, but for a constant of the user; posterior mean and cov."""
        cov = np.linalg.inv(np.linalg.inv(self.cov) + precision)
        mean = cov @ (said + np.linalg.solve(self.cov, self.mean))
        if np.linalg.matrix_rank(precision) < len(precision):
            # A user without ratings; or the first pass, which has one component.
            return np.log(self.share), mean, cov
        # As if x had been measured, with an error.
        error = np.linalg.inv(precision)
        measured = multivariate_normal(self.mean, self.cov + error)
        return np.log(self.share) + measured.logpdf(error @ said), mean, cov


def fitted_by_loops(found, count, least):
    """Components of users' posteriors [(chance, mean, cov) by component]."""
    sizes = [sum(user[k][0] for user in found) for k in range(count)]
    means = [
        sum(user[k][0] * user[k][1] for user in found) / (sizes[k] + PRIOR_COUNT)
        for k in range(count)
    ]
    covariance = np.diag(least)
    for user in found:
        for (chance, at, cov), mean in zip(user, means, strict=True):
            covariance = covariance + chance * (np.outer(at - mean, at - mean) + cov) / len(found)
    return [
        Component((size + 1) / (len(found) + count), mean, covariance)
        for size, mean in zip(sizes, means, strict=True)
    ]


def by_loops(value, is_given, mean, *, num_passes, num_single, count, seed):
    """The same passes one user and one item at a time, nothing packed."""
    num_users, num_items = value.shape
    prior = np.zeros(WIDTH)
    prior[1] = 1
    item_cov = [np.zeros((WIDTH, WIDTH)) for _ in range(num_items)]
    spread = np.mean(value[is_given] ** 2)
    noise = 0.8 * spread
    of_user = np.array([0.15 * spread, *[1.0] * NUM_FACTORS])
    least = bayesian_mf.LEAST_VARIANCE * np.array([spread, *[1.0] * NUM_FACTORS])
    components = [Component(1.0, np.zeros(WIDTH - 1), np.diag(of_user))]
    variance = np.array([0.3 * spread, 0.01, *[0.02 * spread] * NUM_FACTORS])
    mean = mean.copy()
    for number in range(num_passes):
        posteriors, user, user_square = [], [], []
        for i in range(num_users):
            precision, said = np.zeros((WIDTH - 1, WIDTH - 1)), np.zeros(WIDTH - 1)
            for j in np.flatnonzero(is_given[i]):
                square = np.outer(mean[j], mean[j]) + item_cov[j]
                precision += square[1:, 1:] / noise
                said += (value[i, j] * mean[j, 1:] - square[0, 1:]) / noise
            found = [c.given(precision, said) for c in components]
            chance = np.exp([f[0] - max(f[0] for f in found) for f in found])
            chance /= chance.sum()
            posteriors.append([(w, f[1], f[2]) for w, f in zip(chance, found, strict=True)])
            h, square = np.zeros(WIDTH), np.zeros((WIDTH, WIDTH))
            for w, at, cov in posteriors[-1]:
                one = np.array([1.0, *at])
                h += w * one
                square += w * np.outer(one, one)
                square[1:, 1:] += w * cov
            user.append(h)
            user_square.append(square)
        turn = turn_of(
            user_square, [np.outer(m, m) + c for m, c in zip(mean, item_cov, strict=True)]
        )
        user = [turn @ h for h in user]
        user_square = [turn @ s @ turn.T for s in user_square]
        of_user[0] = np.mean([s[1, 1] for s in user_square])
        own = turn[1:, 1:]
        posteriors = [[(w, own @ at, own @ cov @ own.T) for w, at, cov in u] for u in posteriors]
        if number + 1 < num_single:
            components = [Component(1.0, np.zeros(WIDTH - 1), np.diag(of_user))]
        elif number + 1 == num_single:
            scaled = np.array(sorted((h[1:] for h in user), key=lambda h: h[0]))
            scaled /= np.sqrt(of_user)
            clusters = KMeans(count, n_init=5, random_state=seed).fit(scaled)
            components = [
                Component(
                    np.mean(clusters.labels_ == k), centre * np.sqrt(of_user), np.diag(of_user)
                )
                for k, centre in enumerate(clusters.cluster_centers_)
            ]
        else:
            components = fitted_by_loops(posteriors, count, least)
        error = 0.0
        for j in range(num_items):
            precision, said = np.diag(1 / variance), prior / variance
            for i in np.flatnonzero(is_given[:, j]):
                precision = precision + user_square[i] / noise
                said = said + value[i, j] * user[i] / noise
            item_cov[j] = np.linalg.inv(precision)
            mean[j] = item_cov[j] @ said
            square = np.outer(mean[j], mean[j]) + item_cov[j]
            for i in np.flatnonzero(is_given[:, j]):
                rating = value[i, j]
                error += rating**2 - 2 * rating * mean[j] @ user[i]
                error += np.sum(square * user_square[i])
        if number >= NUM_WARM_UP:
            noise = error / is_given.sum()
            variance = np.mean(
                [(mean[j] - prior) ** 2 + np.diag(item_cov[j]) for j in range(num_items)], axis=0
            )
    return mean, item_cov, noise, components


def test_it_is_what_loops_over_users_and_items_find_however_users_are_portioned(monkeypatch):
    num_passes, num_single = NUM_WARM_UP + 5, NUM_WARM_UP + 2
    monkeypatch.setattr(bayesian_mf, "NUM_PASSES", num_passes)
    monkeypatch.setattr(bayesian_mf, "NUM_SINGLE", num_single)
    monkeypatch.setattr(bayesian_mf, "USERS_OF_COMPONENT", 13)
    monkeypatch.setattr(bayesian_mf, "ITEMS_AT_A_TIME", 5)
    value, is_given = low_rank_log(num_users=40, num_items=12)
    value[0, :3] = 0.0  # a rating that is just what was expected is a rating
    is_given[0, :3] = True
    is_given[7] = False
    whole = as_sparse(value, is_given)
    start = np.zeros((12, WIDTH))
    start[:, 1] = 1
    random = np.random.default_rng([3, 0, 41])
    start[:, 2:] = random.normal(0, 0.1, (12, NUM_FACTORS))
    start[:, 2:] *= np.sqrt(np.mean(value[is_given] ** 2))
    mean, cov, noise, components = by_loops(
        value,
        is_given,
        start,
        num_passes=num_passes,
        num_single=num_single,
        count=3,
        seed=int(random.integers(1 << 31)),
    )
    expected = bayesian_mf.BayesianMF(
        np.arange(12),
        mean,
        np.array([np.diag(c)[1:] for c in cov]),
        np.array([(np.outer(m, m) + c)[0, 1:] for m, c in zip(mean, cov, strict=True)]),
        noise,
        Mixture(
            np.array([c.share for c in components]),
            np.array([c.mean for c in components]),
            np.linalg.inv(components[0].cov),
        ),
    )
    assert not np.allclose(expected.prior.mean, 0)
    for chunks in ([whole], [whole[:10], whole[10:10], whole[10:]]):
        found = bayesian_mf.factorise(lambda p=chunks: p, np.arange(12), seed=(3, 0))
        assert_same(found, expected, rel=1e-9)


def test_ratings_in_other_units_give_the_same_in_these():
    value, is_given = low_rank_log()
    plain, large = (
        bayesian_mf.factorise(lambda r=r: [as_sparse(r, is_given)], np.arange(40), seed=(0, 0))
        for r in (value, 100 * value)
    )
    assert large.noise == pytest.approx(1e4 * plain.noise, rel=1e-6)
    assert large.mean[:, 0] == pytest.approx(100 * plain.mean[:, 0], rel=1e-5)
    assert large.mean[:, 1] == pytest.approx(plain.mean[:, 1], rel=1e-5)
    gram = plain.mean[:, 2:] @ plain.mean[:, 2:].T
    assert large.mean[:, 2:] @ large.mean[:, 2:].T == pytest.approx(1e4 * gram, rel=1e-4, abs=1e-2)


def test_a_user_is_folded_in_as_a_gaussian_process_of_the_items_would_have_it():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(6, WIDTH))
    known = bayesian_mf.BayesianMF(
        np.arange(6),
        mean,
        np.zeros((6, WIDTH - 1)),
        mean[:, :1] * mean[:, 1:],
        0.4,
        Mixture.single(np.array([0.3, *[1.0] * NUM_FACTORS])),
    )
    item, rest = np.array([4, 1, 3]), np.array([1.0, -0.5, 2.0])
    prior = np.diag([0.3, *[1.0] * NUM_FACTORS])
    covariance = mean[:, 1:] @ prior @ mean[:, 1:].T
    among = covariance[np.ix_(item, item)] + 0.4 * np.eye(3)
    expected = mean[:, 0] + covariance[:, item] @ np.linalg.solve(among, rest - mean[item, 0])
    support, query = Ragged(item, np.array([0, 3])), Ragged(np.arange(6), np.array([0, 6]))
    found, is_known = known.predict(support, rest, query)
    assert found == pytest.approx(expected)
    assert is_known.all()


def test_what_it_expects_of_new_users_is_near_the_noise():
    value, is_given = low_rank_log(num_users=800)
    found = bayesian_mf.factorise(
        lambda: [as_sparse(value[:600], is_given[:600])], np.arange(40), seed=(0, 0)
    )
    assert found.noise**0.5 == pytest.approx(0.5, rel=0.05)
    user, item = np.nonzero(is_given[600:])
    support = Ragged(item, np.searchsorted(user, np.arange(201)))
    asked, at = np.nonzero(~is_given[600:])
    query = Ragged(at, np.searchsorted(asked, np.arange(201)))
    expected, _ = found.predict(support, value[600:][is_given[600:]], query)
    error = np.sqrt(np.mean((expected - value[600:][~is_given[600:]]) ** 2))
    assert error < 1.15 * 0.5
    size = np.linalg.svd(found.mean[:, 2:], compute_uv=False)
    assert size[2] < 0.25 * size[1]  # two tastes, and no more


def test_users_of_a_small_group_are_told_from_the_crowd(monkeypatch):
    """A twentieth of the users likes what others do not, each in a way of its own."""
    rng = np.random.default_rng(0)
    is_other = np.arange(1200) % 20 == 0
    value, is_given = low_rank_log(num_users=1200, num_items=60, density=0.3, seed=1)
    crowd, others = rng.normal(size=(2, 60))
    value = 0.5 * value + np.where(is_other[:, None], others, crowd)
    whole = as_sparse(value[:1000], is_given[:1000])
    user, item = np.nonzero(is_given[1000:] & (np.cumsum(is_given[1000:], 1) <= 5))
    support = Ragged(item, np.searchsorted(user, np.arange(201)))
    known = value[1000:][user, item]
    query = Ragged(np.tile(np.arange(60), 200), np.arange(201) * 60)

    def error():
        found = bayesian_mf.factorise(lambda: [whole], np.arange(60), seed=(0, 0))
        expected, _ = found.predict(support, known, query)
        of_user = np.mean((expected.reshape(200, 60) - value[1000:]) ** 2, axis=1)
        return np.sqrt([np.mean(of_user[is_other[1000:]]), np.mean(of_user[~is_other[1000:]])])

    of_many = error()
    monkeypatch.setattr(bayesian_mf, "NUM_COMPONENTS", 1)
    assert (of_many < error() * [0.9, 1.01]).all()


@pytest.mark.parametrize("rating", [0.0, 2.0])
@pytest.mark.parametrize("num_users", [5, 200])
def test_ratings_that_are_all_the_same_and_items_of_one_are_no_trouble(rating, num_users):
    value = np.full((num_users, 3), rating)
    is_given = np.zeros((num_users, 3), bool)
    is_given[:, 0] = is_given[2, 1] = True
    found = bayesian_mf.factorise(lambda: [as_sparse(value, is_given)], np.arange(3), seed=(0, 0))
    nothing = Ragged(np.zeros(0, int), np.array([0, 0]))
    query = Ragged(np.arange(3), np.array([0, 3]))
    expected, _ = found.predict(nothing, np.zeros(0), query)
    assert np.isfinite(expected).all()
    assert expected[0] == pytest.approx(rating, abs=0.5)


def test_items_it_does_not_know_say_nothing_and_are_not_predicted():
    value, is_given = low_rank_log()
    item = np.arange(40) * 3
    found = bayesian_mf.factorise(lambda: [as_sparse(value, is_given)], item, seed=(0, 0))
    query = Ragged(np.array([0, 1, 117, 118, 500]), np.array([0, 5]))
    with_unknown = Ragged(np.array([6, 7, 9, 500]), np.array([0, 4]))
    without = Ragged(np.array([6, 9]), np.array([0, 2]))
    one, is_known = found.predict(with_unknown, np.array([1.0, 50.0, 2.0, 50.0]), query)
    two, _ = found.predict(without, np.array([1.0, 2.0]), query)
    assert is_known.tolist() == [True, False, True, False, False]
    assert np.array_equal(one[is_known], two[is_known])


def test_a_turn_makes_users_moments_one_and_items_diagonal_and_changes_no_expectation():
    rng = np.random.default_rng(0)
    user, item = rng.normal(size=(2, 30, WIDTH))
    user[:, 0] = 1
    user_square = np.einsum("nd,ne->nde", user, user) + 0.1 * np.eye(WIDTH)
    item_square = np.einsum("nd,ne->nde", item, item) + 0.2 * np.eye(WIDTH)
    users = Moments(np.array([30.0]), user[None, :, 1:].sum(1), user_square[:, 1:, 1:].sum(0))
    turn = bayesian_mf._rotation(users, item_square.sum(0)[ROW, COLUMN])
    back = np.linalg.inv(turn).T
    turned = turn @ user_square.mean(0) @ turn.T
    assert turned[2:, 2:] == pytest.approx(np.eye(NUM_FACTORS), abs=1e-9)
    turned = (back @ item_square.sum(0) @ back.T)[2:, 2:]
    assert turned == pytest.approx(np.diag(np.diag(turned)), abs=1e-7)
    assert (np.diff(np.diag(turned)) < 0).all()
    assert (user @ turn.T) @ (item @ back.T).T == pytest.approx(user @ item.T)
    before = np.einsum("nde,mde->nm", user_square, item_square)
    after = np.einsum("nde,mde->nm", turn @ user_square @ turn.T, back @ item_square @ back.T)
    assert after == pytest.approx(before)


def test_small_logs_have_several_starts():
    counts = {0: 4, 250_000: 4, 250_001: 3, 500_000: 2, 500_001: 1, 10**8: 1}
    assert {count: bayesian_mf.num_starts(count) for count in counts} == counts


def test_components_start_as_clusters_of_the_first_users(monkeypatch):
    value, is_given = low_rank_log(num_users=200)
    whole, clustered = as_sparse(value, is_given), []
    of_clusters = Mixture.of_clusters

    def noted(x, *given, **options):
        clustered.append(x)
        return of_clusters(x, *given, **options)

    monkeypatch.setattr(Mixture, "of_clusters", noted)
    for most in (200, 70):
        monkeypatch.setattr(bayesian_mf, "MAX_CLUSTERED", most)
        bayesian_mf.factorise(lambda: [whole[:50], whole[50:]], np.arange(40), seed=(0, 0))
    assert clustered[0].shape == (200, WIDTH - 1)
    assert clustered[1] == pytest.approx(clustered[0][:70])


def test_what_is_read_is_what_was_written(tmp_path, monkeypatch):
    value, is_given = low_rank_log()
    whole = as_sparse(value, is_given)
    made = [bayesian_mf.factorise(lambda: [whole], np.arange(40), seed=(0, k)) for k in range(2)]
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    write_factorisations(tmp_path / "store", made)
    monkeypatch.setattr(Store, "_path", lambda self, name: self.folder / name)  # unchecked
    for one, other in zip(made, store.factorisations()[:2], strict=True):
        for name in ("item", "mean", "variance", "with_offset", "noise"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("weight", "mean", "precision"):
            assert np.array_equal(getattr(one.prior, name), getattr(other.prior, name))


def write_low_rank_log(folder):
    value, is_given = low_rank_log(num_users=120, density=0.6)
    lines = [f"u{user},i{item},{value[user, item]:.6f},0" for user, item in np.argwhere(is_given)]
    path = folder / "log.csv"
    path.write_text("\n".join(["u,i,r,t", *lines]) + "\n")
    return path


def test_a_store_has_that_of_its_training_users_alone(tmp_path):
    prepare(csv_config(write_low_rank_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    factorisations = store.factorisations()
    count, _ = store.item_statistics()
    assert len(factorisations) == NUM_STARTS

    tasks = store.part("train", CHOICE).tasks
    ratings = sparse.lil_matrix((len(tasks), len(count)))
    for items, labels in (
        (tasks.support_item, tasks.support_label),
        (tasks.query_item, tasks.query_label),
    ):
        user = np.repeat(np.arange(len(tasks)), items.lengths)
        ratings[user, items.values] = labels.values - store.content_mean()[items.values]
    for start, found in enumerate(factorisations):
        assert found.item.tolist() == np.flatnonzero(count).tolist()
        chunk = ratings.tocsr()[:, found.item]
        again = bayesian_mf.factorise(lambda p=chunk: [p], found.item, seed=(0, start))
        assert_same(found, again, rel=1e-4)
        assert (found.mean[:, 2:] ** 2).mean(0).max() > 0.1
    one, other, *_ = factorisations
    assert not np.allclose(one.mean[:, 0], other.mean[:, 0], rtol=1e-6)


def assert_same(one, other, *, rel):
    """All that no turn of axes changes."""
    gram = other.mean[:, 2:] @ other.mean[:, 2:].T
    assert one.mean[:, :2] == pytest.approx(other.mean[:, :2], rel=rel, abs=rel)
    assert one.mean[:, 2:] @ one.mean[:, 2:].T == pytest.approx(gram, rel=rel, abs=rel)
    crossed = other.with_offset[:, 1:] @ other.mean[:, 2:].T
    assert one.with_offset[:, 0] == pytest.approx(other.with_offset[:, 0], rel=rel, abs=rel)
    assert one.with_offset[:, 1:] @ one.mean[:, 2:].T == pytest.approx(crossed, rel=rel, abs=rel)
    assert one.variance[:, 0] == pytest.approx(other.variance[:, 0], rel=rel)
    sizes = other.variance[:, 1:].sum(1)
    assert one.variance[:, 1:].sum(1) == pytest.approx(sizes, rel=rel)
    assert one.noise == pytest.approx(other.noise, rel=rel)
    assert one.prior.weight == pytest.approx(other.prior.weight, rel=rel)
    for of_users in (expected_of_components, spread_of_components):
        assert of_users(one) == pytest.approx(of_users(other), rel=rel, abs=rel)


def expected_of_components(found):
    """[C, n] what users of a component give items."""
    return found.prior.mean @ found.mean[:, 1:].T


def spread_of_components(found):
    """[n, n] and how it varies."""
    return found.mean[:, 1:] @ np.linalg.inv(found.prior.precision) @ found.mean[:, 1:].T


def test_number_of_buckets_and_of_users_at_a_time_does_not_matter(tmp_path, monkeypatch):
    path = write_low_rank_log(tmp_path)
    prepare(csv_config(path), tmp_path / "one")
    monkeypatch.setattr(validate, "BUCKET_BYTES", 4000)
    monkeypatch.setattr(bayesian_mf, "USERS_AT_A_TIME", 7)
    prepare(csv_config(path), tmp_path / "many")
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    assert many.manifest.shards["train"] > one.manifest.shards["train"]
    for of_one, of_many in zip(one.factorisations(), many.factorisations(), strict=True):
        assert_same(of_many, of_one, rel=1e-4)


def test_a_large_log_is_factorised_by_its_first_users_and_items_these_say_enough_of(
    tmp_path, monkeypatch
):
    path = write_log(tmp_path)
    monkeypatch.setattr(validate, "BUCKET_BYTES", 2000)
    monkeypatch.setattr(bayesian_mf, "MAX_RATINGS", 250)
    monkeypatch.setattr(bayesian_mf, "MAX_ITEMS", 20)
    monkeypatch.setattr(bayesian_mf, "ENOUGH_RATINGS", 6)
    monkeypatch.setattr(bayesian_mf, "RATINGS_OF_STARTS", 750)  # two starts of 250 and some
    passes, portions_of_passes = [], []
    inner = bayesian_mf.factorise

    def noted(chunks, item, *, seed):
        def portions_noted():
            portions_of_passes.append(list(chunks()))
            return portions_of_passes[-1]

        return inner(portions_noted, item, seed=seed)

    monkeypatch.setattr(bayesian_mf, "factorise", noted)
    prepare(
        csv_config(path), tmp_path / "store", lambda stage, share: passes.append((stage, share))
    )
    store = Store(tmp_path / "store")
    found = store.factorisations()[-1]
    count, _ = store.item_statistics()
    num_passes = 2 * (NUM_PASSES + 1)
    assert len(portions_of_passes) == num_passes
    shares = [share for stage, share in passes if stage == "factorise"]
    assert shares == sorted(shares)
    assert len(shares) == num_passes
    assert 0 == shares[0] < shares[-1] < 1
    of_item = sum(p.getnnz(axis=0) for p in portions_of_passes[0])
    assert of_item.sum() < count.sum() / 2
    assert (of_item >= np.minimum(count[found.item], 6)).all()
    assert 0 < len(found.item) == len(found.mean) <= 20
    assert (np.diff(found.item) > 0).all()


@pytest.mark.parametrize("label", ["rating", "click"])
def test_predictions_are_of_both_but_of_unknown_items_the_models(tmp_path, label):
    prepare(csv_config(write_log(tmp_path), label=label), tmp_path / "store")
    store = Store(tmp_path / "store")
    tasks = store.part("user_cold", CHOICE).tasks
    plain = TargetTransform.of(store, "bias")
    assert plain.factorisations == []
    both = TargetTransform.of(store, "bias", use_bayesian_mf=True)
    assert len(both.factorisations) == NUM_STARTS
    model = np.random.default_rng(0).normal(size=len(tasks.query_label.values))
    alone = plain.to_rating(tasks)(model)
    of_factors, is_known = both.factorised(tasks)
    assert is_known.all()
    expected = store.content_mean()
    rest = tasks.support_label.values - expected[tasks.support_item.values]
    by_hand = expected[tasks.query_item.values] + np.mean(
        [
            one.predict(tasks.support_item, rest, tasks.query_item)[0]
            for one in store.factorisations()
        ],
        axis=0,
    )
    assert both.of_model(tasks)(model) == pytest.approx(alone)
    assert both.to_rating(tasks)(model) == pytest.approx((alone + of_factors) / 2)
    mostly = replace(both, blend_weight=0.9).to_rating(tasks)(model)
    assert mostly == pytest.approx(0.1 * alone + 0.9 * of_factors)
    low, high = store.manifest.ratings.lowest, store.manifest.ratings.highest
    assert of_factors == pytest.approx(np.clip(by_hand, low, high))
    narrow = replace(both.ratings, lowest=np.quantile(by_hand, 0.3), highest=np.median(by_hand))
    clipped, _ = replace(both, ratings=narrow).factorised(tasks)
    assert clipped == pytest.approx(np.clip(by_hand, narrow.lowest, narrow.highest))

    unknown = tasks.query_item.values[0]
    fewer = [
        replace(
            one,
            **{
                name: getattr(one, name)[one.item != unknown]
                for name in ("item", "mean", "variance", "with_offset")
            },
        )
        for one in both.factorisations
    ]
    found = replace(both, factorisations=fewer).to_rating(tasks)(model)
    is_asked = tasks.query_item.values == unknown
    assert np.array_equal(found[is_asked], alone[is_asked])
    assert not np.array_equal(found[~is_asked], alone[~is_asked])


def test_labels_of_training_know_nothing_of_it(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    tasks = store.part("train", CHOICE).tasks
    one, two = (
        TargetTransform.of(store, "bias", use_bayesian_mf=has).apply(tasks, is_training=True)
        for has in (False, True)
    )
    assert np.array_equal(one.support_label.values, two.support_label.values)
    assert np.array_equal(one.query_label.values, two.query_label.values)
