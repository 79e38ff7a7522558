"""Every metric of the registry on one view: the same way for models, floors and controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from importlib import import_module

import numpy as np
import torch

from genzoo.evaluation.catalogue import METRICS, MetricInfo
from genzoo.evaluation.measured import Measured, NotApplicable, Refused
from genzoo.evaluation.view import View

Answer = Measured | Refused
Measure = Callable[[View], dict[str, Answer]]

MIN_ITEMS = 50
_LinAlgError: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def measure_all(view: View, names: Collection[str] | None = None) -> dict[str, Answer]:
    """Every metric that this kind of data has: its value, or why it has none.

    Args:
        view: what is measured.
        names: only these metrics; all of them where absent.
    """
    found: dict[str, Answer] = {}
    groups = list(_by_function(names))
    for number, (target, infos) in enumerate(groups):
        view.progress.update("evaluation", number / len(groups), infos[0].title)
        answers = _answers(target, view, infos)
        found.update({info.name: answers[info.name] for info in infos if info.name in answers})
    view.progress.update("evaluation", 1.0)
    return {name: found[name] for name in METRICS if name in found}


def values(answers: dict[str, Answer]) -> dict[str, float]:
    """The numbers alone."""
    return {name: a.value for name, a in answers.items() if isinstance(a, Measured)}


def _by_function(names: Collection[str] | None) -> Iterator[tuple[str, list[MetricInfo]]]:
    """Each measuring function once, with the wanted metrics that it yields."""
    groups: dict[str, list[MetricInfo]] = {}
    for info in METRICS.values():
        if info.measure and (names is None or info.name in names):
            groups.setdefault(info.measure, []).append(info)
    yield from groups.items()


def _answers(target: str, view: View, infos: list[MetricInfo]) -> dict[str, Answer]:
    try:
        if view.n < MIN_ITEMS:
            raise Refused(_too_few(view))
        answers = _function(target)(view)
    except NotApplicable:
        return {}
    except Refused as refusal:
        return {info.name: refusal for info in infos}
    except (np.linalg.LinAlgError, _LinAlgError, ArithmeticError) as error:
        text = f"cannot be computed from these samples: {error}".splitlines()[0]
        return {info.name: Refused(text) for info in infos}
    return {name: _finite(answer) for name, answer in answers.items()}


def _finite(answer: Answer) -> Answer:
    if isinstance(answer, Measured) and not math.isfinite(answer.value):
        return Refused(f"the result is {answer.value}")
    return answer


def _function(target: str) -> Measure:
    module, _, name = target.partition(":")
    function: Measure = getattr(import_module(f"genzoo.evaluation.{module}"), name)
    return function


def _too_few(view: View) -> str:
    few, what = len(view.pool), "samples"
    if len(view.test) < few:
        few, what = len(view.test), "held-out items"
    return f"only {few} {what if few != 1 else what[:-1]}; at least {MIN_ITEMS} are needed"
