"""Sets of samples whose faults are known: whatever is measured of a model is measured of them.

They are made of training items, so a control that keeps to the data also remembers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.data.ranges import to_display, to_model
from genzoo.evaluation.neighbours import nearest, squared_distances
from genzoo.evaluation.view import Items
from genzoo.registry import build
from genzoo.types import Batch

# Of the typical distance between near real neighbours, so that copies stay recognizable.
COPY_NOISE = 0.5
MODE_SHARE = 0.1  # of the training items, where neither classes nor modes are known


@dataclass(frozen=True)
class ControlInfo:
    """A control.

    Attributes:
        name: in ``scores.json`` and on pages.
        fault: what is wrong with it.
        make: n items of a `Material`.
    """

    name: str
    fault: str
    make: Callable[[Material, int], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Material:
    """What controls are made of.

    Attributes:
        dataset: for models that are fitted.
        train: training items.
        modes: class, mode or neighbourhood of each training item, (N,) int64.
    """

    dataset: Dataset
    train: Items
    modes: Tensor

    def rows(self, among: Tensor, n: int, stream: int) -> tuple[Tensor, Tensor | None]:
        """N independent draws from the training rows `among`, and their labels."""
        drawn = np.random.default_rng([20_240_604, stream]).integers(len(among), size=n)
        part = self.train.take(among[torch.from_numpy(drawn)])
        return part.raw, part.labels


def open_material(dataset: Dataset, train: Items) -> Material:
    """Training items and which mode each is of.

    Classes where there are labels, the known mixture's components for points, else the tenth of
    the items around one of them (mode 0) and the rest.
    """
    if dataset.modes is not None:
        modes = squared_distances(train.raw.double(), dataset.modes.centers.double()).argmin(1)
    elif dataset.mode_labels is not None:
        modes = dataset.mode_labels.train[:, 0]
    elif train.labels is not None:
        modes = train.labels
    else:
        pixels = train.pixels
        distance = squared_distances(pixels[:1], pixels)[0]
        near = distance.argsort(stable=True)[: max(1, int(MODE_SHARE * len(train)))]
        modes = torch.ones(len(train), dtype=torch.int64)
        modes[near.cpu()] = 0
    return Material(dataset, train, modes)


def control_items(material: Material, n: int) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Name, items and labels of every control, n of each."""
    for info in CONTROLS.values():
        yield info.name, *info.make(material, n)


def _copycat(material: Material, n: int) -> tuple[Tensor, Tensor | None]:
    return material.rows(torch.arange(len(material.train)), n, 0)


def _noisy_copies(material: Material, n: int) -> tuple[Tensor, Tensor | None]:
    """Copies moved by a fraction of the distance at which real items have neighbours."""
    raw, labels = material.rows(torch.arange(len(material.train)), n, 1)
    some = material.train.pixels[:1000]
    typical = float(nearest(some, some, own=True).distance.sqrt().median())
    generator = torch.Generator().manual_seed(20_240_604)
    noise = torch.randn(raw.shape, generator=generator, dtype=torch.float64)
    step = COPY_NOISE * typical / raw[0].numel() ** 0.5
    if material.dataset.spec.is_image:
        return (raw.double() + step * noise).round().clamp(0, 255).byte(), labels
    scale = torch.tensor(material.dataset.spec.scale, dtype=torch.float64)
    return (raw.double() + step * noise * scale).float(), labels


def _one_dropped(material: Material, n: int) -> tuple[Tensor, Tensor | None]:
    return material.rows((material.modes != 0).nonzero().squeeze(1), n, 2)


def _one_only(material: Material, n: int) -> tuple[Tensor, Tensor | None]:
    return material.rows((material.modes == 0).nonzero().squeeze(1), n, 3)


def _fitted(name: str) -> Callable[[Material, int], tuple[Tensor, Tensor | None]]:
    def make(material: Material, n: int) -> tuple[Tensor, Tensor | None]:
        """A control model of the registry, fitted to the training data in one pass."""
        spec, split = material.dataset.spec, material.dataset.train
        labels = split.labels if spec.num_classes else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(name, spec)
            known = {} if labels is None else {"label": labels}
            generator = torch.Generator().manual_seed(0)
            model.on_fit_start(Batch(to_model(split.data, spec), known), generator)
            drawn = None if labels is None else material.rows(torch.arange(len(labels)), n, 4)[1]
            cond = None if drawn is None else {"label": drawn}
            raw = model.sample(n, cond=cond, seed=0)
        return (to_display(raw, spec) if spec.is_image else raw), drawn

    return make


_ALL = (
    ControlInfo("copycat", "copies of training items", _copycat),
    ControlInfo("noisy-copies", "copies of training items with a little noise", _noisy_copies),
    ControlInfo("one-dropped", "training items without one class or mode", _one_dropped),
    ControlInfo("one-only", "training items of one class or mode", _one_only),
    ControlInfo("gaussian", "one Gaussian (per class)", _fitted("gaussian")),
    ControlInfo("gmm", "a mixture of Gaussians", _fitted("gmm")),
    ControlInfo("noise", "uniform noise", _fitted("noise")),
)
CONTROLS: Mapping[str, ControlInfo] = {info.name: info for info in _ALL}
