"""Features of new users, as callers from Python give them → features of each user."""

from collections.abc import Mapping
from typing import Any

from greatmeta_dist.data.known_ratings import KnownRatings, named_rows, token_of
from greatmeta_dist.errors import require, shown
from greatmeta_dist.recommend.new_users import UserFeatures


def features_of(user_features: Any, known: KnownRatings) -> list[UserFeatures]:
    """[U] features of each user of ``known``, empty where nothing is known.

    ``user_features`` are ``{feature: value}`` of one user, and of many ``{user: {feature: value}}``
    or a frame (Arrow, Polars, pandas) with a column of users under a usual name and a column for
    each feature. Raises ``InputError``.
    """
    if user_features is None:
        return [{}] * len(known.users)
    by_user: Any = user_features
    if hasattr(user_features, "collect"):  # a LazyFrame
        by_user = user_features.collect()
    if hasattr(by_user, "__arrow_c_stream__"):
        return _of_frame(by_user, known)
    if isinstance(by_user, Mapping) and len(by_user) and known.is_one_user:
        by_user = {known.users[0]: by_user}
    is_good = isinstance(by_user, Mapping) and all(
        isinstance(features, Mapping) for features in by_user.values()
    )
    form = "{feature: value}" if known.is_one_user else "{user: {feature: value}}, or a frame"
    require(is_good, f"user_features are {shown(user_features)}; expected {form}")
    return [by_user.get(user, {}) for user in known.users]


def _of_frame(frame: Any, known: KnownRatings) -> list[UserFeatures]:
    require(
        not known.is_one_user,
        "user_features are a frame, and the interactions are of one user without a name; give "
        "{feature: value}",
    )
    tokens, columns = named_rows(frame, "user")
    require(
        len(set(tokens)) == len(tokens),
        f"user_features name {_repeated(tokens)} more than once; give each user once",
    )
    rows = zip(*columns.values(), strict=True) if columns else [()] * len(tokens)
    features = [dict(zip(columns, row, strict=True)) for row in rows]
    by_token = dict(zip(tokens, features, strict=True))
    return [by_token.get(token_of(user), {}) for user in known.users]


def _repeated(tokens: list[str]) -> str:
    return next((token for token in tokens if tokens.count(token) > 1), "")
