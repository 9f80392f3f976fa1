"""From a folder of images and masks to a trained, measured, deployed segmenter."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segwright.data.inspection import inspect as inspect
    from segwright.deployment.export import export as export
    from segwright.evaluation import evaluate as evaluate
    from segwright.inference.predictor import Predictor as Predictor
    from segwright.inference.segmenter import Segmenter as Segmenter
    from segwright.prediction import load as load
    from segwright.prediction import predict as predict
    from segwright.recipe import Recipe as Recipe
    from segwright.recipe import load_recipe as load_recipe
    from segwright.run import train as train

__version__ = "0.1.0"

_HOMES = {
    "inspect": "segwright.data.inspection",
    "train": "segwright.run",
    "export": "segwright.deployment.export",
    "evaluate": "segwright.evaluation",
    "predict": "segwright.prediction",
    "load": "segwright.prediction",
    "Recipe": "segwright.recipe",
    "load_recipe": "segwright.recipe",
    "Predictor": "segwright.inference.predictor",
    "Segmenter": "segwright.inference.segmenter",
}


def __getattr__(name: str) -> object:
    # Loaded on first use, so that importing segwright imports no torch (PEP 562).
    if name not in _HOMES:
        raise AttributeError(f"module 'segwright' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
