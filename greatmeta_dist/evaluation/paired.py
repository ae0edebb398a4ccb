"""Is one run better than another? A paired test over the users whom both were asked about.

For every number: Wilcoxon's signed-rank test of the users' differences, and their mean with a 95%
interval (Student's t). Both are over users, each of whom counts the same; so RMSE here is the mean
of users' own, not that of all rows.

Shapes: U users.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.evaluate import Evaluation
from greatmeta_dist.evaluation.metrics.base import Rows
from greatmeta_dist.evaluation.summaries import finite_or_none

CONFIDENCE = 0.95
MODEL = "adapted"


def compare(ours: Evaluation, theirs: Evaluation) -> dict[str, Any]:
    """By scenario and number, how the adapted predictions of two runs differ, ours less theirs.

    ``{scenario: {"ratings": …, "candidates": …, "catalogue": …}}``, each ``{number: as
    paired_test}``. Raises ``InputError`` where the runs were not asked about the same users.
    """
    scenarios: dict[str, Any] = {}
    for name, scored in ours.scored.items():
        other = theirs.scored.get(name)
        require(
            other is not None and other.user == scored.user,
            f"the two runs have not scored the same users in {name}; evaluate both on one store",
        )
        assert other is not None
        parts = {
            "ratings": (scored.models[MODEL].by_user(), other.models[MODEL].by_user()),
            "candidates": _lists(scored.lists, other.lists),
        }
        if name in ours.ranked and name in theirs.ranked:
            parts["catalogue"] = _lists(ours.ranked[name].lists, theirs.ranked[name].lists)
        scenarios[name] = {
            part: {n: paired_test(v, theirs_of[n]) for n, v in ours_of.items() if n in theirs_of}
            for part, (ours_of, theirs_of) in parts.items()
        }
    return scenarios


def _lists(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Any, Any]:
    if MODEL not in ours or MODEL not in theirs:
        return {}, {}
    return ours[MODEL].by_user(), theirs[MODEL].by_user()


def paired_test(ours: Rows, theirs: Rows) -> dict[str, Any]:
    """The test of two values of each of U users; users who lack either are left out.

    ``users`` were compared, of whom ``differ`` have two different values; ``ours`` and ``theirs``
    are means over them, and ``interval`` that of their ``difference``. ``p_value`` is two-sided:
    None where fewer than two users differ. What two users or more would tell is None with fewer.
    """
    from scipy import stats  # half a second, and few evaluations compare

    is_both = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[is_both], theirs[is_both]
    difference = ours - theirs
    num_differ = int((difference != 0).sum())
    numbers = {name: _mean(v) for name, v in (("ours", ours), ("theirs", theirs))}
    p_value = float("nan")
    if num_differ >= 2:
        # Users without a difference say nothing of its sign, and are left out (Wilcoxon, 1945).
        p_value = float(stats.wilcoxon(difference, zero_method="wilcox").pvalue)
    half = float("nan")
    if len(difference) >= 2:
        t = stats.t.ppf(0.5 + CONFIDENCE / 2, len(difference) - 1)
        half = float(t * difference.std(ddof=1) / np.sqrt(len(difference)))
    mean = _mean(difference)
    bounds = finite_or_none({"low": mean - half, "high": mean + half})
    return {
        "users": len(difference),
        "differ": num_differ,
        **finite_or_none({**numbers, "difference": mean, "p_value": p_value}),
        "interval": [bounds["low"], bounds["high"]],
    }


def _mean(values: Rows) -> float:
    return float(values.mean()) if len(values) else float("nan")
