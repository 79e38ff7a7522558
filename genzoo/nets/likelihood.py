"""What a decoder says of an item: a Gaussian, a mass where data have levels, or a mixture."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

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


class GaussianMixture(NamedTuple):
    """A law of points, with one component for all coordinates at once.

    A continuous map of Gaussian latents must bridge the gaps between modes; the choice of a
    component need not.

    Attributes:
        logits: (B, K).
        mean: (B, K, D).
        log_std: (B, K, D).
    """

    logits: Tensor
    mean: Tensor
    log_std: Tensor

    @staticmethod
    def numbers(components: int, dim: int) -> int:
        """How many parameters it has."""
        return components * (1 + 2 * dim)

    @classmethod
    def of(cls, parameters: Tensor, components: int) -> GaussianMixture:
        """From (B, `numbers`); parameters of 0 are K Gaussians of a fifth of the data's width."""
        logits, mean, log_std = parameters.unflatten(1, (components, -1)).tensor_split(
            (1, (parameters.shape[1] // components + 1) // 2), dim=2
        )
        # narrower than float32 points tell apart is never needed
        return cls(logits[..., 0], mean, (log_std - 1.5).clamp(-7, 3))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, (B, D) -> (B,)."""
        z = (x[:, None] - self.mean) * torch.exp(-self.log_std)
        each = (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(2)
        return torch.logsumexp(self.logits.log_softmax(1) + each, dim=1)

    def sample(self, uniform: Tensor, normal: Tensor, temperature: float) -> Tensor:
        """A component by `uniform` (B,), then a point by `normal` (B, D); (B, D)."""
        edges = (self.logits / temperature).softmax(1).cumsum(1)[:, :-1]
        mean, log_std = self._of_component((uniform[:, None] > edges).sum(1))
        return mean + log_std.exp() * normal * temperature

    def mode(self) -> Tensor:
        """The mean of the most probable component, (B, D)."""
        return self._of_component(self.logits.argmax(1))[0]

    def _of_component(self, index: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(index), device=index.device)
        return self.mean[rows, index], self.log_std[rows, index]


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
