"""Does a model invent, or does it remember?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from genzoo.evaluation.neighbours import Measured, distance_blocks, nearest
from genzoo.evaluation.statistics import wilson

NEAR_QUANTILE = 0.01


class Attribution(NamedTuple):
    """Where samples lie relative to training and held-out items.

    Attributes:
        share: probability that the nearest neighbour is a training item, (N,).
        train_distance: squared distance to the nearest training item, (N,).
        train_index: that item, (N,).
        test_distance: squared distance to the nearest held-out item, (N,).
        test_index: that item, (N,).
    """

    share: Tensor
    train_distance: Tensor
    train_index: Tensor
    test_distance: Tensor
    test_index: Tensor


def attribute(samples: Tensor, train: Tensor, test: Tensor) -> Attribution:
    """Nearest neighbours among train and test as if both were equally large.

    The larger side is averaged over all of its subsets of the smaller side's size m, in
    closed form: with r of n items nearer than the other side's nearest one, a subset holds
    one of them with probability 1 - C(n-r, m) / C(n, m). Ties count one half.

    Args:
        samples: (N, D).
        train: (n, D).
        test: (m, D).
    """
    to_train, to_test = nearest(samples, train), nearest(samples, test)
    if len(train) >= len(test):
        share = _chance_of_nearer(samples, train, to_test.distance, len(test))
    else:
        share = 1 - _chance_of_nearer(samples, test, to_train.distance, len(train))
    return Attribution(share, to_train.distance, to_train.row, to_test.distance, to_test.row)


def train_nn_share(found: Attribution) -> Measured:
    """Mean share; exactly ½ if samples, training and held-out items have one law.

    Samples with the same nearest item share its verdict, so Wilson's interval is taken for
    n² / Σ c² independent verdicts, c being how many samples an item is the nearest of.
    """
    value = float(found.share.mean())
    from_train = found.train_distance <= found.test_distance
    offset = int(found.train_index.max()) + 1
    item = torch.where(from_train, found.train_index, found.test_index + offset)
    counts = torch.bincount(item).double()
    effective = float(len(item) ** 2 / counts.square().sum())
    return Measured(value, wilson(value, effective))


def count_duplicates(samples: Tensor, *references: Tensor) -> int:
    """How many samples equal an item of any reference, bit for bit."""
    known = {row.tobytes() for reference in references for row in _rows(reference)}
    return sum(row.tobytes() in known for row in _rows(samples))


def near_threshold(train: Tensor, test: Tensor, queries: int = 1000) -> float:
    """Squared distance below which only 1 % of real items have another real item.

    Args:
        train: (n, D).
        test: (m, D).
        queries: at most so many real items are asked, chosen by a fixed seed.
    """
    everything = torch.cat([train, test])
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(everything))[:queries])
    closest = []
    for block, d in distance_blocks(everything[chosen], everything):
        d[torch.arange(len(d)), chosen[block]] = torch.inf
        closest.append(d.min(dim=1).values)
    return float(np.quantile(torch.cat(closest).numpy(), NEAR_QUANTILE, method="lower"))


def near_duplicate_share(found: Attribution, threshold: float) -> Measured:
    """Share of samples nearer to a real item than `threshold` (squared)."""
    closest = torch.minimum(found.train_distance, found.test_distance)
    value = float((closest < threshold).double().mean())
    return Measured(value, wilson(value, len(closest)))


def _chance_of_nearer(samples: Tensor, larger: Tensor, bar: Tensor, m: int) -> Tensor:
    """Chance that m random items of `larger` hold one nearer than `bar`; ties count half."""
    nearer, tied = [], []
    for block, d in distance_blocks(samples, larger):
        limit = bar[block, None]
        nearer.append((d < limit).sum(1))
        tied.append((d <= limit).sum(1))
    n = len(larger)
    return (_chance_of_any(torch.cat(nearer), n, m) + _chance_of_any(torch.cat(tied), n, m)) / 2


def _chance_of_any(r: Tensor, n: int, m: int) -> Tensor:
    """1 - C(n-r, m) / C(n, m): chance that m of n items include one of r special ones."""
    rest = n - r.double().numpy()
    possible = rest >= m
    rest = np.where(possible, rest, m)
    log_none = gammaln(rest + 1) - gammaln(rest - m + 1) - gammaln(n + 1) + gammaln(n - m + 1)
    chance = np.where(possible, -np.expm1(log_none), 1.0)
    return torch.from_numpy(np.where(r.numpy() == 0, 0.0, chance))  # a certainty is not rounded


def _rows(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.flatten(1).cpu().numpy())
