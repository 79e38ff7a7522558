"""Real data by name, as uint8 levels or points in memory.

`open_dataset` is the only way in. Listing what there is (`DATASETS`) imports no torch.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genzoo.errors import InputError, unknown

if TYPE_CHECKING:
    from genzoo.data.dataset import Dataset, ModeLabels, Modes, Split
    from genzoo.progress import Progress

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetEntry",
    "ModeLabels",
    "Modes",
    "Split",
    "open_dataset",
]

FOLDER = "folder:"
STREAMED = ("shards:", "hf:")


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset that can be asked for by name.

    Attributes:
        name: as given to ``--data``.
        summary: one line for ``genzoo data``.
        kind: ``image`` or ``point``.
        shape: what one item is, as a text.
        embedded: whether it needs neither files nor a network.
        module: the module of `genzoo.data` that opens it.
    """

    name: str
    summary: str
    kind: Literal["image", "point"]
    shape: str
    embedded: bool
    module: str


_ALL = (
    DatasetEntry(
        "digits",
        "scikit-learn's handwritten digits: 1,000 train, 797 test, 10 classes",
        "image",
        "1x8x8, 17 levels",
        True,
        "images",
    ),
    DatasetEntry(
        "stacked-digits",
        "three digits as red, green, blue: 1,000 modes, no labels; 26,000 test",
        "image",
        "3x8x8, 17 levels",
        True,
        "stacked",
    ),
    DatasetEntry(
        "mnist",
        "handwritten digits: 50,000 train, 10,000 test, 10 classes",
        "image",
        "1x28x28, 256 levels",
        False,
        "images",
    ),
    DatasetEntry(
        "stacked-mnist",
        "three of MNIST's digits as red, green, blue: 1,000 modes, no labels; 26,000 test",
        "image",
        "3x28x28, 256 levels",
        False,
        "stacked",
    ),
    DatasetEntry(
        "fashion-mnist",
        "Zalando's articles of clothing: 50,000 train, 10,000 test, 10 classes",
        "image",
        "1x28x28, 256 levels",
        False,
        "images",
    ),
    DatasetEntry(
        "kmnist",
        "cursive Japanese characters: 50,000 train, 10,000 test, 10 classes",
        "image",
        "1x28x28, 256 levels",
        False,
        "images",
    ),
    DatasetEntry(
        "cifar10",
        "small photographs: 40,000 train, 10,000 test, 10 classes",
        "image",
        "3x32x32, 256 levels",
        False,
        "images",
    ),
    DatasetEntry(
        "ring",
        "8 Gaussians (sigma .01) on the unit circle",
        "point",
        "2 coordinates",
        True,
        "points",
    ),
    DatasetEntry(
        "grid",
        "25 Gaussians (sigma .05) on {-4,-2,0,2,4}^2",
        "point",
        "2 coordinates",
        True,
        "points",
    ),
    DatasetEntry(
        "swiss-roll", "a blurred spiral (sigma .1)", "point", "2 coordinates", True, "points"
    ),
    DatasetEntry(
        "moons",
        "two interleaved, blurred half circles (sigma .05)",
        "point",
        "2 coordinates",
        True,
        "points",
    ),
    DatasetEntry(
        "checkerboard",
        "uniform on the 8 dark squares of a 4x4 board on [-4, 4]^2",
        "point",
        "2 coordinates",
        True,
        "points",
    ),
    DatasetEntry(
        "folder:PATH",
        "your own images; sub-folders, where there are some, are the classes",
        "image",
        "1 or 3 channels, --size (32), 256 levels",
        False,
        "folder",
    ),
    DatasetEntry(
        "shards:PATTERN",
        "tar files as of WebDataset, larger than memory: 000001.png beside .cls or .json",
        "image",
        "1 or 3 channels, their own size or --size, 256 levels",
        False,
        "streamed",
    ),
    DatasetEntry(
        "hf:NAME",
        "parquet of the Hugging Face Hub, or a folder or pattern of such files",
        "image",
        "1 or 3 channels, their own size or --size, 256 levels",
        False,
        "streamed",
    ),
)
DATASETS: Mapping[str, DatasetEntry] = {entry.name: entry for entry in _ALL}


def open_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    size: int | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Open real data by name.

    Args:
        name: a key of `DATASETS`, ``folder:PATH``, ``shards:PATTERN`` or ``hf:NAME``.
        root: where the files of downloadable data lie or shall lie; by default the environment
            variable ``GENZOO_DATA``, else ``~/.cache/genzoo/data``.
        size: height and width of the images of a folder (default 32) or of files that are
            streamed (default: their own), divisible by 4. Other data have their own size.
        download: whether missing files may be fetched.
        progress: told of work that may take long.

    Raises:
        InputError: no such data, unusable files, or a size that cannot be.
        MachineError: files are missing and cannot be fetched or stored.
    """
    if name.startswith(FOLDER):
        return _folder(name[len(FOLDER) :], 32 if size is None else size)
    if name.startswith(STREAMED):
        from genzoo.data.streamed import open_streamed

        return open_streamed(name, size, root, download, progress)
    entry = DATASETS.get(name.lower())
    if entry is None or ":" in entry.name:
        if os.path.isdir(name):
            raise InputError(f"unknown dataset '{name}'; a folder of images is folder:{name}")
        if name.endswith((".tar", ".parquet")):
            kind = STREAMED[name.endswith(".parquet")]
            raise InputError(f"unknown dataset '{name}'; such files are {kind}{name}")
        raise unknown("dataset", name, DATASETS)
    module = importlib.import_module(f"genzoo.data.{entry.module}")
    dataset: Dataset = module.open_named(entry.name, root=root, download=download)
    if size is not None and dataset.spec.shape[-1:] != (size,):
        raise InputError(
            f"--size {size}: the items of {entry.name} are {entry.shape}; "
            "only the images of folder:PATH, shards:PATTERN and hf:NAME are resized"
        )
    return dataset


def _folder(path: str, size: int) -> Dataset:
    from genzoo.data.folder import open_folder

    return open_folder(path, size)


def __getattr__(name: str) -> Any:
    """The classes of `genzoo.data.dataset`, which need torch, on first use."""
    if name in ("Dataset", "ModeLabels", "Modes", "Split"):
        return getattr(importlib.import_module("genzoo.data.dataset"), name)
    raise AttributeError(f"module 'genzoo.data' has no attribute '{name}'")
