"""What an opened dataset is, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genzoo.types import DataSpec

if TYPE_CHECKING:
    from genzoo.data.stream import Stream


class Split(NamedTuple):
    """Part of a dataset.

    Attributes:
        data: images (N, C, H, W) uint8 levels 0 … L-1, or points (N, 2) float32 in data units.
        labels: (N,) int64, or ``None`` where there are none.
    """

    data: Tensor
    labels: Tensor | None = None


class Modes(NamedTuple):
    """The Gaussians that points come from.

    Attributes:
        centers: (K, 2) float32 in data units.
        sigma: their common standard deviation per coordinate, in data units.
    """

    centers: Tensor
    sigma: float


class ModeLabels(NamedTuple):
    """Which mode each item is from: for evaluation alone, never shown to a generator.

    Attributes:
        train: (N, 3) int64, the digits in the red, green and blue channel.
        test: the same of the test split.
    """

    train: Tensor
    test: Tensor


class Streams(NamedTuple):
    """All pictures of data that need not fit into memory.

    Attributes:
        train: what generators learn from.
        test: what they are compared with.
    """

    train: Stream
    test: Stream


@dataclass(frozen=True, eq=False)
class Dataset:
    """Real data in memory, or what is kept of them there.

    Attributes:
        name: canonical, ``digits`` or ``folder:/absolute/path``.
        spec: what a model needs to know of the data.
        train: what generators learn from.
        test: what they are compared with.
        reserved: real images for the feature extractor only; ``None`` where there are too few.
        class_names: one a label; ``()`` without labels.
        modes: of ``ring`` and ``grid``.
        log_density: exact log density in nats per squared data unit, (N, 2) -> (N,) float64,
            where it is known.
        stacked: whether the channels are separate digits (1000 modes).
        mode_labels: of stacked digits.
        single: of stacked digits, the name of the one-channel data they are drawn from, whose
            feature extractor tells the digits.
        root: where the files of `single` lie, as it was asked for; ``None`` for the default.
        fingerprint: sha256 of spec and contents: equal data have equal fingerprints.
        streams: all pictures, where `train` and `test` hold but some of them.
    """

    name: str
    spec: DataSpec
    train: Split
    test: Split
    reserved: Split | None
    class_names: tuple[str, ...]
    fingerprint: str
    modes: Modes | None = None
    log_density: Callable[[Tensor], Tensor] | None = None
    stacked: bool = False
    mode_labels: ModeLabels | None = None
    single: str | None = None
    root: str | None = None
    streams: Streams | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of training and of held-out items, whether in memory or not."""
        if self.streams is not None:
            return len(self.streams.train), len(self.streams.test)
        return len(self.train.data), len(self.test.data)


def fingerprint(spec: DataSpec, *splits: Split | None) -> str:
    """SHA-256 of a specification and the contents of splits, in hexadecimal.

    Every array is hashed with its type and shape, so that no two different splits give the
    same stream of bytes.
    """
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    for split in splits:
        for tensor in (None, None) if split is None else split:
            if tensor is None:
                digest.update(b"none;")
                continue
            array = np.ascontiguousarray(tensor.numpy())
            digest.update(f"{array.dtype.str}{array.shape};".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def label_frequencies(labels: Tensor, classes: int) -> tuple[float, ...]:
    """Share of each label 0 … classes-1 in `labels` (N,), summing to 1."""
    counts = torch.bincount(labels, minlength=classes).double()
    return tuple((counts / counts.sum()).tolist())
