"""Intervals and tests, without torch and without resampling with replacement.

Bootstrapping with replacement puts copies among the samples, which every nearest-neighbour
metric and the Fréchet distance mistake for a fault of the model; disjoint blocks do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from genzoo.errors import InputError

LEVEL = 0.95
PERMUTATION_FROM = 6


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A paired comparison: mean of a - b, its interval, and a two-sided p-value."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    test: str


def mean_interval(
    values: Sequence[float], level: float = LEVEL
) -> tuple[float, float | None, float | None]:
    """Mean over seeds with Student's t interval.

    Args:
        values: one value a seed, at least one.
        level: confidence.

    Returns:
        (mean, low, high); low and high are ``None`` for a single seed, which tells nothing
        about the spread.

    Raises:
        InputError: no values.
    """
    if not values:
        raise InputError("no values to average")
    mean = float(np.mean(values))
    half = _half_width(np.asarray(values, dtype=np.float64), level)
    return (mean, None, None) if half is None else (mean, mean - half, mean + half)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Difference:
    """Compare two models over shared seeds.

    Paired t below six seeds: a sign-flip permutation of three pairs can never fall below
    p = 0.25. From six seeds on, the exact permutation test, which assumes no normality.
    The interval is Student's in both cases.

    Args:
        a: values of one model, one a seed.
        b: values of the other, same seeds in the same order.
        level: confidence of the interval.

    Raises:
        InputError: the lengths differ or there are no pairs.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} values cannot be paired with {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    mean, low, high = mean_interval(difference.tolist(), level)
    if low is None:
        return Difference(mean, None, None, None, "one seed: no test")
    if len(difference) < PERMUTATION_FROM:
        return Difference(mean, low, high, _paired_t(difference), "paired t")
    return Difference(mean, low, high, _sign_flip(difference), "paired permutation")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def ranks(distances: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Rank of each model, the same where no difference is shown.

    A model's rank is one more than the number of models that are shown to be better: paired
    tests of all pairs, corrected together (Holm). One seed shows nothing: all are first.

    Args:
        distances: how far from good each model is, one value a shared seed, all in the same
            order of seeds.

    Raises:
        InputError: the models have different numbers of seeds.
    """
    pairs = list(combinations(distances, 2))
    found = [paired_difference(distances[a], distances[b]) for a, b in pairs]
    corrected = holm([1.0 if f.p_value is None else f.p_value for f in found])
    rank = dict.fromkeys(distances, 1)
    for (a, b), difference, p_value in zip(pairs, found, corrected, strict=True):
        if p_value <= 1 - LEVEL + 1e-12:
            rank[b if difference.mean < 0 else a] += 1
    return rank


def wilson(share: float, n: float, level: float = LEVEL, degrees: float = math.inf) -> Interval:
    """Wilson's score interval of a share of n (effective) trials (Wilson 1927).

    With Student's quantile where n itself was estimated with `degrees` of freedom.
    """
    z = float(stats.t.ppf((1 + level) / 2, degrees))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 the interval ends at the share; rounding must not move it past.
    return Interval(min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def around(value: float, standard_error: float, degrees: float, level: float = LEVEL) -> Interval:
    """Student's t interval around a value of known standard error."""
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * standard_error
    return Interval(value - half, value + half)


def block_jackknife(value: float, left_out: Sequence[float]) -> Interval:
    """Interval of a smooth statistic from its values with one disjoint block left out each.

    The blocks' common bias cancels in the differences (Shao and Wu 1989).

    Args:
        value: the statistic of all items.
        left_out: the statistic without block 1, 2, ….
    """
    k = len(left_out)
    spread = float(np.var(left_out)) * k
    return around(value, math.sqrt((k - 1) / k * spread), k - 1)


class Spread(NamedTuple):
    """How a statistic of two sets varies over fresh sets, to second order.

    A squared distance of means |x̄ - ȳ|² is the model, and every distance here is one in some
    space. Its variance is that of a first-order part, an average over items, and of a
    second-order part, a sum over pairs (Hoeffding 1948). An estimate of the first contains the
    second twice, so one `second` comes off; between equal laws, where the first-order part
    vanishes, half of the estimate remains. Less than half is noise of the estimates.

    Attributes:
        samples: variance of the estimated first-order part of the samples.
        reference: the same of the held-out items.
        second: variance of the second-order part.
        bias: what the second-order terms of items with themselves add to the expectation.
        slope: by how much the variance grows where the statistic grows by one.
    """

    samples: float
    reference: float
    second: float = 0.0
    bias: float = 0.0
    slope: float = 0.0

    @property
    def first(self) -> float:
        """Variance of the estimated first-order part."""
        return self.samples + self.reference

    @property
    def variance(self) -> float:
        """Variance of the statistic."""
        return max(self.first - self.second, self.first / 2)

    @property
    def degeneracy(self) -> float:
        """How nearly all variance is of second order, as between equal laws: 0 … 1."""
        return min(1.0, 2 * self.second / self.first) if self.first else 0.0

    @property
    def sampling_error(self) -> float:
        """Standard error from the samples alone."""
        return self._share(self.samples)

    @property
    def reference_error(self) -> float:
        """Standard error from the held-out items alone."""
        return self._share(self.reference)

    def _share(self, part: float) -> float:
        return math.sqrt(self.variance * part / self.first) if self.first else 0.0


def score_interval(
    value: float, variance: float, slopes: tuple[float, float], level: float = LEVEL
) -> Interval:
    """Values E that a statistic of variance V + s (E - value) does not contradict.

    As in Wilson's interval, the variance is that at the hypothesis: where statistics that come
    out small have small estimated variances too, value ± z √V would miss too often above.
    Solves (value - E)² = z² (V + s (E - value)).

    Args:
        value: the statistic.
        variance: its variance V at `value`.
        slopes: growth s of the variance with the expectation, for the lower and the upper end.
        level: confidence.
    """
    z2 = float(stats.norm.ppf((1 + level) / 2)) ** 2
    low, high = (math.sqrt((z2 * s) ** 2 + 4 * z2 * variance) for s in slopes)
    return Interval(value + (z2 * slopes[0] - low) / 2, value + (z2 * slopes[1] + high) / 2)


def distance_interval(
    value: float, spread: Spread, *, offset: float = 0.0, level: float = LEVEL
) -> Interval:
    """Interval for the expectation of a squared distance.

    The first-order variance of a squared distance is proportional to it. Where the items' third
    moments show a steeper growth, which skews the statistic, the upper end allows for it; the
    lower end profits from it as far as the distance is degenerate, where it is known well.

    Args:
        value: the distance, which may have a bias taken off.
        spread: its `Spread`.
        offset: the bias that was taken off.
        level: confidence.
    """
    whole = value + offset
    steep = spread.first / whole if whole > 0 else 0.0
    more = max(0.0, spread.slope - steep)
    slopes = (steep + more * spread.degeneracy, steep + more)
    return score_interval(value, spread.variance, slopes, level)


def _half_width(values: npt.NDArray[np.float64], level: float) -> float | None:
    n = len(values)
    if n < 2:
        return None
    quantile = float(stats.t.ppf((1 + level) / 2, n - 1))
    return quantile * float(values.std(ddof=1)) / math.sqrt(n)


def _paired_t(difference: npt.NDArray[np.float64]) -> float:
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    if error == 0:
        return 1.0 if difference.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference.mean()) / error, len(difference) - 1))


def _sign_flip(difference: npt.NDArray[np.float64]) -> float:
    """Two-sided p-value over sign flips: all of them up to 12 seeds, 20,000 random ones above."""
    n = len(difference)
    if n <= 12:
        signs = np.array(list(product((1, -1), repeat=n)), dtype=np.float64)
    else:
        random = np.random.default_rng(0).integers(0, 2, size=(20_000, n)) * 2.0 - 1
        signs = np.concatenate([np.ones((1, n)), random])
    flipped = np.abs(signs @ difference)
    return float(np.mean(flipped >= abs(difference.sum()) * (1 - 1e-12)))
