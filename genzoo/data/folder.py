"""A folder of one's own images as a dataset.

The policy, whatever the images are: each is read as `genzoo.data.pictures` says (upright,
8 bits, transparency on white, the largest centered square resized to `size`). If every pixel
of every image is gray the data have one channel, else three. Two or more sub-folders with
images are classes, in the order of their names.

A fifth of the images is the test split: those with the smallest hashes of their pixels. So the
split does not depend on names, order or machine, and exact duplicates lie on the same side.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from genzoo.data.dataset import Dataset, Split, fingerprint, label_frequencies
from genzoo.data.pictures import ImageFolder, Pixels, drop_color, find_images, read_image
from genzoo.errors import InputError
from genzoo.types import DataSpec

MIN_IMAGES, MIN_TEST = 50, 10
MAX_BYTES = 8 << 30
TEST_SHARE = 0.2


def open_folder(path: str | Path, size: int = 32) -> Dataset:
    """Open a folder of at least `MIN_IMAGES` images; see the module for the policy.

    Args:
        path: of the folder; ``~`` is the home folder.
        size: height and width of the images, a multiple of 4.

    Raises:
        InputError: a size or folder that cannot be used, an image that cannot be read (it is
            named), or too few images.
    """
    check_size(size)
    if not str(path):
        raise InputError("folder: has no path; write folder:PATH")
    found = find_images(path)
    images = _read_all(found, size, path)
    in_test = _in_test(images)
    tests = int(in_test.sum())
    if len(images) - tests < MIN_TEST or tests < MIN_TEST:
        raise InputError(
            f"{path}: too many of the {len(images)} images are copies of each other to split "
            f"them into training and test; at least {MIN_TEST} different ones are needed"
        )
    data = torch.from_numpy(np.ascontiguousarray(drop_color(images).transpose(0, 3, 1, 2)))
    labels = torch.tensor(found.labels, dtype=torch.int64) if found.labels else None
    train, test = (
        Split(data[rows], None if labels is None else labels[rows])
        for rows in (torch.from_numpy(~in_test), torch.from_numpy(in_test))
    )
    return _dataset(Path(path).expanduser().resolve(), train, test, found.class_names)


def check_size(size: int) -> None:
    """Whether models can be of this size.

    Raises:
        InputError: no multiple of 4.
    """
    if size < 4 or size % 4:
        near = max(4, 4 * round(size / 4))
        raise InputError(f"--size {size}: must be a positive multiple of 4, for example {near}")


def _dataset(path: Path, train: Split, test: Split, class_names: tuple[str, ...]) -> Dataset:
    frequencies: tuple[float, ...] = ()
    if train.labels is not None:
        frequencies = label_frequencies(train.labels, len(class_names))
        if 0 in frequencies:
            name = class_names[frequencies.index(0)]
            raise InputError(f"{path}: class '{name}' has no training images; add some to it")
    spec = DataSpec(
        shape=tuple(train.data.shape[1:]),
        levels=256,
        cond={"label": len(class_names)} if class_names else {},
        frequencies=frequencies,
    )
    mark = fingerprint(spec, train, test, None)
    return Dataset(f"folder:{path}", spec, train, test, None, class_names, mark)


def _read_all(found: ImageFolder, size: int, path: str | Path) -> Pixels:
    """All images (N, size, size, 3) in one array."""
    n = len(found.paths)
    if n < MIN_IMAGES:
        raise InputError(
            f"{path}: {n} image{'s' if n > 1 else ''}, but at least {MIN_IMAGES} are needed "
            "to learn from and compare with; add images"
        )
    needed = n * size * size * 3
    if needed > MAX_BYTES:
        raise InputError(
            f"--size {size}: {n} images would need {needed / 2**30:.0f} GiB of memory, more than "
            f"{MAX_BYTES >> 30}; choose a smaller size"
        )
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    for i, file in enumerate(found.paths):
        images[i] = read_image(file, size)
    return images


def _in_test(images: Pixels) -> NDArray[np.bool_]:
    """Which images belong to the test split, (N,) bool: a fifth with the smallest hashes.

    Copies of the last one taken come along.
    """
    hashes = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images])
    last = np.sort(hashes)[math.ceil(TEST_SHARE * len(images)) - 1]
    return np.asarray(hashes <= last)
