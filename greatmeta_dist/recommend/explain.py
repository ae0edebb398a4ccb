"""Why a user gets a score: how far each known rating and each feature moved it.

The score is computed twice, with nothing known of the user and with everything, and the difference
is split by the rules of ``moved``: the user's offset and the factorisation are sums over known
ratings, and so are the context and the fast weights of the model. Amounts add up to the difference;
they are in ratings, and for clicks in logits of the chance.

Shapes: n known ratings, F features of the user, K = n + F causes, Du and Di widths of the user's
and an item's features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from greatmeta_dist.batching.collate import CLICK_CONTEXT_SCALE
from greatmeta_dist.batching.target_transform import LEAST_CHANCE
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.tasks import Features, TaskTable, slot_starts
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.meta.batch import SlotTable
from greatmeta_dist.ragged import Grouped, Ragged
from greatmeta_dist.recommend.explanation import Explanation, KnownFeature, KnownRating
from greatmeta_dist.recommend.moved import Moved
from greatmeta_dist.recommend.moved_model import KnownRows, MovedModel
from greatmeta_dist.recommend.moved_priors import MovedPriors
from greatmeta_dist.recommend.new_users import NewUsers

SURE = 1e-9
"""Chances are kept this far from 0 and 1, where a logit is infinite."""


@dataclass(frozen=True)
class Explainer:
    """Explains scores of a model; safe among threads."""

    scorer: Scorer
    """Knows the unknown item."""
    new_users: NewUsers

    def __post_init__(self) -> None:
        model = self.scorer.worker.model
        require(
            model.context == "support" or not model.has_encoder,
            "this run has model.context=own, so a score depends on what else is asked, and not on "
            "known ratings alone; train with model.context=support to have scores explained",
        )

    def of_user(
        self,
        task: TaskTable,
        *,
        items: Sequence[Any] | None = None,
        features: Mapping[str, Any] | None = None,
    ) -> "ExplainedUser":
        """What scores of one user are explained with; ``task`` is that user alone.

        ``items`` [n] are the known items as they are to be called, ``features`` the user's values
        by name; without them both are called as the catalogue has them.
        """
        assert len(task) == 1
        return ExplainedUser(self, task, items, features)

    @cached_property
    def layers(self) -> dict[str, Tensor]:
        """A by name, in float64."""
        layers = self.scorer.worker.averaged_layers
        return {name: tensor.detach().double().cpu() for name, tensor in layers.items()}

    @cached_property
    def user_fields(self) -> list[Field]:
        return self.new_users.catalogue.fields("user", self.scorer.feature_spec)

    @cached_property
    def values_of_rows(self) -> list[dict[int, str]]:
        """Of each feature of users, the value of each embedding row."""
        vocabularies = map(self.new_users.catalogue.vocabulary, self.user_fields)
        return [dict(zip(r.tolist(), v.to_pylist(), strict=True)) for v, r in vocabularies]

    def pooled(self, entities: Features, index: np.ndarray) -> Tensor:
        """Features of the chosen entities [n], as the model sees them: [n, fields·d]."""
        width = len(entities.fields) * self.scorer.worker.model.embedding_dim
        if not width or not len(index):
            return torch.zeros(len(index), width, dtype=torch.float64)
        slots = entities.slots(index.astype(np.int64), None)
        rows = Grouped.of(slots.row)
        table = SlotTable(
            torch.from_numpy(rows.index),
            torch.from_numpy(slots.weight(entities.is_mean, np.float32)),
            torch.from_numpy(slot_starts(slots.length)),
        )
        pooled = self.scorer.worker.pooled_features(table, torch.from_numpy(rows.distinct))
        return pooled.double().cpu()


@dataclass(frozen=True)
class ExplainedUser:
    """One user, whose scores can be explained; the user is adapted to once."""

    explainer: Explainer
    task: TaskTable
    names: Sequence[Any] | None
    features: Mapping[str, Any] | None

    def explain(self, index: int, name: Any) -> Explanation:
        """Explain the score of an item, given by its index in the catalogue and its name."""
        score = self.score(index)
        transform = self._scorer.collator.target_transform
        moved = score
        if transform.is_click:
            moved = score.clamped(SURE, 1 - SURE).through(torch.logit, _slope_of_logit)
        amounts = moved.by_cause[:, 0].tolist()
        items, labels = self._known_items(), self.task.support_label.values.tolist()
        given = zip(items, labels, amounts, strict=False)
        return Explanation(
            name,
            float(score.after[0]),
            float(score.before[0]),
            "logit" if transform.is_click else "rating",
            tuple(KnownRating(*one) for one in given),
            tuple(self._known_features(amounts[len(labels) :])),
        )

    def score(self, index: int) -> Moved:
        """The score [1] of an item, in ratings or chances, before and after."""
        scorer, transform = self._scorer, self._scorer.collator.target_transform
        item = np.array([index])
        of_item = self.explainer.pooled(scorer.collator.items, item)[0]
        prediction = self._model.at(of_item)
        prior_mean = self._offset + float(transform.item_means(item)[0])
        if transform.is_click:
            rating = (prediction + self._logit(prior_mean)).through(
                torch.sigmoid, _slope_of_sigmoid
            )
        else:
            rating = prediction.scaled(transform.scale) + prior_mean
        bounds = (transform.ratings.lowest, transform.ratings.highest)
        if not transform.is_click:
            rating = rating.clamped(*bounds)
        if not scorer.blend.priors:
            return rating
        residual, known = self._priors.at(index)
        if known <= 0:
            return rating
        content_mean = float(transform.bias.content_mean[index])
        of_priors = (residual + content_mean).clamped(*bounds)
        weight = scorer.blend.weight * known
        return rating.scaled(1 - weight) + of_priors.scaled(weight)

    @property
    def _scorer(self) -> Scorer:
        return self.explainer.scorer

    @property
    def _num_causes(self) -> int:
        return len(self.task.support_item.values) + len(self.explainer.user_fields)

    @cached_property
    def _residual(self) -> np.ndarray:
        """[n] known ratings less what is expected of their items before the user."""
        item_means = self._scorer.collator.target_transform.item_means
        residual: np.ndarray = self.task.support_label.values - item_means(
            self.task.support_item.values
        )
        return residual

    @cached_property
    def _offset(self) -> Moved:
        """The user's offset [1]: a sum over known ratings."""
        transform = self._scorer.collator.target_transform
        by_cause = torch.zeros(self._num_causes, 1, dtype=torch.float64)
        count = len(self._residual)
        if transform.kind == "bias" and count:
            parts = self._residual / (count + transform.bias.user_damping)
            by_cause[:count, 0] = torch.from_numpy(parts)
        return Moved.from_zero(by_cause)

    @cached_property
    def _model(self) -> MovedModel:
        scorer, task = self._scorer, self.task
        unknown = replace(
            task.features,
            fields=tuple(
                Ragged(np.array([row], np.int32), np.array([0, 1])) for row in task.features.unknown
            ),
        )
        first = np.zeros(1, np.int64)
        user = tuple(self.explainer.pooled(f, first)[0] for f in (unknown, task.features))
        worker = scorer.worker
        return MovedModel.of(
            worker.model, self.explainer.layers, worker.inner, (user[0], user[1]), self._rows()
        )

    def _rows(self) -> KnownRows:
        """What the model sees of the known ratings."""
        collator, transform = self._scorer.collator, self._scorer.collator.target_transform
        items = self.explainer.pooled(collator.items, self.task.support_item.values)
        offset, count = float(self._offset.after[0]), len(self._residual)
        row_weight = torch.full(
            (count,), 1 / (max(count, 1) + collator.support_damping), dtype=torch.float64
        )
        if not transform.is_click:
            label = torch.from_numpy((self._residual - offset) / transform.scale)
            return KnownRows(items, label, label, None, row_weight)
        clicked = torch.from_numpy(self.task.support_label.values.astype(np.float64))
        prior_mean = transform.item_means(self.task.support_item.values) + offset
        logit = torch.from_numpy(transform.logit(prior_mean))
        context_label = CLICK_CONTEXT_SCALE * (clicked - torch.sigmoid(logit))
        return KnownRows(items, clicked, context_label, logit, row_weight)

    @cached_property
    def _priors(self) -> MovedPriors:
        support, bias = self.task.support_item, self._scorer.collator.target_transform.bias
        residual = self.task.support_label.values - bias.content_mean[support.values]
        return MovedPriors(self._scorer.blend.priors, support, residual, self._num_causes)

    def _logit(self, prior_mean: Moved) -> Moved:
        if self._scorer.collator.target_transform.kind == "rating":
            return prior_mean.scaled(0.0)
        return prior_mean.clamped(LEAST_CHANCE, 1 - LEAST_CHANCE).through(
            torch.logit, _slope_of_logit
        )

    def _known_items(self) -> Sequence[Any]:
        if self.names is not None:
            return self.names
        tokens = [*self.explainer.new_users.items, "an item of which nothing is known"]
        return [tokens[index] for index in self.task.support_item.values]

    def _known_features(self, amounts: Sequence[float]) -> list[KnownFeature]:
        """The features that are known of the user, with what they moved."""
        fields, rows = self.explainer.user_fields, self.task.features.fields
        decoders = self.explainer.values_of_rows
        known = []
        for field, row, decoder, amount in zip(fields, rows, decoders, amounts, strict=True):
            value = (self.features or {}).get(field.name)
            if self.features is None:
                value = _value(field, [decoder[r] for r in row.values.tolist() if r in decoder])
            if value is not None:
                known.append(KnownFeature(field.name, value, amount))
        return known


def _value(field: Field, tokens: list[str]) -> Any:
    """A feature's value in words, from tokens of its vocabulary; None where there are none."""
    if not tokens:
        return None
    if field.edges is None:
        return tokens if field.is_list else tokens[0]
    number = int(tokens[0].rpartition("_")[2])
    inner = [f"{edge:g}" for edge in field.edges]
    if not inner:
        return "any number"
    if number == 0:
        return f"below {inner[0]}"
    return f"{inner[number - 1]} " + (f"to {inner[number]}" if number < len(inner) else "or more")


def _slope_of_sigmoid(value: Tensor) -> Tensor:
    chance = torch.sigmoid(value)
    return chance * (1 - chance)


def _slope_of_logit(chance: Tensor) -> Tensor:
    return 1 / (chance * (1 - chance))
