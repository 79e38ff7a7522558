"""Extractors: good enough, the same every time, verified, never an obstacle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genzoo.data import Dataset, open_dataset
from genzoo.data.ranges import to_display
from genzoo.evaluation import features
from genzoo.evaluation.cache import cache_folder
from genzoo.evaluation.extractors import classifier

CPU = torch.device("cpu")


class Notes:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        pass


def unlabelled(data: Dataset) -> Dataset:
    """The same images without labels."""
    return replace(
        data,
        spec=data.spec.unconditional(),
        train=data.train._replace(labels=None),
        test=data.test._replace(labels=None),
    )


def never(*args: object) -> None:
    raise AssertionError("trained again")


def test_classifier_of_digits(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """97 % on held-out images, 64 features, and the second call only reads.

    Fails with: no training, labels shuffled, a cache key that changes.
    """
    first = features.open_extractor(digits, cache_folder(), CPU, Notes())
    info = first.info
    assert info.name == "classifier" and info.split == "train"
    assert info.accuracy is not None and info.accuracy >= 0.97
    monkeypatch.setattr(classifier, "train_classifier", never)
    again = features.open_extractor(digits, cache_folder(), CPU, Notes())
    assert again.info == info
    images = to_display(digits.test.data, digits.spec)
    found = again(images)
    assert found.features.shape == (797, 64) and found.features.dtype == torch.float64
    assert found.logits is not None and digits.test.labels is not None
    right = (found.logits.argmax(1) == digits.test.labels).double().mean()
    assert float(right) == info.accuracy
    assert torch.equal(found.features, first(images).features)


def test_training_is_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights whatever was drawn before. Fails with: no seed inside `fork_rng`."""
    monkeypatch.setattr(classifier, "STEPS", (4, 4))
    images = torch.randint(0, 256, (30, 3, 20, 24), dtype=torch.uint8)
    first = classifier.train_classifier(images, torch.arange(30) % 3, 3, Notes())
    torch.rand(1)
    second = classifier.train_classifier(images, torch.arange(30) % 3, 3, Notes())
    assert features.content_hash(first.state_dict()) == features.content_hash(second.state_dict())


def test_global_generator_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: `torch.manual_seed` outside of `fork_rng`."""
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    before = torch.get_rng_state()
    monkeypatch.setattr(classifier, "STEPS", (2, 2))
    classifier.train_classifier(images, torch.arange(10) % 2, 2, Notes())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tampered_extractor_is_made_again(digits: Dataset, tmp_path: Path) -> None:
    """A changed byte in the weights is noticed. Fails with: the hash not compared."""
    data = unlabelled(digits)
    first = features.open_extractor(data, tmp_path, CPU, Notes(), "pca")
    (path,) = (tmp_path / "extractors").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    notes = Notes()
    second = features.open_extractor(data, tmp_path, CPU, notes, "pca")
    assert second.info.hash == first.info.hash
    assert len(notes.notes) == 1 and "made again" in notes.notes[0]
    path.write_bytes(b"no tensors")
    assert features.open_extractor(data, tmp_path, CPU, notes, "pca").info == first.info


def test_a_cache_that_cannot_be_written_is_no_obstacle(digits: Dataset, tmp_path: Path) -> None:
    """The folder's place is taken by a file. Fails with: the error passed on."""
    (tmp_path / "taken").write_text("")
    notes = Notes()
    found = features.open_extractor(unlabelled(digits), tmp_path / "taken", CPU, notes, "pca")
    assert found.info.name == "pca"
    assert len(notes.notes) == 1 and "GENZOO_CACHE" in notes.notes[0]


def test_components_keep_distances(digits: Dataset, tmp_path: Path) -> None:
    """All 64 components of 64 pixels: the pixels' distances in another unit.

    Fails with: axes not orthogonal, pixels not centred.
    """
    found = features.open_extractor(unlabelled(digits), tmp_path, CPU, Notes(), "pca")
    images = to_display(digits.test.data[:40], digits.spec)
    z, pixels = found(images).features, images.flatten(1).double() / 255
    ratio = torch.pdist(z) / torch.pdist(pixels)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-6)
    train = found(to_display(digits.train.data, digits.spec)).features
    assert float(train.square().mean()) == pytest.approx(1.0, abs=1e-6)
    assert found.info.accuracy is None and found.info.split == "train"


def test_points_are_standardized(tmp_path: Path) -> None:
    """Training points have mean 0 and deviation 1. Fails with: variance for deviation."""
    data = open_dataset("grid")
    z = features.open_extractor(data, tmp_path, CPU, Notes())(data.train.data).features
    assert torch.allclose(z.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(z.std(0), torch.ones(2, dtype=torch.float64), atol=1e-3)
    assert not list(tmp_path.iterdir())


def test_stacked_digits_use_the_single_digits(digits: Dataset) -> None:
    """Channels apart: 3 · 64 features, and the joint class is the triple of classes.

    Fails with: channels interleaved with items, joint classes in another order.
    """
    data = open_dataset("stacked-digits")
    assert data.mode_labels is not None
    single = features.open_extractor(digits, cache_folder(), CPU, Notes())
    stacked = features.open_extractor(data, cache_folder(), CPU, Notes())
    images = to_display(data.test.data[:200], data.spec)
    found = stacked(images)
    assert found.features.shape == (200, 192)
    assert torch.allclose(found.features[:, 64:128], single(images[:, 1:2]).features, atol=1e-4)
    assert found.logits is not None and found.parts is not None
    right = (found.parts == data.mode_labels.test[:200]).double().mean()
    assert float(right) >= 0.97
    joint = found.logits.argmax(1)
    assert torch.equal(joint, found.parts @ torch.tensor([100, 10, 1]))
    assert float(found.logits.logsumexp(1).abs().max()) < 1e-6
