"""The first screen: a card for every verdict, with a small scale of the models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genzoo.evaluation.catalogue import METRICS, TARGETS, distance
from genzoo_reports.claims import RATIOS
from genzoo_reports.groups import Model
from genzoo_reports.tables import Table
from genzoo_reports.verdict import Verdict
from genzoo_reports.wording import arrow, digits, title


@dataclass(frozen=True)
class Rung:
    """One model on the small scale of a verdict; positions in percent."""

    label: str
    slot: int
    shown: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Card:
    """A verdict with its small scale.

    Attributes:
        verdict: what it says.
        rungs: contenders, best first.
        scale: name of the metric that is drawn.
        mark: position of the floor or the ideal in percent, ``None`` if there is none.
        mark_name: what the mark is.
    """

    verdict: Verdict
    rungs: tuple[Rung, ...]
    scale: str
    mark: float | None
    mark_name: str


def card(table: Table, verdict: Verdict) -> Card:
    """The scale of the models by the metric that a verdict is about."""
    name = verdict.metric
    models = [m for m in table.contenders if name and m.value(name) is not None]
    if not models:
        return Card(verdict, (), "", None, "")
    better = METRICS[name].better
    models.sort(key=lambda model: distance(better, model.value(name) or 0.0))
    mark, mark_name = table.floors.get(name), "real data"
    if mark is None and better in TARGETS:
        mark, mark_name = float(better), "perfect"
    low, high, log = _scale(name, models, mark)

    def place(value: float) -> float:
        if log:
            value = math.log(max(value, 1e-300))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(100 * min(1.0, max(0.0, share)), 2)

    rungs = []
    for model in models:
        summary = model.metrics[name]
        mean = summary.mean or 0.0
        rungs.append(
            Rung(
                label=model.label,
                slot=model.slot,
                shown=" ".join(filter(None, (digits(mean, name), summary.likelihood))),
                at=place(mean),
                low=place(mean if summary.low is None else summary.low),
                high=place(mean if summary.high is None else summary.high),
            )
        )
    spot = None if mark is None else place(mark)
    scale = f"{title(name)} {arrow(name)}".strip()
    return Card(verdict, tuple(rungs), scale, spot, mark_name if spot is not None else "")


def _scale(name: str, models: Sequence[Model], mark: float | None) -> tuple[float, float, bool]:
    """(low, high, logarithmic) of a card's scale."""
    values = [model.value(name) or 0.0 for model in models]
    values += [mark] if mark is not None else []
    if name in RATIOS and min(values) > 0:
        low, high = math.log(min(values)), math.log(max(values))
        pad = max(0.08 * (high - low), 0.3)
        return low - pad, high + pad, True
    group = METRICS[name].group
    if 0 <= min(values) and max(values) <= 1 and group in ("diversity", "memorization"):
        return 0.0, 1.0, False
    if group == "likelihood" or min(values) < 0:
        pad = 0.15 * (max(values) - min(values)) or 0.5
        return min(values) - pad, max(values) + pad, False
    return 0.0, 1.08 * max(*values, 1e-12), False
