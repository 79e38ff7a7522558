"""What a run wrote down beside its scores: sweeps, class shares, mode counts, strips of pictures.

Checked like everything that `genzoo_reports.collect` reads: what cannot be used is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genzoo.errors import GenzooError
from genzoo.runs import PICTURES, SWEEPS
from genzoo.samples import read_samples
from genzoo_reports.collect import (
    Metric,
    RunView,
    inside,
    mapping,
    number,
    read_metric,
    read_object,
    text,
    whole,
)

MAX_POINTS, MAX_CLASSES, MAX_MODES, MAX_ROWS = 100, 1_000, 4_096, 1_000
MOMENT = ("step", "images", "seconds", "flops", "progress")


@dataclass(frozen=True)
class SweepPoint:
    """Scores at one position of a knob.

    Attributes:
        at: number of steps, guidance weight, or share of the training.
        nfe: network evaluations a sample; ``None`` where unknown.
        moment: of the training, by `MOMENT`; empty for other knobs.
        metrics: by name.
    """

    at: float
    nfe: int | None
    moment: Mapping[str, float]
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class ClassShares:
    """Share of each class among samples and training items, (K,) each."""

    labels: tuple[str, ...]
    samples: tuple[float, ...]
    train: tuple[float, ...]


@dataclass(frozen=True)
class ModeHits:
    """Samples at each mode over those that a perfect sampler would have there, (K,).

    Attributes:
        ratio: 1 is perfect.
        centers: (K, 2) of points; ``None`` of stacked digits.
    """

    ratio: np.ndarray
    centers: np.ndarray | None


@dataclass(frozen=True)
class Strip:
    """Rows of items.

    Attributes:
        items: (rows, columns, H, W, C) uint8, or (rows, columns, D) float32.
        told: what is known of each row or column; may be empty.
    """

    items: np.ndarray
    told: tuple[Mapping[str, float], ...]


def sweep(view: RunView, over: str) -> list[SweepPoint]:
    """The points of a sweep in rising order; empty where there is none for the run's own data."""
    if view.run is None or not inside(view.run.path / SWEEPS, view.run.path):
        return []
    try:
        raw = read_object(view.run.path / SWEEPS)
    except GenzooError:
        return []
    if text(raw.get("data_fingerprint"), 200) != view.fingerprint:
        return []
    entries = mapping(mapping(raw.get("sweeps")).get(over)).get("points")
    points = [_point(mapping(e)) for e in entries[:MAX_POINTS]] if isinstance(entries, list) else []
    return sorted((p for p in points if p is not None), key=lambda point: point.at)


def _point(entry: Mapping[str, Any]) -> SweepPoint | None:
    moment = _moment(entry.get("value"))
    at = moment.get("progress") if moment else number(entry.get("value"))
    metrics = mapping(entry.get("metrics"))
    if at is None or not metrics:
        return None
    found = {text(name, 80): read_metric(name, value) for name, value in metrics.items()}
    return SweepPoint(at, whole(entry.get("nfe")), moment, found)


def _moment(raw: object) -> dict[str, float]:
    known = {name: number(mapping(raw).get(name)) for name in MOMENT}
    return {name: value for name, value in known.items() if value is not None}


def class_shares(view: RunView) -> ClassShares | None:
    """How the classes are spread, as the evaluation's classifier sees them."""
    raw = mapping(view.scores.get("class_histogram"))
    labels, samples, train = (raw.get(name) for name in ("labels", "samples", "train"))
    shares = [_numbers(values) for values in (samples, train)]
    if not isinstance(labels, list) or not 0 < len(labels) <= MAX_CLASSES:
        return None
    if any(len(values) != len(labels) for values in shares):
        return None
    return ClassShares(tuple(text(label, 40) for label in labels), *map(tuple, shares))


def mode_hits(view: RunView) -> ModeHits | None:
    """How often each known mode is met."""
    raw = mapping(view.scores.get("mode_counts"))
    hits, expected, centers = _numbers(raw.get("hits")), number(raw.get("expected")), None
    if not 0 < len(hits) <= MAX_MODES or not expected or expected <= 0:
        return None
    if isinstance(raw.get("centers"), list):
        found = [_numbers(center) for center in raw["centers"][:MAX_MODES]]
        if len(found) != len(hits) or any(len(center) != 2 for center in found):
            return None
        centers = np.asarray(found)
    return ModeHits(np.asarray(hits) / expected, centers)


def _numbers(raw: object) -> list[float]:
    """A list of finite numbers; empty if one is not."""
    found = [number(value) for value in raw] if isinstance(raw, list) else []
    return [value for value in found if value is not None] if None not in found else []


def strip(view: RunView, name: str) -> Strip | None:
    """A picture of the run: ``training``, ``trajectory``, ``interpolation``, ``reconstruction``."""
    if view.run is None:
        return None
    folder = view.run.path / PICTURES
    index, pixels = folder / "index.json", folder / f"{name}.npz"
    if not (inside(index, view.run.path) and inside(pixels, view.run.path)):
        return None
    try:
        told = mapping(mapping(read_object(index).get("pictures")).get(name))
        found = read_samples(pixels)
    except (GenzooError, ValueError, OSError):
        return None
    rows, columns = whole(told.get("rows")) or 0, whole(told.get("columns")) or 0
    items = found.points if found.images is None else found.images
    if items is None or rows < 1 or rows > MAX_ROWS or rows * columns != len(items):
        return None
    known = _known(told.get("told"))
    return Strip(items.reshape(rows, columns, *items.shape[1:]), known)


def _known(raw: object) -> tuple[Mapping[str, float], ...]:
    entries: Sequence[object] = raw[:MAX_ROWS] if isinstance(raw, list) else []
    return tuple(_moment(entry) for entry in entries)
