"""Nearest neighbours in row blocks, and the metrics that are made of them.

No matrix of all distances is ever held: a block of rows at a time, small enough to stay in
the processor's cache, is enough for every metric here. Of the cross distances one pass gives
precision, recall, density and coverage together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genzoo.evaluation.folds import Terms, fold_errors
from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.statistics import Interval, around, wilson
from genzoo.evaluation.view import View

BLOCK_NUMBERS = 1 << 20
PRECISION_K = 3
DENSITY_K = 5

_FOLDS = "95 % interval over both sides, from disjoint folds"


class Neighbours(NamedTuple):
    """The nearest items of each row.

    Attributes:
        distance: (N,) squared distances.
        row: (N,) rows of the reference.
    """

    distance: Tensor
    row: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, (N, D) and (M, D) -> (N, M); exact for small integers."""
    norms = b.square().sum(1)
    return (a.square().sum(1)[:, None] + norms).addmm_(a, b.T, alpha=-2).clamp_(min=0)


def distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `a` a block at a time, with their squared distances to all of `b`.

    All blocks share one piece of memory: what is to last must be copied before the next one.
    """
    rows = max(1, BLOCK_NUMBERS // max(1, len(b)))
    norms = b.square().sum(1)
    room = torch.empty(min(rows, len(a)), len(b), dtype=a.dtype, device=a.device)
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        d = torch.addmm(norms, part, b.T, alpha=-2, out=room[: len(part)])
        yield slice(start, start + len(part)), d.add_(part.square().sum(1)[:, None]).clamp_(min=0)


def nearest(query: Tensor, reference: Tensor, *, own: bool = False) -> Neighbours:
    """The nearest reference item of each query.

    Args:
        query: (N, D).
        reference: (M, D).
        own: query i *is* reference item i and must not find itself.
    """
    distance = query.new_empty(len(query))
    row = torch.empty(len(query), dtype=torch.int64, device=query.device)
    for block, d in distance_blocks(query, reference):
        if own:
            _mask_self(d, block)
        distance[block], row[block] = d.min(dim=1)
    return Neighbours(distance, row)


def radii(x: Tensor, *ks: int) -> tuple[Tensor, ...]:
    """Squared distances of each item to its k-th nearest other item, (N, D) -> (N,) for each k.

    Where there are fewer others than k, to the farthest one.
    """
    most = min(max(ks), len(x) - 1)
    found = x.new_empty(len(x), most)
    for block, d in distance_blocks(x, x):
        _mask_self(d, block)
        found[block] = d.topk(most, dim=1, largest=False, sorted=True).values
    return tuple(found[:, min(k, most) - 1] for k in ks)


class Manifolds(NamedTuple):
    """Who lies in whose neighbourhood.

    Attributes:
        precise: whether a sample lies in a real item's k = 3 ball (``<=``), (N,) bool.
        recalled: whether a real item lies in a sample's k = 3 ball (``<=``), (M,) bool.
        held: in how many real items' k = 5 balls a sample lies (``<``), (N,).
        hits: how many samples a real item's k = 5 ball holds (``<``), (M,).
    """

    precise: Tensor
    recalled: Tensor
    held: Tensor
    hits: Tensor

    def values(self) -> Tensor:
        """Precision, recall, density and coverage, (4,) float64."""
        parts = (self.precise, self.recalled, self.held, self.hits > 0)
        unit = torch.tensor([1, 1, DENSITY_K, 1], device=self.held.device)
        return torch.stack([part.double().mean() for part in parts]) / unit

    def terms(self) -> Terms:
        """The same, with the variance of one item's contribution."""
        value = self.values()
        variance = value * (1 - value)
        per_hit = len(self.hits) / (DENSITY_K * len(self.held))
        variance[2] = (self.held / DENSITY_K).var() + (self.hits * per_hit).var()
        return Terms(value, variance)


class Side(NamedTuple):
    """Features and the squared radii of their balls.

    Attributes:
        features: (N, d).
        closed: to the third nearest other item, (N,).
        opened: to the fifth, (N,).
    """

    features: Tensor
    closed: Tensor
    opened: Tensor


class ManifoldStatistic:
    """Precision, recall, density and coverage, for `genzoo.evaluation.folds`."""

    def alone(self, items: Tensor) -> Side:
        """Radii among one side's own items."""
        return Side(items, *radii(items, PRECISION_K, DENSITY_K))

    def between(self, samples: Side, real: Side) -> Terms:
        """Who lies in whose balls."""
        return _cross(samples, real).terms()


def find_manifolds(samples: Tensor, real: Tensor) -> Manifolds:
    """Compare two sets of features with each other's neighbourhoods.

    Precision and recall after Kynkäänniemi et al. 2019 (eq. 1, closed balls, k = 3), density and
    coverage after Naeem et al. 2020 (eqs. 4 and 5, open balls as in their code, k = 5).

    Args:
        samples: (N, d), N of 2 or more.
        real: (M, d), M of 2 or more.
    """
    statistic = ManifoldStatistic()
    return _cross(statistic.alone(samples), statistic.alone(real))


def _cross(samples: Side, real: Side) -> Manifolds:
    """The pass over all pairs. Balls hold few items each, so the pairs inside them are listed."""
    n, m, device = len(samples.features), len(real.features), samples.features.device
    precise = torch.zeros(n, dtype=torch.bool, device=device)
    held = torch.zeros(n, dtype=torch.int64, device=device)
    recalled, hits = precise.new_empty(m), held.new_empty(m)
    for block, d in distance_blocks(real.features, samples.features):
        row, column = (d <= real.opened[block, None]).nonzero(as_tuple=True)
        distance = d[row, column]
        precise[column[distance <= real.closed[block][row]]] = True
        inside = distance < real.opened[block][row]
        held += torch.bincount(column[inside], minlength=n)
        hits[block] = torch.bincount(row[inside], minlength=len(d))
        recalled[block] = d.sub_(samples.closed).amin(1) <= 0
    return Manifolds(precise, recalled, held, hits)


def expected_coverage(n_real: int, n_samples: int, k: int = DENSITY_K) -> float:
    """Expected coverage when samples and real items have the same law, whatever it is.

    A real item stays uncovered if its k nearest among all others are all real:
    ∏ (N-i)/(N+M-i), i = 1 … k (Naeem et al. 2020, appendix).
    """
    uncovered = 1.0
    for i in range(1, k + 1):
        uncovered *= max(0, n_real - i) / (n_real + n_samples - i)
    return 1 - uncovered


def manifolds(view: View) -> dict[str, Measured]:
    """Precision, recall, density and coverage."""
    samples, real = view.samples.features, view.real.features
    if min(len(samples), len(real)) <= DENSITY_K:
        raise Refused(f"{len(samples)} samples; more than k = {DENSITY_K} are needed")
    found = find_manifolds(samples, real)
    names = ("precision", "recall", "density", "coverage")
    values = dict(zip(names, found.values().tolist(), strict=True))
    spread = None
    if view.intervals:
        spread = fold_errors(ManifoldStatistic(), samples, real)
    closed, opened = f"k = {PRECISION_K}, distance <= radius", f"k = {DENSITY_K}, distance < radius"
    floors = {"density": 1.0, "coverage": expected_coverage(len(real), len(samples))}
    out = {}
    for i, name in enumerate(names):
        text = closed if name in ("precision", "recall") else opened
        exact = "; floor: exact expectation" if name in floors else ""
        measured = Measured(values[name], floor=floors.get(name))
        if spread is not None:
            low, high = float(spread.sampling[i]), float(spread.reference[i])
            error = math.hypot(low, high)
            measured = measured._replace(
                interval=around(values[name], error, spread.degrees)
                if name == "density"
                else share_interval(values[name], error, spread.degrees, len(samples)),
                sampling_error=low,
                reference_error=high,
            )
        out[name] = measured._replace(convention=f"{text}; {_FOLDS}{exact}")
    return out


def share_interval(share: float, error: float, degrees: float, n: int) -> Interval:
    """Wilson's interval of a share with the standard error `error`; of n trials where that is 0."""
    variance = share * (1 - share)
    if error > 0 and variance > 0:
        return wilson(share, variance / error**2, degrees=degrees)
    return wilson(share, n)


# -- 1-NN two-sample test -------------------------------------------------------------------


ROUNDING = 1e-13
"""Of a squared distance by matrix products, beside the largest squared norm, in float64."""


class NearestStatistic:
    """1-NN two-sample accuracy, for `genzoo.evaluation.folds`."""

    def alone(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Items and the squared distance to the nearest other one."""
        return items, nearest(items, items, own=True).distance

    def between(self, samples: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]) -> Terms:
        """Whose nearest item is of their own side; ties between the sides count one half."""
        to_samples = torch.full_like(real[1], math.inf)
        to_real = []
        for _, d in distance_blocks(samples[0], real[0]):
            to_real.append(d.amin(1))
            to_samples = torch.minimum(to_samples, d.amin(0))
        within = torch.cat([samples[1], real[1]])
        across = torch.cat([*to_real, to_samples])
        # Equal distances come out equal to rounding, which differs between processors.
        rounding = ROUNDING * max(float(x[0].square().sum(1).max()) for x in (samples, real))
        tied = (within - across).abs() <= rounding
        right = torch.where(tied, 0.5, (within < across).double())
        share = right.mean().reshape(1)
        return Terms(share, share * (1 - share))


def nn_accuracy(samples: Tensor, real: Tensor) -> float:
    """Leave-one-out accuracy of telling samples from real items by the nearest neighbour.

    Args:
        samples: (N, D), N of 2 or more.
        real: (N, D), equally many.
    """
    statistic = NearestStatistic()
    return float(statistic.between(statistic.alone(samples), statistic.alone(real)).value)


def two_sample(view: View) -> dict[str, Measured]:
    """1-NN two-sample accuracy in pixels or standardized coordinates."""
    samples, real = view.samples.pixels, view.real.pixels
    if min(len(samples), len(real)) < 2:
        raise Refused("one item has no neighbours; at least 2 samples are needed")
    accuracy = nn_accuracy(samples, real)
    measured = Measured(
        accuracy,
        convention=f"{view.space}, leave-one-out, ties count half; {_FOLDS}",
    )
    if not view.intervals:
        return {"two_sample_1nn": measured}
    spread = fold_errors(NearestStatistic(), samples, real)
    own, other = float(spread.sampling[0]), float(spread.reference[0])
    interval = share_interval(accuracy, math.hypot(own, other), spread.degrees, 2 * len(samples))
    return {
        "two_sample_1nn": measured._replace(
            interval=interval, sampling_error=own, reference_error=other
        )
    }


def _mask_self(d: Tensor, block: slice) -> None:
    d.diagonal(block.start).fill_(math.inf)
