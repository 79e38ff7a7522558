"""Anyone's real data as a dataset: an array, a tensor or an ``.npz`` of images or points."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset, Split, fingerprint, label_frequencies
from genzoo.errors import InputError
from genzoo.samples import SampleSet
from genzoo.types import DataSpec


def from_arrays(
    reference: SampleSet,
    train: SampleSet | None = None,
    *,
    name: str = "reference",
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """Real data that are held against samples.

    Args:
        reference: held-out items: all of them are compared with samples.
        train: what the generator learned from, for questions about memory; none where absent.
        name: what the data are called.
        class_names: one a label; the labels' numbers where absent.

    Raises:
        InputError: training items and reference are of different kind, size or channels.
    """
    test = _split(reference)
    known = Split(test.data[:0], None if test.labels is None else test.labels[:0])
    if train is not None:
        known = _split(train)
        if known.data.shape[1:] != test.data.shape[1:] or known.data.dtype != test.data.dtype:
            raise InputError(
                f"{name}: training items are {tuple(known.data.shape[1:])}, but the reference's "
                f"{tuple(test.data.shape[1:])}; give the same kind and size"
            )
        if (known.labels is None) != (test.labels is None):
            known, test = Split(known.data), Split(test.data)
    spec = _spec(test if train is None else known, test, len(class_names))
    names = class_names or tuple(str(k) for k in range(spec.num_classes))
    mark = fingerprint(spec, known, test, None)
    return Dataset(name, spec, known, test, None, names, mark)


def _split(given: SampleSet) -> Split:
    labels = None if given.labels is None else torch.from_numpy(given.labels)
    if given.images is not None:
        data = torch.from_numpy(np.ascontiguousarray(given.images.transpose(0, 3, 1, 2)))
        return Split(data, labels)
    assert given.points is not None
    return Split(torch.from_numpy(given.points), labels)


def _spec(fitted: Split, test: Split, classes: int) -> DataSpec:
    """What a model would need to know; location and scale are those of the fitted items."""
    shape = tuple(test.data.shape[1:])
    cond: dict[str, int] = {}
    frequencies: tuple[float, ...] = ()
    if fitted.labels is not None and test.labels is not None:
        most = int(torch.cat([fitted.labels, test.labels]).max()) + 1
        cond = {"label": max(classes, most)}
        frequencies = label_frequencies(fitted.labels, cond["label"])
    if test.data.dtype == torch.uint8:
        return DataSpec(shape, 256, cond, frequencies)
    points = fitted.data.double()
    return DataSpec(
        shape,
        None,
        cond,
        frequencies,
        location=_rounded(points.mean(0)),
        scale=tuple(v or 1.0 for v in _rounded(points.std(0, correction=0))),
    )


def _rounded(values: Tensor) -> tuple[float, ...]:
    """To nine digits, that machines agree on them."""
    return tuple(float(f"{v:.9g}") for v in values.tolist())
