"""Fréchet distance, KID, IS, precision and recall: exact answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genzoo.evaluation import fidelity


def gaussian(n: int, d: int, seed: int, mean: float = 0.0) -> Tensor:
    """n draws of N(mean, I_d)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + mean


def with_moments(variances: list[float], mean: list[float]) -> Tensor:
    """2d points ±a_i e_i whose mean and unbiased covariance are exactly those given."""
    d = len(variances)
    scale = torch.tensor(variances, dtype=torch.float64).mul((2 * d - 1) / 2).sqrt()
    points = torch.cat([torch.diag(scale), -torch.diag(scale)])
    return points + torch.tensor(mean, dtype=torch.float64)


def test_frechet_of_diagonal_gaussians_is_twelve() -> None:
    """diag(1,4,9) against diag(4,1,16), means apart by (1,2,2): 3 + 9 = 12.

    Fails with: the trace term's sign, |Δμ| for |Δμ|², n for n-1.
    """
    a, b = with_moments([1, 4, 9], [0, 0, 0]), with_moments([4, 1, 16], [1, 2, 2])
    assert fidelity.frechet_distance(a, b) == pytest.approx(12.0, abs=1e-6)


def test_frechet_of_a_shift() -> None:
    """N(0, Σ) against N(2, Σ) in 64 dimensions: 64 · 4. Fails with: a mean for the sum."""
    x = gaussian(500, 64, 0)
    assert fidelity.frechet_distance(x, x + 2) == pytest.approx(256.0, rel=1e-8)
    assert fidelity.frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8)


def test_frechet_bias() -> None:
    """Both sides N(0, I_16) with 1000 items: 2d/N + d(d+1)/(2N) = 0.168.

    Fails with: covariances of float32 overlap, or of one side used for both.
    """
    values = [
        fidelity.frechet_distance(gaussian(1000, 16, 2 * i), gaussian(1000, 16, 2 * i + 1))
        for i in range(8)
    ]
    # The standard deviation of one value is about 0.012.
    assert sum(values) / 8 == pytest.approx(0.168, abs=0.015)


def test_kernel_distance_of_shifted_normals_is_22() -> None:
    """Cubic KID of N(0,1) and N(1,1) in one dimension: 3 + 3 + 16 = 22.

    Fails with: kernel (xy)³ without 1, degree 2, or a sign of the cross term.
    """
    values = [
        fidelity.kernel_distance(gaussian(1000, 1, 2 * i), gaussian(1000, 1, 2 * i + 1, 1.0))
        for i in range(12)
    ]
    mean = sum(values) / 12
    error = torch.tensor(values).std() / 12**0.5
    assert abs(mean - 22) < 4 * error
    assert error < 1.2


def test_kernel_distance_is_unbiased() -> None:
    """Mean over 300 null pairs of 50 items in 4-D is 0 within 4 standard errors.

    Fails with: the V-statistic, which keeps the diagonal.
    """
    values = torch.tensor(
        [
            fidelity.kernel_distance(gaussian(50, 4, 2 * i), gaussian(50, 4, 2 * i + 1))
            for i in range(300)
        ]
    )
    assert abs(values.mean()) < 4 * values.std() / 300**0.5


def test_kernel_jackknife_leaves_blocks_out() -> None:
    """Values from block sums equal torch-fidelity's on the remaining items.

    Fails with: the diagonal kept, or n² for n(n-1) within a side.
    """
    x, y = gaussian(100, 3, 0), gaussian(100, 3, 1, 0.5)
    left_out = fidelity._kid_without_blocks(x, y)
    for b in (0, 7):
        keep = torch.arange(100) // 10 != b
        assert left_out[b] == pytest.approx(fidelity.kernel_distance(x[keep], y[keep]), rel=1e-9)


def test_large_kernel_distance_goes_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over disjoint parts. Fails with: only the first part used."""
    x, y = gaussian(90, 2, 0), gaussian(90, 2, 1, 1.0)
    parts = [fidelity.kernel_distance(x[i : i + 30], y[i : i + 30]) for i in (0, 30, 60)]
    monkeypatch.setattr(fidelity, "KID_ROWS", 30)
    assert fidelity.kernel_distance(x, y) == pytest.approx(sum(parts) / 3, rel=1e-9)


def test_inception_score_of_one_hot_and_constant() -> None:
    """Balanced and certain over 7 classes: 7; always the same: 1.

    Fails with: ten splits (each misses classes), probabilities in the place of logits.
    """
    certain = torch.eye(7, dtype=torch.float64).repeat_interleave(10, 0) * 1000
    assert fidelity.inception_score(certain) == pytest.approx(7.0, abs=1e-9)
    assert fidelity.inception_score(torch.ones(70, 7)) == pytest.approx(1.0, abs=1e-9)


def test_precision_and_recall_of_a_cluster() -> None:
    """Samples from a tenth of the data: precise, but they recall little.

    Fails with: the two sides exchanged.
    """
    real = torch.cat([gaussian(50, 8, i, 30.0 * i) for i in range(10)])
    precision, recall = fidelity.precision_recall(gaussian(500, 8, 99), real)
    assert precision.value > 0.8
    assert recall.value < 0.15


def test_precision_counts_the_boundary() -> None:
    """A sample exactly on the ball's surface is inside: `<=`. Fails with: `<`."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    samples = torch.tensor([[6.0], [40.0], [50.0], [60.0]])
    # The third neighbour of 3 is 0, at 3: 6 is just within.
    assert fidelity.precision_recall(samples, real)[0].value == 0.25


@pytest.mark.slow
def test_intervals_cover() -> None:
    """300 comparisons of different Gaussians: 95 % intervals hold the expectation in 92-98 %.

    Fails with: a bootstrap, or the reference set's variance left out.
    """
    pairs = [(gaussian(300, 6, 2 * i) * 0.8 + 0.3, gaussian(300, 6, 2 * i + 1)) for i in range(300)]
    for measure in (fidelity.measure_frechet, fidelity.measure_kernel_distance):
        found = [measure(a, b) for a, b in pairs]
        truth = sum(m.value for m in found) / 300
        inside = [
            m.interval is not None and m.interval.low <= truth <= m.interval.high for m in found
        ]
        assert 0.92 <= sum(inside) / 300 <= 0.98
