"""Memory: closed forms, nulls, coverage of the intervals. Real digits: `test_memory_of_digits`."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from genzoo.evaluation import memorization
from genzoo.evaluation.authenticity import Reaches, closest, measure_authenticity
from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.overfitting import (
    FLD_BLOCKS,
    NARROWEST,
    Cells,
    copying_test,
    fit_variances,
    likelihood_gap,
    typical_distance,
)
from genzoo.evaluation.statistics import around

Side = tuple[Tensor, Tensor, Tensor]


def normal(n: int, d: int, seed: int) -> Tensor:
    """n draws of N(0, I_d)."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(law: str, sizes: tuple[int, int, int], d: int, seed: int) -> Side:
    """Samples, train and test; samples are `null`, `wide`, or part copies of train: `copies`."""
    x, train, test = (normal(n, d, 10 * seed + i) for i, n in enumerate(sizes))
    if law == "wide":
        x = 1.5 * x
    if law == "copies":
        random = torch.Generator().manual_seed(seed)
        copied = torch.rand(len(x), generator=random) < 0.3
        x[copied] = train[torch.randint(len(train), (int(copied.sum()),), generator=random)]
    return x, train, test


# -- train-NN share -------------------------------------------------------------------------


def share_of(x: Tensor, train: Tensor, test: Tensor) -> Measured:
    return memorization.train_nn_share(memorization.attribute(x, train, test))


@pytest.mark.parametrize(("n_train", "n_test"), [(7, 3), (3, 7), (5, 5)])
def test_share_and_weights_are_means_over_all_subsets(n_train: int, n_test: int) -> None:
    """The closed forms equal enumeration of every equal-sized subset of the larger side.

    Fails with: C(n, r) for C(n-r, m), ranks off by one, sides exchanged.
    """
    train, test, samples = normal(n_train, 2, 0), normal(n_test, 2, 1), normal(6, 2, 2)
    m = min(n_train, n_test)
    shares, weights = [], torch.zeros(n_train + n_test, dtype=torch.float64)
    for a in combinations(range(n_train), m):
        for b in combinations(range(n_test), m):
            rows = torch.tensor([*a, *(n_train + i for i in b)])
            winner = rows[torch.cdist(samples, torch.cat([train, test])[rows]).argmin(1)]
            weights += torch.bincount(winner, minlength=n_train + n_test)
            shares.append((winner < n_train).double())
    found = memorization.attribute(samples, train, test)
    assert torch.allclose(found.share, torch.stack(shares).mean(0), atol=1e-12)
    both = torch.cat([found.train_weight, found.test_weight])
    assert torch.allclose(both, weights / len(shares), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.integers(5, 20), st.integers(5, 20))
def test_share_keeps_under_order_and_scale(seed: int, scale: float, n: int, m: int) -> None:
    """Order, units and the roles of the sides: exchanging them gives 1 - share.

    Fails with: a tolerance that does not grow with the units.
    """
    x, train, test = draw("null", (15, n, m), 3, seed)
    before, order = share_of(x, train, test).value, torch.randperm(n)
    assert share_of(x * scale, train[order] * scale, test * scale).value == pytest.approx(before)
    assert share_of(x, test, train).value == pytest.approx(1 - before)


def test_ties_count_half() -> None:
    """A training item that is also a test item is nobody's. Fails with: `<=` or `<` alone."""
    x = normal(10, 2, 0)
    assert memorization.attribute(normal(20, 2, 1), x, x).share.tolist() == pytest.approx(
        [0.5] * 20
    )


@pytest.mark.parametrize("d", [2, 64])
def test_null_is_one_half(d: int) -> None:
    """One law for samples, train and test: ½ in any dimension, sizes unequal.

    Fails with: no correction for the sizes (0.63), C(n, m) of the wrong m.
    """
    values = [share_of(*draw("null", (150, 250, 150), d, i)).value for i in range(30)]
    mean, error = np.mean(values), np.std(values, ddof=1) / 30**0.5
    assert abs(mean - 0.5) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize(("d", "expected"), [(2, 0.556), (64, 0.548)])
def test_ten_percent_of_copies(d: int, expected: float) -> None:
    """.556 and .548 were measured elsewhere; ½ + 10 % / 2 is what theory asks for.

    Fails with: copies attributed to held-out data.
    """
    values = []
    for i in range(20):
        x, train, test = draw("null", (400, 400, 400), d, i)
        values.append(share_of(memorization.plant(x, train, 0.1, i), train, test).value)
    error = np.std(values, ddof=1) / 20**0.5
    assert np.mean(values) == pytest.approx(0.55, abs=4 * error)
    assert np.mean(values) == pytest.approx(expected, abs=4 * error + 0.01)


# -- duplicates -----------------------------------------------------------------------------


def test_duplicates_against_train_and_test() -> None:
    """Two copies of train, one of test. Fails with: only train searched, float rounding."""
    train = torch.randint(0, 17, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator())
    test, new = train[20:].add(1), train[:5].add(2)
    samples = torch.cat([train[:2], test[:1], new])
    assert memorization.count_duplicates(samples, train[:20], test) == 3


def test_duplicates_of_points_are_exact() -> None:
    """Points count if all bits agree, whatever their precision.

    Fails with: a tolerance, comparing the bytes of two precisions.
    """
    train = normal(20, 2, 0).float()
    off = train[:3].clone()
    off[:, 0] = torch.nextafter(off[:, 0], torch.tensor(9.0))
    assert memorization.count_duplicates(torch.cat([train[:4], off]).double(), train) == 4


def test_near_threshold_is_the_first_percentile() -> None:
    """Points on a line at 0, 1, 3, 6, 10, …: the smallest gap. Fails with: the item itself."""
    x = torch.arange(100, dtype=torch.float64)
    line = (x * (x + 1) / 2)[:, None]
    # The nearest gaps are 1, 1, 2, 3, …; the first percentile of 100 of them is 1.
    assert memorization.near_threshold(line[:60], line[60:]).value == 1.0


@pytest.mark.parametrize("d", [2, 16])
def test_one_percent_of_fresh_items_are_near(d: int) -> None:
    """Fails with: distances for squared distances, a percentile of distances to the item itself."""
    values = []
    for i in range(20):
        x, train, test = draw("null", (800, 600, 400), d, i)
        found = memorization.attribute(x, train, test)
        limit = memorization.near_threshold(train, test)
        values.append(memorization.near_duplicate_share(found, limit).value)
    assert np.mean(values) == pytest.approx(0.01, abs=4 * np.std(values, ddof=1) / 20**0.5)


def test_an_exact_copy_is_near_where_real_items_repeat() -> None:
    """Real data that repeat themselves put the threshold at 0. Fails with: `<` alone."""
    train = normal(50, 2, 0).repeat(2, 1)
    limit = memorization.near_threshold(train, normal(50, 2, 1))
    assert limit.value == 0
    found = memorization.attribute(torch.cat([train[:3], normal(7, 2, 2)]), train, train + 5)
    assert memorization.near_duplicate_share(found, limit).value == 0.3


# -- authenticity ---------------------------------------------------------------------------


def authentic(x: Tensor, train: Tensor, test: Tensor) -> tuple[Measured, float, float]:
    reaches = Reaches(train)
    return measure_authenticity(closest(x, train, 2), closest(test, train, 2), reaches)


@pytest.mark.parametrize(
    ("d", "expected", "slack"),
    [(1, 1 / 3, 0.0), (2, 0.3785, 0.005), (3, 0.4074, 0.01), (16, 0.70, 0.03), (64, 0.83, 0.03)],
)
def test_authenticity_of_a_perfect_generator(d: int, expected: float, slack: float) -> None:
    """Raw shares are far from ½; the calibrated ratio is 1.

    In few dimensions the limit is one less the chance of two items to be each other's nearest.
    The slack is for the finite number of items, which shifts it where the density falls off.

    Fails with: squared distances against distances, an item being its own neighbour.
    """
    raw, ratios = [], []
    for i in range(6):
        found = authentic(*draw("null", (1000, 1000, 1000), d, i))
        raw.append(found[1])
        ratios.append(found[0].value)
    error = np.std(raw, ddof=1) / 6**0.5
    # Six values know their own spread badly: no less than that of independent verdicts.
    error = max(error, math.sqrt(expected * (1 - expected) / 6000))
    assert np.mean(raw) == pytest.approx(expected, abs=4 * error + slack)
    assert np.mean(ratios) == pytest.approx(1, abs=0.08)


def test_authenticity_falls_with_copies() -> None:
    """A share q of copies leaves 1 - q. Fails with: `>` for `>=` and its reverse, 1 - ratio."""
    x, train, test = draw("null", (800, 800, 800), 16, 0)
    whole = authentic(x, train, test)[1]
    for share in (0.1, 0.5, 1.0):
        planted = memorization.plant(x, train, share, 1)
        assert authentic(planted, train, test)[1] == pytest.approx((1 - share) * whole, abs=0.04)
    assert authentic(train, train, test)[0].value == 0


def test_copies_of_a_repeated_item_are_not_authentic() -> None:
    """Where training data hold everything twice, its reach is 0. Fails with: `>=` alone."""
    x, train, test = draw("null", (50, 50, 50), 2, 0)
    assert authentic(train, train.repeat(2, 1), test)[1] == 0


def test_a_reach_of_ties_counts_as_authentic() -> None:
    """On a line at 0, 1, 10: a sample at 2 is as far from 1 as 0 is. Fails with: `>`."""
    line = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64)
    found = authentic(torch.tensor([[2.0]], dtype=torch.float64), line, line[:1] - 5)
    assert found[1] == 1


def test_held_out_items_that_are_training_items_are_refused() -> None:
    """No ratio over 0. Fails with: no check (ZeroDivisionError)."""
    x, train, _ = draw("null", (30, 30, 30), 2, 0)
    with pytest.raises(Refused, match="no held-out item is authentic"):
        authentic(x, train, train)


# -- C_T ------------------------------------------------------------------------------------


def copying(x: Tensor, train: Tensor, test: Tensor, cells: int = 3) -> Measured:
    """C_T in cells around fixed points, which costs less than k-means."""
    centres = normal(cells, x.shape[1], 99)

    def place(y: Tensor) -> Cells:
        return Cells(closest(y, centres, 1).row[:, 0], closest(y, train, 1).distance[:, 0])

    return copying_test(place(x), place(test), cells).measured


@pytest.mark.parametrize("levels", [5, 10_000])
def test_c_t_of_one_cell_is_the_mann_whitney_z(levels: int) -> None:
    """As scipy has it, ties too. Fails with: samples and held-out exchanged, ties not halved."""
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randint(levels, (n,), generator=random).double() for n in (70, 50))
    cell = torch.zeros(70, dtype=torch.int64)
    ours = copying_test(Cells(cell, a), Cells(cell[:50], b), 1).measured.value
    u = stats.mannwhitneyu(a, b).statistic
    assert ours == pytest.approx((u - 70 * 50 / 2) / math.sqrt(70 * 50 * 121 / 12), abs=1e-12)


def test_c_t_null() -> None:
    """Mean 0 and the standard deviation of a weighted mean of z-scores, .5 to .6 in three cells.

    Fails with: n m (n + m + 1) / 6 or without the square root, weights that do not sum to 1.
    """
    found = [copying(*draw("null", (300, 300, 300), 2, i)) for i in range(200)]
    values = np.array([one.value for one in found])
    expected = np.sqrt(
        np.mean([(one.sampling_error or 0) ** 2 + (one.reference_error or 0) ** 2 for one in found])
    )
    assert abs(values.mean()) < 4 * expected / 200**0.5
    assert values.std(ddof=1) == pytest.approx(expected, rel=4 / 400**0.5)
    assert 0.5 < expected < 0.75


def test_c_t_weighs_cells_by_held_out_items() -> None:
    """Two cells of z = -a and +b at weights 100 and 50. Fails with: plain means, sample weights."""
    low, high = torch.arange(100.0), torch.arange(100.0) + 1000
    cell = torch.cat([torch.zeros(100), torch.ones(100)]).long()
    samples = Cells(cell, torch.cat([low, high]))
    held = Cells(cell[:150], torch.cat([high, low[:50]]))

    def z(m: int) -> float:
        return math.sqrt(3 * 100 * m / (100 + m + 1))

    found = copying_test(samples, held, 2)
    assert found.measured.value == pytest.approx((-100 * z(100) + 50 * z(50)) / 150)


def test_c_t_is_fooled_by_copies_among_poor_samples() -> None:
    """30 % copies and 70 % underfit score above 0; the share and the duplicates see the copies.

    Documents a blindness of the metric. Fails with: nothing of ours, unless C_T were mended.
    """
    x, train, test = draw("null", (500, 500, 500), 16, 0)
    mixed = memorization.plant(1.3 * x, train, 0.3, 0)
    assert copying(memorization.plant(x, train, 0.3, 0), train, test).value < -2
    assert copying(mixed, train, test).value > 0
    assert share_of(mixed, train, test).value > 0.58
    assert memorization.count_duplicates(mixed, train) == 150


def test_c_t_needs_items_in_a_cell() -> None:
    """Fails with: a z-score of a handful, a division by no cells."""
    cell = torch.zeros(19, dtype=torch.int64)
    with pytest.raises(Refused, match="no region holds 20"):
        copying_test(Cells(cell, torch.rand(19)), Cells(cell, torch.rand(19)), 1)


# -- likelihood gap -------------------------------------------------------------------------


def gap(x: Tensor, train: Tensor, test: Tensor) -> Measured:
    d = x.shape[1]
    found = likelihood_gap(x, train, test, NARROWEST * typical_distance(train, test) / d)
    sampling, reference = 100 / d * found.sampling**0.5, 100 / d * found.reference**0.5
    value = 100 / d * found.value
    interval = around(value, math.hypot(sampling, reference), FLD_BLOCKS - 1)
    return Measured(value, interval, sampling, reference)


def test_bandwidths_of_one_centre_are_the_mean_square() -> None:
    """One Gaussian's likeliest variance is Σ d² / (n D). Fails with: no D, no n."""
    x = normal(200, 3, 0)
    squared = x.square().sum(1, keepdim=True)
    assert float(fit_variances(squared, 3, 1e-6)) == pytest.approx(float(squared.mean()) / 3)


def test_the_gap_of_one_centre_is_gaussian() -> None:
    """With the variances v and w of both sides: (w - v)/2 (1/v + 1/w)/2 per dimension.

    Fails with: one fit alone, which gives (w/v - 1)/2.
    """
    train, test = 1.0 * normal(100, 3, 0), 1.5 * normal(100, 3, 1)
    v, w = (float(x.square().sum(1).mean()) / 3 for x in (train, test))
    # Two centres at one place are one.
    found = likelihood_gap(torch.zeros(40, 3, dtype=torch.float64), train, test, 1e-9)
    assert found.value / 3 == pytest.approx((w - v) / 2 * (1 / v + 1 / w) / 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_gap_turns_with_the_sides_and_ignores_units(seed: int, scale: float) -> None:
    """Exchanged sides turn the sign exactly, so that the null expectation is 0.

    Fails with: bandwidths of one side only, a floor in absolute units.
    """
    x, train, test = draw("copies", (40, 40, 40), 3, seed)
    before = gap(x, train, test).value
    assert gap(x, test, train).value == pytest.approx(-before, abs=1e-9)
    scaled = gap(x * scale, train * scale, test * scale)
    assert scaled.value == pytest.approx(before, abs=1e-6)


def test_gap_sees_copies_of_either_side() -> None:
    """Fails with: train and test exchanged."""
    x, train, test = draw("null", (300, 300, 300), 16, 0)
    plant = memorization.plant
    values = [gap(plant(x, train, s, 0), train, test).value for s in (0, 0.1, 0.3, 1)]
    assert values == sorted(values) and values[1] > 5
    assert gap(plant(x, test, 0.3, 0), train, test).value < -10


# -- coverage -------------------------------------------------------------------------------


def near_of(x: Tensor, train: Tensor, test: Tensor) -> Measured:
    found = memorization.attribute(x, train, test)
    return memorization.near_duplicate_share(found, memorization.near_threshold(train, test))


def authentic_of(x: Tensor, train: Tensor, test: Tensor) -> Measured:
    return authentic(x, train, test)[0]


METRICS: dict[str, Callable[[Tensor, Tensor, Tensor], Measured]] = {
    "share": share_of,
    "near": near_of,
    "authenticity": authentic_of,
    "c_t": copying,
    "gap": gap,
}


def simulate(name: str, law: str, d: int, times: int) -> tuple[list[Measured], float]:
    """Fresh comparisons, and their expectation, which is exact where theory knows it."""
    found = [METRICS[name](*draw(law, (200, 200, 200), d, i)) for i in range(times)]
    truth = float(np.mean([one.value for one in found]))
    if law == "null":
        truth = {"share": 0.5, "c_t": 0.0, "gap": 0.0}.get(name, truth)
    return found, truth


def coverage(found: list[Measured], truth: float) -> float:
    """How often the interval holds the expectation."""
    inside = [
        one.interval.low <= truth <= one.interval.high for one in found if one.interval is not None
    ]
    assert len(inside) == len(found)
    return float(np.mean(inside))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_errors_are_those_of_fresh_comparisons(name: str) -> None:
    """Variance and coverage within four of their own standard errors in 100 simulations.

    Fails with: the variance of independent verdicts alone, noise added for subtracted.
    """
    found, truth = simulate(name, "copies", 16, 100)
    assert coverage(found, truth) > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 100)
    said = np.mean([(a.sampling_error or 0) ** 2 + (a.reference_error or 0) ** 2 for a in found])
    seen = np.var([one.value for one in found], ddof=1)
    assert abs(said / seen - 1) < 4 * math.sqrt(2 / 100)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("d", [2, 16, 64])
@pytest.mark.parametrize("law", ["null", "copies", "wide"])
@pytest.mark.parametrize("name", sorted(METRICS))
def test_intervals_cover(name: str, law: str, d: int) -> None:
    """95 % intervals hold the expectation in 93 to 97 % of 2,000 fresh comparisons.

    Not where near duplicates are as good as none, nor where nearly all samples are farther than
    held-out data and C_T saturates: there the interval becomes too wide, just before it 92 %.
    The gap's is too narrow in two dimensions, as its convention says.
    """
    low, high = 0.93, 0.97
    if law == "wide" and d > 2 and name in ("near", "c_t"):
        low, high = 0.91, 1.0
    if name == "gap" and d == 2:
        low = 0.88
    assert low <= coverage(*simulate(name, law, d, 2000)) <= high
