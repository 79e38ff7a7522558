"""Figures: inline SVG that follows the page's colours, or SVG and PNG files that stand alone.

Everything is drawn with matplotlib's objects (no pyplot, no global state), in the colours of
the page's light palette. Inside the page those become CSS variables, so one drawing serves
light, dark and print.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator, NullLocator

from genzoo_reports.claims import equal_cost
from genzoo_reports.collect import history
from genzoo_reports.groups import Model
from genzoo_reports.tables import Table
from genzoo_reports.wording import compact, digits, title

SERIES = 8
"""Colours and markers in the page's palette; more models reuse them, still labelled by name."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "⬟")
PALETTE = {
    "ink": "#1c1b19",
    "soft": "#5f5c56",
    "line": "#dedad2",
    "s0": "#b3412e",
    "s1": "#2b62b8",
    "s2": "#1d7a57",
    "s3": "#8a4fa8",
    "s4": "#946200",
    "s5": "#0f7489",
    "s6": "#a8326f",
    "s7": "#55606e",
}
"""The page's light colours, under the names of its CSS variables."""
_INK, _SOFT, _FAINT = PALETTE["ink"], PALETTE["soft"], PALETTE["line"]
FILE_DPI = 200
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _SOFT,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": _INK,
    # Labels come from run folders: a dollar sign in one is no formula.
    "text.parse_math": False,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Art:
    """One pair of axes, painted anew for each form that is asked for.

    Attributes:
        identity: unique in the report; prefixes all ids inside the page and names the files.
        alt: what a reader who cannot see the figure should learn, numbers included.
        paint: draws into the axes; may be called any number of times, also much later, so it
            must not read variables that change.
        size: in inches.
    """

    identity: str
    alt: str
    paint: Callable[[Axes], None]
    size: tuple[float, float]

    @cached_property
    def svg(self) -> str:
        """Safe markup for inside the page, in its colours."""
        return _inline(self._saved("svg", fonttype="none").decode(), self.identity, self.alt)

    def standalone(self, form: Literal["svg", "png"], dpi: int = FILE_DPI) -> bytes:
        """The content of a file that needs nothing else: light colours on white.

        Args:
            form: ``svg`` has its text as outlines, so that it looks the same everywhere.
            dpi: of ``png``.
        """
        saved = self._saved(form, fonttype="path", background="white", dpi=dpi)
        return _closed(saved.decode(), self.alt).encode() if form == "svg" else saved

    def _saved(
        self, form: str, fonttype: str, background: str = "none", dpi: int = FILE_DPI
    ) -> bytes:
        # Neither dates nor versions: the same figure is the same bytes.
        nothing: dict[str, Any] = {"Software": None}
        if form == "svg":
            nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        style = {**_STYLE, "svg.hashsalt": self.identity, "svg.fonttype": fonttype}
        with matplotlib.rc_context(style):
            figure = Figure(figsize=self.size, layout="constrained")
            FigureCanvasSVG(figure)
            self.paint(figure.add_subplot())
            for axes in figure.axes:
                _plain_log_ticks(axes)
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=dpi, facecolor=background, metadata=nothing)
        return buffer.getvalue()


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        art: what is drawn.
        caption: a line under it.
        heading: above it; may be empty.
        slot: of the model it belongs to; ``None`` if it shows several.
    """

    art: Art
    caption: str
    heading: str = ""
    slot: int | None = None

    @property
    def svg(self) -> str:
        """Safe markup for inside the page."""
        return self.art.svg


def color(slot: int) -> str:
    """A model's colour; controls are drawn soft."""
    return _SOFT if slot < 0 else PALETTE[f"s{slot % SERIES}"]


def draw(
    identity: str, alt: str, paint: Callable[[Axes], None], size: tuple[float, float] = (4.4, 2.9)
) -> Art:
    """One pair of axes; `Art` says what the arguments are. The size suits a phone."""
    return Art(identity, alt, paint, size)


def _inline(svg: str, identity: str, alt: str) -> str:
    """A standalone SVG file as an element of a page: own ids, page colours, no namespaces."""
    svg = _bare(svg)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{identity}-', svg)
    svg = re.sub(r'href="#', f'href="#{identity}-', svg)
    svg = re.sub(r"url\(#", f"url(#{identity}-", svg)
    # The page's font; matplotlib laid the figure out with a wider one, so nothing is cut.
    svg = re.sub(
        r"font: ((?:bold |\d+ )?)([\d.]+)px [^;\"]*", r"font-weight: \1; font-size: \2px", svg
    )
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg).replace("font-weight: ;", "")
    for name, shade in PALETTE.items():
        svg = svg.replace(shade, f"var(--{name})")
    head, _, body = svg.partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    opening = f'<svg {view.group(0) if view else ""} role="img" aria-label="{html.escape(alt)}"'
    return re.sub(r"\n\s*", "\n", f'{opening} class="figure">{body}').strip()


def _closed(svg: str, alt: str) -> str:
    """A file with its alternative text and without anything that names a place outside."""
    head, _, body = _bare(svg).partition(">")
    named = f'{head} role="img" aria-label="{html.escape(alt)}">'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{named}{body}'


def _bare(svg: str) -> str:
    """The element alone: no document type, no metadata."""
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)


# -- quality against cost -------------------------------------------------------------------


def quality_plots(table: Table) -> list[Drawing]:
    """Quality against sampling speed and, where that differs, against training time."""
    drawings = []
    for quality in ("fd", "two_sample_1nn"):
        for cost in ("samples_per_second", "training_seconds"):
            same = cost == "training_seconds" and equal_cost(table.contenders)
            if _known(table, quality) and _known(table, cost) and not same:
                drawings.append(_quality_plot(table, quality, cost))
    return drawings


def _known(table: Table, name: str) -> list[Model]:
    return [model for model in table.contenders if model.value(name) is not None]


def _quality_plot(table: Table, quality: str, cost: str) -> Drawing:
    off = quality == "two_sample_1nn"
    fast = cost == "samples_per_second"
    label = "samples per second (log scale)" if fast else "seconds of training"

    def height(value: float) -> float:
        return abs(value - 0.5) if off else value

    models = [
        m for m in table.models if m.value(quality) is not None and (m.value(cost) or 0.0) > 0
    ]
    contenders = [height(m.value(quality) or 0.0) for m in models if not m.control]
    # A control far off (noise) would squeeze the contenders into a line: it is named instead.
    bound = 4 * max([*contenders, 1e-9])
    beyond = [m for m in models if m.control and height(m.value(quality) or 0.0) > bound]
    models = [m for m in models if m not in beyond]
    named = "|1-NN accuracy − ½|" if off else title(quality)
    floor = table.floors.get(quality)

    def paint(axes: Axes) -> None:
        axes.set_xlabel(label)
        axes.set_ylabel(f"{named}, lower is better")
        if fast:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        if floor is not None:
            axes.axhline(height(floor), color=_SOFT, linewidth=1, dashes=(4, 3))
        for model in models:
            _point(axes, model, cost, quality, height)
        _frame(axes, models, cost, quality, height, floor)
        _name_points(axes, models, cost, quality, height)

    listed = "; ".join(
        f"{m.label}: {named} {digits(height(m.value(quality) or 0.0))} at "
        f"{digits(m.value(cost) or 0.0)}"
        for m in models
    )
    caption = "Good is low and to the right." if fast else "Good is low and to the left."
    if floor is not None:
        caption += f" Dashed: real data against real data, {digits(height(floor))}."
    if beyond:
        away = ", ".join(f"{m.label} ({digits(height(m.value(quality) or 0.0))})" for m in beyond)
        caption += f" Off the chart: {away}."
    alt = f"Scatter plot of {named} against {label}. {listed}."
    heading = f"{named} and {'sampling speed' if fast else 'training time'}"
    return Drawing(draw(f"{quality}-{cost}", alt, paint, (5.2, 3.5)), caption, heading)


def _plain(value: float, _: Any) -> str:
    return compact(value) if value >= 1 else f"{value:g}"


class _PlainLog(LogFormatter):
    """Labels the ticks that matplotlib would label, but without its formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return _plain(x, pos) if super().__call__(x, pos) else ""


def _plain_log_ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            axis.set_major_formatter(_PlainLog())
        if isinstance(axis.get_minor_formatter(), LogFormatter):
            axis.set_minor_formatter(_PlainLog(labelOnlyBase=False))


def _point(
    axes: Axes, model: Model, cost: str, quality: str, height: Callable[[float], float]
) -> None:
    x, mean = model.value(cost) or 0.0, model.value(quality) or 0.0
    summary = model.metrics[quality]
    half = summary.half_width
    if half is not None and not model.control:
        axes.errorbar(
            x, height(mean), yerr=half, color=color(model.slot), linewidth=1.6, alpha=0.55
        )
    marker = "." if model.control else MARKERS[model.slot % len(MARKERS)]
    axes.plot(x, height(mean), marker=marker, markersize=9, color=color(model.slot), linestyle="")


def _frame(
    axes: Axes,
    models: Sequence[Model],
    cost: str,
    quality: str,
    height: Callable[[float], float],
    floor: float | None,
) -> None:
    """Room for labels on both sides, and zero in view."""
    xs = np.array([model.value(cost) or 1.0 for model in models])
    if len(xs) and cost == "samples_per_second":
        low, high = np.log10(xs.min()), np.log10(xs.max())
        pad = max(0.35, 0.22 * (high - low))
        axes.set_xlim(10 ** (low - pad / 2), 10 ** (high + 1.4 * pad))
    elif len(xs):
        pad = max(0.25 * (xs.max() - xs.min()), 0.1 * xs.max(), 1e-9)
        axes.set_xlim(max(0.0, xs.min() - pad), xs.max() + 1.6 * pad)
    tops = [
        height(m.value(quality) or 0.0) + (m.metrics[quality].half_width or 0.0)
        for m in models
        if not m.control
    ]
    tops += [height(m.value(quality) or 0.0) for m in models]
    top = max([*tops, height(floor) if floor is not None else 0.0, 1e-9])
    bottom = min([0.0, *(height(m.value(quality) or 0.0) for m in models)])
    axes.set_ylim(bottom - 0.04 * (top - bottom), top + 0.1 * (top - bottom))


def _name_points(
    axes: Axes,
    models: Sequence[Model],
    cost: str,
    quality: str,
    height: Callable[[float], float],
) -> None:
    """Names beside the points, moved apart vertically where they would overlap."""
    figure = axes.get_figure()
    assert figure is not None
    figure.draw_without_rendering()  # type: ignore[union-attr]
    line = 13.0
    placed: list[tuple[float, float, float]] = []  # (y, x, width) of labels
    spots = []
    for model in models:
        x, y = axes.transData.transform(
            (model.value(cost) or 0.0, height(model.value(quality) or 0.0))
        )
        spots.append((float(y), float(x), model))
    for y, x, model in sorted(spots, key=lambda spot: spot[:2]):
        width = 6.8 * len(model.label) + 12
        at = y
        while any(abs(at - oy) < line and x < ox + ow and ox < x + width for oy, ox, ow in placed):
            at += 2.0
        placed.append((at, x, width))
        axes.annotate(
            model.label,
            (model.value(cost) or 0.0, height(model.value(quality) or 0.0)),
            xytext=(9, at - y),
            textcoords="offset points",
            va="center",
            color=color(model.slot),
            fontsize=9.5 if model.control else 11,
            fontweight="normal" if model.control else "bold",
        )


# -- training curves ------------------------------------------------------------------------


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
        (name, parts[name][0], parts[name][1])
        for name in names
        for _, parts in curves
        if name in parts
    ]

    def paint(axes: Axes) -> None:
        for name, seconds, values in lines:
            tint, which = color(model.slot), names.index(name)
            if which == 0:
                axes.plot(seconds, values, color=tint, linewidth=0.8, alpha=0.25)
            smooth = _smooth(values)
            axes.plot(seconds, smooth, color=tint, linewidth=1.5, linestyle=_STROKES[which][1])
        axes.set_xlabel("seconds of training")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(*_robust_limits([values for _, _, values in lines]))
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
    return Drawing(draw(identity, alt, paint), caption, heading, model.slot)


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


# -- points ---------------------------------------------------------------------------------


def scatter(identity: str, model: Model, points: np.ndarray, limits: np.ndarray) -> Drawing:
    """Samples of two-dimensional data, (N, 2), in the same frame for all models.

    Args:
        identity: unique in the page.
        model: whose samples.
        points: (N, 2).
        limits: ((x low, x high), (y low, y high)).
    """
    shown = points[:1000]
    inside = ((shown >= limits[:, 0]) & (shown <= limits[:, 1])).all(axis=1)

    def paint(axes: Axes) -> None:
        axes.set_aspect("equal")
        x, y = shown[inside].round(4).T
        axes.plot(
            x,
            y,
            linestyle="",
            marker="o",
            markersize=2.2,
            markeredgewidth=0,
            alpha=0.6,
            color=color(model.slot),
            rasterized=False,
        )
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    away = int((~inside).sum())
    caption = f"{len(shown):,} samples" + (f", {away:,} outside the frame." if away else ".")
    mean, spread = shown.mean(axis=0), shown.std(axis=0)
    alt = (
        f"{len(shown)} points drawn by {model.label}: mean ({mean[0]:.2f}, {mean[1]:.2f}), "
        f"standard deviation ({spread[0]:.2f}, {spread[1]:.2f}); {away} outside the frame."
    )
    return Drawing(draw(identity, alt, paint, (3.4, 3.4)), caption, model.label, model.slot)


def frame(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """A square frame, (2, 2), around nearly all points of several models."""
    lows = np.median([np.percentile(c, 0.5, axis=0) for c in clouds], axis=0)
    highs = np.median([np.percentile(c, 99.5, axis=0) for c in clouds], axis=0)
    centre, half = (lows + highs) / 2, 0.6 * float(np.max(highs - lows)) or 1.0
    return np.stack([centre - half, centre + half], axis=1)
