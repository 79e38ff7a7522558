"""What the samples look like: grids of the same size and order for every model, as data: URIs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from genzoo.samples import SampleSet
from genzoo_reports.collect import RunView, inside, samples, text
from genzoo_reports.counts import frame, scatter
from genzoo_reports.figures import Drawing
from genzoo_reports.groups import Model
from genzoo_reports.pictures import CELL, Picture, encode
from genzoo_reports.tables import Table

MAX_CLASSES = 10
ALL_BYTES = 3_000_000
"""Of all pictures together before base64, so that the page stays below 8 MB."""
MAX_PANEL_PIXELS = 16_000_000


@dataclass(frozen=True)
class Gallery:
    """All pictures of a report.

    Attributes:
        strips: ten samples of each contender, for the first screen.
        grids: many samples of every model.
        nearest: samples beside their nearest training items.
        clouds: scatter plots where the data are points.
        order: how the grids are laid out, in words.
    """

    strips: tuple[Picture, ...] = ()
    grids: tuple[Picture, ...] = ()
    nearest: tuple[Picture, ...] = ()
    clouds: tuple[Drawing, ...] = ()
    order: str = ""


def gallery(table: Table) -> Gallery:
    """Pictures of the first whole run of each model that has samples."""
    shown: list[tuple[Model, RunView, SampleSet]] = []
    for model in table.models:
        for run in model.whole:
            found = samples(run)
            if found is not None:
                shown.append((model, run, found))
                break
    panels = sum(
        1 for _, run, _ in shown if run.run and inside(run.run.path / _NEAREST, run.run.path)
    )
    limit = ALL_BYTES // max(1, 2 * len(shown) + panels)
    pixels = [(m, s.images, s.labels) for m, _, s in shown if s.images is not None]
    clouds = [(m, s.points) for m, _, s in shown if s.points is not None]
    classes = _shared_classes([labels for _, _, labels in pixels if labels is not None])
    limits = frame([points for _, points in clouds]) if clouds else None
    return Gallery(
        strips=tuple(
            _grid(model, images, labels, classes, limit, strip=True)
            for model, images, labels in pixels
            if not model.control
        ),
        grids=tuple(
            _grid(model, images, labels, classes, limit, strip=False)
            for model, images, labels in pixels
        ),
        nearest=tuple(p for m, run, _ in shown if (p := _nearest(m, run, limit)) is not None),
        clouds=tuple(
            scatter(f"cloud-{index}", model, points, limits)
            for index, (model, points) in enumerate(clouds)
            if limits is not None
        ),
        order=f"One class a row, in the same order: {', '.join(map(str, classes))}."
        if classes
        else "The first samples of each model, in the order drawn.",
    )


def _shared_classes(labels: Sequence[np.ndarray]) -> tuple[int, ...]:
    if not labels:
        return ()
    found = set.intersection(*(set(map(int, np.unique(values))) for values in labels))
    return tuple(sorted(found)[:MAX_CLASSES])


def _grid(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray | None,
    classes: tuple[int, ...],
    limit: int,
    *,
    strip: bool,
) -> Picture:
    """A grid that fits into `limit` bytes, with fewer columns or smaller cells if it must."""
    in_rows = labels is not None and bool(classes)
    data, columns = b"", 8
    size = (1, 1)
    for per_class, cell in ((8, CELL), (6, CELL), (4, CELL), (4, 1), (2, 1), (1, 1)):
        if strip:
            order = _by_class(labels, classes, 1)[:, 0] if in_rows else np.arange(10)
            order, columns = np.concatenate([order, np.full(10, -1)])[:10], 5
        elif in_rows:
            order, columns = _by_class(labels, classes, per_class).reshape(-1), per_class
        else:
            order, columns = np.arange(8 * per_class), 8
        order = np.where(order < len(images), order, -1)
        data, size = encode(images, order, columns, cell)
        if len(data) <= limit:
            break
    count = int((order >= 0).sum())
    rows = f", one class a row ({', '.join(map(str, classes))})" if in_rows and not strip else ""
    channels = "gray" if images.shape[3] == 1 else "colour"
    height, width = images.shape[1:3]
    return Picture(
        model=model,
        png=data,
        alt=f"{count} samples of {model.label}, {width} by {height} pixels, {channels}{rows}",
        width=size[0],
        height=size[1],
    )


def _by_class(labels: np.ndarray | None, classes: tuple[int, ...], count: int) -> np.ndarray:
    """Indices (classes, count) of the first samples of each class; -1 where there are fewer."""
    table = np.full((len(classes), count), -1)
    for row, label in enumerate(classes):
        found = np.flatnonzero(labels == label)[:count]
        table[row, : len(found)] = found
    return table


_NEAREST = "nearest.png"


def _nearest(model: Model, run: RunView, limit: int) -> Picture | None:
    """The panel that the evaluation drew, decoded and encoded anew so that only pixels pass."""
    if run.run is None or not inside(run.run.path / _NEAREST, run.run.path):
        return None
    try:
        with Image.open(run.run.path / _NEAREST, formats=["PNG"]) as opened:
            if opened.width * opened.height > MAX_PANEL_PIXELS:
                return None
            picture: Any = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    while len(buffer.getvalue()) > limit and min(picture.size) > 64:
        picture = picture.resize((picture.width // 2, picture.height // 2))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
    share = model.value("train_nn_share")
    known = "" if share is None else f"; train-NN share {share:.2f}"
    return Picture(
        model=model,
        png=buffer.getvalue(),
        alt=text(f"samples of {model.label} beside their nearest training items{known}"),
        width=picture.width,
        height=picture.height,
    )
