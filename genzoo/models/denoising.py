"""What all models that denoise step by step have in common: network, labels, guidance, sampling.

A family adds what its network predicts (`DenoisingModel.denoise`), what it is trained for (`loss`)
and at which noise levels it is asked (`DenoisingModel.sigmas`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genzoo.denoiser_likelihood import FlowSolver, flow_log_prob
from genzoo.model import GenerativeModel
from genzoo.nets.augmentation import shifted
from genzoo.nets.backbone import Backbone, build_backbone
from genzoo.nets.embeddings import ConditionEmbedding, NoiseEmbedding, hide_labels
from genzoo.noise import NoiseSource
from genzoo.samplers import find_sampler, guided
from genzoo.types import Batch, DataSpec, LikelihoodKind, SampleOptions


@dataclass(frozen=True)
class DenoisingSettings:
    """Settings of every `DenoisingModel`; defaults were measured at 60 s on digits, where not said.

    Attributes:
        backbone: ``conv``, ``unet``, ``dit`` or ``mlp``; ``auto`` is ``conv`` for images and
            ``mlp`` for points, which is the only one for those.
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above, and half of
            that for a U-Net.
        width: features of the network; of a U-Net, of its finest grid. 0 chooses 64 for images and
            128 for points, whose many modes a narrower network blurs (measured on ``grid``).
        depth: blocks of the network; of a U-Net, a grid and way.
        heads: attention heads.
        dropout: in the MLPs.
        sampler: ``ddpm``, ``ddim``, ``euler``, ``heun`` or ``dpm-solver++``.
        steps: of the sampler; Heun's method takes 2·steps - 1 network evaluations, the others
            one a step.
        ode_tolerance: local error of the likelihood's solver, see `FlowSolver`.
        trace_probes: random directions for its trace in more than four dimensions.
        augment: share of the training images that are shifted (the network is told how far).
        label_dropout: how often the label is hidden in training, so that guidance works.
        batch_size: images a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    backbone: Backbone = "auto"
    patch: int = 0
    width: int = 0
    depth: int = 3
    heads: int = 4
    dropout: float = 0.0
    sampler: str = "heun"
    steps: int = 18
    ode_tolerance: float = 5e-4
    trace_probes: int = 2
    augment: float = 0.85
    label_dropout: float = 0.1
    batch_size: int = 128
    lr: float = 2.5e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class DenoisingModel(GenerativeModel):
    """A network that is told the noise level and the label; a `genzoo.model.Denoiser`."""

    Settings = DenoisingSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 96, "augment": 0.0},
        "base": {
            "backbone": "unet",
            "width": 128,
            "depth": 2,
            "augment": 0.12,
            "dropout": 0.1,
            "lr": 5e-4,
        },
    }
    likelihood: LikelihoodKind = "estimate"
    sigma_data: Tensor

    def __init__(self, spec: DataSpec, settings: DenoisingSettings | None = None) -> None:
        """Convolutions or a DiT for images, a residual MLP for points."""
        s = self.Settings() if settings is None else settings
        s = replace(s, width=s.width or (64 if spec.is_image else 128))
        super().__init__(spec, s)
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

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Measure σ_data, the standard deviation of the data in model space."""
        self.sigma_data.copy_(data.x.float().std())

    @property
    @abstractmethod
    def sigma_range(self) -> tuple[float, float]:
        """See `genzoo.model.Denoiser`."""

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Posterior mean of x₀, given x = x₀ + σε; see `genzoo.model.Denoiser`."""

    @abstractmethod
    def sigmas(self, steps: int) -> Tensor:
        """The sampler's noise levels, (steps + 1,) float64 falling from the largest to 0."""

    def guess(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """`denoise` as samplers ask for it."""
        return self.denoise(x, sigma, cond)

    def predict(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The network's answer, (B, *shape), to x (B, *shape) and what tells the noise, (B,)."""
        c = self.noise_embedding(time) + self.cond_embedding(cond, len(x), x.device)
        out: Tensor = self.network(x, c)
        return out

    def training_items(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Items, some of them shifted, and conditions, some of them hidden."""
        x, cond = shifted(batch, self.settings.augment)
        return x, hide_labels(cond, self.null_cond(len(x)), self.settings.label_dropout)

    def path(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Iterator[Tensor]:
        """States from pure noise to data, (n, *shape) each; see `genzoo.samplers`."""
        s, shape = self.settings, self.spec.shape
        sigmas = self.sigmas(options.steps or s.steps)
        # Without labels there is nothing to lead away from but a worse model.
        weak, any_label = options.guide or self, self.null_cond(noise.n)
        away_from = any_label if options.guide is None else cond
        idle = options.guidance is None or not (cond or options.guide)
        denoise = guided(
            lambda x, sigma: self.guess(x, sigma, cond),
            lambda x, sigma: weak.denoise(x, sigma, away_from),
            1.0 if idle else float(options.guidance or 0.0),
            options.guidance_interval or (0.0, math.inf),
        )
        x = noise.normal(*shape) * float(sigmas[0])
        yield x
        sampler = find_sampler(options.sampler or s.sampler)
        yield from sampler(denoise, x, sigmas, lambda: noise.normal(*shape))

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """The end of `path`."""
        x = None
        for x in self.path(noise, cond, options):  # noqa: B007  (the states before are not kept)
            pass
        assert x is not None
        return x

    @property
    def likelihood_convention(self) -> str:
        """See `genzoo.model.ExplainsLikelihood`."""
        return self._solver.describe(self.spec, self.sigma_range)

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Log of levels' probability or points' density by the probability flow, (B,) nats."""
        return flow_log_prob(
            self,
            raw,
            cond,
            spec=self.spec,
            scale=float(self.sigma_data),
            solver=self._solver,
            generator=generator,
        )


def expand(value: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, …), to be multiplied with x (B, *shape)."""
    return value.view(-1, *[1] * (x.ndim - 1))
