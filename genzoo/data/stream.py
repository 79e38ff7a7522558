"""Pictures in files that need not fit into memory, read block by block.

A block is a run of neighbouring pictures of one file, so that reading one is reading a piece of
the file from one end to the other. What is read is known from the files' indexes: any block, at
any time, in any process.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genzoo.data.indexing import ShardIndex, Stat
from genzoo.data.pictures import Pixels, decode_plain, is_gray
from genzoo.data.workers import in_workers
from genzoo.errors import GenzooError, InputError, MachineError
from genzoo.machine import available_cores

BLOCK_ITEMS, BLOCK_BYTES = 256, 1 << 20
# Of so few, decoding takes no longer than starting a process.
FEW = 4096
MOST_WORKERS = 8


class Form(NamedTuple):
    """What every picture becomes.

    Attributes:
        side: height and width in pixels.
        resized: whether pictures of other sizes are cut and resized to it, or refused.
        channels: 1 or 3.
    """

    side: int
    resized: bool
    channels: int

    @property
    def item_bytes(self) -> int:
        """Bytes of a decoded picture."""
        return self.channels * self.side**2


class Request(NamedTuple):
    """A block, with all that a process needs to read it."""

    path: Path
    stat: Stat
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    form: Form


class Block(NamedTuple):
    """A run of pictures of one file.

    Attributes:
        shard: number of the file.
        first: of its pictures that belong to the stream.
        last: past the last one.
        some: those of the run that are wanted, ascending from 0; all of them where absent.
    """

    shard: int
    first: int
    last: int
    some: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """Pictures of some files, all of one form.

    Attributes:
        shards: indexes of the files.
        rows: which pictures of each file belong to it, ascending, one array a file.
        labels: of all pictures of each file, (N,) int64, one array a file; ``None`` without.
        form: of the pictures.
    """

    shards: tuple[ShardIndex, ...]
    rows: tuple[NDArray[np.int64], ...]
    labels: tuple[NDArray[np.int64], ...] | None
    form: Form

    def __len__(self) -> int:
        """Number of pictures."""
        return sum(len(rows) for rows in self.rows)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in the order of the files."""
        most = max(1, min(BLOCK_ITEMS, BLOCK_BYTES // self.form.item_bytes))
        found = []
        for shard, (index, rows) in enumerate(zip(self.shards, self.rows, strict=True)):
            if len(index.cuts):
                edges = np.searchsorted(
                    index.starts[rows], [*index.cuts[1:], np.iinfo(np.int64).max]
                )
                edges = np.concatenate([[0], edges])
            else:
                edges = np.append(np.arange(0, len(rows), most), len(rows))
            pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            found += [Block(shard, a, b) for a, b in pairs if a < b]
        return tuple(found)

    def request(self, block: Block) -> Request:
        """What to hand to `read_block`."""
        index, rows = self.shards[block.shard], self._rows(block)
        return Request(index.path, index.stat, index.starts[rows], index.lengths[rows], self.form)

    def labels_of(self, block: Block) -> NDArray[np.int64] | None:
        """Labels of a block, (n,)."""
        return None if self.labels is None else self.labels[block.shard][self._rows(block)]

    def all_labels(self) -> NDArray[np.int64] | None:
        """Labels of all pictures, in the order of the files."""
        if self.labels is None:
            return None
        parts = [of[rows] for of, rows in zip(self.labels, self.rows, strict=True)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def some(self, n: int, seed: int) -> Stream:
        """At most n of the pictures, drawn by a fixed seed, in the order of the files."""
        total = len(self)
        chosen = np.zeros(total, dtype=bool)
        chosen[np.random.default_rng([20_261_101, seed]).permutation(total)[:n]] = True
        edges = np.cumsum([0, *(len(rows) for rows in self.rows)])
        rows = tuple(
            rows[chosen[a:b]] for rows, a, b in zip(self.rows, edges[:-1], edges[1:], strict=True)
        )
        return replace(self, rows=rows)

    def read(self, blocks: Iterable[Block], spare: int = 0) -> Iterator[Pixels]:
        """The pictures of each block, (n, C, side, side) uint8, in the order of `blocks`.

        Args:
            blocks: which ones; they may go on for ever.
            spare: cores that whoever uses the pictures leaves to those who decode them. Where
                there are none, they take turns, and decoding has all cores.

        Raises:
            InputError: a picture is damaged, or not of the stream's form.
        """
        workers = 0 if len(self) <= FEW else min(MOST_WORKERS, spare or available_cores())
        requests = map(self.request, blocks)
        yield from in_workers(read_block, requests, workers, ahead=spare > 0)

    def whole(self) -> tuple[Pixels, NDArray[np.int64] | None]:
        """All pictures and their labels, where they fit into memory."""
        parts = list(self.read(self.blocks))
        form = self.form
        empty = np.empty((0, form.channels, form.side, form.side), dtype=np.uint8)
        return np.concatenate([empty, *parts]), self.all_labels()

    def _rows(self, block: Block) -> NDArray[np.int64]:
        rows = self.rows[block.shard][block.first : block.last]
        return rows if block.some is None else rows[block.some]


def read_block(request: Request) -> Pixels | GenzooError:
    """The pictures of a block, (n, C, side, side) uint8; an error as a value."""
    try:
        encoded = read_encoded(request)
        form = request.form
        images = np.empty((len(encoded), form.channels, form.side, form.side), dtype=np.uint8)
        for row, content in enumerate(encoded):
            images[row] = _decoded(content, request, row)
        return images
    except GenzooError as error:
        return error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return MachineError(f"{request.path}: cannot be read any more ({reason})")
    except MemoryError:
        return MachineError(f"{request.path}: too little memory to decode its pictures")


def read_encoded(request: Request) -> list[bytes]:
    """The pictures of a block as they lie in the file.

    Raises:
        InputError: the file was changed.
    """
    starts, lengths = request.starts.tolist(), request.lengths.tolist()
    if not starts:
        return []
    if is_parquet(request.path):
        from genzoo.data.parquet import read_parquet

        return read_parquet(request.path, starts, lengths, request.stat)
    from genzoo.data.tars import read_tar

    return read_tar(request.path, starts, lengths, request.stat)


def is_parquet(path: Path) -> bool:
    """Whether a file is parquet rather than a tar, by its name."""
    return path.suffix == ".parquet"


def _decoded(content: bytes, request: Request, row: int) -> Pixels:
    """A picture of the request's form, (C, side, side), or (side, side) where it is gray."""
    side, resized, channels = request.form
    try:
        image = decode_plain(io.BytesIO(content), "", side if resized else None)
    except InputError as error:
        raise InputError(f"{_name(request, row)}{error}") from error
    if image.shape[:2] != (side, side):
        height, width = image.shape[:2]
        raise InputError(
            f"{_name(request, row)}: is {width}x{height}, not {side}x{side} as others are; "
            f"choose a size for all of them, for example --size {side}"
        )
    if image.ndim == 2:
        return image
    if channels == 1 and not is_gray(image):
        raise InputError(
            f"{_name(request, row)}: is in color, but the data are gray, by those that were looked "
            "at first; convert all of them to one kind"
        )
    return image[..., :channels].transpose(2, 0, 1)


def _name(request: Request, row: int) -> str:
    start = int(request.starts[row])
    if is_parquet(request.path):
        return f"row {start} of {request.path}"
    from genzoo.data.tars import name_in_tar

    return name_in_tar(request.path, start)
