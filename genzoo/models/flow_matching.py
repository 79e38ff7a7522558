"""Flow matching along straight paths (Liu et al. 2023, 2209.03003; Lipman et al. 2023, 2210.02747).

Between data x₀ (t = 0) and noise ε (t = 1) lies x_t = (1 - t) x₀ + t ε. A network learns the mean
velocity v(x_t, t) = E[ε - x₀ | x_t]; samples follow dx/dt = v from noise to data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from genzoo.models.denoising import DenoisingModel, DenoisingSettings, expand
from genzoo.samplers import rectified_sigmas
from genzoo.types import Batch, Loss, TrainState


@dataclass(frozen=True)
class FlowMatchingSettings(DenoisingSettings):
    """Settings of `FlowMatching`, beside those of every denoiser.

    Attributes:
        sigma_min: smallest noise level of sampler and likelihood (EDM table 1).
        sigma_max: largest noise level (EDM table 1).
        sampler: as every denoiser's; with equal steps of t Heun's last steps are too long, and
            modes of points came out half as wide as they are (measured).
        steps: of the sampler; as many evaluations as 18 steps of Heun's method.
        time_mean: mean of logit t in training; the time is logit-normal (Esser et al. 2024,
            arXiv 2403.03206, eq. 19: 0 and 1).
        time_std: standard deviation of logit t in training.
        optimal_transport: pair each batch of noise with the data by least squared distance
            (Tong et al. 2024, arXiv 2302.00482), within each label.
    """

    sampler: str = "dpm-solver++"
    steps: int = 35
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    time_mean: float = 0.0
    time_std: float = 1.0
    optimal_transport: bool = False


class FlowMatching(DenoisingModel):
    """A velocity field on straight paths."""

    Settings = FlowMatchingSettings

    def velocity(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """v(x_t, t): (B, *shape), (B,) -> (B, *shape)."""
        # The network sees items of unit size: x_t has variance (1 - t)² σ_data² + t².
        size = ((1 - t) ** 2 * self.sigma_data**2 + t**2).sqrt()
        return self.predict(x / expand(size, x), 2 * t - 1, cond)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """E[x₀ | x₀ + σε] = x_t - t v(x_t, t) with t = σ / (1 + σ) and x_t = (1 - t) x."""
        t = sigma / (1 + sigma)
        x_t = x / (1 + expand(sigma, x))
        return x_t - expand(t, x) * self.velocity(x_t, t, cond)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """See `genzoo.model.Denoiser`."""
        return self.settings.sigma_min, self.settings.sigma_max

    def sigmas(self, steps: int) -> Tensor:
        """Equal steps of t."""
        return rectified_sigmas(steps, self.sigma_range)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """|v(x_t, t) - (ε - x₀)|² averaged over items and dimensions (Lipman et al., eq. 14)."""
        s = self.settings
        x, cond = self.training_items(batch)
        noise = torch.randn_like(x)
        if s.optimal_transport:
            noise = noise[pair(x, noise, batch.cond.get("label"))]
        t = torch.sigmoid(s.time_mean + s.time_std * torch.randn(len(x), device=x.device))
        x_t = (1 - expand(t, x)) * x + expand(t, x) * noise
        total = (self.velocity(x_t, t, cond) - (noise - x)).square().mean()
        return Loss(total, {"velocity": total.detach()})


def pair(x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
    """Which noise goes with which item, (B,) int64: least total squared distance.

    Args:
        x: items, (B, *shape).
        noise: (B, *shape).
        label: (B,); items of one label share the noise in their own places only, since a label
            that attracts certain noise would be wrong for noise that is drawn without it.
    """
    chosen = torch.empty(len(x), dtype=torch.int64, device=x.device)
    label = chosen.new_zeros(len(x)) if label is None else label
    for k in label.unique():
        rows = (label == k).nonzero()[:, 0]
        a, b = x[rows].flatten(1), noise[rows].flatten(1)
        cost = -(a @ b.T)  # |a|² and |b|² are the same for every pairing
        _, column = linear_sum_assignment(cost.detach().cpu().numpy())
        chosen[rows] = rows[torch.from_numpy(column).to(rows.device)]
    return chosen
