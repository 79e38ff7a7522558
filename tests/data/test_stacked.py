"""Stacked digits, and stacked MNIST from a tiny MNIST that the test writes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo.data import DATASETS, images, open_dataset, stacked
from genzoo.errors import InputError

TRAIN, TEST, RESERVED = 60, 30, 20


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of the MNIST files: magic number, big-endian sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(images, "RESERVED", RESERVED)
    monkeypatch.setattr(stacked, "TRAIN", 200)
    monkeypatch.setattr(stacked, "TEST", 260)
    rng = np.random.default_rng(0)
    for part, n in (("train", TRAIN), ("t10k", TEST)):
        raw = tmp_path / "MNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def test_stacked_mnist_has_the_protocols_shape(root: Path) -> None:
    """Fails with: labels given to the generator, levels of digits, the single's shape."""
    data = open_dataset("stacked-mnist", root, download=False)
    assert data.train.data.shape == (200, 3, 28, 28) and data.train.data.dtype == torch.uint8
    assert data.test.data.shape == (260, 3, 28, 28)
    assert data.spec.levels == 256 and data.spec.cond == {} and data.class_names == ()
    assert data.train.labels is None and data.test.labels is None and data.reserved is None
    assert data.stacked and data.single == "mnist" and data.root == str(root)
    assert stacked.SINGLE == {"stacked-digits": "digits", "stacked-mnist": "mnist"}


def test_channels_are_digits_of_their_own_split_and_none_is_reserved(root: Path) -> None:
    """Fails with: test triples from the train split, the reserved part stacked, channels mixed."""
    data, single = (open_dataset(name, root, download=False) for name in ("stacked-mnist", "mnist"))
    assert data.mode_labels is not None
    for name in ("train", "test"):
        source = {x.numpy().tobytes(): int(y) for x, y in zip(*getattr(single, name), strict=True)}
        triples = getattr(data.mode_labels, name)
        assert triples.shape == (len(getattr(data, name).data), 3)
        for image, triple in zip(getattr(data, name).data, triples.tolist(), strict=True):
            assert [source[channel.numpy().tobytes()] for channel in image] == triple


def test_triples_are_the_same_each_time_and_channels_are_independent(root: Path) -> None:
    """Fails with: an unseeded draw, one digit for all channels, one seed for both splits."""
    first, second = (open_dataset("stacked-mnist", root, download=False) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.test.data, second.test.data)
    assert first.mode_labels is not None
    equal = (first.mode_labels.test[:, 0] == first.mode_labels.test[:, 1]).double().mean()
    assert float(equal) == pytest.approx(0.1, abs=4 * (0.09 / 260) ** 0.5)


def test_stacked_digits_name_their_single_digits() -> None:
    """Fails with: `single` left out; a root invented for embedded data."""
    data = open_dataset("stacked-digits")
    assert data.single == "digits" and data.root is None
    assert open_dataset("digits").single is None


def test_missing_files_are_explained(tmp_path: Path) -> None:
    """Fails with: an assertion or a traceback where the files are not there."""
    with pytest.raises(InputError, match="mnist: no files in .*--data-root"):
        open_dataset("stacked-mnist", tmp_path, download=False)


def test_registry_lists_both() -> None:
    """Fails with: stacked-mnist listed as embedded."""
    assert DATASETS["stacked-mnist"].module == "stacked" and not DATASETS["stacked-mnist"].embedded
    assert DATASETS["stacked-digits"].embedded
