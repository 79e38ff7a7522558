"""MeanFlow: one step by the average velocity (Geng et al. 2025, arXiv 2505.13447).

On the straight paths of `genzoo.models.flow_matching` the network learns u(x_t, r, t), the mean
velocity between the times r < t, so that x_r = x_t - (t - r) u is a single evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.models.denoising import expand
from genzoo.models.flow_matching import FlowMatching, FlowMatchingSettings
from genzoo.nets.embeddings import NoiseEmbedding
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, Loss, SampleOptions, TrainState

HIGHEST_FREQUENCY = 4.0


@dataclass(frozen=True)
class MeanFlowSettings(FlowMatchingSettings):
    """Settings of `MeanFlow`, beside those of `FlowMatching`.

    Attributes:
        sampler: ``mean``, or a sampler of every denoiser, which takes u(x_t, t, t) as velocity.
        steps: evaluations a sample, in equal steps of t.
        apart: share of the training items with r < t; the others learn the velocity itself
            (Geng et al., table 1: 0.25 to 1).
        power: p of the weights 1 / (error + 0.001)^p (Geng et al., eq. 22: 0.5 to 1).
    """

    sampler: str = "mean"
    steps: int = 1
    apart: float = 0.75
    power: float = 0.75


class MeanFlow(FlowMatching):
    """A field of average velocities, of which the velocity is a limit."""

    Settings = MeanFlowSettings

    def __init__(self, spec: DataSpec, settings: MeanFlowSettings | None = None) -> None:
        """The network of every denoiser, told of a second time."""
        super().__init__(spec, settings)
        # Smooth in both times: fast waves would make a rough slope, and that a rough target.
        width = self.settings.width
        self.noise_embedding = NoiseEmbedding(width, highest=HIGHEST_FREQUENCY)
        self.length_embedding = NoiseEmbedding(width, highest=HIGHEST_FREQUENCY)

    def mean_velocity(self, x: Tensor, r: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """u(x_t, r, t): (B, *shape), (B,), (B,) -> (B, *shape)."""
        size = ((1 - t) ** 2 * self.sigma_data**2 + t**2).sqrt()
        c = self.noise_embedding(2 * t - 1) + self.length_embedding(t - r)
        c = c + self.cond_embedding(cond, len(x), x.device)
        out: Tensor = self.network(x / expand(size, x), c)
        return out

    def velocity(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """v(x_t, t) = u(x_t, t, t)."""
        return self.mean_velocity(x, t, t, cond)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """|u - (v - (t - r) du/dt)|², weighted by a power of itself (eqs. 9 to 11 and 22).

        The derivative along the path, du/dt = v ∂ₓu + ∂ₜu, is a Jacobian-vector product.
        """
        s = self.settings
        x, cond = self.training_items(batch)
        noise = torch.randn_like(x)
        times = torch.sigmoid(s.time_mean + s.time_std * torch.randn(2, len(x), device=x.device))
        r, t = times.amin(0), times.amax(0)
        r = torch.where(torch.rand(len(x), device=x.device) < s.apart, r, t)
        x_t = (1 - expand(t, x)) * x + expand(t, x) * noise
        target = self.target(x_t, r, t, noise - x, cond)
        error = (self.mean_velocity(x_t, r, t, cond) - target).flatten(1).square().mean(1)
        total = (error / (error.detach() + 1e-3) ** s.power).mean()
        return Loss(total, {"total": total.detach(), "error": error.mean().detach()})

    def target(
        self, x: Tensor, r: Tensor, t: Tensor, v: Tensor, cond: Mapping[str, Tensor]
    ) -> Tensor:
        """V - (t - r) du/dt along (dx, dr, dt) = (v, 0, 1), (B, *shape), without gradient."""
        with torch.no_grad():
            slope: Tensor = torch.func.jvp(
                lambda x, r, t: self.mean_velocity(x, r, t, cond),
                (x, r, t),
                (v, torch.zeros_like(r), torch.ones_like(t)),
            )[1]
        return v - expand(t - r, x) * slope

    def path(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Iterator[Tensor]:
        """x_r = x_t - (t - r) u(x_t, r, t) (eq. 12); see `DenoisingModel.path`."""
        s = self.settings
        if (options.sampler or s.sampler) != "mean":
            yield from super().path(noise, cond, options)
            return
        x = noise.normal(*self.spec.shape)
        yield x
        times = torch.linspace(1, 0, (options.steps or s.steps) + 1).tolist()
        for t, r in zip(times[:-1], times[1:], strict=True):
            pair = x.new_full((len(x),), r), x.new_full((len(x),), t)
            x = x - (t - r) * self.mean_velocity(x, *pair, cond)
            yield x
