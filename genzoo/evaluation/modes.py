"""Modes with ground truth: Gaussians on a ring or a grid, and stacked digits."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from genzoo.evaluation.neighbours import Measured
from genzoo.evaluation.statistics import wilson

RADIUS_SIGMAS = 3.0
# Share of a 2-D Gaussian within three standard deviations: 1 - exp(-9/2).
HIGH_QUALITY_CEILING = -math.expm1(-(RADIUS_SIGMAS**2) / 2)


class ModeCount(NamedTuple):
    """How many modes have a good sample, and which share of samples is good."""

    covered: int
    high_quality: float


def count_modes(points: Tensor, centers: Tensor, sigma: float) -> ModeCount:
    """Protocol of PacGAN (Lin et al. 2018): good is within three σ of a centre.

    Args:
        points: (N, 2) in data units.
        centers: (K, 2).
        sigma: standard deviation per coordinate of every mode.
    """
    distance = torch.cdist(points.double(), centers.double())
    closest = distance.min(dim=1)
    good = closest.values <= RADIUS_SIGMAS * sigma
    return ModeCount(len(closest.indices[good].unique()), float(good.double().mean()))


def count_stacked(predicted: Tensor) -> int:
    """How many of the 1000 digit triples appear among predictions (N, 3)."""
    return len(predicted.unique(dim=0))


def measure_high_quality(count: ModeCount, n: int) -> Measured:
    """Share of good samples with Wilson's interval."""
    return Measured(count.high_quality, wilson(count.high_quality, n))
