"""Models as points of a plane: quality against cost, precision against recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from genzoo_reports.claims import equal_cost
from genzoo_reports.figures import (
    MARKERS,
    SOFT,
    Drawing,
    Numbers,
    Spot,
    color,
    draw,
    name_spots,
    plain,
)
from genzoo_reports.groups import Model
from genzoo_reports.tables import Table
from genzoo_reports.wording import digits, title

BEYOND = 4.0
"""A control this many times worse than the worst contender is named beside the figure instead."""


def quality_planes(table: Table) -> list[Drawing]:
    """Quality against sampling speed and, where that differs, against training time."""
    drawings = []
    for quality in ("fd", "two_sample_1nn"):
        for cost in ("samples_per_second", "training_seconds"):
            same = cost == "training_seconds" and equal_cost(table.contenders)
            if _known(table, quality) and _known(table, cost) and not same:
                drawings.append(_against_cost(table, quality, cost))
    return drawings


def _known(table: Table, name: str) -> list[Model]:
    return [model for model in table.contenders if model.value(name) is not None]


@dataclass(frozen=True)
class _Point:
    """A model in a plane; `half` of the interval of y over seeds, of x likewise."""

    model: Model
    x: float
    y: float
    half: float | None = None
    half_x: float | None = None


def _points(models: Sequence[Model], across: str, up: str) -> list[_Point]:
    """The models that have both metrics; distances from ½ for 1-NN accuracy."""
    found = []
    for model in models:
        x, y = model.value(across), model.value(up)
        if x is not None and y is not None:
            halves = model.metrics[up].half_width, model.metrics[across].half_width
            found.append(_Point(model, x, height(up, y), *halves))
    return found


def height(name: str, value: float) -> float:
    """The value of a quality as it is drawn: low is good."""
    return abs(value - 0.5) if name == "two_sample_1nn" else value


def quality_title(name: str) -> str:
    """Name of what `height` gives."""
    return "|1-NN accuracy − ½|" if name == "two_sample_1nn" else title(name)


def _against_cost(table: Table, quality: str, cost: str) -> Drawing:
    fast = cost == "samples_per_second"
    across = "samples per second (log scale)" if fast else "seconds of training"
    points = [p for p in _points(table.models, cost, quality) if p.x > 0]
    bound = BEYOND * max([*(p.y for p in points if not p.model.control), 1e-9])
    beyond = [p for p in points if p.model.control and p.y > bound]
    points = [p for p in points if p not in beyond]
    named, real = quality_title(quality), table.floors.get(quality)
    floor = None if real is None else height(quality, real)
    front = _front([p for p in points if not p.model.control and not p.model.copies], fast)

    def paint(axes: Axes) -> None:
        axes.set_xlabel(across)
        axes.set_ylabel(f"{named}, lower is better")
        if fast:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
        if floor is not None:
            axes.axhline(floor, color=SOFT, linewidth=1, dashes=(4, 3))
        if len(front) > 1:
            stairs = "steps-pre" if fast else "steps-post"
            at = [p.x for p in front], [p.y for p in front]
            axes.plot(*at, color=SOFT, linewidth=1, alpha=0.6, drawstyle=stairs, zorder=1)
        for point in points:
            _mark(axes, point)
        _frame(axes, points, fast, floor)
        name_spots(axes, [Spot(p.x, p.y, p.model.label, p.model.slot) for p in points])

    caption = "Good is low and to the right." if fast else "Good is low and to the left."
    if len(front) > 1:
        best = ", ".join(p.model.label for p in front)
        caption += f" Line: the front of {best}; nobody is both better and faster than these."
    if floor is not None:
        caption += f" Dashed: real data against real data, {digits(floor)}."
    if beyond:
        away = ", ".join(f"{p.model.label} ({digits(p.y)})" for p in beyond)
        caption += f" Off the chart: {away}."
    listed = "; ".join(f"{p.model.label}: {named} {digits(p.y)} at {digits(p.x)}" for p in points)
    alt = f"Scatter plot of {named} against {across}. {listed}."
    heading = f"{named} and {'sampling speed' if fast else 'training time'}"
    numbers = _numbers([*points, *beyond], across.partition(" (")[0], named)
    art = draw(f"{quality}-{cost}", alt, paint, (5.2, 3.5))
    return Drawing(art, caption, numbers, heading)


def _front(points: Sequence[_Point], fast: bool) -> list[_Point]:
    """Those that no other beats in both, from left to right (Pareto)."""
    toward = -1 if fast else 1  # more samples a second are good, more seconds of training are not
    ordered = sorted(points, key=lambda p: (toward * p.x, p.y))
    front: list[_Point] = []
    for point in ordered:
        if not front or point.y < front[-1].y:
            front.append(point)
    return front[::-1] if fast else front


def _mark(axes: Axes, point: _Point) -> None:
    model, tint = point.model, color(point.model.slot)
    if not model.control:
        axes.errorbar(
            point.x,
            point.y,
            yerr=point.half or None,
            xerr=point.half_x or None,
            color=tint,
            linewidth=1.6,
            alpha=0.55,
        )
    marker = "." if model.control else MARKERS[model.slot % len(MARKERS)]
    axes.plot(point.x, point.y, marker=marker, markersize=9, color=tint, linestyle="")


def _frame(axes: Axes, points: Sequence[_Point], logarithmic: bool, floor: float | None) -> None:
    """Room for labels on both sides, and zero in view."""
    xs = np.array([p.x for p in points])
    if len(xs) and logarithmic:
        low, high = np.log10(xs.min()), np.log10(xs.max())
        pad = max(0.35, 0.22 * (high - low))
        axes.set_xlim(10 ** (low - pad / 2), 10 ** (high + 1.4 * pad))
    elif len(xs):
        pad = max(0.25 * (xs.max() - xs.min()), 0.1 * xs.max(), 1e-9)
        axes.set_xlim(max(0.0, xs.min() - pad), xs.max() + 1.6 * pad)
    tops = [p.y + (0.0 if p.model.control else p.half or 0.0) for p in points]
    top = max([*tops, floor or 0.0, 1e-9])
    bottom = min([0.0, *(p.y for p in points)])
    axes.set_ylim(bottom - 0.04 * (top - bottom), top + 0.1 * (top - bottom))


def _numbers(points: Sequence[_Point], across: str, up: str) -> Numbers:
    rows = tuple(
        (p.model.label, digits(p.x), digits(p.y), f"± {digits(p.half)}" if p.half else "–")
        for p in points
    )
    return Numbers(("model", across, up, "95 % interval over seeds"), rows)


def precision_recall_plane(table: Table) -> list[Drawing]:
    """Precision against recall, with real data; empty where they were not evaluated."""
    points = _points(table.models, "recall", "precision")
    if not any(not p.model.control for p in points):
        return []
    floors = [table.floors[name] for name in ("recall", "precision") if name in table.floors]
    real = (floors[0], floors[1]) if len(floors) == 2 else None

    def paint(axes: Axes) -> None:
        axes.set_xlabel("recall: share of the data that is covered")
        axes.set_ylabel("precision: share that looks real")
        for point in points:
            _mark(axes, point)
        spots = [Spot(p.x, p.y, p.model.label, p.model.slot) for p in points]
        if real is not None:
            axes.plot(*real, marker="*", markersize=11, color=SOFT, linestyle="")
            spots.append(Spot(*real, "real data", -1))
        axes.set_xlim(-0.05, 1.3)
        axes.set_ylim(-0.05, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        name_spots(axes, spots)

    listed = "; ".join(
        f"{p.model.label}: precision {digits(p.y)}, recall {digits(p.x)}" for p in points
    )
    caption = "Good is high and to the right. High and left: good samples, but few kinds of them."
    rows = [(p.model.label, digits(p.x), digits(p.y)) for p in points]
    if real is not None:
        rows.append(("real data", digits(real[0]), digits(real[1])))
    numbers = Numbers(("model", "recall", "precision"), tuple(rows))
    art = draw("precision-recall", f"Precision against recall. {listed}.", paint, (5.2, 3.5))
    return [Drawing(art, caption, numbers, "Precision and recall")]
