"""How samples are spread: over classes, over known modes, over the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from genzoo_reports.figures import INK, SOFT, Drawing, Numbers, color, draw
from genzoo_reports.groups import Model
from genzoo_reports.records import ClassShares, ModeHits, class_shares, mode_hits
from genzoo_reports.tables import Table
from genzoo_reports.wording import percent

NAMED_CLASSES = 30
"""More classes than this cannot be told apart as bars."""
NAMED_MODES = 36
WELL_COVERED = 0.2
"""Of what a perfect sampler would have at a mode, as the metric of that name has it."""

# -- classes --------------------------------------------------------------------------------


def class_histogram(table: Table) -> list[Drawing]:
    """Share of each class among the samples of every contender, beside the training data's.

    Of each model the first whole run, as the samples that are shown.
    """
    found = [(model, shares) for model in table.contenders if (shares := _shares(model))]
    if not found or len(found[0][1].labels) > NAMED_CLASSES:
        return []
    labels, train = found[0][1].labels, found[0][1].train
    found = [(model, shares) for model, shares in found if shares.labels == labels]

    def paint(axes: Axes) -> None:
        at, width = np.arange(len(labels)), 0.8 / len(found)
        for index, (model, shares) in enumerate(found):
            left = at - 0.4 + (index + 0.5) * width
            tint = color(model.slot)
            axes.bar(left, shares.samples, 0.86 * width, color=tint, label=model.label)
        edges = np.append(at - 0.5, at[-1] + 0.5)
        axes.stairs(train, edges, color=INK, linewidth=1.2, label="training data", baseline=None)
        axes.set_xticks(at, labels, rotation=0 if max(map(len, labels)) < 4 else 40, ha="center")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("share of the samples")
        axes.set_ylim(0, 1.25 * max(*train, *(max(s.samples) for _, s in found)))
        axes.legend(
            ncols=3, loc="upper center", frameon=False, fontsize=9, handlelength=1, labelcolor=INK
        )

    off = {m.label: max(zip(_gaps(s), labels, strict=True)) for m, s in found}
    listed = "; ".join(f"{label}: {name} by {percent(gap)}" for label, (gap, name) in off.items())
    caption = (
        "Which classes a classifier of the evaluation sees among the samples. Farthest from the "
        f"training data, in percentage points: {listed.replace(' %', '')}."
    )
    rows = tuple(
        (name, percent(train[i]), *(percent(shares.samples[i]) for _, shares in found))
        for i, name in enumerate(labels)
    )
    head = ("class", "training data", *(model.label for model, _ in found))
    alt = f"Bars of the share of each class for each model. Largest gaps: {listed}."
    art = draw("classes", alt, paint, (8.0, 3.4))
    return [Drawing(art, caption, Numbers(head, rows), "Classes")]


def _shares(model: Model) -> ClassShares | None:
    return next((shares for run in model.whole if (shares := class_shares(run))), None)


def _gaps(shares: ClassShares) -> list[float]:
    return [abs(a - b) for a, b in zip(shares.samples, shares.train, strict=True)]


# -- modes ----------------------------------------------------------------------------------


def mode_maps(table: Table) -> list[Drawing]:
    """A cell a known mode and contender: how often it is met, beside a perfect sampler."""
    found = [(model, hits) for model in table.contenders if (hits := _hits(model))]
    return [_mode_map(index, model, hits) for index, (model, hits) in enumerate(found)]


def _hits(model: Model) -> ModeHits | None:
    return next((hits for run in model.whole if (hits := mode_hits(run))), None)


def _mode_map(index: int, model: Model, hits: ModeHits) -> Drawing:
    ratio, named = hits.ratio, len(hits.ratio) <= NAMED_MODES
    at = _laid_out(len(ratio)) if hits.centers is None else hits.centers
    lost, thin = ratio == 0, (ratio > 0) & (ratio < WELL_COVERED)

    def paint(axes: Axes) -> None:
        axes.set_aspect("equal")
        axes.axis("off")
        tint, size = color(model.slot), 520 if named else 20_000 / len(ratio)
        marker = "s" if hits.centers is None else "o"
        x, y = at.T
        axes.scatter(x, y, size, color=tint, alpha=np.minimum(1, ratio), marker=marker, lw=0)
        axes.scatter(x, y, size, facecolor="none", edgecolor=SOFT, lw=0.4, marker=marker)
        axes.scatter(x[lost], y[lost], size / 5, color=INK, marker="x", lw=0.8)
        if named:
            for place, value in zip(at, ratio, strict=True):
                axes.annotate(
                    f"{value:.1f}", tuple(place), (0, -15), textcoords="offset points",
                    ha="center", va="top", fontsize=8.5, color=INK,
                )  # fmt: skip
        axes.margins(0.14 if named else 0.02)

    whole = len(ratio) - int(lost.sum()) - int(thin.sum())
    told = f"{whole:,} of {len(ratio):,} modes well covered"
    told += f", {int(thin.sum()):,} thinly" if thin.any() else ""
    told += f", {int(lost.sum()):,} never met (×)" if lost.any() else ""
    lowest, highest = float(ratio.min()), float(ratio.max())
    alt = (
        f"Map of the known modes for {model.label}: {told.replace(' (×)', '')}; hits beside a "
        f"perfect sampler's from {lowest:.2f} to {highest:.2f}."
    )
    caption = f"{told}. Full colour: as often as a perfect sampler, or more."
    art = draw(f"modes-{index}", alt, paint, (3.6, 3.6))
    return Drawing(art, caption, _hit_table(hits), model.label, model.slot)


def _hit_table(hits: ModeHits) -> Numbers:
    """A row a mode, or a row a range of hits where there are many modes."""
    share = "hits beside a perfect sampler's"
    if len(hits.ratio) > NAMED_MODES:
        bins = _bins(hits.ratio)
        ranges = ((f"{low:.1f} to {high:.1f}", f"{count:,}") for low, high, count in bins)
        return Numbers((share, "modes"), tuple(ranges))
    places = np.zeros((len(hits.ratio), 0)) if hits.centers is None else hits.centers
    rows = (
        (str(i), *(f"{c:.3g}" for c in place), f"{value:.2f}")
        for i, (place, value) in enumerate(zip(places, hits.ratio, strict=True))
    )
    return Numbers(("mode", *("x", "y")[: places.shape[1]], share), tuple(rows))


def _laid_out(count: int) -> np.ndarray:
    """Cells row by row, (K, 2), a little wider than high."""
    columns = math.ceil(math.sqrt(count))
    index = np.arange(count)
    return np.stack([index % columns, -(index // columns)], axis=1).astype(float)


def _bins(ratio: np.ndarray) -> list[tuple[float, float, int]]:
    edges = np.array([0, 0.2, 0.5, 0.8, 1.2, 1.5, 2, max(2.1, float(ratio.max()))])
    counts, _ = np.histogram(ratio, edges)
    return [(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]


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
    numbers = Numbers(
        ("axis", "mean", "standard deviation", "smallest", "largest"),
        tuple(
            (f"{axis + 1}", *(f"{value:.3g}" for value in (m, s, column.min(), column.max())))
            for axis, (m, s, column) in enumerate(zip(mean, spread, shown.T, strict=True))
        ),
    )
    art = draw(identity, alt, paint, (3.4, 3.4))
    return Drawing(art, caption, numbers, model.label, model.slot)


def frame(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """A square frame, (2, 2), around nearly all points of several models."""
    lows = np.median([np.percentile(c, 0.5, axis=0) for c in clouds], axis=0)
    highs = np.median([np.percentile(c, 99.5, axis=0) for c in clouds], axis=0)
    centre, half = (lows + highs) / 2, 0.6 * float(np.max(highs - lows)) or 1.0
    return np.stack([centre - half, centre + half], axis=1)
