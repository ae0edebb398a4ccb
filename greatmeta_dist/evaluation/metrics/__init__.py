"""What predictions are judged by; ``base.py`` says how to add a metric."""

from greatmeta_dist.evaluation.metrics.base import (
    Columns,
    Metric,
    PredictedRows,
    UserMetrics,
    join,
    measure,
    metric_of,
    registered_metrics,
)
from greatmeta_dist.evaluation.metrics.catalogue import ranking
from greatmeta_dist.evaluation.metrics.ndcg import CUTOFFS, chance_ndcg

__all__ = [
    "CUTOFFS",
    "Columns",
    "Metric",
    "PredictedRows",
    "UserMetrics",
    "chance_ndcg",
    "join",
    "measure",
    "metric_of",
    "ranking",
    "registered_metrics",
]
