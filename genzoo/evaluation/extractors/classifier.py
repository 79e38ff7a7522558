"""A small classifier of the data's own labels, seen one layer before its decision."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.data.dataset import Dataset, Split
from genzoo.data.ranges import to_display
from genzoo.errors import InputError
from genzoo.evaluation.extractors import fitted
from genzoo.evaluation.extractors.fitted import Fitted
from genzoo.evaluation.features import Extractor, Features, Request, content_hash
from genzoo.evaluation.result import FeatureInfo
from genzoo.noise import derive_seed
from genzoo.progress import Progress
from genzoo.training.device import limited_threads

# Goes into the cache key and the seed: raise it whenever architecture or training change.
VERSION = 2
WIDTH = 64
BATCH = 64
# 400 steps suffice for a thousand images (99 % on digits), 1200 for ten thousand.
STEPS = (400, 1200)
LEARNING_RATE = 3e-3
UNIT_ITEMS = 2000
# Where no other items are known than those it is fitted on, a twin is tested on these.
SPARED = 0.2


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
        super().__init__(info, device)
        self.network = network.eval().to(device)

    def _extract(self, items: Tensor) -> Features:
        features = self.network.features(items.to(self.device))
        return Features(features / self.network.unit, self.network.head(features))


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
            network.unit.copy_(network.features(images[:UNIT_ITEMS]).square().mean().sqrt())
    return network


def open_classifier(request: Request) -> ClassifierFeatures:
    """From the cache, or trained now.

    Raises:
        InputError: the data have no labels.
    """
    dataset = request.dataset
    split, name = fitted.fit_split(dataset)
    classes = dataset.spec.num_classes
    if split.labels is None or not classes:
        raise InputError(
            f"features 'classifier' need labels, which {dataset.name} has not; try self-supervised"
        )
    path = fitted.cache_path(dataset, request.folder, f"v{VERSION}")
    found = fitted.load(path, request.progress)
    if found is None:
        request.progress.note(f"training the feature extractor of {dataset.name}, once")
        found = _make(dataset, split, name, request.progress)
        fitted.save(path, found, request.progress)
    network = Classifier(dataset.spec.shape, classes)
    network.load_state_dict(found.weights)
    info = FeatureInfo(
        "classifier", content_hash(found.weights), found.accuracy, name, WIDTH, len(split.data)
    )
    return ClassifierFeatures(network, info, request.device)


def _make(dataset: Dataset, split: Split, name: str, progress: Progress) -> Fitted:
    assert split.labels is not None
    classes = dataset.spec.num_classes
    images = to_display(split.data, dataset.spec)
    network = train_classifier(images, split.labels, classes, progress)
    weights = {k: v.detach().contiguous() for k, v in network.state_dict().items()}
    if name == "test":
        return Fitted(weights, _spared_accuracy(images, split.labels, classes, progress))
    if dataset.test.labels is None or not len(dataset.test.data):
        return Fitted(weights, None)
    test = to_display(dataset.test.data, dataset.spec)
    return Fitted(weights, accuracy(network, test, dataset.test.labels))


def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images (N, C, H, W) uint8 whose class is found."""
    network.eval()
    with torch.no_grad():
        predicted = torch.cat([network(part).argmax(1) for part in images.split(512)])
    return float((predicted == labels).double().mean())


def _spared_accuracy(
    images: Tensor, labels: Tensor, classes: int, progress: Progress
) -> float | None:
    """What a twin, trained on all but `SPARED` of the items, makes of those.

    An accuracy on the very items of the training would say nothing. ``None`` below ten items.
    """
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(images)))
    spared = int(SPARED * len(images))
    if spared < 2:
        return None
    rest, out = order[spared:], order[:spared]
    twin = train_classifier(images[rest], labels[rest], classes, progress)
    return accuracy(twin, images[out], labels[out])


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
