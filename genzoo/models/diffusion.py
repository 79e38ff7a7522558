"""Diffusion with EDM preconditioning (Karras et al. 2022, arXiv 2206.00364).

A network learns the posterior mean D(x + σε; σ) of the data at every noise level σ; samples
follow the probability-flow ODE from pure noise to data with Heun's method. The same ODE the
other way gives an estimate of the likelihood, and the denoising error a bound of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genzoo.data.ranges import to_model
from genzoo.model import GenerativeModel
from genzoo.nets.augmentation import shifted
from genzoo.nets.backbone import Backbone, build_backbone
from genzoo.nets.embeddings import ConditionEmbedding, NoiseEmbedding, hide_labels
from genzoo.noise import NoiseSource
from genzoo.samplers import (
    FlowSolver,
    denoising_cost,
    density_range,
    flow_log_prob,
    heun,
    karras_sigmas,
    variational_bound,
)
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, Recipe, SampleOptions, TrainState

# Noise levels at which the denoiser is asked for the bound, and for a rough idea of it.
BOUND_DRAWS = 64
ROUGH_DRAWS = 8


@dataclass(frozen=True)
class DiffusionSettings:
    """Settings of `Diffusion`.

    Attributes:
        backbone: ``conv``, ``dit`` or ``mlp``; ``auto`` is ``conv`` for images, ``mlp`` for points.
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        width: features of the network.
        depth: blocks of the network.
        heads: attention heads.
        dropout: in the MLPs.
        log_sigma_mean: mean of ln σ in training; EDM's -1.2 suits σ_data = 0.5 and large images,
            small ones are decided at higher noise.
        log_sigma_std: standard deviation of ln σ in training (EDM table 1: 1.2).
        sigma_min: smallest noise level of the sampler.
        sigma_max: largest noise level of the sampler.
        steps: Heun steps; 2·steps - 1 network evaluations a sample.
        likelihood: ``ode``, an estimate by the probability flow, or ``vlb``, a variational bound
            (images only; points always take the flow).
        ode_tolerance: local error of the flow's solver, see `genzoo.samplers.FlowSolver`.
        trace_probes: random directions for the flow's trace in more than four dimensions.
        augment: share of the training images that are shifted (the network is told how far).
        label_dropout: how often the label is hidden in training, so that guidance works.
        batch_size: images a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    backbone: Backbone = "auto"
    patch: int = 0
    width: int = 64
    depth: int = 3
    heads: int = 4
    dropout: float = 0.0
    log_sigma_mean: float = -0.6
    log_sigma_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    steps: int = 18
    likelihood: Literal["ode", "vlb"] = "ode"
    ode_tolerance: float = 5e-4
    trace_probes: int = 2
    augment: float = 0.85
    label_dropout: float = 0.1
    batch_size: int = 128
    lr: float = 2.5e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class Diffusion(GenerativeModel):
    """EDM-preconditioned denoiser; a `genzoo.model.Denoiser` with a likelihood."""

    Settings = DiffusionSettings
    sigma_data: Tensor

    def __init__(self, spec: DataSpec, settings: DiffusionSettings | None = None) -> None:
        """A DiT for images, a residual MLP for points."""
        super().__init__(spec, settings)
        s = self.settings
        self.sigma_range = (s.sigma_min, s.sigma_max)
        self._solver = FlowSolver(s.ode_tolerance, s.trace_probes)
        self.register_buffer("sigma_data", torch.tensor(0.5))
        self.noise_embedding = NoiseEmbedding(s.width)
        self.cond_embedding = ConditionEmbedding(spec, s.width, s.augment > 0)
        self.network = build_backbone(
            spec,
            s.backbone,
            patch=s.patch,
            width=s.width,
            depth=s.depth,
            heads=s.heads,
            cond_width=s.width,
            dropout=s.dropout,
        )

    def recipe(self) -> Recipe:
        """AdamW with a cosine to 0, and a weight average for sampling."""
        s = self.settings
        return Recipe(
            batch_size=s.batch_size,
            lr=s.lr,
            weight_decay=s.weight_decay,
            ema=s.ema,
            betas=(0.9, 0.99),
        )

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Measure σ_data, the standard deviation of the data in model space."""
        self.sigma_data.copy_(data.x.float().std())

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """D(x; σ) = c_skip x + c_out F(c_in x; c_noise) (eq. 7, table 1).

        Args:
            x: noisy data, (B, *shape).
            sigma: noise standard deviations, (B,).
            cond: labels, (B,) each.
        """
        sd = self.sigma_data
        c = self.noise_embedding(sigma.log() / 4) + self.cond_embedding(cond, len(x), x.device)
        s = sigma.view(-1, *[1] * (x.ndim - 1))
        norm = (s**2 + sd**2).sqrt()
        out: Tensor = sd**2 / norm**2 * x + s * sd / norm * self.network(x / norm, c)
        return out

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """λ(σ) |D(x + σε; σ) - x|² averaged over items and dimensions (eq. 2, λ = 1/c_out²)."""
        s = self.settings
        x, cond = shifted(batch, s.augment)
        cond = hide_labels(cond, self.null_cond(len(x)), s.label_dropout)
        sigma = (s.log_sigma_mean + s.log_sigma_std * torch.randn(len(x), device=x.device)).exp()
        noisy = x + sigma.view(-1, *[1] * (x.ndim - 1)) * torch.randn_like(x)
        error = (self.denoise(noisy, sigma, cond) - x) ** 2
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        total = (weight * error.flatten(1).mean(1)).mean()
        return Loss(total, {"denoising": total.detach()})

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """Heun's method along the probability-flow ODE; classifier-free guidance if asked for."""
        sigmas = karras_sigmas(options.steps or self.settings.steps, self.sigma_range)
        x = noise.normal(*self.spec.shape) * float(sigmas[0])
        weight = 1.0 if options.guidance is None or not cond else options.guidance

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            conditional = self.denoise(x, sigma, cond)
            if weight == 1:
                return conditional
            free = self.denoise(x, sigma, self.null_cond(len(x)))
            return free + weight * (conditional - free)  # Ho & Salimans 2022, eq. 6

        return heun(denoise, x, sigmas)

    # -- likelihood -----------------------------------------------------------------------

    @property
    def summable(self) -> bool:
        """See `genzoo.model.RoughLikelihood`."""
        return not self._variational

    @property
    def likelihood(self) -> LikelihoodKind:
        """The flow's density carries errors of solver and trace; the variational bound does not."""
        return "bound" if self._variational else "estimate"

    @property
    def likelihood_convention(self) -> str:
        """See `genzoo.model.ExplainsLikelihood`."""
        if not self._variational:
            return self._solver.describe(self.spec, self.sigma_range)
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
        return flow_log_prob(
            self,
            raw,
            cond,
            spec=self.spec,
            scale=float(self.sigma_data),
            solver=self._solver,
            generator=generator,
        )

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
