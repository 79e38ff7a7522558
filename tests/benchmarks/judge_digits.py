"""Judge samples of digits from outside: reads samples.npz, measures in pixels, knows no genzoo.

    genzoo compare --budget 60s --seeds 3 --out runs/c60
    python tests/benchmarks/judge_digits.py runs/c60/runs/*/samples.npz

Prints a line per file: leave-one-out 1-NN two-sample accuracy (0.5 is perfect), accuracy of an
SVM trained on the samples (CAS), share of samples nearer to training than to equally many
held-out digits (0.5 is the null), and exact duplicates among all real digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.special import gammaln
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, D), (M, D) -> (N, M)."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)


def two_sample_1nn(samples: np.ndarray, real: np.ndarray) -> float:
    """Leave-one-out accuracy of the nearest neighbour, as many samples as real items."""
    n = min(len(samples), len(real))
    distance = squared_distances(*[np.concatenate([samples[:n], real[:n]])] * 2)
    np.fill_diagonal(distance, np.inf)
    label = np.repeat([0, 1], n)
    return float((label[distance.argmin(1)] == label).mean())


def train_share(samples: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Exact expectation over training subsets of the test set's size."""
    nearer = squared_distances(samples, train) < squared_distances(samples, test).min(1)[:, None]
    n, m, rest = len(train), len(test), len(train) - nearer.sum(1)
    possible = np.maximum(rest, m)
    log_none = gammaln(possible + 1) - gammaln(possible - m + 1)
    log_none -= gammaln(n + 1) - gammaln(n - m + 1)
    return float(np.where(rest < m, 1.0, 1 - np.exp(log_none)).mean())


def main(paths: list[str]) -> None:
    """Print the judgement of every file."""
    digits = load_digits()
    train, test = train_test_split(
        range(1797), test_size=797, random_state=0, stratify=digits.target
    )
    pixels = np.round(digits.images.reshape(1797, -1) / 16 * 255)
    for path in paths:
        held = np.load(path, allow_pickle=False)
        samples = held["images"].astype(float).reshape(len(held["images"]), -1)
        svm = SVC(gamma="scale").fit(samples, held["labels"])
        print(
            f"{Path(path).parent.name:16} 1-NN {two_sample_1nn(samples, pixels[test]):.3f}  "
            f"CAS {(svm.predict(pixels[test]) == digits.target[test]).mean():.3f}  "
            f"share {train_share(samples, pixels[train], pixels[test]):.3f}  "
            f"duplicates {int((squared_distances(samples, pixels).min(1) < 0.5).sum())}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
