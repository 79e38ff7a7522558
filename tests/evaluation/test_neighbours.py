"""Density, coverage, 1-NN two-sample: exact expectations and ties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.evaluation import neighbours


def points(n: int, d: int, seed: int) -> Tensor:
    """n draws of a skewed law in d dimensions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator, dtype=torch.float64).square()


@pytest.mark.parametrize(
    ("n", "m", "k", "expected"),
    [(1000, 1000, 5, 0.969), (1000, 1000, 3, 0.8754), (1000, 500, 5, 0.869), (2, 1, 1, 0.5)],
)
def test_expected_coverage(n: int, m: int, k: int, expected: float) -> None:
    """Values of the closed form. Fails with: the product from 0, or to k-1."""
    assert neighbours.expected_coverage(n, m, k) == pytest.approx(expected, abs=5e-4)


def test_null_coverage_and_density() -> None:
    """Same law on both sides: coverage by the formula, density 1 on average.

    Fails with: the item itself among its neighbours, axes exchanged, `any` over real items.
    """
    n, m, runs = 200, 100, 40
    density, coverage = [], []
    for i in range(runs):
        d, c = neighbours.density_coverage(points(m, 3, 2 * i), points(n, 3, 2 * i + 1))
        density.append(d.value)
        coverage.append(c.value)
    for values, truth in ((density, 1.0), (coverage, neighbours.expected_coverage(n, m))):
        mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / runs**0.5
        assert abs(mean - truth) < 4 * error
        assert error < 0.02


def test_density_is_strict() -> None:
    """A sample exactly on a ball's surface is outside. Fails with: `<=`."""
    real = torch.tensor([[0.0], [2.0], [100.0]], dtype=torch.float64)
    on_surface = torch.tensor([[-2.0]], dtype=torch.float64)
    within = torch.tensor([[-1.9]], dtype=torch.float64)
    both = torch.cat([within, on_surface])
    density, coverage = neighbours.density_coverage(both, real, k=1)
    # -1.9 lies in the balls of 0 (radius 2) and of 100 (radius 98 does not reach): one hit.
    assert density.value == 0.5
    assert coverage.value == pytest.approx(1 / 3)


def test_two_sample_by_hand() -> None:
    """Samples 0, 1, 10 and real 2.5, 11, 30: verdicts r r w | w w w with nearest neighbours.

    Fails with: the item itself as its neighbour, or verdicts of one side only.
    """
    samples = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64)
    real = torch.tensor([[2.5], [11.0], [30.0]], dtype=torch.float64)
    # 0 -> 1 right, 1 -> 0 right, 10 -> 11 wrong, 2.5 -> 1 wrong, 11 -> 10 wrong, 30 -> 11 right.
    assert neighbours.two_sample_1nn(samples, real).value == pytest.approx(3 / 6)


def test_two_sample_ties_count_half() -> None:
    """Every item occurs twice on both sides. Fails with: `<=` (1.0) or `<` alone (0.0)."""
    x = points(20, 2, 0).repeat(2, 1)
    assert neighbours.two_sample_1nn(x, x).value == 0.5


def test_two_sample_extremes() -> None:
    """Apart: 1; the very same items: 0; one law: one half.

    Fails with: the error rate for the accuracy.
    """
    x = points(300, 5, 1)
    assert neighbours.two_sample_1nn(x, x + 9).value == 1.0
    assert neighbours.two_sample_1nn(x, x).value == 0.0
    null = [
        neighbours.two_sample_1nn(points(300, 5, i), points(300, 5, 50 + i)) for i in range(2, 8)
    ]
    assert sum(m.value for m in null) / 6 == pytest.approx(0.5, abs=0.04)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row blocks of 3 give what one block gives. Fails with: self masked at a block's own row."""
    a, b = points(50, 4, 0), points(50, 4, 1)
    whole = neighbours.two_sample_1nn(a, b)
    counted = neighbours.balls(a, b, 2, closed=True)
    monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", 150)
    assert neighbours.two_sample_1nn(a, b) == whole
    in_blocks = neighbours.balls(a, b, 2, closed=True)
    assert all(torch.equal(x, y) for x, y in zip(in_blocks, counted, strict=True))


def test_sliced_wasserstein_of_a_shift() -> None:
    """A shift by s moves projections by s|cos|: 2s/π on average. Fails with: W2, or unsorted."""
    x = points(200, 2, 0)
    moved = x[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    moved = moved + torch.tensor([3.0, 0.0])
    assert neighbours.sliced_wasserstein(moved, x) == pytest.approx(6 / math.pi, abs=1e-2)


def test_ball_counts_by_hand() -> None:
    """Centres 0, 1, 5 (radii 1, 1, 4) and items 0.5, 3, 100, strictly.

    Fails with: unique holders taken from items in several balls, or rows and columns exchanged.
    """
    centers = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    items = torch.tensor([[0.5], [3.0], [100.0]], dtype=torch.float64)
    found = neighbours.balls(centers, items, 1, closed=False)
    assert found.of_item.tolist() == [2, 1, 0]
    assert found.of_center.tolist() == [1, 1, 1]
    assert found.only_item.tolist() == [0, 0, 1]
    assert found.only_center.tolist() == [2, 1, 0]
    assert neighbours.held_share(found).value == pytest.approx(2 / 3)
    assert neighbours.hit_share(found).value == 1.0


@pytest.mark.slow
def test_ball_intervals_cover() -> None:
    """In 200 comparisons of different laws 95 % intervals hold the expectation in 93 % or more.

    Fails with: the other side held fixed (76 to 87 %).
    """
    found = []
    for i in range(200):
        samples, real = points(300, 6, 2 * i).mul(0.9), points(300, 6, 2 * i + 1)
        found.append(neighbours.density_coverage(samples, real))
    for measured in zip(*found, strict=True):
        truth = sum(m.value for m in measured) / 200
        intervals = [m.interval for m in measured if m.interval is not None]
        assert sum(low <= truth <= high for low, high in intervals) >= 186
