"""The processes that carry out one training together, a device each; usually there is one.

What follows is the one-process case, which costs nothing; `genzoo.training.distributed` has the
other and is imported only where more than one device is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from torch import nn

from genzoo.model import GenerativeModel

T = TypeVar("T")


class Wishes(NamedTuple):
    """What a process would have done after a step; of several, one that wishes is enough.

    Attributes:
        stop: the training was asked to end here and be resumable.
        save: a checkpoint is due.
        show: a sign of life is due.
    """

    stop: bool = False
    save: bool = False
    show: bool = False


class Ranks:
    """This process among those of its training. Every method but the properties is a meeting.

    All ranks must come to the same meetings in the same order, or they wait for each other.

    Attributes:
        rank: number of this process; 0 alone decides, writes and talks.
        count: of processes.
        local: number of this process on its machine.
    """

    rank = 0
    count = 1
    local = 0

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that decides, writes and talks."""
        return self.rank == 0

    def entry(self, model: GenerativeModel, whole_draws: bool) -> nn.Module:
        """What to call in the place of `model`, so that gradients become means over the ranks.

        Args:
            model: of which the parameters of one group alone require gradients; those are averaged.
            whole_draws: see `genzoo.training.draws`.
        """
        return model

    @contextmanager
    def adding(self, entry: nn.Module, last: bool) -> Iterator[None]:
        """Only add up gradients inside, and average them with the `last` part of a minibatch."""
        yield

    def agree(self, seconds: float, wishes: Wishes) -> tuple[float, Wishes]:
        """The first rank's `seconds`, and what any rank wishes."""
        return seconds, wishes

    def from_first(self, value: T) -> T:
        """The first rank's `value`, on every rank."""
        return value

    def gathered(self, value: T) -> list[T]:
        """The values of all ranks in order, on every rank."""
        return [value]

    def to_first(self, value: T) -> list[T]:
        """The values of all ranks in order on the first rank, and nothing on the others."""
        return [value]

    def align(self, model: nn.Module) -> None:
        """Give every rank the first rank's parameters and buffers."""

    def share(self, size: int) -> slice:
        """The rows of a minibatch of `size` that are this rank's."""
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)


ALONE = Ranks()


class Imagined(Ranks):
    """The first of several processes of which there are no others: what its share costs."""

    def __init__(self, count: int) -> None:
        """`count` processes."""
        self.count = count


def mean_sums(all_sums: list[dict[str, tuple[float, int]]]) -> dict[str, tuple[float, int]]:
    """Sums and counts by name of one tally that stands for those of all ranks."""
    first = all_sums[0]
    if len(all_sums) == 1:
        return first
    return {
        name: (sum(sums[name][0] for sums in all_sums) / len(all_sums), count)
        for name, (_, count) in first.items()
    }


def shared_cost(readings: list[dict[str, Any]]) -> dict[str, Any]:
    """Costs of several processes: the most memory of one, the energies of all together.

    A counter of a whole machine is read by the first process of each machine alone; the others
    give ``None`` with the source ``shared``.
    """
    if len(readings) == 1:
        return readings[0]
    memory = {
        name: max((r[name] for r in readings if r[name] is not None), default=None)
        for name in ("peak_memory_bytes", "device_memory_bytes")
    }
    counted = [r for r in readings if r["energy_source"] != SHARED]
    energies = [r["energy_joules"] for r in counted]
    known = None not in energies
    return {
        **memory,
        "energy_joules": sum(energies) if known else None,
        "energy_source": counted[0]["energy_source"] if known else None,
    }


SHARED = "shared"
