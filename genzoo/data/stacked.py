"""Stacked digits: three digits as red, green and blue, 1000 modes to be found or missed.

After the stacked-MNIST protocol (Metz et al. 2017, arXiv:1611.02163, 3.3.1; PacGAN, Lin et
al. 2018, arXiv:1712.04086, 4.2), on scikit-learn's digits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset, ModeLabels, Split, fingerprint
from genzoo.data.images import digits_splits
from genzoo.types import DataSpec

TRAIN, TEST = 20_000, 26_000


def open_named(name: str, *, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Draw the triples, train from digits' train split and test from its test split.

    Always the same ones. There are no labels; which digits an item shows is kept in
    `Dataset.mode_labels` for evaluation. Nothing is read, so `root` has no effect.
    """
    digits_train, digits_test = digits_splits()
    train, train_modes = _stack(digits_train, TRAIN, seed=0)
    test, test_modes = _stack(digits_test, TEST, seed=1)
    spec = DataSpec(shape=(3, 8, 8), levels=17)
    return Dataset(
        name=name,
        spec=spec,
        train=train,
        test=test,
        reserved=None,
        class_names=(),
        fingerprint=fingerprint(spec, train, test, None),
        stacked=True,
        mode_labels=ModeLabels(train_modes, test_modes),
    )


def _stack(digits: Split, n: int, seed: int) -> tuple[Split, Tensor]:
    """`n` images (n, 3, 8, 8) from independent draws, and their digits (n, 3)."""
    assert digits.labels is not None
    drawn = np.random.default_rng([7, seed]).integers(len(digits.data), size=(n, 3))
    rows = torch.from_numpy(drawn)
    return Split(digits.data[rows, 0]), digits.labels[rows]
