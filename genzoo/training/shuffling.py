"""Training pictures from files, in an order that is a function of (seed, position) alone.

Each epoch shuffles the blocks of the files, cuts the row of them into windows that fit into
memory, and shuffles each window as a whole. So every picture comes once an epoch, neighbours are
drawn from all over the files, and nothing but the position must be saved: from it follow the
epoch, the window, and the blocks that are in it.

While one window is used up, the next is read at the same pace, by processes of its own; see
`genzoo.data.workers` for what they do where the training needs all cores. Where
several processes train together, each reads what its share of the minibatches needs and no more.
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


class Share(NamedTuple):
    """Of each run of `size` positions, those from `first` to `last` - 1: a rank's of a minibatch.

    Attributes:
        size: of a minibatch.
        first: of the rank's rows in it.
        last: past the last one.
    """

    size: int
    first: int
    last: int

    def has(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the positions belong to it."""
        row = positions % self.size
        return (row >= self.first) & (row < self.last)

    def before(self, position: int) -> int:
        """How many smaller positions belong to it."""
        whole, row = divmod(position, self.size)
        width = self.last - self.first
        return whole * width + min(max(row - self.first, 0), width)


ALL = Share(1, 0, 1)


class Window(NamedTuple):
    """Pictures in memory.

    Attributes:
        epoch: to which it belongs.
        number: in the epoch.
        first: its first position, of all epochs.
        last: past its last one.
        images: of the share, in the order in which they are wanted, (n, C, H, W) uint8.
        labels: of them, (n,) int64, or ``None``.
    """

    epoch: int
    number: int
    first: int
    last: int
    images: Tensor
    labels: Tensor | None


class Shuffled:
    """Positions of the epochs laid end to end, as pictures."""

    def __init__(
        self,
        stream: Stream,
        seed: int,
        words: int,
        share: Share = ALL,
        spare: int = 0,
        window: int | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            stream: the pictures.
            seed: of the order.
            words: separates uses of one seed.
            share: of the positions whose pictures are wanted; the order is that of all.
            spare: see `Stream.read`.
            window: pictures shuffled as a whole, about; as many as memory allows where absent.
        """
        self._stream, self._seed, self._words, self._share = stream, seed, words, share
        self._spare = spare
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
        """The share's pictures at positions start … stop-1.

        Returns:
            (n, C, H, W) uint8, and labels (n,); n is ``stop - start`` where the share is all.
        """
        images, labels = [], []
        while start < stop:
            window = self._at(*divmod(start, len(self)))
            end = min(stop, window.last)
            begun = self._share.before(window.first)
            some = slice(self._share.before(start) - begun, self._share.before(end) - begun)
            images.append(window.images[some])
            if window.labels is not None:
                labels.append(window.labels[some])
            self._keep_pace((end - window.first) / (window.last - window.first))
            start = end
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
        """The window with a position of an epoch; reads it where it is not the one at hand."""
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
        self._source = self._stream.read(self._blocks_from(epoch, number), self._spare)

    def _blocks_from(self, epoch: int, number: int) -> Iterator[Block]:
        while True:
            yield from self._wanted(epoch, number)[0]
            last = number + 2 == len(self.plan(epoch).windows)
            epoch, number = (epoch + 1, 0) if last else (epoch, number + 1)

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
        plan, (blocks, order) = self.plan(epoch), self._wanted(epoch, number)
        while len(self._coming) < len(blocks):
            self._read_one()
        images, self._coming = torch.from_numpy(np.concatenate(self._coming)[order]), []
        labels = [self._stream.labels_of(block) for block in blocks]
        known = [of for of in labels if of is not None]
        last = number + 2 == len(plan.windows)
        self._next = (epoch + 1, 0) if last else (epoch, number + 1)
        first, past = (epoch * len(self) + plan.starts[number : number + 2]).tolist()
        return Window(
            epoch,
            number,
            first,
            past,
            images,
            torch.from_numpy(np.concatenate(known)[order]) if known else None,
        )

    def _wanted(self, epoch: int, number: int) -> tuple[list[Block], NDArray[np.int64]]:
        """What to read for a window, and the order in which it is wanted."""
        plan, blocks = self.plan(epoch), self._blocks_of(epoch, number)
        first, past = (epoch * len(self) + plan.starts[number : number + 2]).tolist()
        seed = derive_seed(self._seed, self._words, epoch, number)
        order = np.random.default_rng(seed).permutation(past - first)
        order = order[self._share.has(np.arange(first, past))]
        rows = np.sort(order)
        edges = np.cumsum([0, *(block.last - block.first for block in blocks)])
        cuts = np.searchsorted(rows, edges)
        wanted = [
            block._replace(some=rows[a:b] - edge)
            for block, edge, a, b in zip(blocks, edges, cuts, cuts[1:], strict=False)
        ]
        return wanted, np.searchsorted(rows, order)

    def _blocks_of(self, epoch: int, number: int) -> list[Block]:
        plan = self.plan(epoch)
        some = plan.blocks[plan.windows[number] : plan.windows[number + 1]]
        return [self._stream.blocks[block] for block in some.tolist()]
