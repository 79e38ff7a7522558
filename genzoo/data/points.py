"""Points in the plane with a known density: 20,000 train, 5,000 test, from fixed seeds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.data.dataset import Dataset, Modes, Split, fingerprint
from genzoo.types import DataSpec

Array = NDArray[np.float64]

TRAIN, TEST = 20_000, 5_000


class Law(ABC):
    """A distribution in the plane that can be sampled and evaluated."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` independent points, (n, 2) float64."""

    @abstractmethod
    def log_density(self, points: Tensor) -> Tensor:
        """Log p in nats per squared data unit: (N, 2) -> (N,) float64, -inf outside the support."""


@dataclass(frozen=True)
class Mixture(Law):
    """Isotropic Gaussians of one width and weights that sum to 1.

    Attributes:
        centers: (K, 2).
        weights: (K,).
        sigma: standard deviation per coordinate.
    """

    centers: Array
    weights: Array
    sigma: float

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """See `Law.sample`."""
        chosen = rng.choice(len(self.centers), size=n, p=self.weights)
        return self.centers[chosen] + self.sigma * rng.standard_normal((n, 2))

    def log_density(self, points: Tensor) -> Tensor:
        """See `Law.log_density`."""
        return _log_mixture(points, self.centers, self.weights, self.sigma)


@dataclass(frozen=True)
class BlurredCurves(Law):
    """A uniform parameter on one of several curves, chosen evenly, plus Gaussian noise.

    The density is the integral of the noise's density along the curves. The quadrature is
    Gauss-Legendre with 8 nodes on panels of about two sigma, exact to about 1e-10.

    Attributes:
        curves: each maps parameters (N,) to points (N, 2).
        start: lower end of the parameter.
        stop: upper end of the parameter.
        sigma: standard deviation of the noise per coordinate.
        panels: panels of the quadrature on each curve.
    """

    curves: tuple[Callable[[Array], Array], ...]
    start: float
    stop: float
    sigma: float
    panels: int = 128

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """See `Law.sample`."""
        chosen = rng.integers(len(self.curves), size=n)
        t = rng.uniform(self.start, self.stop, size=n)
        clean = np.stack([curve(t) for curve in self.curves])[chosen, np.arange(n)]
        return np.asarray(clean + self.sigma * rng.standard_normal((n, 2)))

    def log_density(self, points: Tensor) -> Tensor:
        """See `Law.log_density`."""
        nodes, weights = np.polynomial.legendre.leggauss(8)
        edges = np.linspace(self.start, self.stop, self.panels + 1)
        half = (edges[1] - edges[0]) / 2
        t = (edges[:-1, None] + half * (1 + nodes)).ravel()
        share = np.tile(weights / 2, self.panels) / (self.panels * len(self.curves))
        centers = np.concatenate([curve(t) for curve in self.curves])
        return _log_mixture(points, centers, np.tile(share, len(self.curves)), self.sigma)


@dataclass(frozen=True)
class Checkerboard(Law):
    """Uniform on the 8 squares of side 2 on [-4, 4]² whose column and row add to an even number."""

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """See `Law.sample`."""
        row = rng.integers(4, size=n)
        column = 2 * rng.integers(2, size=n) + row % 2
        return 2 * (np.stack([column, row], 1) + rng.random((n, 2))) - 4

    def log_density(self, points: Tensor) -> Tensor:
        """See `Law.log_density`."""
        cell = (points.double() + 4).div(2).floor()
        inside = ((cell >= 0) & (cell < 4)).all(1) & (cell.sum(1) % 2 == 0)
        return torch.where(inside, -math.log(32), -math.inf).double()


def _log_mixture(points: Tensor, centers: Array, weights: Array, sigma: float) -> Tensor:
    """Log Σ_k w_k N(x; c_k, σ² I), in blocks that bound the memory to some 30 MB."""
    c, log_w = torch.from_numpy(centers), torch.from_numpy(np.log(weights))
    x = points.detach().cpu().double()
    block = max(1, 2_000_000 // len(c))
    log_p = torch.empty(len(x), dtype=torch.float64)
    for i in range(0, len(x), block):
        squared = torch.cdist(x[i : i + block], c, compute_mode=_EXACT).square()
        log_p[i : i + block] = torch.logsumexp(log_w - squared / (2 * sigma**2), 1)
    return log_p - math.log(2 * math.pi * sigma**2)


_EXACT = "donot_use_mm_for_euclid_dist"  # differences, not |x|² - 2xc + |c|², which cancels


def _even_mixture(centers: Array, sigma: float) -> Mixture:
    return Mixture(centers, np.full(len(centers), 1 / len(centers)), sigma)


def _spiral(t: Array) -> Array:
    return np.stack([t * np.cos(t), t * np.sin(t)], 1) / 5


def _upper_moon(t: Array) -> Array:
    return np.stack([np.cos(t), np.sin(t)], 1)


def _lower_moon(t: Array) -> Array:
    return np.stack([1 - np.cos(t), 0.5 - np.sin(t)], 1)


_ANGLES = np.arange(8) * (math.pi / 4)
_AXIS = np.arange(-4.0, 5.0, 2.0)

LAWS: Mapping[str, Law] = {
    "ring": _even_mixture(np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1), 0.01),
    "grid": _even_mixture(np.stack(np.meshgrid(_AXIS, _AXIS), -1).reshape(-1, 2), 0.05),
    "swiss-roll": BlurredCurves((_spiral,), 1.5 * math.pi, 4.5 * math.pi, 0.1),
    "moons": BlurredCurves((_upper_moon, _lower_moon), 0.0, math.pi, 0.05),
    "checkerboard": Checkerboard(),
}


def open_named(name: str, *, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Draw one of `LAWS`; always the same points. Nothing is read, so `root` has no effect."""
    law = LAWS[name]
    order = list(LAWS).index(name)
    train, test = (
        Split(torch.from_numpy(law.sample(n, np.random.default_rng([order, part]))).float())
        for part, n in enumerate((TRAIN, TEST))
    )
    points = train.data.double()
    spec = DataSpec(
        shape=(2,),
        levels=None,
        # rounded, because the last bits of a sum depend on the machine
        location=tuple(round(v, 6) for v in points.mean(0).tolist()),
        scale=tuple(round(v, 6) for v in points.std(0).tolist()),
    )
    modes = None
    if isinstance(law, Mixture):
        modes = Modes(torch.from_numpy(law.centers).float(), law.sigma)
    return Dataset(
        name=name,
        spec=spec,
        train=train,
        test=test,
        reserved=None,
        class_names=(),
        fingerprint=fingerprint(spec, train, test, None),
        modes=modes,
        log_density=law.log_density,
    )
