"""Labelled image sets: scikit-learn's digits, and what torchvision knows how to fetch."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genzoo import compat
from genzoo.data.dataset import Dataset, Split, fingerprint, label_frequencies
from genzoo.errors import GenzooError, InputError, MachineError
from genzoo.types import DataSpec

RESERVED = 10_000
CLASSES = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
}
FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "kmnist": "KMNIST/raw",
    "cifar10": "cifar-10-batches-py",
}
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
    """Open ``digits`` (embedded) or a set that torchvision knows how to read and fetch.

    Of the latter's training images `RESERVED`, drawn with a fixed seed, are set apart for the
    feature extractor and never shown to a generator.

    Raises:
        InputError: the files are damaged or may not be read.
        MachineError: they are missing and cannot be fetched.
    """
    if name == "digits":
        return labelled(name, 17, DIGIT_NAMES, *digits_splits())
    place = data_root(root)
    whole, class_names = _read(name, place, True, download)
    test, _ = _read(name, place, False, download)
    train, reserved = reserve(whole, RESERVED)
    return labelled(name, 256, class_names, train, test, reserved)


def data_root(root: str | Path | None) -> Path:
    """Where the files of downloadable data lie: `root`, else ``GENZOO_DATA``, else a cache."""
    chosen = root or os.environ.get("GENZOO_DATA") or Path("~/.cache/genzoo/data")
    return Path(chosen).expanduser()


def reserve(whole: Split, n: int) -> tuple[Split, Split]:
    """Split off `n` items drawn with a fixed seed; both parts keep the order of the whole.

    Fewer than twice as many items give half of them.
    """
    assert whole.labels is not None
    total = len(whole.data)
    chosen = torch.zeros(total, dtype=torch.bool)
    drawn = np.random.default_rng(0).permutation(total)[: min(n, total // 2)]
    chosen[torch.from_numpy(drawn)] = True
    parts = [Split(whole.data[rows], whole.labels[rows]) for rows in (~chosen, chosen)]
    return parts[0], parts[1]


def _read(name: str, root: Path, train: bool, download: bool) -> tuple[Split, tuple[str, ...]]:
    """One of torchvision's splits as levels (N, C, H, W), and the names of its classes."""
    try:
        raw = _torchvision(name, root, train, download)
        images = torch.as_tensor(raw.data)
        labels = torch.as_tensor(raw.targets, dtype=torch.int64)
        if images.shape[:1] != labels.shape or not 0 <= labels.min() <= labels.max() < 10:
            raise ValueError(f"{len(images)} images, {len(labels)} labels up to {labels.max()}")
    except GenzooError:
        raise
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(
            f"{name}: cannot use '{error.filename}' ({error.strerror}); choose another --data-root"
        ) from error
    except (ValueError, TypeError, LookupError, EOFError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"{name}: the files in '{root / FOLDERS[name]}' are damaged"
            f"{f' ({error})' if str(error) else ''}; remove them, so that they are fetched again"
        ) from error
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Split(images, labels), tuple(text.split(" - ")[0] for text in raw.classes)


def _torchvision(name: str, root: Path, train: bool, download: bool) -> Any:
    """A dataset of torchvision from files in `root`, fetched into it first where allowed.

    What is fetched is compared with torchvision's checksums. CIFAR-10's files are pickles;
    torchvision compares them with its checksums each time before it loads them.
    """
    compat.install()
    from torchvision import datasets

    cls = getattr(datasets, CLASSES[name])
    try:
        return cls(str(root), train=train, download=False)
    except RuntimeError as missing:
        if "not found" not in str(missing):
            raise
    place = f"place its files in '{root / FOLDERS[name]}', or say where they are with --data-root"
    if not download:
        raise InputError(f"{name}: no files in '{root}'; {place}, or allow the download")
    try:
        with _quiet(timeout_seconds=30):
            return cls(str(root), train=train, download=True)
    except (PermissionError, NotADirectoryError, FileExistsError):
        raise
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        raise MachineError(f"{name}: cannot be downloaded ({reason}); {place}") from error


@contextmanager
def _quiet(timeout_seconds: float) -> Iterator[None]:
    """A download without progress bars, which gives up where nobody answers."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_seconds)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
