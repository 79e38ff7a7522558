"""How far a two-sample statistic moves with fresh samples and with fresh real items.

Metrics made of nearest neighbours have no usable jackknife: leaving one item out overestimates
their variance two- to fivefold, and drawing with replacement plants copies. Disjoint folds do
neither. Values on disjoint parts are independent, so their variance is that of the statistic at
the parts' size m; the variance at N is m/N times that, because what such a statistic adds up
is local.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Statistic = Callable[[Tensor, Tensor], Tensor]

# Halves while they are cheap, quarters beyond: large parts are most like the whole.
SMALL = 2000
HALVES, QUARTERS = (2, 20), (4, 5)  # folds, partitions


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


def fold_errors(
    statistic: Statistic, samples: Tensor, real: Tensor, shares: Sequence[int] = ()
) -> Errors:
    """Standard errors of a statistic from a grid of disjoint folds of both sides.

    With values t[a, b] on fold a of the samples and b of the real items, rows differ by the
    samples, columns by the real items (two-way analysis of variance). Averaged over random
    partitions, which costs no bias and gains degrees of freedom.

    Args:
        statistic: (n, …) and (m, …) to S values, (S,) float64.
        samples: (N, …).
        real: (M, …).
        shares: which of the S values are shares, whose variance goes as p(1-p).
    """
    small = max(len(samples), len(real)) <= SMALL
    folds, partitions = HALVES if small else QUARTERS
    row, column, means = [], [], []
    for a, b in _partitions(len(samples), len(real), folds, partitions):
        grid = torch.stack(
            [torch.stack([statistic(samples[i], real[j]) for j in b]) for i in a]
        ).cpu()
        row.append(grid.mean(1).var(0))
        column.append(grid.mean(0).var(0))
        means.append(grid.mean((0, 1)))
        interaction = _interaction(grid)
        # A mean over `folds` columns leaves 1/folds of the interaction; all of it belongs in.
        row[-1] += interaction * (0.5 - 1 / folds)
        column[-1] += interaction * (0.5 - 1 / folds)
    scale = torch.ones(len(means[0]), dtype=torch.float64)
    whole, part = statistic(samples, real).cpu(), torch.stack(means).mean(0)
    for i in shares:
        here, there = whole[i] * (1 - whole[i]), part[i] * (1 - part[i])
        scale[i] = here / there if there > 0 and here > 0 else 1.0
    each = [(torch.stack(v).mean(0) / folds * scale).clamp(min=0).sqrt() for v in (row, column)]
    return Errors(each[0], each[1], float(partitions * (folds - 1)))


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
