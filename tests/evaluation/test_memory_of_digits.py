"""Memory on real digits: planted copies, controls, the nearest neighbours' panel, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.evaluation import memorization, neighbours
from genzoo.evaluation.features import Features
from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.view import Items, View


class PixelSpaces:
    """Pixels as features, so that no network has to be trained."""

    def features(self, items: Tensor) -> Features:
        return Features(items.flatten(1).double())

    def pixels(self, items: Tensor) -> Tensor:
        return items.flatten(1).double() - 128


DIGITS = open_dataset("digits")
# As `Reference` hands them out; the levels suffice, since all metrics here ignore the unit.
TRAIN, TEST = (Items(s.data, None, PixelSpaces()) for s in (DIGITS.train, DIGITS.test))


def view_of(raw: Tensor, train: Items = TRAIN, test: Items = TEST) -> View:
    pool = Items(raw, None, PixelSpaces())
    n = min(len(pool), len(test))
    return View(pool.first(n), test.first(n), pool, train, test, DIGITS)


def test_plant_counts_and_places() -> None:
    """Fails with: copies drawn with replacement, the first places, a changed input."""
    fresh, copies = torch.zeros(200, 2), torch.arange(1.0, 301)[:, None].expand(300, 2)
    planted = memorization.plant(fresh, copies, 0.3, 0)
    copied = planted[:, 0] > 0
    assert int(copied.sum()) == len(planted[copied].unique(dim=0)) == 60
    assert 0 < int(copied[:100].sum()) < 60
    assert not fresh.any()
    assert len(memorization.plant(fresh, copies[:10], 1.0, 0).unique(dim=0)) == 10


SHARES = (0.0, 0.05, 0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def planted() -> dict[str, list[dict[str, Measured | Refused]]]:
    """Every metric of fresh digits among which copies of train and of test are planted.

    The fresh ones are a third of the held-out digits, which are then held out no more.
    """
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(TEST)))
    fresh, test = TEST.take(order[:398]), TEST.take(order[398:796])
    out: dict[str, list[dict[str, Measured | Refused]]] = {}
    for side, source in (("train", TRAIN.raw), ("test", test.raw)):
        out[side] = []
        for share in SHARES:
            view = view_of(memorization.plant(fresh.raw, source, share, 1), test=test)
            out[side].append(
                {
                    **memorization.neighbours(view),
                    **memorization.duplicates(view),
                    **memorization.c_t(view),
                    **memorization.fld_gap(view),
                }
            )
    return out


def column(rows: list[dict[str, Measured | Refused]], name: str) -> list[Measured]:
    found = [row[name] for row in rows]
    assert all(isinstance(one, Measured) for one in found)
    return [one for one in found if isinstance(one, Measured)]


Planted = dict[str, list[dict[str, Measured | Refused]]]


@pytest.mark.parametrize(
    ("name", "sign", "null", "seen_from"),
    [
        ("train_nn_share", 1, 0.5, 0.3),
        ("authenticity", -1, 1.0, 0.3),
        ("c_t", -1, 0.0, 0.3),
        ("fld_gap", 1, 0.0, 0.1),
        ("near_duplicates", 1, 0.01, 0.05),
    ],
)
def test_copies_of_train_move_every_metric(
    planted: Planted, name: str, sign: int, null: float, seen_from: float
) -> None:
    """Monotone in the share of copies; the interval excludes the null from some share on.

    Fails with: a metric of the wrong sign, an interval that is too wide to see anything.
    """
    found = column(planted["train"], name)
    values = [sign * one.value for one in found]
    assert values == sorted(values) and len(set(values)) == len(values)
    for share, one in zip(SHARES, found, strict=True):
        assert one.interval is not None
        if share >= seen_from:
            assert not one.interval.low <= null <= one.interval.high, (share, one)
        if share == 0:
            assert one.interval.low <= null <= one.interval.high, one


def test_duplicates_count_what_was_planted(planted: Planted) -> None:
    """Fails with: sides exchanged, near for exact."""
    base = column(planted["train"], "duplicates")[0].value
    for i, share in enumerate(SHARES):
        copies = round(share * 398)
        assert copies <= column(planted["train"], "duplicates")[i].value <= copies + base
        assert copies <= column(planted["test"], "test_duplicates")[i].value
        near = column(planted["train"], "near_duplicates")[i].value
        assert near * 398 >= copies


@pytest.mark.parametrize(("name", "sign"), [("train_nn_share", -1), ("fld_gap", -1)])
def test_copies_of_test_turn_the_two_sided(planted: Planted, name: str, sign: int) -> None:
    """Fails with: a one-sided metric, |gap|."""
    values = [sign * one.value for one in column(planted["test"], name)]
    assert values == sorted(values) and len(set(values)) == len(values)


def test_copies_of_test_are_not_called_memory(planted: Planted) -> None:
    """All samples held out: share 0, gap far below 0, C_T near the null.

    Distances from test to train are those of held-out data, so C_T and authenticity see none.
    """
    row = planted["test"][-1]
    assert column([row], "train_nn_share")[0].value == 0
    assert column([row], "fld_gap")[0].value < -50
    assert column([row], "authenticity")[0].value == pytest.approx(1, abs=1e-12)
    assert abs(column([row], "c_t")[0].value) < 1e-9


def test_c_t_is_of_the_size_the_paper_gives_copies(planted: Planted) -> None:
    """Fails with: z-scores not grown by √N."""
    assert column(planted["train"], "c_t")[-1].value < -10


class TestControlsOnDigits:
    """What an independent program found for these controls, in pixels."""

    def measure(self, samples: Tensor) -> tuple[float, float]:
        """1-NN accuracy at 797 a side, and train-NN share."""
        train, test = TRAIN.pixels, TEST.pixels
        accuracy = one_nn(samples[: len(test)], test)
        found = memorization.attribute(samples, train, test)
        return accuracy, memorization.train_nn_share(found).value

    def test_one_gaussian(self) -> None:
        """.92 in 1-NN and no memory. Fails with: rounding left out of the samples."""
        levels = TRAIN.pixels + 128
        fitted = levels.mean(0).numpy(), np.cov(levels.T.numpy())
        drawn = np.random.default_rng(0).multivariate_normal(*fitted, size=1000)
        accuracy, share = self.measure(torch.from_numpy(drawn).round().clamp(0, 16) - 128)
        assert accuracy == pytest.approx(0.92, abs=0.03)
        assert share == pytest.approx(0.5, abs=0.08)

    def test_mixture_of_twenty_memorizes(self) -> None:
        """.72 and .68. Fails with: train and test exchanged."""
        from sklearn.mixture import GaussianMixture

        mixture = GaussianMixture(20, random_state=0).fit((TRAIN.pixels + 128).numpy())
        drawn = np.random.default_rng(0).permutation(mixture.sample(1000)[0])
        accuracy, share = self.measure(torch.from_numpy(drawn).round().clamp(0, 16) - 128)
        assert accuracy == pytest.approx(0.72, abs=0.04)
        assert share == pytest.approx(0.68, abs=0.05)

    def test_copies(self) -> None:
        """Copies of train: .51 and .90; of test: 0 and 0. Fails with: random halves (.70)."""
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
        accuracy, share = self.measure(TRAIN.pixels[order])
        assert accuracy == pytest.approx(0.51, abs=0.03)
        assert share == pytest.approx(0.90, abs=0.01)
        assert self.measure(TEST.pixels) == (0.0, 0.0)


def one_nn(samples: Tensor, real: Tensor) -> float:
    """Leave-one-out accuracy of telling samples from real items by the nearest neighbour."""
    within = [neighbours.nearest(x, x, own=True).distance for x in (samples, real)]
    across = [neighbours.nearest(*pair).distance for pair in ((samples, real), (real, samples))]
    a, b = torch.cat(within), torch.cat(across)
    return float(((a < b).double() + 0.5 * (a == b).double()).mean())


def test_without_intervals() -> None:
    """Floors take no time for intervals, and have the same values. Fails with: a flag ignored."""
    view = view_of(DIGITS.test.data[:200], test=TEST.take(torch.arange(200, 797)))
    for measure in (memorization.neighbours, memorization.c_t, memorization.fld_gap):
        full, bare = measure(view), measure(view.without_intervals())
        for name, one in bare.items():
            assert isinstance(one, Measured) and one.interval is None
            assert one.value == full[name].value  # type: ignore[union-attr]


def test_nearest_panel() -> None:
    """Copies come first, with the items that they copy. Fails with: rows of the sorted order."""
    raw = TEST.raw[:50].clone()
    raw[[7, 30]] = TRAIN.raw[[500, 3]]
    found = memorization.nearest_panel(view_of(raw), 4)
    assert found.sample_index[:2] == (7, 30) and found.train_index[:2] == (500, 3)
    assert len(found.sample_index) == 4


# -- bad input ------------------------------------------------------------------------------


def constant(n: int) -> Items:
    return Items(torch.full((n, 1, 8, 8), 3, dtype=torch.uint8), None, PixelSpaces())


BAD: dict[str, Callable[[], View]] = {
    "one sample": lambda: view_of(TEST.raw[:1]),
    "two samples": lambda: view_of(TEST.raw[:2]),
    "fewer than dimensions": lambda: view_of(TEST.raw[:30]),
    "all identical": lambda: view_of(constant(300).raw),
    "everything constant": lambda: view_of(constant(300).raw, constant(300), constant(300)),
    "one held-out item": lambda: view_of(TEST.raw[:100], test=TEST.first(1)),
    "few held-out items": lambda: view_of(TRAIN.raw[:700], test=TEST.first(40)),
    "one training item": lambda: view_of(TEST.raw[:100], TRAIN.first(1)),
    "two training items": lambda: view_of(TEST.raw[:100], TRAIN.first(2)),
    "no training items": lambda: view_of(TEST.raw[:100], TRAIN.first(0)),
    "not numbers": lambda: view_of(torch.full((100, 1, 8, 8), math.nan)),
    "infinite": lambda: view_of(torch.full((100, 1, 8, 8), math.inf)),
    "train in the place of all": lambda: view_of(TRAIN.raw, TRAIN, TRAIN),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_refused_or_answered(case: str) -> None:
    """No NaN and no traceback. Fails with: any of the checks left out."""
    view = BAD[case]()
    answered = 0
    for measure in (
        memorization.neighbours,
        memorization.duplicates,
        memorization.c_t,
        memorization.fld_gap,
    ):
        try:
            found = measure(view)
        except Refused as refusal:
            assert str(refusal)
            continue
        for one in found.values():
            if isinstance(one, Refused):
                continue
            answered += 1
            numbers = [one.value, *(one.interval or ()), one.sampling_error, one.reference_error]
            assert all(math.isfinite(x) for x in numbers if x is not None), one
            if one.interval is not None:
                assert one.interval.low <= one.value + 1e-12 and one.value <= one.interval.high
    assert answered or case == "no training items"


def test_unknown_training_data_are_refused() -> None:
    """Fails with: an empty reference that scores 0."""
    view = replace(view_of(TEST.raw[:100]), train=TRAIN.first(0))
    found = memorization.duplicates(view)
    assert isinstance(found["duplicates"], Refused)
    assert isinstance(found["test_duplicates"], Measured)
    for measure in (memorization.neighbours, memorization.nearest_panel):
        with pytest.raises(Refused, match="training data are not known"):
            measure(view)


@pytest.mark.parametrize("case", ["not numbers", "infinite"])
def test_samples_that_are_no_numbers_are_refused(case: str) -> None:
    """Fails with: comparisons with NaN, all of which are false, taken for an answer."""
    for measure in (memorization.neighbours, memorization.c_t, memorization.fld_gap):
        with pytest.raises(Refused, match="not finite"):
            measure(BAD[case]())


def test_few_samples_are_marked() -> None:
    """Fails with: no caution below 50."""
    assert "only 30 samples" in (
        column([memorization.neighbours(BAD["fewer than dimensions"]())], "train_nn_share")[
            0
        ].caution
        or ""
    )
