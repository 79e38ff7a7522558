"""How good, how varied, how original and how fast a model is.

Names are imported on first use, so that `genzoo.evaluation.catalogue`, `result` and
`statistics` can be used without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genzoo.evaluation.catalogue import METRICS, MetricInfo
    from genzoo.evaluation.result import Evaluation, FeatureInfo, Score
    from genzoo.evaluation.selftest import SelfTest, self_test
    from genzoo.evaluation.suite import evaluate, evaluate_all, gather_samples, prepare

_WHERE = {
    "METRICS": "catalogue",
    "MetricInfo": "catalogue",
    "Evaluation": "result",
    "FeatureInfo": "result",
    "Score": "result",
    "SelfTest": "selftest",
    "evaluate": "suite",
    "evaluate_all": "suite",
    "gather_samples": "suite",
    "prepare": "suite",
    "self_test": "selftest",
}

__all__ = [
    "METRICS",
    "Evaluation",
    "FeatureInfo",
    "MetricInfo",
    "Score",
    "SelfTest",
    "evaluate",
    "evaluate_all",
    "gather_samples",
    "prepare",
    "self_test",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
