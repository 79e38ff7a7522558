"""The feature spaces by name: what they promise, and what they refuse."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_views import uint8
from torch import Tensor, nn

from genzoo.data import Dataset, Split, open_dataset
from genzoo.errors import InputError
from genzoo.evaluation import extractors
from genzoo.evaluation.extractors import (
    classifier,
    pixels,
    self_supervised,
)
from genzoo.evaluation.features import Extractor, Features, Request, open_extractor
from genzoo.evaluation.result import FeatureInfo
from genzoo.progress import Silent
from genzoo.types import DataSpec

CPU = torch.device("cpu")
SILENT = Silent()


@pytest.fixture
def folder() -> Dataset:
    """Sixty unlabelled images of color, 12 x 12: smooth blobs."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(60, 3, 4, 4, generator=random)
    images = nn.functional.interpolate(coarse, (12, 12), mode="bilinear").mul(255).byte()
    return dataset(images[:48], images[48:])


def dataset(train: Tensor, test: Tensor) -> Dataset:
    spec = DataSpec(shape=tuple(test.shape[1:]), levels=256)
    mark = hashlib.sha256(train.numpy().tobytes() + test.numpy().tobytes()).hexdigest()
    return Dataset("folder:/x", spec, Split(train), Split(test), None, (), mark)


def without_labels(data: Dataset) -> Dataset:
    return replace(
        data,
        spec=data.spec.unconditional(),
        train=Split(data.train.data),
        test=Split(data.test.data),
    )


def without_train(data: Dataset) -> Dataset:
    labels = None if data.train.labels is None else data.train.labels[:0]
    return replace(data, train=Split(data.train.data[:0], labels), reserved=None)


def fd(a: Tensor, b: Tensor) -> float:
    """Fréchet distance, by its definition."""
    ca, cb = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(ca)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * cross)


def knn(a: Tensor, la: Tensor, b: Tensor, lb: Tensor) -> float:
    """Accuracy of five nearest neighbours."""
    near = la[torch.cdist(b, a).topk(5, largest=False).indices]
    return float((near.mode(1).values == lb).double().mean())


# -- streaming ------------------------------------------------------------------------------


class Recorded(Extractor):
    """Means of channels; remembers what it was handed."""

    chunk = 7

    def __init__(self) -> None:
        super().__init__(FeatureInfo("recorded", "", None, "none", 3), CPU)
        self.seen: list[tuple[int, torch.dtype]] = []

    def _extract(self, items: Tensor) -> Features:
        self.seen.append((len(items), items.dtype))
        means = items.float().mean((2, 3))
        return Features(means, means * 2, means.argmax(1, keepdim=True))


def test_items_pass_in_chunks_as_uint8() -> None:
    """Never more than a chunk at once, in order, and float64 or int64 come out.

    Fails with: all items at once, items converted before the chunk, rows of chunks shifted.
    """
    extractor = Recorded()
    items = torch.randint(0, 256, (30, 3, 4, 4), dtype=torch.uint8)
    found = extractor(items)
    assert [n for n, _ in extractor.seen] == [7, 7, 7, 7, 2]
    assert {dtype for _, dtype in extractor.seen} == {torch.uint8}
    assert torch.allclose(found.features, items.double().mean((2, 3)), atol=1e-4)
    assert found.logits is not None and found.parts is not None
    assert torch.equal(found.logits, found.features * 2)
    assert found.features.dtype == torch.float64 and found.parts.dtype == torch.int64
    assert torch.equal(found.parts[:, 0], found.features.argmax(1))


def test_features_stay_where_they_are_wanted() -> None:
    """On a CUDA device as they are; MPS has no float64, so from there they come to the CPU.

    Fails with: always the CPU, always the device.
    """

    def home(device: str) -> str:
        recorded = Recorded()
        Extractor.__init__(recorded, recorded.info, torch.device(device))
        return recorded.home.type

    assert [home(device) for device in ("cpu", "cuda:1", "mps")] == ["cpu", "cuda", "cpu"]


def test_no_items_give_no_features() -> None:
    """Fails with: an exception from `torch.cat`, or a width of 0."""
    assert Recorded()(torch.empty(0, 3, 4, 4, dtype=torch.uint8)).features.shape == (0, 3)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 700), st.randoms(use_true_random=False))
def test_features_do_not_depend_on_company(n: int, random: Any) -> None:
    """An item's features are the same alone, in another order and in other chunks.

    Fails with: anything normalized over the chunk.
    """
    data = open_dataset("digits")
    space = pixels.open_pixels(request(data, "pixels"))
    items = uint8(data)[:n]
    order = list(range(len(items)))
    random.shuffle(order)
    assert torch.equal(space(items).features[order], space(items[order]).features)


def request(data: Dataset, name: str, path: Path | None = None, trust: bool = False) -> Request:
    return Request(data, Path("/nonexistent"), CPU, SILENT, name, path, trust)


# -- names ----------------------------------------------------------------------------------


def test_auto_follows_the_data(digits: Dataset, folder: Dataset) -> None:
    """Fails with: another default."""
    assert extractors.default(digits) == "classifier"
    assert extractors.default(folder) == "self-supervised"
    assert extractors.default(open_dataset("ring")) == "coordinates"
    assert extractors.default(open_dataset("stacked-digits")) == "stacked"


def test_names_and_their_variants() -> None:
    """Fails with: the default variant not first, full names unknown."""
    assert extractors.find("dinov2")[1] == "dinov2-vit-l-14"
    assert extractors.find("CLIP")[1] == "clip-vit-b-32"
    assert extractors.find("inception")[1] == "inception-v3-compat"
    assert extractors.find("dinov2-vit-s-14")[0].name == "dinov2"
    with pytest.raises(InputError, match="did you mean 'inception'"):
        extractors.find("incepton")


@pytest.mark.parametrize("entry", [*extractors.EXTRACTORS.values(), extractors.OWN])
def test_every_entry_can_be_opened(entry: extractors.ExtractorEntry) -> None:
    """Fails with: a target that does not exist."""
    assert callable(extractors.load(entry))


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        ("ring", "pixels", "are for images"),
        ("ring", "m:C", "are for images"),
        ("digits", "coordinates", "are for points"),
        ("digits", "stacked", "whose channels are digits"),
        ("stacked-digits", "classifier", "need labels"),
    ],
)
def test_a_space_for_other_data_is_refused(
    data: str, name: str, words: str, tmp_path: Path
) -> None:
    """Fails with: no check, and a traceback or nonsense instead."""
    with pytest.raises(InputError, match=words):
        open_extractor(open_dataset(data), tmp_path, CPU, SILENT, name)


def test_weights_for_a_space_without_any(digits: Dataset, tmp_path: Path) -> None:
    """Fails with: `weights` silently ignored."""
    with pytest.raises(InputError, match="take no weights"):
        open_extractor(digits, tmp_path, CPU, SILENT, "pixels", "w.pth")


# -- fitted spaces --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pixels", "pca", "self-supervised"])
def test_mean_square_is_one(name: str, digits: Dataset, tmp_path: Path) -> None:
    """So that the cubic kernel of KID depends on no accidental scale.

    Fails with: no unit, a standard deviation that is not about the mean that is taken off.
    """
    found = open_extractor(digits, tmp_path, CPU, SILENT, name)
    z = found(uint8(digits, "train")).features
    assert float(z.square().mean()) == pytest.approx(1.0, abs=1e-6)
    assert z.shape[1] == found.info.dim and found.info.split == "train"
    assert found.info.items == len(digits.train.data) and len(found.info.hash) == 64


def test_pixels_do_not_depend_on_brightness_or_contrast(folder: Dataset) -> None:
    """Half the contrast and a constant more are the same in their unit, up to rounding.

    Fails with: the mean gray value not taken off, no unit.
    """
    images = folder.train.data // 4 * 4
    plain = pixels.Pixels(images, "train", CPU)
    dull = pixels.Pixels(images // 2 + 60, "train", CPU)
    z = plain(images).features
    assert torch.allclose(z, dull(images // 2 + 60).features, atol=1e-9)


@given(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 256, 1024]))
def test_pixels_are_bounded(channels: int, height: int, width: int, limit: int) -> None:
    """Whatever the size, at most `limit` values, and no coarser than need be.

    Fails with: blocks one too large, partial blocks not counted.
    """
    block = pixels.block_side((channels, height, width), limit)

    def size(side: int) -> int:
        return channels * math.ceil(height / side) * math.ceil(width / side)

    assert size(block) <= limit
    assert block == 1 or size(block - 1) > limit


def test_large_images_are_averaged() -> None:
    """3 x 40 x 40 become 3 x 14 x 14, partial blocks by their own pixels.

    Fails with: the border cut off, or filled up with zeros.
    """
    images = torch.full((2, 3, 40, 40), 100, dtype=torch.uint8)
    images[1] = 200
    found = pixels.Pixels(images, "train", CPU)
    assert found.block == 3 and found.info.dim == 588 and "3x3" in found.info.source
    z = found(images).features
    assert torch.allclose(z, torch.tensor([[-1.0], [1.0]], dtype=torch.float64).expand(2, 588))


def test_images_of_one_gray_value(tmp_path: Path) -> None:
    """Pixels are 0 then; features cannot be learned, and that is said.

    Fails with: division by 0.
    """
    gray = torch.full((20, 1, 8, 8), 7, dtype=torch.uint8)
    data = dataset(gray, gray)
    z = open_extractor(data, tmp_path, CPU, SILENT, "pixels")(gray).features
    assert torch.allclose(z, torch.zeros_like(z), atol=1e-12)
    assert open_extractor(data, tmp_path, CPU, SILENT, "pca")(gray).features.isfinite().all()
    with pytest.raises(InputError, match="all alike"):
        open_extractor(data, tmp_path, CPU, SILENT)


@pytest.mark.parametrize("name", ["classifier", "pca", "self-supervised", "pixels"])
def test_only_a_reference(
    name: str, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without training items the held-out ones are fitted on, and that is published.

    The accuracy is a twin's on items that the twin did not see: with 4 steps of training it
    must be poor, although a network can learn anything by heart.

    Fails with: fitting on nothing, split "train".
    """
    monkeypatch.setattr(classifier, "STEPS", (4, 4))
    data = without_train(digits)
    found = open_extractor(data, tmp_path, CPU, SILENT, name)
    assert found.info.split == "test" and found.info.items == 797
    assert found(uint8(data)).features.shape == (797, found.info.dim)
    assert (found.info.accuracy is None) == (name != "classifier")


def test_accuracy_is_never_that_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random labels: what is learned by heart helps nothing on spared items.

    120 images of 4 random classes are learned to more than 60 %; on the 24 spared ones,
    accuracy is 1/4 with a standard error of .09: below .55 but for a chance of 1 in 1000.

    Fails with: accuracy on the items of the training, the twin trained on all items.
    """
    monkeypatch.setattr(classifier, "STEPS", (150, 150))
    random = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8, generator=random)
    labels = torch.randint(4, (120,), generator=random)
    spec = DataSpec((1, 8, 8), 256, {"label": 4})
    data = Dataset(
        "x", spec, Split(images[:0], labels[:0]), Split(images, labels), None, tuple("abcd"), "f"
    )
    fitted = classifier._make(data, data.test, "test", SILENT)
    network = classifier.Classifier((1, 8, 8), 4)
    network.load_state_dict(fitted.weights)
    assert classifier.accuracy(network, images, labels) > 0.6
    assert fitted.accuracy is not None and fitted.accuracy < 0.55


def test_points_without_training_items(tmp_path: Path) -> None:
    """Location and scale from the held-out points where the specification has none.

    Fails with: statistics of an empty tensor.
    """
    points = torch.randn(500, 2) * 3 + 5
    spec = DataSpec((2,), None)
    data = Dataset("p", spec, Split(points[:0]), Split(points), None, (), "f")
    found = open_extractor(data, tmp_path, CPU, SILENT)
    z = found(points).features
    assert found.info.split == "test" and found.info.dim == 2
    assert torch.allclose(z.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(z.square().mean(0), torch.ones(2, dtype=torch.float64))


# -- self-supervised ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    data = without_labels(digits)
    return open_extractor(data, tmp_path_factory.mktemp("learned"), CPU, SILENT)


def test_neighbours_share_their_class(learned: Extractor, digits: Dataset) -> None:
    """Labels were never seen, and yet 5 nearest neighbours find 97 % of them.

    98.5 % measured; the standard error on 797 items is .5 %.
    Fails with: labels that do not belong, centers never moved from 0, axes in reverse.
    """
    assert learned.info.name == "self-supervised" and learned.info.accuracy is None
    train, test = (learned(uint8(digits, name)).features for name in ("train", "test"))
    assert digits.train.labels is not None and digits.test.labels is not None
    assert knn(train, digits.train.labels, test, digits.test.labels) > 0.97


def test_distances_come_in_the_right_order(learned: Extractor, digits: Dataset) -> None:
    """Real < Gaussian per class < one Gaussian < noise, and wider apart than in pixels.

    Fails with: linear features, in which one Gaussian is nearly as good as real images.
    """
    random = np.random.default_rng(0)
    train, test = uint8(digits, "train"), uint8(digits)
    assert digits.train.labels is not None

    def gaussian(images: Tensor, n: int) -> Tensor:
        flat = images.flatten(1).double().numpy()
        drawn = random.multivariate_normal(flat.mean(0), np.cov(flat.T), n, method="eigh")
        return torch.from_numpy(drawn).round().clamp(0, 255).byte().reshape(-1, 1, 8, 8)

    classes = [gaussian(train[digits.train.labels == c], 40) for c in range(10)]
    others = {
        "real": train[:400],
        "per class": torch.cat(classes),
        "one": gaussian(train, 400),
        "noise": torch.from_numpy(random.integers(0, 256, (400, 1, 8, 8), dtype=np.uint8)),
    }
    pca = open_extractor(digits, Path("/nonexistent"), CPU, SILENT, "pca")
    found = {}
    for space in (learned, pca):
        reference = space(test[:400]).features
        values = [fd(reference, space(items).features) for items in others.values()]
        assert values == sorted(values), dict(zip(others, values, strict=True))
        found[space.info.name] = values[2] / values[0]
    assert found["self-supervised"] > found["pca"]


def test_learning_is_repeatable(folder: Dataset, tmp_path: Path) -> None:
    """The same hash whatever was drawn before, and global randomness stays as it was.

    Fails with: `torch.rand` without the generator.
    """
    first = self_supervised.fit(folder.train.data, SILENT)
    before = torch.get_rng_state()
    second = self_supervised.fit(folder.train.data, SILENT)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    third = self_supervised.fit(folder.train.data, SILENT)
    assert all(torch.equal(first[k], second[k]) and torch.equal(first[k], third[k]) for k in first)


def test_learned_features_are_kept(
    folder: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call only reads. Fails with: a cache key that changes, nothing saved."""
    first = open_extractor(folder, tmp_path, CPU, SILENT)
    monkeypatch.setattr(self_supervised, "fit", None)
    again = open_extractor(folder, tmp_path, CPU, SILENT)
    assert again.info == first.info and again.info.items == 48
    images = folder.test.data
    assert torch.equal(again(images).features, first(images).features)


@pytest.mark.parametrize(
    ("n", "shape"), [(3, (1, 4, 4)), (2, (3, 8, 8)), (40, (1, 20, 12)), (12, (3, 72, 72))]
)
def test_any_size_and_few_images(n: int, shape: tuple[int, int, int]) -> None:
    """Fails with: components of variance 0 divided by their scale, sides that must be 4 n."""
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=random)
    found = self_supervised.SelfSupervised(self_supervised.fit(images, SILENT), "train", n, CPU)
    z = found(images).features
    assert z.isfinite().all() and z.shape[1] <= min(64, n - 1 if n < 64 else 64)
    assert float(z.square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_distortions_are_small() -> None:
    """A ramp stays close to itself and comes out unmirrored.

    Fails with: mirroring, quarter turns.
    """
    ramp = torch.linspace(0, 1, 16).expand(8, 1, 16, 16).clone()
    moved = self_supervised.distort(ramp, torch.Generator().manual_seed(0))
    assert float((moved - ramp).abs().max()) < 0.5
    assert not torch.equal(moved, ramp)
    assert bool((moved[:, :, 4:12, 12] > moved[:, :, 4:12, 3]).all())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("mnist", 0.03), ("fashion-mnist", 0.01)])
def test_better_than_principal_components(name: str, least: float, tmp_path: Path) -> None:
    """With 2,000 labelled neighbours more is found than in principal components.

    MNIST 95.9 against 92.4 %, Fashion-MNIST 80.3 against 78.5 %; the standard error of such a
    difference is half a point. Fails with: directions that are not discriminant (MNIST 80 %).
    """
    try:
        data = open_dataset(name, download=False)
    except InputError:
        pytest.skip("no files; set GENZOO_DATA")
    assert data.train.labels is not None and data.test.labels is not None
    train, test = uint8(data, "train")[:2000], uint8(data)
    rows = torch.from_numpy(np.random.default_rng(1).permutation(len(test))[:2000])
    found = {}
    for space in ("self-supervised", "pca"):
        opened = open_extractor(data, tmp_path, CPU, SILENT, space)
        a, b = opened(train).features, opened(test[rows]).features
        found[space] = knn(a, data.train.labels[:2000], b, data.test.labels[rows])
    assert found["self-supervised"] > found["pca"] + least, found
