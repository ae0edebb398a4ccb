"""What predictions are judged by; ``base.py`` says how to add a metric."""

from greatmeta_dist.evaluation.metrics.base import (
    NOTHING_TO_RANK,
    Columns,
    Metric,
    PredictedRows,
    UserMetrics,
    join,
    measure,
    metric_of,
    registered_metrics,
)
from greatmeta_dist.evaluation.metrics.ndcg import CUTOFFS, chance_ndcg, chance_of
from greatmeta_dist.evaluation.metrics.ranking import ranking

__all__ = [
    "CUTOFFS",
    "NOTHING_TO_RANK",
    "Columns",
    "Metric",
    "PredictedRows",
    "UserMetrics",
    "chance_ndcg",
    "chance_of",
    "join",
    "measure",
    "metric_of",
    "ranking",
    "registered_metrics",
]
