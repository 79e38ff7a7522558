"""Stacked digits: three digits as red, green and blue, 1000 modes to be found or missed.

After the stacked-MNIST protocol (Metz et al. 2017, arXiv:1611.02163, 3.3.1; PacGAN, Lin et
al. 2018, arXiv:1712.04086, 4.2), on MNIST or on scikit-learn's digits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset, ModeLabels, Split, fingerprint
from genzoo.data.images import open_named as open_images
from genzoo.types import DataSpec

TRAIN, TEST = 20_000, 26_000
SINGLE = {"stacked-digits": "digits", "stacked-mnist": "mnist"}


def open_named(name: str, *, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Draw the triples, train from the digits' train split and test from their test split.

    Always the same ones. There are no labels; which digits an item shows is kept in
    `Dataset.mode_labels` for evaluation. MNIST's images that are reserved for the feature
    extractor are in no triple.

    Args:
        name: a key of `SINGLE`.
        root: where the files of single digits lie, as for `genzoo.data.open_dataset`.
        download: whether missing files may be fetched.

    Raises:
        InputError: the files are damaged or may not be read.
        MachineError: they are missing and cannot be fetched.
    """
    single = open_images(SINGLE[name], root=root, download=download)
    train, train_modes = _stack(single.train, TRAIN, seed=0)
    test, test_modes = _stack(single.test, TEST, seed=1)
    spec = DataSpec(shape=(3, *single.spec.shape[1:]), levels=single.spec.levels)
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
        single=single.name,
        root=None if root is None else str(root),
    )


def _stack(digits: Split, n: int, seed: int) -> tuple[Split, Tensor]:
    """`n` images (n, 3, H, W) from independent draws, and their digits (n, 3)."""
    assert digits.labels is not None
    drawn = np.random.default_rng([7, seed]).integers(len(digits.data), size=(n, 3))
    rows = torch.from_numpy(drawn)
    return Split(digits.data[rows, 0]), digits.labels[rows]
