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


def density_coverage(
    samples: Tensor, real: Tensor, k: int = DENSITY_K
) -> tuple[Measured, Measured]:
    """Density and coverage (Naeem et al. 2020, eqs. 4 and 5), with the strict ``<`` of prdc.

    Args:
        samples: (N, d) features.
        real: (M, d) features.
        k: neighbours that make a real item's ball.

    Returns:
        Density, whose interval is over samples with the real items held fixed, and coverage,
        whose interval is over real items with the samples held fixed.
    """
    radius = radii(real, k)
    hits = torch.zeros(len(samples), dtype=torch.float64)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for block, d in distance_blocks(real, samples):
        inside = d < radius[block, None]
        hits += inside.sum(0)
        covered[block] = inside.any(1)
    per_sample = hits / k
    density = float(per_sample.mean())
    error = float(per_sample.std()) / math.sqrt(len(samples))
    coverage = float(covered.double().mean())
    return (
        Measured(density, around(density, error, len(samples) - 1)),
        Measured(coverage, wilson(coverage, len(real))),
    )


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
