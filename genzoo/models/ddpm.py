"""Denoising diffusion as it is taught (Ho et al. 2020, arXiv 2006.11239).

Noise is added in T = 1000 steps, x_t = √ᾱ_t x₀ + √(1 - ᾱ_t) ε, and a network predicts what was
added. Sampling goes the steps back, all of them or evenly spaced ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genzoo.models.denoising import DenoisingModel, DenoisingSettings, expand
from genzoo.types import Batch, DataSpec, Loss, TrainState

T = 1000
Schedule = Literal["linear", "cosine"]


@dataclass(frozen=True)
class DDPMSettings(DenoisingSettings):
    """Settings of `DDPM`, beside those of every denoiser.

    Attributes:
        sampler: ``ddpm``, ``ddim``, ``euler``, ``heun`` or ``dpm-solver++``.
        steps: of the sampler. The paper takes all 1000; 100 take a tenth of the time.
        schedule: ``linear`` (Ho et al., section 4) or ``cosine`` (Nichol and Dhariwal 2021,
            arXiv 2102.09672, eq. 17).
        predict: ``epsilon``, the noise (Ho et al., eq. 14), ``x``, the data, or ``v`` = α ε - σ x
            (Salimans and Ho 2022, arXiv 2202.00512, section 4).
        min_snr: γ of the min-SNR weights (Hang et al. 2023, arXiv 2303.09556: 5); 0 weighs all
            times alike.
    """

    sampler: str = "ddpm"
    steps: int = 100
    schedule: Schedule = "cosine"
    predict: Literal["epsilon", "x", "v"] = "epsilon"
    min_snr: float = 0.0


def alphas_bar(schedule: Schedule) -> Tensor:
    """ᾱ_1 … ᾱ_T, the share of the data's variance that is left, (T,) float64."""
    if schedule == "linear":
        beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    else:
        t = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return (1 - beta).cumprod(0)


class DDPM(DenoisingModel):
    """Discrete-time diffusion with a choice of schedule and of what is predicted."""

    Settings = DDPMSettings
    reach: Tensor

    def __init__(self, spec: DataSpec, settings: DDPMSettings | None = None) -> None:
        """The network of every denoiser, and the schedule."""
        super().__init__(spec, settings)
        self.register_buffer("reach", torch.tensor(math.inf))
        self.alpha_bar = alphas_bar(self.settings.schedule)  # a constant, in no state
        self.levels = ((1 - self.alpha_bar) / self.alpha_bar).sqrt()  # σ_t of x₀ + σε

    @property
    def sigma_range(self) -> tuple[float, float]:
        """σ of the first and of the last time."""
        return float(self.levels[0]), float(self.levels[-1])

    def sigmas(self, steps: int) -> Tensor:
        """Evenly spaced times, the last one among them (Nichol and Dhariwal 2021, section 4)."""
        t = torch.linspace(T, 0, min(steps, T) + 1)[:-1].round().long()
        return torch.cat([self.levels[t - 1], torch.zeros(1, dtype=torch.float64)])

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Also find how far from 0 the data lie."""
        super().on_fit_start(data, generator)
        self.reach.copy_(data.x.abs().max())

    def guess(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The posterior mean, not beyond the data: x - σ ε̂ has σ times the error of ε̂.

        As the paper's own code clips it. Near t = T, where σ is in the hundreds or more, samples
        went astray without (measured).
        """
        reach = float(self.reach)
        return self.denoise(x, sigma, cond).clamp(-reach, reach)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """E[x₀ | x₀ + σε = x], from what the network says of x_t = α x with α = 1/√(1 + σ²)."""
        alpha = expand((1 + sigma**2).rsqrt(), x)
        x_t, noise = alpha * x, expand(sigma, x) * alpha  # and its standard deviation √(1 - ᾱ)
        out = self.predict(x_t, 2 * self.time(sigma) / T - 1, cond)
        if self.settings.predict == "x":
            return out
        if self.settings.predict == "v":
            return alpha * x_t - noise * out
        return x - expand(sigma, x) * out

    def time(self, sigma: Tensor) -> Tensor:
        """The time 1 … T at which x has noise σ, (B,), between the steps by ln σ."""
        levels = self.levels.to(sigma).log()
        log_sigma = sigma.log().clamp(levels[0], levels[-1])
        right = torch.searchsorted(levels, log_sigma.contiguous()).clamp(1, T - 1)
        left = levels[right - 1]
        return right + (log_sigma - left) / (levels[right] - left)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """|prediction - target|² at a random time (L_simple, Ho et al., eq. 14)."""
        s = self.settings
        x, cond = self.training_items(batch)
        t = torch.randint(1, T + 1, (len(x),), device=x.device)
        alpha_bar = self.alpha_bar.to(x)[t - 1]
        alpha, sigma = expand(alpha_bar.sqrt(), x), expand((1 - alpha_bar).sqrt(), x)
        noise = torch.randn_like(x)
        target = {"epsilon": noise, "x": x, "v": alpha * noise - sigma * x}[s.predict]
        out = self.predict(alpha * x + sigma * noise, 2 * t / T - 1, cond)
        error = (out - target).square().flatten(1).mean(1)
        total = (self._weight(alpha_bar / (1 - alpha_bar)) * error).mean()
        return Loss(total, {s.predict: total.detach()})

    def _weight(self, snr: Tensor) -> Tensor:
        """Min-SNR weights: min(SNR, γ) of an error in x, in units of the prediction."""
        s = self.settings
        if not s.min_snr:
            return torch.ones_like(snr)
        of_x = snr.clamp(max=s.min_snr)
        return of_x / {"epsilon": snr, "x": torch.ones_like(snr), "v": snr + 1}[s.predict]
