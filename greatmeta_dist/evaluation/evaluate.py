"""How good a model is: every scenario × {baselines, unadapted, adapted} × metrics, by group."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.resample import shorten
from greatmeta_dist.config.evaluation import EvaluateConfig
from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.metrics.base import NOTHING_TO_RANK
from greatmeta_dist.evaluation.metrics.lists import ListSettings, item_information
from greatmeta_dist.evaluation.metrics.ndcg import CUTOFFS
from greatmeta_dist.evaluation.rated_new_items import (
    NOT_RATED,
    RATED,
    SCENARIOS_OF_NEW_ITEMS,
    KnowNewItems,
    tables_of,
)
from greatmeta_dist.evaluation.scoring import (
    Predicts,
    Progress,
    Scored,
    Scorer,
    no_progress,
    score_split,
)
from greatmeta_dist.evaluation.summaries import (
    finite_or_none,
    group_summaries,
    nobody_has,
    user_summary,
)
from greatmeta_dist.evaluation.whole_catalogue import RankedUsers, rank_in_catalogue
from greatmeta_dist.evaluation.worst_users import num_worst, worst_summary

FEWEST_RANKED, MOST_RANKED, MOST_SCORES = 100, 1000, 5_000_000
"""Users of a scenario of ratings who have the whole catalogue ranked, unless the options say: as
many as make so many scores of items, within these bounds."""


@dataclass
class Evaluation:
    """What is found of a model, and of whom."""

    summary: dict[str, Any]
    """What ``evaluation.json`` says."""
    scored: dict[str, Scored] = field(default_factory=dict)
    """By scenario, every user's values."""
    ranked: dict[str, RankedUsers] = field(default_factory=dict)
    """By scenario, every user's values in the whole catalogue, where that was ranked."""


@dataclass(frozen=True)
class _Evaluator:
    """What all scenarios of a store are scored with."""

    scorer: Scorer
    store: Store
    others: Predicts
    options: EvaluateConfig | None
    lists: ListSettings | None
    progress: Progress

    def add_scenario(self, split: str, found: Evaluation, *, name: str) -> dict[str, Any]:
        """Add to ``found`` what is found of a split's users, as the scenario ``name``."""
        scored = self._score(split, progress=self.progress)
        found.scored[name] = scored
        summary = _scenario(scored, self.scorer.grouping)
        found.summary["scenarios"][name] = summary
        if self.lists is not None or self.store.manifest.is_click:
            found.ranked[name] = ranked = self._rank(split)
            if self.store.manifest.is_click:
                summary |= _catalogue(ranked)
            if self.lists is not None:
                summary["lists"] = self._lists(scored, ranked)
        if self.options is not None and self.options.known_rows:
            rows = self.options.known_rows
            summary["known_rows"] = {str(n): self._known_rows(split, n) for n in rows}
        return summary

    def add_rated_scenario(self, split: str, found: Evaluation, know: KnowNewItems) -> None:
        """Add the scenario once more, of who knows the supports' ratings of new items, if any."""
        known = know(tables_of(self.store, split, self.scorer.feature_spec))
        counts = found.summary["scenarios"][split]
        counts["known_of_new_items"] = known.counts if known else NOT_RATED
        if known is not None:
            evaluator = replace(
                self, scorer=known.scorer, others=known.others, progress=no_progress
            )
            summary = evaluator.add_scenario(split, found, name=split + RATED)
            summary["known_of_new_items"] = known.counts

    def _score(self, split: str, **how: Any) -> Scored:
        scored = score_split(
            self.scorer, self.store, split, others=self.others, lists=self.lists, **how
        )
        assert scored is not None
        return scored

    def _rank(self, split: str) -> RankedUsers:
        manifest, max_users = self.store.manifest, None
        if not manifest.is_click:
            affordable = MOST_SCORES // max(manifest.num_items, 1)
            max_users = min(max(affordable, FEWEST_RANKED), MOST_RANKED)
        if self.options is not None and self.options.catalogue_users is not None:
            max_users = self.options.catalogue_users
        return rank_in_catalogue(
            self.scorer,
            self.store,
            split,
            others=self.others,
            lists=self.lists,
            max_users=max_users,
            progress=lambda split, n: self.progress(f"{split}, whole catalogue", n),
        )

    def _lists(self, scored: Scored, ranked: RankedUsers) -> dict[str, Any]:
        return {
            "candidates": self._with_groups(scored.lists, scored.group),
            "catalogue": self._with_groups(ranked.lists, ranked.group),
        }

    def _with_groups(self, models: dict[str, Any], group: NDArray[np.int32]) -> dict[str, Any]:
        groups = group_summaries(models, group, self.scorer.grouping)
        return {**user_summary(models, np.full(len(group), True)), "groups": groups}

    def _known_rows(self, split: str, num_rows: int) -> dict[str, Any]:
        """The scores where only the first rows of each support set are known."""
        scored = self._score(split, limit_support=lambda tasks: shorten(tasks, num_rows))
        summary = _scenario(scored, self.scorer.grouping)
        del summary["chance"]
        if self.lists is not None:
            summary["lists"] = {"candidates": self._with_groups(scored.lists, scored.group)}
        return summary


def evaluate(
    scorer: Scorer,
    store: Store,
    *,
    others: Predicts,
    know_new_items: KnowNewItems | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """What ``evaluate_users`` says of the scenarios, without lists."""
    return evaluate_users(
        scorer, store, others=others, know_new_items=know_new_items, progress=progress
    ).summary


def evaluate_users(
    scorer: Scorer,
    store: Store,
    *,
    others: Predicts,
    options: EvaluateConfig | None = None,
    catalogue: Store | None = None,
    know_new_items: KnowNewItems | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score every scenario of a store, in the ratings' units.

    The summary is ``{"scenarios": {name: {"users", "models", "chance", "counted", "worst_tenth",
    "groups"}}}``. ``counted`` says how many of the users each number is of. Where a number is None,
    ``undefined`` says why. A scenario of clicks also has ``catalogue`` and ``catalogue_counted``.
    With ``options`` a scenario has ``lists``, of the query candidates and of the whole catalogue,
    and ``known_rows`` where they ask for it.

    ``others``, such as ``Baselines``, are scored beside the model. ``catalogue`` is what the model
    was trained on, if that is not ``store``. ``progress`` is called with what is scored and the
    number of its users scored.

    With ``know_new_items``, ``known_of_new_items`` says how many ratings of new items the supports
    of a scenario hold. Where there are any, the scenario comes once more, as ``…_rated``, scored by
    who knows these.
    """
    lists = list_settings(options, catalogue or store) if options is not None else None
    evaluator = _Evaluator(scorer, store, others, options, lists, progress)
    found = Evaluation({"scenarios": {}, "notes": store.manifest.notes})
    if lists is not None:
        found.summary["lists"] = {
            "cutoffs": list(lists.cutoffs),
            "positive_at": lists.positive_at,
        }
    for split in SCENARIOS:
        if store.manifest.splits.get(split):
            evaluator.add_scenario(split, found, name=split)
            if know_new_items is not None and split in SCENARIOS_OF_NEW_ITEMS:
                evaluator.add_rated_scenario(split, found, know_new_items)
    return found


def list_settings(options: EvaluateConfig, catalogue: Store) -> ListSettings:
    """What makes a list, from the options and from what the model was trained on."""
    manifest, rows = catalogue.manifest, catalogue.training_rows()
    ratings = manifest.ratings
    positive_at = options.positive_at
    if manifest.is_click:
        positive_at = 1.0
    elif positive_at is None:
        positive_at = ratings.lowest + 0.75 * (ratings.highest - ratings.lowest)
    # Rows that were drawn because the log has no click are counted, and add nothing to the sum.
    count = rows.item_sum.astype(np.int64) if manifest.is_implicit else rows.item_count
    return ListSettings(tuple(options.cutoffs), positive_at, item_information(count))


def _scenario(scored: Scored, grouping: UserGrouping) -> dict[str, Any]:
    known = scored.chance[~np.isnan(scored.chance[:, 0])]
    chance = known.mean(0) if len(known) else np.full(len(CUTOFFS), np.nan)
    by_cutoff = {f"ndcg@{k}": float(v) for k, v in zip(CUTOFFS, chance, strict=True)}
    return {
        **user_summary(scored.models, np.full(len(scored.group), True)),
        "chance": finite_or_none(by_cutoff),
        "worst_tenth": _worst_tenth(scored),
        "groups": group_summaries(scored.models, scored.group, grouping),
    }


def _worst_tenth(scored: Scored) -> dict[str, Any]:
    """Every metric over the tenth of users for whom it is worst, and how many users these are.

    A number is None where it is None over all users, too.
    """
    worst = {name: finite_or_none(worst_summary(m)) for name, m in scored.models.items()}
    counted = scored.models["adapted"].counted()
    return {"models": worst, "counted": {number: num_worst(n) for number, n in counted.items()}}


def _catalogue(ranked: RankedUsers) -> dict[str, Any]:
    """Hit rates and nDCG of clicks, at the fixed cutoffs."""
    models = {name: finite_or_none(numbers) for name, numbers in ranked.summary().items()}
    num_counted = ranked.num_counted()
    summary: dict[str, Any] = {"catalogue": models, "catalogue_counted": num_counted}
    if not num_counted:
        summary["catalogue_undefined"] = nobody_has(NOTHING_TO_RANK)
    return summary
