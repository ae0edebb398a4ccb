"""What can be added by one new file and one line here.

A prior from another package also needs to be named by ``priors.extra``; otherwise it is not fitted.

A registry names implementations as ``module:object`` and imports one when it is asked for, so that
listing what there is costs nothing. Other packages add theirs by an entry point of the same form:

    [project.entry-points."greatmeta_dist.weightings"]
    worst_half = "my_package.worst_half:WorstHalf"
"""

import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from greatmeta_dist.errors import require


class Registry:
    """Implementations of one kind, by name."""

    def __init__(self, noun: str, built_in: dict[str, str]):
        """``noun`` is what one is called; the entry points' group is ``greatmeta_dist.<noun>s``.

        ``built_in`` says where each of this package's own stands, as ``module:object``.
        """
        self._noun = noun
        self._built_in = built_in

    def names(self) -> list[str]:
        """All names: the built-in ones in their order, then those of installed packages."""
        return [*self._built_in, *(name for name in self._added() if name not in self._built_in)]

    def get(self, name: str) -> Any:
        """The implementation of that name.

        Raises ``InputError`` where there is none, or where it cannot be imported.
        """
        target = self._built_in.get(name) or self._added().get(name)
        require(
            target is not None,
            f"no {self._noun} is called '{name}'; there is {', '.join(self.names())}",
        )
        assert target is not None
        module, _, attribute = target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if name in self._built_in:
                raise
            require(False, f"cannot import {target} for the {self._noun} '{name}': {error}")

    def _added(self) -> dict[str, str]:
        """Those of installed packages."""
        return _entry_points(f"greatmeta_dist.{self._noun}s", tuple(sys.path))


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, str]:
    """Name → target of a group, in the packages on ``path``, which is Python's.

    They are read once: a file of each installed package is opened for it, and a start asks dozens
    of times.
    """
    return {e.name: e.value for e in entry_points(group=group)}


WEIGHTINGS = Registry(
    "weighting",
    {
        "balanced": "greatmeta_dist.meta.weightings.balanced:Balanced",
        "mlp": "greatmeta_dist.meta.weightings.look_ahead:MlpLookAhead",
        "lstm": "greatmeta_dist.meta.weightings.look_ahead:LstmLookAhead",
        "groups": "greatmeta_dist.meta.weightings.groups:EqualGroups",
        "loss": "greatmeta_dist.meta.weightings.loss:LossProportional",
        "cvar": "greatmeta_dist.meta.weightings.cvar:Cvar",
        "uniform": "greatmeta_dist.meta.weightings.uniform:Uniform",
    },
)
"""How users are weighed in a step: ``scheduler.kind``; see ``meta/weightings/base.py``."""

PRIORS = Registry(
    "prior",
    {
        "bias": "greatmeta_dist.priors.bias:BiasPrior",
        "item_factors": "greatmeta_dist.priors.item_factors:ItemFactorsPrior",
        "bayesian_mf": "greatmeta_dist.priors.bayesian_mf:BayesianMFPrior",
        "user_groups": "greatmeta_dist.priors.user_groups:UserGroupsPrior",
    },
)
"""What can be fitted before meta-training; ``priors/fit.py`` says what is, and in what order."""

SOURCES = Registry(
    "source",
    {
        "synthetic": "greatmeta_dist.data.sources.synthetic:open_synthetic",
        "recbole": "greatmeta_dist.data.sources.recbole:open_recbole",
        "movielens_100k": "greatmeta_dist.data.sources.movielens:open_movielens_100k",
        "movielens_1m": "greatmeta_dist.data.sources.movielens:open_movielens_1m",
        "movielens_10m": "greatmeta_dist.data.sources.movielens:open_movielens_10m",
        "movielens_csv": "greatmeta_dist.data.sources.movielens:open_movielens_csv",
        "bookcrossing": "greatmeta_dist.data.sources.bookcrossing:open_bookcrossing",
        "amazon_2023": "greatmeta_dist.data.sources.amazon:open_amazon_2023",
        "goodbooks": "greatmeta_dist.data.sources.goodbooks:open_goodbooks",
        "lastfm_hetrec": "greatmeta_dist.data.sources.lastfm:open_lastfm_hetrec",
        "csv": "greatmeta_dist.data.sources.mapped:open_csv",
        "jsonl": "greatmeta_dist.data.sources.mapped:open_jsonl",
        "parquet": "greatmeta_dist.data.sources.mapped:open_parquet",
    },
)
"""Forms of logs: ``data.source``; see ``data/sources/base.py``."""

METRICS = Registry(
    "metric",
    {
        "mae": "greatmeta_dist.evaluation.metrics.errors:MAE",
        "rmse": "greatmeta_dist.evaluation.metrics.errors:RMSE",
        "ndcg": "greatmeta_dist.evaluation.metrics.ndcg:NDCG",
        "auc": "greatmeta_dist.evaluation.metrics.auc:AUC",
    },
)
"""What predictions are judged by; see ``evaluation/metrics/base.py``."""
