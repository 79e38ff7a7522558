"""The GANs before `genzoo.models.gan`: one skeleton, three answers to what a critic is for.

A critic D learns to tell data from what the generator G makes, and G climbs D. The classes differ
in nothing but this game:

- `DCGAN`: D is a classifier whose logit estimates log p(x) / q(x); G takes the non-saturating side.
- `WGANGP`: D estimates a transport distance, held to slope 1 by a gradient penalty.
- `SNGAN`: D has a hinge loss, and is held to slope 1 by the spectral norm of its layers.

Notation: p is the law of the data, q that of G(z) with z ~ N(0, I).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrize

from genzoo.model import GenerativeModel
from genzoo.nets.adversarial import Layout, shown_to_critic, slope
from genzoo.nets.augmentation import shifted
from genzoo.nets.embeddings import ConditionEmbedding, hide_labels
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, Loss, Recipe, SampleOptions, TrainState


@dataclass(frozen=True)
class ClassicGANSettings:
    """What the classic GANs have in common.

    Attributes:
        latent: length of the noise vector.
        backbone: ``conv`` on a grid of patches, or ``mlp`` on the flat item (always so for points).
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        width: features of both networks.
        depth: hidden layers of both networks beside the first.
        augment: share of the training images that are shifted (both networks are told how far).
        diffaugment: show the critic randomly moved and masked images only (Zhao et al. 2020).
        label_dropout: how often the critic is not told the label.
        critic_steps: phases of the critic before each of the generator (n_critic).
        batch_size: real items a phase.
        lr: learning rate at the start (2e-4 in the papers, for hours instead of a minute).
        lr_end: final learning rate as a fraction of `lr`.
        beta1: Adam's first-moment decay.
        beta2: Adam's second-moment decay.
        ema: half-life of the generator's average as a fraction of the budget.
    """

    latent: int = 64
    backbone: Literal["conv", "mlp"] = "conv"
    patch: int = 0
    width: int = 64
    depth: int = 2
    augment: float = 0.7
    diffaugment: bool = False
    label_dropout: float = 0.5
    critic_steps: int = 1
    batch_size: int = 128
    lr: float = 1e-3
    lr_end: float = 0.1
    beta1: float = 0.5
    beta2: float = 0.999
    ema: float = 0.05


class Generator(nn.Module):
    """Noise and label to an item: ReLU and batch norm, tanh at the end (DCGAN, section 3)."""

    def __init__(self, spec: DataSpec, s: ClassicGANSettings) -> None:
        """A grid of patches takes the place of DCGAN's strided convolutions, for speed."""
        super().__init__()
        self.layout = Layout(spec, s.backbone, s.patch)
        self.cond = ConditionEmbedding(spec, s.latent, s.augment > 0)
        self.embed = nn.Linear(2 * s.latent, s.width * math.prod(self.layout.grid))
        hidden = (self._hidden(s.width) for _ in range(s.depth))
        self.blocks = nn.Sequential(self._norm(s.width), nn.ReLU(), *hidden)
        self.out = self.layout.layer(s.width, self.layout.channels)
        self.bound = nn.Tanh() if spec.is_image else nn.Identity()

    def forward(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, latent) -> (B, *shape)."""
        h = self.embed(torch.cat([z, self.cond(cond, len(z), z.device)], dim=1))
        h = self.blocks(h.view(len(z), -1, *self.layout.grid))
        out: Tensor = self.bound(self.layout.unfold(self.out(h)))
        return out

    def _hidden(self, width: int) -> nn.Module:
        return nn.Sequential(self.layout.layer(width, width), self._norm(width), nn.ReLU())

    def _norm(self, width: int) -> nn.Module:
        return nn.BatchNorm2d(width) if self.layout.grid else nn.BatchNorm1d(width)


class Critic(nn.Module):
    """An item and its label to one number, higher for real ones.

    Without batch norm, which would make the score of an item depend on the others. Label and shift
    enter by projection (Miyato & Koyama 2018, arXiv 1802.05637, eq. 3).
    """

    def __init__(self, spec: DataSpec, s: ClassicGANSettings) -> None:
        """The mirror image of `Generator`."""
        super().__init__()
        self.layout = Layout(spec, s.backbone, s.patch)
        sizes = [self.layout.channels] + [s.width] * (s.depth + 1)
        pairs = zip(sizes, sizes[1:], strict=False)
        self.blocks = nn.Sequential(
            *(nn.Sequential(self.layout.layer(a, b), nn.LeakyReLU(0.2)) for a, b in pairs)
        )
        features = s.width * math.prod(self.layout.grid)
        self.cond = ConditionEmbedding(spec, features, s.augment > 0)
        self.out = nn.Linear(features, 1)

    def forward(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, *shape) -> (B,)."""
        h = self.blocks(self.layout.fold(x)).flatten(1)
        score: Tensor = self.out(h).squeeze(1) + (h * self.cond(cond, len(x), x.device)).sum(1)
        return score


class ClassicGAN(GenerativeModel):
    """Generator and critic in phases of those names; the rules of the game are left open."""

    Settings = ClassicGANSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "base": {"width": 128, "depth": 3, "lr": 2e-4},
    }

    def __init__(self, spec: DataSpec, settings: ClassicGANSettings | None = None) -> None:
        """Build both networks."""
        super().__init__(spec, settings)
        self.generator = Generator(spec, self.settings)
        self.critic = Critic(spec, self.settings)

    @abstractmethod
    def critic_loss(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """What D descends, from its scores (B,) of data and of generated items."""

    @abstractmethod
    def generator_loss(self, on_fake: Tensor) -> Tensor:
        """What G descends, from the scores (B,) of its items."""

    def penalty(self, real: Tensor, fake: Tensor, cond: Mapping[str, Tensor]) -> Tensor | None:
        """What D pays for being steep, if anything."""
        return None

    def recipe(self) -> Recipe:
        """Adam, whose moments are settings; unclipped."""
        s = self.settings
        return replace(super().recipe(), betas=(s.beta1, s.beta2), grad_clip=None)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """``critic`` and ``generator``."""
        return {
            "critic": list(self.critic.parameters()),
            "generator": list(self.generator.parameters()),
        }

    def phases(self, state: TrainState) -> tuple[str, ...]:
        """The critic first, several times if it is to be near its optimum."""
        steps: int = self.settings.critic_steps
        return ("critic",) * steps + ("generator",)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """`generator_loss`, or `critic_loss` and `penalty`."""
        x, cond = shifted(batch, self.settings.augment)
        known = hide_labels(cond, self.null_cond(len(x)), self.settings.label_dropout)
        z = torch.randn(len(x), self.settings.latent, device=x.device)
        if phase == "generator":
            total = self.generator_loss(self.critic(self._shown(self.generator(z, cond)), known))
            return Loss(total, {"adversarial": total.detach()})
        with torch.no_grad():
            real, fake = self._shown(x), self._shown(self.generator(z, cond))
        on_real, on_fake = self.critic(real, known), self.critic(fake, known)
        total = self.critic_loss(on_real, on_fake)
        parts = {"adversarial": total, "gap": (on_real - on_fake).mean()}
        penalty = self.penalty(real, fake, known)
        if penalty is not None:
            total, parts["penalty"] = total + penalty, penalty
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """One evaluation of the generator."""
        z = noise.normal(self.settings.latent) * (options.temperature or 1.0)
        out: Tensor = self.generator(z, cond)
        return out

    def _shown(self, x: Tensor) -> Tensor:
        return shown_to_critic(x, self.spec, self.settings.diffaugment)


# -- the classifier ------------------------------------------------------------------------------


class DCGAN(ClassicGAN):
    """The original game (Goodfellow et al. 2014, arXiv 1406.2661) with DCGAN's networks.

    Nothing holds the critic back (Radford et al. 2016, arXiv 1511.06434): where its logit is flat
    or generated items lie in one mode, G learns nothing of the others. On well-separated modes it
    may collapse, and is kept as it is to show that.
    """

    def critic_loss(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """-E log σ(D(x)) - E log(1 - σ(D(G(z)))) (eq. 1), least where D = log p / q (prop. 1)."""
        return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()

    def generator_loss(self, on_fake: Tensor) -> Tensor:
        """-E log σ(D(G(z))), whose gradient does not vanish where D wins (section 3)."""
        return F.softplus(-on_fake).mean()


# -- the transport distance ----------------------------------------------------------------------


@dataclass(frozen=True)
class WGANGPSettings(ClassicGANSettings):
    """Settings of `WGANGP`; n_critic, the penalty's weight and Adam's decays are the paper's.

    Attributes:
        penalty: weight λ of the gradient penalty.
    """

    penalty: float = 10.0
    critic_steps: int = 5
    beta1: float = 0.0
    beta2: float = 0.9


class WGANGP(ClassicGAN):
    """Wasserstein GAN with a gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028).

    Over all D of slope at most 1, max E D(x) - E D(G(z)) is the Wasserstein-1 distance of p and q
    (Arjovsky et al. 2017, arXiv 1701.07875, eq. 2), which falls as q moves towards p even where
    they do not overlap.
    """

    Settings = WGANGPSettings

    def critic_loss(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """E D(G(z)) - E D(x) (eq. 3, without the penalty)."""
        return on_fake.mean() - on_real.mean()

    def generator_loss(self, on_fake: Tensor) -> Tensor:
        """-E D(G(z))."""
        return -on_fake.mean()

    def penalty(self, real: Tensor, fake: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """λ E(|∇D(x̂)| - 1)², x̂ uniform between a real and a generated item (eq. 3)."""
        between = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        x = torch.lerp(real, fake.to(real.dtype), between).requires_grad_()
        steepness = slope(self.critic(x, cond), x).norm(dim=1)
        out: Tensor = self.settings.penalty * (steepness - 1).square().mean()
        return out


# -- the bounded layers --------------------------------------------------------------------------


class SpectralNorm(nn.Module):
    """W -> W / σ(W), with the largest singular value σ by power iteration (Miyato et al., eq. 8).

    A layer is Lipschitz with constant σ(W), so a critic of such layers is with constant 1. The
    kernel of a convolution counts as a matrix (out, in·k·k), as in the paper: that bounds the
    layer up to the number of times that a pixel is read.
    """

    left: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Start near the first singular vector of `weight`."""
        super().__init__()
        self.register_buffer("left", F.normalize(torch.randn(len(weight)), dim=0))
        for _ in range(20):
            self.iterate(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """σ ≈ uᵀ W v with constant u and v: its gradient is u vᵀ."""
        matrix = weight.flatten(1)
        right = self._right(matrix)
        return weight / (self.left @ matrix @ right)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One power iteration, u <- W Wᵀ u / |W Wᵀ u| (algorithm 1)."""
        matrix = weight.flatten(1)
        self.left.copy_(F.normalize(matrix @ self._right(matrix), dim=0))

    @torch.no_grad()
    def _right(self, matrix: Tensor) -> Tensor:
        return F.normalize(matrix.T @ self.left, dim=0)


@dataclass(frozen=True)
class SNGANSettings(ClassicGANSettings):
    """Settings of `SNGAN`; Adam's decays are the paper's."""

    lr: float = 3e-4  # measured on ring: with 1e-3 no mode is well covered, with 3e-4 all are
    beta1: float = 0.0
    beta2: float = 0.9


class SNGAN(ClassicGAN):
    """Spectral normalization of the critic (Miyato et al. 2018, arXiv 1802.05957)."""

    Settings = SNGANSettings

    def __init__(self, spec: DataSpec, settings: ClassicGANSettings | None = None) -> None:
        """Every weight matrix of the critic is divided by its spectral norm."""
        super().__init__(spec, settings)
        for layer in list(self.critic.modules()):
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
                parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))

    def critic_loss(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))) (eq. 16): right by a margin is enough."""
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()

    def generator_loss(self, on_fake: Tensor) -> Tensor:
        """-E D(G(z)) (eq. 17)."""
        return -on_fake.mean()

    def on_step_end(self, state: TrainState) -> None:
        """One power iteration a step is enough: the weights hardly move in between."""
        for layer in self.critic.modules():
            if isinstance(layer, parametrize.ParametrizationList):
                (norm,) = layer
                assert isinstance(norm, SpectralNorm)
                norm.iterate(layer.original)
