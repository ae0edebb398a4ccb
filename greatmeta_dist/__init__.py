"""Distributed, large-scale meta-training for cold-start recommendation.

Names are imported when they are asked for, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

__all__ = ["ExportedModel", "Predictor", "__version__", "evaluate", "prepare", "train"]
_HOMES = {
    "ExportedModel": ("greatmeta_dist.export.exported_model", "ExportedModel"),
    "Predictor": ("greatmeta_dist.predict", "Predictor"),
    "evaluate": ("greatmeta_dist.commands.evaluate", "evaluate_run"),
    "prepare": ("greatmeta_dist.data.prepare", "prepare"),
    "train": ("greatmeta_dist.launch.local", "launch"),
}
"""The module of each public name, and its name there."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("greatmeta_dist")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
