"""Counting modes where the truth is known, and distinct items by their birthdays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_views import data_view, number
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.evaluation import modes
from genzoo.evaluation.measured import NotApplicable, Refused
from genzoo.evaluation.statistics import Interval

CEILING = 1 - math.exp(-4.5)


# -- Gaussians --------------------------------------------------------------------------------


def test_ceiling() -> None:
    """1 - exp(-9/2) = 98.889 %. Fails with: the one-dimensional 99.73 %, or 2 σ."""
    assert pytest.approx(0.98889, abs=5e-6) == modes.HIGH_QUALITY_CEILING


@pytest.mark.parametrize(("name", "count"), [("ring", 8), ("grid", 25)])
def test_real_points_score_the_exact_answers(name: str, count: int) -> None:
    """5,000 held-out points: all modes, and floors within four standard errors.

    Fails with: 3 σ² for (3 σ)², the radius per coordinate (a square), a spread without the
    truncation (0.974), KL in bits.
    """
    data = open_dataset(name)
    scores = modes.measure(data_view(data, data.test.data))
    assert number(scores, "modes_covered").value == count
    assert number(scores, "modes_well_covered").value == count
    for key in ("high_quality_share", "mode_spread"):
        found = number(scores, key)
        assert found.floor is not None and found.sampling_error is not None
        assert abs(found.value - found.floor) < 4 * found.sampling_error
    for key in ("mode_kl", "mode_kl_reverse"):
        # 2 N KL is chi-squared with K - 1 degrees of freedom
        found = number(scores, key)
        assert found.floor == pytest.approx((count - 1) / 10_000, rel=0.02)
        deviation = math.sqrt(2 * (count - 1)) / 10_000
        assert abs(found.value - found.floor) < 4 * deviation
    assert all(number(scores, key).caution is None for key in scores)


def test_only_good_samples_count() -> None:
    """One good sample at a mode, one far from every mode. Fails with: nearest mode always hit."""
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    points = torch.tensor([[0.1, 0.0], [13.1, 0.0]])
    found = modes.count_modes(points, centers, 1.0)
    assert found.good.tolist() == [1, 0, 0] and found.assigned.tolist() == [1, 1, 0]
    assert found.squares.tolist() == pytest.approx([0.005])


def test_spread_is_one_for_the_truth_and_the_ratio_for_narrow_modes() -> None:
    """200,000 draws; modes of 0.3 σ are hardly cut, so theirs is 0.3 / √0.949.

    Fails with: the truncation's a / (e^a - 1) left out; the mean square instead of its root.
    """
    draws = np.random.default_rng(0).standard_normal((200_000, 2))
    for sigma, truth in ((1.0, 1.0), (0.3, 0.3 / math.sqrt(1 - 4.5 / math.expm1(4.5)))):
        squares = np.square(sigma * draws).sum(1) / 2
        value, error = modes.spread(squares[squares <= 4.5])
        assert value == pytest.approx(truth, abs=4 * error)
        assert error == pytest.approx(0.001, rel=0.5) or sigma < 1


def test_spread_has_no_bias_at_few_samples() -> None:
    """Mean over 20,000 sets of 10: 1 to 0.3 %. Fails with: no correction (0.990)."""
    draws = np.random.default_rng(1).exponential(size=(20_000, 14))
    values = [modes.spread(row[row <= 4.5][:10])[0] for row in draws]
    assert np.mean(values) == pytest.approx(1, abs=0.004)


def test_points_that_match_no_mode() -> None:
    """No good sample: no spread, and said so; nothing covered. Fails with: a mean of nothing."""
    data = open_dataset("ring")
    scores = modes.measure(data_view(data, torch.full((300, 2), 9.0)))
    assert number(scores, "modes_covered").value == 0
    assert number(scores, "high_quality_share").value == 0
    assert isinstance(scores["mode_spread"], Refused)
    assert number(scores, "mode_kl").value == pytest.approx(math.log(8))
    assert math.isfinite(number(scores, "mode_kl_reverse").value)


def test_points_on_one_centre() -> None:
    """All identical: one mode, spread 0, KL log 8; finite intervals. Fails with: 0 / 0."""
    data = open_dataset("ring")
    assert data.modes is not None
    scores = modes.measure(data_view(data, data.modes.centers[:1].expand(500, 2)))
    assert number(scores, "modes_covered").value == 1 == number(scores, "modes_well_covered").value
    assert number(scores, "mode_spread").value == pytest.approx(0, abs=1e-4)
    assert number(scores, "mode_kl").value == pytest.approx(math.log(8))
    for found in (number(scores, key) for key in scores):
        assert found.interval is None or all(map(math.isfinite, found.interval))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(torch.zeros(1, 2), "only 1 samples"), (torch.full((100, 2), math.nan), "not finite")],
)
def test_bad_points_are_refused(samples: Tensor, reason: str) -> None:
    """Fails with: NaN counted as far from all modes; one sample judged on 8 modes."""
    with pytest.raises(Refused, match=reason):
        modes.measure(data_view(open_dataset("ring"), samples))


def test_few_samples_are_said_to_be_few() -> None:
    """Fails with: no caution below 26 a mode; intervals below 10 a mode."""
    data = open_dataset("grid")
    scores = modes.measure(data_view(data, data.test.data[:100]))
    assert "4 samples a mode" in (number(scores, "modes_covered").caution or "")
    assert number(scores, "mode_kl").interval is None
    assert isinstance(scores["modes_well_covered"], Refused)


def test_data_without_known_modes() -> None:
    """Fails with: modes invented for data that have none."""
    with pytest.raises(NotApplicable):
        modes.measure(data_view(open_dataset("moons"), torch.zeros(100, 2)))


def test_no_intervals_where_none_are_wanted() -> None:
    """Fails with: `view.intervals` ignored."""
    data = open_dataset("ring")
    scores = modes.measure(data_view(data, data.test.data[:500], intervals=False))
    assert all(number(scores, key).interval is None for key in scores)


# -- stacked digits ----------------------------------------------------------------------------


def triples(counts: np.ndarray) -> Tensor:
    """Stacked items that show, in `Plain`'s eyes, each triple as often as told."""
    index = np.repeat(np.arange(1000), counts)
    parts = np.stack([index // 100, index // 10 % 10, index % 10], 1)
    return torch.from_numpy(parts.astype(np.uint8))


def test_stacked_triples() -> None:
    """Distinct rows, not distinct digits. Fails with: sorted digits, or their sum."""
    counts = modes.count_stacked(torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 3]]))
    assert counts[123] == 2 and counts[321] == 1 and counts.sum() == 3 and len(counts) == 1000


def test_stacked_protocol() -> None:
    """A perfect sampler of 26,000: 1000 modes, KL 0.0192; no quality, no spread.

    Fails with: KL to the samples' own modes, a floor from theory (which hides a classifier's
    mistakes), bits.
    """
    counts = np.random.default_rng(0).multinomial(26_000, np.full(1000, 1e-3))
    scores = modes.measure(data_view(open_dataset("stacked-digits"), triples(counts)))
    assert set(scores) == {"modes_covered", "modes_well_covered", "mode_kl", "mode_kl_reverse"}
    assert number(scores, "modes_covered").value == 1000
    deviation = math.sqrt(2 * 999) / 52_000
    assert number(scores, "mode_kl").value == pytest.approx(0.0192, abs=4 * deviation)
    assert all(number(scores, key).floor is None for key in scores)
    assert "has 0.0193 at this N" in number(scores, "mode_kl").convention


def test_collapse_to_99_modes_has_the_known_divergence() -> None:
    """Even on 99 of 1000 modes: KL = log(1000 / 99). Fails with: an infinite reverse KL."""
    counts = np.zeros(1000, dtype=np.int64)
    counts[:99] = 100
    scores = modes.measure(data_view(open_dataset("stacked-digits"), triples(counts)))
    assert number(scores, "mode_kl").value == pytest.approx(math.log(1000 / 99))
    reverse = -0.099 * math.log(100.5 / 10.4) - 0.901 * math.log(0.5 / 10.4)
    assert number(scores, "mode_kl_reverse").value == pytest.approx(reverse)


def test_mistakes_invent_modes_but_not_well_covered_ones() -> None:
    """Half the modes, 0.75 % of digits misread: many with a sample, none with a fifth.

    Fails with: a fifth of one sample, or `>` a share of all samples.
    """
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 10, size=(26_000, 3))
    digits[:, 0] = rng.integers(0, 5, size=26_000)
    wrong = rng.random(digits.shape) < 0.0075
    digits = np.where(wrong, rng.integers(0, 10, size=digits.shape), digits)
    samples = torch.from_numpy(digits.astype(np.uint8))
    scores = modes.measure(data_view(open_dataset("stacked-digits"), samples))
    assert number(scores, "modes_covered").value > 550
    assert number(scores, "modes_well_covered").value == 500


# -- expectations and intervals -----------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(2_500, 8), (2_500, 25), (26_000, 1_000), (60, 25)])
def test_expected_divergences_and_counts(n: int, k: int) -> None:
    """Exact expectations against the mean of simulations, within four standard errors.

    Fails with: (K - 1) / N for (K - 1) / 2N; shares smoothed without K/2 in the total.
    """
    draws = np.random.default_rng(n + k).multinomial(n, np.full(k, 1 / k), size=400)
    for exact, value in zip(
        modes.expected_kl(n, k), (modes.kl_forward, modes.kl_reverse), strict=True
    ):
        found = np.array([value(row) for row in draws])
        assert exact == pytest.approx(found.mean(), abs=4 * found.std() / 20)
    covered = (draws > 0).sum(1)
    assert modes.expected_covered(n, k, 1.0) == pytest.approx(
        covered.mean(), abs=4 * covered.std() / 20 + 1e-3
    )


def test_facts_about_floors() -> None:
    """Ring 0.0014, grid 0.0048, stacked 0.0192. Fails with: K for K - 1; bits."""
    for n, k, floor in ((2_500, 8, 0.0014), (2_500, 25, 0.0048), (26_000, 1_000, 0.0192)):
        assert modes.expected_kl(n, k)[0] == pytest.approx(floor, rel=0.01)
    assert modes.expected_covered(100, 100, 1.0) == pytest.approx(100 * (1 - 0.99**100))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=30).filter(sum), st.randoms())
def test_divergences_do_not_depend_on_the_order_of_modes(counts: list[int], random: object) -> None:
    """Nor are they negative, infinite or outside their interval. Fails with: KL of a cumsum."""
    shuffled = list(counts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = np.array(counts), np.array(shuffled)
    for value, interval in (
        (modes.kl_forward, modes.interval_forward),
        (modes.kl_reverse, modes.interval_reverse),
    ):
        assert value(a) == pytest.approx(value(b), abs=1e-12)
        assert math.isfinite(value(a)) and value(a) > -1e-12
        low, high = interval(a)
        assert low - 1e-9 <= value(a) <= high + 1e-9


def covered(
    draws: np.ndarray,
    value: Callable[[np.ndarray], float],
    interval: Callable[[np.ndarray], Interval],
) -> float:
    """Share of the intervals that hold the mean of all values."""
    truth = np.mean([value(row) for row in draws])
    ends = np.array([interval(row) for row in draws])
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


def laws(k: int) -> Iterator[np.ndarray]:
    """Equal and different: even, uneven, half of the modes, one mode in two seldom."""
    rng = np.random.default_rng(k)
    yield np.full(k, 1 / k)
    yield rng.dirichlet(np.full(k, 5.0))
    yield rng.dirichlet(np.full(k, 50.0))
    yield np.where(np.arange(k) < k // 2, 1 / (k // 2), 0.0)
    uneven = np.where(np.arange(k) < k // 2, 1.8, 0.2)
    yield uneven / uneven.sum()


@pytest.mark.slow
@pytest.mark.parametrize("n_k", [(2_500, 8), (2_500, 25)])
@pytest.mark.parametrize("law", range(5))
def test_divergence_intervals_hold_their_expectation(n_k: tuple[int, int], law: int) -> None:
    """93-97 % of 2,000. Fails with: the delta method alone."""
    n, k = n_k
    draws = np.random.default_rng(7).multinomial(n, list(laws(k))[law], size=2_000)
    assert 0.93 <= covered(draws, modes.kl_forward, modes.interval_forward) <= 0.97
    assert 0.93 <= covered(draws, modes.kl_reverse, modes.interval_reverse) <= 0.97


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("law", range(5))
def test_stacked_intervals_hold_their_expectation(law: int) -> None:
    """93-97 % of 1,000 at 26 a mode, give or take. Fails with: κ = 1 for uneven shares."""
    draws = np.random.default_rng(8).multinomial(26_000, list(laws(1000))[law], size=1_000)
    for value, interval in (
        (modes.kl_forward, modes.interval_forward),
        (modes.kl_reverse, modes.interval_reverse),
    ):
        assert 0.92 <= covered(draws, value, interval) <= 0.98


def test_divergence_intervals_quickly() -> None:
    """300 of each, 91-99 %. Fails with: the delta method alone at even shares."""
    for law in list(laws(25))[:2]:
        draws = np.random.default_rng(9).multinomial(2_500, law, size=300)
        assert 0.91 <= covered(draws, modes.kl_forward, modes.interval_forward) <= 0.99
        assert 0.91 <= covered(draws, modes.kl_reverse, modes.interval_reverse) <= 0.99


@pytest.mark.parametrize(("alpha", "n"), [(0.2, 10_000), (1.0, 10_000), (5.0, 10_000)])
def test_intervals_of_counts(alpha: float, n: int) -> None:
    """Numbers of 1000 uneven modes, 93-97 % or, where few are in doubt, more.

    Fails with: binomial variance K π (1 - π) of one share; cells missed left out.
    """
    law = np.random.default_rng(2).dirichlet(np.full(1000, alpha))
    draws = np.random.default_rng(3).multinomial(n, law, size=1_000)
    for hits in (1, 2):
        share = covered(
            draws,
            lambda row, hits=hits: float((row >= hits).sum()),
            lambda row, hits=hits: modes.count_interval(row, hits),
        )
        assert share >= 0.92


def test_certain_counts_have_certain_intervals() -> None:
    """All modes hit often: [8, 8]. Fails with: Wilson's interval of 8 out of 8 (5.4)."""
    low, high = modes.count_interval(np.full(8, 300))
    assert low == pytest.approx(8, abs=1e-6) and high == 8
    low, high = modes.count_interval(np.array([300] * 5 + [0] * 3))
    assert low == pytest.approx(5, abs=1e-6) and high > 5
