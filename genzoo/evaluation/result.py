"""What an evaluation says, and how it is written down.

See ``SCHEMA.md`` beside this file for ``scores.json``. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from genzoo.evaluation.catalogue import METRICS
from genzoo.evaluation.statistics import Interval
from genzoo.notebook import frame as frame_of
from genzoo.types import LikelihoodKind

SCHEMA = 1


@dataclass(frozen=True)
class FeatureInfo:
    """In which space distances were measured.

    Attributes:
        name: as in `genzoo.evaluation.extractors`, in full: ``classifier``, ``dinov2-vit-l-14``,
            ``FILE.py:Class``.
        hash: SHA-256 of the extractor's weights, or of the file that they came in.
        accuracy: of the classifier on held-out data; ``None`` where it is no classifier.
        split: what the extractor was fitted on: ``reserved``, ``train``, ``test`` (then it knows
            the held-out items better than samples), or ``none`` where it saw none of the data.
        dim: number of features.
        items: number of items it was fitted on.
        source: where weights came from, or what was done to the images; may be empty.
    """

    name: str
    hash: str
    accuracy: float | None
    split: str
    dim: int = 0
    items: int = 0
    source: str = ""


@dataclass(frozen=True)
class Score:
    """One metric of one set of samples.

    Attributes:
        name: key of `genzoo.evaluation.METRICS`.
        value: ``None`` where refused.
        n: number of samples that entered.
        convention: estimator, k, strictness, space, interval and floor in words.
        interval: of 95 % over fresh samples and fresh held-out items, where an honest one exists.
        floor: what real held-out data score in the samples' place.
        features: the feature space, where one was used.
        likelihood: exact, bound or estimate.
        reason: why it was refused.
        sampling_error: standard error from the samples being finitely many.
        reference_error: standard error from the held-out items being finitely many.
        caution: why the number deserves doubt.
    """

    name: str
    value: float | None
    n: int
    convention: str = ""
    interval: Interval | None = None
    floor: float | None = None
    features: FeatureInfo | None = None
    likelihood: LikelihoodKind | None = None
    reason: str | None = None
    sampling_error: float | None = None
    reference_error: float | None = None
    caution: str | None = None

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.interval is None else self.interval.low

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.interval is None else self.interval.high

    @classmethod
    def refused(cls, name: str, n: int, reason: str) -> Score:
        """A metric that could not be had, and why."""
        return cls(name, None, n, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; numbers that are not finite become a refusal, never a NaN."""
        info = METRICS[self.name]
        if self.value is not None and not math.isfinite(self.value):
            return Score.refused(self.name, self.n, f"the result is {self.value}").to_dict()
        raw: dict[str, Any] = {
            "value": self.value,
            "low": _finite(self.low),
            "high": _finite(self.high),
            "sampling_error": _finite(self.sampling_error),
            "reference_error": _finite(self.reference_error),
            "floor": _finite(self.floor),
            "n": self.n,
            "convention": self.convention,
            "better": info.better,
            "ideal": info.ideal,
            "features": None if self.features is None else asdict(self.features),
            "caution": self.caution,
            "reason": self.reason,
        }
        if info.group == "likelihood":
            raw["likelihood"] = self.likelihood
        return raw


@dataclass(frozen=True)
class ClassHistogram:
    """Shares of the classes among samples and training data."""

    labels: tuple[str, ...]
    samples: tuple[float, ...]
    train: tuple[float, ...]


@dataclass(frozen=True)
class ModeCounts:
    """Samples at each known mode.

    Attributes:
        hits: samples that count for each mode: within 3 σ of it, or classified as it.
        n: all samples.
        expected: of a perfect sampler at each mode.
        centers: of points in data units; ``None`` of stacked digits, whose mode i is the three
            digits of i.
    """

    hits: tuple[int, ...]
    n: int
    expected: float
    centers: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class Nearest:
    """The samples closest to the training data, and their nearest training items."""

    sample_index: tuple[int, ...]
    train_index: tuple[int, ...]


@dataclass(frozen=True)
class Evaluation:
    """All scores of one set of samples.

    Attributes:
        model: model name of a run, or the name of the file or folder.
        data: the reference dataset's name.
        data_fingerprint: its content hash.
        n: samples compared on both sides of the two-sample metrics.
        seed: of the choice of these samples.
        source: ``run``, ``npz``, ``folder`` or ``arrays``.
        metrics: scores by name.
        class_histogram: where a classifier exists.
        mode_counts: where the modes are known.
        nearest: for the memorization panel; ``None`` where nothing was measured.
        controls: what the controls score in the samples' place, by control and metric.
        seconds: wall clock of this evaluation.
    """

    model: str
    data: str
    data_fingerprint: str
    n: int
    seed: int
    source: str
    metrics: Mapping[str, Score]
    class_histogram: ClassHistogram | None = None
    mode_counts: ModeCounts | None = None
    nearest: Nearest | None = None
    controls: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    genzoo: str = field(default_factory=lambda: _version())

    def frame(self) -> Any:
        """A ``pandas.DataFrame``, a row a metric, with the fields of ``scores.json``.

        Raises:
            InputError: pandas is not installed.
        """
        flat = ("value", "low", "high", "floor", "n", "better", "convention", "reason")
        scores = {name: score.to_dict() for name, score in self.metrics.items()}
        return frame_of([{"metric": k, **{f: s[f] for f in flat}} for k, s in scores.items()])

    def _repr_html_(self) -> str:
        from genzoo_reports.notebook import scores_html

        return scores_html(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The content of ``scores.json``."""
        histogram, modes, nearest = self.class_histogram, self.mode_counts, self.nearest
        return {
            "schema": SCHEMA,
            "kind": "scores",
            "model": self.model,
            "data": self.data,
            "data_fingerprint": self.data_fingerprint,
            "n": self.n,
            "seed": self.seed,
            "source": self.source,
            "metrics": {name: score.to_dict() for name, score in self.metrics.items()},
            "class_histogram": None if histogram is None else _lists(asdict(histogram)),
            "mode_counts": None if modes is None else _lists(asdict(modes)),
            "nearest": None if nearest is None else _lists(asdict(nearest)),
            "controls": {name: dict(values) for name, values in self.controls.items()},
            "seconds": self.seconds,
            "genzoo": self.genzoo,
        }


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _lists(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in raw.items()}


def _version() -> str:
    import genzoo

    return genzoo.__version__
