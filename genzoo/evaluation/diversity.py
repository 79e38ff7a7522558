"""Variety: the Vendi score, and the regions of the data that get too many or too few samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.statistics import Interval, wilson
from genzoo.evaluation.view import Items, View

VENDI_ITEMS = 1000
VENDI_SETS = 4
VENDI_BLOCKS = 10
BANDWIDTH_ITEMS = 1000
MIN_VENDI = 40
CELLS = 100
PER_CELL = 10
MIN_CELLS = 10
FIT_ITEMS = 10_000
COMPONENTS = 64
ALPHA = 0.05
Array = npt.NDArray[np.float64]


def vendi(view: View) -> dict[str, Measured]:
    """Vendi score of sets of at most 1000 samples, averaged over up to 4 disjoint sets."""
    size = min(view.n, VENDI_ITEMS)
    if size < 2:
        raise Refused(f"{size} samples; at least 2 are needed")
    items = view.pool if len(view.pool) >= view.n else view.samples
    items = items.first(size * min(VENDI_SETS, len(items) // size))
    features = items.features
    width = view.once("vendi bandwidth", lambda train, test: bandwidth(_first(test, train)))
    kernels = [similarity(part, width) for part in features.split(size)]
    entropies = [entropy(kernel) for kernel in kernels]
    value = math.exp(float(np.mean(entropies)))
    text = (
        f"exp of the kernel entropy of {size} samples, mean over {len(kernels)} disjoint; "
        "exp(-(distance / median distance of real items)²); grows with their number"
    )
    caution = f"fewer than {MIN_VENDI} samples" if size < MIN_VENDI else None
    if not view.intervals or caution:
        return {"vendi": Measured(value, n=len(features), convention=text, caution=caution)}
    # One set tells the error of all: they have the same law.
    error = jackknife_error(kernels[0]) / math.sqrt(len(kernels))
    half = float(stats.t.ppf(0.975, VENDI_BLOCKS - 1)) * error
    interval = Interval(value * math.exp(-half), value * math.exp(half))
    text += "; 95 % interval: delete-block jackknife of the entropy, over samples only"
    return {"vendi": Measured(value, interval, value * error, 0.0, len(features), text)}


def bandwidth(items: Items) -> float:
    """Median distance between different real items, in feature space."""
    features = items.first(BANDWIDTH_ITEMS).features
    distances = torch.pdist(features)
    distances = distances[distances > 0]
    return float(distances.median()) if len(distances) else 1.0


def similarity(x: Tensor, width: float) -> Tensor:
    """Gaussian kernel exp(-(‖x-y‖ / width)²), (N, d) -> (N, N), 1 on the diagonal."""
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return (distance / width).square().neg().exp()


def entropy(kernel: Tensor) -> float:
    """Entropy in nats of the eigenvalues of K/n (Friedman and Dieng 2023, eq. 3).

    Args:
        kernel: (N, N), 1 on the diagonal; or (d, d), X^T X of unit rows, which has the same
            eigenvalues but for zeros, and trace N.
    """
    trace = float(kernel.diagonal().sum())
    share = torch.linalg.eigvalsh(kernel / trace).clamp(min=0)
    return float(-torch.special.xlogy(share, share).sum())


def vendi_score(kernel: Tensor) -> float:
    """The effective number of different items: exp of the `entropy`."""
    return math.exp(entropy(kernel))


def vendi_linear(x: Tensor) -> float:
    """Vendi score under cosine similarity, of the smaller of X Xᵀ and XᵀX, (N, d)."""
    unit = torch.nn.functional.normalize(x, dim=1)
    return vendi_score(unit.T @ unit if len(x) > x.shape[1] else unit @ unit.T)


def jackknife_error(kernel: Tensor, blocks: int = VENDI_BLOCKS) -> float:
    """Standard error of the entropy, leaving out disjoint blocks.

    The influence function falls short by up to half where many small eigenvalues matter; the
    jackknife holds their curvature, too.
    """
    block = torch.arange(len(kernel), device=kernel.device) % blocks
    left = []
    for i in range(blocks):
        kept = (block != i).nonzero()[:, 0]
        left.append(entropy(kernel[kept][:, kept]))
    return math.sqrt((blocks - 1) * float(np.var(left)))


class Cells(NamedTuple):
    """Regions of the data and how many real items lie in each.

    Attributes:
        mean: (D,), subtracted from pixels.
        axes: (D, p) principal axes, or ``None`` where all coordinates are used.
        centers: (K, p) of the k-means cells.
        counts: (K,) real items, none of which the cells were fitted to.
    """

    mean: Tensor
    axes: Tensor | None
    centers: Tensor
    counts: Array

    def tally(self, pixels: Tensor) -> Array:
        """Items (N, D) in each cell, (K,)."""
        row = torch.cat([self._nearest(part) for part in pixels.split(FIT_ITEMS)])
        return np.bincount(row.cpu().numpy(), minlength=len(self.centers)).astype(np.float64)

    def _nearest(self, pixels: Tensor) -> Tensor:
        x = pixels.to(self.mean) - self.mean
        return torch.cdist(x if self.axes is None else x @ self.axes, self.centers).argmin(1)


def ndb(view: View) -> dict[str, Measured]:
    """Number of statistically different bins over their number K."""
    source = _first(view.train, view.test)
    cells_wanted = min(CELLS, view.n // PER_CELL, len(source) // (2 * PER_CELL))
    if cells_wanted < MIN_CELLS:
        raise Refused(
            f"{view.n} samples and {len(source)} real items; at least {MIN_CELLS * PER_CELL} and "
            f"{2 * MIN_CELLS * PER_CELL} are needed"
        )
    pixels = view.samples.pixels
    cells = view.once(
        f"ndb cells {cells_wanted}",
        lambda train, test: fit_cells(_first(train, test).pixels, cells_wanted),
    )
    counts = cells.tally(pixels)
    z = differences(counts, cells.counts)
    value = float(np.mean(np.abs(z) > critical()))
    text = (
        f"K = {len(z)} k-means cells of {'training' if len(view.train) else 'held-out'} data, "
        f"{int(cells.counts.sum())} other such items counted, two-proportion z-test at {ALPHA}"
    )
    floor = null_share(counts, cells.counts)
    if not view.intervals:
        return {"ndb": Measured(value, convention=text, floor=floor)}
    interval, error = share_interval(z)
    part = cells.counts.sum() / (view.n + cells.counts.sum())
    text += "; floor: summed over both counts; 95 % interval: over both, cells fixed"
    own, other = error * math.sqrt(part), error * math.sqrt(1 - part)
    return {"ndb": Measured(value, interval, own, other, convention=text, floor=floor)}


def fit_cells(pixels: Tensor, k: int, seed: int = 0) -> Cells:
    """Cells by k-means on one half of the items, counts of the other half.

    Items that cells were fitted to lie nearer to their centres than fresh ones, so that their
    counts are not those of their law: of 50 cells in 64 dimensions 17 % would seem different
    for fresh items of the same law.

    Args:
        pixels: (N, D).
        k: cells.
        seed: of the split and of k-means.
    """
    from sklearn.cluster import KMeans

    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(pixels)))
    order = order.to(pixels.device)
    half = min(len(pixels) // 2, FIT_ITEMS)
    fitted = pixels[order[:half]]
    mean = fitted.mean(0)
    axes = _principal_axes(fitted - mean)
    x = fitted - mean if axes is None else (fitted - mean) @ axes
    distinct = len(torch.unique(x, dim=0))
    if distinct < k:
        raise Refused(f"only {distinct} different real items for {k} cells")
    means = KMeans(k, n_init=1, max_iter=30, random_state=seed).fit(x.cpu().numpy())
    cells = Cells(mean, axes, torch.from_numpy(means.cluster_centers_).to(x), np.zeros(k))
    return cells._replace(counts=cells.tally(pixels[order[half:]]))


def critical(alpha: float = ALPHA) -> float:
    """The |z| beyond which a two-sided test rejects."""
    return float(stats.norm.ppf(1 - alpha / 2))


def differences(a: Array, b: Array) -> Array:
    """Two-proportion z statistics of each cell (Richardson and Weiss 2018, sec. 2).

    Args:
        a: (K,) counts of one side.
        b: (K,) counts of the other.
    """
    n, m = a.sum(), b.sum()
    pooled = (a + b) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return np.asarray(np.divide(a / n - b / m, error, out=np.zeros_like(a), where=error > 0))


def null_share(a: Array, b: Array) -> float:
    """Share of cells that differ between equal laws: exact, given the cells' shares.

    Counts are whole numbers, so the test rejects a little less or more often than α.

    Args:
        a: (K,) counts of one side, from which with b the cells' shares are taken.
        b: (K,) counts of the other.
    """
    n, m = int(a.sum()), int(b.sum())
    limit, rejected = critical(), []
    for share in (a + b) / (n + m):
        x, y = _likely(n, share), _likely(m, share)
        pooled = (x[:, None] + y) / (n + m)
        error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        beyond = np.abs(x[:, None] / n - y / m) > limit * error
        rejected.append(stats.binom.pmf(x, n, share) @ beyond @ stats.binom.pmf(y, m, share))
    return float(np.mean(rejected))


def share_interval(z: Array) -> tuple[Interval, float]:
    """95 % interval of the expected share of differing cells, and its standard error.

    A cell that differs surely adds no variance, which a binomial interval ignores. The law of
    true differences is estimated from all z; it tells how often a cell's verdict would change.

    Args:
        z: (K,) statistics.
    """
    k, limit = len(z), critical()
    true, weight = _true_differences(z)
    power = stats.norm.sf(limit - true) + stats.norm.cdf(-limit - true)
    mean, variance = float(weight @ power), float(weight @ (power * (1 - power))) / k
    # Wilson's interval for as many trials as have this variance (Wilson 1927).
    trials = max(float(k), mean * (1 - mean) / variance)
    return wilson(float(np.mean(np.abs(z) > limit)), trials), math.sqrt(variance)


def _true_differences(z: Array) -> tuple[Array, Array]:
    """Law of |true difference| in units of noise, by EM on a grid: points (G,), weights (G,).

    The nonparametric maximum likelihood (Kiefer and Wolfowitz 1956); 60 steps from equal
    weights are short of its maximum, which would put all weight on a few points.
    """
    true = np.linspace(0, 8, 33)
    seen = np.minimum(np.abs(z), true[-1])[:, None]
    likelihood = np.exp(-((seen - true) ** 2) / 2) + np.exp(-((seen + true) ** 2) / 2)
    weight = np.full(len(true), 1 / len(true))
    for _ in range(60):
        chance = likelihood * weight
        weight = (chance / chance.sum(1, keepdims=True)).mean(0)
    return true, weight


def _first(*sides: Items) -> Items:
    """The first side that has items."""
    return next((side for side in sides if len(side)), sides[-1])


def _likely(n: int, share: float) -> npt.NDArray[np.int64]:
    """The counts out of n that hold all but a billionth of the chance."""
    low, high = stats.binom.ppf([1e-10, 1 - 1e-10], n, share)
    return np.arange(int(max(low, 0)), int(high) + 1)


def _principal_axes(centred: Tensor) -> Tensor | None:
    """The leading principal axes (D, p) where there are more than 100 coordinates."""
    if centred.shape[1] <= CELLS:
        return None
    some = centred[: FIT_ITEMS // 2]
    found: Tensor = torch.linalg.eigh(some.T @ some).eigenvectors[:, -COMPONENTS:]
    return found
