"""Datasets by name: the embedded digits, and names and sizes that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import genzoo.data
from genzoo.data import DATASETS, open_dataset
from genzoo.errors import InputError


def test_digits_are_the_stated_split():
    data = open_dataset("digits")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    train, test = train_test_split(range(1797), test_size=797, random_state=0, stratify=raw.target)
    for split, rows in ((data.train, train), (data.test, test)):
        assert split.data.dtype == torch.uint8 and split.labels.dtype == torch.int64
        np.testing.assert_array_equal(split.data[:, 0].numpy(), raw.images[rows])
        np.testing.assert_array_equal(split.labels.numpy(), raw.target[rows])
    assert data.spec.shape == (1, 8, 8) and data.spec.levels == 17
    assert data.spec.cond == {"label": 10}
    counts = np.bincount(raw.target[train])
    np.testing.assert_allclose(data.spec.frequencies, counts / 1000)
    assert data.class_names == tuple("0123456789")


def test_stacked_digits_are_digits_of_their_own_split():
    data, digits = open_dataset("stacked-digits"), open_dataset("digits")
    assert data.test.data.shape == (26_000, 3, 8, 8) and data.train.data.shape == (20_000, 3, 8, 8)
    assert data.stacked and data.modes is None and data.spec.cond == {}
    assert data.train.labels is None and data.test.labels is None
    for name in ("train", "test"):
        split, modes = getattr(data, name), getattr(data.mode_labels, name)
        source = getattr(digits, name)
        labels = {x.numpy().tobytes(): int(y) for x, y in zip(*source, strict=True)}
        for image, triple in zip(split.data[:200], modes[:200].tolist(), strict=True):
            assert [labels[channel.numpy().tobytes()] for channel in image] == triple
        assert len(modes.unique(dim=0)) == 1000


def test_equal_data_have_equal_fingerprints_and_others_do_not():
    digits, stacked = open_dataset("digits"), open_dataset("stacked-digits")
    assert digits.fingerprint == open_dataset("DIGITS").fingerprint
    assert digits.fingerprint != stacked.fingerprint
    changed = digits.train.data.clone()
    changed[3, 0, 4, 4] ^= 1
    again = genzoo.data.dataset.fingerprint(
        digits.spec, digits.train._replace(data=changed), digits.test, None
    )
    same = genzoo.data.dataset.fingerprint(digits.spec, digits.train, digits.test, None)
    assert again != digits.fingerprint == same


def test_misspelt_name_gets_a_suggestion():
    with pytest.raises(InputError, match="unknown dataset 'digit'; did you mean 'digits'"):
        open_dataset("digit")


def test_a_folder_without_its_prefix_is_explained(tmp_path):
    with pytest.raises(InputError, match=f"a folder of images is folder:{tmp_path}"):
        open_dataset(str(tmp_path))


def test_size_is_refused_where_nothing_is_resized():
    assert open_dataset("digits", size=8).spec.shape == (1, 8, 8)
    with pytest.raises(InputError, match="--size 16: the items of digits are 1x8x8"):
        open_dataset("digits", size=16)


def test_listing_imports_no_torch_and_digits_no_torchvision():
    code = (
        "import sys, genzoo.data as d\n"
        "assert len(d.DATASETS) == 15 and 'torch' not in sys.modules\n"
        "d.open_dataset('digits'); assert 'torchvision' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_every_listed_dataset_has_a_module():
    for name, entry in DATASETS.items():
        assert name == entry.name and entry.kind in ("image", "point")
        assert __import__(f"genzoo.data.{entry.module}")
