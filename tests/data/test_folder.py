"""One's own images as a dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genzoo.data import folder, open_dataset
from genzoo.errors import InputError


def fill(path: Path, n: int, seed: int = 0, channels: int = 3) -> Path:
    """`n` different images of different sizes."""
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        size = (*rng.integers(9, 20, 2), 3)[: 2 + (channels > 1)]
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path / f"{i:03d}.png")
    return path


def rows(split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.data}


def test_plain_folder(tmp_path):
    data = open_dataset(f"folder:{fill(tmp_path / 'imgs', 50)}", size=8)
    assert data.name == f"folder:{(tmp_path / 'imgs').resolve()}"
    assert data.spec.shape == (3, 8, 8) and data.spec.levels == 256 and data.spec.cond == {}
    assert data.train.data.shape == (40, 3, 8, 8) and data.test.data.shape == (10, 3, 8, 8)
    assert data.train.data.dtype == torch.uint8 and data.train.labels is None
    assert not rows(data.train) & rows(data.test)


def test_gray_folder_has_one_channel_and_the_default_size(tmp_path):
    data = open_dataset(f"folder:{fill(tmp_path, 50, channels=1)}")
    assert data.spec.shape == (1, 32, 32)


def test_classes(tmp_path):
    for k, name in enumerate(("b", "a", "c")):
        fill(tmp_path / name, 20 + 10 * k, seed=k)
    data = open_dataset(f"folder:{tmp_path}", size=8)
    assert data.class_names == ("a", "b", "c") and data.spec.cond == {"label": 3}
    both = torch.cat([data.train.labels, data.test.labels])
    assert torch.bincount(both).tolist() == [30, 20, 40]
    counts = torch.bincount(data.train.labels, minlength=3).double()
    np.testing.assert_allclose(data.spec.frequencies, counts / counts.sum())


def test_split_depends_on_pixels_and_not_on_names(tmp_path):
    first = fill(tmp_path / "first", 60)
    second = tmp_path / "second"
    second.mkdir()
    for i, file in enumerate(sorted(first.iterdir(), reverse=True)):
        shutil.copy(file, second / f"renamed{i:02d}.png")
    a, b = (open_dataset(f"folder:{path}", size=8) for path in (first, second))
    assert rows(a.test) == rows(b.test) and rows(a.train) == rows(b.train)
    again = open_dataset(f"folder:{first}", size=8)
    assert again.fingerprint == a.fingerprint != open_dataset(f"folder:{first}").fingerprint


def test_copies_lie_on_the_same_side(tmp_path):
    fill(tmp_path, 40)
    for file in list(tmp_path.iterdir()):
        shutil.copy(file, tmp_path / f"copy-{file.name}")
    data = open_dataset(f"folder:{tmp_path}", size=8)
    assert len(data.train.data) + len(data.test.data) == 80
    assert not rows(data.train) & rows(data.test)


@pytest.mark.parametrize("size", [0, 2, 10, -4])
def test_size_must_be_a_multiple_of_four(tmp_path, size):
    with pytest.raises(InputError, match=f"--size {size}: must be a positive multiple of 4"):
        open_dataset(f"folder:{tmp_path}", size=size)


def test_too_few(tmp_path):
    with pytest.raises(InputError, match="no images here"):
        open_dataset(f"folder:{tmp_path}")
    fill(tmp_path, 1)
    with pytest.raises(InputError, match=": 1 image, but at least 50 are needed"):
        open_dataset(f"folder:{tmp_path}")
    fill(tmp_path, 49)
    with pytest.raises(InputError, match=": 49 images, but at least 50"):
        open_dataset(f"folder:{tmp_path}")


def test_copies_of_one_image_cannot_be_split(tmp_path):
    fill(tmp_path, 1)
    for i in range(60):
        shutil.copy(tmp_path / "000.png", tmp_path / f"copy{i}.png")
    with pytest.raises(InputError, match="copies of each other"):
        open_dataset(f"folder:{tmp_path}")


def test_a_corrupt_image_is_named(tmp_path):
    fill(tmp_path, 50)
    (tmp_path / "020.png").write_bytes(b"")
    with pytest.raises(InputError, match="020.png: this file is empty"):
        open_dataset(f"folder:{tmp_path}", size=8)


def test_a_class_that_is_only_in_the_test_split_is_named(tmp_path):
    fill(tmp_path / "many", 60)
    data = open_dataset(f"folder:{tmp_path}", size=8)
    (tmp_path / "rare").mkdir()
    image = data.test.data[0].permute(1, 2, 0).numpy()
    Image.fromarray(image).save(tmp_path / "rare" / "one.png")
    with pytest.raises(InputError, match="class 'rare' has no training images"):
        open_dataset(f"folder:{tmp_path}", size=8)


def test_no_path_and_no_folder(tmp_path):
    with pytest.raises(InputError, match="folder:PATH"):
        open_dataset("folder:")
    with pytest.raises(InputError, match="absent: there is no such folder"):
        open_dataset(f"folder:{tmp_path / 'absent'}")


def test_memory_is_bounded(tmp_path, monkeypatch):
    fill(tmp_path, 50)
    monkeypatch.setattr(folder, "MAX_BYTES", 50 * 8 * 8 * 3)
    open_dataset(f"folder:{tmp_path}", size=8)
    with pytest.raises(InputError, match="--size 12: 50 images would need"):
        open_dataset(f"folder:{tmp_path}", size=12)
