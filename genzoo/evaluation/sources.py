"""What can be evaluated: runs, files, folders, arrays; and whether it fits the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.data import DATASETS, FOLDER, STREAMED, open_dataset
from genzoo.data.dataset import Dataset
from genzoo.data.ranges import to_display
from genzoo.data.stream import Stream
from genzoo.errors import InputError
from genzoo.evaluation.arrays import from_arrays
from genzoo.evaluation.shards import Gathered, read_gathered
from genzoo.runs import Run, is_run, open_run
from genzoo.samples import SampleSet, read_samples
from genzoo.types import DataSpec

Source: TypeAlias = "str | Path | Run | SampleSet | Gathered | Tensor | NDArray[Any]"

GATHERED = ".safetensors"


@dataclass(frozen=True)
class Subject:
    """Samples to be evaluated.

    Attributes:
        name: the model of a run, or the name of a file or folder.
        source: ``run``, ``npz``, ``folder``, ``arrays`` or ``gathered``.
        items: images uint8 0 … 255 (N, C, H, W), or points float32 (N, D).
        labels: (N,) int64, or ``None``.
        run: where they come from a run.
        gathered: where they were gathered part by part, and `items` are those that were kept.
    """

    name: str
    source: str
    items: Tensor
    labels: Tensor | None
    run: Run | None = None
    gathered: Gathered | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.items)


def as_run(source: Source) -> Run | None:
    """The run that a source is or points to; ``None`` for other sources.

    Raises:
        InputError: it is a run folder, but damaged.
    """
    if isinstance(source, Run):
        return source
    if isinstance(source, (str, Path)) and is_run(source):
        return open_run(source)
    return None


def as_stream(source: Source, dataset: Dataset, root: str | Path | None = None) -> Stream | None:
    """The samples that ``shards:PATTERN`` or ``hf:NAME`` stand for; ``None`` for other sources.

    Raises:
        InputError: they cannot be read, or are not of the data's size.
    """
    if not is_streamed(source):
        return None
    from genzoo.data.streamed import open_samples

    return open_samples(str(source), dataset.spec, dataset.class_names, root)


def is_streamed(source: object) -> bool:
    """Whether a source is named by ``shards:`` or ``hf:``."""
    return isinstance(source, (str, Path)) and str(source).startswith(STREAMED)


def open_subject(source: Source, dataset: Dataset) -> Subject:
    """Read samples and check them against the data that they imitate.

    Args:
        source: a run or its folder, an ``.npz`` or ``.npy`` file, a folder of images, a
            ``.safetensors`` file of gathered samples, a `SampleSet`, an array as in an ``.npz``
            (uint8 (N, H, W, C) in 0 … 255, or points), or a tensor as from
            `GenerativeModel.sample` (uint8 levels (N, C, H, W), or points).
        dataset: what the samples imitate.

    Raises:
        InputError: nothing there, unreadable, or not of the data's kind, size or channels.
    """
    run = as_run(source)
    if run is not None:
        samples = run.samples()
        if samples is None:
            raise InputError(
                f"run '{run.path}' has no samples ({run.status['state']}); finish it with --resume"
            )
        return _checked(run.model, "run", samples, dataset.spec, run)
    if isinstance(source, (str, Path)) and Path(source).suffix == GATHERED:
        return from_gathered(Path(source).name, read_gathered(source), dataset.spec)
    if isinstance(source, Gathered):
        return from_gathered("samples", source, dataset.spec)
    if isinstance(source, (str, Path)):
        kind = "folder" if Path(source).is_dir() else "npz"
        samples = read_samples(source, dataset.class_names)
        return _checked(Path(source).name or str(source), kind, samples, dataset.spec)
    return _checked("samples", "arrays", _from_arrays(source, dataset.spec), dataset.spec)


def from_gathered(name: str, seen: Gathered, spec: DataSpec) -> Subject:
    """What was kept of samples that were gathered.

    Raises:
        InputError: they are not of the data's kind.
    """
    labels = seen.labels.numpy() if len(seen.labels) else None
    if seen.items.ndim == 4:
        samples = SampleSet(images=seen.items.movedim(1, -1).numpy(), labels=labels)
    else:
        samples = SampleSet(points=seen.items.numpy(), labels=labels)
    return replace(_checked(name, "gathered", samples, spec), gathered=seen)


def open_data(
    data: Source | Dataset,
    train: Source | None = None,
    root: str | Path | None = None,
    size: int | None = None,
) -> Dataset:
    """What samples are held against.

    Args:
        data: a dataset, a dataset's name (``folder:PATH`` and its kin included), or held-out
            items: an ``.npz`` or ``.npy`` file, a folder of images of one size, a `SampleSet`, an
            array or a tensor.
        train: training items, where `data` are held-out items.
        root: where downloaded data lie.
        size: side in pixels of ``folder:`` data.

    Raises:
        InputError: it cannot be read, or `train` was given beside a dataset, which has its own.
    """
    if isinstance(data, Run):
        raise InputError("a run is no reference; name the data, or give real items")
    if isinstance(data, Dataset) or (isinstance(data, str) and _is_name(data)):
        if train is not None:
            raise InputError("a dataset has its own training items; leave out train")
        return data if isinstance(data, Dataset) else open_dataset(data, root, size=size)
    if size is not None:
        raise InputError(f"--size {size}: only the images of folder:PATH are resized")
    name = Path(data).name if isinstance(data, (str, Path)) else "reference"
    known = None if train is None else _read_items(train)
    return from_arrays(_read_items(data), known, name=name)


def _is_name(data: str) -> bool:
    """Whether a text names a dataset, or nothing at all, rather than a file or folder."""
    named = data.lower() in DATASETS or data.startswith((FOLDER, *STREAMED))
    return named or not Path(data).exists()


def _read_items(source: Source) -> SampleSet:
    """Real items in any form; their labels are numbers."""
    if isinstance(source, (str, Path)):
        return read_samples(source)
    if isinstance(source, Tensor) and source.ndim == 4:
        if source.dtype != torch.uint8:
            raise InputError(f"a tensor of images must be uint8 in 0 … 255, found {source.dtype}")
        return SampleSet(images=source.cpu().movedim(1, -1).numpy())
    return _from_arrays(source, None)


def _from_arrays(source: Any, spec: DataSpec | None) -> SampleSet:
    if isinstance(source, SampleSet):
        return source
    if isinstance(source, np.ndarray):
        return SampleSet(points=source) if source.ndim == 2 else SampleSet(images=source)
    if not isinstance(source, Tensor):
        raise InputError(
            f"cannot evaluate a {type(source).__name__}; give a run, a file, a folder, a "
            "SampleSet, an array or a tensor"
        )
    data = source.detach().cpu()
    if data.ndim == 2 or spec is None or spec.levels is None:
        return SampleSet(points=data.numpy())
    if data.dtype != torch.uint8 or int(data.max()) >= spec.levels:
        raise InputError(
            f"a tensor of images must hold levels 0 … {spec.levels - 1} as uint8, found "
            f"{data.dtype} up to {data.max()}; for images in 0 … 255 give an array (N, H, W, C)"
        )
    return SampleSet(images=to_display(data, spec).movedim(1, -1).numpy())


def _checked(
    name: str, source: str, samples: SampleSet, spec: DataSpec, run: Run | None = None
) -> Subject:
    """The samples as tensors, if they are of the data's kind."""
    if samples.images is not None:
        items = torch.from_numpy(samples.images).movedim(-1, 1)
        # Flattened once: the strides of a single channel would choose other convolutions.
        items = items.flatten().reshape(items.shape)
    else:
        assert samples.points is not None
        items = torch.from_numpy(samples.points)
    if (samples.images is not None) != spec.is_image or tuple(items.shape[1:]) != spec.shape:
        raise InputError(
            f"{name}: the data are {_describe(spec.shape)}, found {_describe(items[0].shape)}"
        )
    labels = None if samples.labels is None else torch.from_numpy(samples.labels)
    if labels is not None and spec.num_classes and int(labels.max()) >= spec.num_classes:
        raise InputError(
            f"{name}: label {int(labels.max())} is not one of the data's "
            f"{spec.num_classes} classes 0 … {spec.num_classes - 1}"
        )
    return Subject(name, source, items, labels, run)


def _describe(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"points of {shape[0]} coordinates"
    channels, height, width = shape
    colour = {1: "gray", 3: "RGB"}.get(channels, f"{channels}-channel")
    return f"{colour} images of {width}x{height} pixels"
