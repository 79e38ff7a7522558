"""Classifier two-sample test: can a classifier tell samples from held-out data?

The classifier is regularized least squares on standardized features, their absolute values,
squares and a Gaussian kernel (Nyström): it sees differences of mean, scale and shape, has one
answer, and its refits for other labels cost one product. They give the interval: the folds of
cross-validation judge each other, which makes the accuracy up to half as uncertain again as
a binomial share.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.statistics import Interval
from genzoo.evaluation.view import View

FOLDS = 5
LANDMARKS = 200
COMPONENTS = 64
MAX_ITEMS = 10_000
RIDGE = 3.0
REDRAWS = 100
MIN_ITEMS = 10
CAUTION = 100
TIE = 1e-9


class Accuracy(NamedTuple):
    """A cross-validated accuracy.

    Attributes:
        value: share of right verdicts, ties counting one half.
        error: its standard error over fresh items on both sides; ``None`` if not wanted.
        samples: share of right verdicts about samples.
        real: share of right verdicts about real items.
    """

    value: float
    error: float | None
    samples: float
    real: float


def c2st(view: View) -> dict[str, Measured]:
    """Cross-validated accuracy of telling samples from held-out items in feature space."""
    n = min(view.n, MAX_ITEMS)
    if n < MIN_ITEMS:
        raise Refused(f"{n} items a side; at least {MIN_ITEMS} are needed")
    a, b = view.samples.first(n).features, view.real.first(n).features
    found = accuracy(a, b, seed=view.seed, errors=view.intervals)
    text = (
        f"{FOLDS}-fold stratified cross-validation of least squares on standardized features, "
        f"their sizes, squares and {LANDMARKS} Nyström features of a Gaussian kernel"
    )
    if a.shape[1] > COMPONENTS:
        text += f", after {COMPONENTS} principal components of both sides"
    caution = f"fewer than {CAUTION} items a side" if n < CAUTION else None
    if found.error is None:
        return {"c2st": Measured(found.value, n=n, convention=text, caution=caution)}
    half = float(stats.norm.ppf(0.975)) * found.error
    interval = Interval(max(0.0, found.value - half), min(1.0, found.value + half))
    text += "; 95 % interval: labels redrawn from the classifier's odds, both sides random"
    parts = [share * (1 - share) + 1e-12 for share in (found.samples, found.real)]
    own, other = (found.error * math.sqrt(part / sum(parts)) for part in parts)
    return {"c2st": Measured(found.value, interval, own, other, n, text, caution=caution)}


def accuracy(a: Tensor, b: Tensor, *, seed: int = 0, errors: bool = True) -> Accuracy:
    """Cross-validated accuracy; its expectation is exactly ½ between equal laws.

    Folds hold as many items of either side, and what is done to features before the labels
    are seen treats both sides alike: given all items, every verdict is then right or wrong
    with equal chance.

    Args:
        a: (N, d) float64 features of one side.
        b: (N, d) of the other.
        seed: of landmarks, folds and redrawn labels.
        errors: whether the standard error is wanted.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} items: sides must be equally large")
    n = len(a)
    generator = torch.Generator().manual_seed(seed)
    design = _design(torch.cat([a, b]), generator)
    label = torch.ones(2 * n, dtype=design.dtype, device=design.device)
    label[n:] = -1
    fold = torch.cat([torch.randperm(n, generator=generator) % FOLDS for _ in range(2)])
    fold = fold.to(design.device)
    folds = _Folds(design, fold)
    score = folds.scores(label[:, None])[:, 0]
    right = _right(score, label)
    error = _redrawn_error(folds, score, label, generator) if errors else None
    return Accuracy(float(right.mean()), error, float(right[:n].mean()), float(right[n:].mean()))


class _Folds:
    """Least squares with each fold left out in turn, for any number of labellings at once."""

    def __init__(self, design: Tensor, fold: Tensor) -> None:
        """Factor the normal equations, which do not depend on labels."""
        self.design, self.fold = design, fold
        self.rows = [(fold == k).nonzero()[:, 0] for k in range(FOLDS)]
        whole = design.T @ design
        ridge = RIDGE * torch.eye(design.shape[1], dtype=design.dtype, device=design.device)
        # The constant comes last and is not shrunk, but kept from being singular.
        ridge[-1, -1] = 1e-6
        self.factors = []
        for rows in self.rows:
            left = design[rows]
            self.factors.append(torch.linalg.cholesky(whole - left.T @ left + ridge))

    def scores(self, labels: Tensor) -> Tensor:
        """Out-of-fold predictions for labels ±1, (2N, B) -> (2N, B)."""
        whole, out = self.design.T @ labels, torch.empty_like(labels)
        for rows, factor in zip(self.rows, self.factors, strict=True):
            left = self.design[rows]
            out[rows] = left @ torch.cholesky_solve(whole - left.T @ labels[rows], factor)
        return out


def _right(score: Tensor, label: Tensor) -> Tensor:
    """1 for a right verdict, ½ for none, 0 for a wrong one."""
    return ((score * label > TIE).to(score) + (score * label >= -TIE).to(score)) / 2


def _redrawn_error(
    folds: _Folds, score: Tensor, label: Tensor, generator: torch.Generator
) -> float:
    """Standard error from labels drawn anew with the odds that the classifier gives items.

    Items stay where they are, none twice; what their places add to the variance is that of
    the chance to be right, which differs between them. Each fold keeps its balance.
    """
    odds = _calibration(score, label) * score
    uniform = torch.rand(len(score), REDRAWS, generator=generator, dtype=torch.float64)
    noise = torch.logit(uniform, eps=1e-12).to(score)
    labels = torch.full_like(noise, -1)
    for rows in folds.rows:
        order = (odds[rows, None] + noise[rows]).argsort(dim=0, descending=True)
        first = rows[order[: len(rows) // 2]]
        labels.scatter_(0, first, 1.0)
    right = _right(folds.scores(labels), labels)
    total = right.mean(0)
    chance = right.mean(1)
    # Chances are seen in few redraws, whose own variance is not theirs.
    places = float(chance.var()) - float((chance * (1 - chance)).mean()) / (REDRAWS - 1)
    return math.sqrt(float(total.var()) + max(0.0, places) / len(score))


def _calibration(score: Tensor, label: Tensor) -> float:
    """The factor β ≥ 0 that makes β × score the log-odds of the label, by Newton's method."""
    beta = 0.0
    for _ in range(30):
        chance = torch.sigmoid(beta * score * label)
        slope = float((score * label * (1 - chance)).sum()) - 0.01 * beta
        curve = float((score.square() * chance * (1 - chance)).sum()) + 0.01
        step = slope / curve
        beta = max(0.0, beta + max(-3.0, min(3.0, step)))
        if abs(step) < 1e-6:
            break
    return beta


def _design(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standardized features, sizes, squares, Nyström features and a constant, (2N, p)."""
    if x.shape[1] > COMPONENTS:
        centred = x - x.mean(0)
        x = centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -COMPONENTS:]
    spread = x.std(0)
    varied = spread > 1e-9 * x.abs().amax(0).clamp(min=1e-300)
    z = (x - x.mean(0))[:, varied] / spread[varied]
    if not z.shape[1]:
        return torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
    chosen = torch.randperm(len(z), generator=generator)[: min(LANDMARKS, len(z) // 4)]
    landmarks = z[chosen.to(z.device)]
    values, vectors = torch.linalg.eigh(_kernel(landmarks, landmarks))
    kept = values > 1e-6 * values[-1]
    smooth = _kernel(z, landmarks) @ (vectors[:, kept] / values[kept].sqrt())
    # Absolute values tell shapes apart whose variances agree, and bounds blunt outliers.
    size = z.abs().clamp(max=3)
    return torch.cat([z, size, size.square() / 3, smooth, torch.ones_like(z[:, :1])], 1)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Gaussian kernel whose width is the typical distance of an item from the mean."""
    return (-torch.cdist(a, b).square() / (2 * a.shape[1])).exp()
