"""What users' supports say of new items: the model, and baselines that know the same."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.baselines import Baselines, NewItemMeans
from greatmeta_dist.evaluation.new_item_neighbours import NewItemNeighbours
from greatmeta_dist.evaluation.rated_new_items import RatedNewItems, Tables
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.priors.base import UserRows
from greatmeta_dist.priors.item_evidence import EvidenceModel, ItemEvidence
from greatmeta_dist.ragged import Ragged, offsets_of
from greatmeta_dist.recommend.extended import Extension, Priors, evidence_model

Floats = NDArray[np.float64]


def know_supports(
    scorer: Scorer, priors: Priors, catalogue: Store, tables: Tables
) -> RatedNewItems | None:
    """Read the supports' ratings of items that training did not have; None where there are none."""
    model = evidence_model(scorer, priors)
    parts = (support_evidence(model, tasks) for tasks in tables())
    evidence = reduce(ItemEvidence.__add__, parts, ItemEvidence.none(len(model.unit)))
    if not len(evidence.item):
        return None
    knowing, priors = Extension(scorer, priors, catalogue).of_indices(evidence)
    others = RatedBaselines.of(knowing, priors, model, evidence, tables)
    return RatedNewItems(knowing, others, len(evidence.item), int(evidence.count.sum()))


def support_evidence(model: EvidenceModel, tasks: TaskTable) -> ItemEvidence:
    """What the supports of some tasks say of new items, which go by their index."""
    item, rating = tasks.support_item.values, tasks.support_label.values.astype(np.float64)
    user = np.repeat(np.arange(len(tasks)), tasks.support_item.lengths)
    is_trained = model.bias.item_count[item] > 0
    # By item, so that a user's sums do not depend on the order of its support.
    order = np.lexsort((item, user))
    order = order[is_trained[order]]
    lengths = np.bincount(user[order], minlength=len(tasks))
    trained = UserRows(Ragged(item[order].astype(np.int64), offsets_of(lengths)), rating[order])
    is_new = ~is_trained
    return model.evidence(trained, user[is_new], item[is_new].astype(np.int64), rating[is_new])


@dataclass(frozen=True)
class RatedBaselines:
    """The baselines, and item neighbours of the new items."""

    baselines: Baselines
    neighbours: NewItemNeighbours | None

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        priors: Priors,
        model: EvidenceModel,
        evidence: ItemEvidence,
        tables: Tables,
    ) -> "RatedBaselines":
        """Of a scorer and priors that know the evidence."""
        transform = scorer.collator.target_transform
        count, mean, mean_residual = (np.zeros(len(transform.bias.item_count)) for _ in range(3))
        count[evidence.item] = evidence.count
        mean[evidence.item], mean_residual[evidence.item] = model.plain_means(evidence)
        means = NewItemMeans(count.astype(np.int64), mean, mean_residual)
        baselines = Baselines.of(transform, priors["bayesian_mf"], means)
        bias = baselines.bayesian_mf.transform
        return cls(baselines, NewItemNeighbours.fit(bias, evidence.item, tables))

    def predict(self, tasks: TaskTable) -> dict[str, Floats]:
        """As ``Predicts`` has it."""
        predictions = self.baselines.predict(tasks)
        if self.neighbours is not None:
            predictions["item_neighbours"] = self.neighbours.predict(tasks)
        return predictions
