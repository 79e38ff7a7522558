"""The spaces in which samples and real data are compared.

Images with labels: the 64 penultimate activations of a small classifier, trained once per
dataset on images that no generator sees, where there are any to spare. Images without
labels: principal components of the pixels. Points: their standardized coordinates.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genzoo.data.dataset import Dataset, Split
from genzoo.data.ranges import to_display
from genzoo.errors import GenzooError
from genzoo.evaluation.cache import keep
from genzoo.evaluation.result import FeatureInfo
from genzoo.files import atomic_path
from genzoo.noise import derive_seed
from genzoo.progress import Progress
from genzoo.training.device import limited_threads
from genzoo.types import DataSpec

# Goes into the cache key: raise it whenever architecture, training or PCA change.
VERSION = 2
WIDTH = 64
BATCH = 64
# 400 steps suffice for a thousand images (99 % on digits), 1200 for ten thousand.
STEPS = (400, 1200)
LEARNING_RATE = 3e-3
FIT_ITEMS = 2000
CHUNK = 512


class Features(NamedTuple):
    """Items in feature space.

    Attributes:
        features: (N, d) float64.
        logits: class scores (N, K) float64; ``None`` without a classifier.
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
    """Maps items to features: images as uint8 0 … 255 (N, C, H, W), or points (N, D)."""

    info: FeatureInfo

    @abstractmethod
    def _extract(self, items: Tensor) -> Features: ...

    def __call__(self, items: Tensor) -> Features:
        """Features of any number of items, on the CPU."""
        with torch.no_grad():
            found = [self._extract(part) for part in items.split(CHUNK)]
        return Features(
            torch.cat([part.features for part in found]),
            _cat([part.logits for part in found]),
            _cat([part.parts for part in found]),
        )


class Coordinates(Extractor):
    """Points standardized by mean and standard deviation of the training points."""

    def __init__(self, spec: DataSpec) -> None:
        """Take location and scale from the data."""
        self.location = torch.tensor(spec.location, dtype=torch.float64)
        self.scale = torch.tensor(spec.scale, dtype=torch.float64)
        digest = content_hash({"location": self.location, "scale": self.scale})
        self.info = FeatureInfo("coordinates", digest, None, "train")

    def _extract(self, items: Tensor) -> Features:
        return Features((items.double() - self.location) / self.scale)


class PrincipalComponents(Extractor):
    """The leading principal components of the pixels, in one unit of mean square 1."""

    def __init__(self, weights: Mapping[str, Tensor], split: str) -> None:
        """Use fitted ``mean`` (D,) and ``axes`` (D, d)."""
        self.mean, self.axes = weights["mean"], weights["axes"]
        self.info = FeatureInfo("pca", content_hash(weights), None, split)

    def _extract(self, items: Tensor) -> Features:
        pixels = items.flatten(1).double() / 255 - self.mean
        return Features(pixels @ self.axes)

    @staticmethod
    def fit(images: Tensor) -> dict[str, Tensor]:
        """Mean and axes from at most `FIT_ITEMS` images, chosen by a fixed seed."""
        chosen = np.random.default_rng(0).permutation(len(images))[:FIT_ITEMS]
        pixels = images[torch.from_numpy(chosen)].flatten(1).double() / 255
        mean = pixels.mean(0)
        _, spread, axes = torch.linalg.svd(pixels - mean, full_matrices=False)
        unit = spread[:WIDTH].square().mean().div(len(pixels)).sqrt().clamp(min=1e-6)
        return {"mean": mean, "axes": (axes[:WIDTH].T / unit).contiguous()}


class Classifier(nn.Module):
    """A small convolutional network; see `train_classifier`."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        """Build it for images of `shape` (C, H, W), sides divisible by 4."""
        super().__init__()
        # Space to depth until the larger side is at most 16: cheap, and nothing is lost.
        self.fold = 1
        while max(shape[1:]) // self.fold > 16:
            self.fold *= 2
        self.enter = nn.Conv2d(shape[0] * self.fold**2, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 64, 3, padding=1)
        self.leave = nn.Conv2d(64, 64, 3, padding=1)
        self.feature = nn.Linear(64 * 16, WIDTH)
        self.head = nn.Linear(WIDTH, classes)
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()))

    def features(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> (N, 64)."""
        x = images.float().div(127.5).sub(1)
        x = F.pixel_unshuffle(_pad_to_multiple(x, self.fold), self.fold)
        x = F.max_pool2d(F.gelu(self.middle(F.gelu(self.enter(x)))), 2)
        x = F.adaptive_avg_pool2d(F.gelu(self.leave(x)), 4)
        return F.gelu(self.feature(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> logits (N, K)."""
        out: Tensor = self.head(F.dropout(self.features(images), 0.2, self.training))
        return out


class ClassifierFeatures(Extractor):
    """The penultimate activations of a `Classifier` in their unit, and its class scores."""

    def __init__(self, network: Classifier, info: FeatureInfo, device: torch.device) -> None:
        """Take a trained network."""
        self.network = network.eval().to(device)
        self.info = info
        self.device = device

    def _extract(self, items: Tensor) -> Features:
        features = self.network.features(items.to(self.device))
        logits = self.network.head(features)
        scaled = features / self.network.unit
        return Features(scaled.cpu().double(), logits.cpu().double())


class StackedFeatures(Extractor):
    """A one-channel extractor applied to each channel, features side by side.

    The joint class of C channels is the tuple of their classes: K^C logits, row-major.
    """

    def __init__(self, single: ClassifierFeatures) -> None:
        """Wrap the extractor of single digits."""
        self.single = single
        self.info = single.info

    def _extract(self, items: Tensor) -> Features:
        n, channels = items.shape[:2]
        found = self.single(items.reshape(n * channels, 1, *items.shape[2:]))
        assert found.logits is not None
        scores = found.logits.log_softmax(1).reshape(n, channels, -1)
        joint = scores[:, 0]
        for c in range(1, channels):
            joint = (joint[:, :, None] + scores[:, c, None, :]).flatten(1)
        return Features(found.features.reshape(n, -1), joint, scores.argmax(2))


def train_classifier(
    images: Tensor, labels: Tensor, classes: int, progress: Progress
) -> Classifier:
    """Train the feature classifier: AdamW, one cycle, small random shifts.

    On the CPU with one thread, so that processes with different threads or devices get the
    same weights; torch's global random state is left as it was.

    Args:
        images: (N, C, H, W) uint8 0 … 255.
        labels: (N,).
        classes: number of classes.
        progress: told every few steps.
    """
    batch = min(BATCH, len(images))
    steps = min(STEPS[1], max(STEPS[0], 8 * len(images) // batch))
    random = torch.Generator().manual_seed(derive_seed(20_240_601))
    with torch.random.fork_rng(devices=[]), limited_threads(1):
        torch.manual_seed(derive_seed(VERSION))
        network = Classifier(tuple(images.shape[1:]), classes)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
        for step in range(steps):
            rows = torch.randint(len(images), (batch,), generator=random)
            logits = network(_shift(images[rows], random))
            loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            if step % 50 == 49 or step + 1 == steps:
                progress.update("feature extractor", (step + 1) / steps, f"loss {loss:.3f}")
        with torch.no_grad():
            # So that numbers, and the cubic kernel of KID, do not depend on a chance scale.
            network.unit.copy_(network.features(images[:FIT_ITEMS]).square().mean().sqrt())
    return network


def open_extractor(
    dataset: Dataset, folder: Path, device: torch.device, progress: Progress
) -> Extractor:
    """The extractor of a dataset: from the cache, or made now.

    Args:
        dataset: whose ``reserved`` images are used, ``train`` where it has none.
        folder: of the cache.
        device: where features are computed; training is on the CPU, so that it gives the
            same weights everywhere.
        progress: told of training, and of a cache that does not work.
    """
    if not dataset.spec.is_image:
        return Coordinates(dataset.spec)
    if dataset.stacked:
        from genzoo.data import open_dataset

        single = open_extractor(open_dataset("digits"), folder, device, progress)
        assert isinstance(single, ClassifierFeatures)
        return StackedFeatures(single)
    split, name = (dataset.train, "train")
    if dataset.reserved is not None:
        split, name = (dataset.reserved, "reserved")
    path = folder / "extractors" / f"{dataset.fingerprint[:32]}-v{VERSION}.safetensors"
    if split.labels is None or not dataset.spec.num_classes:
        weights, _ = _load(path, progress) or _make_components(split, dataset.spec, path, progress)
        return PrincipalComponents(weights, name)
    weights, accuracy = _load(path, progress) or _make_classifier(dataset, split, path, progress)
    network = Classifier(dataset.spec.shape, dataset.spec.num_classes)
    network.load_state_dict(weights)
    info = FeatureInfo("classifier", content_hash(weights), accuracy, name)
    return ClassifierFeatures(network, info, device)


def content_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and contents of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name].detach().cpu().numpy())
        digest.update(f"{name};{array.dtype.str};{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


_Fitted = tuple[dict[str, Tensor], float | None]


def _make_classifier(dataset: Dataset, split: Split, path: Path, progress: Progress) -> _Fitted:
    assert split.labels is not None and dataset.test.labels is not None
    progress.note(f"training the feature extractor of {dataset.name}, once")
    classes = dataset.spec.num_classes
    images = to_display(split.data, dataset.spec)
    network = train_classifier(images, split.labels, classes, progress).eval()
    weights = {k: v.detach().contiguous() for k, v in network.state_dict().items()}
    with torch.no_grad():
        test = to_display(dataset.test.data, dataset.spec)
        predicted = torch.cat([network(part).argmax(1) for part in test.split(CHUNK)])
    accuracy = float((predicted == dataset.test.labels).double().mean())
    _save(path, weights, accuracy, progress)
    return weights, accuracy


def _make_components(split: Split, spec: DataSpec, path: Path, progress: Progress) -> _Fitted:
    weights = PrincipalComponents.fit(to_display(split.data, spec))
    _save(path, weights, None, progress)
    return weights, None


def _save(
    path: Path, weights: dict[str, Tensor], accuracy: float | None, progress: Progress
) -> None:
    about = {"accuracy": accuracy, "sha256": content_hash(weights)}

    def write() -> None:
        with atomic_path(path) as beside:
            save_file(weights, beside, metadata={"genzoo": json.dumps(about)})

    keep(path, write, progress)


def _load(path: Path, progress: Progress) -> _Fitted | None:
    """Verified weights and accuracy, or ``None`` where there are none to be trusted."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["genzoo"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if content_hash(weights) != about["sha256"]:
            raise ValueError("its content does not match its hash")
        return weights, None if about["accuracy"] is None else float(about["accuracy"])
    except (SafetensorError, GenzooError, OSError, ValueError, KeyError, TypeError) as error:
        progress.note(f"'{path}' cannot be used ({error}); the extractor is made again")
        return None


def _shift(images: Tensor, random: torch.Generator) -> Tensor:
    """Move a batch by up to a sixteenth of its side, at least a pixel, repeating the border."""
    height, width = images.shape[2:]
    reach = max(1, min(height, width) // 16)
    dy, dx = torch.randint(2 * reach + 1, (2,), generator=random).tolist()
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate")
    return padded[:, :, dy : dy + height, dx : dx + width]


def _pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate")


def _cat(column: list[Tensor | None]) -> Tensor | None:
    present = [part for part in column if part is not None]
    return torch.cat(present) if present else None
