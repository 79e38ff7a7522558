"""The real side of every comparison: features, floors and controls, made once and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset, Split
from genzoo.data.ranges import to_display, to_model
from genzoo.evaluation.cache import cache_folder, remembered, remembered_tensors
from genzoo.evaluation.catalogue import METRICS, Floor
from genzoo.evaluation.controls import CONTROLS, control_items, open_material
from genzoo.evaluation.features import Extractor, Features, open_extractor
from genzoo.evaluation.measurement import MIN_ITEMS, measure_all, values
from genzoo.evaluation.moments import Moments
from genzoo.evaluation.shards import gather_stream
from genzoo.evaluation.view import Items, View
from genzoo.notebook import listener
from genzoo.progress import Progress, Silent
from genzoo.training.device import resolve_device

# Goes into the cache key: raise it whenever a metric, a floor or a control changes.
VERSION = 3
MAX_ITEMS = 10_000
REPEATS = 4
# Halves of the held-out data cost little and vary much.
HALVINGS = 20
FEW_ITEMS = 1000


class Reference:
    """A dataset's real items, their features, and the yardsticks at any N.

    Attributes:
        dataset: the data.
        extractor: its feature space.
        folder: of the cache.
        train: training items, images uint8 0 … 255 or points; empty where unknown; of data in
            files, those that are kept in memory.
        test: held-out items, likewise.
        calibrated: what metrics remember of these data.
    """

    def __init__(
        self,
        dataset: Dataset,
        extractor: Extractor,
        folder: Path,
        progress: Progress | None = None,
    ) -> None:
        """Nothing is measured yet; `progress` hears of what is read from files."""
        self.dataset, self.extractor, self.folder = dataset, extractor, folder
        self._progress = progress or Silent()
        self.train, self.test = self._items(dataset.train), self._items(dataset.test)
        self.calibrated: dict[str, Any] = {}

    def _items(self, split: Split) -> Items:
        spec = self.dataset.spec
        raw = to_display(split.data, spec) if spec.is_image else split.data
        return Items(raw, split.labels, self)

    def features(self, items: Tensor) -> Features:
        """See `genzoo.evaluation.view.Spaces`; of what is kept of files, remembered."""
        if self.dataset.streams is None:
            return self.extractor(items)
        part = next((n for n in ("train", "test") if getattr(self, n).raw is items), None)
        if part is None:
            return self.extractor(items)
        found = self._remembered(f"{part}-features", lambda: _present(self.extractor(items)))
        home = {name: tensor.to(self.extractor.home) for name, tensor in found.items()}
        return Features(**home)

    def moments(self) -> Moments:
        """Of all held-out pictures of files: of each file, merged; remembered."""
        streams = self.dataset.streams
        assert streams is not None

        def make() -> dict[str, Tensor]:
            self._progress.note(f"reading the {len(streams.test):,} held-out pictures, once")
            seen = gather_stream(streams.test, self.extractor, self._progress, kept=0)
            return seen.moments.to_tensors()

        return Moments.from_tensors(self._remembered("moments", make))

    def _remembered(self, what: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        path = self.folder / "references" / f"{self._key}-{what}-v{VERSION}.safetensors"
        return remembered_tensors(path, make, self._progress)

    @property
    def _key(self) -> str:
        """What everything here is of, by content."""
        return f"{self.dataset.fingerprint[:32]}-{self.extractor.info.hash[:16]}"

    def pixels(self, items: Tensor) -> Tensor:
        """Pixels 0 … 255, or standardized coordinates, (N, D).

        Centred pixels are small integers, so that distances are exact and ties are seen; in
        single precision beyond 256 dimensions, where exactness would cost too much.
        """
        spec = self.dataset.spec
        if not spec.is_image:
            return to_model(items, spec).double()
        dtype = torch.float64 if spec.dim <= 256 else torch.float32
        return items.flatten(1).to(dtype) - 128

    def size(self, samples: int, limit: int = MAX_ITEMS) -> int:
        """Items on each side of a comparison with `samples` samples."""
        return min(samples, len(self.test), limit)

    def view(
        self,
        pool: Items,
        n: int,
        *,
        train: Items | None = None,
        test: Items | None = None,
        stream: int = 0,
        **more: Any,
    ) -> View:
        """Samples beside real items.

        Args:
            pool: the samples in random order.
            n: items on either side.
            train: other training items than all.
            test: other held-out items than all.
            stream: which of them, where there are more than n.
            more: fields of the view.
        """
        held_out = self.test if test is None else test
        return View(
            samples=pool.first(n),
            real=held_out.take(choose(len(held_out), n, stream)),
            pool=pool,
            train=self.train if train is None else train,
            test=held_out,
            dataset=self.dataset,
            calibrated=self.calibrated,
            reference=(self.train, self.test),
            moments=None if self.dataset.streams is None else self.moments,
            **more,
        )

    # -- yardsticks --------------------------------------------------------------------------

    def depth(self, n: int, samples: int) -> int:
        """How many of `samples` samples the yardsticks of n a side must match.

        Modes of stacked data are counted among all samples, and their number depends on how
        many there are; everything else looks at n.
        """
        return max(n, min(samples, len(self.test))) if self.dataset.stacked else n

    def floors(self, n: int, progress: Progress, depth: int | None = None) -> dict[str, float]:
        """What real data score in the place of n samples, by metric."""
        deep = depth or n
        return self._kept("floor", n, deep, progress, lambda: self._measure_floors(n, deep))

    def controls(
        self, n: int, progress: Progress, depth: int | None = None
    ) -> dict[str, dict[str, float]]:
        """What each control scores in the place of n samples, by control and metric."""
        if not len(self.train):
            return {}
        deep = depth or n
        flat = self._kept(
            "controls", n, deep, progress, lambda: self._measure_controls(n, deep, progress)
        )
        found: dict[str, dict[str, float]] = {name: {} for name in CONTROLS}
        for key, value in flat.items():
            control, _, metric = key.partition("/")
            if control in found and metric in METRICS:
                found[control][metric] = value
        return found

    def _kept(
        self,
        what: str,
        n: int,
        depth: int,
        progress: Progress,
        make: Callable[[], dict[str, float]],
    ) -> dict[str, float]:
        path = self.folder / "references" / f"{self._key}-{what}-n{n}-p{depth}-v{VERSION}.json"
        kept = (str(path), n)
        if kept not in _yardsticks:
            task = "real-data floors" if what == "floor" else "controls"
            progress.update(task, 0.0)
            _yardsticks[kept] = remembered(path, make, progress)
            progress.update(task, 1.0)
        return _yardsticks[kept]

    def _measure_floors(self, n: int, depth: int) -> dict[str, float]:
        found: dict[str, float] = {}
        kinds: tuple[Floor, ...] = ("features", "pixels", "memory", "held-out")
        for kind in kinds:
            names = [info.name for info in METRICS.values() if info.floor == kind]
            rows = [values(measure_all(view, names)) for view in self.floor_views(kind, n, depth)]
            for name in names:
                known = [row[name] for row in rows if name in row]
                if known:
                    side = self._floor_side(kind, n)
                    order = METRICS[name].null_order
                    found[name] = float(np.mean(known)) * (n / side) ** order
        return found

    def _measure_controls(self, n: int, depth: int, progress: Progress) -> dict[str, float]:
        flat = {}
        material = open_material(self.dataset, self.train)
        for number, (name, raw, labels) in enumerate(control_items(material, depth)):
            progress.update("controls", number / len(CONTROLS), name)
            view = self.view(Items(raw, labels, self), n, intervals=False)
            for metric, value in values(measure_all(view)).items():
                flat[f"{name}/{metric}"] = value
        return flat

    def floor_views(self, kind: Floor, n: int, depth: int) -> Iterator[View]:
        """Real items in the samples' place, several times over.

        A feature space knows the images that it was fitted on too well: then both sides of
        ``features`` are halves of the held-out data. Else they are training and held-out items.
        """
        halves = kind == "features" and self.halves
        if kind == "memory" or halves or not (len(self.train) or kind == "held-out"):
            yield from self._halved(n, all_held_out=kind == "memory")
            return
        side = self._floor_side(kind, n)
        source = self.test if kind == "held-out" else self.train
        many = max(side, min(depth, len(source))) if kind == "held-out" else side
        for repeat in range(1 if many == len(source) else REPEATS):
            pool = source.take(choose(len(source), many, 20 + repeat))
            yield self.view(pool, side, stream=repeat, intervals=False)

    def _halved(self, n: int, *, all_held_out: bool) -> Iterator[View]:
        """Halves of the held-out data against each other."""
        side = self._floor_side("memory", n)
        # Parts share what the whole has derived, unless most of it would be for nothing.
        known = self.test.known() if len(self.test) <= 4 * side else self.test
        for repeat in range(HALVINGS if side <= FEW_ITEMS and not all_held_out else REPEATS):
            order = choose(len(known), len(known), 10 + repeat)
            pool, others = known.take(order[:side]), order[side:]
            rest = known.take(others if all_held_out else others[:side])
            yield self.view(pool, side, test=rest, intervals=False)

    @property
    def halves(self) -> bool:
        """Whether the feature floors come from halves of the held-out data."""
        fitted = self.dataset.spec.is_image and self.extractor.info.split in ("train", "test")
        return fitted or not len(self.train)

    def _floor_side(self, kind: Floor, n: int) -> int:
        """Items on each side of a floor of n items."""
        if kind == "held-out":
            return n
        if kind == "memory" or not len(self.train) or (kind == "features" and self.halves):
            return min(n, len(self.test) // 2)
        return min(n, len(self.train))

    def floor_text(self, kind: Floor, n: int) -> str:
        """Where a floor comes from, in words."""
        side = self._floor_side(kind, n)
        if kind == "held-out":
            return "held-out data in the samples' place"
        if kind == "memory":
            return f"{side} held-out items in the samples' place, the others held out"
        if side != n or not len(self.train) or (kind == "features" and self.halves):
            return f"halves of the held-out data, {side} items each"
        return "training data in the samples' place"


def _present(found: Features) -> dict[str, Tensor]:
    """The fields that there are, by name."""
    return {name: value for name, value in found._asdict().items() if value is not None}


def choose(total: int, n: int, stream: int) -> Tensor:
    """N of `total` rows in random order, the same ones every time for a stream.

    The first rows for a smaller n are the first for a larger one.
    """
    order = np.random.default_rng([20_240_602, stream]).permutation(total)
    return torch.from_numpy(order[:n])


def open_reference(
    dataset: Dataset,
    cache: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    *,
    features: str = "auto",
    weights: str | Path | None = None,
    trust: bool = False,
) -> Reference:
    """A dataset's reference, kept in memory for the next evaluation.

    Args:
        dataset: the data.
        cache: folder of extractors and floors; ``GENZOO_CACHE`` or ``~/.cache/genzoo``.
        device: where features are computed.
        progress: told of long work.
        features: name of the feature space, see `genzoo.evaluation.features.open_extractor`.
        weights: file of the extractor's weights.
        trust: whether weights of unknown content may be used.
    """
    folder, where = cache_folder(cache), resolve_device(device)
    key = (dataset.fingerprint, str(folder), str(where), features, str(weights))
    if key not in _references:
        extractor = open_extractor(
            dataset, folder, where, listener(progress), features, weights, trust
        )
        _references[key] = Reference(dataset, extractor, folder, listener(progress))
        if len(_references) > 2:
            _references.popitem(last=False)
    return _references[key]


def enough(n: int) -> bool:
    """Whether anything can be measured with n items a side."""
    return n >= MIN_ITEMS


_yardsticks: dict[tuple[str, int], dict[str, float]] = {}
_references: OrderedDict[tuple[str, ...], Reference] = OrderedDict()
