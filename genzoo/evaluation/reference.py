"""Real data as evaluation sees them, and what they score in the samples' place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset, Split
from genzoo.data.ranges import to_display, to_model
from genzoo.evaluation import classes, fidelity, memorization, modes, neighbours
from genzoo.evaluation.cache import remembered
from genzoo.evaluation.features import Extractor, Features, open_extractor
from genzoo.progress import Progress

# Goes into the cache key: raise it whenever a floor is measured differently.
VERSION = 2
MAX_ITEMS = 10_000
REPEATS = 4
# Halves of the held-out data cost little and vary much.
HALVINGS = 20
HELD_OUT_SAMPLES = 1000


class Reference:
    """A dataset's real items, their features, and the floors at any N.

    Attributes:
        dataset: the data.
        extractor: its feature space.
        train: training items, images uint8 0 … 255 or points.
        test: held-out items.
    """

    def __init__(self, dataset: Dataset, extractor: Extractor, folder: Path) -> None:
        """Use the cache in `folder`."""
        self.dataset, self.extractor, self.folder = dataset, extractor, folder
        self.train, self.test = self._items(dataset.train), self._items(dataset.test)
        self._known: Features | None = None

    def _items(self, split: Split) -> Tensor:
        spec = self.dataset.spec
        return to_display(split.data, spec) if spec.is_image else split.data

    def space(self, items: Tensor) -> Tensor:
        """Where neighbours are sought: pixels 0 … 255, or standardized coordinates, (N, D).

        Centred pixels are small integers, so that distances are exact and ties are seen; in
        single precision beyond 256 dimensions, where exactness would cost too much.
        """
        spec = self.dataset.spec
        if not spec.is_image:
            return to_model(items, spec).double()
        dtype = torch.float64 if spec.dim <= 256 else torch.float32
        return items.flatten(1).to(dtype) - 128

    @cached_property
    def train_space(self) -> Tensor:
        """`space` of all training items."""
        return self.space(self.train)

    @cached_property
    def test_space(self) -> Tensor:
        """`space` of all held-out items."""
        return self.space(self.test)

    def test_features(self, n: int) -> Features:
        """Features of at most n held-out items, those of `chosen_test`."""
        if self._known is None or len(self._known.features) < min(n, len(self.test)):
            self._known = self.extractor(self.test[self.chosen_test(n)])
        return self._known.first(n)

    def chosen_test(self, n: int) -> Tensor:
        """Rows of the held-out items that stand against n samples."""
        return choose(len(self.test), n, 0)

    def floors(self, n: int, labelled: int, progress: Progress) -> dict[str, float]:
        """What held-out real data score in the place of n samples, by metric.

        Args:
            n: items on either side.
            labelled: items that the classifier of CAS is trained on; 0 without labels.
            progress: told of the measuring.
        """
        key = f"{self.dataset.fingerprint[:32]}-{self.extractor.info.hash[:16]}"
        path = self.folder / "references" / f"{key}-n{n}-c{labelled}-v{VERSION}.json"
        kept = (str(path), n, labelled)
        if kept not in _floors:
            progress.update("real-data floors", 0.0)
            _floors[kept] = remembered(path, lambda: self._measure(n, labelled), progress)
            progress.update("real-data floors", 1.0)
        return _floors[kept]

    def _measure(self, n: int, labelled: int) -> dict[str, float]:
        found = {**self._feature_floors(n), **self._pixel_floors(n)}
        if labelled:
            found["cas"] = self._cas_floor(labelled)
        return found

    def _feature_floors(self, n: int) -> dict[str, float]:
        rows: dict[str, list[float]] = {}
        for a, b in self._real_pairs(n):
            precision, recall = fidelity.precision_recall(a, b)
            values = {
                # Without a difference of laws the distance is all bias, which goes as 1/N.
                "fd": fidelity.frechet_distance(a, b) * len(a) / n,
                "kid": fidelity.kernel_distance(a, b),
                "precision": precision.value,
                "recall": recall.value,
            }
            if not self.dataset.spec.is_image:
                values["sliced_wasserstein"] = neighbours.sliced_wasserstein(a, b)
            for name, value in values.items():
                rows.setdefault(name, []).append(value)
        found = {name: float(np.mean(values)) for name, values in rows.items()}
        return {**found, "density": 1.0, "coverage": neighbours.expected_coverage(n, n)} | (
            self._class_floors(n)
        )

    def _real_pairs(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of real items in the samples' place and of the held-out items they face.

        A classifier knows the images that it was trained on too well: then both sides are
        halves of the held-out data. Else they are training and held-out items.
        """
        if self.halves:
            side = self.half_size(n)
            features = self.test_features(2 * side).features
            for repeat in range(HALVINGS if side <= HELD_OUT_SAMPLES else REPEATS):
                both = features[choose(2 * side, 2 * side, 10 + repeat)]
                yield both[:side], both[side:]
            return
        side = min(n, len(self.train))
        for repeat in range(REPEATS):
            fresh = self.train[choose(len(self.train), side, 20 + repeat)]
            yield self.extractor(fresh).features, self.test_features(side).features

    @property
    def halves(self) -> bool:
        """Whether the feature floors come from halves of the held-out data."""
        return self.extractor.info.split == "train" and self.extractor.info.accuracy is not None

    def half_size(self, n: int) -> int:
        """Items on each side where floors come from halves of the held-out data."""
        return min(n, len(self.test) // 2)

    def _class_floors(self, n: int) -> dict[str, float]:
        found = self.test_features(n)
        if found.parts is not None:
            return {
                "inception_score": fidelity.inception_score(_present(found.logits)),
                "modes_covered": float(modes.count_stacked(found.parts)),
            }
        if found.logits is None:
            return {}
        predicted = classes.shares(found.logits.argmax(1), found.logits.shape[1])
        return {
            "inception_score": fidelity.inception_score(found.logits),
            "class_histogram_tv": classes.total_variation(predicted, self.dataset.spec.frequencies),
        }

    def _pixel_floors(self, n: int) -> dict[str, float]:
        test = self.test_space
        side = min(n, len(self.train))
        accuracy, share, near = [], [], []
        threshold = memorization.near_threshold(self.train_space, test)
        for repeat in range(REPEATS):
            fresh = self.train_space[choose(len(self.train), side, 30 + repeat)]
            accuracy.append(neighbours.two_sample_1nn(fresh, test[self.chosen_test(side)]).value)
            order = choose(len(test), len(test), 40 + repeat)
            half = len(test) // 2
            samples, others = test[order[:half][:HELD_OUT_SAMPLES]], test[order[half:]]
            found = memorization.attribute(samples, self.train_space, others)
            share.append(memorization.train_nn_share(found).value)
            near.append(memorization.near_duplicate_share(found, threshold).value)
        held_out = self.test[self.chosen_test(n)]
        return {
            "two_sample_1nn": float(np.mean(accuracy)),
            "train_nn_share": float(np.mean(share)),
            "near_duplicates": float(np.mean(near)),
            "near_threshold": threshold,
            "duplicates": float(memorization.count_duplicates(held_out, self.train)),
        }

    def _cas_floor(self, labelled: int) -> float:
        labels = _present(self.dataset.train.labels)
        rows = choose(len(self.train), labelled, 50)
        test, test_labels = self.cas_test()
        found = classes.classification_accuracy(self.train[rows], labels[rows], test, test_labels)
        return found.value

    def cas_test(self) -> tuple[Tensor, Tensor]:
        """The held-out images and labels that CAS is measured on."""
        rows = self.chosen_test(classes.CAS_ITEMS)
        return self.test[rows], _present(self.dataset.test.labels)[rows]


def choose(total: int, n: int, stream: int) -> Tensor:
    """N of `total` rows in random order, the same ones every time for a stream.

    The first rows for a smaller n are the first for a larger one.
    """
    order = np.random.default_rng([20_240_602, stream]).permutation(total)
    return torch.from_numpy(order[:n])


def open_reference(
    dataset: Dataset, folder: Path, device: torch.device, progress: Progress
) -> Reference:
    """A dataset's reference, kept in memory for the next evaluation."""
    key = (dataset.fingerprint, str(folder), str(device))
    if key not in _references:
        extractor = open_extractor(dataset, folder, device, progress)
        _references[key] = Reference(dataset, extractor, folder)
        if len(_references) > 2:
            _references.popitem(last=False)
    return _references[key]


_floors: dict[tuple[str, int, int], dict[str, float]] = {}
_references: OrderedDict[tuple[str, str, str], Reference] = OrderedDict()


def _present(labels: Tensor | None) -> Tensor:
    assert labels is not None
    return labels
