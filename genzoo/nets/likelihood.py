"""What a decoder says of an item: a Gaussian around it, a mass where data have levels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from genzoo.noise import NoiseSource
from genzoo.types import DataSpec

Output = Literal["auto", "mean", "sample"]


class GaussianLikelihood(nn.Module):
    """p(x | mean) = N(mean, σ²) with one learned σ for all (σ-VAE, Rybkin et al. 2021, eq. 4).

    With σ fixed at 1 a squared error of a few levels weighs less than a nat, and the codes stay
    unused; learned, σ is the reconstruction's own error and balances both by itself.
    """

    def __init__(self, spec: DataSpec) -> None:
        """In model space, where data have a standard deviation near 1; Adam moves ln σ slowly."""
        super().__init__()
        self.spec = spec
        self.log_std = nn.Parameter(torch.tensor(-2.0))

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """Log p(x | mean) in nats, two (B, *shape) -> (B,): mass of levels, density of points."""
        log_std = self._log_std
        if self.spec.levels is not None:
            return log_mass_of_gaussian(x, mean, log_std, self.spec.levels).flatten(1).sum(1)
        z = (x - mean) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(1) - self._log_unit

    def draw(self, mean: Tensor, noise: NoiseSource, output: Output, temperature: float) -> Tensor:
        """An item for each mean, (B, *shape) -> (B, *shape).

        Args:
            mean: of the decoder.
            noise: used where `output` samples.
            output: ``sample`` draws from the likelihood, ``mean`` does not; ``auto`` takes the
                mean of images and a sample of points.
            temperature: scale of the noise.
        """
        if output == "mean" or (output == "auto" and self.spec.is_image):
            return mean
        return mean + self._log_std.exp() * noise.normal(*self.spec.shape) * temperature

    @property
    def _log_std(self) -> Tensor:
        return self.log_std.clamp(min=-7)

    @property
    def _log_unit(self) -> float:
        """Log volume of model space in data units: 0 for levels, whose mass has no unit."""
        return 0.0 if self.spec.is_image else sum(math.log(s) for s in self.spec.scale)


def log_mass_of_gaussian(x: Tensor, mean: Tensor, log_std: Tensor, levels: int) -> Tensor:
    """Log P(level) of a Gaussian integrated over the level's bin, elementwise, in nats.

    The outermost bins extend to infinity, so the masses of all levels sum to 1
    (Ho et al. 2020, arXiv 2006.11239, eq. 13).

    Args:
        x: levels in model space, (B, C, H, W).
        mean: (B, C, H, W).
        log_std: log standard deviation, broadcast to `x`.
        levels: number of gray levels.
    """
    half = 1 / (levels - 1)
    sharpness = torch.exp(-log_std)
    upper, lower = (x - mean + half) * sharpness, (x - mean - half) * sharpness
    below, above = torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower)
    # Φ(u) - Φ(l) = Φ(-l) - Φ(-u): the difference is taken in the tail where both are small.
    left = upper + lower < 0
    large = torch.where(left, below, above)
    small = torch.special.log_ndtr(torch.where(left, lower, -upper))
    inside = large + torch.log(-torch.expm1(small - large))
    return torch.where(x < -1 + half, below, torch.where(x > 1 - half, above, inside))
