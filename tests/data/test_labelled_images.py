"""torchvision's sets, read from a tiny MNIST that the test writes; nothing is fetched."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo.data import images, open_dataset
from genzoo.errors import InputError, MachineError

TRAIN, TEST = 40, 12


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of the MNIST files: magic number, big-endian sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, n in (("train", TRAIN), ("t10k", TEST)):
        raw = tmp_path / "MNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def test_mnist_from_files(root, monkeypatch):
    monkeypatch.setattr(images, "RESERVED", 15)
    data = open_dataset("mnist", root, download=False)
    assert data.train.data.shape == (TRAIN - 15, 1, 28, 28) and data.train.data.dtype == torch.uint8
    assert data.reserved.data.shape == (15, 1, 28, 28)
    assert data.test.data.shape == (TEST, 1, 28, 28)
    assert data.spec.levels == 256 and data.spec.cond == {"label": 10}
    assert data.class_names == tuple("0123456789")
    assert sum(data.spec.frequencies) == pytest.approx(1)


def test_reserved_images_are_never_trained_on_and_nothing_is_lost(root, monkeypatch):
    monkeypatch.setattr(images, "RESERVED", 15)
    data = open_dataset("mnist", root, download=False)
    parts = [
        {(x.numpy().tobytes(), int(y)) for x, y in zip(*split, strict=True)}
        for split in (data.train, data.reserved)
    ]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == TRAIN
    raw = np.fromfile(root / "MNIST/raw/train-images-idx3-ubyte", np.uint8)[16:]
    whole = {x.tobytes() for x in raw.reshape(TRAIN, 28, 28)}
    assert {x for part in parts for x, _ in part} == whole


def test_reserve_draws_the_same_each_time_and_at_most_half():
    whole = images.Split(torch.arange(10), torch.arange(10))
    first, second = (images.reserve(whole, 100) for _ in range(2))
    assert torch.equal(first[1].data, second[1].data) and len(first[1].data) == 5
    assert sorted([*first[0].data.tolist(), *first[1].data.tolist()]) == list(range(10))


def test_data_root_comes_from_the_call_then_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GENZOO_DATA", str(tmp_path / "env"))
    assert images.data_root(tmp_path / "call") == tmp_path / "call"
    assert images.data_root(None) == tmp_path / "env"
    monkeypatch.delenv("GENZOO_DATA")
    assert images.data_root(None) == Path("~/.cache/genzoo/data").expanduser()


@pytest.mark.parametrize("name", ["kmnist", "cifar10"])
def test_missing_files_without_download(root, name):
    with pytest.raises(InputError, match=f"{name}: no files in .*--data-root"):
        open_dataset(name, root, download=False)


def test_no_network(tmp_path, monkeypatch):
    def nobody(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", nobody)
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(MachineError, match="fashion-mnist: cannot be downloaded") as caught:
        open_dataset("fashion-mnist", tmp_path)
    assert "FashionMNIST/raw" in str(caught.value) and "\n" not in str(caught.value)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train-images-idx3-ubyte", b""),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\x28" + b"\0" * 20),
        ("t10k-labels-idx1-ubyte", b"nonsense that is no idx file"),
        ("t10k-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, 3) + b"\0\1\2"),
        ("t10k-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, TEST) + b"\x63" * TEST),
    ],
)
def test_damaged_files(root, file, content):
    (root / "MNIST" / "raw" / file).write_bytes(content)
    with pytest.raises(InputError, match="mnist: the files in .*MNIST/raw' are damaged"):
        open_dataset("mnist", root, download=False)


def test_a_root_that_is_a_file(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(InputError, match="--data-root"):
        open_dataset("mnist", place)
