"""Judging models: every number of fresh sets and scores, by the grader itself. NumPy alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import stats

from genzoo.course.grading.judge import Session, close, share

DIM = 6


def apart(session: Session, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The variant's distances, (N, M)."""
    gap = a[:, None] - b[None]
    if session.choices["distance"] == "euclidean":
        return np.asarray(np.sqrt((gap**2).sum(2)))
    return np.asarray(np.abs(gap).sum(2))


def sets(session: Session, *sizes: int) -> list[np.ndarray]:
    """Rows of correlated normal numbers, with a mean and a shape of their own each."""
    return [
        session.normal(n, DIM) @ session.normal(DIM, DIM) / 2 + session.normal(DIM) for n in sizes
    ]


def root(c: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(c)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T)


def moments(session: Session) -> bool:
    """Mean and unbiased covariance, eq. (1)."""
    (a,) = sets(session, 40)
    found = session.call("mean_and_covariance", a)
    return len(found) == 2 and all(map(close, found, [a.mean(0), np.cov(a, rowvar=False)]))


def frechet(session: Session) -> bool:
    """The Fréchet distance, eq. (2), of known moments."""
    a, b = sets(session, 40, 30)
    (found,) = session.ask({"op": "frechet"}, {"a": a, "b": b})
    # Known: in the place of the moments are the first row, and xᵀx + I.
    of_a, of_b = (x.T @ x + np.eye(DIM) for x in (a, b))
    half = root(of_a)
    trace = np.trace(of_a + of_b - 2 * root(half @ of_b @ half))
    return close(found, ((a[0] - b[0]) ** 2).sum() + trace)


def radii(session: Session) -> bool:
    """Distances to the K-th nearest other item."""
    x = session.normal(30, 3)
    right = np.sort(apart(session, x, x), 1)[:, session.choices["k"]]
    return close(session.call("radii", x)[0], right)


def precision(session: Session) -> bool:
    """Precision, eq. (3), with known radii."""
    real, fake = session.normal(30, 3), session.normal(25, 3) + 0.7
    given = session.uniform(0.3, 1.2, 30)
    (found,) = session.ask({"op": "precision"}, {"real": real, "fake": fake, "radii": given})
    return close(found, (apart(session, fake, real) <= given).any(1).mean(), 1e-9)


def two_sample(session: Session) -> bool:
    """Leave-one-out 1-nearest-neighbour accuracy, eq. (4)."""
    real, fake = session.normal(30, 3), session.normal(25, 3) + 0.7
    both, kind = np.concatenate([real, fake]), np.arange(55) < 30
    gaps = apart(session, both, both) + np.diag(np.full(55, np.inf))
    right = (kind[gaps.argmin(1)] == kind).mean()
    return close(session.call("two_sample_accuracy", real, fake)[0], right, 1e-9)


def train_share(session: Session) -> bool:
    """Who is nearer, eq. (5)."""
    fake, train, held = session.normal(25, 3), session.normal(20, 3), session.normal(20, 3) + 0.3
    nearer = apart(session, fake, train).min(1) < apart(session, fake, held).min(1)
    return close(session.call("train_share", fake, train, held)[0], nearer.mean(), 1e-9)


def interval(session: Session) -> float:
    """The interval of a mean, eq. (6)."""
    parts, level = [], session.choices["level"]
    for n in (4, 7):
        x = 3 + session.normal(n)
        half = stats.t.ppf((1 + level) / 2, n - 1) * x.std(ddof=1) / math.sqrt(n)
        found = session.call("mean_interval", x.tolist())
        right = [x.mean(), x.mean() - half, x.mean() + half]
        parts.append(len(found) == 3 and all(map(close, found, right)))
    return share(parts)


def paired(session: Session) -> float:
    """The p-value of a paired test, eq. (7), of differences to either side."""
    parts = []
    for shift in (-0.4, 0.4):
        x = session.normal(7)
        y = x + 0.5 * session.normal(7) + shift
        (found,) = session.call("p_value", x.tolist(), y.tolist())
        parts.append(close(found, p_value(session.choices["test"], x - y), 1e-6))
    return share(parts)


def p_value(test: str, d: np.ndarray) -> float:
    """Eq. (7)."""
    if test == "sign-flip":
        sums = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=len(d))]
        return float(np.mean(np.asarray(sums) >= abs(d.sum()) - 1e-12))
    return float(stats.ttest_1samp(d, 0).pvalue)


def fitted(session: Session) -> bool:
    """The baseline is fitted, eq. (8), to known moments."""
    mean, mixing = session.normal(64), session.normal(64, 64) / 8
    covariance = mixing @ mixing.T + 0.1 * np.eye(64)
    found = session.ask({"op": "fit"}, {"mean": mean, "covariance": covariance})
    if session.choices["baseline"] == "gaussian":
        factor = np.linalg.cholesky(covariance + 0.001 * np.eye(64))
    else:
        factor = np.diag(np.sqrt(np.diag(covariance) + 0.001))
    return len(found) == 2 and all(map(close, found, [mean, factor], [1e-4] * 2))


def drawn(session: Session) -> bool:
    """It draws what it has fitted."""
    mean, factor, eps = session.normal(64), session.normal(64, 64) / 8, session.normal(10, 64)
    (found,) = session.ask({"op": "drawn"}, {"mean": mean, "factor": factor, "normal": eps})
    return close(found, (mean + eps @ factor.T).reshape(10, 1, 8, 8), 1e-4)


TESTS = {
    "distances": (moments, frechet),
    "neighbours": (radii, precision, two_sample, train_share),
    "chance": (interval, paired),
    "baseline": (fitted, drawn),
}
