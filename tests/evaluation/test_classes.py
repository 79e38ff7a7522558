"""Classes of samples: histogram, coverage, favoured classes, and accuracy of a classifier."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.data.dataset import Dataset, Split
from genzoo.evaluation import classes
from genzoo.evaluation.features import Features
from genzoo.evaluation.measured import Measured, NotApplicable, Refused
from genzoo.evaluation.view import Items, View
from genzoo.types import DataSpec


class FirstPixel:
    """A classifier that reads the class off the first pixel."""

    def __init__(self, count: int) -> None:
        self.count = count

    def features(self, items: Tensor) -> Features:
        flat = items.flatten(1)
        logits = torch.nn.functional.one_hot(flat[:, 0].long(), self.count).double()
        return Features(flat.double(), logits)

    def pixels(self, items: Tensor) -> Tensor:
        return items.flatten(1).double()


def images_of(labels: np.ndarray, seen: np.ndarray | None = None) -> Split:
    """Images (N, 1, 2, 2) whose first pixel is the class that is seen; labels are the true one."""
    rng = np.random.default_rng(len(labels))
    pixels = rng.integers(0, 9, size=(len(labels), 1, 2, 2)).astype(np.uint8)
    pixels[:, 0, 0, 0] = labels if seen is None else seen
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def data_of(train: np.ndarray, test: Split, count: int) -> Dataset:
    frequencies = tuple((np.bincount(train, minlength=count) / len(train)).tolist())
    spec = DataSpec((1, 2, 2), 256, cond={"label": count}, frequencies=frequencies)
    names = tuple("abcdefghijkl"[:count])
    return Dataset("planted", spec, images_of(train), test, None, names, "none")


def view_of(data: Dataset, samples: Split, **more: object) -> View:
    count = data.spec.num_classes
    train, test, pool = (
        Items(split.data, split.labels, FirstPixel(count))
        for split in (data.train, data.test, samples)
    )
    n = min(len(pool), len(test))
    return View(pool.first(n), test.first(n), pool, train, test, data, **more)  # type: ignore[arg-type]


def repeat(*counts: int) -> np.ndarray:
    """Labels 0, 1, … as often as told, in a fixed random order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


def number(scores: dict[str, Measured | Refused], name: str) -> Measured:
    found = scores[name]
    assert isinstance(found, Measured)
    return found


# -- histogram ------------------------------------------------------------------------------------


def test_planted_bias() -> None:
    """90/10 in training, 95/5 in samples: ratio 0.95 / 0.90, TV 0.05, both classes covered.

    Fails with: minority over minority (0.5), odds (2.11), the sum without its half (0.1).
    """
    data = data_of(repeat(900, 100), images_of(repeat(900, 100)), 2)
    scores = classes.histogram(view_of(data, images_of(repeat(950, 50))))
    bias = number(scores, "bias_amplification")
    assert bias.value == pytest.approx(0.95 / 0.90)
    assert bias.interval is not None and 1 < bias.interval.low < bias.value < bias.interval.high
    assert number(scores, "class_histogram_tv").value == pytest.approx(0.05)
    assert number(scores, "class_coverage").value == 2


def test_bias_directions() -> None:
    """1 for a fair model, below 1 where the rare is favoured. Fails with: truth over samples."""
    data = data_of(repeat(900, 100), images_of(repeat(900, 100)), 2)
    fair = number(
        classes.histogram(view_of(data, images_of(repeat(900, 100)))), "bias_amplification"
    )
    rare = number(
        classes.histogram(view_of(data, images_of(repeat(800, 200)))), "bias_amplification"
    )
    assert fair.value == pytest.approx(1) and rare.value == pytest.approx(8 / 9)
    assert rare.interval is not None and rare.interval.high < 1


def test_bias_is_corrected_for_the_classifiers_mistakes() -> None:
    """A classifier that takes a fifth of the rare for frequent; fair samples score 1.

    Fails with: shares as predicted (1.022); hits and false alarms exchanged.
    """
    rng = np.random.default_rng(1)

    def seen(labels: np.ndarray) -> np.ndarray:
        return np.where((labels == 1) & (rng.random(len(labels)) < 0.2), 0, labels)

    test, drawn = repeat(9_000, 1_000), repeat(9_000, 1_000)
    data = data_of(repeat(900, 100), images_of(test, seen(test)), 2)
    bias = number(
        classes.histogram(view_of(data, images_of(drawn, seen(drawn)))), "bias_amplification"
    )
    errors = (bias.sampling_error, bias.reference_error)
    assert all(error is not None and error > 0 for error in errors)
    assert bias.value == pytest.approx(1, abs=4 * math.hypot(*(e or 0.0 for e in errors)))
    assert bias.value < 1.015


def test_balanced_data_have_no_majority_to_favour() -> None:
    """Shares within a fifth of even. Fails with: a ratio for two halves."""
    data = data_of(repeat(55, 50, 45), images_of(repeat(50, 50, 50)), 3)
    assert "bias_amplification" not in classes.histogram(view_of(data, data.test))


def test_a_classifier_that_knows_nothing_is_refused() -> None:
    """Fails with: a division by hits less false alarms of 0."""
    test = repeat(90, 10)
    data = data_of(repeat(900, 100), images_of(test, np.zeros(100, dtype=np.int64)), 2)
    scores = classes.histogram(view_of(data, images_of(repeat(90, 10))))
    assert isinstance(scores["bias_amplification"], Refused)


def test_held_out_items_without_labels() -> None:
    """Measured, uncorrected, and said so. Fails with: a traceback."""
    data = data_of(repeat(900, 100), Split(images_of(repeat(90, 10)).data), 2)
    bias = number(classes.histogram(view_of(data, images_of(repeat(95, 5)))), "bias_amplification")
    assert bias.value == pytest.approx(0.95 / 0.9) and "not corrected" in (bias.caution or "")


def test_coverage_takes_a_fifth() -> None:
    """Expected 100 each: 20 are enough, 19 are not. Fails with: `>`; one sample is enough."""
    data = data_of(repeat(*[100] * 4), images_of(repeat(*[100] * 4)), 4)
    scores = classes.histogram(view_of(data, images_of(repeat(20, 19, 181, 180))))
    assert number(scores, "class_coverage").value == 3
    assert number(scores, "class_coverage").caution is None


def test_one_class_and_one_sample() -> None:
    """Finite answers with intervals inside their range. Fails with: a variance of 0 divided by."""
    data = data_of(repeat(100, 100), images_of(repeat(100, 100)), 2)
    for samples in (images_of(repeat(200)), images_of(repeat(1))):
        scores = classes.histogram(view_of(data, samples))
        for name in ("class_histogram_tv", "class_coverage"):
            found = number(scores, name)
            assert found.interval is not None and all(map(math.isfinite, found.interval))
        assert number(scores, "class_histogram_tv").value == pytest.approx(0.5)


def test_class_histogram_for_the_page() -> None:
    """Samples beside training labels. Fails with: held-out shares for training shares."""
    data = data_of(repeat(900, 100), images_of(repeat(50, 50)), 2)
    found = classes.class_histogram(view_of(data, images_of(repeat(75, 25))))
    assert found is not None and found.labels == ("a", "b")
    assert found.samples == (0.75, 0.25) and found.train == (0.9, 0.1)


def test_where_classes_mean_nothing() -> None:
    """Fails with: a histogram of 1000 joint classes; one of points."""
    data = data_of(repeat(10, 10), images_of(repeat(10, 10)), 2)
    view = view_of(data, data.test)
    with pytest.raises(NotApplicable, match="modes_covered"):
        classes.histogram(replace(view, dataset=replace(data, stacked=True)))
    points = open_dataset("ring")
    with pytest.raises(NotApplicable):
        classes.histogram(replace(view, dataset=points))
    assert classes.class_histogram(replace(view, dataset=points)) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(sum),
    st.randoms(use_true_random=False),
)
def test_histogram_does_not_depend_on_the_names_of_classes(
    counts: list[int], random: object
) -> None:
    """Value, interval and their order. Fails with: sorted shares on one side."""
    k = len(counts)
    order = list(range(k))
    random.shuffle(order)  # type: ignore[attr-defined]
    truth = np.linspace(1, 2, k) / np.linspace(1, 2, k).sum()
    found, n = np.array(counts) / sum(counts), sum(counts)
    first, error = classes.total_variation_interval(found.tolist(), truth.tolist(), n)
    second, _ = classes.total_variation_interval(found[order].tolist(), truth[order].tolist(), n)
    assert first == pytest.approx(second, abs=1e-7) and error >= 0
    value = classes.total_variation(found.tolist(), truth.tolist())
    assert 0 <= first.low <= value + 1e-9 and value - 1e-9 <= first.high <= 1


def test_shares_of_a_whole_are_the_mean_of_its_parts() -> None:
    """Merge = whole. Fails with: classes that do not occur left out (`unique`)."""
    labels = torch.tensor([0, 3, 3, 1, 0, 0])
    parts = np.array([classes.shares(part, 5) for part in labels.split(3)])
    assert classes.shares(labels, 5) == pytest.approx(parts.mean(0).tolist())


@pytest.mark.parametrize(("k", "n"), [(2, 797), (10, 797), (10, 10_000), (100, 500)])
def test_expected_total_variation(k: int, n: int) -> None:
    """de Moivre's mean deviation against 2,000 draws. Fails with: ⌈n t⌉ - 1 for ⌊n t⌋ + 1."""
    law = np.linspace(1, 3, k) / np.linspace(1, 3, k).sum()
    draws = np.random.default_rng(k).multinomial(n, law, size=2_000) / n
    found = np.abs(draws - law).sum(1) / 2
    assert classes.expected_total_variation(law.tolist(), n) == pytest.approx(
        found.mean(), abs=4 * found.std() / math.sqrt(2_000)
    )


EVEN = np.full(10, 0.1)
LAWS = {
    "equal": (EVEN, EVEN),
    "two equal": (np.array([0.9, 0.1]), np.array([0.9, 0.1])),
    "95 for 90": (np.array([0.9, 0.1]), np.array([0.95, 0.05])),
    "a little off": (EVEN, EVEN + np.tile([0.02, -0.02], 5)),
    "far off": (EVEN, np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0, 0])),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [797, 10_000])
def test_histogram_intervals_hold_their_expectation(law: str, n: int) -> None:
    """93-97 % of 2,000. Fails with: the delta method where laws are equal."""
    truth, samples = LAWS[law]
    draws = np.random.default_rng(1).multinomial(n, samples, size=2_000) / n
    values = np.abs(draws - truth).sum(1) / 2
    ends = np.array([classes.total_variation_interval(row, truth, n)[0] for row in draws.tolist()])
    inside = (ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1])
    assert 0.93 <= inside.mean() <= 0.975


@pytest.mark.parametrize(
    ("truth", "share", "hits", "alarms", "known"),
    [(0.9, 0.9, 0.99, 0.05, 1_000), (0.9, 0.95, 0.99, 0.05, 1_000), (0.3, 0.5, 0.9, 0.1, 300)],
)
def test_bias_intervals_hold_their_expectation(
    truth: float, share: float, hits: float, alarms: float, known: int
) -> None:
    """93-97 % of 2,000, with the classifier's mistakes known from few items.

    Fails with: the reference error left out, where mistakes are frequent and few are known.
    """
    rng = np.random.default_rng(2)
    inside = round(known * truth)
    found = []
    for _ in range(2_000):
        hit, alarm = (rng.binomial(n, p) / n for n, p in ((inside, hits), (known - inside, alarms)))
        seen = classes.Majority(hit, alarm, inside, known - inside)
        predicted = rng.binomial(800, share * hits + (1 - share) * alarms) / 800
        measured, interval = classes.bias_amplification(predicted, truth, 800, seen)
        found.append((measured.value, *interval))
    value, low, high = np.array(found).T
    assert value.mean() == pytest.approx(share / truth, rel=0.01)
    assert 0.93 <= np.mean((low <= value.mean()) & (value.mean() <= high)) <= 0.97


# -- accuracy of a classifier ----------------------------------------------------------------


def digits_view(rows: slice, labels: Tensor | None = None) -> View:
    data = open_dataset("digits")
    assert data.train.labels is not None
    samples = Split(data.train.data[rows], data.train.labels[rows] if labels is None else labels)
    return view_of(data, samples)


def test_parity_with_a_plain_svm() -> None:
    """scikit-learn's own RBF machine on the pixels. Fails with: gamma without the variance."""
    from sklearn.svm import SVC

    view = digits_view(slice(0, 400))
    x, y = (side.raw.flatten(1).numpy() / 255 for side in (view.samples, view.real))
    assert view.samples.labels is not None and view.real.labels is not None
    plain = SVC().fit(x, view.samples.labels.numpy()).score(y, view.real.labels.numpy())
    assert number(classes.cas(view), "cas").value == pytest.approx(plain, abs=1e-12)


def test_real_digits_are_learned_and_shuffled_labels_are_not() -> None:
    """Above 95 % and about 10 %. Fails with: tested on the samples themselves."""
    assert number(classes.cas(digits_view(slice(0, 800))), "cas").value > 0.95
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 10, 797))
    found = number(classes.cas(digits_view(slice(0, 797), labels)), "cas")
    assert found.value < 0.2 and found.interval is not None


def test_a_missing_class_is_named() -> None:
    """Valid, with a caution. Fails with: a class index taken for a position among the present."""
    view = digits_view(slice(0, 797))
    assert view.samples.labels is not None
    rows = (view.samples.labels != 3).nonzero()[:, 0]
    found = number(classes.cas(replace(view, samples=view.samples.take(rows))), "cas")
    assert "1 of 10 classes (3)" in (found.caution or "") and 0.8 < found.value < 0.95


def test_labels_that_cannot_be_learned_from() -> None:
    """One class, none, no labels, points. Fails with: scikit-learn's traceback."""
    with pytest.raises(Refused, match="all labels of the samples are 7"):
        classes.cas(digits_view(slice(0, 50), torch.full((50,), 7)))
    view = digits_view(slice(0, 50))
    unlabelled = replace(view, samples=Items(view.samples.raw, None, FirstPixel(10)))
    with pytest.raises(Refused, match="no labels"):
        classes.cas(unlabelled)
    with pytest.raises(Refused, match="no samples|all labels"):
        classes.cas(digits_view(slice(0, 0)))
    with pytest.raises(NotApplicable):
        classes.cas(replace(view, dataset=open_dataset("ring")))


def test_constant_images_and_few_samples() -> None:
    """Chance, not NaN. Fails with: a kernel of width 1 / 0."""
    view = digits_view(slice(0, 50))
    flat = Items(torch.zeros_like(view.samples.raw), view.samples.labels, FirstPixel(10))
    assert 0 <= number(classes.cas(replace(view, samples=flat)), "cas").value < 0.25
    few = number(classes.cas(digits_view(slice(0, 8))), "cas")
    assert few.interval is None and 0 < few.value < 1


def test_large_images_are_reduced() -> None:
    """Components span the samples, so distances between them stay. Fails with: axes unscaled."""
    rng = np.random.default_rng(0)
    train, test = rng.random((40, 1_200)), rng.random((30, 1_200))
    a, b = classes.reduce(train, test)
    assert a.shape[1] == b.shape[1] == 39
    before, after = (np.square(x[:1] - x).sum(1) for x in (train, a))
    np.testing.assert_allclose(after, before, rtol=1e-8)
    assert classes.reduce(np.ones((5, 1_200)), test)[0].shape == (5, 1)


def planted(rng: np.random.Generator, n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(0).standard_normal((4, 8)) * 0.8 * (1 - shift)
    labels = rng.integers(0, 4, n)
    return centres[labels] + rng.standard_normal((n, 8)), labels


def accuracy_coverage(times: int, n: int, m: int, shift: float) -> tuple[float, float]:
    """Shares of intervals, and of Wilson's alone, that hold the mean accuracy."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(times):
        accuracy = classes.classification_accuracy(*planted(rng, n, shift), *planted(rng, m, 0))
        interval = classes.accuracy_interval(accuracy, m)
        alone = classes.wilson(accuracy.value, m)
        found.append((accuracy.value, *interval, *alone))
    value, low, high, tight, wide = np.array(found).T
    truth = value.mean()
    return float(np.mean((low <= truth) & (truth <= high))), float(
        np.mean((tight <= truth) & (truth <= wide))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "shift"), [(200, 300, 0.0), (200, 300, 0.6), (60, 2_000, 0)])
def test_accuracy_intervals_hold_their_expectation(n: int, m: int, shift: float) -> None:
    """92.5-97.5 % of 1,000, equal laws, others, few samples.

    Fails with: Wilson's interval alone (54 % for 60 samples), the interaction kept (99 %).
    """
    inside, alone = accuracy_coverage(1_000, n, m, shift)
    assert 0.925 <= inside <= 0.975 and alone < 0.96


def test_accuracy_intervals_quickly() -> None:
    """100 of few samples, above 88 %. Fails with: Wilson's interval alone."""
    inside, alone = accuracy_coverage(100, 60, 500, 0.0)
    assert inside >= 0.88 and alone < 0.9
