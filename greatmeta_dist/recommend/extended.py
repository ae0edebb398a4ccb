"""A scorer that knows new items: by their features, and by the ratings that they have so far.

Shapes: I items of the catalogue, m items added behind them, J of both that training had no ratings
of and that have some now.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from greatmeta_dist.data.manifest import ITEM_ID
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import Features
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior
from greatmeta_dist.priors.bayesian_mf_items import ItemFolding
from greatmeta_dist.priors.bias import BiasPrior
from greatmeta_dist.priors.item_evidence import EvidenceModel, ItemEvidence, NewItemPosterior
from greatmeta_dist.ragged import Ragged, concatenate
from greatmeta_dist.recommend.item_rows import RowMap, factor_inputs, training_inputs
from greatmeta_dist.recommend.new_items import ItemEncoder

Priors = Mapping[str, Any]
Ints = NDArray[np.int64]


def evidence_model(scorer: Scorer, priors: Priors) -> EvidenceModel:
    """How a run reads ratings of new items."""
    bias: BiasPrior = priors["bias"]
    factorised: BayesianMFPrior = priors["bayesian_mf"]
    centre = scorer.collator.target_transform.ratings.mean
    foldings = [ItemFolding(start) for start in factorised.starts]
    return EvidenceModel(bias.model, bias.new_items, foldings, centre)


@dataclass(frozen=True)
class Extension:
    """Makes scorers that know new items, of a run's scorer that does not."""

    scorer: Scorer
    priors: Priors
    catalogue: Store

    def extended(
        self,
        added: Mapping[str, Mapping[str, Any]],
        evidence: ItemEvidence,
        *,
        unclicked: float = 0.0,
    ) -> tuple[Scorer, Priors]:
        """The scorer and the priors with items ``added``, given by token with their features, and
        with what the evidence says of all new items.

        ``unclicked`` is as in ``EvidenceModel.posterior``. Raises ``InputError``.
        """
        scorer, priors = self._with_added(list(added.values())), self.priors
        tokens = np.array([*self.catalogue.item_tokens(), *added])
        is_new = scorer.collator.target_transform.bias.item_count == 0
        index = np.flatnonzero(is_new & np.isin(tokens, evidence.item))
        evidence = evidence.of(tokens[index])
        return self._with_evidence(scorer, priors, index, evidence, unclicked)

    def of_indices(self, evidence: ItemEvidence) -> tuple[Scorer, Priors]:
        """The same with nothing added, of evidence whose items are indices in the catalogue."""
        return self._with_evidence(self.scorer, self.priors, evidence.item, evidence, 0.0)

    def _with_added(self, items: Sequence[Mapping[str, Any]]) -> Scorer:
        """The scorer with items behind the catalogue's, known by their features."""
        scorer, bias = self.scorer, self.priors["bias"]
        if not items:
            return scorer
        encoded = ItemEncoder(self.catalogue, scorer.feature_spec).encode(items)
        content_mean = np.full(len(items), bias.content.mean)
        if encoded.features:
            content_mean = bias.content.predict(encoded.features)
        of_all = scorer.collator.items
        fields = zip(of_all.fields, encoded.fields, strict=True)
        features = replace(of_all, fields=tuple(concatenate(both) for both in fields))
        return _replaced(scorer, items=features, content_mean=content_mean)

    def _with_evidence(
        self,
        scorer: Scorer,
        priors: Priors,
        index: Ints,
        evidence: ItemEvidence,
        unclicked: float,
    ) -> tuple[Scorer, Priors]:
        """With the evidence of items ``index`` [J], ascending."""
        if not len(index):
            return scorer, priors
        bias = scorer.collator.target_transform.bias
        content_mean = bias.content_mean[index]
        model = evidence_model(self.scorer, priors)
        posterior = model.posterior(evidence, index, content_mean, unclicked=unclicked)
        offset = np.zeros(len(bias.item_count))
        offset[index] = posterior.offset
        factorised: BayesianMFPrior = priors["bayesian_mf"]
        folded = _folded(factorised, posterior)
        scorer = self._with_rows(scorer, index, posterior)
        scorer = _replaced(scorer, new_item_offset=offset)
        blended = [folded if p is factorised else p for p in scorer.blend.priors]
        scorer = replace(scorer, blend=replace(scorer.blend, priors=blended))
        return scorer, {**priors, "bayesian_mf": folded}

    def _with_rows(self, scorer: Scorer, index: Ints, posterior: NewItemPosterior) -> Scorer:
        """With an embedding row of its own for each item with evidence."""
        names = [f.name for f in self.catalogue.fields("item", scorer.feature_spec)]
        if ITEM_ID not in names or not posterior.factors:
            return scorer
        position = names.index(ITEM_ID)
        items, worker = scorer.collator.items, scorer.worker
        moves = self._row_map(position).moves(
            factor_inputs([folded.mean for folded in posterior.factors]),
            np.mean([folded.known for folded in posterior.factors], 0),
        )
        unknown = _rows(worker, [items.unknown[position]])
        rows = torch.from_numpy(unknown + moves)
        num_rows = self.catalogue.manifest.num_rows
        worker = worker.with_further_rows(rows)
        own = items.fields[position]
        values = own.values.copy()
        values[own.offsets[index]] = num_rows + np.arange(len(index))
        fields = list(items.fields)
        fields[position] = Ragged(values, own.offsets)
        return _replaced(replace(scorer, worker=worker), items=replace(items, fields=tuple(fields)))

    def _row_map(self, position: int) -> RowMap:
        """Fitted to the catalogue's items that are factorised."""
        item, inputs = training_inputs(self.priors["bayesian_mf"])
        items, worker = self.scorer.collator.items, self.scorer.worker
        own = items.fields[position]
        trained = _rows(worker, own.values[own.offsets[item]])
        moves = trained - _rows(worker, [items.unknown[position]])
        bias = self.priors["bias"].model
        count = bias.item_count[item] / (bias.item_count[item] + bias.item_damping)
        return RowMap.fit(inputs, moves, count)


def _rows(worker: Worker, rows: Sequence[int] | Ints) -> NDArray[np.float64]:
    """[n, d] embedding rows as predictions see them."""
    index = torch.as_tensor(np.asarray(rows, np.int64), device=worker.device)
    values: NDArray[np.float64] = worker.table.lookup_averaged(index).double().cpu().numpy()
    return values


def _folded(prior: BayesianMFPrior, posterior: NewItemPosterior) -> BayesianMFPrior:
    """The factorisation with new items."""
    pairs = zip(prior.starts, posterior.factors, strict=True)
    return BayesianMFPrior([start.with_items(folded) for start, folded in pairs])


def _replaced(
    scorer: Scorer,
    *,
    items: Features | None = None,
    content_mean: NDArray[np.float64] | None = None,
    new_item_offset: NDArray[np.float64] | None = None,
) -> Scorer:
    """The scorer with other features of items, and with other numbers in its bias model."""
    collator, transform = scorer.collator, scorer.collator.target_transform
    bias = transform.bias
    if content_mean is not None:
        bias = bias.with_items(content_mean)
    if new_item_offset is not None:
        bias = replace(bias, new_item_offset=new_item_offset)
    transform = replace(transform, bias=bias)
    collator = replace(collator, items=items or collator.items, target_transform=transform)
    return replace(scorer, collator=collator, blend=replace(scorer.blend, transform=transform))
