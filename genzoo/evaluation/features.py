"""The spaces in which samples and real data are compared.

`open_extractor` is the only way in; `genzoo.evaluation.extractors` lists the spaces, one a
file. By default images with labels are seen by a small classifier, trained once per dataset
on images that no generator sees, where there are any to spare; images without labels by
features that were learned from them without labels; points by their standardized coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.errors import InputError
from genzoo.evaluation import extractors
from genzoo.evaluation.cache import content_hash as content_hash
from genzoo.evaluation.result import FeatureInfo
from genzoo.progress import Progress


class Features(NamedTuple):
    """Items in feature space.

    Attributes:
        features: (N, d) float64.
        logits: class scores (N, K) float64; ``None`` without a classifier. They are those of
            the data's own classes only where the extractor's accuracy is known: Inception's
            1008 are others.
        parts: predicted class of every part, (N, parts) int64; ``None`` unless stacked.
    """

    features: Tensor
    logits: Tensor | None = None
    parts: Tensor | None = None

    def take(self, rows: Tensor) -> Features:
        """Some of the items, in the order of `rows`."""
        rows = rows.to(self.features.device)
        logits = None if self.logits is None else self.logits[rows]
        parts = None if self.parts is None else self.parts[rows]
        return Features(self.features[rows], logits, parts)


class Extractor(ABC):
    """Maps items to features: images as uint8 0 … 255 (N, C, H, W), or points (N, D).

    Attributes:
        info: name, hash and origin of the space.
        device: where networks run.
        home: where features come out: on `device` if that is a CUDA device, else on the CPU,
            since float64 is wanted and MPS has none.
        chunk: items that pass through at once. Beside the features themselves memory does not
            grow with N.
    """

    chunk = 512

    def __init__(self, info: FeatureInfo, device: torch.device) -> None:
        """Name the space and the device."""
        self.info, self.device = info, device
        self.home = device if device.type == "cuda" else torch.device("cpu")

    @abstractmethod
    def _extract(self, items: Tensor) -> Features:
        """Features of one chunk, of any floating type, on any device."""

    def __call__(self, items: Tensor) -> Features:
        """Features of any number of items, on `home`."""
        n = len(items)
        columns: list[Tensor | None] = []
        for start in range(0, n, self.chunk):
            with torch.no_grad():
                found = self._extract(items[start : start + self.chunk])
            columns = columns or [_room(n, part, self.home) for part in found]
            for column, part in zip(columns, found, strict=True):
                if column is not None and part is not None:
                    column[start : start + len(part)] = part.to(self.home)
        if not columns:
            return Features(torch.empty(0, self.info.dim, dtype=torch.float64, device=self.home))
        features, logits, parts = columns
        assert features is not None
        return Features(features, logits, parts)


@dataclass(frozen=True)
class Request:
    """What an extractor is opened with.

    Attributes:
        dataset: whose items it will see.
        folder: of the cache.
        device: where networks run. What is fitted is fitted on the CPU, with one thread, so
            that it comes out the same everywhere.
        progress: told of training, and of a cache that does not work.
        name: as asked for, the default variant filled in.
        weights: a file in the place of the download; ``None`` where none was given.
        trust: whether files of unknown content may be used.
    """

    dataset: Dataset
    folder: Path
    device: torch.device
    progress: Progress
    name: str
    weights: Path | None = None
    trust: bool = False


def open_extractor(
    dataset: Dataset,
    folder: Path,
    device: torch.device,
    progress: Progress,
    name: str = "auto",
    weights: str | Path | None = None,
    trust: bool = False,
) -> Extractor:
    """The extractor of a dataset: from the cache, or made now.

    Args:
        dataset: whose ``reserved`` images are used where something is fitted, ``train`` where
            it has none, ``test`` where it has no training items either.
        folder: of the cache.
        device: where features are computed.
        progress: told of training, and of a cache that does not work.
        name: a key of `genzoo.evaluation.extractors.EXTRACTORS`, one of its variants,
            ``module:Class``, ``FILE.py:Class``, or ``auto``.
        weights: file with the weights of a pretrained network.
        trust: whether weights of unknown content may be used.

    Raises:
        InputError: no such space, not for such data, or files that cannot be used.
        MachineError: weights are missing and cannot be fetched.
    """
    own = ":" in name
    chosen = extractors.default(dataset) if name == "auto" else name
    entry, variant = (extractors.OWN, chosen) if own else extractors.find(chosen)
    if dataset.spec.is_image == (entry.name == "coordinates"):
        kind = "images" if dataset.spec.is_image else "points"
        fit = "points" if dataset.spec.is_image else "images"
        raise InputError(f"features '{name}' are for {fit}, but {dataset.name} has {kind}")
    if weights is not None and not entry.pretrained:
        raise InputError(f"--weights {weights}: features '{chosen}' take no weights")
    path = None if weights is None else Path(weights).expanduser()
    request = Request(dataset, folder, device, progress, variant, path, trust)
    opened: Extractor = extractors.load(entry)(request)
    return opened


def _room(n: int, like: Tensor | None, device: torch.device) -> Tensor | None:
    """Space for n rows like those of a chunk, in double precision; ``None`` for ``None``."""
    if like is None:
        return None
    dtype = torch.float64 if like.is_floating_point() else torch.int64
    return torch.empty((n, *like.shape[1:]), dtype=dtype, device=device)
