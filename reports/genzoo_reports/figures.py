"""Figures: inline SVG that follows the page's colours, or SVG and PNG files that stand alone.

Everything is drawn with matplotlib's objects (no pyplot, no global state), in the colours of
the page's light palette. Inside the page those become CSS variables, so one drawing serves
light, dark and print.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from genzoo_reports.wording import compact

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
INK, SOFT, FAINT = PALETTE["ink"], PALETTE["soft"], PALETTE["line"]
FILE_DPI = 200
LINE = 13.0
"""Points between the lines of labels."""
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK,
    # Labels come from run folders: a dollar sign in one is no formula.
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Art:
    """One pair of axes, painted when the first form is asked for.

    Attributes:
        identity: unique in the report; prefixes all ids inside the page and names the files.
        alt: what a reader who cannot see the figure should learn, numbers included.
        paint: draws into the axes; may be called much later, so it must not read variables
            that change.
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

    @cached_property
    def _figure(self) -> Figure:
        """Painted and laid out once; saving it in another form takes a fraction of that."""
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=self.size, layout="constrained")
            FigureCanvasSVG(figure)
            self.paint(figure.add_subplot())
            for axes in figure.axes:
                _plain_log_ticks(axes)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure

    def _saved(
        self, form: str, fonttype: str, background: str = "none", dpi: int = FILE_DPI
    ) -> bytes:
        # Neither dates nor versions: the same figure is the same bytes.
        nothing: dict[str, Any] = {"Software": None}
        if form == "svg":
            nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        style = {**_STYLE, "svg.hashsalt": self.identity, "svg.fonttype": fonttype}
        with matplotlib.rc_context(style):
            buffer = io.BytesIO()
            self._figure.savefig(
                buffer, format=form, dpi=dpi, facecolor=background, metadata=nothing
            )
        return buffer.getvalue()


@dataclass(frozen=True)
class Numbers:
    """What a figure shows, as a table for those who cannot see it or want to compute with it.

    Attributes:
        head: names of the columns; the first one names the rows.
        rows: as many cells each.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        art: what is drawn.
        caption: a line under it.
        numbers: what is drawn, as a table.
        heading: above it; may be empty.
        slot: of the model it belongs to; ``None`` if it shows several.
    """

    art: Art
    caption: str
    numbers: Numbers
    heading: str = ""
    slot: int | None = None

    @property
    def svg(self) -> str:
        """Safe markup for inside the page."""
        return self.art.svg


def color(slot: int) -> str:
    """A model's colour; controls are drawn soft."""
    return SOFT if slot < 0 else PALETTE[f"s{slot % SERIES}"]


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


def plain(value: float, _: Any = None) -> str:
    """A tick in the words of the page: ``10 k``."""
    return compact(value) if value >= 1 else f"{value:g}"


class _PlainLog(LogFormatter):
    """Labels the ticks that matplotlib would label, but without its formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return plain(x) if super().__call__(x, pos) else ""


def _plain_log_ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            axis.set_major_formatter(_PlainLog())
        if isinstance(axis.get_minor_formatter(), LogFormatter):
            axis.set_minor_formatter(_PlainLog(labelOnlyBase=False))


@dataclass(frozen=True)
class Spot:
    """A named place in a figure.

    Attributes:
        x: in the axes' units, like `y`.
        label: written beside it.
        slot: of the model; -1 is written small and soft.
    """

    x: float
    y: float
    label: str
    slot: int


def name_spots(axes: Axes, spots: Sequence[Spot]) -> None:
    """Names to the right of their spots, moved apart vertically where they would overlap."""
    figure = axes.get_figure()
    assert figure is not None
    figure.draw_without_rendering()  # type: ignore[union-attr]
    placed: list[tuple[float, float, float]] = []  # (y, x, width) of labels
    at = []
    for spot in spots:
        x, y = axes.transData.transform((spot.x, spot.y))
        at.append((float(y), float(x), spot))
    for y, x, spot in sorted(at, key=lambda found: found[:2]):
        width, level = 6.8 * len(spot.label) + 12, y
        while any(
            abs(level - other_y) < LINE and x < other_x + other_width and other_x < x + width
            for other_y, other_x, other_width in placed
        ):
            level += 2.0
        placed.append((level, x, width))
        axes.annotate(
            spot.label,
            (spot.x, spot.y),
            xytext=(9, level - y),
            textcoords="offset points",
            va="center",
            color=color(spot.slot),
            fontsize=9.5 if spot.slot < 0 else 11,
            fontweight="normal" if spot.slot < 0 else "bold",
        )
