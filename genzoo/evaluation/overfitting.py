"""Do samples serve training data better than held-out data?"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from genzoo.evaluation.authenticity import closest
from genzoo.evaluation.measured import Measured, NotApplicable, Refused
from genzoo.evaluation.neighbours import squared_distances
from genzoo.evaluation.statistics import around
from genzoo.evaluation.view import Items, View

# A cell enters C_T with at least so many samples and held-out items.
CELL_ITEMS = 20
ITEMS_PER_CELL = 100
MAX_CELLS = 10
FIT_ITEMS = 4000
# Below this share of the null variance the spread between cells, which is not seen, prevails.
SATURATED = 0.1

FLD_ITEMS = 1000
FLD_ITERATIONS = 15
FLD_BLOCKS = 20
# Squared bandwidths are at least this part of the median squared distance of real neighbours.
NARROWEST = 0.25
LOW_DIMENSION = 8


class Cells(NamedTuple):
    """Where items fall, and how far from the training data they are.

    Attributes:
        cell: (N,) int64.
        distance: (N,) to the nearest training item, squared.
    """

    cell: Tensor
    distance: Tensor


class CopyingTest(NamedTuple):
    """C_T, and the share of held-out items in the cells that entered it."""

    measured: Measured
    used: float
    cells: int


def copying_test(samples: Cells, held_out: Cells, cells: int) -> CopyingTest:
    """C_T (Meehan et al. 2020, eq. 3): mean of the cells' Mann-Whitney z-scores.

    In each cell, U counts the pairs whose sample lies farther from the training data; its
    z-score is (U - mn/2) / √(mn(m+n+1)/12). The mean is weighted by held-out items. Ties
    count one half.

    Args:
        samples: of the samples.
        held_out: of held-out items.
        cells: how many cells there are.

    Raises:
        Refused: no cell holds `CELL_ITEMS` of both.
    """
    total = value = used = null = ours = theirs = 0.0
    entered = 0
    for cell in range(cells):
        a = samples.distance[samples.cell == cell]
        b = held_out.distance[held_out.cell == cell]
        if min(len(a), len(b)) < CELL_ITEMS:
            continue
        farther, of_samples, of_held_out = _mann_whitney(a, b)
        n, m = len(a), len(b)
        slope = math.sqrt(12 * m * n / (m + n + 1))
        value += m * slope * (farther - 0.5)
        ours, theirs = ours + (m * slope) ** 2 * of_samples, theirs + (m * slope) ** 2 * of_held_out
        null, used, entered = null + m**2, used + m, entered + 1
    total = max(1.0, used)
    if not entered:
        raise Refused(f"no region holds {CELL_ITEMS} samples and {CELL_ITEMS} held-out items")
    ours, theirs, null, value = ours / total**2, theirs / total**2, null / total**2, value / total
    if ours + theirs < SATURATED * null:
        ours = theirs = null / 2
    measured = Measured(
        value,
        around(value, math.sqrt(ours + theirs), math.inf),
        math.sqrt(ours),
        math.sqrt(theirs),
        len(samples.cell),
    )
    return CopyingTest(measured, used / len(held_out.cell), entered)


def c_t(view: View) -> dict[str, Measured]:
    """C_T of equally many samples and held-out items, in pixels or coordinates."""
    view.need_train()
    for items, words in (
        (view.samples, "samples"),
        (view.train, "training items"),
        (view.real, "held-out items"),
    ):
        _need(items.pixels, 2, words)
    count = max(1, min(MAX_CELLS, view.n // ITEMS_PER_CELL, len(view.train) // ITEMS_PER_CELL))
    centres: Tensor = view.once(f"{count} cells", lambda train, _: find_cells(train, count))

    def place(items: Items) -> Cells:
        x = items.pixels
        cell = closest(x, centres.to(x), 1).row[:, 0]
        return Cells(cell, closest(x, view.train.pixels, 1).distance[:, 0])

    found = copying_test(place(view.samples), place(view.real), count)
    measured = found.measured
    caution = None
    if found.used < 0.5:
        caution = (
            f"only {100 * found.used:.0f} % of held-out items are in regions that hold "
            f"{CELL_ITEMS} of both"
        )
    text = (
        f"{view.space}; {found.cells} of {count} k-means cells of the training data, those with "
        f"{CELL_ITEMS} of both sides, weighted by held-out items; grows with √N; a mixture of "
        "copies and poor samples can score 0; 95 % interval over samples and held-out items: "
        "DeLong"
    )
    return {
        "c_t": measured._replace(
            interval=measured.interval if view.intervals else None,
            convention=text,
            floor=0.0,
            caution=caution,
        )
    }


def find_cells(train: Items, count: int) -> Tensor:
    """Centres of at most `count` k-means cells, (K, D) float64, of a choice of training items."""
    from sklearn.cluster import KMeans

    rows = np.random.default_rng(0).permutation(len(train))[:FIT_ITEMS]
    x = train.take(torch.from_numpy(rows)).pixels.double().cpu().numpy()
    count = min(count, len(np.unique(x, axis=0)))
    return torch.from_numpy(KMeans(count, n_init=1, random_state=0).fit(x).cluster_centers_)


def _mann_whitney(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """P(a > b) + P(a = b)/2, and its variances over a and over b (DeLong et al. 1988)."""
    x, y = a.double().cpu().numpy(), b.double().cpu().numpy()
    n, m = len(x), len(y)
    # Midranks among all, less those among one's own, count the other side's smaller items.
    rank, own_x, own_y = (stats.rankdata(z) for z in (np.concatenate([x, y]), x, y))
    of_x, of_y = (rank[:n] - own_x) / m, (rank[n:] - own_y) / n
    return float(of_x.mean()), float(of_x.var(ddof=1)) / n, float(of_y.var(ddof=1)) / m


# -- likelihood -----------------------------------------------------------------------------


class Gap(NamedTuple):
    """Mean log-likelihood of training less that of held-out items, and its variances.

    Attributes:
        value: in nats.
        sampling: variance over the centres.
        reference: variance over the training and held-out items.
    """

    value: float
    sampling: float
    reference: float


def likelihood_gap(centres: Tensor, train: Tensor, test: Tensor, floor: float) -> Gap:
    """How much better a mixture of Gaussians around samples explains training items.

    As in Jiralerspong et al. 2023 (arXiv:2302.04440) a bandwidth for every centre makes the
    likelihood of training items greatest, and so favours them even if the samples do not.
    Here a second set of bandwidths does the same for as many held-out items, and the gaps
    under both are averaged: for samples that know neither side, training and held-out items
    may be exchanged, and the expectation is 0.

    Args:
        centres: (N, d), features of samples.
        train: (M, d).
        test: (M, d).
        floor: smallest variance of a Gaussian.
    """
    d = centres.shape[1]
    to_train, to_test = squared_distances(train, centres), squared_distances(test, centres)
    variances = [fit_variances(x, d, floor) for x in (to_train, to_test)]
    sides = []
    for distance in (to_train, to_test):
        logs = [_block_log_densities(distance, variance, d) for variance in variances]
        sides.append((logs[0] + logs[1]) / 2)
    (gain, without), (loss, without_loss) = ((x[:, 0], x[:, 1:] - x[:, :1]) for x in sides)
    items = float(gain.var()) / len(gain) + float(loss.var()) / len(loss)
    change = without.mean(0) - without_loss.mean(0)
    k = len(change)
    sampling = float((change - change.mean()).square().sum()) * (k - 1) / k
    # What depends on centres and items at once is in both variances: it is counted once.
    noise = without.var(0) / len(gain) + without_loss.var(0) / len(loss)
    shared = float(noise.sum()) * (k - 1) / k
    return Gap(float(gain.mean() - loss.mean()), sampling, max(0.0, items - shared))


def fit_variances(distance: Tensor, d: int, floor: float) -> Tensor:
    """One variance per centre that makes the items likely, by expectation maximization.

    Args:
        distance: squared, of items and centres (M, N).
        d: dimension.
        floor: smallest variance.

    Returns:
        (N,)
    """
    start = max(floor, float(distance.min(1).values.mean()) / d)
    variance = torch.full_like(distance[0], start)
    for _ in range(FLD_ITERATIONS):
        part = torch.softmax(distance / (-2 * variance) - d / 2 * variance.log(), 1)
        mass = part.sum(0)
        fitted = (part * distance).sum(0) / (d * mass.clamp(min=1e-12))
        variance = torch.where(mass > 1e-9, fitted, variance).clamp(min=floor)
    return variance


def _block_log_densities(distance: Tensor, variance: Tensor, d: int) -> Tensor:
    """Log p of items by all centres, then without each of some disjoint blocks, (M, 1 + blocks)."""
    log = distance / (-2 * variance) - d / 2 * (2 * math.pi * variance).log()
    n = log.shape[1]
    blocks = torch.arange(n, device=log.device) % min(FLD_BLOCKS, n)
    # Densities relative to the greatest: what a block leaves of it may be tiny, but not 0.
    parts = torch.stack([log[:, blocks == b].logsumexp(1) for b in range(min(FLD_BLOCKS, n))], 1)
    columns = [parts.logsumexp(1) - math.log(n)]
    for b in range(parts.shape[1]):
        left = torch.cat([parts[:, :b], parts[:, b + 1 :]], 1)
        columns.append(left.logsumexp(1) - math.log(n - int((blocks == b).sum())))
    return torch.stack(columns, 1)


def fld_gap(view: View) -> dict[str, Measured]:
    """The likelihood gap per dimension in hundredths of a nat, in feature space."""
    d = view.samples.features.shape[1]
    if d < LOW_DIMENSION:
        raise NotApplicable("in so few dimensions bandwidths tell hardly anything about copies")
    view.need_train()
    count = min(view.n, len(view.train), len(view.real), FLD_ITEMS)
    if count < CELL_ITEMS:
        raise Refused(f"only {count} items on the smallest side; {CELL_ITEMS} are needed")
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(view.train))[:count])
    train, test = view.train.take(rows).features, view.real.first(count).features
    centres = view.samples.first(FLD_ITEMS).features
    for x, words in ((centres, "samples"), (train, "training items"), (test, "held-out items")):
        _need(x, CELL_ITEMS, words)
    gap = likelihood_gap(centres, train, test, NARROWEST * typical_distance(train, test) / d)
    unit = 100 / d
    sampling, reference = unit * math.sqrt(gap.sampling), unit * math.sqrt(gap.reference)
    value = unit * gap.value
    text = (
        f"Gaussians around {len(centres)} samples, bandwidths fitted to {count} training and to "
        f"{count} held-out items in turn, so that 0 is neutral; 95 % interval over samples and "
        f"real items: items' variance and jackknife over blocks of samples"
    )
    interval = around(value, math.hypot(sampling, reference), FLD_BLOCKS - 1)
    return {
        "fld_gap": Measured(
            value,
            interval if view.intervals else None,
            sampling,
            reference,
            len(centres),
            text,
            0.0,
        )
    }


def typical_distance(train: Tensor, test: Tensor) -> float:
    """Median squared distance between real items and their nearest others, duplicates aside.

    Raises:
        Refused: all real items are alike.
    """
    both = torch.cat([train, test])
    own = torch.arange(len(both), device=both.device)
    distance = closest(both, both, 1, own=own).distance[:, 0]
    if not bool((distance > 0).any()):
        raise Refused("all real items have the same features")
    return float(distance[distance > 0].median())


def _need(x: Tensor, least: int, words: str) -> None:
    if len(x) < least:
        raise Refused(f"only {len(x)} {words}; at least {least} are needed")
