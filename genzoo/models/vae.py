"""A hierarchical variational autoencoder: a small VDVAE (Child 2021, arXiv 2011.10650).

A top-down network makes the item from several layers of latents, each with a prior that the
layers above it inform; an encoder proposes the posterior of each layer. Images have a
discretized-logistic-mixture likelihood (PixelCNN++, Salimans et al. 2017, arXiv 1701.05517),
a probability mass on levels, so that its bound is comparable with other families'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.data.ranges import to_model
from genzoo.errors import InputError
from genzoo.model import GenerativeModel
from genzoo.nets.augmentation import shifted
from genzoo.nets.backbone import default_patch
from genzoo.nets.embeddings import ConditionEmbedding
from genzoo.nets.likelihood import GaussianMixture, Output
from genzoo.nets.transformer import Block, patchify, unpatchify
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, Recipe, SampleOptions, TrainState

Normals = tuple[Tensor, Tensor]  # mean and log standard deviation


@dataclass(frozen=True)
class VAESettings:
    """Settings of `VAE`.

    Attributes:
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        width: features of the networks.
        layers: stochastic layers, from the top down; the first is one vector for the whole item.
        latent: numbers a token in each layer.
        mixtures: logistics a pixel.
        components: Gaussians that a point is drawn from (measured on ``grid``: with 1, bridges
            between the modes leave a fifth of the samples within them; 32 miss some of 25 modes).
        heads: attention heads.
        dropout: in the MLPs.
        augment: share of the training images that are shifted (the networks are told how far).
        beta: weight of the KL terms in training (1 is the ELBO).
        kl_warmup: fraction of the budget over which the KL terms rise to `beta`.
        importance_samples: K of the likelihood's bound IWAE-K; 1 is the ELBO.
        output: what a sampled image is of its likelihood: ``auto`` and ``sample`` draw from it,
            which is what the bound speaks of; ``mean`` takes its mean, which has no grain (measured
            on Fashion-MNIST: a lower FD, and pixels that are easier to tell from real ones).
        batch_size: items a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    patch: int = 0
    width: int = 64
    layers: int = 3
    latent: int = 8
    mixtures: int = 3
    components: int = 128
    heads: int = 4
    dropout: float = 0.1
    augment: float = 0.7
    beta: float = 1.0
    kl_warmup: float = 0.1
    importance_samples: int = 8
    output: Output = "auto"
    batch_size: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class StochasticLayer(nn.Module):
    """One layer of latents: prior from above, posterior from above and the encoder."""

    def __init__(
        self, width: int, latent: int, heads: int, cond_width: int, dropout: float
    ) -> None:
        """`latent` numbers for each token."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.prior = nn.Linear(width, 2 * latent)
        propose = nn.Linear(width, 2 * latent)
        self.posterior = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), propose)
        self.merge = nn.Linear(latent, width)
        self.block = Block(width, heads, cond_width, dropout=dropout, expand=2)
        for layer in (self.prior, propose):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward_prior(self, h: Tensor) -> Normals:
        """p(z | above): (B, T, width) -> mean and log std, (B, T, latent) each."""
        return _normals(self.prior(self.norm(h)))

    def forward_posterior(self, h: Tensor, features: Tensor) -> Normals:
        """q(z | above, x), in the shape of the prior."""
        return _normals(self.posterior(torch.cat([self.norm(h), features], dim=2)))

    def absorb(self, h: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Add the latents to the stream and let the tokens talk."""
        out: Tensor = self.block(h + self.merge(z), c)
        return out


class VAE(GenerativeModel):
    """Hierarchical VAE; `log_prob` is an importance-weighted lower bound."""

    Settings = VAESettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"augment": 0.0, "dropout": 0.0},
        "base": {
            "width": 256,
            "layers": 6,
            "latent": 16,
            "mixtures": 5,
            "augment": 0.0,
            "lr": 5e-4,
        },
    }
    likelihood: LikelihoodKind = "bound"
    summable = True

    def __init__(self, spec: DataSpec, settings: VAESettings | None = None) -> None:
        """Patches are tokens; a point is a single token."""
        super().__init__(spec, settings)
        s = self.settings
        if s.importance_samples < 1:
            raise InputError(f"importance_samples {s.importance_samples}: at least 1 is needed")
        self.patch = (s.patch or default_patch(spec)) if spec.is_image else 1
        size = spec.shape[0] * self.patch**2 if spec.is_image else spec.dim
        self.tokens = spec.dim // size
        self.label = ConditionEmbedding(spec, s.width, s.augment > 0)
        self.embed = nn.Linear(size, s.width)
        self.position = nn.Parameter(0.02 * torch.randn(self.tokens, s.width))
        self.encoder = nn.ModuleList(
            Block(s.width, s.heads, s.width, dropout=s.dropout, expand=2) for _ in range(2)
        )
        self.top = nn.Parameter(0.02 * torch.randn(self.tokens, s.width))
        self.layers = nn.ModuleList(
            StochasticLayer(s.width, s.latent, s.heads, s.width, s.dropout) for _ in range(s.layers)
        )
        self.norm = nn.LayerNorm(s.width)
        of_points = GaussianMixture.numbers(s.components, spec.dim)
        numbers = 3 * s.mixtures * size if spec.is_image else of_points
        self.out = nn.Linear(s.width, numbers)
        nn.init.zeros_(self.out.weight)
        if not spec.is_image:  # components that are equal would stay equal
            nn.init.normal_(self.out.bias)

    def recipe(self) -> Recipe:
        """AdamW with a cosine to 0."""
        return replace(super().recipe(), betas=(0.9, 0.95))

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """-ELBO in nats per dimension, its KL part warmed up."""
        x, cond = shifted(batch, self.settings.augment)
        log_likelihood, kl = self._elbo_parts(x, cond, None)
        warm = (
            min(1.0, state.progress / self.settings.kl_warmup) if self.settings.kl_warmup else 1.0
        )
        scale = 1 / self.spec.dim
        reconstruction, divergence = -log_likelihood.mean() * scale, kl.mean() * scale
        total = reconstruction + self.settings.beta * warm * divergence
        parts = {
            "negative_elbo": reconstruction + divergence,
            "reconstruction": reconstruction,
            "kl": divergence,
        }
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    @property
    def likelihood_convention(self) -> str:
        """See `genzoo.model.ExplainsLikelihood`."""
        k = self.settings.importance_samples
        return (
            "ELBO, one draw of the latents" if k == 1 else f"IWAE-K, K = {k} draws of the latents"
        )

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Log mean weight of K draws of the latents (Burda et al. 2016, eq. 8), (B,) nats.

        Of levels a bound of the log mass, of points of the log density in data units.
        """
        samples = self.settings.importance_samples
        x = to_model(raw, self.spec)
        encoded = self._encode(x, cond)
        total = x.new_full((len(x),), -math.inf)
        for _ in range(samples):
            log_likelihood, _, log_ratio = self._top_down(x, *encoded, generator)
            total = torch.logaddexp(total, log_likelihood - log_ratio)
        return total - math.log(samples) - self._log_unit

    def rough_log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """One-sample ELBO with KLs in closed form, which varies less than a weight, (B,) nats."""
        log_likelihood, kl = self._elbo_parts(to_model(raw, self.spec), cond, generator)
        return log_likelihood - kl - self._log_unit

    @property
    def _log_unit(self) -> float:
        """Log volume of model space in data units: 0 for levels, whose mass has no unit."""
        return 0.0 if self.spec.is_image else sum(math.log(s) for s in self.spec.scale)

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """Latents from the priors, then the item from its likelihood."""
        temperature = options.temperature or 1.0
        c = self.label(cond, noise.n, noise.device)
        h = self._stream(c, lambda shape: noise.normal(*shape) * temperature)
        if self.spec.is_image:
            if self.settings.output == "mean":
                return _mean_of_logistics(self._logistics(h))
            uniform = noise.uniform(2, *self.spec.shape)
            return _sample_logistics(self._logistics(h), uniform, temperature)
        uniform, normal = noise.uniform(1)[:, 0], noise.normal(self.spec.dim)
        return self._mixture(h).sample(uniform, normal, temperature)

    # -- latent code ----------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """All layers' numbers in a row; the first layer has one token."""
        s = self.settings
        return ((1 + (s.layers - 1) * self.tokens) * s.latent,)

    def encode(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The posterior's means in units of the prior, (z - μ) / σ: N(0, I) of its own draws.

        What a layer's prior expects depends on the layers above it; so measured, codes of
        different items can be mixed.
        """
        c, features = self._encode(x, cond)
        h, code = self.top.expand(len(x), -1, -1), []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, StochasticLayer)
            mean, log_std = layer.forward_prior(_shared(h, i))
            z, _ = layer.forward_posterior(_shared(h, i), _shared(features, i))
            code.append(((z - mean) * torch.exp(-log_std)).flatten(1))
            h = layer.absorb(h, z, c)
        return torch.cat(code, dim=1)

    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The likelihood's mean, (B, *shape), of codes (B, *latent_shape); of points its mode."""
        taken = 0

        def layer_code(shape: tuple[int, ...]) -> Tensor:
            nonlocal taken
            start, taken = taken, taken + math.prod(shape)
            return z[:, start:taken].view(-1, *shape)

        h = self._stream(self.label(cond, len(z), z.device), layer_code)
        if not self.spec.is_image:
            return self._mixture(h).mode()
        return _mean_of_logistics(self._logistics(h))

    def _stream(self, c: Tensor, code: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """Top-down with z = μ + σ · code, where `code` gives each layer's (T, latent) in turn."""
        h = self.top.expand(len(c), -1, -1)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, StochasticLayer)
            mean, log_std = layer.forward_prior(_shared(h, i))
            h = layer.absorb(h, mean + log_std.exp() * code(tuple(mean.shape[1:])), c)
        return h

    def _elbo_parts(
        self, x: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Log p(x | z) with z from the posterior, and the sum of KLs, (B,) nats each."""
        log_likelihood, kl, _ = self._top_down(x, *self._encode(x, cond), generator)
        return log_likelihood, kl

    def _encode(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Condition (B, width) and the encoder's features (B, T, width)."""
        c = self.label(cond, len(x), x.device)
        tokens = patchify(x, self.patch) if self.spec.is_image else x[:, None]
        features = self.embed(tokens) + self.position
        for block in self.encoder:
            features = block(features, c)
        return c, features

    def _top_down(
        self, x: Tensor, c: Tensor, features: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One draw of the latents from the posterior.

        Returns:
            (B,) nats each: log p(x | z); the sum of the layers' KLs; log q(z | x) / p(z).
        """
        h = self.top.expand(len(x), -1, -1)
        kl, log_ratio = (torch.zeros(len(x), device=x.device) for _ in range(2))
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, StochasticLayer)
            prior = layer.forward_prior(_shared(h, i))
            posterior = layer.forward_posterior(_shared(h, i), _shared(features, i))
            mean, log_std = posterior
            epsilon = torch.randn(mean.shape, generator=generator, device=x.device)
            z = mean + log_std.exp() * epsilon
            h = layer.absorb(h, z, c)
            kl = kl + kl_divergence(posterior, prior).flatten(1).sum(1)
            log_ratio = log_ratio + log_ratio_of_normals(z, posterior, prior).flatten(1).sum(1)
        return self._log_likelihood(x, h), kl, log_ratio

    def _log_likelihood(self, x: Tensor, h: Tensor) -> Tensor:
        if self.spec.levels is not None:
            log_mass = log_mass_of_logistics(x, self._logistics(h), self.spec.levels)
            return log_mass.flatten(1).sum(1)
        return self._mixture(h).log_prob(x)

    def _logistics(self, h: Tensor) -> Tensor:
        """Stream to mixture parameters (B, 3, K, C, H, W): logits, means, log scales."""
        out = unpatchify(self.out(self.norm(h)), self.patch, self.spec.shape)
        return out.view(len(h), 3, self.settings.mixtures, *self.spec.shape)

    def _mixture(self, h: Tensor) -> GaussianMixture:
        return GaussianMixture.of(self.out(self.norm(h)).flatten(1), self.settings.components)


def kl_divergence(q: Normals, p: Normals) -> Tensor:
    """KL(q ‖ p) of normals with independent coordinates, elementwise, in nats."""
    (mean_q, log_q), (mean_p, log_p) = q, p
    ratio = torch.exp(2 * (log_q - log_p))
    distance = ((mean_q - mean_p) * torch.exp(-log_p)).square()
    return 0.5 * (ratio + distance - 1) + log_p - log_q


def log_ratio_of_normals(z: Tensor, q: Normals, p: Normals) -> Tensor:
    """Log q(z) / p(z) of normals with independent coordinates, elementwise, in nats."""
    (mean_q, log_q), (mean_p, log_p) = q, p
    squares = ((z - mean_p) * torch.exp(-log_p)) ** 2 - ((z - mean_q) * torch.exp(-log_q)) ** 2
    return 0.5 * squares + log_p - log_q


def log_mass_of_logistics(x: Tensor, parameters: Tensor, levels: int) -> Tensor:
    """Log P(level) of a mixture of logistics, integrated over the level's bin (PixelCNN++, eq. 2).

    The outermost bins extend to infinity, so the masses of all levels sum to 1.

    Args:
        x: levels in model space, (B, C, H, W).
        parameters: (B, 3, K, C, H, W).
        levels: number of gray levels.
    """
    logits, mean, log_scale = parameters.unbind(1)
    x = x[:, None]
    sharpness, half = torch.exp(-log_scale.clamp(min=-6)), 1 / (levels - 1)
    upper, lower = (x - mean + half) * sharpness, (x - mean - half) * sharpness
    # log(σ(u) - σ(l)) = log σ(u) + log σ(-l) + log(1 - e^(l-u)), stable for any u > l
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
    log_mass = torch.where(
        x < -1 + half,
        F.logsigmoid(upper),
        torch.where(x > 1 - half, F.logsigmoid(-lower), inside),
    )
    return torch.logsumexp(F.log_softmax(logits, dim=1) + log_mass, dim=1)


def _sample_logistics(parameters: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Choose a component, then its quantile: uniform (B, 2, C, H, W) -> (B, C, H, W)."""
    logits, mean, log_scale = parameters.unbind(1)
    edges = F.softmax(logits, dim=1).cumsum(1)
    index = (uniform[:, :1] > edges[:, :-1]).sum(1, keepdim=True)
    mean, log_scale = mean.gather(1, index)[:, 0], log_scale.gather(1, index)[:, 0]
    quantile = uniform[:, 1].clamp(1e-5, 1 - 1e-5).logit()
    return mean + log_scale.clamp(min=-6).exp() * quantile * temperature


def _mean_of_logistics(parameters: Tensor) -> Tensor:
    """About the mean level, (B, 3, K, C, H, W) -> (B, C, H, W)."""
    logits, mean, _ = parameters.unbind(1)
    return (logits.softmax(1) * mean.clamp(-1, 1)).sum(1)


def _normals(parameters: Tensor) -> Normals:
    mean, log_std = parameters.chunk(2, dim=2)
    return mean, log_std.clamp(-7, 4)


def _shared(h: Tensor, layer: int) -> Tensor:
    """The first layer sees the average token only: its latents describe the whole item."""
    return h.mean(dim=1, keepdim=True) if layer == 0 else h
