"""The birthday test: exact answers, calibration of its threshold and intervals, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_views import data_view, number
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.evaluation import birthday
from genzoo.evaluation.measured import Refused


def of_ids(ids: np.ndarray) -> Tensor:
    """Items as far apart as their numbers."""
    return torch.from_numpy(ids.astype(np.float64))[:, None]


NONE_NEAR = birthday.Threshold(0.0, 0, 10**9)


def test_one_in_two_collides_at_118_of_ten_thousand() -> None:
    """P = 1 - Π (1 - i / n) = 0.49994. Fails with: ordered pairs, an item as its own pair."""
    rng = np.random.default_rng(0)
    hits = [
        birthday.count_collisions(of_ids(rng.integers(0, 10_000, 118)), 0.0).near > 0
        for _ in range(2_000)
    ]
    exact = 1 - float(np.prod(1 - np.arange(118) / 10_000))
    assert np.mean(hits) == pytest.approx(exact, abs=4 * 0.5 / math.sqrt(2_000))


@pytest.mark.parametrize(("items", "n"), [(1_000, 800), (100, 2_500)])
def test_support_of_equally_likely_items(items: int, n: int) -> None:
    """N(N - 1) / 2n pairs. Fails with: N² / n pairs; support² for support."""
    found = birthday.count_collisions(of_ids(np.random.default_rng(1).integers(0, items, n)), 0.0)
    measured = birthday.support(found, NONE_NEAR)
    assert measured.interval is not None and measured.sampling_error is not None
    assert measured.value == pytest.approx(items, abs=4 * measured.sampling_error)
    assert measured.interval.low < items < measured.interval.high


def test_the_rate_of_real_items_is_taken_off() -> None:
    """20 near pairs in 10⁶ where 5 are expected: 10⁶ / 15. Fails with: 10⁶ / 20."""
    found = birthday.Collisions(1_000_000, 20, 0, 1_415)
    measured = birthday.support(found, birthday.Threshold(1.0, 10, 2_000_000))
    assert measured.value == pytest.approx(1_000_000 / 15)
    assert measured.interval is not None and measured.reference_error is not None


def test_constant_samples_are_one_item() -> None:
    """Fails with: 0 for a rate of 1; blocks that count a pair twice (2,300 items, 3 blocks)."""
    found = birthday.count_collisions(torch.zeros(2_300, 3), 0.0)
    assert found.near == found.pairs == 2_300 * 2_299 // 2
    measured = birthday.support(found, NONE_NEAR)
    assert measured.value == 1 and measured.interval is not None
    assert measured.interval.high < 1.01


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 2_200), st.integers(0, 10_000), st.integers(1, 5))
def test_collisions_do_not_depend_on_blocks_or_order(n: int, seed: int, reach: int) -> None:
    """Against sorted numbers. Fails with: a generous tolerance, lower triangles, a diagonal."""
    ids = np.random.default_rng(seed).integers(0, 3 * n, n)
    found = birthday.count_collisions(of_ids(ids), float(reach**2))
    ordered = np.sort(ids)
    within = np.searchsorted(ordered, ordered + reach, side="right") - np.arange(n) - 1
    assert found.near == within.sum()
    assert birthday.count_collisions(of_ids(ordered), float(reach**2)) == found


def test_closest_pairs_against_all_pairs() -> None:
    """Fails with: minima of rows (a pair twice, a row once), or distances not squared."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1_500, 3)))
    exact = torch.pdist(x).sort().values[:10].square()
    assert torch.allclose(birthday.closest_pairs(x, 10), exact, rtol=1e-6)


@pytest.mark.parametrize("alpha", [math.inf, 1.0, 0.1])
def test_support_intervals_hold_the_truth(alpha: float) -> None:
    """93-98 % of 1,000: equal items, and very unequal ones whose pairs are not independent.

    Real pairs are near at a rate of 6e-6, in 1.6 million of them. Fails with: Poisson limits
    without `inflation` at α = 0.1.
    """
    rng = np.random.default_rng(4)
    law = np.full(1000, 1e-3) if alpha == math.inf else rng.dirichlet(np.full(1000, alpha))
    truth, hit = 1 / float(np.square(law).sum()), 0
    for _ in range(1_000):
        degree = np.repeat(count := rng.multinomial(500, law), count) - 1
        near = int(degree.sum()) // 2 + rng.poisson(124_750 * 6e-6)
        found = birthday.Collisions(124_750, near, int((degree * (degree - 1)).sum()), 500)
        real = birthday.Threshold(1.0, int(rng.poisson(9.6)), 1_600_000)
        low, high = birthday.support(found, real).interval or (0.0, math.inf)
        hit += low <= truth <= high
    assert 0.925 <= hit / 1_000 <= 0.98


def test_fresh_real_items_are_not_called_few() -> None:
    """At most 2.5 % of 200, and 3.5 standard errors. Fails with: real pairs, 0 of 1."""
    rng = np.random.default_rng(5)
    called = 0
    for _ in range(200):
        real, fresh = (torch.from_numpy(rng.standard_normal((n, 6))) for n in (300, 300))
        threshold = birthday.near_copies(real)
        found = birthday.support(birthday.count_collisions(fresh, threshold.squared), threshold)
        called += found.interval is not None
        assert found.interval is not None or "at least" in (found.caution or "")
    assert called / 200 < 0.025 + 3.5 * math.sqrt(0.025 * 0.975 / 200)


def test_copycat_of_a_thousand_digits_and_held_out_digits() -> None:
    """797 draws from 1,000 digits have some 318 pairs; held-out digits say "at least".

    Fails with: the threshold at the median distance; the threshold from samples.
    """
    data = open_dataset("digits")
    rows = torch.from_numpy(np.random.default_rng(6).integers(0, 1_000, 797))
    copied = number(birthday.birthday(data_view(data, data.train.data[rows])), "distinct")
    assert copied.value == pytest.approx(1_000, abs=4 * (copied.sampling_error or 0))
    assert copied.interval is not None and copied.interval.low < 1_000 < copied.interval.high
    real = number(birthday.birthday(data_view(data, data.test.data)), "distinct")
    assert real.value > 20_000 and real.interval is None and "at least" in (real.caution or "")


def test_birthday_of_points() -> None:
    """Two hundred points over and over are found among points too. Fails with: images only."""
    data = open_dataset("moons")
    rows = torch.from_numpy(np.random.default_rng(7).integers(0, 200, 1_000))
    copied = number(birthday.birthday(data_view(data, data.train.data[rows])), "distinct")
    assert copied.interval is not None and copied.interval.low < 200 < copied.interval.high
    real = number(birthday.birthday(data_view(data, data.test.data[:1_000])), "distinct")
    assert real.value > 50_000


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(torch.zeros(5, 2), "only 5 samples"), (torch.full((50, 2), math.nan), "not finite")],
)
def test_birthday_of_bad_samples(samples: Tensor, reason: str) -> None:
    """Fails with: an estimate from ten pairs; NaN never near."""
    with pytest.raises(Refused, match=reason):
        birthday.birthday(data_view(open_dataset("moons"), samples))
