"""The passes do what loops over users and items do, and find what made the ratings."""

import numpy as np
import pytest
from bayesian_mf_by_loops import by_loops
from fitted import fit_named
from logs import csv_config, write_log
from low_rank import as_sparse, low_rank_log, write_low_rank_log
from scipy import sparse
from stores import CHOICE

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.config.priors import BayesianMFConfig
from greatmeta_dist.data import scan
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.priors import bayesian_mf_fit
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior
from greatmeta_dist.priors.bayesian_mf_fit import factorise, num_starts
from greatmeta_dist.priors.bayesian_mf_model import BayesianMF
from greatmeta_dist.priors.mixture import Mixture, Moments
from greatmeta_dist.priors.packing import Packing
from greatmeta_dist.ragged import Ragged

OPTIONS = BayesianMFConfig()
NUM_FACTORS = OPTIONS.num_factors
WIDTH = NUM_FACTORS + 2


def test_it_is_what_loops_over_users_and_items_find_however_users_are_chunked(monkeypatch):
    options = BayesianMFConfig(
        num_passes=OPTIONS.num_warm_up + 5,
        num_single=OPTIONS.num_warm_up + 2,
        min_component_users=13,
    )
    monkeypatch.setattr(bayesian_mf_fit, "ITEMS_PER_BLOCK", 5)
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
    mean, cov, noise, components, variance = by_loops(
        value, is_given, start, options=options, count=3, seed=int(random.integers(1 << 31))
    )
    expected = BayesianMF(
        np.arange(12),
        mean,
        np.array([np.diag(c)[1:] for c in cov]),
        np.array([(np.outer(m, m) + c)[0, 1:] for m, c in zip(mean, cov, strict=True)]),
        noise,
        Mixture(
            np.array([c.weight for c in components]),
            np.array([c.mean for c in components]),
            np.linalg.inv(components[0].cov),
        ),
        variance,
    )
    assert not np.allclose(expected.users.mean, 0)
    for chunks in ([whole], [whole[:10], whole[10:10], whole[10:]]):
        batched = factorise(lambda p=chunks: p, np.arange(12), options=options, seed=(3, 0))
        assert_same(batched, expected, rel=1e-9)


def factorised(value, is_given, options=OPTIONS, seed=(0, 0)) -> BayesianMF:
    chunk = as_sparse(value, is_given)
    return factorise(lambda: [chunk], np.arange(value.shape[1]), options=options, seed=seed)


def test_ratings_in_other_units_give_the_same_in_these():
    value, is_given = low_rank_log()
    plain, large = (factorised(r, is_given) for r in (value, 100 * value))
    assert large.noise == pytest.approx(1e4 * plain.noise, rel=1e-6)
    assert large.mean[:, 0] == pytest.approx(100 * plain.mean[:, 0], rel=1e-5)
    assert large.mean[:, 1] == pytest.approx(plain.mean[:, 1], rel=1e-5)
    gram = plain.mean[:, 2:] @ plain.mean[:, 2:].T
    assert large.mean[:, 2:] @ large.mean[:, 2:].T == pytest.approx(1e4 * gram, rel=1e-4, abs=1e-2)


def test_what_it_expects_of_new_users_is_near_the_noise():
    value, is_given = low_rank_log(num_users=800)
    start = factorised(value[:600], is_given[:600])
    assert start.noise**0.5 == pytest.approx(0.5, rel=0.05)
    user, item = np.nonzero(is_given[600:])
    support = Ragged(item, np.searchsorted(user, np.arange(201)))
    asked, at = np.nonzero(~is_given[600:])
    query = Ragged(at, np.searchsorted(asked, np.arange(201)))
    expected, _ = start.predict_residual(support, value[600:][is_given[600:]], query)
    error = np.sqrt(np.mean((expected - value[600:][~is_given[600:]]) ** 2))
    assert error < 1.15 * 0.5
    size = np.linalg.svd(start.mean[:, 2:], compute_uv=False)
    assert size[2] < 0.25 * size[1]  # two tastes, and no more


def test_users_of_a_small_group_are_told_from_the_crowd():
    """A twentieth of the users likes what others do not, each in a way of its own."""
    rng = np.random.default_rng(0)
    is_other = np.arange(1200) % 20 == 0
    value, is_given = low_rank_log(num_users=1200, num_items=60, density=0.3, seed=1)
    crowd, others = rng.normal(size=(2, 60))
    value = 0.5 * value + np.where(is_other[:, None], others, crowd)
    user, item = np.nonzero(is_given[1000:] & (np.cumsum(is_given[1000:], 1) <= 5))
    support = Ragged(item, np.searchsorted(user, np.arange(201)))
    known = value[1000:][user, item]
    query = Ragged(np.tile(np.arange(60), 200), np.arange(201) * 60)

    def error(num_components):
        options = BayesianMFConfig(num_components=num_components)
        start = factorised(value[:1000], is_given[:1000], options)
        expected, _ = start.predict_residual(support, known, query)
        of_user = np.mean((expected.reshape(200, 60) - value[1000:]) ** 2, axis=1)
        return np.sqrt([np.mean(of_user[is_other[1000:]]), np.mean(of_user[~is_other[1000:]])])

    assert (error(OPTIONS.num_components) < error(1) * [0.9, 1.01]).all()


@pytest.mark.parametrize("rating", [0.0, 2.0])
@pytest.mark.parametrize("num_users", [5, 200])
def test_ratings_that_are_all_the_same_and_items_of_one_are_no_trouble(rating, num_users):
    value = np.full((num_users, 3), rating)
    is_given = np.zeros((num_users, 3), bool)
    is_given[:, 0] = is_given[2, 1] = True
    start = factorised(value, is_given)
    nothing = Ragged(np.zeros(0, int), np.array([0, 0]))
    query = Ragged(np.arange(3), np.array([0, 3]))
    expected, _ = start.predict_residual(nothing, np.zeros(0), query)
    assert np.isfinite(expected).all()
    assert expected[0] == pytest.approx(rating, abs=0.5)


def test_a_rotation_makes_users_moments_one_and_items_diagonal_and_changes_no_expectation():
    rng = np.random.default_rng(0)
    user, item = rng.normal(size=(2, 30, WIDTH))
    user[:, 0] = 1
    user_square = np.einsum("nd,ne->nde", user, user) + 0.1 * np.eye(WIDTH)
    item_square = np.einsum("nd,ne->nde", item, item) + 0.2 * np.eye(WIDTH)
    users = Moments(np.array([30.0]), user[None, :, 1:].sum(1), user_square[:, 1:, 1:].sum(0))
    packing = Packing(WIDTH)
    packed = item_square.sum(0)[packing.row, packing.column]
    rotation = bayesian_mf_fit._rotation(users, packed, packing)
    back = np.linalg.inv(rotation).T
    rotated = rotation @ user_square.mean(0) @ rotation.T
    assert rotated[2:, 2:] == pytest.approx(np.eye(NUM_FACTORS), abs=1e-9)
    rotated = (back @ item_square.sum(0) @ back.T)[2:, 2:]
    assert rotated == pytest.approx(np.diag(np.diag(rotated)), abs=1e-7)
    assert (np.diff(np.diag(rotated)) < 0).all()
    assert (user @ rotation.T) @ (item @ back.T).T == pytest.approx(user @ item.T)
    before = np.einsum("nde,mde->nm", user_square, item_square)
    after = np.einsum(
        "nde,mde->nm", rotation @ user_square @ rotation.T, back @ item_square @ back.T
    )
    assert after == pytest.approx(before)


def test_packing_keeps_symmetric_matrices():
    rng = np.random.default_rng(0)
    packing, vectors = Packing(4), rng.normal(size=(5, 4))
    squares = np.einsum("nd,ne->nde", vectors, vectors)
    assert np.array_equal(packing.unpack(packing.pack(squares)), squares)
    assert np.array_equal(packing.unpack(packing.outer(vectors)), squares)
    assert packing.pack(squares).shape == (5, 10)
    assert np.array_equal(packing.pack(squares)[:, packing.is_diagonal], vectors**2)


def test_small_logs_have_several_starts():
    counts = {0: 4, 250_000: 4, 250_001: 3, 500_000: 2, 500_001: 1, 10**8: 1}
    assert {count: num_starts(count, OPTIONS) for count in counts} == counts


def test_components_start_as_clusters_of_the_first_users(monkeypatch):
    value, is_given = low_rank_log(num_users=200)
    whole, clustered = as_sparse(value, is_given), []
    of_clusters = Mixture.of_clusters

    def noted(x, *arguments, **options):
        clustered.append(x)
        return of_clusters(x, *arguments, **options)

    monkeypatch.setattr(Mixture, "of_clusters", noted)
    for most in (200, 70):
        factorise(
            lambda: [whole[:50], whole[50:]],
            np.arange(40),
            options=BayesianMFConfig(max_clustered=most),
            seed=(0, 0),
        )
    assert clustered[0].shape == (200, WIDTH - 1)
    assert clustered[1] == pytest.approx(clustered[0][:70])


def starts_of(store: Store) -> list[BayesianMF]:
    return fit_named(store.training_rows(), "bias", "bayesian_mf")["bayesian_mf"].starts


def test_it_is_fitted_to_training_users_alone(tmp_path):
    prepare(csv_config(write_low_rank_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    rows = store.training_rows()
    priors = fit_named(rows, "bias", "bayesian_mf")
    starts, content_mean = priors["bayesian_mf"].starts, priors["bias"].model.content_mean
    count = rows.item_count
    assert len(starts) == OPTIONS.num_starts

    tasks = store.split("train", CHOICE).tasks
    ratings = sparse.lil_matrix((len(tasks), len(count)))
    for items, labels in (
        (tasks.support_item, tasks.support_label),
        (tasks.query_item, tasks.query_label),
    ):
        user = np.repeat(np.arange(len(tasks)), items.lengths)
        ratings[user, items.values] = labels.values - content_mean[items.values]
    for number, start in enumerate(starts):
        assert start.item.tolist() == np.flatnonzero(count).tolist()
        chunk = ratings.tocsr()[:, start.item]
        again = factorise(lambda p=chunk: [p], start.item, options=OPTIONS, seed=(0, number))
        assert_same(start, again, rel=1e-4)
        assert (start.mean[:, 2:] ** 2).mean(0).max() > 0.1
    one, other, *_ = starts
    assert not np.allclose(one.mean[:, 0], other.mean[:, 0], rtol=1e-6)


def assert_same(one, other, *, rel):
    """All that no rotation of the axes changes."""
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
    assert one.item_variance == pytest.approx(other.item_variance, rel=1e3 * rel)
    assert one.users.weight == pytest.approx(other.users.weight, rel=rel)
    for of_users in (expected_of_components, spread_of_components):
        assert of_users(one) == pytest.approx(of_users(other), rel=rel, abs=rel)


def expected_of_components(start):
    """[C, n] what users of a component give items."""
    return start.users.mean @ start.mean[:, 1:].T


def spread_of_components(start):
    """[n, n] and how it varies."""
    return start.mean[:, 1:] @ np.linalg.inv(start.users.precision) @ start.mean[:, 1:].T


def test_number_of_shards_and_of_users_in_a_block_does_not_matter(tmp_path, monkeypatch):
    path = write_low_rank_log(tmp_path)
    prepare(csv_config(path), tmp_path / "one")
    monkeypatch.setattr(scan, "BUCKET_BYTES", 4000)
    prepare(csv_config(path), tmp_path / "many")
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    assert many.manifest.shards["train"] > one.manifest.shards["train"]
    of_one = starts_of(one)
    monkeypatch.setattr(bayesian_mf_fit, "USERS_PER_BLOCK", 7)
    for start_of_one, start_of_many in zip(of_one, starts_of(many), strict=True):
        assert_same(start_of_many, start_of_one, rel=1e-4)


def test_a_large_log_is_factorised_by_its_first_users_and_items_these_say_enough_of(
    tmp_path, monkeypatch
):
    path = write_log(tmp_path)
    monkeypatch.setattr(scan, "BUCKET_BYTES", 2000)
    passes, chunks_of_passes = [], []
    inner = bayesian_mf_fit.factorise

    def noted(chunks, item, **arguments):
        def noted_chunks():
            chunks_of_passes.append(list(chunks()))
            return chunks_of_passes[-1]

        return inner(noted_chunks, item, **arguments)

    monkeypatch.setattr(bayesian_mf_fit, "factorise", noted)
    prepare(csv_config(path), tmp_path / "store")
    rows = Store(tmp_path / "store").training_rows()
    options = BayesianMFConfig(
        max_ratings=250,
        max_items=20,
        min_item_ratings=6,
        max_start_ratings=750,  # two starts of 250 and some
    )
    start = BayesianMFPrior.fit(
        rows,
        PriorsConfig(bayesian_mf=options),
        fitted=fit_named(rows, "bias"),
        progress=lambda stage, share: passes.append((stage, share)),
    ).starts[-1]
    count = rows.item_count
    num_passes = 2 * (options.num_passes + 1)
    assert len(chunks_of_passes) == num_passes
    shares = [share for stage, share in passes if stage == "Bayesian factorisation"]
    assert shares == sorted(shares)
    assert len(shares) == 1 + num_passes  # the first is told before ratings are read
    assert 0 == shares[0] < shares[-1] < 1
    of_item = sum(p.getnnz(axis=0) for p in chunks_of_passes[0])
    assert of_item.sum() < count.sum() / 2
    assert (of_item >= np.minimum(count[start.item], 6)).all()
    assert 0 < len(start.item) == len(start.mean) <= 20
    assert (np.diff(start.item) > 0).all()
