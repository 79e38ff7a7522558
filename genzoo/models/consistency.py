"""Consistency models: one step from noise to data (Song et al. 2023, arXiv 2303.01469).

f(x; σ) maps every point of a probability-flow path to the path's end. It is tuned out of a
diffusion model (ECT, Geng et al. 2024, arXiv 2406.14548), which the same network is first: the
budget's first part trains it as `genzoo.models.diffusion` does, unless it starts from a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genzoo.models.denoising import expand
from genzoo.models.diffusion import Diffusion, DiffusionSettings
from genzoo.noise import NoiseSource
from genzoo.samplers import karras_sigmas
from genzoo.types import Batch, Loss, Recipe, SampleOptions, TrainState

TUNING = "main:consistency"


@dataclass(frozen=True)
class ConsistencySettings(DiffusionSettings):
    """Settings of `Consistency`, beside those of `Diffusion`, which trains the first part.

    Attributes:
        sampler: ``multistep``, or a sampler of every denoiser.
        steps: evaluations a sample; each but the first begins with fresh noise.
        restart: noise level from which the last of several evaluations starts: high enough to
            mend the sample, low enough to keep it (Song & Dhariwal 2023: 0.821 for CIFAR-10).
        pretrain: part of the budget that trains the network as a diffusion model; a start from
            a run's weights (``--init``) needs none.
        tuning_lr: learning rate of the rest, as a fraction of `lr`'s.
        stages: how often the two noise levels of a pair come nearer, by half each time.
        tuning_mean: mean of ln σ (Geng et al., table 1: -1.1).
        tuning_std: standard deviation of ln σ (Geng et al., table 1: 2).
    """

    sampler: str = "multistep"
    steps: int = 2
    restart: float = 0.8
    pretrain: float = 0.5
    tuning_lr: float = 0.5
    stages: int = 8
    tuning_mean: float = -0.5
    tuning_std: float = 2.0


class Consistency(Diffusion):
    """A denoiser that is tuned until it finds the end of a path in one step."""

    Settings = ConsistencySettings
    with_init: ClassVar[Mapping[str, Any]] = {"pretrain": 0.0}

    def recipe(self) -> Recipe:
        """That of the diffusion model, which is annealed before it is tuned, more slowly."""
        s = self.settings
        spans = {"main": (0.0, s.pretrain), TUNING: (s.pretrain, 1.0)}
        return replace(super().recipe(), lr_scale={TUNING: s.tuning_lr}, spans=spans)

    def phases(self, state: TrainState) -> tuple[str, ...]:
        """First the diffusion model, then the consistency of the same weights."""
        return ("main",) if state.progress < self.settings.pretrain else (TUNING,)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """Pseudo-Huber distance of f(x + tε; t) and f(x + rε; r), over t - r (r < t, same ε).

        Song and Dhariwal 2023 (arXiv 2310.14189, eqs. 7 and 8); r after `nearer`.
        """
        if phase != TUNING:
            return super().loss(batch, phase, state)
        s = self.settings
        x, cond = self.training_items(batch)
        t = (s.tuning_mean + s.tuning_std * torch.randn(len(x), device=x.device)).exp()
        t = t.clamp(2 * s.sigma_min, s.sigma_max)
        r = self.nearer(t, state)
        noise = torch.randn_like(x)
        with torch.no_grad():
            end = self.denoise(x + expand(r, x) * noise, r, cond)
            end = torch.where(expand(r, x) <= s.sigma_min, x, end)
        found = self.denoise(x + expand(t, x) * noise, t, cond)
        c = 0.00054 * math.sqrt(self.spec.dim)
        distance = ((found - end).flatten(1).square().sum(1) + c**2).sqrt() - c
        total = (distance / (t - r)).mean()
        return Loss(total, {"consistency": total.detach()})

    def nearer(self, t: Tensor, state: TrainState) -> Tensor:
        """The smaller noise level of a pair (Geng et al. 2024, eq. 14), σ_min at the least.

        r = t (1 - (1 + 8 sigmoid(-t)) / 2^(k+1)) in the k-th stage: first the data themselves
        for small t, and ever nearer to t.
        """
        s = self.settings
        done = (state.progress - s.pretrain) / max(1 - s.pretrain, 1e-9)
        stage = min(int(max(done, 0.0) * s.stages), s.stages - 1)
        r: Tensor = t * (1 - (1 + 8 * torch.sigmoid(-t)) / 2 ** (stage + 1))
        return r.clamp(min=s.sigma_min)

    def path(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Iterator[Tensor]:
        """f, then new noise and f again (Song et al. 2023, algorithm 1); see `DenoisingModel`."""
        s = self.settings
        if (options.sampler or s.sampler) != "multistep":
            yield from super().path(noise, cond, options)
            return
        x = noise.normal(*self.spec.shape) * s.sigma_max
        yield x
        for i, sigma in enumerate(self.jumps(options.steps or s.steps)):
            if i:
                x = x + math.sqrt(sigma**2 - s.sigma_min**2) * noise.normal(*self.spec.shape)
            x = self.denoise(x, x.new_full((len(x),), sigma), cond)
            yield x

    def jumps(self, steps: int) -> list[float]:
        """Noise levels from which f is asked: σ_max to `restart`, spaced as Karras'."""
        s = self.settings
        return [float(v) for v in karras_sigmas(steps, (s.restart, s.sigma_max))[:steps]]
