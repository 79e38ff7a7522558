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
import glob
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from genzoo.data import STREAMED
from genzoo.data.dataset import Dataset, Split, Streams, label_frequencies
from genzoo.data.folder import MIN_IMAGES, MIN_TEST, TEST_SHARE, check_size
from genzoo.data.images import data_root
from genzoo.data.indexing import ShardIndex, remembered_index
from genzoo.data.pictures import decode_image, drop_color
from genzoo.data.stream import Form, Request, Stream, is_parquet, read_encoded
from genzoo.data.workers import available_cores, in_workers
from genzoo.errors import InputError, MachineError
from genzoo.types import DataSpec

SHARDS, HUB = STREAMED
KEPT = 10_000
MAX_CLASSES = 50_000
# Files together smaller than this are looked through sooner than a process starts.
SMALL = 32 << 20
TEST_WORDS = ("test",)
VALIDATION_WORDS = ("val", "valid", "validation", "dev")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+){0,2}")


class Files(NamedTuple):
    """Where pictures are.

    Attributes:
        name: of the data, by which they are opened again.
        paths: of the files, in the order of their names.
    """

    name: str
    paths: tuple[Path, ...]


def open_streamed(
    name: str, size: int | None = None, root: str | Path | None = None, download: bool = True
) -> Dataset:
    """Open ``shards:PATTERN`` or ``hf:NAME``; see the module for what is held out.

    Args:
        name: with its prefix.
        size: height and width of the pictures, a multiple of 4; where absent their own, which
            must then be one.
        root: where indexes and downloaded files lie, see `genzoo.data.open_dataset`.
        download: whether missing files may be fetched.

    Raises:
        InputError: no files, or files that cannot be used: damaged, of mixed sizes, with labels
            for some pictures only, or too few pictures.
        MachineError: files are missing and cannot be fetched.
    """
    if size is not None:
        check_size(size)
    files = find_files(name, root, download)
    parts = _by_purpose(files.paths)
    index = _indexes(tuple(path for part in parts for path in part), data_root(root))
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
    return _dataset(files.name, train, test, classes)


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
    index = _indexes(files.paths, data_root(root))
    shards = tuple(index[path] for path in files.paths)
    if not sum(map(len, shards)):
        raise InputError(f"{name}: no pictures in it")
    form = Form(spec.shape[1], False, spec.shape[0])
    classes = tuple(class_names) if all(len(shard.codes) for shard in shards) else ()
    return Stream(shards, _all(shards), _coded(shards, classes), form)


def find_files(name: str, root: str | Path | None = None, download: bool = True) -> Files:
    """The files that a name stands for.

    Raises:
        InputError: there are none.
        MachineError: they cannot be fetched.
    """
    if name.startswith(SHARDS):
        pattern = name[len(SHARDS) :]
        paths = _matching(pattern, ".tar", "shards")
        return Files(f"{SHARDS}{_absolute(pattern)}", paths)
    pattern = name[len(HUB) :]
    here = Path(pattern).expanduser()
    if here.exists() or glob.has_magic(pattern) or pattern.endswith(".parquet"):
        return Files(f"{HUB}{_absolute(pattern)}", _matching(pattern, ".parquet", "hf"))
    return Files(name, _from_hub(pattern, data_root(root) / "huggingface", download))


def _matching(pattern: str, suffix: str, kind: str) -> tuple[Path, ...]:
    """The files of a folder, of a pattern with ``*``, ``?``, ``[]``, ``{a,b}`` or ``{00..99}``."""
    if not pattern:
        raise InputError(f"{kind}: has no path; write {kind}:PATTERN, for example '*{suffix}'")
    found: set[str] = set()
    for part in _braced(os.path.expanduser(pattern)):
        if os.path.isdir(part):
            part = os.path.join(glob.escape(part), "**", f"*{suffix}")
        matches = glob.glob(part, recursive=True)
        if "{" in pattern and not matches:
            raise InputError(f"{kind}:{pattern}: there is no '{part}'")
        found.update(os.path.abspath(match) for match in matches if os.path.isfile(match))
    if not found:
        raise InputError(
            f"{kind}:{pattern}: no file matches; put the pattern into quotes, and count from "
            f"where you are: {os.getcwd()}"
        )
    return tuple(map(Path, sorted(found)))


def _braced(pattern: str) -> list[str]:
    """Braces written out, as WebDataset does it."""
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise InputError(
            f"{pattern}: braces need a package; pip install 'genzoo[stream]', or write * instead"
        ) from None
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise InputError(f"{pattern}: {error}") from error


def _absolute(pattern: str) -> str:
    return os.path.abspath(os.path.expanduser(pattern))


def _from_hub(name: str, folder: Path, download: bool) -> tuple[Path, ...]:
    """The parquet files of a data set of the Hugging Face Hub, fetched where they are missing."""
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"hf:{name}: neither a path nor a name such as owner/name")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise InputError(
            f"hf:{name}: there is no such file, and fetching data needs packages; "
            "pip install 'genzoo[stream]'"
        ) from None
    owner, config = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    # Where the owner gave no parquet, the Hub makes some in a branch of its own.
    for revision in (None, "refs/convert/parquet"):
        try:
            where = snapshot_download(
                owner,
                repo_type="dataset",
                revision=revision,
                allow_patterns=["*.parquet"],
                cache_dir=folder,
                local_files_only=not download,
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise MachineError(
                f"hf:{name}: cannot be fetched ({reason:.160}); place its parquet files in a "
                "folder and give that: hf:FOLDER"
            ) from error
        found = sorted(Path(where).rglob("*.parquet"))
        if found:
            return _of_config(name, Path(where), found, config)
    raise InputError(f"hf:{name}: has no parquet files")


def _of_config(name: str, where: Path, found: list[Path], config: str) -> tuple[Path, ...]:
    """The files of one configuration: folders that are neither ``data`` nor a split's."""
    configs: dict[str, list[Path]] = {}
    for path in found:
        folders = path.relative_to(where).parts[:-1]
        own = [part for part in folders if part != "data" and not _purpose(part)]
        configs.setdefault("/".join(own), []).append(path)
    if config in configs:
        return tuple(configs[config])
    if not config and len(configs) == 1:
        return tuple(next(iter(configs.values())))
    known = ", ".join(f"hf:{name.rsplit('/', 1)[0] if config else name}/{c}" for c in configs if c)
    raise InputError(f"hf:{name}: write one of its configurations: {known}")


def _by_purpose(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Files to train on, and files that are held out; none of these where no name tells."""
    purposes = [_purpose(path.name) or _purpose(path.parent.name) for path in paths]
    train = tuple(p for p, what in zip(paths, purposes, strict=True) if what in ("", "train"))
    for wanted in ("test", "validation"):
        held = tuple(p for p, what in zip(paths, purposes, strict=True) if what == wanted)
        if held and train:
            return train, held
    return tuple(paths), ()


def _purpose(name: str) -> str:
    """``train``, ``test``, ``validation`` or nothing, by the words in a name."""
    words = re.split(r"[^a-z]+", name.lower())
    known = {
        "train": "train",
        **dict.fromkeys(TEST_WORDS, "test"),
        **dict.fromkeys(VALIDATION_WORDS, "validation"),
    }
    return next((known[word] for word in words if word in known), "")


def index_file(path: Path) -> ShardIndex:
    """What a file holds, by the reader of its kind."""
    if is_parquet(path):
        from genzoo.data.parquet import index_parquet

        return index_parquet(path)
    from genzoo.data.tars import index_tar

    return index_tar(path)


def _indexes(paths: Sequence[Path], root: Path) -> dict[Path, ShardIndex]:
    """The index of each file, made in processes where that takes long."""
    make = functools.partial(remembered_index, folder=root / "indexes", make=index_file)
    try:
        total = sum(os.path.getsize(path) for path in paths)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read") from error
    workers = 0 if total < SMALL else min(available_cores(), len(paths))
    return dict(zip(paths, in_workers(make, paths, workers), strict=True))


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


def _dataset(name: str, train: Stream, test: Stream, classes: tuple[str, ...]) -> Dataset:
    """The data set: what is kept of its parts, and the parts themselves."""
    cores = available_cores()
    kept = [part.some(KEPT, seed) for seed, part in enumerate((train, test))]
    both = [part.whole(part.workers(2 * cores)) for part in kept]
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
    told: dict[str, Any] = {"spec": spec.to_dict(), "resized": streams.train.form.resized}
    for part, stream in zip(("train", "test"), streams, strict=True):
        told[part] = [len(stream), [shard.digest for shard in stream.shards]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
