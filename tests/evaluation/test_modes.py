"""Counting modes where the truth is known."""

from __future__ import annotations

import pytest
import torch

from genzoo.data import open_dataset
from genzoo.evaluation import modes


def test_ceiling() -> None:
    """1 - exp(-9/2) = 98.889 %. Fails with: the one-dimensional 99.73 %, or 2 σ."""
    assert pytest.approx(0.98889, abs=5e-6) == modes.HIGH_QUALITY_CEILING


@pytest.mark.parametrize(("name", "count"), [("ring", 8), ("grid", 25)])
def test_real_points_reach_the_ceiling(name: str, count: int) -> None:
    """5,000 held-out points: all modes, 98.889 % within four standard errors.

    Fails with: 3 σ² for (3 σ)², the radius per coordinate (a square), `<` one σ.
    """
    data = open_dataset(name)
    assert data.modes is not None
    found = modes.count_modes(data.test.data, data.modes.centers, data.modes.sigma)
    assert found.covered == count
    error = (0.98889 * 0.01111 / len(data.test.data)) ** 0.5
    assert found.high_quality == pytest.approx(0.98889, abs=4 * error)


def test_only_good_samples_count() -> None:
    """One good sample at a mode, one far from every mode. Fails with: nearest mode always hit."""
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    points = torch.tensor([[0.1, 0.0], [13.1, 0.0]])
    assert modes.count_modes(points, centers, 1.0) == modes.ModeCount(1, 0.5)


def test_stacked_triples() -> None:
    """Distinct rows, not distinct digits. Fails with: `unique` without dim=0."""
    assert modes.count_stacked(torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 3]])) == 2
