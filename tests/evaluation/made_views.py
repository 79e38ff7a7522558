"""Views of made-up items for tests of single metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genzoo.data.dataset import Dataset, Split, fingerprint
from genzoo.data.ranges import to_display
from genzoo.evaluation.features import Features
from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.view import Items, View
from genzoo.types import DataSpec


class AsTheyAre:
    """Spaces in which items are compared as they are."""

    def features(self, items: Tensor) -> Features:
        return Features(items.flatten(1).double())

    def pixels(self, items: Tensor) -> Tensor:
        return items.flatten(1).double()


class Stacked(AsTheyAre):
    """The first three numbers of an item also name its parts."""

    def features(self, items: Tensor) -> Features:
        flat = items.flatten(1)
        return Features(flat.double(), None, flat[:, :3].long())


def uint8(data: Dataset, split: str = "test") -> Tensor:
    """All images of a split, (N, C, H, W) of 0 to 255."""
    return to_display(getattr(data, split).data, data.spec)


def made_view(
    samples: Tensor,
    real: Tensor,
    /,
    train: Tensor | None = None,
    labels: Tensor | None = None,
    **more: Any,
) -> View:
    """Samples and real items, (N, d) each, that are their own features and pixels.

    Args:
        samples: the pool; the first ``len(real)`` of them are compared.
        real: held-out items.
        train: training items; none where absent.
        labels: of the samples.
        more: fields of the view.
    """
    spaces = AsTheyAre()
    known = torch.empty(0, real.shape[1], dtype=real.dtype) if train is None else train
    d = real.shape[1]
    spec = DataSpec((d,), None, location=(0.0,) * d, scale=(1.0,) * d)
    splits = (Split(known.float()), Split(real.float()))
    dataset = Dataset("made", spec, *splits, None, (), fingerprint(spec, *splits))
    pool = Items(samples, labels, spaces)
    view = View(
        samples=pool.first(min(len(samples), len(real))),
        real=Items(real, None, spaces).first(min(len(samples), len(real))),
        pool=pool,
        train=Items(known, None, spaces),
        test=Items(real, None, spaces),
        dataset=dataset,
    )
    return View(**{**view.__dict__, **more})


def data_view(data: Dataset, samples: Tensor, **more: object) -> View:
    """Samples, all of them compared, against a dataset's own splits."""
    spaces = Stacked()
    train, test = (Items(split.data, split.labels, spaces) for split in (data.train, data.test))
    pool = Items(samples, None, spaces)
    return View(pool, test.first(len(pool)), pool, train, test, data, **more)  # type: ignore[arg-type]


def number(scores: dict[str, Measured | Refused], name: str) -> Measured:
    """A metric's score, which is not a refusal."""
    found = scores[name]
    assert isinstance(found, Measured)
    return found
