"""Precision, recall, density, coverage, 1-NN two-sample: exact expectations, ties, parity."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_views import made_view
from torch import Tensor

from genzoo.evaluation import folds, neighbours
from genzoo.evaluation.measured import Refused


def points(n: int, d: int, seed: int) -> Tensor:
    """n draws of a skewed law in d dimensions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator, dtype=torch.float64).square()


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """n draws of an isotropic Gaussian in d dimensions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) * scale + shift


def prdc(samples: Tensor, real: Tensor) -> list[float]:
    """Precision, recall, density, coverage."""
    return neighbours.find_manifolds(samples, real).values().tolist()


@pytest.mark.parametrize(
    ("n", "m", "k", "expected"),
    [(1000, 1000, 5, 0.969), (1000, 1000, 3, 0.8754), (1000, 500, 5, 0.869), (2, 1, 1, 0.5)],
)
def test_expected_coverage(n: int, m: int, k: int, expected: float) -> None:
    """Values of the closed form. Fails with: the product from 0, or to k-1."""
    assert neighbours.expected_coverage(n, m, k) == pytest.approx(expected, abs=5e-4)


def test_null_coverage_and_density() -> None:
    """Same law on both sides: coverage by the formula, density 1 on average.

    Fails with: the item itself among its neighbours, axes exchanged, n for n-1 in a radius.
    """
    n, m, runs = 200, 100, 40
    found = torch.tensor([prdc(points(m, 3, 2 * i), points(n, 3, 2 * i + 1)) for i in range(runs)])
    for values, truth in ((found[:, 2], 1.0), (found[:, 3], neighbours.expected_coverage(n, m))):
        error = values.std() / runs**0.5
        assert abs(values.mean() - truth) < 4 * error
        assert error < 0.02


def test_the_example_of_prdc() -> None:
    """10,000 × 1000-d Gaussians of its README at a tenth of the size, against the package.

    Fails with: any change of k, of strictness, or of which side is which.
    """
    from prdc import compute_prdc

    samples, real = normal(1000, 100, 0), normal(1000, 100, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        at3, at5 = (compute_prdc(real.numpy(), samples.numpy(), k) for k in (3, 5))
    expected = [at3["precision"], at3["recall"], at5["density"], at5["coverage"]]
    assert prdc(samples, real) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 8), (500, 400, 64), (150, 700, 3)])
def test_parity(n: int, m: int, d: int) -> None:
    """prdc and torch-fidelity agree on features without ties, of unequal numbers too.

    Fails with: density divided by the wrong side's number, radii of the wrong k.
    """
    from prdc import compute_prdc
    from torch_fidelity import metric_prc

    samples, real = normal(n, d, 2, 0.9, 0.1), normal(m, d, 3)
    found = prdc(samples, real)
    with contextlib.redirect_stdout(io.StringIO()):
        at5 = compute_prdc(real.numpy(), samples.numpy(), 5)
    assert found[2:] == pytest.approx([at5["density"], at5["coverage"]], abs=1e-9)
    other = metric_prc.prc_features_to_metric(
        samples, real, prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=True, verbose=False
    )
    assert found[:2] == pytest.approx([other["precision"], other["recall"]], abs=1e-6)


def test_closed_and_open_balls() -> None:
    """On the surface: inside for precision (``<=``), outside for density (``<``).

    Real 0 … 6, sample at 9: the third neighbour of 6 is 3, at distance 3: on the surface. The
    fifth neighbour of 6 is 1, at 5; 11 is just on that surface. Fails with: `<` for `<=` or back.
    """
    real = torch.arange(7, dtype=torch.float64)[:, None]
    far = torch.tensor([[100.0], [200.0], [300.0]], dtype=torch.float64)
    on_third = torch.cat([torch.tensor([[9.0]], dtype=torch.float64), far])
    assert prdc(on_third, real)[0] == 0.25
    on_fifth = torch.cat([torch.tensor([[11.0]], dtype=torch.float64), far])
    assert prdc(on_fifth, real)[2] == 0.0
    within = torch.cat([torch.tensor([[10.999]], dtype=torch.float64), far])
    assert prdc(within, real)[2] == pytest.approx(1 / (5 * 4))


def test_precision_and_recall_of_a_cluster() -> None:
    """Samples from a tenth of the data: precise, but they recall little.

    Fails with: the two sides exchanged.
    """
    real = torch.cat([normal(50, 8, i, shift=30.0 * i) for i in range(10)])
    precision, recall, _, coverage = prdc(normal(500, 8, 99), real)
    assert precision > 0.8
    assert recall < 0.15 and coverage < 0.15


def test_two_sample_by_hand() -> None:
    """Samples 0, 1, 10 and real 2.5, 11, 30.

    0 -> 1 right, 1 -> 0 right, 10 -> 11 wrong, 2.5 -> 1 wrong, 11 -> 10 wrong, 30 -> 11 right.
    Fails with: the item itself as its neighbour, or verdicts of one side only.
    """
    samples = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64)
    real = torch.tensor([[2.5], [11.0], [30.0]], dtype=torch.float64)
    assert neighbours.nn_accuracy(samples, real) == pytest.approx(3 / 6)


def test_two_sample_ties_count_half() -> None:
    """Every item occurs twice on both sides. Fails with: `<=` (1.0) or `<` alone (0.0)."""
    x = points(20, 2, 0).repeat(2, 1)
    assert neighbours.nn_accuracy(x, x) == 0.5


def test_two_sample_extremes() -> None:
    """Apart: 1; the very same items: 0; one law: one half.

    Fails with: the error rate for the accuracy.
    """
    x = points(300, 5, 1)
    assert neighbours.nn_accuracy(x, x + 9) == 1.0
    assert neighbours.nn_accuracy(x, x) == 0.0
    null = [neighbours.nn_accuracy(points(300, 5, i), points(300, 5, 50 + i)) for i in range(2, 8)]
    assert sum(null) / 6 == pytest.approx(0.5, abs=0.04)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row blocks of 3 give what one block gives. Fails with: self masked at a block's own row."""
    a, b = points(50, 4, 0), points(60, 4, 1)
    accuracy, found = neighbours.nn_accuracy(a, b[:50]), neighbours.find_manifolds(a, b)
    close = neighbours.nearest(a, a, own=True)
    monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", 150)
    assert neighbours.nn_accuracy(a, b[:50]) == accuracy
    in_blocks = neighbours.find_manifolds(a, b)
    assert all(torch.equal(x, y) for x, y in zip(in_blocks, found, strict=True))
    assert torch.equal(neighbours.nearest(a, a, own=True).row, close.row)


def test_no_matrix_of_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest block holds `BLOCK_NUMBERS` distances, whatever N.

    Fails with: a block of rows chosen without regard to the columns.
    """
    seen = []
    blocks = neighbours.distance_blocks

    def watched(a: Tensor, b: Tensor):  # type: ignore[no-untyped-def]
        for block, d in blocks(a, b):
            seen.append(d.numel())
            yield block, d

    monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", 20_000)
    monkeypatch.setattr(neighbours, "distance_blocks", watched)
    neighbours.find_manifolds(points(500, 2, 0), points(700, 2, 1))
    assert 10_000 < max(seen) <= 20_000


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(8, 40), d=st.integers(1, 6))
def test_order_scale_and_place_do_not_matter(seed: int, n: int, d: int) -> None:
    """Permuting either side, scaling by a power of two and shifting by a whole number.

    Fails with: a comparison of row numbers, an absolute tolerance.
    """
    a, b = points(n, d, seed), points(n, d, seed + 1)
    # Numbers with few bits, so that shifts and squares are exact and ties stay ties.
    a, b = (a * 1024).round() / 64, (b * 1024).round() / 64
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    expected, accuracy = prdc(a, b), neighbours.nn_accuracy(a, b)
    assert prdc(a[shuffled], b) == pytest.approx(expected, abs=1e-12)
    assert prdc(a, b[shuffled]) == pytest.approx(expected, abs=1e-12)
    assert prdc(a * 4 + 3, b * 4 + 3) == pytest.approx(expected, abs=1e-12)
    assert neighbours.nn_accuracy(b * 4 + 3, a[shuffled] * 4 + 3) == pytest.approx(accuracy)


def test_degenerate_sides() -> None:
    """All samples alike, all real items alike, both: numbers, never NaN.

    Fails with: a division by a zero radius or by the number of hits.
    """
    one, many = torch.ones(60, 3, dtype=torch.float64), points(60, 3, 0)
    for a, b in ((one, many), (many, one), (one, one), (one, one + 5)):
        assert all(math.isfinite(v) for v in prdc(a, b))
        assert math.isfinite(neighbours.nn_accuracy(a, b))
        found = {**neighbours.manifolds(made_view(a, b)), **neighbours.two_sample(made_view(a, b))}
        for measured in found.values():
            low, high = measured.interval or (math.nan, math.nan)
            assert low <= measured.value <= high
    assert prdc(one, one)[:2] == [1.0, 1.0]


def test_too_few_are_refused() -> None:
    """Five items have no five neighbours. Fails with: `topk` out of range."""
    with pytest.raises(Refused, match="more than k = 5"):
        neighbours.manifolds(made_view(points(5, 2, 0), points(5, 2, 1)))
    with pytest.raises(Refused, match="at least 2"):
        neighbours.two_sample(made_view(points(1, 2, 0), points(1, 2, 1)))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(wrong: float) -> None:
    """One number on either side. Fails with: no check, since comparisons with NaN are false."""
    good, bad = points(60, 3, 0), points(60, 3, 1)
    bad[7, 1] = wrong
    for a, b in ((good, bad), (bad, good)):
        for measure in (neighbours.manifolds, neighbours.two_sample):
            with pytest.raises(Refused, match="not finite"):
                measure(made_view(a, b))


class Plain:
    """A statistic that needs nothing of one side alone."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], term: float = 1.0) -> None:
        self.function, self.term = function, term

    def alone(self, items: Tensor) -> Tensor:
        return items

    def between(self, samples: Tensor, real: Tensor) -> folds.Terms:
        value = self.function(samples, real)
        unit = self.term if len(samples) == 64 else 1.0
        return folds.Terms(value, torch.full_like(value, unit))


def mean_difference(a: Tensor, b: Tensor) -> Tensor:
    return a.mean(0) - b.mean(0)


class TestFolds:
    """Standard errors from disjoint folds."""

    def test_of_a_difference_of_means(self) -> None:
        """σ/√N on either side: 1/√400 and 3/√400.

        Fails with: variances not divided by the number of folds, sides exchanged.
        """
        found = [
            folds.fold_errors(
                Plain(mean_difference), normal(400, 1, 2 * i), normal(400, 1, 2 * i + 1, 3)
            )
            for i in range(60)
        ]
        own = torch.cat([e.sampling for e in found]).square().mean().sqrt()
        other = torch.cat([e.reference for e in found]).square().mean().sqrt()
        assert own == pytest.approx(1 / 20, rel=0.08)
        assert other == pytest.approx(3 / 20, rel=0.08)

    def test_folds_are_disjoint_and_equal(self) -> None:
        """Fails with: drawing with replacement, or a remainder left in one fold."""
        for a, b in folds._partitions(103, 41, 4, 3):
            assert [len(part) for part in a] == [25] * 4 and [len(part) for part in b] == [10] * 4
            assert len(torch.cat(a).unique()) == 100

    def test_interaction_is_shared_out(self) -> None:
        """Values that are noise of variance 1 in each cell: rows and columns get a half each.

        Fails with: the interaction dropped, or counted twice.
        """
        generator = torch.Generator().manual_seed(0)

        def noise(a: Tensor, b: Tensor) -> Tensor:
            return torch.randn(1, generator=generator, dtype=torch.float64)

        x = points(64, 1, 0)
        rows, columns, unit = folds._cell_variance(Plain(noise), x, x, 4, 400)
        assert rows == pytest.approx(0.5, rel=0.1) and columns == pytest.approx(0.5, rel=0.1)
        assert unit == 1

    def test_scale_of_a_term_and_drift(self) -> None:
        """Terms that vary four times as much at full size, and a variance that falls as N^-3.

        Of halves 1/32^3: half of it at full size, times 4, times the drift 1/4, which is cut at
        0.8. Fails with: the scale or the drift dropped, or turned round.
        """
        generator = torch.Generator().manual_seed(0)

        def shrinking(a: Tensor, b: Tensor) -> Tensor:
            return torch.randn(1, generator=generator, dtype=torch.float64) / len(a) ** 1.5

        x = points(64, 1, 0)
        found = [folds.fold_errors(Plain(shrinking, 4.0), x, x) for _ in range(300)]
        variance = torch.cat([e.sampling**2 + e.reference**2 for e in found]).mean()
        assert variance == pytest.approx(4 * 0.8 / (2 * 32**3), rel=0.12)


# (N, d, scale, shift): equal laws and different ones, low and high dimension.
LAWS = [(200, 2, 1.0, 0.0), (200, 4, 0.8, 0.4), (200, 16, 1.0, 0.0), (300, 64, 0.95, 0.1)]


def shares_inside(law: tuple[int, int, float, float], runs: int) -> Tensor:
    """How often the 95 % intervals hold the mean, (5,): P, R, D, C and 1-NN."""
    n, d, scale, shift = law
    values, intervals = [], []
    for i in range(runs):
        view = made_view(normal(n, d, 2 * i, scale, shift), normal(n, d, 2 * i + 1))
        found = [*neighbours.manifolds(view).values(), *neighbours.two_sample(view).values()]
        values.append([m.value for m in found])
        intervals.append([m.interval for m in found])
    truth, bounds = torch.tensor(values).mean(0), torch.tensor(intervals)
    return ((bounds[..., 0] <= truth) & (truth <= bounds[..., 1])).double().mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_intervals_cover(law: tuple[int, int, float, float]) -> None:
    """2,000 comparisons: 95 % intervals hold the expectation at this N in 93-97 %.

    Fails with: a jackknife (99 %), folds without the factor p(1-p), one side's variance only.
    """
    inside = shares_inside(law, 2000)
    assert ((inside >= 0.93) & (inside <= 0.97)).all(), inside
