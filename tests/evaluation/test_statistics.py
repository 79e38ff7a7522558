"""Intervals and tests against tables and hand calculation."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from genzoo.errors import InputError
from genzoo.evaluation.statistics import (
    Spread,
    block_jackknife,
    distance_interval,
    holm,
    mean_interval,
    paired_difference,
    ranks,
    score_interval,
    wilson,
)


def test_mean_interval_is_students() -> None:
    """Three values 1, 2, 3: 2 ± 4.3027/√3.

    Fails with: ddof=0, z for t, n for n-1 degrees.
    """
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-6)
    assert high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-6)


def test_one_seed_claims_nothing() -> None:
    """Fails with: a zero-width interval for a single value."""
    assert mean_interval([0.7]) == (0.7, None, None)
    assert paired_difference([1.0], [2.0]).p_value is None


def test_mean_interval_covers_in_95_of_100() -> None:
    """Fails with: a level of 0.90, or a standard deviation not divided by √n."""
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        _, low, high = mean_interval(random.normal(3.0, 2.0, size=4).tolist())
        assert low is not None and high is not None
        inside += low <= 3.0 <= high
    assert 0.93 <= inside / 2000 <= 0.97


def test_paired_t_below_six_seeds() -> None:
    """Differences 1, 2, 3: t = 2√3, p = 0.0742 (two degrees). Fails with: a one-sided p."""
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.test == "paired t"
    assert found.mean == 2.0
    assert found.p_value == pytest.approx(0.07418, abs=1e-5)


def test_permutation_from_six_seeds() -> None:
    """Six differences of one sign: 2 of 64 sign flips are as extreme. Fails with: > for >=."""
    a = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    found = paired_difference(a, [0.0] * 6)
    assert found.test == "paired permutation"
    assert found.p_value == pytest.approx(2 / 64)
    many = paired_difference([1.0] * 14, [0.9] * 13 + [1.2])
    assert many.p_value is not None and 0 < many.p_value < 1


def test_pairs_need_equal_lengths() -> None:
    """Fails with: silent truncation to the shorter one."""
    with pytest.raises(InputError, match="3 values cannot be paired with 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_holm() -> None:
    """The textbook example. Fails with: Bonferroni, or without the running maximum."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_wilson() -> None:
    """50 of 100: 0.4038 to 0.5962. Fails with: the plain binomial (0.402 to 0.598)."""
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson(0.0, 10).low == 0.0 and wilson(0.0, 10).high == pytest.approx(0.27753, abs=1e-5)


def test_block_jackknife_of_a_mean_is_exact() -> None:
    """For a mean with one item a block: the usual standard error.

    Fails with: the factor (k-1)/k dropped, or a variance with ddof=1.
    """
    x = np.random.default_rng(0).normal(size=10)
    left_out = [np.delete(x, i).mean() for i in range(10)]
    low, high = block_jackknife(float(x.mean()), left_out)
    assert (high - low) / 2 == pytest.approx(2.262157 * x.std(ddof=1) / 10**0.5, rel=1e-6)


def test_no_torch_is_imported() -> None:
    """Fails with: an import of the suite in the package's `__init__`."""
    code = (
        "import sys, genzoo.evaluation.statistics, genzoo.evaluation.catalogue, "
        "genzoo.evaluation.result; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_score_interval_solves_its_equation() -> None:
    """At either end (value - E)² = z² (V + s (E - value)); without slopes it is value ± z √V.

    Fails with: slopes exchanged, or the variance taken at the value.
    """
    z = 1.959964
    low, high = score_interval(3.0, 0.5, (0.4, 0.9))
    for end, slope in ((low, 0.4), (high, 0.9)):
        assert (3 - end) ** 2 == pytest.approx(z**2 * (0.5 + slope * (end - 3)), rel=1e-6)
    assert low < 3 < high
    assert score_interval(3.0, 0.25, (0.0, 0.0)) == pytest.approx((3 - z / 2, 3 + z / 2), rel=1e-6)


def test_spread_of_a_degenerate_statistic() -> None:
    """The second order comes off once; half of the first remains at least.

    Fails with: the second order taken off twice, or errors that do not add up.
    """
    spread = Spread(samples=3.0, reference=1.0, second=1.0)
    assert spread.variance == 3.0 and spread.degeneracy == 0.5
    assert spread.sampling_error == pytest.approx((3 * 3 / 4) ** 0.5)
    assert spread.sampling_error**2 + spread.reference_error**2 == pytest.approx(3.0)
    assert Spread(3.0, 1.0, second=9.0).variance == 2.0
    nothing = Spread(0.0, 0.0)
    assert nothing.variance == nothing.sampling_error == nothing.degeneracy == 0.0


@pytest.mark.parametrize("far", [0.0, 0.3, 3.0])
def test_distance_intervals_of_squared_means(far: float) -> None:
    """|x̄|² in four dimensions, 2,000 times: from a pure sum over pairs (0) to a mean (3).

    The spread is known in closed form. Fails with: second = 0 (over 98.5 % at 0), or 2 √V.
    """
    random, n, d = np.random.default_rng(0), 50, 4
    found = []
    for _ in range(2000):
        x = random.normal(size=(n, d)) + np.eye(d)[0] * far
        mean, covariance = x.mean(0), np.cov(x.T)
        first = 4 * mean @ covariance @ mean / n
        second = 2 * float(np.sum(covariance**2)) / n**2
        spread = Spread(float(first), 0.0, second, float(np.trace(covariance)) / n)
        found.append((float(mean @ mean), *distance_interval(float(mean @ mean), spread)))
    values, low, high = np.array(found).T
    inside = float(np.mean((low <= values.mean()) & (values.mean() <= high)))
    assert 0.93 <= inside <= 0.97


def test_ranks_are_shared_where_nothing_is_shown() -> None:
    """a and b are apart by noise, c is far behind both; with one seed all are first.

    Fails with: means ranked, better and worse exchanged, pairs not corrected.
    """
    a, b = [1.0, 1.2, 0.9, 1.1, 1.05], [1.1, 1.0, 1.05, 1.0, 1.0]
    assert ranks({"a": a, "b": b, "c": [v + 5 for v in a]}) == {"a": 1, "b": 1, "c": 3}
    assert ranks({"a": [1.0], "b": [2.0]}) == {"a": 1, "b": 1}
    assert ranks({}) == {} and ranks({"a": [1.0, 2.0]}) == {"a": 1}
