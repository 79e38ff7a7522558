"""Train-NN share and duplicates: closed forms, nulls, and controls on digits."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.evaluation import memorization, neighbours
from genzoo.evaluation.neighbours import Measured


def null_share(sizes: tuple[int, int, int], d: int, seed: int) -> Measured:
    """Share where samples, train and test have one law."""
    samples, train, test = (normal(n, d, 1000 * i + seed) for i, n in enumerate(sizes))
    return memorization.train_nn_share(memorization.attribute(samples, train, test))


def normal(n: int, d: int, seed: int) -> Tensor:
    """n draws of N(0, I_d)."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n_train", "n_test"), [(7, 3), (3, 7), (5, 5)])
def test_share_is_the_mean_over_all_subsets(n_train: int, n_test: int) -> None:
    """The closed form equals enumeration of every equal-sized subset of the larger side.

    Fails with: C(n, r) for C(n-r, m), ranks off by one, sides exchanged.
    """
    train, test, samples = normal(n_train, 2, 0), normal(n_test, 2, 1), normal(6, 2, 2)
    m = min(n_train, n_test)
    shares = []
    for a in combinations(range(n_train), m):
        for b in combinations(range(n_test), m):
            nearer = torch.cdist(samples, train[list(a)]).min(1).values < (
                torch.cdist(samples, test[list(b)]).min(1).values
            )
            shares.append(nearer.double())
    found = memorization.attribute(samples, train, test)
    assert torch.allclose(found.share, torch.stack(shares).mean(0), atol=1e-12)


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
    values = [null_share((150, 250, 150), d, i).value for i in range(30)]
    mean, error = np.mean(values), np.std(values, ddof=1) / 30**0.5
    assert abs(mean - 0.5) < 4 * error
    assert error < 0.02


def test_the_null_interval_covers() -> None:
    """In 200 nulls the 95 % interval holds ½ at least 90 times in 100.

    Fails with: the interval of n independent verdicts in high dimension, where few items
    are the nearest of many samples.
    """
    inside = 0
    for i in range(200):
        found = null_share((100, 100, 100), 30, i)
        assert found.interval is not None
        inside += found.interval.low <= 0.5 <= found.interval.high
    assert inside >= 180


def test_duplicates_against_train_and_test() -> None:
    """Two copies of train, one of test. Fails with: only train searched, float rounding."""
    train = torch.randint(0, 17, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator())
    test, new = train[20:].add(1), train[:5].add(2)
    samples = torch.cat([train[:2], test[:1], new])
    assert memorization.count_duplicates(samples, train[:20], test) == 3


def test_near_threshold_is_the_first_percentile() -> None:
    """Points on a line at 0, 1, 3, 6, 10, …: the smallest gap. Fails with: the item itself."""
    x = torch.arange(100, dtype=torch.float64)
    line = (x * (x + 1) / 2)[:, None]
    # The nearest gaps are 1, 1, 2, 3, …; the first percentile of 100 of them is 1.
    assert memorization.near_threshold(line[:60], line[60:]) == 1.0


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Train (1000, 64) and test (797, 64) levels."""
    data = open_dataset("digits")
    return data.train.data.flatten(1).double(), data.test.data.flatten(1).double()


class TestControlsOnDigits:
    """What an independent program found for these controls, in pixels."""

    def measure(self, samples: Tensor, digits: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """1-NN accuracy at 797 a side, and train-NN share."""
        train, test = digits
        accuracy = neighbours.two_sample_1nn(samples[: len(test)], test).value
        share = memorization.train_nn_share(memorization.attribute(samples, train, test))
        return accuracy, share.value

    def test_one_gaussian(self, digits: tuple[Tensor, Tensor]) -> None:
        """.92 in 1-NN and no memory. Fails with: rounding left out of the samples."""
        draw = np.random.default_rng(0).multivariate_normal(
            digits[0].mean(0).numpy(), np.cov(digits[0].T.numpy()), size=1000
        )
        accuracy, share = self.measure(torch.from_numpy(draw).round().clamp(0, 16), digits)
        assert accuracy == pytest.approx(0.92, abs=0.03)
        assert share == pytest.approx(0.5, abs=0.08)

    def test_mixture_of_twenty_memorizes(self, digits: tuple[Tensor, Tensor]) -> None:
        """.72 and .68. Fails with: train and test exchanged."""
        from sklearn.mixture import GaussianMixture

        mixture = GaussianMixture(20, random_state=0).fit(digits[0].numpy())
        draw = np.random.default_rng(0).permutation(mixture.sample(1000)[0])
        accuracy, share = self.measure(torch.from_numpy(draw).round().clamp(0, 16), digits)
        assert accuracy == pytest.approx(0.72, abs=0.04)
        assert share == pytest.approx(0.68, abs=0.05)

    def test_copies(self, digits: tuple[Tensor, Tensor]) -> None:
        """Copies of train: .51 and .90; of test: 0 and 0. Fails with: random halves (.70)."""
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
        accuracy, share = self.measure(digits[0][order], digits)
        assert accuracy == pytest.approx(0.51, abs=0.03)
        assert share == pytest.approx(0.90, abs=0.01)
        assert self.measure(digits[1], digits) == (0.0, 0.0)
