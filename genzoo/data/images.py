"""Labelled image sets: scikit-learn's digits, and what torchvision knows how to fetch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from genzoo.data.dataset import Dataset, Split, fingerprint, label_frequencies
from genzoo.errors import InputError
from genzoo.types import DataSpec

DIGIT_NAMES = tuple("0123456789")


def digits_splits() -> tuple[Split, Split]:
    """scikit-learn's digits: 1,000 train and 797 test images (1, 8, 8) of 17 levels.

    The split is ``train_test_split(range(1797), test_size=797, random_state=0,
    stratify=target)``.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = torch.from_numpy(raw.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(raw.target.astype(np.int64))
    train, test = train_test_split(
        range(len(labels)), test_size=797, random_state=0, stratify=raw.target
    )
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def labelled(
    name: str,
    levels: int,
    class_names: tuple[str, ...],
    train: Split,
    test: Split,
    reserved: Split | None = None,
) -> Dataset:
    """A dataset of labelled images, one class name a label."""
    assert train.labels is not None
    spec = DataSpec(
        shape=tuple(train.data.shape[1:]),
        levels=levels,
        cond={"label": len(class_names)},
        frequencies=label_frequencies(train.labels, len(class_names)),
    )
    mark = fingerprint(spec, train, test, reserved)
    return Dataset(name, spec, train, test, reserved, class_names, mark)


def open_named(name: str, *, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Open ``digits`` (embedded) or a set that torchvision knows."""
    if name != "digits":
        raise InputError(f"dataset '{name}' is not available yet")
    return labelled("digits", 17, DIGIT_NAMES, *digits_splits())
