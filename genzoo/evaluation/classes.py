"""What labels make measurable: classification accuracy score and class histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genzoo.evaluation.neighbours import Measured
from genzoo.evaluation.statistics import wilson

CAS_ITEMS = 2000


def classification_accuracy(
    images: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor
) -> Measured:
    """Accuracy on `test` of a support vector machine (RBF, C = 1) trained on `images`.

    Args:
        images: (N, C, H, W) uint8, of at least two classes.
        labels: (N,).
        test: (M, C, H, W) uint8.
        test_labels: (M,).
    """
    from sklearn.svm import SVC

    classifier = SVC(kernel="rbf", gamma="scale").fit(_pixels(images), labels.numpy())
    value = float(np.mean(classifier.predict(_pixels(test)) == test_labels.numpy()))
    return Measured(value, wilson(value, len(test)))


def shares(labels: Tensor, classes: int) -> tuple[float, ...]:
    """Share of each class, summing to 1."""
    counts = torch.bincount(labels, minlength=classes).double()
    return tuple((counts / counts.sum()).tolist())


def total_variation(a: Sequence[float], b: Sequence[float]) -> float:
    """Half the sum of absolute differences of two distributions, in [0, 1]."""
    return 0.5 * float(np.abs(np.subtract(a, b)).sum())


def _pixels(images: Tensor) -> np.ndarray:
    return images.flatten(1).numpy() / np.float32(255)
