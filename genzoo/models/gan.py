"""A modern baseline GAN without tricks: R3GAN (Huang et al. 2024, arXiv 2501.05441).

The critic compares each real item with a generated one (relativistic pairing loss), and is
kept smooth by zero-centred gradient penalties on real (R1) and generated (R2) data. No
normalization layers, no spectral norm, no minibatch statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.model import GenerativeModel
from genzoo.nets.adversarial import Layout, shown_to_critic, slope
from genzoo.nets.augmentation import shifted
from genzoo.nets.embeddings import ConditionEmbedding, hide_labels
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, Loss, Recipe, SampleOptions, TrainState


@dataclass(frozen=True)
class GANSettings:
    """Settings of `GAN`.

    Attributes:
        latent: length of the noise vector; 0 chooses 64 for images and 4 for points.
        backbone: ``conv`` on a grid of patches, or ``mlp`` on the flat item (always so for points).
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        width: features of both networks; 0 chooses 32 for images and 64 for points.
        depth: residual blocks of both networks.
        gamma: weight of R1 + R2 at the start of training; none chooses 3 for images and 0.03 for
            points, whose modes may be a hundredth of the data wide: a critic that tells them apart
            is steep (measured on ``grid``: with 0.1, four of 25 modes are well covered).
        gamma_end: weight of R1 + R2 at its end; none chooses 1 for images and 0.001 for points.
        augment: share of the training images that are shifted (both networks are told how far).
            Without, the critic won on Fashion-MNIST and the generator collapsed (measured).
        diffaugment: show the critic randomly moved and masked images only (Zhao et al. 2020).
        label_dropout: how often the critic is not told the label. With few images a label, a
            critic that always knows it learns those images by heart.
        batch_size: real items a phase; 0 chooses 128 for images and 512 for points.
        lr: learning rate at the start; none chooses 0.003 for images and 0.006 for points.
        lr_end: final learning rate as a fraction of `lr`.
        beta2: Adam's second-moment decay (β₁ is 0).
        grad_clip: norm at which gradients are clipped, 0 never; none chooses 2 for images and 0 for
            points. R3GAN does not clip; in its first tenth, a training on Fashion-MNIST went
            astray with a critic's gradient of norm 80 where 1 is usual, and never made up for it
            (measured: Fréchet distance 1.2 with clipping, 3.4 without).
        ema: half-life of the generator's average as a fraction of the budget.
    """

    latent: int = 0
    backbone: Literal["conv", "mlp"] = "conv"
    patch: int = 0
    width: int = 0
    depth: int = 2
    gamma: float | None = None
    gamma_end: float | None = None
    augment: float = 0.7
    diffaugment: bool = False
    label_dropout: float = 0.75
    batch_size: int = 0
    lr: float | None = None
    lr_end: float = 0.1
    beta2: float = 0.99
    grad_clip: float | None = None
    ema: float = 0.05


_FOR_IMAGES = GANSettings(
    latent=64, width=32, gamma=3.0, gamma_end=1.0, batch_size=128, lr=3e-3, grad_clip=2.0
)
_FOR_POINTS = GANSettings(
    latent=4, width=64, gamma=0.03, gamma_end=0.001, batch_size=512, lr=6e-3, grad_clip=0.0
)


class ResidualBlock(nn.Module):
    """Two layers without normalization; starts as the identity (Zhang et al. 2019)."""

    def __init__(self, layout: Layout, width: int) -> None:
        """`width` features in and out."""
        super().__init__()
        self.first, self.second = layout.layer(width, width), layout.layer(width, width)
        nn.init.kaiming_normal_(self.first.weight, a=0.2)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, *grid) -> (B, width, *grid)."""
        out: Tensor = x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))
        return out


class Generator(nn.Module):
    """Noise and label to an item in model space."""

    def __init__(self, spec: DataSpec, s: GANSettings) -> None:
        """Convolutions on a grid of patches, or linear layers."""
        super().__init__()
        self.layout = Layout(spec, s.backbone, s.patch)
        self.cond = ConditionEmbedding(spec, s.latent, s.augment > 0)
        self.embed = nn.Linear(2 * s.latent, s.width * math.prod(self.layout.grid))
        self.blocks = nn.Sequential(*(ResidualBlock(self.layout, s.width) for _ in range(s.depth)))
        self.out = self.layout.layer(s.width, self.layout.channels)
        nn.init.normal_(self.embed.weight, std=(2 * s.latent) ** -0.5)
        nn.init.kaiming_normal_(self.out.weight, a=0.2)  # as spread out as data from the start

    def forward(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, latent) -> (B, *shape)."""
        h = self.embed(torch.cat([z, self.cond(cond, len(z), z.device)], dim=1))
        h = self.blocks(h.view(len(z), -1, *self.layout.grid))
        return self.layout.unfold(self.out(F.leaky_relu(h, 0.2)))


class Critic(nn.Module):
    """An item and its label to one number, higher for real ones.

    The shift enters at the first layer, shift and label by projection at the last (Miyato &
    Koyama 2018, arXiv 1802.05637).
    """

    def __init__(self, spec: DataSpec, s: GANSettings) -> None:
        """The mirror image of `Generator`."""
        super().__init__()
        self.layout = Layout(spec, s.backbone, s.patch)
        self.embed = self.layout.layer(self.layout.channels, s.width)
        self.blocks = nn.Sequential(*(ResidualBlock(self.layout, s.width) for _ in range(s.depth)))
        self.features = nn.Linear(s.width * math.prod(self.layout.grid), 2 * s.width)
        self.early = ConditionEmbedding(spec.unconditional(), s.width, s.augment > 0)
        self.late = ConditionEmbedding(spec, 2 * s.width, s.augment > 0)
        self.out = nn.Linear(2 * s.width, 1)

    def forward(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, *shape) -> (B,)."""
        early, late = (e(cond, len(x), x.device) for e in (self.early, self.late))
        h = self.embed(self.layout.fold(x))
        h = self.blocks(h + early.view(len(x), -1, *[1] * len(self.layout.grid)))
        h = F.leaky_relu(self.features(F.leaky_relu(h, 0.2).flatten(1)), 0.2)
        score: Tensor = self.out(h).squeeze(1) + (h * late).sum(1) / math.sqrt(h.shape[1])
        return score


class GAN(GenerativeModel):
    """Generator and critic, trained in two phases of those names."""

    Settings = GANSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "base": {"width": 128, "depth": 3, "lr": 5e-4},
    }

    def __init__(self, spec: DataSpec, settings: GANSettings | None = None) -> None:
        """Build both networks."""
        super().__init__(spec, _chosen(settings or GANSettings(), spec))
        self.generator = Generator(spec, self.settings)
        self.critic = Critic(spec, self.settings)

    def recipe(self) -> Recipe:
        """Adam without first moment, as R3GAN."""
        s = self.settings
        return replace(
            super().recipe(), warmup=0.01, betas=(0.0, s.beta2), grad_clip=s.grad_clip or None
        )

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """``critic`` and ``generator``."""
        return {
            "critic": list(self.critic.parameters()),
            "generator": list(self.generator.parameters()),
        }

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """Relativistic loss f(D(G(z)) - D(x)) with f = softplus, signs by phase (eq. 2 and 4)."""
        x, cond = shifted(batch, self.settings.augment)
        known = hide_labels(cond, self.null_cond(len(x)), self.settings.label_dropout)
        z = torch.randn(len(x), self.settings.latent, device=x.device)
        real = shown_to_critic(x, self.spec, self.settings.diffaugment)
        if phase == "generator":
            fake = self._fake(z, cond)
            gap = self.critic(fake, known) - self.critic(real, known)
            total = F.softplus(-gap).mean()
            return Loss(total, {"adversarial": total.detach()})
        with torch.no_grad():
            fake = self._fake(z, cond)
        real, fake = real.detach().requires_grad_(), fake.requires_grad_()
        on_real, on_fake = self.critic(real, known), self.critic(fake, known)
        adversarial = F.softplus(on_fake - on_real).mean()
        r1, r2 = _squared_slope(on_real, real), _squared_slope(on_fake, fake)
        total = adversarial + self._gamma(state) / 2 * (r1 + r2)
        parts = {
            "adversarial": adversarial,
            "r1": r1,
            "r2": r2,
            "gap": (on_real - on_fake).mean(),
        }
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """One evaluation of the generator."""
        z = noise.normal(self.settings.latent) * (options.temperature or 1.0)
        out: Tensor = self.generator(z, cond)
        return out

    def _fake(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return shown_to_critic(self.generator(z, cond), self.spec, self.settings.diffaugment)

    def _gamma(self, state: TrainState) -> float:
        """The penalty's weight, falling from `gamma` to `gamma_end` by a half cosine."""
        s = self.settings
        fall = (1 + math.cos(math.pi * state.progress)) / 2
        return float(s.gamma_end + (s.gamma - s.gamma_end) * fall)


def _chosen(s: GANSettings, spec: DataSpec) -> GANSettings:
    """The settings with what they leave open chosen for images or for points."""
    default = _FOR_IMAGES if spec.is_image else _FOR_POINTS
    return replace(
        s,
        latent=s.latent or default.latent,
        width=s.width or default.width,
        gamma=default.gamma if s.gamma is None else s.gamma,
        gamma_end=default.gamma_end if s.gamma_end is None else s.gamma_end,
        batch_size=s.batch_size or default.batch_size,
        lr=default.lr if s.lr is None else s.lr,
        grad_clip=default.grad_clip if s.grad_clip is None else s.grad_clip,
    )


def _squared_slope(score: Tensor, x: Tensor) -> Tensor:
    """E|∇ₓ D(x)|², differentiable (R1 on real data, R2 on generated)."""
    return slope(score, x).square().sum(1).mean()
