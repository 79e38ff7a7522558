"""C2ST: exactly one half between equal laws, power against others, calibrated intervals."""

from __future__ import annotations

import math

import pytest
import torch
from made_views import made_view
from torch import Tensor

from genzoo.evaluation import c2st
from genzoo.evaluation.measured import Refused


def normal(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_null_is_one_half() -> None:
    """Equal laws, 400 comparisons of 53 (not a multiple of the folds): ½ within 4 errors.

    Fails with: folds that are not stratified (below ½), or items that judge themselves.
    """
    generator = seeded(0)
    values = torch.tensor(
        [
            c2st.accuracy(
                normal(53, 3, generator).square(), normal(53, 3, generator).square(), errors=False
            ).value
            for _ in range(400)
        ]
    )
    assert abs(float(values.mean()) - 0.5) < 4 * float(values.std()) / 20


def test_labels_may_be_exchanged() -> None:
    """Given all items, exchanging samples and real items in every fold mirrors nothing but
    names: the accuracy stays. Fails with: a threshold that prefers one side."""
    a, b = normal(100, 4, seeded(1)), normal(100, 4, seeded(2)) + 0.3
    design = c2st._design(torch.cat([a, b]), seeded(0))
    folds = c2st._Folds(design, torch.arange(100).repeat(2) % c2st.FOLDS)
    label = torch.ones(200, 1, dtype=torch.float64)
    label[100:] = -1
    assert torch.allclose(folds.scores(label), -folds.scores(-label), atol=1e-9)


def test_out_of_fold_scores() -> None:
    """Scores are those of scikit-learn's ridge regression fitted without the fold.

    Fails with: the fold left in, or a shrunk constant.
    """
    from sklearn.linear_model import Ridge

    x = normal(120, 5, seeded(3))
    label = torch.ones(120, dtype=torch.float64)
    label[60:] = -1
    design = c2st._design(x, seeded(0))
    fold = torch.arange(60).repeat(2) % c2st.FOLDS
    found = c2st._Folds(design, fold).scores(label[:, None])[:, 0]
    for k in range(c2st.FOLDS):
        out, plain = fold == k, design[:, :-1].numpy()
        ridge = Ridge(alpha=c2st.RIDGE).fit(plain[~out], label[~out].numpy())
        assert found[out].numpy() == pytest.approx(ridge.predict(plain[out]), abs=1e-6)


@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("change", ["mean", "scale", "shape", "modes"])
def test_power(d: int, change: str) -> None:
    """400 a side: differences of mean, scale, tails and modes are each seen by 4 errors of ½.

    Fails with: linear features alone (scale, shape), or features not standardized.
    """
    generator = seeded(4)
    a, b = normal(400, d, generator), normal(400, d, generator)
    if change == "mean":
        b = b + 1.2 / math.sqrt(d)
    elif change == "scale":
        b = b * (1 + 1.2 / math.sqrt(d))
    elif change == "shape":
        sign = torch.rand(400, d, generator=generator, dtype=torch.float64) < 0.5
        b = torch.where(sign, 1.0, -1.0) * 0.9 + 0.436 * b
    else:
        centers = 2 * normal(8, d, seeded(5))
        a = centers[torch.randint(8, (400,), generator=generator)] + 0.3 * a
        b = centers[torch.randint(5, (400,), generator=generator)] + 0.3 * b
    scale = torch.linspace(1e-3, 1e3, d, dtype=torch.float64)
    assert c2st.accuracy(a * scale, b * scale, errors=False).value > 0.5 + 4 * 0.5 / math.sqrt(800)


def test_degenerate() -> None:
    """Constants on both sides: ½. Constants against data, and sides apart: near 1. Copies: valid.

    Fails with: ties counted as wrong, or division by a standard deviation of 0.
    """
    x, ones = normal(60, 3, seeded(6)), torch.ones(60, 3, dtype=torch.float64)
    assert c2st.accuracy(ones, ones).value == 0.5
    assert c2st.accuracy(ones, 2 * ones).value == 1.0
    assert c2st.accuracy(5 + 0 * x, x).value > 0.9
    assert c2st.accuracy(x, x + 9).value == 1.0
    copies = c2st.c2st(made_view(x, x.flip(0)))["c2st"]
    assert 0 <= copies.value <= 0.6 and copies.interval is not None
    assert all(math.isfinite(end) for end in copies.interval)
    wide = normal(30, 200, seeded(7))
    assert 0 <= c2st.accuracy(wide, normal(30, 200, seeded(8))).value <= 1


def test_refusals() -> None:
    """Too few, NaN; few are marked; floors need no interval. Fails with: no check of NaN."""
    x = normal(60, 3, seeded(9))
    with pytest.raises(Refused, match="at least 10"):
        c2st.c2st(made_view(x[:9], x[:9]))
    with pytest.raises(Refused, match="finite"):
        c2st.c2st(made_view(x * math.nan, x))
    with pytest.raises(ValueError, match="equally"):
        c2st.accuracy(x, x[:5])
    assert c2st.c2st(made_view(x, x + 1))["c2st"].caution is not None
    found = c2st.c2st(made_view(x, x + 1, intervals=False))["c2st"]
    assert found.interval is None and found.sampling_error is None


def covered(d: int, runs: int, change: str, n: int = 150) -> float:
    """Share of intervals that hold the mean of all values."""
    generator = seeded(10)
    found = []
    for _ in range(runs):
        a, b = normal(n, d, generator), normal(n, d, generator)
        if change == "modes":
            centers = normal(6, d, seeded(11))
            a = centers[torch.randint(6, (n,), generator=generator)] + 0.3 * a
            b = centers[torch.randint(5, (n,), generator=generator)] + 0.3 * b
        a, b = (a, b + 0.2) if change == "mean" else (a, b * 1.25) if change == "scale" else (a, b)
        result = c2st.c2st(made_view(a, b))["c2st"]
        assert result.interval is not None
        found.append((result.value, *result.interval))
    truth = sum(value for value, _, _ in found) / runs
    return sum(low <= truth <= high for _, low, high in found) / runs


@pytest.mark.parametrize("change", ["none", "modes"])
def test_interval_covers_quickly(change: str) -> None:
    """100 comparisons; 3 standard errors of 95 %. Fails with: a binomial error (80 %)."""
    assert covered(2, 100, change) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 100)


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("change", ["none", "mean", "scale", "modes"])
def test_interval_covers(d: int, change: str) -> None:
    """2000 comparisons hold the expectation in 93 to 97.5 %.

    Fails with: a binomial error, which forgets that folds judge each other.
    """
    assert 0.93 <= covered(d, 2000, change) <= 0.975
