"""Fréchet distance, FD∞, KID and inception score: exact answers, parity, calibrated intervals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_views import AsTheyAre, made_view
from torch import Tensor

from genzoo.evaluation import fidelity, kernels
from genzoo.evaluation.features import Features
from genzoo.evaluation.kernels import kernel_distance, kernel_spread
from genzoo.evaluation.measured import NotApplicable, Refused
from genzoo.evaluation.moments import frechet_of_features, frechet_spread
from genzoo.evaluation.statistics import Interval, distance_interval, score_interval
from genzoo.evaluation.view import Items, View
from genzoo.types import DataSpec


def gaussian(n: int, d: int, seed: int, mean: float = 0.0) -> Tensor:
    """n draws of N(mean, I_d)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + mean


def skewed(n: int, d: int, seed: int) -> Tensor:
    """Correlated, non-Gaussian features: relu of a linear map of Gaussians."""
    return torch.relu(gaussian(n, d, seed) @ (gaussian(d, d, 5) / math.sqrt(d)) + 0.2)


class WithLogits(AsTheyAre):
    """Items are their own class scores."""

    def features(self, items: Tensor) -> Features:
        flat = items.flatten(1).double()
        return Features(flat, flat)


def view_of_logits(logits: Tensor) -> View:
    """Images, one pixel a class, whose pixels are their class scores."""
    view = made_view(logits, logits)
    spec = DataSpec((1, 1, logits.shape[1]), 256)
    items = Items(logits, None, WithLogits())
    dataset = replace(view.dataset, spec=spec)
    return replace(view, samples=items, pool=items, dataset=dataset)


def share_inside(found: list[tuple[float, Interval]]) -> float:
    """Share of the intervals that hold the mean of all values."""
    truth = sum(value for value, _ in found) / len(found)
    return sum(low <= truth <= high for _, (low, high) in found) / len(found)


# -- Fréchet distance


def test_frechet_of_a_view() -> None:
    """Value, interval and two errors; floors spend no time on intervals.

    Fails with: intervals computed although unwanted, or the error of one side for both.
    """
    view = made_view(skewed(300, 6, 0) * 0.9, skewed(300, 6, 1))
    found = fidelity.frechet(view)["fd"]
    assert found.value == frechet_of_features(view.samples.features, view.real.features)
    assert found.interval is not None and found.interval.low < found.value < found.interval.high
    assert found.sampling_error and found.reference_error and found.caution is None
    bare = fidelity.frechet(view.without_intervals())["fd"]
    assert bare.value == found.value and bare.interval is None and bare.sampling_error is None


def test_frechet_warns_of_few_items() -> None:
    """Fails with: N < d taken for N < 2d."""
    cautions = [
        fidelity.frechet(made_view(gaussian(n, 40, 0), gaussian(n, 40, 1)))["fd"].caution
        for n in (40, 79, 80)
    ]
    assert cautions[0] is not None and "singular" in cautions[0]
    assert cautions[1] is not None and "bias" in cautions[1]
    assert cautions[2] is None


@pytest.mark.parametrize("measure", [fidelity.frechet, fidelity.frechet_infinity, fidelity.kernel])
def test_refusals(measure: Any) -> None:
    """Never NaN, never a traceback: reasons, or finite answers for constant items.

    Fails with: a check of finiteness left out, a division by a variance of zero.
    """
    x = gaussian(120, 3, 0)
    broken = x.clone()
    broken[5, 1] = math.nan
    for samples in (broken, x[:1]):
        with pytest.raises(Refused, match="finite|two items|too few"):
            measure(made_view(samples, x))
    for samples, real in ((torch.ones_like(x), x), (x, torch.ones_like(x)), (x * 0, x * 0), (x, x)):
        (found,) = measure(made_view(samples, real)).values()
        assert math.isfinite(found.value) and all(map(math.isfinite, found.interval))
        assert found.interval.low <= found.value <= found.interval.high


# -- FD∞


def test_extrapolation_is_a_linear_fit() -> None:
    """Exact for values that are linear in 1 / size. Fails with: a fit in the size itself."""
    for plan in (fidelity.plan_extrapolation(), fidelity.plan_extrapolation(one_each=True)):
        sizes = [high - low for low, high in plan.parts]
        assert len({round(size, 9) for size in sizes}) == 15
        assert min(low for low, _ in plan.parts) >= 0
        assert max(high for _, high in plan.parts) <= 1 + 1e-9
        fitted = sum(w * (3 + 7 / s) for w, s in zip(plan.weights, sizes, strict=True))
        assert fitted == pytest.approx(3.0)


def test_variance_factors() -> None:
    """Of all items alone both are 1; of two halves averaged, pairs across are lost: 1 and 2.

    Fails with: pairs weighted by 1 / |S|.
    """
    assert fidelity.Extrapolation(((0, 1),), (1,)).variance_factors() == pytest.approx((1, 1))
    halves = fidelity.Extrapolation(((0, 0.5), (0.5, 1)), (0.5, 0.5))
    assert halves.variance_factors() == pytest.approx((1, 2))


def test_infinity_is_unbiased() -> None:
    """Between equal laws the mean of 60 is 0 within 4 standard errors; FD itself has a bias.

    Fails with: intercept and slope exchanged; subsets of one side only.
    """
    plan = fidelity.plan_extrapolation()
    pairs = [(gaussian(500, 16, 2 * i), gaussian(500, 16, 2 * i + 1)) for i in range(60)]
    values = torch.tensor([fidelity.extrapolate(x, y, plan) for x, y in pairs])
    assert abs(values.mean()) < 4 * values.std() / 60**0.5
    assert values.std() < 0.06
    assert frechet_of_features(*pairs[0]) > 0.2


def test_infinity_of_a_shift() -> None:
    """N(0, I) and N(½, I) in 8 dimensions: 2, within 4 of its own standard errors.

    Fails with: the smallest sizes weighted most, which makes the error three times as large.
    """
    found = fidelity.frechet_infinity(made_view(gaussian(2000, 8, 0, 0.5), gaussian(2000, 8, 1)))
    measured = found["fd_infinity"]
    assert measured.interval is not None and measured.caution is None
    assert measured.sampling_error and measured.reference_error
    error = math.hypot(measured.sampling_error, measured.reference_error)
    assert abs(measured.value - 2) < 4 * error
    assert 0.06 < error < 0.12  # 4δ²·2/N + …: about 0.09


def test_infinity_needs_a_hundred() -> None:
    """Fails with: no minimum, or no word of caution below five hundred."""
    with pytest.raises(Refused, match="99 items are too few to extrapolate; 100"):
        fidelity.frechet_infinity(made_view(gaussian(99, 3, 0), gaussian(99, 3, 1)))
    found = fidelity.frechet_infinity(made_view(gaussian(100, 3, 0), gaussian(100, 3, 1)))
    assert found["fd_infinity"].caution == "extrapolated from only 100 items in 3 dimensions"


# -- KID


def plain_kid(x: Tensor, y: Tensor) -> float:
    """From full kernel matrices, with `itertools`-plain sums."""
    n, m, d = len(x), len(y), x.shape[1]
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def test_kid_of_shifted_normals_is_22() -> None:
    """Cubic KID of N(0,1) and N(1,1) in one dimension: 3 + 3 + 16 = 22.

    Fails with: kernel (xy)³ without 1, degree 2, or a sign of the cross term.
    """
    values = torch.tensor(
        [
            kernel_distance(gaussian(2000, 1, 2 * i), gaussian(2000, 1, 2 * i + 1, 1.0)).value
            for i in range(25)
        ]
    )
    error = values.std() / 5
    assert abs(values.mean() - 22) < 4 * error
    assert error < 0.6


def test_kid_is_unbiased() -> None:
    """Mean over 400 null pairs of 50 and 30 items is 0 within 4 standard errors.

    Fails with: the V-statistic, which keeps the diagonal.
    """
    values = torch.tensor(
        [
            kernel_distance(gaussian(50, 4, 2 * i), gaussian(30, 4, 2 * i + 1)).value
            for i in range(400)
        ]
    )
    assert abs(values.mean()) < 4 * values.std() / 400**0.5


def test_kid_parity() -> None:
    """As torch-fidelity has it, with one subset of everything. Fails with: gamma 1 for 1/d."""
    from torch_fidelity import metric_kid

    x, y = skewed(300, 24, 0) * 1.2, skewed(300, 24, 1)
    theirs = metric_kid.kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=300, verbose=False
    )[metric_kid.KEY_METRIC_KID_MEAN]
    assert kernel_distance(x, y).value == pytest.approx(theirs, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 50), st.integers(0, 100))
def test_kid_of_any_sizes_and_tiles(n: int, m: int, tile: int, seed: int) -> None:
    """Fails with: an off-diagonal tile counted once, or its mirror image forgotten."""
    x, y = skewed(n, 3, seed), gaussian(m, 3, seed + 1)
    found = kernel_distance(x, y, tile)
    assert found.value == pytest.approx(plain_kid(x, y), rel=1e-9, abs=1e-10)
    whole = kernel_distance(x, y, 1000)
    assert found.within_x.squares == pytest.approx(whole.within_x.squares, rel=1e-9)
    torch.testing.assert_close(found.between.columns, whole.between.columns)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert kernel_distance(x[order], y, tile).value == pytest.approx(found.value, abs=1e-10)


def test_kid_second_order() -> None:
    """U-centred squares estimate E h² of the centred kernel without bias.

    Truth from 20,000 independent pairs; fails with: plain double centring at N = 8.
    """
    far = gaussian(3000, 2, 0)
    kernel = kernels.cubic_kernel(far, far)
    truth = float(kernels._centred(kernel).square().mean())
    values = []
    for i in range(1500):
        sums = kernels.kernel_sums(gaussian(8, 2, i + 1), None, 1.0)
        # Without the clamp that keeps single estimates from below 0.
        inside = float(sums.rows.square().sum()) * 2 / 6 - float(sums.rows.sum()) ** 2 / 42
        values.append((sums.squares - inside) / 40)
        assert kernels._centred_square(sums) == pytest.approx(max(0.0, values[-1]))
    found = torch.tensor(values)
    assert abs(found.mean() - truth) < 4 * found.std() / 1500**0.5 + 0.05 * truth


def test_kid_of_huge_features_is_refused() -> None:
    """Fails with: infinity minus infinity handed out as NaN."""
    with pytest.raises(Refused, match="too large"):
        kernel_distance(gaussian(10, 2, 0) * 1e60, gaussian(10, 2, 1))


# -- inception score


def test_inception_score_of_one_hot_and_constant() -> None:
    """Balanced and certain over 7 classes: 7; always the same: 1.

    Fails with: ten splits (each misses classes), probabilities in the place of logits.
    """
    certain = torch.eye(7, dtype=torch.float64).repeat_interleave(10, 0) * 1000
    assert fidelity.inception_score(certain) == pytest.approx(7.0, abs=1e-9)
    assert fidelity.inception_score(torch.ones(70, 7)) == pytest.approx(1.0, abs=1e-9)
    assert fidelity.inception_score(certain[:10]) == 1.0


def test_inception_parity() -> None:
    """As torch-fidelity has it with one split. Fails with: log of the mean for mean of the log."""
    from torch_fidelity import metric_isc

    logits = gaussian(400, 10, 0) * 3
    theirs = metric_isc.isc_features_to_metric(logits, splits=1, shuffle=False)
    value = fidelity.inception_score(logits)
    assert value == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_MEAN], rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_inception_sums_merge(sizes: list[int]) -> None:
    """Parts add up to the whole. Fails with: the counts not added."""
    logits = gaussian(sum(sizes), 5, sum(sizes)) * 2
    first, *others = (fidelity.ClassSums.of(part) for part in logits.split(sizes))
    for part in others:
        first = first.merge(part)
    assert first.score == pytest.approx(fidelity.inception_score(logits), rel=1e-12)


def test_inception_of_a_view() -> None:
    """Fails with: an interval beyond 1 and K, no word on few samples, points given a score."""
    found = fidelity.inception(view_of_logits(gaussian(300, 10, 0) * 3))["inception_score"]
    assert found.interval is not None and found.interval.low < found.value < found.interval.high
    assert found.sampling_error and found.reference_error is None and found.caution is None
    few = fidelity.inception(view_of_logits(gaussian(6, 10, 0)))["inception_score"]
    assert few.caution == "6 samples for 10 classes"
    for logits in (torch.zeros(50, 3), torch.eye(3).repeat(20, 1) * 1e4):
        extreme = fidelity.inception(view_of_logits(logits))["inception_score"]
        assert extreme.interval is not None
        assert 1 <= extreme.interval.low <= extreme.value <= extreme.interval.high <= 3 + 1e-9
    uneven = torch.eye(2)[[0, 1, 1, 1, 1, 1, 1, 1]] * 1e4
    capped = fidelity.inception(view_of_logits(uneven))["inception_score"]
    assert capped.interval is not None and capped.interval.high == 2.0


def test_inception_refusals() -> None:
    """Fails with: an AttributeError without a classifier."""
    logits = gaussian(60, 4, 0)
    with pytest.raises(NotApplicable):
        fidelity.inception(made_view(logits, logits))
    view = view_of_logits(logits)
    with pytest.raises(Refused, match="made has no labels to train a classifier on"):
        fidelity.inception(replace(view, samples=Items(logits, None, AsTheyAre())))
    with pytest.raises(Refused, match="two samples"):
        fidelity.inception(view_of_logits(logits[:1]))
    with pytest.raises(Refused, match="finite"):
        fidelity.inception(view_of_logits(logits * math.inf))


# -- intervals


def with_interval(name: str, x: Tensor, y: Tensor) -> tuple[float, Interval]:
    """One metric's value and interval."""
    if name == "kid":
        found = kernel_distance(x, y)
        spread = kernel_spread(x, y, found)
        return found.value, distance_interval(found.value, spread, offset=spread.bias)
    plan, whole = fidelity.plan_extrapolation(), frechet_spread(x, y)
    value = fidelity.extrapolate(x, y, plan)
    spread, steep = fidelity.extrapolated_spread(value, whole, plan)
    return value, score_interval(value, spread.variance, (steep, steep))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.8, 0.3)])
def test_kid_intervals_quickly(scale: float, shift: float) -> None:
    """300 comparisons; the slow test is strict. Fails with: the second order left on or out."""
    found = [
        with_interval("kid", skewed(150, 6, 2 * i) * scale + shift, skewed(150, 6, 2 * i + 1))
        for i in range(300)
    ]
    assert 0.91 <= share_inside(found) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kid", "fd_infinity"])
@pytest.mark.parametrize("law", [gaussian, skewed])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.8, 0.3)])
@pytest.mark.parametrize(("n", "d"), [(200, 4), (400, 16), (300, 64)])
def test_coverage(name: str, law: Any, scale: float, shift: float, n: int, d: int) -> None:
    """2,000 comparisons (500 of FD∞): 95 % intervals hold the expectation in 93 to 97 %.

    Two standard errors (1 %, 2 %) are allowed for. Fails with: the variance of a plain
    jackknife, which is twice what it should be between equal laws.
    """
    runs, slack = (2000, 0.01) if name == "kid" else (500, 0.02)
    found = [
        with_interval(name, law(n, d, 2 * i) * scale + shift, law(n, d, 2 * i + 1))
        for i in range(runs)
    ]
    assert 0.93 - slack <= share_inside(found) <= 0.97 + slack


@pytest.mark.parametrize(("n", "sharpness"), [(200, 1000.0), (200, 4.0), (100, 8.0)])
def test_inception_coverage(n: int, sharpness: float) -> None:
    """2,000 sets of ten balanced classes, from certain (a degenerate statistic) to vague.

    Fails with: a symmetric interval (over 99 % where certain).
    """
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(2000):
        classes = torch.randint(10, (n,), generator=generator)
        logits = torch.nn.functional.one_hot(classes, 10).double() * sharpness
        logits += 1.5 * torch.randn(n, 10, generator=generator, dtype=torch.float64)
        value = math.log(fidelity.inception_score(logits))
        found.append((value, fidelity.inception_interval(value, fidelity.inception_spread(logits))))
    assert 0.93 <= share_inside(found) <= 0.97
