"""KID: the squared distance of two feature laws under a cubic kernel, from all pairs.

The kernel matrix is seen a tile at a time and never held, and each tile within a set serves for
its mirror image too. The one pass that yields the value also yields what its variance needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genzoo.evaluation.measured import Refused
from genzoo.evaluation.moments import check_features, spread_of
from genzoo.evaluation.statistics import Spread

# Tiles of the kernel matrix that stay in the processor's cache.
TILE = 1024
# Pairs of this many items a side tell how the variance of KID moves with its value.
PAIRED = 256


class KernelSums(NamedTuple):
    """Sums of a kernel matrix (N, M), less a constant in every entry.

    Attributes:
        rows: (N,) sums of the rows.
        columns: (M,) sums of the columns.
        squares: sum of all squared entries.
        own: (N,) entries of items with themselves, which the sums leave out; empty between sets.
    """

    rows: Tensor
    columns: Tensor
    squares: float
    own: Tensor


class KernelDistance(NamedTuple):
    """KID and what its variance needs, from one pass over all pairs."""

    value: float
    within_x: KernelSums
    within_y: KernelSums
    between: KernelSums


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y / d + 1)³ of items (N, d) and (M, d), (N, M)."""
    base = torch.addmm(x.new_ones(1), x, y.T, alpha=1 / x.shape[1])
    return base * base * base


def kernel_distance(x: Tensor, y: Tensor, tile: int = TILE) -> KernelDistance:
    """Unbiased MMD² under the cubic kernel over all pairs (Gretton et al. 2012, eq. 3).

    Args:
        x: (N, d) float64.
        y: (M, d) float64.
        tile: rows and columns of the kernel matrix that are held at once.

    Raises:
        Refused: fewer than two items, or features that are not finite.
    """
    check_features(x, y)
    # A constant taken off every entry changes nothing but the rounding of sums and squares.
    middle = float(cubic_kernel(x[:PAIRED], y[:PAIRED]).mean())
    within_x, within_y = kernel_sums(x, None, middle, tile), kernel_sums(y, None, middle, tile)
    between = kernel_sums(x, y, middle, tile)
    n, m = len(x), len(y)
    value = (
        float(within_x.rows.sum()) / (n * (n - 1))
        + float(within_y.rows.sum()) / (m * (m - 1))
        - 2 * float(between.rows.sum()) / (n * m)
    )
    if not math.isfinite(value):
        raise Refused("features are too large for a cubic kernel")
    return KernelDistance(value, within_x, within_y, between)


def kernel_sums(x: Tensor, y: Tensor | None, middle: float, tile: int = TILE) -> KernelSums:
    """Sums over all pairs of x and y, or of different items of x alone, a tile at a time."""
    other = x if y is None else y
    rows, columns = x.new_zeros(len(x)), x.new_zeros(len(other))
    squares = x.new_zeros(())
    for i, j in _tiles(len(x), len(other), tile, half=y is None):
        kernel = cubic_kernel(x[i], other[j]).sub_(middle)
        if y is None and i == j:
            kernel.fill_diagonal_(0)
        square = torch.dot(kernel.flatten(), kernel.flatten())
        mirrored = y is None and i != j
        rows[i] += kernel.sum(1)
        squares += 2 * square if mirrored else square
        if mirrored:
            rows[j] += kernel.sum(0)
        elif y is not None:
            columns[j] += kernel.sum(0)
    if y is not None:
        return KernelSums(rows, columns, float(squares), x.new_empty(0))
    own = (x.square().sum(1) / x.shape[1] + 1).pow(3) - middle
    return KernelSums(rows, rows, float(squares), own)


def kernel_spread(x: Tensor, y: Tensor, found: KernelDistance) -> Spread:
    """How KID varies from draw to draw.

    The second-order part of a U-statistic of all pairs has 2 / (N(N-1)) E h² within each side and
    4 / (NM) E h² between, h the kernel less its means over either item. U-centred sums make
    these unbiased (Szekely and Rizzo 2014, eq. 2.7).

    Args:
        x: (N, d), N of 4 or more.
        y: (M, d), M of 4 or more.
        found: their `kernel_distance`.
    """
    n, m = len(x), len(y)
    within_x, within_y, between = found.within_x, found.within_y, found.between
    first_x = 2 * (within_x.rows / (n - 1) - between.rows / m)
    first_y = 2 * (within_y.rows / (m - 1) - between.columns / n)
    total = float(between.rows.sum())
    rows, columns = float(between.rows.square().sum()), float(between.columns.square().sum())
    cross = between.squares - rows / m - columns / n + total**2 / (n * m)
    second = (
        2 * _centred_square(within_x) / (n * (n - 1))
        + 2 * _centred_square(within_y) / (m * (m - 1))
        + 4 * max(0.0, cross) / ((n - 1) * (m - 1) * n * m)
    )
    bias = sum(
        float(s.own.mean() - s.rows.mean() / (len(s.rows) - 1)) / len(s.rows)
        for s in (within_x, within_y)
    )
    a, b = x[:PAIRED], y[:PAIRED]
    kernels = (_centred(cubic_kernel(a, a)), _centred(cubic_kernel(b, b)))
    spread = spread_of(first_x, first_y, *kernels, -_centred(cubic_kernel(a, b)))
    return spread._replace(second=second, bias=bias)


def _tiles(n: int, m: int, size: int, *, half: bool) -> Iterator[tuple[slice, slice]]:
    """Tiles that cover an (n, m) matrix; only those on and above the diagonal if `half`."""
    for i in range(0, n, size):
        for j in range(i if half else 0, m, size):
            yield slice(i, min(i + size, n)), slice(j, min(j + size, m))


def _centred_square(sums: KernelSums) -> float:
    """Unbiased E h² over different items of one side."""
    n, rows = len(sums.rows), sums.rows
    inside = float(rows.square().sum()) * 2 / (n - 2)
    total = float(rows.sum()) ** 2 / ((n - 1) * (n - 2))
    return max(0.0, sums.squares - inside + total) / (n * (n - 3))


def _centred(kernel: Tensor) -> Tensor:
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
