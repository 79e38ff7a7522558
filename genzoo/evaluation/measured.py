"""What a metric answers, and how it says that it has no answer. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple

from genzoo.evaluation.statistics import Interval


class Measured(NamedTuple):
    """A number and what is known about it.

    Attributes:
        value: the estimate.
        interval: of 95 % over fresh samples *and* fresh held-out items, for the metric's
            expectation at this N; ``None`` where no honest one is known.
        sampling_error: standard error from the samples being finitely many.
        reference_error: standard error from the held-out items being finitely many.
        n: how many samples entered, where that is not the N of the comparison.
        convention: estimator, k, strictness, space and kind of interval in words.
        floor: what real data score in the samples' place, where theory tells it exactly.
        caution: why the number deserves doubt (too few items, a singular covariance).
    """

    value: float
    interval: Interval | None = None
    sampling_error: float | None = None
    reference_error: float | None = None
    n: int | None = None
    convention: str = ""
    floor: float | None = None
    caution: str | None = None


class Refused(Exception):
    """A metric that cannot be had from these samples; the message says why."""


class NotApplicable(Exception):
    """A metric that this kind of data does not have at all."""
