"""What labels make measurable: classification accuracy score and class histogram."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, stats
from torch import Tensor

from genzoo.evaluation.measured import Measured, NotApplicable, Refused
from genzoo.evaluation.result import ClassHistogram
from genzoo.evaluation.statistics import LEVEL, Interval, wilson
from genzoo.evaluation.view import Items, View

Array = npt.NDArray[np.float64]

CAS_ITEMS = 2000
# Above this many dimensions images are reduced to principal components before the SVM.
CAS_DIMENSIONS, CAS_COMPONENTS = 1024, 256
CAS_BLOCKS = 10
# A class is covered with this share of the samples that are expected of it.
COVERED = 0.2
# Classes whose shares are all this near to even have no majority to favour.
BALANCED = 0.2
# Below this, predictions say too little about the majority to be corrected.
LEAST_YOUDEN = 0.5
_Z = float(stats.norm.ppf((1 + LEVEL) / 2))


# -- classification accuracy score --------------------------------------------------------------


class Accuracy(NamedTuple):
    """Accuracy of a classifier, and its standard error from the training items."""

    value: float
    training_error: float | None


def classification_accuracy(
    train: Array,
    labels: npt.NDArray[np.int64],
    test: Array,
    test_labels: npt.NDArray[np.int64],
    blocks: int = CAS_BLOCKS,
) -> Accuracy:
    """Accuracy on `test` of a support vector machine (RBF, C = 1) trained on `train`.

    The kernel's width is scikit-learn's ``scale``: 1 / (D · variance of all entries). The
    training items' error is `training_error` over disjoint blocks.

    Args:
        train: (N, D), in random order.
        labels: (N,), of at least two classes.
        test: (M, D).
        test_labels: (M,).
        blocks: how many; none give no error.
    """
    variance = float(train.var())
    gamma = 1.0 / (train.shape[1] * variance) if variance > 0 else 1.0
    # One kernel matrix serves all fits; a fit from the pixels would cost ten times as much.
    inner = np.exp(-gamma * _squared(train, train))
    cross = np.exp(-gamma * _squared(test, train))
    rows = np.arange(len(train))
    value = float(_correct(inner, labels, cross, test_labels, rows).mean())
    if blocks < 2 or len(train) < 2 * blocks or len(test) < 2:
        return Accuracy(value, None)
    left_out = [
        _correct(inner, labels, cross, test_labels, rows[rows % blocks != block])
        for block in range(blocks)
    ]
    return Accuracy(value, training_error(np.stack(left_out)))


def training_error(correct: Array) -> float:
    """Standard error of an accuracy from the training items, by a delete-block jackknife.

    A classifier with a block left out changes its mind on single test items, which says more
    of the few test items than of the training items and which a jackknife multiplies. What such
    changes alone would make of the spread, the interaction in a two-way analysis of variance,
    is therefore taken off.

    Args:
        correct: 1 where the classifier without block i is right on test item j, (k, M).
    """
    k, m = correct.shape
    rates = correct.mean(1)
    rest = correct - rates[:, None] - correct.mean(0) + correct.mean()
    interaction = float((rest**2).sum()) / ((k - 1) * (m - 1))
    variance = float(rates.var(ddof=1)) - interaction / m
    return float((k - 1) * math.sqrt(max(0.0, variance) / k))


def _correct(
    inner: Array,
    labels: npt.NDArray[np.int64],
    cross: Array,
    test_labels: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> Array:
    """1 for each test item that a machine fitted on some rows is right about, (M,)."""
    from sklearn.svm import SVC

    if len(np.unique(labels[rows])) < 2:
        return np.asarray(test_labels == labels[rows][0], dtype=np.float64)
    classifier = SVC(kernel="precomputed").fit(inner[np.ix_(rows, rows)], labels[rows])
    return np.asarray(classifier.predict(cross[:, rows]) == test_labels, dtype=np.float64)


def _squared(a: Array, b: Array) -> Array:
    norms: Array = (a**2).sum(1)[:, None] + (b**2).sum(1)[None]
    return np.asarray(np.maximum(norms - 2 * a @ b.T, 0.0))


def accuracy_interval(found: Accuracy, m: int, blocks: int = CAS_BLOCKS) -> Interval:
    """Wilson's limits over M test items and Student's over training items, added in squares."""
    limits = wilson(found.value, m)
    half = float(stats.t.ppf((1 + LEVEL) / 2, blocks - 1)) * (found.training_error or 0.0)
    low = found.value - math.hypot(found.value - limits.low, half)
    high = found.value + math.hypot(limits.high - found.value, half)
    return Interval(max(0.0, low), min(1.0, high))


def reduce(train: Array, test: Array) -> tuple[Array, Array]:
    """Leading principal components of `train` (N, D), and `test` (M, D) projected on them."""
    if train.shape[1] <= CAS_DIMENSIONS:
        return train, test
    mean = train.mean(0)
    # With N < D the N × N Gram matrix holds the same spectrum.
    values, vectors = np.linalg.eigh((train - mean) @ (train - mean).T)
    keep = np.argsort(values)[::-1][:CAS_COMPONENTS]
    keep = keep[values[keep] > 1e-10 * max(values.max(), 1e-300)]
    if not len(keep):
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    axes = (train - mean).T @ vectors[:, keep] / np.sqrt(values[keep])
    return (train - mean) @ axes, (test - mean) @ axes


def cas(view: View) -> dict[str, Measured | Refused]:
    """Train on labelled samples, test on held-out items."""
    spec = view.dataset.spec
    if not view.is_image or not spec.num_classes:
        raise NotApplicable(f"{view.dataset.name} has no labels")
    samples, real = view.samples.first(CAS_ITEMS), view.real.first(CAS_ITEMS)
    if samples.labels is None:
        raise Refused("the samples have no labels")
    if real.labels is None:
        raise Refused("the held-out items have no labels")
    present = samples.labels.unique().tolist()
    if len(present) < 2:
        raise Refused(f"all labels of the samples are {present[0]}" if present else "no samples")
    train, test = reduce(_scaled(samples), _scaled(real))
    blocks = CAS_BLOCKS if view.intervals else 0
    found = classification_accuracy(
        train, samples.labels.cpu().numpy(), test, real.labels.cpu().numpy(), blocks
    )
    known = found.training_error is not None
    space = "pixels" if view.samples.raw[0].numel() <= CAS_DIMENSIONS else _components(train)
    return {
        "cas": Measured(
            found.value,
            accuracy_interval(found, len(real)) if known else None,
            sampling_error=found.training_error,
            reference_error=math.sqrt(found.value * (1 - found.value) / len(real)),
            n=len(samples),
            convention=f"SVM (RBF, C = 1, gamma = scale) on {space} trained on {len(samples)} "
            f"samples, tested on {len(real)} held-out images; 95 % interval: Wilson over these "
            f"and a jackknife over {CAS_BLOCKS} blocks of samples",
            caution=_missing(present, view.dataset.class_names),
        )
    }


def _scaled(items: Items) -> Array:
    pixels: Array = items.raw.flatten(1).cpu().numpy().astype(np.float64) / 255
    return pixels


def _components(train: Array) -> str:
    return f"{train.shape[1]} principal components of the samples' pixels"


def _missing(present: Sequence[int], names: Sequence[str]) -> str | None:
    absent = [name for i, name in enumerate(names) if i not in set(present)]
    if not absent:
        return None
    shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
    return f"no samples of {len(absent)} of {len(names)} classes ({shown})"


# -- class histogram ----------------------------------------------------------------------------


def shares(labels: Tensor, classes: int) -> tuple[float, ...]:
    """Share of each class, summing to 1."""
    counts = torch.bincount(labels, minlength=classes).double()
    return tuple((counts / counts.sum()).tolist())


def total_variation(a: Sequence[float], b: Sequence[float]) -> float:
    """Half the sum of absolute differences of two distributions, in [0, 1]."""
    return 0.5 * float(np.abs(np.subtract(a, b)).sum())


def folded_moments(d: Array, covariance: Array) -> tuple[float, float]:
    """Mean and standard deviation of ½ Σ |X| for X normal with mean d (C,).

    E|X| and Var |X| = d² + σ² - (E|X|)² are those of a folded normal law; covariances follow
    from Price's theorem to second order.
    """
    sigma = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    ratio = d / sigma
    slope = 2 * stats.norm.cdf(ratio) - 1
    bend = 2 * stats.norm.pdf(ratio) / sigma
    mean = sigma * (2 * stats.norm.pdf(ratio) + ratio * slope)
    moments = np.outer(slope, slope) * covariance + np.outer(bend, bend) * covariance**2 / 2
    np.fill_diagonal(moments, np.maximum(sigma**2 + d**2 - mean**2, 0.0))
    return 0.5 * float(mean.sum()), 0.5 * math.sqrt(max(0.0, float(moments.sum())))


def total_variation_interval(
    found: Sequence[float], truth: Sequence[float], n: int
) -> tuple[Interval, float]:
    """95 % interval of the expectation of `total_variation` at this n, and its standard error.

    The delta method, which takes |X| for ±X, is three times too large a variance where the laws
    are equal. Laws t + s (p̂ - t) are tried instead: the interval holds the expectations of
    those for which what was found is within 1.96 standard deviations of them. Nearer than
    equal laws, it is scaled down.

    Args:
        found: p̂, shares among the items.
        truth: t, shares they are compared with.
        n: number of items.
    """
    p, t = np.asarray(found), np.asarray(truth)
    used = (p > 0) | (t > 0)
    p, t = p[used], t[used]
    value = total_variation(p.tolist(), t.tolist())
    if len(p) < 2:
        return Interval(value, value), 0.0

    def law(s: float) -> tuple[float, float]:
        q = np.maximum(t + s * (p - t), 0.0)
        q /= q.sum()
        return folded_moments(s * (p - t), (np.diag(q) - np.outer(q, q)) / n)

    ends = []
    for sign in (1, -1):
        mean, error = law(0.0)
        reach = mean + sign * _Z * error
        if value >= reach:
            ends.append(_reaching(law, value, sign))
        else:
            ends.append(mean * value / reach if reach > 0 else mean)
    return Interval(max(0.0, ends[0]), min(1.0, ends[1])), law(1.0)[1]


def _reaching(law: Callable[[float], tuple[float, float]], value: float, sign: int) -> float:
    """Expectation of the law whose upper (+1) or lower (-1) end is `value`."""

    def gap(s: float) -> float:
        mean, error = law(s)
        return mean + sign * _Z * error - value

    top = 1.0
    while gap(top) < 0 and top < 64:
        top *= 2
    return law(float(optimize.brentq(gap, 0.0, top)) if gap(top) > 0 else top)[0]


def expected_total_variation(truth: Sequence[float], n: int) -> float:
    """Exact expectation of `total_variation` over `n` items of the law `truth`.

    The mean absolute deviation of a binomial count is 2 (m + 1) (1 - t) P(m + 1) / …, in the
    form 2 m (1 - t) P(X = m) with m = ⌊n t⌋ + 1 (de Moivre).
    """
    t = np.asarray(truth)
    m = np.floor(n * t) + 1
    return 0.5 * float((2 * m * (1 - t) * stats.binom.pmf(m, n, t)).sum()) / n


class Majority(NamedTuple):
    """How a classifier sees the majority classes, from labelled real items.

    Attributes:
        hit: share of majority items that it takes for majority.
        false_alarm: share of the other items that it takes for majority.
        inside: majority items.
        outside: other items.
    """

    hit: float
    false_alarm: float
    inside: int
    outside: int


def majority_classes(truth: Sequence[float]) -> npt.NDArray[np.bool_] | None:
    """Classes above their even share; ``None`` where all are within a fifth of it."""
    t = np.asarray(truth)
    even = 1 / max(1, len(t))
    if len(t) < 2 or np.abs(t - even).max() <= BALANCED * even:
        return None
    return np.asarray(t > even)


def bias_amplification(
    predicted: float, truth: float, n: int, seen: Majority | None
) -> tuple[Measured, Interval]:
    """Share of the majority among samples over its share in the training data.

    The share predicted among samples is corrected for the classifier's mistakes (Rogan and
    Gladen 1978): (share - false alarms) / (hits - false alarms).

    Args:
        predicted: share of samples that are taken for majority.
        truth: share in the training data.
        n: number of samples.
        seen: the classifier's mistakes; ``None`` for a classifier without.
    """
    hit, alarm = (1.0, 0.0) if seen is None else (seen.hit, seen.false_alarm)
    scale = (hit - alarm) * truth
    share = (predicted - alarm) / (hit - alarm)
    reference = 0.0
    if seen is not None:
        from_hits = share**2 * _share_variance(hit, seen.inside)
        from_alarms = (1 - share) ** 2 * _share_variance(alarm, seen.outside)
        reference = math.sqrt(from_hits + from_alarms) / scale
    value, limits = share / truth, wilson(predicted, n)
    low = value - math.hypot((predicted - limits.low) / scale, _Z * reference)
    high = value + math.hypot((limits.high - predicted) / scale, _Z * reference)
    error = math.sqrt(predicted * (1 - predicted) / n) / scale
    measured = Measured(value, sampling_error=error, reference_error=reference)
    return measured, Interval(low, high)


def _share_variance(share: float, n: int) -> float:
    """Variance of a share, not 0 where none or all of n items were counted (Agresti-Coull)."""
    smooth = (share * n + 0.5) / (n + 1)
    return smooth * (1 - smooth) / n


def class_histogram(view: View) -> ClassHistogram | None:
    """Shares of predicted classes beside those of training labels, where a classifier is known."""
    found = view.samples.found
    classes = view.dataset.spec.num_classes
    if found.parts is not None or found.logits is None or not classes or not len(view.samples):
        return None
    if found.logits.shape[1] != classes:
        return None
    predicted = shares(found.logits.argmax(1), classes)
    return ClassHistogram(view.dataset.class_names, predicted, view.dataset.spec.frequencies)


def histogram(view: View) -> dict[str, Measured | Refused]:
    """How the predicted classes of samples are spread, beside the training labels."""
    if view.dataset.stacked:
        raise NotApplicable("1000 joint classes: see modes_covered")
    if not view.is_image or not view.dataset.spec.num_classes:
        raise NotApplicable(f"{view.dataset.name} has no labels")
    found = class_histogram(view)
    if found is None:
        raise Refused("no classifier tells the classes of an item")
    n = len(view.samples)
    scores: dict[str, Measured | Refused] = {
        "class_histogram_tv": _histogram_score(found, n, view.intervals),
        "class_coverage": _coverage_score(found, n, view.intervals),
    }
    majority = majority_classes(found.train)
    if majority is not None:
        scores["bias_amplification"] = _bias_score(view, found, majority)
    return scores


def _histogram_score(found: ClassHistogram, n: int, intervals: bool) -> Measured:
    value = total_variation(found.samples, found.train)
    interval, error = total_variation_interval(found.samples, found.train, n)
    perfect = expected_total_variation(found.train, n)
    return Measured(
        value,
        interval if intervals else None,
        sampling_error=error,
        reference_error=0.0,
        n=n,
        convention="classes predicted by the feature classifier against training labels; biased "
        f"up: {perfect:.3g} expected of a perfect model and classifier at this N; 95 % interval: "
        "folded normal laws, for the value expected at this N",
    )


def _coverage_score(found: ClassHistogram, n: int, intervals: bool) -> Measured:
    """Classes with a fifth of the expected samples, at least one."""
    p, t = np.asarray(found.samples), np.asarray(found.train)
    p, t = p[t > 0], t[t > 0]
    least = np.maximum(1, np.ceil(COVERED * n * t - 1e-9))
    reached = stats.binom.sf(least - 1, n, p)
    error = math.sqrt(float((reached * (1 - reached)).sum()))
    value = float((np.rint(p * n) >= least).sum())
    interval = Interval(max(0.0, value - _Z * error), min(float(len(t)), value + _Z * error))
    few = n * float(t.min()) * COVERED <= 1
    return Measured(
        value,
        interval if intervals else None,
        sampling_error=error,
        reference_error=0.0,
        n=n,
        convention=f"of {len(t)}, classes predicted by the feature classifier, at least a fifth "
        "of the samples expected from the training labels; 95 % interval: normal, binomial counts",
        caution="one sample covers the rarest class" if few else None,
    )


def _bias_score(
    view: View, found: ClassHistogram, majority: npt.NDArray[np.bool_]
) -> Measured | Refused:
    def make(train: Items, test: Items) -> Majority | None:
        return confusion(test, majority)

    seen = view.once("classifier on majority classes", make)
    if seen is not None and seen.hit - seen.false_alarm < LEAST_YOUDEN:
        return Refused("the classifier does not tell frequent from rare classes")
    predicted = float(np.asarray(found.samples)[majority].sum())
    truth = float(np.asarray(found.train)[majority].sum())
    n = len(view.samples)
    measured, interval = bias_amplification(predicted, truth, n, seen)
    names = [name for name, is_major in zip(found.labels, majority, strict=True) if is_major]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    corrected = "not corrected for the classifier's mistakes, held-out labels are missing"
    if seen is not None:
        corrected = "corrected for the classifier's mistakes on held-out items"
    return measured._replace(
        interval=interval if view.intervals else None,
        n=n,
        convention=f"{len(names)} classes above their even share ({shown}), {truth:.3g} of the "
        f"training data; {corrected}; 95 % interval: Wilson and the correction's error",
        caution=None if seen is not None else corrected,
    )


def confusion(items: Items, majority: npt.NDArray[np.bool_]) -> Majority | None:
    """How the classifier sees labelled real items; ``None`` where one side has none."""
    logits, labels = items.found.logits, items.labels
    if logits is None or labels is None:
        return None
    taken = majority[logits.argmax(1).cpu().numpy()]
    inside = majority[labels.cpu().numpy()]
    if not inside.any() or inside.all():
        return None
    return Majority(
        float(taken[inside].mean()),
        float(taken[~inside].mean()),
        int(inside.sum()),
        int((~inside).sum()),
    )
