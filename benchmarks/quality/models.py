"""The models that are compared: trained ones by their options, and everything else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fold_in import FOLD_INS, MAX_ITEMS
from benchmarks.oracle import Oracle
from benchmarks.quality.data_sets import DataSet
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config.training import FACTORS
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.training.build import Model

SHIPPED, UNIFORM = "GreatMeta as shipped", "… uniform weights"
PUBLISHED, CVAR = "… published scheduler", "… CVaR over users"
ALONE = "… without factorisation"
"""The row of the shipped trainings' models without the blend, at the step that was best with it."""
OTHERS = "others"
"""The name of the run that scores everything that is not trained by gradient steps."""
PLAIN = ["model.has_encoder=false", "model.has_kernel=false"]

TRAINED: dict[str, list[str]] = {
    SHIPPED: [],
    UNIFORM: ["scheduler=uniform"],
    "… group-balanced": ["scheduler=groups"],
    "… loss-proportional": ["scheduler=loss"],
    CVAR: ["scheduler=cvar"],
    PUBLISHED: ["scheduler=mlp"],
    **{
        f"… without {factor}": [
            f"scheduler.factors=[{','.join(f for f in FACTORS if f != factor)}]"
        ]
        for factor in FACTORS
    },
    "… without kernel": ["model.has_kernel=false"],
    "… without spectral start": ["model.item_init=random"],
    "… without encoder": PLAIN,
    "MeLU": [
        *PLAIN,
        "model.embedding_dim=16",
        "model.embedding_std=0.2",
        "model.item_init=random",
        "model.use_bayesian_mf=false",
        "scheduler=uniform",
        "model.target=standardised",
        "model.activation=relu",
        "inner.support_damping=0",
        "inner.learning_rate=0.01",
        "train.short_support_rate=0",
        "train.steps=2000",
    ],
    "GreatMeta, authors' form and settings": ["experiment=paper"],
}
"""Options of each trained model, besides those of its data set."""


def options_of(data: DataSet, model: str) -> list[str]:
    """A data set's options and a model's; a model's own experiment replaces the data set's."""
    options = TRAINED[model]
    if any(option.startswith("experiment=") for option in options):
        return options
    return [*data.options, *options]


class OtherModels:
    """Everything that is not trained by gradient steps, to be scored beside a model."""

    def __init__(self, store: Store, model: Model):
        """``model`` gives the priors; its parameters do not matter."""
        transform = model.scorer.collator.target_transform
        self._transform = TargetTransform(
            "bias", transform.ratings, transform.bias, transform.is_click
        )
        self._baselines = Baselines.of(transform, model.priors["bayesian_mf"])
        self._models: dict[str, Any] = {}
        manifest = store.manifest
        if manifest.num_items <= MAX_ITEMS:
            self._models = {name: kind(store, self._transform) for name, kind in FOLD_INS.items()}
        if manifest.recipe["source"] == "synthetic" and not manifest.is_click:
            self._models["all known but the user"] = Oracle(store)

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """By model, as ``Predicts`` has it."""
        _, prior_mean = self._transform.prior_means(tasks, is_training=False)
        return {
            **self._baselines.predict(tasks),
            "bias, strengths and content from the data": self._transform.in_range(prior_mean),
            **{name: model.predict(tasks) for name, model in self._models.items()},
        }


class NoOtherModels:
    """Predicts nothing: only the model itself is scored."""

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        return {}
