"""Whether samples lie within the reach of single training items."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.neighbours import Neighbours, distance_blocks
from genzoo.evaluation.statistics import around

_CHUNK = 1024


class Verdicts(NamedTuple):
    """Which samples are authentic, and which would be without the items that decide it.

    Attributes:
        authentic: 1 or 0, (N,) float64.
        item: the nearest training item, (N,).
        without_item: change of the verdict if that item were missing, (N,).
        rival: that item's own nearest neighbour, (N,).
        without_rival: change of the verdict if this one were missing, (N,).
    """

    authentic: Tensor
    item: Tensor
    without_item: Tensor
    rival: Tensor
    without_rival: Tensor


class Authenticity(NamedTuple):
    """The share of authentic samples, of authentic held-out items, and their ratio."""

    measured: Measured
    raw: float
    held_out: float


class Reaches:
    """The two nearest other training items of each, found when they are asked for."""

    def __init__(self, train: Tensor) -> None:
        """Of training items (n, D)."""
        self.train = train
        self._distance = torch.full(
            (len(train), 2), math.inf, dtype=torch.float64, device=train.device
        )
        self._row = torch.zeros((len(train), 2), dtype=torch.int64, device=train.device)
        self._known = torch.zeros(len(train), dtype=torch.bool, device=train.device)

    def of(self, rows: Tensor) -> Neighbours:
        """Squared distances and rows, (N, 2) each."""
        new = rows[~self._known[rows]].unique()
        if len(new):
            found = closest(self.train[new], self.train, 2, own=new)
            self._distance[new], self._row[new] = found.distance, found.row
            self._known[new] = True
        return Neighbours(self._distance[rows], self._row[rows])


def closest(query: Tensor, reference: Tensor, k: int, own: Tensor | None = None) -> Neighbours:
    """The k nearest reference items of each query, their distances in float64 and exact.

    Expanding ‖a - b‖² into three terms leaves a rounding error where b is nearly a: what is
    found is measured again.

    Args:
        query: (N, D).
        reference: (M, D).
        k: how many; where the reference has fewer, row 0 at an infinite distance stands in.
        own: rows of the reference that the queries *are*, which must not find themselves, (N,).

    Returns:
        squared distances (N, k) float64 and rows (N, k), nearest first.
    """
    rows = []
    available = min(k, len(reference) - (own is not None))
    for block, d in distance_blocks(query, reference):
        if own is not None:
            d[torch.arange(len(d), device=d.device), own[block]] = math.inf
        rows.append(d.topk(available, dim=1, largest=False).indices)
    found = remeasure(query, reference, torch.cat(rows))
    if available == k:
        return found
    lacking = (len(query), k - available)
    distance = torch.full(lacking, math.inf, dtype=torch.float64, device=query.device)
    row = torch.zeros(lacking, dtype=torch.int64, device=query.device)
    return Neighbours(torch.cat([found.distance, distance], 1), torch.cat([found.row, row], 1))


def remeasure(query: Tensor, reference: Tensor, rows: Tensor) -> Neighbours:
    """Squared distances to `rows` (N, k) of the reference, term by term, nearest first."""
    parts = []
    for part, near in zip(query.split(_CHUNK), rows.split(_CHUNK), strict=True):
        x = part.double()
        columns = [
            (x - reference[near[:, j]].double()).square().sum(1) for j in range(near.shape[1])
        ]
        parts.append(torch.stack(columns, 1))
    distance, order = torch.cat(parts).sort(dim=1, stable=True)
    return Neighbours(distance, rows.gather(1, order))


def judge(to_train: Neighbours, reaches: Reaches) -> Verdicts:
    """Authentic is what is no nearer to a training item than that item's own nearest other.

    Alaa et al. 2022, eq. 10. An exact copy never is, even of an item that the training data
    hold twice.

    Args:
        to_train: the two nearest training items of each sample, (N, 2).
        reaches: of the training items.
    """

    def verdict(distance: Tensor, reach: Tensor) -> Tensor:
        return ((distance >= reach) & (distance > 0)).double()

    first, second = to_train.row.unbind(1)
    of_first, of_second = reaches.of(first), reaches.of(second)
    authentic = verdict(to_train.distance[:, 0], of_first.distance[:, 0])
    # Without the nearest item the next one judges, whose reach may have ended at the lost one.
    lost = of_second.row[:, 0] == first
    reach = torch.where(lost, of_second.distance[:, 1], of_second.distance[:, 0])
    without_item = verdict(to_train.distance[:, 1], reach) - authentic
    without_rival = verdict(to_train.distance[:, 0], of_first.distance[:, 1]) - authentic
    return Verdicts(authentic, first, without_item, of_first.row[:, 0], without_rival)


def measure_authenticity(
    samples: Neighbours, held_out: Neighbours, reaches: Reaches
) -> Authenticity:
    """Share of authentic samples over the same share of held-out items; 1 is neutral.

    The share itself has no neutral value: perfect generators score from 1/3 on a line to .83
    in 64 dimensions. Given the training items, samples are independent; what other training
    items would change is a jackknife over these, less the noise that the finite samples
    bring into it.

    Args:
        samples: the two nearest training items of each sample, (N, 2).
        held_out: those of each held-out item, (m, 2).
        reaches: of the training items.

    Raises:
        Refused: no held-out item is authentic.
    """
    ours, theirs = judge(samples, reaches), judge(held_out, reaches)
    a, b = float(ours.authentic.mean()), float(theirs.authentic.mean())
    if b == 0:
        raise Refused("no held-out item is authentic: training and held-out data share items")
    ratio, n, m = a / b, len(ours.authentic), len(theirs.authentic)
    sides = ((ours, 1 / (b * n)), (theirs, -ratio / (b * m)))
    train = _train_variance(sides, len(reaches.train))
    sampling, held = _binomial(a, n) / b**2, _binomial(b, m) * (ratio / b) ** 2
    # An unbiased estimate may fall below 0; cut off there it would no longer be unbiased.
    total = max((sampling + held) / 2, sampling + held + train)
    interval = around(ratio, math.sqrt(total), math.inf)
    interval = interval._replace(low=max(0.0, interval.low))
    errors = (math.sqrt(sampling), math.sqrt(max(0.0, total - sampling)))
    return Authenticity(Measured(ratio, interval, *errors, n), a, b)


def _train_variance(sides: tuple[tuple[Verdicts, float], ...], n: int) -> float:
    """Variance of a weighted sum of verdicts over the training items, (Σ over items Δ²) - noise."""
    device = sides[0][0].authentic.device
    change = torch.zeros(n, dtype=torch.float64, device=device)
    noise = 0.0
    for verdicts, weight in sides:
        for item, delta in (
            (verdicts.item, verdicts.without_item),
            (verdicts.rival, verdicts.without_rival),
        ):
            change.index_add_(0, item, delta * weight)
            noise += float(delta.square().sum()) * weight**2
    return float((change - change.mean()).square().sum()) - noise


def _binomial(share: float, n: int) -> float:
    """Variance of a share, which is not 0 where it happens to be 0 or 1 (Agresti and Coull)."""
    share = (share * n + 2) / (n + 4)
    return share * (1 - share) / n
