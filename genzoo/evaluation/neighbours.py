"""Nearest neighbours in row blocks, and the metrics that are made of them.

No matrix of all distances is ever held: a block of rows at a time is enough for every
metric here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genzoo.evaluation.statistics import Interval, around, wilson

BLOCK_NUMBERS = 1 << 23
DENSITY_K = 5


class Measured(NamedTuple):
    """A value and, where an honest one exists, its 95 % interval."""

    value: float
    interval: Interval | None = None


class Neighbours(NamedTuple):
    """The nearest items of each row.

    Attributes:
        distance: (N,) squared distances.
        row: (N,) rows of the reference.
    """

    distance: Tensor
    row: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, (N, D) and (M, D) -> (N, M); exact for small integers."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    return norms.addmm_(a, b.T, alpha=-2).clamp_(min=0)


def distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `a` a block at a time, with their squared distances to all of `b`."""
    rows = max(1, BLOCK_NUMBERS // max(1, len(b)))
    for start in range(0, len(a), rows):
        block = slice(start, min(start + rows, len(a)))
        yield block, squared_distances(a[block], b)


def nearest(query: Tensor, reference: Tensor, *, own: bool = False) -> Neighbours:
    """The nearest reference item of each query.

    Args:
        query: (N, D).
        reference: (M, D).
        own: query i *is* reference item i and must not find itself.
    """
    distances, indices = [], []
    for block, d in distance_blocks(query, reference):
        if own:
            _mask_self(d, block)
        found = d.min(dim=1)
        distances.append(found.values)
        indices.append(found.indices)
    return Neighbours(torch.cat(distances), torch.cat(indices))


def radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each item to its k-th nearest other item, (N, D) -> (N,)."""
    out = []
    for block, d in distance_blocks(x, x):
        _mask_self(d, block)
        out.append(d.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(out)


class Balls(NamedTuple):
    """Which items lie in the balls around which centres.

    Attributes:
        of_item: in how many balls each item lies, (N,).
        of_center: how many items each ball holds, (M,).
        only_item: how many items lie in this ball and no other, (M,).
        only_center: how many balls hold this item and no other, (N,).
    """

    of_item: Tensor
    of_center: Tensor
    only_item: Tensor
    only_center: Tensor


def balls(centers: Tensor, items: Tensor, k: int, *, closed: bool) -> Balls:
    """Count memberships in the balls that reach to each centre's k-th nearest other centre.

    Args:
        centers: (M, d).
        items: (N, d).
        k: neighbours that make a ball.
        closed: whether an item on the surface is inside (``<=``) or not (``<``).
    """
    radius = radii(centers, k)
    of_item = torch.zeros(len(items), dtype=torch.int64)
    holder = torch.zeros(len(items), dtype=torch.int64)
    of_center, only_center = [], torch.zeros(len(items), dtype=torch.int64)
    for block, d in distance_blocks(centers, items):
        limit = radius[block, None]
        inside = d <= limit if closed else d < limit
        of_item += inside.sum(0)
        holder = torch.where(inside.any(0), inside.int().argmax(0) + block.start, holder)
        held = inside.sum(1)
        of_center.append(held)
        single = inside[held == 1].int().argmax(1)
        only_center += torch.bincount(single, minlength=len(items))
    only_item = torch.bincount(holder[of_item == 1], minlength=len(centers))
    return Balls(of_item, torch.cat(of_center), only_item, only_center)


def held_share(found: Balls, value: float | None = None) -> Measured:
    """Share of items in any ball (precision, recall), with an interval over both sides.

    Args:
        found: memberships.
        value: the share where it is already known.
    """
    share = float((found.of_item > 0).double().mean()) if value is None else value
    return Measured(share, _both_sides(share, len(found.of_item), found.only_item))


def hit_share(found: Balls) -> Measured:
    """Share of balls with any item (coverage), with an interval over both sides."""
    share = float((found.of_center > 0).double().mean())
    return Measured(share, _both_sides(share, len(found.of_center), found.only_center))


def _both_sides(share: float, n: int, only: Tensor) -> Interval:
    """Wilson's interval with the variance that the other side's items add.

    Without one of those the share loses the ones that only it accounts for (Efron and Stein
    1981); that this ignores the balls' growth errs on the wide side.
    """
    own = share * (1 - share) / n
    other = float((only - only.double().mean()).square().sum()) / n**2
    return wilson(share, n * own / (own + other) if own > 0 else n)


def density_coverage(
    samples: Tensor, real: Tensor, k: int = DENSITY_K
) -> tuple[Measured, Measured]:
    """Density and coverage (Naeem et al. 2020, eqs. 4 and 5), with the strict ``<`` of prdc.

    Args:
        samples: (N, d) features.
        real: (M, d) features.
        k: neighbours that make a real item's ball.
    """
    found = balls(real, samples, k, closed=False)
    per_sample = found.of_item.double() / k
    per_real = found.of_center.double() * (len(real) / (k * len(samples)))
    density = float(per_sample.mean())
    error = math.sqrt(float(per_sample.var()) / len(samples) + float(per_real.var()) / len(real))
    interval = around(density, error, min(len(samples), len(real)) - 1)
    return Measured(density, interval), hit_share(found)


def expected_coverage(n_real: int, n_samples: int, k: int = DENSITY_K) -> float:
    """Expected coverage when samples and real items have the same law, whatever it is.

    A real item stays uncovered if its k nearest among all others are all real:
    ∏ (N-i)/(N+M-i), i = 1 … k (Naeem et al. 2020, appendix).
    """
    uncovered = 1.0
    for i in range(1, k + 1):
        uncovered *= (n_real - i) / (n_real + n_samples - i)
    return 1 - uncovered


def two_sample_1nn(samples: Tensor, real: Tensor) -> Measured:
    """Leave-one-out accuracy of telling samples from real items by the nearest neighbour.

    Ties between the two sides count one half. The interval is Wilson's for the effective
    number of independent verdicts: two items that are each other's nearest neighbour share one.

    Args:
        samples: (N, D).
        real: (N, D), equally many.
    """
    both = torch.cat([samples, real])
    within = torch.cat(
        [nearest(samples, samples, own=True).distance, nearest(real, real, own=True).distance]
    )
    sample_to_real, real_to_sample = nearest(samples, real), nearest(real, samples)
    across = torch.cat([sample_to_real.distance, real_to_sample.distance])
    right = (within < across).double() + 0.5 * (within == across).double()
    accuracy = float(right.mean())
    return Measured(accuracy, wilson(accuracy, len(both) / (1 + _mutual_share(both))))


def sliced_wasserstein(samples: Tensor, real: Tensor, directions: int = 64) -> float:
    """Mean Wasserstein-1 distance of projections of points on evenly spaced directions.

    Args:
        samples: (N, 2).
        real: (N, 2), equally many.
        directions: how many, over half a turn.
    """
    angle = torch.arange(directions, dtype=samples.dtype) * (math.pi / directions)
    axes = torch.stack([angle.cos(), angle.sin()])
    a, b = (samples @ axes).sort(0).values, (real @ axes).sort(0).values
    return float((a - b).abs().mean())


def _mutual_share(x: Tensor) -> float:
    """Share of items that are the nearest neighbour of their own nearest neighbour."""
    row = nearest(x, x, own=True).row
    return float((row[row] == torch.arange(len(x))).double().mean())


def _mask_self(d: Tensor, block: slice) -> None:
    rows = torch.arange(d.shape[0])
    d[rows, rows + block.start] = math.inf
