"""Training pictures from files, in an order that is a function of (seed, position) alone.

Each epoch shuffles the blocks of the files, cuts the row of them into windows that fit into
memory, and shuffles each window as a whole. So every picture comes once an epoch, neighbours are
drawn from all over the files, and nothing but the position must be saved: from it follow the
epoch, the window, and the blocks that are in it.

While one window is used up, the next is read at the same pace, by processes of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.data.pictures import Pixels
from genzoo.data.stream import Block, Stream
from genzoo.machine import available_cores
from genzoo.noise import derive_seed, generator

WINDOW_ITEMS, WINDOW_BYTES = 1 << 14, 128 << 20


class Plan(NamedTuple):
    """An epoch.

    Attributes:
        blocks: numbers of the blocks in their order.
        windows: place in `blocks` at which each window begins, and the end.
        starts: position in the epoch at which each window begins, and the end.
    """

    blocks: NDArray[np.int64]
    windows: NDArray[np.int64]
    starts: NDArray[np.int64]


class Window(NamedTuple):
    """Pictures in memory.

    Attributes:
        epoch: to which it belongs.
        number: in the epoch.
        start: its first position in the epoch.
        images: in the order in which they are wanted, (n, C, H, W) uint8.
        labels: of them, (n,) int64, or ``None``.
    """

    epoch: int
    number: int
    start: int
    images: Tensor
    labels: Tensor | None


class Shuffled:
    """Positions of the epochs laid end to end, as pictures."""

    def __init__(self, stream: Stream, seed: int, words: int, window: int | None = None) -> None:
        """Nothing is read yet.

        Args:
            stream: the pictures.
            seed: of the order.
            words: separates uses of one seed.
            window: pictures shuffled as a whole, about; as many as memory allows where absent.
        """
        self._stream, self._seed, self._words = stream, seed, words
        affordable = WINDOW_BYTES // stream.form.item_bytes
        self._window = window or max(1, min(WINDOW_ITEMS, affordable))
        self._sizes = np.array([block.last - block.first for block in stream.blocks])
        self._plans: dict[int, Plan] = {}
        self._now: Window | None = None
        self._source: Iterator[Pixels] | None = None
        self._coming: list[Pixels] = []
        self._next = (0, 0)

    def __len__(self) -> int:
        """Pictures in an epoch."""
        return len(self._stream)

    def take(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """The pictures at positions start … stop-1, (n, C, H, W) uint8, and labels (n,)."""
        images, labels = [], []
        while start < stop:
            epoch, offset = divmod(start, len(self))
            window = self._at(epoch, offset)
            inside = offset - window.start
            some = slice(inside, inside + stop - start)
            images.append(window.images[some])
            if window.labels is not None:
                labels.append(window.labels[some])
            start += len(images[-1])
            self._keep_pace((inside + len(images[-1])) / len(window.images))
        return torch.cat(images), torch.cat(labels) if labels else None

    def close(self) -> None:
        """End the processes that read."""
        self._source = None

    def plan(self, epoch: int) -> Plan:
        """The order of an epoch's blocks."""
        if epoch not in self._plans:
            order = torch.randperm(
                len(self._sizes), generator=generator(self._seed, self._words, epoch)
            ).numpy()
            after = self._sizes[order].cumsum()
            # A window is full with the block that reaches its share.
            share = (after - self._sizes[order]) // self._window
            windows = np.flatnonzero(np.diff(share, prepend=-1))
            starts = (after - self._sizes[order])[windows]
            self._plans = {e: p for e, p in self._plans.items() if e >= epoch - 1}
            self._plans[epoch] = Plan(
                order, np.append(windows, len(order)), np.append(starts, after[-1])
            )
        return self._plans[epoch]

    def _at(self, epoch: int, offset: int) -> Window:
        """The window with a position; reads it where it is not the one at hand."""
        number = int(np.searchsorted(self.plan(epoch).starts, offset, side="right")) - 1
        now = self._now
        if now is None or (now.epoch, now.number) != (epoch, number):
            if self._source is None or self._next != (epoch, number):
                self._begin(epoch, number)
            self._now = None  # so that its memory is free before the next is put together
            self._now = now = self._complete()
        return now

    def _begin(self, epoch: int, number: int) -> None:
        """Have blocks read from this window on."""
        self.close()
        self._next, self._coming = (epoch, number), []
        workers = self._stream.workers(available_cores())
        self._source = self._stream.read(self._blocks_from(epoch, number), workers)

    def _blocks_from(self, epoch: int, number: int) -> Iterator[Block]:
        while True:
            plan = self.plan(epoch)
            for block in plan.blocks[plan.windows[number] :].tolist():
                yield self._stream.blocks[block]
            epoch, number = epoch + 1, 0

    def _keep_pace(self, share: float) -> None:
        """Have as much of the next window as is used of this one."""
        wanted = share * len(self._blocks_of(*self._next))
        while len(self._coming) < int(wanted):
            self._read_one()

    def _read_one(self) -> None:
        assert self._source is not None
        try:
            self._coming.append(next(self._source))
        except BaseException:
            self._source = None  # an iterator that has failed goes no further
            raise

    def _complete(self) -> Window:
        """The next window, shuffled."""
        epoch, number = self._next
        plan, blocks = self.plan(epoch), self._blocks_of(epoch, number)
        while len(self._coming) < len(blocks):
            self._read_one()
        order = np.random.default_rng(
            derive_seed(self._seed, self._words, epoch, number)
        ).permutation(sum(map(len, self._coming)))
        images, self._coming = torch.from_numpy(np.concatenate(self._coming)[order]), []
        labels = [self._stream.labels_of(block) for block in blocks]
        known = [of for of in labels if of is not None]
        last = number + 2 == len(plan.windows)
        self._next = (epoch + 1, 0) if last else (epoch, number + 1)
        return Window(
            epoch,
            number,
            int(plan.starts[number]),
            images,
            torch.from_numpy(np.concatenate(known)[order]) if known else None,
        )

    def _blocks_of(self, epoch: int, number: int) -> list[Block]:
        plan = self.plan(epoch)
        some = plan.blocks[plan.windows[number] : plan.windows[number + 1]]
        return [self._stream.blocks[block] for block in some.tolist()]
