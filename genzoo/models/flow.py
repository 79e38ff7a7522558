"""A normalizing flow of causal transformers on patches (TarFlow, Zhai et al. 2024, 2412.06329).

Each block standardizes every token (patch) with a shift and a scale that a causal transformer
reads off the tokens before it; the next block runs in the opposite order. Density is one
parallel pass, sampling goes token by token.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genzoo.data.ranges import spread
from genzoo.model import Density, GenerativeModel
from genzoo.nets.augmentation import shifted
from genzoo.nets.backbone import default_patch
from genzoo.nets.embeddings import ConditionEmbedding
from genzoo.nets.splines import inverse_spline, knots, parameters_of, spline
from genzoo.nets.transformer import Block, patchify, unpatchify
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, Loss, Recipe, SampleOptions, TrainState

BOUND = 5.0  # splines live on [-5, 5], the identity beyond


@dataclass(frozen=True)
class FlowSettings:
    """Settings of `Flow`.

    Attributes:
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        width: features of the transformers.
        depth: transformer layers a block.
        blocks: autoregressive blocks, in alternating order.
        heads: attention heads.
        dropout: in the MLPs.
        augment: share of the training images that are shifted (the network is told how far).
        bins: of the splines of points (measured on `ring` and `grid`); images have none.
        noise: standard deviation in model space of Gaussian noise that training adds to images in
            place of uniform dequantization and that sampling removes; 0 trains for bits/dim.
        batch_size: items a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    patch: int = 0
    width: int = 64
    depth: int = 1
    blocks: int = 4
    heads: int = 4
    dropout: float = 0.1
    augment: float = 0.7
    bins: int = 16
    noise: float = 0.1
    batch_size: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class AutoregressiveBlock(nn.Module):
    """z_t = W (x_t - μ(x_<t)) exp(-α(x_<t)): one block, invertible token by token.

    W is a learned matrix that mixes the numbers within a token (Glow's 1×1 convolution,
    Kingma & Dhariwal 2018), which the autoregression alone would leave independent. Points have
    few numbers, whose laws have many modes: a spline (Durkan et al. 2019) bends each of theirs.
    """

    def __init__(
        self, tokens: int, size: int, reverse: bool, s: FlowSettings, *, points: bool = False
    ) -> None:
        """`tokens` tokens of `size` numbers, visited backwards if `reverse`."""
        super().__init__()
        self.reverse = reverse
        self.bins = s.bins if points else 0
        dropout = 0.0 if points else s.dropout
        self.embed = nn.Linear(size, s.width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, s.width))
        self.layers = nn.ModuleList(
            Block(s.width, s.heads, 0, causal=True, dropout=dropout) for _ in range(s.depth)
        )
        self.norm = nn.LayerNorm(s.width)
        self.size, self.bends = size, parameters_of(self.bins) if self.bins else 0
        self.out = nn.Linear(s.width, (2 + self.bends) * size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.mix = nn.Parameter(torch.eye(size))

    def forward(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the latent.

        Args:
            x: tokens (B, T, P).
            start: what stands before the first token, (B, width).

        Returns:
            z (B, T, P) and log |det ∂z/∂x|, (B,).
        """
        x = self._order(x)
        before = torch.cat([start[:, None], self.embed(x[:, :-1])], dim=1) + self.position
        shift, log_scale, raw = self._told(before, None)
        z, log_slope = (x - shift) * torch.exp(-log_scale), -log_scale
        if self.bins:
            z, bent = spline(z, knots(raw, self.bins, BOUND))
            log_slope = log_slope + bent
        mixed = torch.linalg.slogdet(self.mix.float()).logabsdet * x.shape[1]
        return self._order(z @ self.mix.T), mixed + log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor, start: Tensor) -> Tensor:
        """Map z (B, T, P) back to x (B, T, P), one token after the other with a key-value cache."""
        z = torch.linalg.solve(self.mix.T, self._order(z), left=False)  # X mixᵀ = z
        caches: list[list[Tensor]] = [[] for _ in self.layers]
        before, tokens = start, []
        for t in range(z.shape[1]):
            told = self._told((before + self.position[t])[:, None], caches)
            shift, log_scale, raw = (part[:, 0] for part in told)
            straight = (
                inverse_spline(z[:, t], knots(raw, self.bins, BOUND)) if self.bins else z[:, t]
            )
            tokens.append(straight * torch.exp(log_scale) + shift)
            before = self.embed(tokens[-1])
        return self._order(torch.stack(tokens, dim=1))

    def _told(self, h: Tensor, caches: list[list[Tensor]] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Shift and log scale (B, T, P), and what a spline is made of (B, T, P, `bends`)."""
        for i, layer in enumerate(self.layers):
            h = layer(h, None, caches[i] if caches is not None else None)
        shift, scale, raw = self.out(self.norm(h)).split(
            [self.size, self.size, self.bends * self.size], dim=2
        )
        # a scale beyond e^±4 would only be noise
        return shift, 4 * torch.tanh(scale / 4), raw.unflatten(2, (self.size, self.bends))

    def _order(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.reverse else x


class NormalizingFlow(Density, GenerativeModel):
    """What all flows share: an invertible map to standard normal noise, and its Jacobian.

    A density on the levels of images is hard to fit and its samples are rough. With the setting
    `noise` it is that of noisy images, and samples are denoised by one gradient (Zhai et
    al. 2024). That costs bits/dim; with noise 0 dequantized images are fitted. Points
    have a density of their own and are never made noisy.
    """

    latent_shape: tuple[int, ...]

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise that the density includes, in model space."""
        return float(self.settings.noise) if self.spec.is_image else 0.0

    @property
    def likelihood_convention(self) -> str:
        """See `genzoo.model.ExplainsLikelihood`."""
        noise = f" of images with noise of {self.sigma:g}, before denoising" if self.sigma else ""
        return super().likelihood_convention.replace("density", f"density{noise}", 1)

    @abstractmethod
    def encode_with_log_det(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """From x (B, *shape) to z (B, *latent_shape) and log |det ∂z/∂x|, (B,)."""

    @abstractmethod
    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Map z (B, *latent_shape) back to x (B, *shape)."""

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """Negative log-likelihood of noisy or dequantized data, nats per dimension."""
        x, cond = shifted(batch, self.settings.augment)
        z, log_det = self.encode_with_log_det(self.blurred(x), cond)
        total = -(log_normal(z) + log_det).mean() / self.spec.dim
        parts = {"nats_per_dim": total, "log_det": log_det.mean() / self.spec.dim}
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def blurred(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What the density is fitted to: noisy data, or dequantized ones; (B, *shape)."""
        if not self.sigma:
            return spread(x, self.spec, generator)
        source = x.device if generator is None else generator.device
        normal = torch.randn(x.shape, generator=generator, device=source).to(x.device)
        return x + self.sigma * normal

    def log_density(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Log N(z; 0, I) + log |det ∂z/∂x|, (B,) nats."""
        z, log_det = self.encode_with_log_det(x, cond)
        return log_normal(z) + log_det

    def encode(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """See `genzoo.model.HasLatent`."""
        return self.encode_with_log_det(x, cond)[0]

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """Decode standard normal noise, and remove the noise that training added."""
        z = noise.normal(*self.latent_shape) * (options.temperature or 1.0)
        x = self.decode(z, cond)
        return tweedie(lambda x: self.log_density(x, cond), x, self.sigma) if self.sigma else x


def tweedie(log_density: Callable[[Tensor], Tensor], x: Tensor, sigma: float) -> Tensor:
    """E[x₀ | x] = x + σ² ∇ log p(x), where p is the density of x = x₀ + σε (Robbins 1956).

    Args:
        log_density: log p of noisy items, (B, *shape) -> (B,) nats, of each item alone.
        x: noisy items, (B, *shape).
        sigma: standard deviation of their noise.
    """
    with torch.enable_grad():
        noisy = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(log_density(noisy).sum(), noisy)
    return x + sigma**2 * score


def log_normal(z: Tensor) -> Tensor:
    """Log N(z; 0, I), (B, …) -> (B,) nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)


class Flow(NormalizingFlow):
    """A stack of `AutoregressiveBlock`; a density in model space."""

    Settings = FlowSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"augment": 0.0, "dropout": 0.0},
        "base": {"width": 256, "depth": 3, "blocks": 6, "augment": 0.0, "lr": 5e-4},
    }

    def __init__(self, spec: DataSpec, settings: FlowSettings | None = None) -> None:
        """Patches are tokens; for points every coordinate is one."""
        super().__init__(spec, settings)
        s = self.settings
        self.patch = (s.patch or default_patch(spec)) if spec.is_image else 1
        size = spec.shape[0] * self.patch**2 if spec.is_image else 1
        self.tokens, self.size = spec.dim // size, size
        self.latent_shape = (self.tokens, size)
        self.start = ConditionEmbedding(spec, s.width, s.augment > 0)
        self.blocks = nn.ModuleList(
            AutoregressiveBlock(self.tokens, size, bool(i % 2), s, points=not spec.is_image)
            for i in range(s.blocks)
        )

    def recipe(self) -> Recipe:
        """AdamW with a cosine to 0."""
        return replace(super().recipe(), betas=(0.9, 0.95))

    def encode_with_log_det(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """From x (B, *shape) to z (B, tokens, size) and log |det ∂z/∂x|, (B,)."""
        start = self.start(cond, len(x), x.device)
        z, total = patchify(x, self.patch), torch.zeros(len(x), device=x.device)
        for block in self.blocks:
            z, log_det = block(z, start)
            total = total + log_det
        return z, total

    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Map z (B, tokens, size) back to x (B, *shape)."""
        start = self.start(cond, len(z), z.device)
        for block in reversed(list(self.blocks)):
            assert isinstance(block, AutoregressiveBlock)
            z = block.inverse(z, start)
        return unpatchify(z, self.patch, self.spec.shape)


@dataclass(frozen=True)
class DensityFlowSettings(FlowSettings):
    """Settings of `DensityFlow`: those of `FlowSettings`, without noise."""

    noise: float = 0.0


class DensityFlow(Flow):
    """`Flow` trained for bits/dim on dequantized images; its samples are rougher."""

    Settings = DensityFlowSettings
