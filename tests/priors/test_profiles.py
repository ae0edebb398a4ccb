"""Profiles tell what users choose and like, by category."""

import numpy as np
import pytest
from profiled import bias_of, users_of_two_kinds

from greatmeta_dist.config.priors import UserGroupsConfig
from greatmeta_dist.errors import InputError
from greatmeta_dist.priors.base import ItemFeature, UserRows
from greatmeta_dist.priors.profiles import Categories, Profiler, profile_feature
from greatmeta_dist.ragged import Ragged, offsets_of


def test_nobody_chose_what_was_drawn():
    categories = Categories(["a", "b"], Ragged(np.array([0, 0, 1, 1]), np.arange(5)))
    rows = UserRows(Ragged(np.arange(4), np.array([0, 4])), np.array([1.0, 1.0, 1.0, 0.0]))
    for is_implicit, share in ((False, 1 / 2), (True, 1 / 3)):
        profiler = Profiler(categories, bias_of(4, 0.5), is_implicit, liking_damping=2.0)
        choice, liking = profiler.profiles(rows)
        assert choice[0].tolist() == pytest.approx([1 - share, share])
        assert liking[0, 0] > 0 > liking[0, 1]


def test_profiles_are_what_a_loop_over_users_and_rows_finds():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 20)
    lengths[4] = 0
    item = Ragged(rng.integers(0, 9, lengths.sum()), offsets_of(lengths))
    rows = UserRows(item, rng.normal(size=lengths.sum()))
    of_item = Ragged(rng.integers(0, 3, 12), offsets_of(np.array([0, 1, 2, 1, 2, 1, 2, 1, 2])))
    profiler = Profiler(Categories(list("abc"), of_item), bias_of(9, 0.2), False, 1.5)
    choice, liking = profiler.profiles(rows)
    for user in range(20):
        row = slice(*rows.item.offsets[user : user + 2])
        residual = rows.rating[row] - 0.2
        count, total = np.zeros(3), np.zeros(3)
        for item, value in zip(rows.item.values[row], residual, strict=True):
            for category in of_item.values[slice(*of_item.offsets[item : item + 2])]:
                count[category] += 1
                total[category] += value - residual.mean()
        assert choice[user] == pytest.approx(count / max(count.sum(), 1))
        assert liking[user] == pytest.approx(total / (count + 1.5))


@pytest.mark.parametrize("likes, chooses", [(True, False), (False, True)])
def test_the_profile_in_which_halves_of_users_rows_agree_counts_more(likes, chooses):
    rng = np.random.default_rng(0)
    rows, feature, _ = users_of_two_kinds(rng, likes=likes, chooses=chooses)
    profiler = Profiler(Categories.of_feature(feature), bias_of(400, 3.0), False, 2.0)
    profiles = profiler.profiles(rows)
    of_choice, of_liking = (
        scale * np.sqrt(profile.var(0).sum())
        for scale, profile in zip(profiler.scales(rows, profiles), profiles, strict=True)
    )
    assert (of_choice > of_liking + 0.3) == chooses
    assert (of_liking > of_choice + 0.3) == likes


def feature(name: str, values: str, is_list: bool) -> ItemFeature:
    codes = Ragged(np.zeros(3, np.int64), np.arange(4))
    return ItemFeature(name, list(values), is_list, codes, num_frequent=1, number=None)


def test_categories_are_of_the_first_small_list_feature_unless_one_is_named():
    year, words, genre, tags = (
        feature("year", "ab", False),
        feature("words", "abcdefg", True),
        feature("genre", "abc", True),
        feature("tags", "ab", True),
    )
    features = [year, words, genre, tags]
    assert profile_feature(features, UserGroupsConfig(max_categories=5)) is genre
    assert profile_feature(features, UserGroupsConfig(max_categories=7)) is words
    assert profile_feature([year], UserGroupsConfig()) is None
    assert profile_feature(features, UserGroupsConfig(category="year")) is year
    with pytest.raises(InputError, match="is 'era'; the item features are year, words, genre"):
        profile_feature(features, UserGroupsConfig(category="era"))


def test_values_that_training_has_not_seen_are_no_category():
    codes = Ragged(np.array([0, 2, 1, 1, 2]), np.array([0, 2, 3, 3, 5]))
    categories = Categories.of_feature(
        ItemFeature("genre", ["a", "b"], True, codes, num_frequent=2, number=None)
    )
    assert categories.of_item.values.tolist() == [0, 1, 1]
    assert categories.of_item.offsets.tolist() == [0, 1, 2, 2, 3]
