"""Fréchet distance and FD∞, KID, and inception score.

All intervals rest on one expansion (`statistics.Spread`): each of these statistics is, to second
order, an average over items plus a sum over pairs of them, and between equal laws the average
vanishes. Resampling blocks, with or without replacement, gets the variance wrong there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genzoo.evaluation.kernels import kernel_distance, kernel_spread
from genzoo.evaluation.measured import Measured, NotApplicable, Refused
from genzoo.evaluation.moments import (
    check_features,
    frechet_of_features,
    frechet_spread,
)
from genzoo.evaluation.statistics import Interval, Spread, distance_interval, score_interval
from genzoo.evaluation.view import View

SIZES = 15
SMALLEST = 5  # the smallest subset is a fifth of the items
EXTRAPOLATED_FROM = 100
TRUSTED_FROM = 500
# Above this many dimensions one subset of each size must do.
MANY_DIMENSIONS = 256
_GOLDEN = (math.sqrt(5) - 1) / 2

_BOTH = "95 % interval over both sides, from the first two orders of the variance"


# -- Fréchet distance ---------------------------------------------------------------------------


def frechet(view: View) -> dict[str, Measured]:
    """The metric ``fd``.

    Raises:
        Refused: fewer than two items, or features that are not finite.
    """
    x, y = view.samples.features, view.real.features
    value = frechet_of_features(x, y)
    answer = Measured(
        value, convention="Gaussians with unbiased covariances", caution=_few(len(x), x.shape[1])
    )
    if not view.intervals:
        return {"fd": answer}
    spread = frechet_spread(x, y)
    low, high = distance_interval(value, spread)
    return {
        "fd": answer._replace(
            interval=Interval(max(0.0, low), high),
            sampling_error=spread.sampling_error,
            reference_error=spread.reference_error,
            convention=f"{answer.convention}; {_BOTH}, for the expectation at this N",
        )
    }


def _few(n: int, d: int) -> str | None:
    if n <= d:
        return f"{n} items in {d} dimensions: the covariances are singular"
    if n < 2 * d:
        return f"{n} items in {d} dimensions: mostly bias; compare with the floor only"
    return None


# -- FD∞ ----------------------------------------------------------------------------------------


class Extrapolation(NamedTuple):
    """FD of subsets of several sizes, fitted by α + β / size.

    Attributes:
        parts: (first, past the last) of every subset, as shares of all items.
        weights: α as a weighted sum of the subsets' distances.
    """

    parts: tuple[tuple[float, float], ...]
    weights: tuple[float, ...]

    def variance_factors(self) -> tuple[float, float]:
        """Variance of α's first- and second-order part, each over that of FD of all items.

        An item s enters with Σ w / |S| over the subsets S that hold it, a pair with Σ w / |S|².
        """
        edges = sorted({edge for part in self.parts for edge in part})
        middles = (np.array(edges[1:]) + edges[:-1]) / 2
        lengths = np.diff(edges)
        low, high = np.array(self.parts).T[:, :, None]
        holds = ((low < middles) & (middles < high)).astype(np.float64)
        share = (high - low)[:, 0]
        items = (np.array(self.weights) / share) @ holds
        pairs = (holds.T * (np.array(self.weights) / share**2)) @ holds
        return float(lengths @ items**2), float(lengths @ pairs**2 @ lengths)


def plan_extrapolation(*, one_each: bool = False) -> Extrapolation:
    """Fifteen sizes from a fifth of the items to all of them, evenly in 1 / size.

    Disjoint subsets of one size are averaged. What the averages of different sizes do not share
    then has a variance of about 1 / size, so sizes are weighted by size in the fit.

    Args:
        one_each: only one subset of each size.
    """
    inverse = np.linspace(1.0, SMALLEST, SIZES)
    design = np.stack([np.ones(SIZES), inverse], 1)
    weighted = design / inverse[:, None]
    alpha = np.linalg.solve(weighted.T @ design, weighted.T)[0]
    parts: list[tuple[float, float]] = []
    weights: list[float] = []
    for i, (per_size, share) in enumerate(zip(alpha, 1 / inverse, strict=True)):
        if one_each:
            starts = np.array([(1 - share) * (i * _GOLDEN % 1)])  # spread over all items
        elif share > 0.5:
            starts = np.unique([0.0, 1 - share])  # both ends, which overlap
        else:
            starts = share * np.arange(int(1 / share + 1e-9))
        parts += [(float(s), float(s + share)) for s in starts]
        weights += [float(per_size) / len(starts)] * len(starts)
    return Extrapolation(tuple(parts), tuple(weights))


def extrapolate(x: Tensor, y: Tensor, plan: Extrapolation) -> float:
    """FD of features (N, d) and (M, d) at infinitely many items (Chong and Forsyth 2020, §4)."""
    total = 0.0
    for (low, high), weight in zip(plan.parts, plan.weights, strict=True):
        a, b = (z[round(low * len(z)) : round(high * len(z))] for z in (x, y))
        total += weight * frechet_of_features(a, b)
    return total


def frechet_infinity(view: View) -> dict[str, Measured]:
    """The metric ``fd_infinity``.

    Raises:
        Refused: fewer than `EXTRAPOLATED_FROM` items, or features that are not finite.
    """
    x, y = view.samples.features, view.real.features
    check_features(x, y)
    n, d = min(len(x), len(y)), x.shape[1]
    if n < EXTRAPOLATED_FROM:
        raise Refused(f"{n} items are too few to extrapolate; {EXTRAPOLATED_FROM} are needed")
    plan = plan_extrapolation(one_each=d > MANY_DIMENSIONS)
    value = extrapolate(x, y, plan)
    text = f"linear in 1/N over {SIZES} sizes of {n // SMALLEST} to {n} items, weighted by size"
    caution = None
    if n < max(TRUSTED_FROM, 2 * d):
        caution = f"extrapolated from only {n} items in {d} dimensions"
    answer = Measured(value, convention=text, caution=caution)
    if not view.intervals:
        return {"fd_infinity": answer}
    whole = frechet_spread(x, y)
    spread, steep = extrapolated_spread(value, whole, plan)
    return {
        "fd_infinity": answer._replace(
            interval=score_interval(value, spread.variance, (steep, steep)),
            sampling_error=spread.sampling_error,
            reference_error=spread.reference_error,
            convention=f"{text}; {_BOTH} and all subsets",
        )
    }


def extrapolated_spread(value: float, whole: Spread, plan: Extrapolation) -> tuple[Spread, float]:
    """Spread of FD∞ `value` from that of FD of all items, and how its variance grows with it.

    FD∞ has no bias, so the first-order part of its variance is proportional to it; what the
    second-order part becomes follows from the subsets alone. A negative estimate takes nothing
    off: the true distance is not negative. Of the two estimates that this allows, by the value and
    by the items' influence, the larger serves.
    """
    once, pairs = plan.variance_factors()
    second = min(whole.second, whole.first / 2)
    biased = value + whole.bias
    steep = once * whole.first / biased if biased > 0 else 0.0
    by_value = steep * max(0.0, value) + pairs * second
    by_items = once * (whole.first - 2 * second) + pairs * second
    variance = max(by_value, by_items)
    factor = variance / whole.first if whole.first else 0.0
    spread = Spread(whole.samples * factor, whole.reference * factor)
    return spread, steep


# -- KID ----------------------------------------------------------------------------------------


def kernel(view: View) -> dict[str, Measured]:
    """The metric ``kid``.

    Raises:
        Refused: fewer than two items, or features that are not finite.
    """
    x, y = view.samples.features, view.real.features
    found = kernel_distance(x, y)
    answer = Measured(
        found.value, convention="(x·y/d + 1)³, unbiased estimate of MMD² from all pairs"
    )
    if not view.intervals or min(len(x), len(y)) < 4:
        return {"kid": answer}
    spread = kernel_spread(x, y, found)
    return {
        "kid": answer._replace(
            interval=distance_interval(found.value, spread, offset=spread.bias),
            sampling_error=spread.sampling_error,
            reference_error=spread.reference_error,
            convention=f"{answer.convention}; {_BOTH}",
        )
    }


# -- inception score ----------------------------------------------------------------------------


class ClassSums(NamedTuple):
    """What the inception score needs of class predictions; parts add up to the whole.

    Attributes:
        n: number of items.
        total: (K,) Σ p(class | item).
        information: Σ Σ p log p in nats.
    """

    n: int
    total: Tensor
    information: float

    @classmethod
    def of(cls, logits: Tensor) -> ClassSums:
        """Of class scores (N, K)."""
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        return cls(len(logits), p.sum(0), float((p * log_p).sum()))

    def merge(self, other: ClassSums) -> ClassSums:
        """Of both sets together."""
        total, information = self.total + other.total, self.information + other.information
        return ClassSums(self.n + other.n, total, information)

    @property
    def score(self) -> float:
        """Exp of the mutual information of item and predicted class."""
        entropy = float(torch.special.entr(self.total / self.n).sum())
        return math.exp(max(0.0, entropy + self.information / self.n))


def inception_score(logits: Tensor) -> float:
    """Of class scores (N, K), one split (Salimans et al. 2016, §4)."""
    return ClassSums.of(logits).score


def inception_spread(logits: Tensor) -> Spread:
    """How the *logarithm* of the score varies from draw to draw.

    log IS = mean of KL(pᵢ ‖ p̄), to first order an average over items. The second-order part is
    -½ Σ_k (Δp̄_k)² / p̄_k, whose variance is tr((diag(1/p̄) Cov p)²) / 2N².
    """
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    mean = p.mean(0).clamp_min(torch.finfo(p.dtype).tiny)
    first = (p * (log_p - mean.log())).sum(1)
    first = first - first.mean()
    n = len(p)
    scaled = (p - mean) / mean.sqrt()
    covariance = scaled.T @ scaled / (n - 1)
    variance = float(first.var()) / n
    second = float(covariance.square().sum()) / (2 * n**2)
    # The score's second-order part has a minus: the variance grows as the score falls.
    pulled = scaled.T @ first / n
    third = float(first.pow(3).mean()) / n**2 - 2 * float(pulled @ pulled) / n**2
    slope = third / variance if variance else 0.0
    return Spread(variance, 0.0, second, -float(covariance.trace()) / (2 * n), slope)


def inception_interval(log_score: float, spread: Spread) -> Interval:
    """Interval for the expected logarithm of the score, whose variance falls as it rises."""
    return score_interval(log_score, spread.variance, (spread.slope, spread.slope))


def inception(view: View) -> dict[str, Measured]:
    """The metric ``inception_score``.

    Raises:
        NotApplicable: points.
        Refused: no classifier, fewer than two samples, or scores that are not finite.
    """
    if not view.is_image:
        raise NotApplicable("points have no classes to predict")
    logits = view.samples.found.logits
    if logits is None:
        raise Refused(f"{view.dataset.name} has no labels to train a classifier on")
    if len(logits) < 2:
        raise Refused(f"at least two samples are needed, not {len(logits)}")
    if not bool(logits.isfinite().all()):
        raise Refused("class scores are not finite")
    n, classes = logits.shape
    value = inception_score(logits)
    few = f"{n} samples for {classes} classes" if n < classes else None
    answer = Measured(value, convention=f"{classes} classes, one split", caution=few)
    if not view.intervals:
        return {"inception_score": answer}
    spread = inception_spread(logits)
    low, high = inception_interval(math.log(value), spread)
    return {
        "inception_score": answer._replace(
            interval=Interval(max(1.0, math.exp(low)), min(float(classes), math.exp(high))),
            sampling_error=value * spread.sampling_error,
            convention=f"{answer.convention}; 95 % interval from the first two orders of the "
            "variance, for the expectation at this N",
        )
    }
