"""How many different items a model can make, from how often two of its samples are near copies.

The birthday test of Arora and Zhang (2018, arXiv:1706.08224), with a threshold that real items
set and their own rate of chance copies taken off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.statistics import LEVEL, Interval
from genzoo.evaluation.view import Items, View

# Items that the birthday test compares with each other, and by how many pairs of real items
# its threshold is set.
BIRTHDAY_ITEMS, CALIBRATION_ITEMS, CALIBRATION_PAIRS = 5_000, 6_000, 10
LEAST_ITEMS = 20
BLOCK = 1_000


class Collisions(NamedTuple):
    """Pairs of items nearer to each other than a threshold.

    Attributes:
        pairs: how many pairs were compared.
        near: how many of them are near.
        wedges: ordered pairs of near pairs that share an item.
        n: number of items.
    """

    pairs: int
    near: int
    wedges: int
    n: int

    @property
    def inflation(self) -> float:
        """Variance of `near` over that of independent pairs, at least 1.

        Pairs of draws are independent in twos only where all items are equally likely; else
        wedges are more frequent than the square of the rate.
        """
        if not self.near:
            return 1.0
        rate = self.near / self.pairs
        expected = self.n * (self.n - 1) * (self.n - 2) * rate**2
        return 1 + max(0.0, self.wedges - expected) / self.near


class Threshold(NamedTuple):
    """From which distance real items are near copies, and how often they are."""

    squared: float
    near: int
    pairs: int


def closest_pairs(x: Tensor, k: int) -> Tensor:
    """The k least squared distances between different rows of x (N, D), ascending."""
    best = x.new_empty(0, dtype=torch.float64)
    for _, squared in _pair_blocks(x):
        # The k-th of the rows' minima bounds the k-th of all, and few entries are below it.
        minima = squared.min(1).values.sort().values
        bound = float(minima[k - 1]) if len(minima) >= k else math.inf
        least = squared[(squared <= bound) & squared.isfinite()]
        least = least.topk(min(k, len(least)), largest=False).values
        best = torch.cat([best, least]).sort().values[:k]
    return best


def count_collisions(x: Tensor, squared: float) -> Collisions:
    """Count pairs of rows of x (N, D) whose squared distance is at most `squared`."""
    degree = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    # Rounding must not keep copies apart where real items are equal and the threshold is 0.
    squared += 1e-13 * float(x.double().square().sum(1).max())
    for start, block in _pair_blocks(x):
        near = block <= squared
        degree[start : start + len(near)] += near.sum(1)
        degree[start:] += near.sum(0)
    n = len(x)
    return Collisions(
        n * (n - 1) // 2, int(degree.sum()) // 2, int((degree * (degree - 1)).sum()), n
    )


def _pair_blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Row blocks of the squared distances from their first row on, infinite but for i < j."""
    x = x.double()
    norms = x.square().sum(1)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        squared = torch.addmm(norms[None, start:], x[rows], x[start:].T, alpha=-2)
        squared += norms[rows, None]
        square = squared[:, : len(squared)]
        square[torch.ones_like(square, dtype=torch.bool).tril()] = math.inf
        yield start, squared.clamp_(min=0)


def support(found: Collisions, real: Threshold) -> Measured:
    """How many equally likely items would collide as often, beyond what real items do.

    Of n equally likely items N(N - 1) / 2n pairs are expected to be the same one (Arora and
    Zhang 2018); of others n is 1 / Σ p², which no larger support can have more collisions than.
    Pairs that are near among real items, at their rate, are taken off.
    """
    expected = found.pairs * real.near / real.pairs
    near, low, high = found.near, *_poisson(found.near, found.inflation)
    real_low, real_high = (found.pairs / real.pairs * end for end in _poisson(real.near))
    # Limits of a difference from the limits of its terms (Zou and Donner 2008).
    excess = near - expected
    least = excess - math.hypot(near - low, real_high - expected)
    most = excess + math.hypot(high - near, expected - real_low)
    text = (
        f"N(N - 1) / 2n pairs of equal items: {near} of {found.pairs} are near copies, "
        f"{expected:.3g} expected of real data; 95 % interval: Poisson, both counts"
    )
    if least <= 0:
        return Measured(
            max(1.0, found.pairs / max(most, 1.0)),
            n=found.n,
            convention=text,
            caution="at least this many: near copies are no more frequent than among real data",
        )
    value = max(1.0, found.pairs / excess)
    return Measured(
        value,
        Interval(max(1.0, found.pairs / most), max(value, found.pairs / least)),
        sampling_error=value * math.sqrt(found.inflation * near) / excess,
        reference_error=value * expected / math.sqrt(max(real.near, 1)) / excess,
        n=found.n,
        convention=text,
    )


def _poisson(count: int, inflation: float = 1.0) -> tuple[float, float]:
    """Exact limits of a Poisson mean (Garwood 1936), of a count with `inflation` its variance."""
    events, tail = count / inflation, (1 - LEVEL) / 2
    low = float(stats.chi2.ppf(tail, 2 * events)) / 2 if count else 0.0
    high = float(stats.chi2.ppf(1 - tail, 2 * events + 2)) / 2
    return inflation * low, inflation * high


def near_copies(real: Tensor, k: int = CALIBRATION_PAIRS) -> Threshold:
    """The distance of the k-th closest pair of real items (N, D), and how many are within it."""
    squared = float(closest_pairs(real, k)[-1])
    found = count_collisions(real, squared)
    return Threshold(squared, found.near, found.pairs)


def birthday(view: View) -> dict[str, Measured | Refused]:
    """Estimate the support of a model from how often two of its samples are near copies."""
    items = view.pool.first(BIRTHDAY_ITEMS)
    if len(items) < LEAST_ITEMS:
        raise Refused(f"only {len(items)} samples; at least {LEAST_ITEMS} are needed")
    pixels = items.pixels
    real = view.once("near copies", _calibrate)
    measured = support(count_collisions(pixels, real.squared), real)
    text = (
        f"{view.space}; near copies are closer than the {CALIBRATION_PAIRS}th closest of "
        f"{real.pairs} pairs of real items; {measured.convention}"
    )
    if not view.intervals:
        measured = measured._replace(interval=None)
    return {"distinct": measured._replace(convention=text)}


def _calibrate(train: Items, test: Items) -> Threshold:
    total = len(train) + len(test)
    if total < LEAST_ITEMS:
        raise Refused(f"only {total} real items; at least {LEAST_ITEMS} are needed")
    chosen = np.random.default_rng(0).permutation(total)[:CALIBRATION_ITEMS]
    rows = torch.from_numpy(np.sort(chosen))
    first, second = rows[rows < len(train)], rows[rows >= len(train)] - len(train)
    sides = [side.take(part).pixels for side, part in ((train, first), (test, second)) if len(part)]
    return near_copies(torch.cat(sides))
