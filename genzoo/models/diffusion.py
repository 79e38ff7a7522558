"""Diffusion with EDM preconditioning (Karras et al. 2022, arXiv 2206.00364).

A network learns the posterior mean D(x + σε; σ) of the data at every noise level σ; samples
follow the probability-flow ODE from pure noise to data with Heun's method. The same ODE the
other way gives an estimate of the likelihood, and the denoising error a bound of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from genzoo.data.ranges import to_model
from genzoo.denoiser_likelihood import denoising_cost, density_range, variational_bound
from genzoo.models.denoising import DenoisingModel, DenoisingSettings, expand
from genzoo.samplers import karras_sigmas
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, TrainState

# Noise levels at which the denoiser is asked for the bound, and for a rough idea of it.
BOUND_DRAWS = 64
ROUGH_DRAWS = 8


@dataclass(frozen=True)
class DiffusionSettings(DenoisingSettings):
    """Settings of `Diffusion`, beside those of every denoiser.

    Attributes:
        steps: of the sampler; 0 chooses 18 for images (EDM, section 3) and 40 for points, whose
            narrow modes show every error of the sampler (measured).
        sigma_min: smallest noise level of sampler and likelihood (EDM table 1).
        sigma_max: largest noise level (EDM table 1).
        log_sigma_mean: mean of ln σ in training; EDM's -1.2 suits σ_data = 0.5 and large images,
            small ones are decided at higher noise: none chooses -0.6 for images. Of points, whose
            modes may be a hundredth of the data wide, it chooses -2.
        log_sigma_std: standard deviation of ln σ in training; none chooses 1.2 for images (EDM
            table 1) and 1.8 for points.
        likelihood: ``ode``, an estimate by the probability flow, or ``vlb``, a variational bound
            (images only; points always take the flow).
    """

    steps: int = 0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    log_sigma_mean: float | None = None
    log_sigma_std: float | None = None
    likelihood: Literal["ode", "vlb"] = "ode"


class Diffusion(DenoisingModel):
    """EDM-preconditioned denoiser."""

    Settings = DiffusionSettings

    def __init__(self, spec: DataSpec, settings: DiffusionSettings | None = None) -> None:
        """What the settings leave open is chosen for images or for points."""
        s = self.Settings() if settings is None else settings
        steps, mean, std = (18, -0.6, 1.2) if spec.is_image else (40, -2.0, 1.8)
        chosen = replace(
            s,
            steps=s.steps or steps,
            log_sigma_mean=mean if s.log_sigma_mean is None else s.log_sigma_mean,
            log_sigma_std=std if s.log_sigma_std is None else s.log_sigma_std,
        )
        super().__init__(spec, chosen)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """D(x; σ) = c_skip x + c_out F(c_in x; c_noise) (eq. 7, table 1).

        Args:
            x: noisy data, (B, *shape).
            sigma: noise standard deviations, (B,).
            cond: labels, (B,) each.
        """
        sd, s = self.sigma_data, expand(sigma, x)
        norm = (s**2 + sd**2).sqrt()
        out: Tensor = sd**2 / norm**2 * x
        return out + s * sd / norm * self.predict(x / norm, sigma.log() / 4, cond)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """See `genzoo.model.Denoiser`."""
        return self.settings.sigma_min, self.settings.sigma_max

    def sigmas(self, steps: int) -> Tensor:
        """EDM's: evenly spaced in σ^(1/7) (eq. 5)."""
        return karras_sigmas(steps, self.sigma_range)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """λ(σ) |D(x + σε; σ) - x|² averaged over items and dimensions (eq. 2, λ = 1/c_out²)."""
        s = self.settings
        x, cond = self.training_items(batch)
        sigma = (s.log_sigma_mean + s.log_sigma_std * torch.randn(len(x), device=x.device)).exp()
        noisy = x + expand(sigma, x) * torch.randn_like(x)
        error = (self.denoise(noisy, sigma, cond) - x) ** 2
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        total = (weight * error.flatten(1).mean(1)).mean()
        return Loss(total, {"denoising": total.detach()})

    # -- likelihood -----------------------------------------------------------------------

    @property
    def summable(self) -> bool:
        """See `genzoo.model.RoughLikelihood`."""
        return not self._variational

    @property
    def likelihood(self) -> LikelihoodKind:  # type: ignore[override]
        """The flow's density carries errors of solver and trace; the variational bound does not."""
        return "bound" if self._variational else "estimate"

    @property
    def likelihood_convention(self) -> str:
        """See `genzoo.model.ExplainsLikelihood`."""
        if not self._variational:
            return super().likelihood_convention
        low, _ = density_range(self.spec, self.sigma_range)
        return f"VLB in continuous time, {BOUND_DRAWS} noise levels, latent at σ = {low:.3g}"

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Log of levels' probability or points' density, (B,) nats; see `likelihood`."""
        if self._variational:
            assert self.spec.levels is not None
            return variational_bound(
                self,
                to_model(raw, self.spec),
                cond,
                levels=self.spec.levels,
                sigma_range=density_range(self.spec, self.sigma_range),
                draws=BOUND_DRAWS,
                generator=generator,
            )
        return super().log_prob(raw, cond, generator)

    def rough_log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Minus the denoising error at a few noise levels, (B,) nats (Li et al. 2023, eq. 5)."""
        return -denoising_cost(
            self,
            to_model(raw, self.spec),
            cond,
            sigma_range=density_range(self.spec, self.sigma_range),
            draws=ROUGH_DRAWS,
            generator=generator,
        )

    @property
    def _variational(self) -> bool:
        return self.settings.likelihood == "vlb" and self.spec.is_image
