"""Train, sample, evaluate and compare generative models.

Names are imported on first use (PEP 562), so that `import genzoo` and the command line's
help start without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genzoo import compat as _compat

if TYPE_CHECKING:
    from genzoo.checks import check_model
    from genzoo.data import DATASETS, Dataset, open_dataset
    from genzoo.errors import GenzooError, InputError
    from genzoo.evaluation import Evaluation, SelfTest, evaluate, self_test
    from genzoo.experiment import Comparison, Forecast, compare, forecast
    from genzoo.model import GenerativeModel
    from genzoo.noise import NoiseSource
    from genzoo.pipeline import train
    from genzoo.runs import Run, open_run
    from genzoo.samples import SampleSet, read_samples
    from genzoo.sampling import sample
    from genzoo.training import load_model
    from genzoo.types import Batch, Budget, DataSpec, Loss, Recipe, SampleOptions, TrainState
    from genzoo_reports.report import write_report as report

__version__ = "0.1.0"

_HOME = {
    "genzoo.checks": ("check_model",),
    "genzoo.data": ("DATASETS", "Dataset", "open_dataset"),
    "genzoo.errors": ("GenzooError", "InputError"),
    "genzoo.evaluation": ("Evaluation", "SelfTest", "evaluate", "self_test"),
    "genzoo.experiment": ("Comparison", "Forecast", "compare", "forecast"),
    "genzoo.model": ("GenerativeModel",),
    "genzoo.noise": ("NoiseSource",),
    "genzoo.pipeline": ("train",),
    "genzoo.runs": ("Run", "open_run"),
    "genzoo.samples": ("SampleSet", "read_samples"),
    "genzoo.sampling": ("sample",),
    "genzoo.training": ("load_model",),
    "genzoo.types": (
        "Batch",
        "Budget",
        "DataSpec",
        "Loss",
        "Recipe",
        "SampleOptions",
        "TrainState",
    ),
}
_WHERE = {name: (home, name) for home, names in _HOME.items() for name in names}
_WHERE["report"] = ("genzoo_reports.report", "write_report")

__all__ = [  # noqa: F822  (found by __getattr__)
    "DATASETS",
    "Batch",
    "Budget",
    "Comparison",
    "DataSpec",
    "Dataset",
    "Evaluation",
    "Forecast",
    "GenerativeModel",
    "GenzooError",
    "InputError",
    "Loss",
    "NoiseSource",
    "Recipe",
    "Run",
    "SampleOptions",
    "SampleSet",
    "SelfTest",
    "TrainState",
    "check_model",
    "compare",
    "evaluate",
    "forecast",
    "load_model",
    "open_dataset",
    "open_run",
    "read_samples",
    "report",
    "sample",
    "self_test",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _WHERE:
        raise AttributeError(f"module 'genzoo' has no attribute '{name}'")
    home, attribute = _WHERE[name]
    value = getattr(importlib.import_module(home), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})


_compat.install()
