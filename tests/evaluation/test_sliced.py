"""Sliced Wasserstein: closed forms, unequal sizes, and an interval that covers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_views import made_view
from torch import Tensor

from genzoo.evaluation import sliced
from genzoo.evaluation.measured import Refused


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_shift_in_the_plane() -> None:
    """A shift by s moves projections by s|cos|: 2s/π on average. Fails with: W2, or unsorted."""
    x = normal(200, 2, 0)
    moved = x[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    moved = moved + torch.tensor([3.0, 0.0])
    # 64 directions integrate |cos| with an error of π²/(12·64²) of it.
    assert sliced.sliced_wasserstein(moved, x) == pytest.approx(6 / math.pi, rel=1e-3)


@pytest.mark.parametrize("d", [1, 3, 16, 64, 300])
def test_shift_in_any_dimension(d: int) -> None:
    """s Γ(d/2) / (√π Γ((d+1)/2)), within 4 standard errors of 256 directions' mean of |cos|.

    Fails with: directions that are not unit vectors, or a shift that not all of them see.
    """
    x, shift = normal(50, d, 0), 2.0
    moved = x.clone()
    moved[:, 0] += shift
    expected = shift * sliced.mean_cosine(d)
    spread = shift * math.sqrt(max(0.0, 1 / d - sliced.mean_cosine(d) ** 2) / sliced.DIRECTIONS)
    found = sliced.sliced_wasserstein(moved, x)
    assert found == pytest.approx(expected, abs=4 * spread + 1e-12)


@pytest.mark.parametrize("d", [2, 8])
def test_scale(d: int) -> None:
    """N(0, 1) against N(0, 2²): E|Z| = √(2/π) whatever the direction.

    Fails with: W2, which gives 1.
    """
    found = sliced.sliced_wasserstein(2 * normal(8_000, d, 0), normal(8_000, d, 1))
    # One direction's error is below 2/√N; averaging only helps.
    assert found == pytest.approx(math.sqrt(2 / math.pi), abs=4 * 2 / math.sqrt(8_000))


def test_unequal_sizes_by_hand() -> None:
    """{0, 1} against {0, 0, 3}: ∫|F-G| = 1/6 on [0, 1] and 1/3 on [1, 3].

    Fails with: sorted values paired up, or one side's N for both.
    """
    a = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    b = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    assert sliced.sliced_wasserstein(a, b) == pytest.approx(1 / 6 + 2 / 3)


def test_directions_are_orthonormal() -> None:
    """Bases of 16, and the same every time. Fails with: directions that are not normalized."""
    axes = sliced.directions(16, normal(1, 1, 0))
    assert axes.shape == (16, 256)
    assert torch.allclose(axes[:, :16].T @ axes[:, :16], torch.eye(16, dtype=torch.float64))
    assert torch.equal(axes, sliced.directions(16, normal(1, 1, 0)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 30), st.floats(0.1, 100.0))
def test_properties(seed: int, d: int, n: int, scale: float) -> None:
    """A metric that scales, ignores order, and is 0 between equal sets.

    Fails with: pairs in the order given, or copies counted in one direction.
    """
    a, b = normal(n, d, seed), normal(n + 3, d, seed + 1)
    value = sliced.sliced_wasserstein(a, b)
    assert sliced.sliced_wasserstein(b.flip(0), a.flip(0)) == pytest.approx(value, rel=1e-9)
    assert sliced.sliced_wasserstein(a * scale, b * scale) == pytest.approx(value * scale)
    assert sliced.sliced_wasserstein(a, a.flip(0)) == pytest.approx(0, abs=1e-12)
    assert sliced.sliced_wasserstein(torch.cat([a, a]), b) == pytest.approx(value, rel=1e-9)


def test_null_goes_as_root_n() -> None:
    """Between equal laws four times the items halve the value: order -½, as catalogued.

    Fails with: squared distances, whose order is -1.
    """
    means = []
    for n in (100, 400):
        values = [
            sliced.sliced_wasserstein(normal(n, 8, 2 * i), normal(n, 8, 2 * i + 1))
            for i in range(40)
        ]
        means.append(sum(values) / 40)
    assert math.log(means[1] / means[0]) / math.log(4) == pytest.approx(-0.5, abs=0.05)


def test_bad_input() -> None:
    """One item and NaN are refused; constant sides give a number.

    Fails with: no check of finiteness.
    """
    x = normal(30, 3, 0)
    with pytest.raises(Refused, match="at least 2"):
        sliced.sliced(made_view(x[:1], x[:1]))
    with pytest.raises(Refused, match="finite"):
        sliced.sliced(made_view(x * math.nan, x))
    same = sliced.sliced(made_view(x * 0, x * 0))["sliced_wasserstein"]
    assert (same.value, same.interval) == (0.0, (0.0, 0.0))
    apart = sliced.sliced(made_view(x * 0 + 1, x * 0))["sliced_wasserstein"]
    assert apart.value > 0 and apart.interval is not None
    assert all(math.isfinite(end) for end in apart.interval)
    few = sliced.sliced(made_view(x[:5], x[5:10]))["sliced_wasserstein"]
    assert few.caution is not None and few.interval is None
    assert (
        sliced.sliced(made_view(x, x + 1, intervals=False))["sliced_wasserstein"].interval is None
    )


def covered(d: int, runs: int, change: str, n: int = 150) -> float:
    """Share of intervals that hold the mean of all values."""
    generator = torch.Generator().manual_seed(3)
    shift = torch.zeros(d, dtype=torch.float64)
    shift[0] = {"shift": 0.35, "far": 1.5}.get(change, 0.0)
    scale = 1.3 if change == "scale" else 1.0
    axes = sliced.directions(d, shift)[:, :64]
    values, intervals = [], []
    for _ in range(runs):
        x, y = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
        x = x * scale + shift
        values.append(sliced.sliced_wasserstein(x, y, axes))
        intervals.append(sliced.distance_interval(x, y, axes, values[-1])[0])
    truth = sum(values) / runs
    return sum(low <= truth <= high for low, high in intervals) / runs


@pytest.mark.parametrize("change", ["none", "far"])
def test_interval_covers_quickly(change: str) -> None:
    """200 comparisons; 4 standard errors of 95 %.

    Fails with: the pairs' variance left out (null), or the real items held fixed (far).
    """
    assert covered(2, 200, change) >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200)


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("change", ["none", "shift", "scale", "far"])
def test_interval_covers(d: int, change: str) -> None:
    """2000 comparisons hold the expectation in 93 to 98 %.

    Fails with: the jackknife's variance (99 % at d = 16 between equal laws).
    """
    assert 0.93 <= covered(d, 2000, change) <= 0.98
