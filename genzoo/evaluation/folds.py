"""How far a two-sample statistic moves with fresh samples and with fresh real items.

Metrics made of nearest neighbours have no usable jackknife: leaving one item out overestimates
their variance two- to fivefold, and drawing with replacement plants copies. Disjoint folds do
neither. Values on disjoint parts are independent, so their variance is that of the statistic at
the parts' size m. What such a statistic adds up is local, so its variance goes as 1/N; how far
from that it still is at this N shows between two sizes of folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

# Halves while they are cheap, quarters beyond: large parts are most like the whole.
SMALL = 2000
HALVES, QUARTERS, EIGHTHS = (2, 12), (4, 4), (8, 2)  # folds, partitions
DRIFT = (0.8, 1.5)  # what is believed of the drift between two sizes


class Terms(NamedTuple):
    """Statistics that are means, and how much a single term of each varies.

    Attributes:
        value: (S,) float64.
        variance: of one term, p(1-p) for a share, (S,) float64; 1 where it is not known.
    """

    value: Tensor
    variance: Tensor


class Errors(NamedTuple):
    """Standard errors at the full size.

    Attributes:
        sampling: from the samples, (S,).
        reference: from the real items, (S,).
        degrees: of freedom that both together rest on.
    """

    sampling: Tensor
    reference: Tensor
    degrees: float


Side = TypeVar("Side")


class Statistic(Protocol[Side]):
    """A statistic of two sides; what it needs of each side alone is found once per fold."""

    def alone(self, items: Tensor) -> Side:
        """Whatever `between` needs of one side, (n, …)."""

    def between(self, samples: Side, real: Side) -> Terms:
        """The statistic."""


def fold_errors(statistic: Statistic[Side], samples: Tensor, real: Tensor) -> Errors:
    """Standard errors of a statistic from grids of disjoint folds of both sides.

    With the variance v(K) of one cell among K × K folds, N items have v(K) / K times the ratio
    of the terms' variances, times the drift K₂ v(K₁) / K₁ v(K₂) that one doubling made.

    Args:
        statistic: of (n, …) and (m, …).
        samples: (N, …).
        real: (M, …).
    """
    small = max(len(samples), len(real)) <= SMALL
    large, little = (HALVES, QUARTERS) if small else (QUARTERS, EIGHTHS)
    row, column, unit = _cell_variance(statistic, samples, real, *large)
    fewer = _cell_variance(statistic, samples, real, *little)
    here = (row + column) / unit / large[0]
    there = (fewer[0] + fewer[1]) / fewer[2] / little[0]
    drift = torch.where(there > 0, here / there, 1.0).nan_to_num(1.0).clamp(*DRIFT)
    whole = statistic.between(statistic.alone(samples), statistic.alone(real)).variance.cpu()
    scale = torch.where(unit > 0, whole / unit, 1.0).nan_to_num(1.0) * drift / large[0]
    each = [(v * scale).clamp(min=0).sqrt() for v in (row, column)]
    return Errors(each[0], each[1], float(large[1] * (large[0] - 1)))


def _cell_variance(
    statistic: Statistic[Side], samples: Tensor, real: Tensor, folds: int, partitions: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Variance of a cell through its row and through its column, and of a term; (S,) each.

    With values t[a, b] on fold a of the samples and b of the real items, rows differ by the
    samples, columns by the real items (two-way analysis of variance). Averaged over random
    partitions, which costs no bias and gains degrees of freedom.
    """
    row, column, unit = [], [], []
    for a, b in _partitions(len(samples), len(real), folds, partitions):
        rows, columns = ([statistic.alone(x[i]) for i in p] for x, p in ((samples, a), (real, b)))
        terms = [[statistic.between(x, y) for y in columns] for x in rows]
        grid = torch.stack([torch.stack([t.value for t in line]) for line in terms]).cpu()
        unit += [t.variance.cpu() for line in terms for t in line]
        # A mean over K columns leaves 1/K of the interaction; all of it belongs in.
        rest = _interaction(grid) * (0.5 - 1 / folds)
        row.append(grid.mean(1).var(0) + rest)
        column.append(grid.mean(0).var(0) + rest)
    means = [torch.stack(found).mean(0) for found in (row, column, unit)]
    return means[0], means[1], means[2]


def _interaction(grid: Tensor) -> Tensor:
    """Variance between cells that rows and columns do not explain, (K, K, S) -> (S,)."""
    rest = grid - grid.mean(0, keepdim=True) - grid.mean(1, keepdim=True) + grid.mean((0, 1))
    return rest.square().sum((0, 1)) / (len(grid) - 1) ** 2


def _partitions(
    n: int, m: int, folds: int, count: int
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Random partitions of n and m rows into equal disjoint folds, the same ones every time."""
    random = np.random.default_rng(20_240_603)
    for _ in range(count):
        yield _cut(random.permutation(n), folds), _cut(random.permutation(m), folds)


def _cut(order: np.ndarray, folds: int) -> list[Tensor]:
    size = len(order) // folds
    return [torch.from_numpy(order[i * size : (i + 1) * size]) for i in range(folds)]
