"""Films: how a model came to its samples, in training and in sampling, and what its codes hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genzoo_reports.counts import frame
from genzoo_reports.figures import color
from genzoo_reports.groups import Model
from genzoo_reports.pictures import CELL, Picture, dots, encode
from genzoo_reports.records import Strip, strip
from genzoo_reports.tables import Table
from genzoo_reports.wording import compact, digits

MAX_CELLS = 200
"""Cells of one picture: more would be too small to see."""
MAX_FRAMES = 12
ALL_BYTES = 1_500_000
"""Of all of them together before base64."""
NAMES = ("training", "trajectory", "interpolation", "reconstruction")


@dataclass(frozen=True)
class Frame:
    """A moment of a training.

    Attributes:
        picture: samples of that moment.
        share: of the budget, in (0, 1].
    """

    picture: Picture
    share: float


@dataclass(frozen=True)
class Film:
    """Samples along a training, first to last, of the same noise and labels."""

    model: Model
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Films:
    """Everything that moves, or that would if it were not on a page.

    Attributes:
        training: a film a model.
        shares: positions of the slider, rising to 1.
        trajectories: noise to the left, samples to the right.
        interpolations: from one code to another.
        reconstructions: held-out items above what came back.
    """

    training: tuple[Film, ...]
    shares: tuple[float, ...]
    trajectories: tuple[Picture, ...]
    interpolations: tuple[Picture, ...]
    reconstructions: tuple[Picture, ...]


def films(table: Table) -> Films:
    """Of the first whole run of each contender that has them."""
    maker = _Maker(table)
    training = tuple(
        Film(model, maker.frames(model, found))
        for model, found in maker.of("training")
        if len(found.told) == len(found.items)
    )
    longest = max((film.frames for film in training), key=len, default=())
    return Films(
        training=tuple(film for film in training if film.frames),
        shares=tuple(moment.share for moment in longest),
        trajectories=tuple(
            maker.rows(model, found, "from noise to sample, noise first")
            for model, found in maker.of("trajectory")
        ),
        interpolations=tuple(
            maker.rows(model, found, "from one latent code to another")
            for model, found in maker.of("interpolation")
        ),
        reconstructions=tuple(
            maker.reconstruction(model, found) for model, found in maker.of("reconstruction")
        ),
    )


class _Maker:
    """Makes the pictures of a table; all clouds are in one frame, all pictures fit the page."""

    def __init__(self, table: Table) -> None:
        found = {name: _strips(table, name) for name in NAMES}
        self._found = found
        clouds = [s.items[-1] for _, s in found["training"] if s.items.ndim == 3]
        clouds += [s.items[:, -1] for _, s in found["trajectory"] if s.items.ndim == 3]
        self._frame = frame(clouds) if clouds else None
        count = sum(
            len(s.told) if name == "training" else 1 for name in NAMES for _, s in found[name]
        )
        self._limit = ALL_BYTES // max(count, 1)

    def of(self, name: str) -> Sequence[tuple[Model, Strip]]:
        """The contenders that have a strip of this name."""
        return self._found[name]

    def frames(self, model: Model, found: Strip) -> tuple[Frame, ...]:
        """A picture a moment of training."""
        frames = []
        for items, told in list(zip(found.items, found.told, strict=True))[-MAX_FRAMES:]:
            share = told.get("progress")
            if share is None or not 0 < share <= 1:
                continue
            images = self._pixels(model, items if items.ndim == 4 else items[None])
            columns = 10 if len(images) > 1 else 1
            what = "samples" if items.ndim == 4 else "points"
            alt = f"{len(items)} {what} of {model.label} after {share:.0%} of its training"
            picture = self._picture(model, images, columns, alt, _moment(share, told))
            frames.append(Frame(picture, float(share)))
        return tuple(frames)

    def rows(self, model: Model, found: Strip, what: str) -> Picture:
        """Rows of images, or one row of clouds."""
        items = found.items
        if items.dtype == np.uint8:
            rows, columns = items.shape[:2]
            rows = max(1, min(rows, MAX_CELLS // columns))
            images = items[:rows].reshape(-1, *items.shape[2:])
            alt = f"{rows} rows of {columns} images of {model.label}, {what}"
        else:
            columns = items.shape[1]
            images = self._pixels(model, items.swapaxes(0, 1))
            alt = f"{columns} clouds of {len(items)} points of {model.label}, {what}"
        return self._picture(model, images, columns, alt)

    def reconstruction(self, model: Model, found: Strip) -> Picture:
        """Items in the upper row, what came back in the lower one."""
        items = found.items[:MAX_CELLS].swapaxes(0, 1)
        flat = self._pixels(model, items.reshape(-1, *items.shape[2:]))
        error = np.abs(items[0].astype(float) - items[-1].astype(float)).mean() / 255
        caption = f"Mean absolute difference {error:.1%} of the range."
        count = items.shape[1]
        alt = f"{count} held-out items above their reconstructions by {model.label}; {caption}"
        return self._picture(model, flat, count, alt, caption)

    def _pixels(self, model: Model, items: np.ndarray) -> np.ndarray:
        """(N, H, W, C) images as they are; clouds (K, N, 2) as (K, H, W, 4)."""
        if items.dtype == np.uint8:
            return items
        assert self._frame is not None
        shade = color(model.slot)
        return np.stack([dots(points, self._frame, shade) for points in items])

    def _picture(
        self, model: Model, images: np.ndarray, columns: int, alt: str, caption: str = ""
    ) -> Picture:
        order, data = np.arange(len(images)), b""
        while True:
            data, size = encode(images, order, columns, CELL)
            if len(data) <= self._limit or min(images.shape[1:3]) < 16:
                return Picture(model, data, alt, *size, caption)
            images = images[:, ::2, ::2]


def _strips(table: Table, name: str) -> list[tuple[Model, Strip]]:
    """Strips of images, or of points of the plane."""
    found = []
    for model in table.contenders:
        known = next((s for run in model.whole if (s := strip(run, name))), None)
        if known is not None and (known.items.ndim == 5 or known.items.shape[2:] == (2,)):
            found.append((model, known))
    return found


def _moment(share: float, told: Mapping[str, float]) -> str:
    parts = [f"{share:.0%} of the budget"]
    if told.get("seconds") is not None:
        parts.append(f"{digits(told['seconds'])} s")
    if told.get("images"):
        parts.append(f"{compact(told['images'])} items")
    return ", ".join(parts)
