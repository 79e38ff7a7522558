"""Fréchet distance, KID, inception score, precision and recall, through torch-fidelity.

Its in-memory functions are called, so its caches (keyed by name alone) and its pickled
weights are never touched. Features are float64: its ``float64`` option gives float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from genzoo.evaluation.neighbours import Measured, balls, held_share
from genzoo.evaluation.statistics import Interval, block_jackknife

BLOCKS = 10
PRECISION_K = 3
KID_ROWS = 2500


def frechet_distance(samples: Tensor, real: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to two sets of features (N, d) and (M, d).

    Both covariances are the unbiased ones. Biased upwards by O(1/N).
    """
    from torch_fidelity import metric_fid

    a = metric_fid.fid_features_to_statistics(samples.double())
    b = metric_fid.fid_features_to_statistics(real.double())
    value: float = metric_fid.fid_statistics_to_metric(a, b, verbose=False)[
        metric_fid.KEY_METRIC_FID
    ]
    return max(0.0, value)  # rounding may fall below


def measure_frechet(samples: Tensor, real: Tensor) -> Measured:
    """`frechet_distance` with a block-jackknife interval over both sets."""
    value = frechet_distance(samples, real)
    low, high = _jackknife(value, frechet_distance, samples, real)
    return Measured(value, Interval(max(0.0, low), high))


def kernel_distance(samples: Tensor, real: Tensor) -> float:
    """KID: the unbiased estimate of MMD² under (x·y/d + 1)³ from all pairs.

    Beyond `KID_ROWS` items a side the mean over disjoint parts, which is unbiased too and
    keeps the kernel matrices small.

    Args:
        samples: (N, d).
        real: (N, d), equally many.
    """
    from torch_fidelity import metric_kid

    parts = math.ceil(len(samples) / KID_ROWS)
    values = [
        metric_kid.kid_features_to_metric(
            a.double(), b.double(), kid_subsets=1, kid_subset_size=len(a), verbose=False
        )[metric_kid.KEY_METRIC_KID_MEAN]
        for a, b in zip(_equal_parts(samples, parts), _equal_parts(real, parts), strict=True)
    ]
    return float(np.mean(values))


def measure_kernel_distance(samples: Tensor, real: Tensor) -> Measured:
    """`kernel_distance` with a block-jackknife interval over both sets."""
    value = kernel_distance(samples, real)
    return Measured(value, block_jackknife(value, _kid_without_blocks(samples, real)))


def inception_score(logits: Tensor) -> float:
    """Exp of the mutual information of item and predicted class, from logits (N, K)."""
    from torch_fidelity import metric_isc

    value: float = metric_isc.isc_features_to_metric(logits.double(), splits=1, shuffle=False)[
        metric_isc.KEY_METRIC_ISC_MEAN
    ]
    return value


def measure_inception_score(logits: Tensor) -> Measured:
    """`inception_score` with a block-jackknife interval."""
    value = inception_score(logits)
    return Measured(value, _jackknife(value, inception_score, logits))


def precision_recall(samples: Tensor, real: Tensor) -> tuple[Measured, Measured]:
    """Improved precision and recall, k = 3, with ``<=``.

    Args:
        samples: (N, d) features.
        real: (N, d), equally many.
    """
    from torch_fidelity import metric_prc

    found = metric_prc.prc_features_to_metric(
        samples.double(),
        real.double(),
        prc_neighborhood=PRECISION_K,
        prc_batch_size=2000,
        save_cpu_ram=True,
        verbose=False,
    )
    precision = float(found[metric_prc.KEY_METRIC_PRECISION])
    recall = float(found[metric_prc.KEY_METRIC_RECALL])
    return (
        held_share(balls(real, samples, PRECISION_K, closed=True), precision),
        held_share(balls(samples, real, PRECISION_K, closed=True), recall),
    )


def _jackknife(value: float, statistic: Callable[..., float], *sets: Tensor) -> Interval:
    """Leave the b-th of ten disjoint blocks out of every set at once."""
    left_out = []
    for b in range(BLOCKS):
        kept = [x[_block_of(len(x)) != b] for x in sets]
        left_out.append(statistic(*kept))
    return block_jackknife(value, left_out)


def _block_of(n: int) -> Tensor:
    """The block of each of n items, (N,); blocks differ in size by at most one."""
    return torch.arange(n) * BLOCKS // n


def _kid_without_blocks(samples: Tensor, real: Tensor) -> list[float]:
    """KID without block 1, 2, … of either set, from sums of the kernel between blocks."""
    x, y = samples.double(), real.double()
    xx, yy = _kernel_block_sums(x, x, own=True), _kernel_block_sums(y, y, own=True)
    xy = _kernel_block_sums(x, y, own=False)
    sizes = torch.bincount(_block_of(len(x)), minlength=BLOCKS).double()
    out = []
    for b in range(BLOCKS):
        keep = torch.arange(BLOCKS) != b
        n = sizes[keep].sum()
        within = (xx[keep][:, keep].sum() + yy[keep][:, keep].sum()) / (n * (n - 1))
        out.append(float(within - 2 * xy[keep][:, keep].sum() / n**2))
    return out


def _kernel_block_sums(a: Tensor, b: Tensor, *, own: bool) -> Tensor:
    """Sums of the cubic kernel over pairs of blocks, (blocks, blocks); without i = j if `own`."""
    block_b = torch.nn.functional.one_hot(_block_of(len(b)), BLOCKS).double()
    sums = torch.zeros(BLOCKS, BLOCKS, dtype=torch.float64)
    for i in range(BLOCKS):
        rows = (_block_of(len(a)) == i).nonzero().squeeze(1)
        kernel = (a[rows] @ b.T / a.shape[1] + 1) ** 3
        if own:
            kernel[torch.arange(len(rows)), rows] = 0
        sums[i] = kernel.sum(0) @ block_b
    return sums


def _equal_parts(x: Tensor, parts: int) -> list[Tensor]:
    size = len(x) // parts
    return list(x[: size * parts].split(size)) if parts > 1 else [x]
