"""``shards:PATTERN`` and ``hf:NAME``: data sets that need not fit into memory.

The files are looked through once (`genzoo.data.indexing`). From then on

- training reads them block by block (`genzoo.training.shuffling`);
- evaluation takes what it sums up from all held-out pictures, file by file, and everything
  else from `KEPT` of them and `KEPT` of the training pictures, drawn by a fixed seed. The same
  training pictures are what a model is shown before its first step.

Files whose name or folder says ``test``, else ``val``, ``valid``, ``validation`` or ``dev``, are
held out. Where none does, a fifth of the pictures is: those whose hash begins with the smallest
bits, so that neither names nor files decide, and exact copies lie on one side.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genzoo.data.dataset import Dataset, Split, Streams, label_frequencies
from genzoo.data.finding import by_purpose, find_files
from genzoo.data.folder import MIN_IMAGES, MIN_TEST, TEST_SHARE, check_size
from genzoo.data.images import data_root
from genzoo.data.indexing import ShardIndex, remembered_index
from genzoo.data.pictures import Pixels, decode_image, drop_color
from genzoo.data.stream import Form, Request, Stream, is_parquet, read_encoded
from genzoo.data.workers import in_workers
from genzoo.errors import GenzooError, InputError
from genzoo.files import atomic_path
from genzoo.machine import available_cores
from genzoo.progress import Progress, Silent
from genzoo.types import DataSpec

INDEXES = "indexes"  # a folder beside downloaded data
KEPT, KEPT_BYTES = 10_000, 512 << 20
MAX_CLASSES = 50_000
# Files together smaller than this are looked through sooner than a process starts.
SMALL = 32 << 20


def open_streamed(
    name: str,
    size: int | None = None,
    root: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Open ``shards:PATTERN`` or ``hf:NAME``; see the module for what is held out.

    Args:
        name: with its prefix.
        size: height and width of the pictures, a multiple of 4; where absent their own, which
            must then be one.
        root: where indexes and downloaded files lie, see `genzoo.data.open_dataset`.
        download: whether missing files may be fetched.
        progress: told how many files have been looked through.

    Raises:
        InputError: no files, or files that cannot be used: damaged, of mixed sizes, with labels
            for some pictures only, or too few pictures.
        MachineError: files are missing and cannot be fetched.
    """
    if size is not None:
        check_size(size)
    files = find_files(name, root, download)
    parts = by_purpose(files.paths)
    place = data_root(root)
    index = _indexes(tuple(path for part in parts for path in part), place, progress or Silent())
    train_files, test_files = (tuple(index[path] for path in part) for part in parts)
    side = _side([*train_files, *test_files], size)
    form = Form(side, size is not None, 3)
    classes = _classes(train_files, test_files, files.name)
    if test_files:
        train = Stream(train_files, _all(train_files), _coded(train_files, classes), form)
        test = Stream(test_files, _all(test_files), _coded(test_files, classes), form)
    else:
        held = _held_out(train_files)
        coded = _coded(train_files, classes)
        train, test = (
            Stream(train_files, tuple(np.flatnonzero(of) for of in chosen), coded, form)
            for chosen in ([~of for of in held], held)
        )
    _check_counts(files.name, len(train), len(test))
    return _dataset(files.name, train, test, classes, place)


def open_samples(
    name: str, spec: DataSpec, class_names: Sequence[str], root: str | Path | None = None
) -> Stream:
    """All pictures of ``shards:PATTERN`` or ``hf:NAME``, as samples of data with such a `spec`.

    Raises:
        InputError: as `open_streamed`, or labels that are none of `class_names`.
    """
    if not spec.is_image or spec.shape[1] != spec.shape[2]:
        raise InputError(f"{name}: holds square pictures, which the data are not")
    files = find_files(name, root)
    index = _indexes(files.paths, data_root(root), Silent())
    shards = tuple(index[path] for path in files.paths)
    if not sum(map(len, shards)):
        raise InputError(f"{name}: no pictures in it")
    form = Form(spec.shape[1], False, spec.shape[0])
    classes = tuple(class_names) if all(len(shard.codes) for shard in shards) else ()
    return Stream(shards, _all(shards), _coded(shards, classes), form)


def index_file(path: Path) -> ShardIndex:
    """What a file holds, by the reader of its kind."""
    if is_parquet(path):
        from genzoo.data.parquet import index_parquet

        return index_parquet(path)
    from genzoo.data.tars import index_tar

    return index_tar(path)


def _indexes(paths: Sequence[Path], root: Path, progress: Progress) -> dict[Path, ShardIndex]:
    """The index of each file, made in processes where that takes long."""
    make = functools.partial(remembered_index, folder=root / INDEXES, make=index_file)
    try:
        total = sum(os.path.getsize(path) for path in paths)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read") from error
    workers = 0 if total < SMALL else min(available_cores(), len(paths))
    found: dict[Path, ShardIndex] = {}
    for path, index in zip(paths, in_workers(make, paths, workers), strict=True):
        found[path] = index
        if total >= SMALL:
            progress.update("looking through files", len(found) / len(paths), path.name)
    return found


def _side(shards: Sequence[ShardIndex], size: int | None) -> int:
    """Side of the pictures: as asked for, or their own."""
    filled = [shard for shard in shards if len(shard)]
    if size is not None or not filled:
        return size or 32
    sizes = {found: shard.path for shard in filled for found in shard.sizes}
    if not sizes:  # no PNG among them
        sizes = {_first_size(filled[0]): filled[0].path}
    if len(sizes) > 1:
        (one, _), (other, path) = list(sizes.items())[:2]
        raise InputError(
            f"{path}: pictures of {one[0]}x{one[1]} and {other[0]}x{other[1]}; choose one size "
            "for all, for example --size 32"
        )
    ((width, height),) = sizes
    if width != height or width % 4:
        raise InputError(
            f"{filled[0].path}: pictures of {width}x{height}, but models need squares whose side "
            f"is a multiple of 4; choose --size {max(4, 4 * round(min(width, height) / 4))}"
        )
    return width


def _first_size(shard: ShardIndex) -> tuple[int, int]:
    """Width and height of the first picture of a file."""
    one = slice(0, 1)
    request = Request(
        shard.path, shard.stat, shard.starts[one], shard.lengths[one], Form(4, True, 3)
    )
    height, width, _ = decode_image(io.BytesIO(read_encoded(request)[0]), str(shard.path)).shape
    return width, height


def _classes(train: Sequence[ShardIndex], test: Sequence[ShardIndex], name: str) -> tuple[str, ...]:
    """Names of the classes in their order; none without labels."""
    filled = [shard for shard in (*train, *test) if len(shard)]
    labelled = [shard for shard in filled if len(shard.codes)]
    if not labelled:
        return ()
    if len(labelled) < len(filled):
        bare = next(shard for shard in filled if not len(shard.codes))
        raise InputError(
            f"{bare.path}: its pictures have no labels, but those of {labelled[0].path} have; "
            "give all of them labels, or none"
        )
    names = {text for shard in train for text in shard.names}
    foreign = next((t for s in test for t in s.names if t not in names), None)
    if foreign is not None:
        raise InputError(f"{name}: class '{foreign:.40}' has no training images; add some to it")
    if len(names) > MAX_CLASSES:
        raise InputError(
            f"{name}: {len(names):,} different labels, such as '{next(iter(names)):.40}', are no "
            "classes; leave the labels out"
        )
    declared = {shard.classes for shard in labelled}
    if len(declared) == 1 and (order := next(iter(declared))):
        return tuple(text for text in order if text in names)
    if all(text.isascii() and text.isdigit() for text in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _held_out(shards: Sequence[ShardIndex]) -> list[NDArray[np.bool_]]:
    """Which pictures are held out, one array a file: a fifth with the smallest hashes.

    Copies of the last one taken come along.
    """
    draws = np.concatenate([shard.draws for shard in shards] or [np.empty(0, dtype=np.uint32)])
    if not len(draws):
        return [np.empty(0, dtype=bool) for _ in shards]
    count = math.ceil(TEST_SHARE * len(draws))
    last = np.partition(draws, count - 1)[count - 1]
    return [shard.draws <= last for shard in shards]


def _all(shards: Sequence[ShardIndex]) -> tuple[NDArray[np.int64], ...]:
    return tuple(np.arange(len(shard)) for shard in shards)


def _coded(
    shards: Sequence[ShardIndex], classes: Sequence[str]
) -> tuple[NDArray[np.int64], ...] | None:
    """Labels of all pictures of each file as numbers of `classes`."""
    if not classes:
        return None
    number = {text: k for k, text in enumerate(classes)}
    found = []
    for shard in shards:
        unknown = next((text for text in shard.names if text not in number), None)
        if unknown is not None:
            raise InputError(f"{shard.path}: label '{unknown:.40}' is none of the data's classes")
        table = np.array([number[text] for text in shard.names], dtype=np.int64)
        found.append(table[shard.codes] if len(shard) else np.empty(0, dtype=np.int64))
    return tuple(found)


def _check_counts(name: str, train: int, test: int) -> None:
    if not train + test:
        raise InputError(f"{name}: no pictures in it")
    if train + test < MIN_IMAGES or train < MIN_TEST or test < MIN_TEST:
        raise InputError(
            f"{name}: {train} pictures to learn from and {test} held out, but at least "
            f"{MIN_IMAGES} in all and {MIN_TEST} different ones of each are needed; add some"
        )


def _dataset(
    name: str, train: Stream, test: Stream, classes: tuple[str, ...], root: Path
) -> Dataset:
    """The data set: what is kept of its parts, and the parts themselves."""
    both = [_kept(part, seed, root) for seed, part in enumerate((train, test))]
    colored = any(drop_color(x.transpose(0, 2, 3, 1)).shape[-1] == 3 for x, _ in both)
    form = train.form._replace(channels=3 if colored else 1)
    splits = [
        Split(
            torch.from_numpy(np.ascontiguousarray(x[:, : form.channels])),
            None if y is None else torch.from_numpy(y),
        )
        for x, y in both
    ]
    spec = _spec(name, form, train.all_labels(), classes)
    streams = Streams(replace(train, form=form), replace(test, form=form))
    return Dataset(
        name,
        spec,
        splits[0],
        splits[1],
        None,
        classes,
        _fingerprint(spec, streams),
        streams=streams,
    )


def _kept(part: Stream, seed: int, root: Path) -> tuple[Pixels, NDArray[np.int64] | None]:
    """Some of the pictures in memory, and their labels; decoded once.

    Later they come from a file, which for parquet, where neighbours are read with them, matters.
    """
    some = part.some(max(MIN_TEST, min(KEPT, KEPT_BYTES // part.form.item_bytes)), seed)
    told = [seed, len(part), len(some), *part.form, *(shard.digest for shard in part.shards)]
    place = (
        root / INDEXES / f"kept-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]}.npz"
    )
    side = part.form.side
    try:
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as kept:
            images: Pixels = kept["images"]
        if images.dtype == np.uint8 and images.shape == (len(some), 3, side, side):
            return images, some.all_labels()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    images, labels = some.whole()
    with suppress(GenzooError, OSError), atomic_path(place) as beside:
        np.savez(beside, images=images)
    return images, labels


def _spec(
    name: str, form: Form, labels: NDArray[np.int64] | None, classes: tuple[str, ...]
) -> DataSpec:
    frequencies: tuple[float, ...] = ()
    if labels is not None:
        frequencies = label_frequencies(torch.from_numpy(labels), len(classes))
        if 0 in frequencies:
            empty = classes[frequencies.index(0)]
            raise InputError(f"{name}: class '{empty}' has no training images; add some to it")
    return DataSpec(
        shape=(form.channels, form.side, form.side),
        levels=256,
        cond={"label": len(classes)} if classes else {},
        frequencies=frequencies,
    )


def _fingerprint(spec: DataSpec, streams: Streams) -> str:
    """SHA-256 of the specification and of all pictures and labels, as the files have them."""
    told: dict[str, Any] = {
        "spec": spec.to_dict(),
        "resized": streams.train.form.resized,
        "kept": KEPT,
    }
    for part, stream in zip(("train", "test"), streams, strict=True):
        told[part] = [len(stream), [shard.digest for shard in stream.shards]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
