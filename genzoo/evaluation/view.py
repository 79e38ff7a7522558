"""What a metric sees: samples on one side, real items on the other.

Every metric is a function of a `View`. What real data score (the floor), what the controls
score and what a model scores are the same function of different views, so a number and its
yardstick cannot be measured differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.evaluation.features import Features
from genzoo.evaluation.measured import Refused
from genzoo.progress import Progress, Silent

if TYPE_CHECKING:
    from genzoo.evaluation.moments import Moments
    from genzoo.evaluation.shards import Gathered

T = TypeVar("T")
SEARCHED = 10_000


class Spaces(Protocol):
    """Where items are compared."""

    def features(self, items: Tensor) -> Features:
        """Items (N, …) in feature space, float64."""

    def pixels(self, items: Tensor) -> Tensor:
        """Items (N, …) as pixels or standardized coordinates, (N, D)."""


class Items:
    """One side of a comparison, and what is derived from it, each at most once.

    Attributes:
        raw: images uint8 0 … 255 (N, C, H, W), or points (N, D) in data units.
        labels: (N,) int64, or ``None``.
    """

    def __init__(self, raw: Tensor, labels: Tensor | None, spaces: Spaces) -> None:
        """Nothing is derived yet."""
        self.raw, self.labels, self._spaces = raw, labels, spaces
        self._parent: tuple[Items, Tensor] | None = None

    def __len__(self) -> int:
        """Number of items."""
        return len(self.raw)

    @cached_property
    def found(self) -> Features:
        """Features, class scores and parts."""
        if self._parent is not None and "found" in self._parent[0].__dict__:
            return self._parent[0].found.take(self._parent[1])
        return self._spaces.features(self.raw)

    @property
    def features(self) -> Tensor:
        """(N, d) float64; `Refused` where some are not finite: comparisons would hide it."""
        if not self._finite_features:
            raise Refused("some features are not finite")
        return self.found.features

    @property
    def pixels(self) -> Tensor:
        """Pixels 0 … 255 less 128, or standardized coordinates, (N, D); `Refused` likewise."""
        if not self._finite_pixels:
            raise Refused("some items are not finite")
        return self._pixels

    @cached_property
    def _pixels(self) -> Tensor:
        if self._parent is not None and "_pixels" in self._parent[0].__dict__:
            return self._parent[0]._pixels[self._parent[1].to(self._parent[0]._pixels.device)]
        return self._spaces.pixels(self.raw)

    @cached_property
    def _finite_features(self) -> bool:
        return bool(self.found.features.sum().isfinite())

    @cached_property
    def _finite_pixels(self) -> bool:
        return bool(self._pixels.sum().isfinite())

    def take(self, rows: Tensor) -> Items:
        """Some of the items, in the order of `rows`; what is derived already comes along."""
        labels = None if self.labels is None else self.labels[rows]
        part = Items(self.raw[rows], labels, self._spaces)
        part._parent = (self, rows)
        return part

    def first(self, n: int) -> Items:
        """The first n items."""
        return self.take(torch.arange(min(n, len(self))))

    def known(self) -> Items:
        """These items with features and pixels derived, so that parts share them."""
        _ = self.found, self._pixels
        return self


@dataclass(frozen=True)
class View:
    """Samples beside real data.

    Attributes:
        samples: n of them, in random order.
        real: n held-out items, in random order.
        pool: more of the samples, where one-sided metrics profit; `samples` are its first n.
        train: training items; empty where only a reference is known.
        test: all held-out items.
        dataset: where the real items come from.
        seed: of what a metric draws.
        intervals: whether intervals are wanted; they cost time that floors need not spend.
        progress: told of long work.
        calibrated: what `once` remembers, shared by all views of a reference.
        reference: all training and held-out items, from which calibrations are made.
        gathered: sums over samples of which `pool` holds but a part.
        moments: makes those of all held-out items, where `test` holds but some of them.
    """

    samples: Items
    real: Items
    pool: Items
    train: Items
    test: Items
    dataset: Dataset
    seed: int = 0
    intervals: bool = True
    progress: Progress = field(default_factory=Silent)
    calibrated: dict[str, Any] = field(default_factory=dict)
    reference: tuple[Items, Items] | None = None
    gathered: Gathered | None = None
    moments: Callable[[], Moments] | None = None

    @cached_property
    def some(self) -> Items:
        """The pool as far as a search for neighbours among all real items can afford."""
        return self.pool.first(SEARCHED)

    @property
    def n(self) -> int:
        """Items on either side."""
        return len(self.samples)

    @property
    def is_image(self) -> bool:
        """Images rather than points."""
        return self.dataset.spec.is_image

    @property
    def space(self) -> str:
        """Name of the space of `Items.pixels`."""
        return "pixels 0 … 255" if self.is_image else "standardized coordinates"

    def once(self, name: str, make: Callable[[Items, Items], T]) -> T:
        """A calibration from *all* training and held-out items, made by the first who asks."""
        if name not in self.calibrated:
            train, test = self.reference or (self.train, self.test)
            self.calibrated[name] = make(train, test)
        value: T = self.calibrated[name]
        return value

    def need_train(self) -> None:
        """For metrics that ask about memory.

        Raises:
            Refused: no training items are known.
        """
        if not len(self.train):
            raise Refused("the training data are not known; give them as train")

    def without_intervals(self) -> View:
        """The same for floors and controls."""
        return replace(self, intervals=False)
