"""Curves: losses over the training, quality along a knob."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from genzoo.evaluation.statistics import mean_interval
from genzoo_reports.collect import history
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
from genzoo_reports.planes import height, quality_title
from genzoo_reports.records import SweepPoint, sweep
from genzoo_reports.tables import Table
from genzoo_reports.wording import digits, join

# -- losses ---------------------------------------------------------------------------------


def loss_curves(table: Table) -> list[Drawing]:
    """One drawing per contender and phase, so that critic and generator stand apart."""
    drawings: list[Drawing] = []
    for index, model in enumerate(table.contenders):
        curves = [(run.seed, history(run)) for run in model.runs]
        phases: dict[str, set[str]] = {}
        for _, parts in curves:
            for name in parts:
                phase, _, part = name.partition("/")
                phases.setdefault(phase, set()).add(part)
        for phase in sorted(phases):
            drawings.append(_curve(f"loss-{index}-{len(drawings)}", model, phase, curves))
    return drawings


_Curves = Sequence[tuple[int, Mapping[str, tuple[np.ndarray, np.ndarray]]]]
_STROKES: tuple[tuple[str, Any], ...] = (
    ("solid", "solid"),
    ("dashed", (0, (5, 2))),
    ("dotted", (0, (1, 1.6))),
    ("dash-dotted", (0, (7, 2, 1, 2))),
)


def _curve(identity: str, model: Model, phase: str, curves: _Curves) -> Drawing:
    names = sorted({name for _, parts in curves for name in parts if name.split("/")[0] == phase})
    # The total first, then the parts; more than four lines cannot be told apart.
    names.sort(key=lambda name: (name.rpartition("/")[2] not in ("total", "loss"), name))
    names = _distinct(names, curves)[: len(_STROKES)]
    lines = [
        (name, seed, parts[name][0], parts[name][1])
        for name in names
        for seed, parts in curves
        if name in parts
    ]

    def paint(axes: Axes) -> None:
        for name, _, seconds, values in lines:
            tint, which = color(model.slot), names.index(name)
            if which == 0:
                axes.plot(seconds, values, color=tint, linewidth=0.8, alpha=0.25)
            smooth = _smooth(values)
            axes.plot(seconds, smooth, color=tint, linewidth=1.5, linestyle=_STROKES[which][1])
        axes.set_xlabel("seconds of training")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(*_robust_limits([values for *_, values in lines]))
        axes.margins(x=0.02)

    seeds = len([1 for _, parts in curves if any(name in parts for name in names)])
    ends = []
    for name in names:
        last = [parts[name][1][-1] for _, parts in curves if name in parts]
        first = [parts[name][1][0] for _, parts in curves if name in parts]
        part = name.rpartition("/")[2]
        ends.append(f"{part} {digits(_mean(first))} → {digits(_mean(last))}")
    parts = [f"{_STROKES[i][0]} {n.rpartition('/')[2]}" for i, n in enumerate(names)]
    key = ", ".join(parts) if len(names) > 1 else ""
    caption = f"{'; '.join(ends)}. {seeds} {'seed' if seeds == 1 else 'seeds'}."
    caption += f" Lines: {key}." if key else ""
    alt = f"Loss of {model.label}, phase {phase}, over seconds of training: {'; '.join(ends)}."
    heading = model.label if phase in ("main", "") else f"{model.label}: {phase}"
    return Drawing(draw(identity, alt, paint), caption, _passage(lines), heading, model.slot)


def _passage(lines: Sequence[tuple[str, int, np.ndarray, np.ndarray]]) -> Numbers:
    """The smoothed losses at the beginning, the quarters and the end."""
    rows = []
    for name, seed, seconds, values in lines:
        smooth, last = _smooth(values), len(values) - 1
        at = [round(share * last) for share in (0, 0.25, 0.5, 0.75, 1)]
        part = f"{name.rpartition('/')[2]}, seed {seed}"
        rows.append((part, *(digits(float(smooth[i])) for i in at), digits(float(seconds[-1]))))
    return Numbers(("loss", "first", "¼", "½", "¾", "last", "seconds"), tuple(rows))


def _distinct(names: Sequence[str], curves: _Curves) -> list[str]:
    """Without the parts that repeat an earlier one, as a total does that has a single part."""
    kept: list[str] = []
    for name in names:
        if not any(
            all(
                name not in parts or other not in parts or _same(parts[name][1], parts[other][1])
                for _, parts in curves
            )
            for other in kept
        ):
            kept.append(name)
    return kept


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two curves would lie on each other."""
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0.01))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over about a twentieth of the curve, shorter at its ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return math.fsum(found) / len(found)


def _robust_limits(lines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits that the first wild steps of a training do not set."""
    settled = np.concatenate([line[len(line) // 20 :] for line in lines])
    low, high = np.percentile(settled, [0.5, 99.5])
    pad = 0.08 * (high - low) or 0.5 * abs(high) or 1.0
    return float(low - pad), float(high + pad)


# -- sweeps ---------------------------------------------------------------------------------

QUALITIES = ("fd", "two_sample_1nn")
LOG_SPAN = 30.0
"""A quality that spans more than this factor is drawn on a logarithmic scale."""


@dataclass(frozen=True)
class _Line:
    """One model along a knob: positions, means over seeds, and the ends of their intervals."""

    model: Model
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int
    floor: float | None


@dataclass(frozen=True)
class _Knob:
    """How a sweep is drawn: where its points lie, and in which words."""

    over: str
    identity: str
    heading: str
    across: str
    logarithmic: bool
    caption: str

    def place(self, point: SweepPoint) -> float | None:
        """Where a point lies on the horizontal axis."""
        if self.over == "training":
            return point.moment.get(self.identity)
        return point.nfe if self.over == "steps" else point.at


_TRAINING = "Averaged weights taken on the way; each judged on samples of the same noise."
KNOBS = (
    _Knob("training", "images", "along the training", "items seen", True, _TRAINING),
    _Knob("training", "seconds", "and training time", "seconds of training", True, _TRAINING),
    _Knob("training", "flops", "and compute", "FLOPs of training", True, _TRAINING),
    _Knob(
        "steps",
        "steps",
        "and sampling steps",
        "network evaluations a sample",
        True,
        "Fewer evaluations are faster; where a line is flat, more are wasted.",
    ),
    _Knob(
        "guidance",
        "guidance",
        "and guidance",
        "guidance weight (1: none)",
        False,
        "Guidance trades variety for typicality: look at recall beside it.",
    ),
)


def sweep_curves(table: Table, over: str) -> list[Drawing]:
    """Quality along ``training``, ``steps`` or ``guidance``, for the models that were swept."""
    qualities = QUALITIES[:1] if over == "training" else QUALITIES
    if over == "guidance":
        qualities = ("fd", "recall")
    drawings = []
    for knob in (knob for knob in KNOBS if knob.over == over):
        for quality in qualities:
            lines, left_out = _lines(table, knob, quality)
            if lines:
                drawings.append(_swept(knob, quality, lines, left_out))
    return drawings


def _lines(table: Table, knob: _Knob, quality: str) -> tuple[list[_Line], list[str]]:
    """Lines of comparable points, and the models that were judged in another way."""
    lines, left_out, first = [], [], None
    for model in table.contenders:
        swept = [(run.seed, points) for run in model.whole if (points := sweep(run, knob.over))]
        ways = {
            (metric.n, str((metric.features or {}).get("hash")))
            for _, points in swept
            for point in points
            if (metric := point.metrics.get(quality)) and metric.value is not None
        }
        if not ways:
            continue
        first = first or min(ways, key=str)
        if ways != {first}:
            left_out.append(model.label)
        elif (line := _line(model, knob, quality, [points for _, points in swept])) is not None:
            lines.append(line)
    return lines, left_out


def _line(
    model: Model, knob: _Knob, quality: str, swept: Sequence[Sequence[SweepPoint]]
) -> _Line | None:
    """The mean over seeds at each position; of seeds that stopped elsewhere, the first alone.

    Seeds of a budget in seconds pass a mark at different steps: what they share is the mark's
    number, so their places are averaged, too.
    """
    if len({len(points) for points in swept}) > 1:
        swept = swept[:1]
    means: list[tuple[float, ...]] = []
    floor = None
    for several in zip(*swept, strict=True):
        places = [place for point in several if (place := knob.place(point)) is not None]
        metrics = [point.metrics[quality] for point in several if quality in point.metrics]
        values = [height(quality, m.value) for m in metrics if m.value is not None]
        if len(places) < len(several) or len(values) < len(several):
            continue
        mean, low, high = mean_interval(values)
        ends = (mean if end is None else end for end in (low, high))
        means.append((_mean(places), mean, *ends))
        known = metrics[0].floor
        floor = None if known is None else height(quality, known)
    if len(means) < 2:
        return None
    x, y, lows, highs = zip(*sorted(means), strict=True)
    return _Line(model, x, y, lows, highs, len(swept), floor)


def _swept(knob: _Knob, quality: str, lines: Sequence[_Line], left_out: Sequence[str]) -> Drawing:
    named = quality_title(quality)
    good = "higher" if quality == "recall" else "lower"
    values = [value for line in lines for value in line.y]
    steep = min(values) > 0 and max(values) > LOG_SPAN * min(values)
    logarithmic = knob.logarithmic and all(line.x[0] > 0 for line in lines)
    floors = [line.floor for line in lines if line.floor is not None]
    floor = floors[0] if floors else None

    def paint(axes: Axes) -> None:
        axes.set_xlabel(knob.across + (" (log scale)" if logarithmic else ""))
        axes.set_ylabel(f"{named}, {good} is better")
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
        if steep:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(plain))
        if floor is not None and (floor > 0 or not steep):
            axes.axhline(floor, color=SOFT, linewidth=1, dashes=(4, 3))
        for line in lines:
            tint, marker = color(line.model.slot), MARKERS[line.model.slot % len(MARKERS)]
            axes.plot(line.x, line.y, color=tint, marker=marker, markersize=5, linewidth=1.6)
            if line.seeds > 1:
                low = np.maximum(line.low, 1e-12) if steep else line.low
                axes.fill_between(line.x, low, line.high, color=tint, alpha=0.13, linewidth=0)
        _room(axes, lines, logarithmic)
        ends = [Spot(line.x[-1], line.y[-1], line.model.label, line.model.slot) for line in lines]
        name_spots(axes, ends)

    listed = "; ".join(
        f"{line.model.label} from {digits(line.y[0])} at {plain(line.x[0])} to "
        f"{digits(line.y[-1])} at {plain(line.x[-1])}"
        for line in lines
    )
    caption = knob.caption
    if floor is not None:
        caption += f" Dashed: real data against real data, {digits(floor)}."
    if max(line.seeds for line in lines) > 1:
        caption += " Bands: 95 % intervals over seeds."
    if left_out:
        caption += f" Left out, judged by another N or in other features: {join(left_out)}."
    rows = tuple(
        (
            line.model.label,
            plain(x),
            digits(y),
            f"{digits(low)} to {digits(high)}" if line.seeds > 1 else "–",
        )
        for line in lines
        for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True)
    )
    numbers = Numbers(("model", knob.across, named, "95 % interval over seeds"), rows)
    alt = f"Lines of {named} against {knob.across}: {listed}."
    art = draw(f"sweep-{knob.over}-{knob.identity}-{quality}", alt, paint, (5.2, 3.5))
    return Drawing(art, caption, numbers, f"{named} {knob.heading}")


def _room(axes: Axes, lines: Sequence[_Line], logarithmic: bool) -> None:
    """Space at the right for the names at the ends of the lines."""
    low, high = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    if logarithmic:
        axes.set_xlim(low / (high / low) ** 0.04, high * (high / low) ** 0.38)
    else:
        axes.set_xlim(low - 0.04 * (high - low), high + 0.38 * (high - low))
