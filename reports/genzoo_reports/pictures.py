"""Pixels of the page: grids of images and clouds of points as PNG inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from genzoo_reports.groups import Model

CELL = 40
"""Pixels that an image is enlarged to at least; small ones are shown in whole multiples."""
GAP = 2


@dataclass(frozen=True)
class Picture:
    """A PNG of the page.

    Attributes:
        model: whose.
        png: content of the file.
        alt: what is on it.
        width: in its own pixels.
        height: in its own pixels.
        caption: a line under it; may be empty.
    """

    model: Model
    png: bytes
    alt: str
    width: int
    height: int
    caption: str = ""

    @property
    def uri(self) -> str:
        """``data:image/png;base64,…``."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def encode(
    images: np.ndarray, order: np.ndarray, columns: int, cell: int
) -> tuple[bytes, tuple[int, int]]:
    """A PNG with see-through gaps, so that it sits on light and dark pages alike.

    Args:
        images: (N, H, W, C) uint8; two or four channels have opacity as the last.
        order: indices into `images`, row by row; -1 leaves a cell empty.
        columns: of the grid.
        cell: pixels that the longer side of an image is enlarged to at least.

    Returns:
        The file's content, and (width, height).
    """
    _, height, width, channels = images.shape
    factor = max(1, -(-cell // max(height, width)))
    h, w = height * factor + GAP, width * factor + GAP
    rows = -(-len(order) // columns)
    opaque = channels in (1, 3)
    canvas = np.zeros((rows * h - GAP, columns * w - GAP, channels + opaque), np.uint8)
    for position, index in enumerate(order):
        if index < 0:
            continue
        y, x = (position // columns) * h, (position % columns) * w
        large = images[index].repeat(factor, axis=0).repeat(factor, axis=1)
        canvas[y : y + h - GAP, x : x + w - GAP, :channels] = large
        if opaque:
            canvas[y : y + h - GAP, x : x + w - GAP, channels] = 255
    buffer = io.BytesIO()
    picture = Image.fromarray(canvas)
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), picture.size


def dots(points: np.ndarray, limits: np.ndarray, shade: str, side: int = 132) -> np.ndarray:
    """Points of the plane as a picture, see-through where there are none.

    Args:
        points: (N, 2).
        limits: ((x low, x high), (y low, y high)).
        shade: ``#rrggbb``.
        side: of the picture in pixels.

    Returns:
        (side, side, 4) uint8.
    """
    low, high = limits[:, 0], limits[:, 1]
    at = ((points - low) / (high - low) * side).astype(np.float64)
    inside = np.isfinite(at).all(axis=1) & (at >= 1).all(axis=1) & (at < side - 1).all(axis=1)
    x, y = at[inside].astype(int).T
    ink = np.zeros((side, side))
    for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        np.add.at(ink, (side - 1 - (y + dy), x + dx), 0.5)
    out = np.empty((side, side, 4), np.uint8)
    out[..., :3] = [int(shade[i : i + 2], 16) for i in (1, 3, 5)]
    out[..., 3] = np.round(255 * np.minimum(ink, 1))
    return out
