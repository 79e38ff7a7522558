"""Modes with ground truth: Gaussians on a ring or a grid, and stacked digits.

The protocol is PacGAN's (Lin et al. 2018, arXiv:1712.04086, 4.1 and 4.2), with the exact
answers of a perfect sampler beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, special, stats
from torch import Tensor

from genzoo.evaluation.measured import Measured, NotApplicable, Refused
from genzoo.evaluation.result import ModeCounts
from genzoo.evaluation.statistics import LEVEL, Interval, wilson
from genzoo.evaluation.view import View

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

RADIUS_SIGMAS = 3.0
# Share of a 2-D Gaussian within three standard deviations: 1 - exp(-9/2).
HIGH_QUALITY_CEILING = -math.expm1(-(RADIUS_SIGMAS**2) / 2)
# Mean of r² / 2σ² within them: that of an exponential law of mean 1 cut off at 9/2.
_CUT = RADIUS_SIGMAS**2 / 2
MEAN_SQUARE_WITHIN = 1 - _CUT / math.expm1(_CUT)
# A mode is well covered with this share of the samples that are expected of it.
WELL_COVERED = 0.2
# Samples a mode: of the stacked protocol, and below which intervals were measured too narrow.
PROTOCOL_PER_MODE, INTERVAL_PER_MODE = 26, 10
DIGITS, PARTS = 10, 3
POINTS_AT_ONCE = 10_000
Z = float(stats.norm.ppf((1 + LEVEL) / 2))


class ModeHits(NamedTuple):
    """Where samples lie among K modes.

    Attributes:
        good: good samples at each mode, (K,).
        assigned: samples whose nearest mode it is, (K,).
        squares: squared distance of each good sample to its centre over 2σ², (good,).
    """

    good: Counts
    assigned: Counts
    squares: Array

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.assigned.sum())


# -- pure functions -----------------------------------------------------------------------------


def count_modes(points: Tensor, centers: Tensor, sigma: float) -> ModeHits:
    """Assign points to their nearest mode; good ones are within three σ of it.

    Args:
        points: (N, D) in data units.
        centers: (K, D).
        sigma: standard deviation per coordinate of every mode.
    """
    x, c = points.double(), centers.to(points.device).double()
    nearest = [
        torch.cdist(part, c, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for part in x.split(POINTS_AT_ONCE)
    ]
    distance = torch.cat([found.values for found in nearest]).cpu().numpy()
    index = torch.cat([found.indices for found in nearest]).cpu().numpy()
    good = distance <= RADIUS_SIGMAS * sigma
    k = len(c)
    return ModeHits(
        np.bincount(index[good], minlength=k),
        np.bincount(index, minlength=k),
        np.square(distance[good] / sigma) / 2,
    )


def count_stacked(predicted: Tensor) -> Counts:
    """How often each of the 1000 digit triples is among predictions (N, 3): (1000,)."""
    weights = torch.tensor([100, 10, 1], device=predicted.device)
    return np.bincount((predicted * weights).sum(1).cpu().numpy(), minlength=DIGITS**PARTS)


def expected_covered(n: int, k: int, share: float, hits: int = 1) -> float:
    """Expected number of k modes with at least `hits` of n even draws, `share` of them good."""
    return k * float(stats.binom.sf(hits - 1, n, share / k))


def kl_forward(counts: Counts) -> float:
    """KL(samples ‖ uniform) of shares p = counts / N, in nats: Σ p log(p K), 0 log 0 = 0."""
    p = counts / counts.sum()
    return float(special.xlogy(p, p * len(p)).sum())


def kl_reverse(counts: Counts) -> float:
    """KL(uniform ‖ samples) in nats, finite: shares are (count + ½) / (N + K/2)."""
    k = len(counts)
    return float(-np.log(k * (counts + 0.5) / (counts.sum() + k / 2)).mean())


def expected_kl(n: int, k: int) -> tuple[float, float]:
    """Exact expectation of `kl_forward` and `kl_reverse` over n even draws among k modes.

    Every count is binomial; the sums leave out a tail of 1e-12. About (k - 1) / 2n.
    """
    low, high = stats.binom.ppf([1e-12, 1 - 1e-12], n, 1 / k)
    count = np.arange(low, high + 1)
    chance = stats.binom.pmf(count, n, 1 / k)
    forward = k * float((chance * special.xlogy(count / n, count / n * k)).sum())
    logs = np.log(k * (count + 0.5) / (n + k / 2))
    return max(0.0, forward), -float((chance * logs).sum() / chance.sum())


def interval_forward(counts: Counts) -> Interval:
    """95 % interval of the expectation of `kl_forward` at this N; see `_divergence_interval`."""
    n, occupied = int(counts.sum()), counts[counts > 0]
    m, p = len(occupied), occupied / n
    # Modes without samples add a constant; what is random is the KL among the occupied.
    offset = math.log(len(counts) / m)
    excess = max(0.0, kl_forward(counts) - offset)
    logs = np.log(p)
    variance = float((p * logs**2).sum() - (p * logs).sum() ** 2)
    found = _divergence_interval(excess, variance, n, m - 1, _curvature(occupied)[0])
    return Interval(offset + found.low, offset + found.high)


def interval_reverse(counts: Counts) -> Interval:
    """95 % interval of the expectation of `kl_reverse` at this N; see `_divergence_interval`."""
    n, k, occupied = int(counts.sum()), len(counts), counts[counts > 0]
    m = len(occupied)
    q = (occupied + 0.5) / (n + m / 2)
    excess = max(0.0, float(-np.log(m * q).mean()))
    variance = float((1 / q).mean()) / m - 1
    found = _divergence_interval(excess, variance, n, m - 1, _curvature(occupied)[1])
    offset = kl_reverse(counts) - m / k * excess
    return Interval(offset + m / k * found.low, offset + m / k * found.high)


def _curvature(counts: Counts) -> tuple[float, float]:
    """Variance of what is not linear in the counts, over that of chi-squared, of both KL.

    The rates of cells are their counts, shrunk to the mean as far as these scatter no more
    than by chance. In 2n · KL(samples ‖ even) each cell has ½ κ of the variance 2ν at even
    shares; in KL(even ‖ samples) seldom cells have more, by the square of mean rate over rate.

    Args:
        counts: of the occupied cells, (m,).
    """
    mean, scatter = float(counts.mean()), float(counts.var())
    keep = max(0.0, 1 - mean / scatter) if scatter > 0 else 0.0
    rates, number = np.unique(
        np.maximum(np.rint(2 * (mean + keep * (counts - mean))) / 2, 0.5), return_counts=True
    )
    cells = np.array([_cell_curvature(float(rate)) for rate in rates])
    weights = number / number.sum()
    return float(weights @ cells[:, 0]), float(weights @ (cells[:, 1] * (mean / rates) ** 2))


@lru_cache(maxsize=4096)
def _cell_curvature(rate: float) -> tuple[float, float]:
    """Twice the variance of X log X, and of rate · log(X + ½), that is not linear in Poisson X.

    Both tend to 1, as normal counts have it, and are about 1 + ⅓ / rate and 1 + 1.5 / rate.
    """
    if rate > 200:
        return 1.0, 1.0
    low, high = stats.poisson.ppf([1e-12, 1 - 1e-12], rate)
    count = np.arange(low, high + 1)
    chance = stats.poisson.pmf(count, rate)
    chance /= chance.sum()

    def rest(values: Array) -> float:
        centred, x = values - chance @ values, count - chance @ count
        slope = (chance @ (centred * x)) / (chance @ x**2)
        return float(chance @ (centred - slope * x) ** 2)

    return 2 * rest(special.xlogy(count, count)), 2 * rate**2 * rest(np.log(count + 0.5))


def _divergence_interval(
    excess: float, variance: float, n: int, freedom: int, curvature: float
) -> Interval:
    """Interval of the mean of a divergence from even shares.

    2n · divergence is chi-squared for even shares, where the delta method gives nothing, and
    normal for uneven ones, where chi-squared is too narrow. Both are gamma laws of mean ν + λ
    and variance 2νκ + 4cλ, in which c carries the delta method's variance; the interval inverts
    them in λ. More even than chance allows (λ < 0) is the law of λ = 0 scaled down.

    Args:
        excess: the divergence found, among the modes that have samples.
        variance: n times its variance by the delta method.
        n: number of samples.
        freedom: ν, occupied modes less one.
        curvature: κ, see `_curvature`.
    """
    if freedom < 1:
        return Interval(excess, excess)
    found = 2 * n * excess
    c = variance / (2 * excess) if excess > 1e-12 else 1.0

    def chance(extra: float) -> float:
        mean, spread = freedom + extra, 2 * freedom * curvature + 4 * c * extra
        return float(special.gammainc(mean**2 / spread, found * mean / spread))

    tail = (1 - LEVEL) / 2
    ends = []
    for level in (1 - tail, tail):
        if chance(0.0) < level:
            even = float(special.gammaincinv(freedom / (2 * curvature), level)) * 2 * curvature
            ends.append(freedom * found / even)
            continue
        top = found + 10.0
        while chance(top) > level:
            top *= 2
        ends.append(freedom + optimize.brentq(lambda x, at=level: chance(x) - at, 0.0, top))
    return Interval(ends[0] / (2 * n), ends[1] / (2 * n))


def count_errors(counts: Counts, hits: int = 1) -> tuple[float, float]:
    """Standard errors of the number of cells with at least `hits`, downwards and upwards.

    The variance is Σ π (1 - π) over cells with Poisson counts. For one hit that is the expected
    number of new cells in as many further samples, S f₀ / (S + f₀) with S cells seen and Chao's
    f₀ cells missed but possible, from those seen once and twice (Colwell et al. 2012,
    doi:10.1093/jpe/rtr044); f₀ is rounded up. Downwards it is no more than twice what the cells
    seen seldom explain, each with a gamma law of its rate (Jeffreys).
    """
    if hits == 1:
        seen = counts[counts > 0]
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        missed = (once + 1) * (once + 2) / (2 * (twice + 1))
        variance = len(seen) * missed / (len(seen) + missed)
        seldom = float((0.5 ** (seen + 0.5) - 3.0 ** -(seen + 0.5)).sum())
        return math.sqrt(min(variance, 2 * seldom)), math.sqrt(variance)
    reached = stats.poisson.sf(hits - 1, counts)
    error = float(np.sqrt((reached * (1 - reached)).sum()))
    return error, error


def count_interval(counts: Counts, hits: int = 1) -> Interval:
    """Normal interval of the expected number of cells with at least `hits`, within 0 … K."""
    value = float((counts >= hits).sum())
    down, up = count_errors(counts, hits)
    return Interval(max(0.0, value - Z * down), min(float(len(counts)), value + Z * up))


def spread(squares: Array) -> tuple[float, float]:
    """Root mean square distance to the centre over that of a Gaussian cut at 3σ; its error.

    E r² / 2σ² = 1 - a / (e^a - 1), a = 9/2, for r within 3σ. The root of a mean is biased by
    -v / 8m² in relative terms, v the mean's variance and m the mean, which is added back.

    Args:
        squares: (N,), r² / 2σ² of the good samples, N ≥ 2.
    """
    mean, variance = float(squares.mean()), float(squares.var(ddof=1)) / len(squares)
    if mean == 0:
        return 0.0, 0.0
    root = math.sqrt(mean / MEAN_SQUARE_WITHIN)
    return root * (1 + variance / (8 * mean**2)), root * math.sqrt(variance) / (2 * mean)


# -- modes of a view ----------------------------------------------------------------------------


def measure(view: View) -> dict[str, Measured | Refused]:
    """How the modes are covered, by as many samples as there are."""
    if view.dataset.modes is not None:
        return _of_points(view)
    if view.dataset.stacked:
        return _of_stacked(view)
    raise NotApplicable("the modes of these data are not known")


def mode_counts(view: View) -> ModeCounts | None:
    """Samples at each mode, where the modes are known and there are samples enough to say."""
    known, parts = view.dataset.modes, view.pool.found.parts if view.dataset.stacked else None
    if known is not None:
        points, k = view.pool.raw, len(known.centers)
        if len(points) < k or not bool(torch.isfinite(points).all()):
            return None
        hits = count_modes(points, known.centers, known.sigma).good
        share, centers = HIGH_QUALITY_CEILING, tuple(map(tuple, known.centers.tolist()))
        return ModeCounts(tuple(hits.tolist()), len(points), share * len(points) / k, centers)
    if parts is None or len(parts) < DIGITS**PARTS:
        return None
    hits = count_stacked(parts)
    return ModeCounts(tuple(hits.tolist()), len(parts), len(parts) / len(hits), None)


def _of_points(view: View) -> dict[str, Measured | Refused]:
    known = view.dataset.modes
    assert known is not None
    points = view.pool.raw
    if not bool(torch.isfinite(points).all()):
        raise Refused("some samples are not finite")
    k = len(known.centers)
    _need(len(points), k)
    hits = count_modes(points, known.centers, known.sigma)
    text = "within 3 σ of a centre"
    scores = _coverage(hits.good, hits.n, HIGH_QUALITY_CEILING, text, view.intervals, True)
    scores |= _divergences(
        hits.assigned, "samples go to their nearest centre", view.intervals, True
    )
    scores["high_quality_share"] = _quality(len(hits.squares), hits.n, view.intervals)
    scores["mode_spread"] = _spread(hits, view.intervals)
    return scores


def _of_stacked(view: View) -> dict[str, Measured | Refused]:
    parts = view.pool.found.parts
    if parts is None:
        raise Refused("no classifier tells the digits of an item")
    _need(len(parts), DIGITS**PARTS)
    counts = count_stacked(parts)
    text = "digit triples as classified, the classifier's mistakes included"
    scores = _coverage(counts, len(parts), 1.0, text, view.intervals, False)
    return scores | _divergences(counts, text, view.intervals, False)


def _need(n: int, modes: int) -> None:
    if n < modes:
        raise Refused(f"only {n} samples for {modes} modes; at least one for each is needed")


def _coverage(
    counts: Counts, n: int, share: float, text: str, intervals: bool, theory: bool
) -> dict[str, Measured | Refused]:
    """Modes with a sample, and with a fifth of the samples expected of them.

    Args:
        counts: good samples at each mode.
        n: all samples.
        share: of samples that a perfect sampler has good.
        text: which samples count.
        intervals: whether they are wanted.
        theory: whether a perfect sampler's value is the floor; else only mentioned, because
            held-out items show a classifier's mistakes as well.
    """
    k = len(counts)

    def score(hits: int, what: str) -> Measured:
        perfect = expected_covered(n, k, share, hits)
        return Measured(
            float((counts >= hits).sum()),
            count_interval(counts, hits) if intervals else None,
            sampling_error=count_errors(counts, hits)[0] if intervals else None,
            n=n,
            convention=f"of {k}, {what}; {text}; a perfect sampler has {perfect:.6g} at this N; "
            "95 % interval: normal, Poisson counts",
            floor=perfect if theory else None,
            caution=_few(n, k),
        )

    least = math.ceil(WELL_COVERED * n * share / k)
    well: Measured | Refused = Refused(
        f"{n} samples are too few: a fifth of those expected at each of {k} modes is only one"
    )
    if least > 1:
        well = score(least, f"at least {least} samples, a fifth of those expected")
    return {"modes_covered": score(1, "at least one sample"), "modes_well_covered": well}


def _divergences(
    counts: Counts, text: str, intervals: bool, theory: bool
) -> dict[str, Measured | Refused]:
    """KL divergences between the shares of the modes and even ones."""
    n, k = int(counts.sum()), len(counts)
    intervals = intervals and n >= INTERVAL_PER_MODE * k
    perfect = expected_kl(n, k)

    def score(
        value: Callable[[Counts], float], interval: Callable[[Counts], Interval], i: int, what: str
    ) -> Measured:
        found = interval(counts) if intervals else None
        return Measured(
            value(counts),
            found,
            sampling_error=None if found is None else (found.high - found.low) / (2 * Z),
            n=n,
            convention=f"nats, {what}; {text}; the truth is even; a perfect sampler has "
            f"{perfect[i]:.3g} at this N; 95 % interval: gamma law between chi-squared and the "
            f"delta method, from {INTERVAL_PER_MODE} samples a mode",
            floor=perfect[i] if theory else None,
            caution=_few(n, k),
        )

    smoothed = "½ added to every count"
    return {
        "mode_kl": score(kl_forward, interval_forward, 0, "plug-in"),
        "mode_kl_reverse": score(kl_reverse, interval_reverse, 1, smoothed),
    }


def _few(n: int, k: int) -> str | None:
    if n >= PROTOCOL_PER_MODE * k:
        return None
    return f"only {n / k:.3g} samples a mode; the protocol takes {PROTOCOL_PER_MODE}"


def _quality(good: int, n: int, intervals: bool) -> Measured:
    share = good / n
    return Measured(
        share,
        wilson(share, n) if intervals else None,
        sampling_error=math.sqrt(share * (1 - share) / n),
        n=n,
        convention="within 3 σ of a centre; 95 % interval: Wilson; floor: exact, 1 - exp(-9/2)",
        floor=HIGH_QUALITY_CEILING,
    )


def _spread(hits: ModeHits, intervals: bool) -> Measured | Refused:
    good = len(hits.squares)
    if good < 2:
        return Refused(f"{good} of {hits.n} samples are within 3 σ of a mode")
    value, error = spread(hits.squares)
    half = float(stats.t.ppf((1 + LEVEL) / 2, good - 1)) * error
    return Measured(
        value,
        Interval(max(0.0, value - half), value + half) if intervals else None,
        sampling_error=error,
        n=good,
        convention="root mean square distance of good samples to their centre over that of a "
        "Gaussian cut at 3 σ; 95 % interval: Student's t, delta method; floor: exact",
        floor=1.0,
        caution=f"only {good} good samples" if good < PROTOCOL_PER_MODE else None,
    )
