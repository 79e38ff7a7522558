"""Sliced Wasserstein distance, and an interval that is honest at zero too.

Between equal laws the distance of two finite sets is an average of |noise|, far from normal
in its differences: the jackknife there claims twice the true variance, disjoint blocks claim
too little between laws that nearly agree. Here the variance is computed for a difference of
λ times the observed one, and the interval holds every λ that does not contradict the
observation, as Wilson's does for a share.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.special import gammaln
from torch import Tensor

from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.statistics import Interval
from genzoo.evaluation.view import View

DIRECTIONS = 256
DIRECTIONS_2D = 64
KNOTS = 50
PAIRED = 128
MIN_ITEMS = 20
Z = 1.96
GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
# An observed sign is +1 or -1 where the true difference is smaller than its noise; the error
# function of twice the observed ratio has the expectation that the variance needs.
STEEP = 2.0


class Spread(NamedTuple):
    """What the distance would be if laws differed by λ times what was observed.

    Attributes:
        mean: its expectation.
        samples: its variance from the samples.
        real: its variance from the real items.
    """

    mean: float
    samples: float
    real: float

    @property
    def error(self) -> float:
        """Standard error from both."""
        return math.sqrt(self.samples + self.real)


def sliced(view: View) -> dict[str, Measured]:
    """Sliced Wasserstein-1 in feature space."""
    a, b = view.samples.features, view.real.features
    if min(len(a), len(b)) < 2:
        raise Refused(f"{min(len(a), len(b))} items a side; at least 2 are needed")
    axes = directions(a.shape[1], a)
    value = sliced_wasserstein(a, b, axes)
    kind = "evenly spaced" if a.shape[1] == 2 else "orthogonal"
    text = f"W1 of projections on {axes.shape[1]} fixed {kind} directions, averaged"
    caution = None
    if min(len(a), len(b)) < MIN_ITEMS:
        caution = f"fewer than {MIN_ITEMS} items a side"
    if not view.intervals or caution:
        return {"sliced_wasserstein": Measured(value, convention=text, caution=caution)}
    interval, at = distance_interval(a, b, axes, value)
    text += "; 95 % interval: score type, both sides random"
    samples, real = math.sqrt(at.samples), math.sqrt(at.real)
    return {"sliced_wasserstein": Measured(value, interval, samples, real, convention=text)}


def directions(d: int, like: Tensor) -> Tensor:
    """Unit vectors: evenly spaced over half a turn in 2-D, else random orthogonal bases.

    Args:
        d: dimensions.
        like: gives device and type.

    Returns:
        (d, L), the same ones every time.
    """
    if d == 1:
        return like.new_ones(1, 1)
    if d == 2:
        angle = torch.arange(DIRECTIONS_2D, dtype=torch.float64) * (math.pi / DIRECTIONS_2D)
        return torch.stack([angle.cos(), angle.sin()]).to(like)
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for start in range(0, DIRECTIONS, d):
        width = min(d, DIRECTIONS - start)
        noise = torch.randn(d, width, generator=generator, dtype=torch.float64)
        found.append(torch.linalg.qr(noise).Q)
    return torch.cat(found, 1).to(like)


def mean_cosine(d: int) -> float:
    """E|cos| of the angle to a random direction in d dimensions: Γ(d/2) / (√π Γ((d+1)/2))."""
    return math.exp(float(gammaln(d / 2) - gammaln((d + 1) / 2))) / math.sqrt(math.pi)


def sliced_wasserstein(samples: Tensor, real: Tensor, axes: Tensor | None = None) -> float:
    """Mean over directions of ∫|F - G|, the Wasserstein-1 distance of projections.

    Bonneel et al. 2015, for W1; sides may differ in size.

    Args:
        samples: (N, d).
        real: (M, d).
        axes: (d, L) unit vectors; `directions` if not given.
    """
    axes = directions(samples.shape[1], samples) if axes is None else axes
    values, _, f, g = _projected(samples, real, axes)
    return float(((f - g)[:-1].abs() * values.diff(dim=0)).sum() / axes.shape[1])


def distance_interval(
    samples: Tensor, real: Tensor, axes: Tensor, value: float
) -> tuple[Interval, Spread]:
    """95 % interval for the distance's expectation at this N.

    Args:
        samples: (N, d).
        real: (M, d).
        axes: (d, L).
        value: the distance.

    Returns:
        The interval, and what is known at the λ whose expectation is the value.
    """
    field = _Field(samples, real, axes)
    if value == 0 or field.distance == 0:
        return Interval(value, value), Spread(value, 0.0, 0.0)
    scale = value / field.distance
    grid = []
    for factor in GRID:
        mean, own, other = field.at(factor)
        grid.append(Spread(scale * mean, scale**2 * own, scale**2 * other))
    least = grid[0]
    high = max(_where(grid, value, -Z), value + Z * least.error, least.mean)
    low = max(0.0, least.mean - Z * least.error)
    if value > least.mean + Z * least.error:
        low = _where(grid, value, Z)
    low = min(low, value)
    return Interval(low, high), _blend(grid, value)


def _projected(
    samples: Tensor, real: Tensor, axes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sorted projections of both sides (N+M, L), their rows, and both distribution functions."""
    n, m = len(samples), len(real)
    values, rows = (torch.cat([samples, real]) @ axes).sort(dim=0)
    own = rows < n
    return values, rows, own.cumsum(0).to(values) / n, (~own).cumsum(0).to(values) / m


class _Field:
    """The difference of distribution functions at some ranks of every direction.

    The sum over directions j and knots s of |D_js| w_js is the distance, where D is nearly
    normal with standard deviation `noise`. The Hermite expansion of |D| gives its variance:
    the first-order term is that of a sum over items, the second one of a sum over pairs.
    """

    def __init__(self, samples: Tensor, real: Tensor, axes: Tensor) -> None:
        self.n, self.m, total = len(samples), len(real), len(samples) + len(real)
        values, rows, f, g = _projected(samples, real, axes)
        edges = torch.linspace(0, total - 1, min(KNOTS, total - 1) + 1).round().long()
        edges = edges.unique().to(values.device)
        middle = (edges[:-1] + edges[1:]) // 2
        self.width = values[edges].diff(dim=0) / axes.shape[1]
        difference = f[middle] - g[middle]
        self.distance = float((difference.abs() * self.width).sum())
        self.share = (self.n * f[middle] + self.m * g[middle]) / total
        variance = self.share * (1 - self.share) * (1 / self.n + 1 / self.m)
        self.noise = variance.clamp(min=1e-12).sqrt()
        self.ratio = difference / self.noise
        rank = torch.empty_like(rows)
        order = torch.arange(total, device=rows.device)[:, None].expand_as(rows)
        # The first knot at or above each item, of both sides in their own order.
        self.knot = torch.searchsorted(middle, rank.scatter_(0, rows, order))
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:PAIRED]
        self.paired = self.knot[chosen.to(rows.device)]

    def at(self, factor: float) -> Spread:
        """Expectation and variances if the true difference were `factor` times this one."""
        ratio = factor * self.ratio
        density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
        folded = 2 * density + ratio * torch.erf(ratio / math.sqrt(2))
        mean = float((self.noise * folded * self.width).sum())
        slope = torch.erf(STEEP * ratio / math.sqrt(2)) * self.width
        influence = _above(slope).gather(0, self.knot).sum(1)
        own = float(influence[: self.n].var()) / self.n
        other = float(influence[self.n :].var()) / self.m
        pairs = 2 * self._pairs(density * self.width / self.noise)
        a, b = 1 / self.n, 1 / self.m
        return Spread(mean, own + pairs * a * (a + b), other + pairs * b * (a + b))

    def _pairs(self, weight: Tensor) -> float:
        """Mean square of Σ weight (1[i] - share)(1[j] - share) over pairs of items."""
        total = float((weight * self.share.square()).sum())
        single = _above(weight * self.share).gather(0, self.paired).sum(1)
        both = _above(weight).gather(0, self.paired)
        products = torch.stack([torch.minimum(row, both).sum(1) for row in both])
        products = products - single[:, None] - single + total
        k = len(products)
        squares = products.square()
        return float((squares.sum() - squares.diagonal().sum()) / (k * (k - 1)))


def _above(weight: Tensor) -> Tensor:
    """Sums of weights from each knot on, and 0 beyond the last: (P, L) -> (P + 1, L)."""
    sums = weight.flip(0).cumsum(0).flip(0)
    return torch.cat([sums, sums.new_zeros(1, sums.shape[1])])


def _where(grid: list[Spread], value: float, z: float) -> float:
    """The expectation at which mean + z errors reaches the value; extrapolated at the ends."""
    reach = [spread.mean + z * spread.error - value for spread in grid]
    i = next((i for i, gap in enumerate(reach) if gap >= 0), len(grid) - 1)
    i = max(i, 1)
    rise = reach[i] - reach[i - 1]
    if rise <= 0:
        return value - z * grid[i].error
    part = -reach[i - 1] / rise
    return grid[i - 1].mean + part * (grid[i].mean - grid[i - 1].mean)


def _blend(grid: list[Spread], value: float) -> Spread:
    """The variances at the λ whose expectation is the value."""
    i = next((i for i, spread in enumerate(grid) if spread.mean >= value), len(grid) - 1)
    if i == 0 or grid[i].mean <= grid[i - 1].mean:
        return grid[i]
    part = min(1.0, (value - grid[i - 1].mean) / (grid[i].mean - grid[i - 1].mean))
    low, high = grid[i - 1], grid[i]
    samples = low.samples + part * (high.samples - low.samples)
    return Spread(value, samples, low.real + part * (high.real - low.real))
