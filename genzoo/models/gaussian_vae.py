"""The textbook variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114).

One Gaussian latent z for the whole item: an encoder proposes q(z | x), a decoder makes the mean
of p(x | z), and both climb the evidence lower bound E_q[log p(x | z)] - KL(q(z | x) ‖ p(z)).
Two textbook variations are settings: a weight β of the KL (Higgins et al. 2017) and K draws of
z for a tighter bound (IWAE, Burda et al. 2016, arXiv 1509.00519).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.data.ranges import to_model
from genzoo.errors import InputError
from genzoo.model import GenerativeModel
from genzoo.nets.augmentation import shifted
from genzoo.nets.backbone import default_patch
from genzoo.nets.conv import ConvBlock
from genzoo.nets.embeddings import ConditionEmbedding
from genzoo.nets.likelihood import GaussianLikelihood, Output
from genzoo.nets.mlp import ResidualMLP
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, SampleOptions, TrainState

Normals = tuple[Tensor, Tensor]  # mean and log standard deviation


@dataclass(frozen=True)
class GaussianVAESettings:
    """Settings of `GaussianVAE`.

    Attributes:
        latent: numbers in z.
        backbone: ``conv`` on a grid of patches, or ``mlp`` on the flat item (always so for points).
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        width: features of both networks.
        depth: residual blocks of both networks.
        dropout: inside the blocks.
        beta: weight of the KL in training (Higgins et al. 2017); 1 is the ELBO.
        importance_samples: K draws of z in training and in the likelihood: 1 is the ELBO, more
            the IWAE bound (Burda et al. 2016).
        output: what a sample is: ``mean`` of the decoder or a ``sample`` of its distribution;
            ``auto`` is the mean for images and a sample for points. The likelihood speaks of
            samples, whose pixels carry independent noise; what the field shows are means.
        augment: share of the training images that are shifted (the networks are told how far).
        batch_size: items a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    latent: int = 16
    backbone: Literal["conv", "mlp"] = "conv"
    patch: int = 0
    width: int = 64
    depth: int = 2
    dropout: float = 0.0
    beta: float = 1.0
    importance_samples: int = 1
    output: Output = "auto"
    augment: float = 0.7
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class ConvEncoder(nn.Module):
    """Images to vectors: patches, residual convolutions, one linear layer over the whole grid."""

    def __init__(self, spec: DataSpec, s: GaussianVAESettings, outputs: int) -> None:
        """`outputs` numbers an image."""
        super().__init__()
        self.patch = s.patch or default_patch(spec)
        height, wide = (n // self.patch for n in spec.shape[1:])
        self.embed = nn.Conv2d(spec.shape[0] * self.patch**2, s.width, 1)
        self.blocks = nn.ModuleList(ConvBlock(s.width, s.width, s.dropout) for _ in range(s.depth))
        self.out = nn.Linear(s.width * height * wide, outputs)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, C, H, W), (B, width) -> (B, outputs)."""
        h = self.embed(F.pixel_unshuffle(x, self.patch))
        for block in self.blocks:
            h = block(h, c)
        out: Tensor = self.out(F.silu(h).flatten(1))
        return out


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`."""

    def __init__(self, spec: DataSpec, s: GaussianVAESettings) -> None:
        """From ``s.latent`` numbers to an image."""
        super().__init__()
        self.patch = s.patch or default_patch(spec)
        self.grid = tuple(n // self.patch for n in spec.shape[1:])
        self.embed = nn.Linear(s.latent, s.width * math.prod(self.grid))
        self.blocks = nn.ModuleList(ConvBlock(s.width, s.width, s.dropout) for _ in range(s.depth))
        self.out = nn.Conv2d(s.width, spec.shape[0] * self.patch**2, 1)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """(B, latent), (B, width) -> (B, C, H, W)."""
        h = self.embed(z).unflatten(1, (-1, *self.grid))
        for block in self.blocks:
            h = block(h, c)
        return F.pixel_shuffle(self.out(F.silu(h)), self.patch)


class GaussianVAE(GenerativeModel):
    """One Gaussian latent, one Gaussian decoder; `log_prob` is a lower bound."""

    Settings = GaussianVAESettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 96, "latent": 32, "augment": 0.0},
        "base": {"width": 256, "depth": 4, "latent": 128, "augment": 0.0, "lr": 5e-4},
    }
    likelihood: LikelihoodKind = "bound"
    summable = True

    def __init__(self, spec: DataSpec, settings: GaussianVAESettings | None = None) -> None:
        """Convolutions for images, residual MLPs for points."""
        super().__init__(spec, settings)
        s = self.settings
        if s.importance_samples < 1:
            raise InputError(f"importance_samples {s.importance_samples}: at least 1 is needed")
        self.latent_shape = (s.latent,)
        self.label = ConditionEmbedding(spec, s.width, s.augment > 0)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if spec.is_image and s.backbone == "conv":
            self.encoder = ConvEncoder(spec, s, 2 * s.latent)
            self.decoder = ConvDecoder(spec, s)
        else:
            layers = (s.width, s.depth, s.width, s.dropout)
            self.encoder = ResidualMLP(spec.dim, 2 * s.latent, *layers)
            self.decoder = ResidualMLP(s.latent, spec.dim, *layers, zero_out=False)
        self.log_likelihood = GaussianLikelihood(spec)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """Minus the bound in nats per dimension: the ELBO, or IWAE-K for K > 1."""
        s, scale = self.settings, 1 / self.spec.dim
        x, cond = shifted(batch, s.augment)
        posterior = self.posterior(x, cond)
        kl = kl_to_prior(posterior)
        log_likelihood, log_ratio = self._draws(x, cond, posterior, None)
        if s.importance_samples == 1:  # the KL in closed form varies less (appendix B)
            bound = log_likelihood[0] - s.beta * kl
        else:
            bound = log_mean_exp(log_likelihood - s.beta * log_ratio)
        parts = {
            "negative_bound": -bound.mean() * scale,
            "reconstruction": -log_likelihood.mean() * scale,
            "kl": kl.mean() * scale,
        }
        return Loss(parts["negative_bound"], {name: part.detach() for name, part in parts.items()})

    def posterior(self, x: Tensor, cond: Mapping[str, Tensor]) -> Normals:
        """q(z | x): (B, *shape) in model space -> mean and log std, (B, latent) each."""
        out: Tensor = self.encoder(x.view(len(x), *self._seen), self._c(cond, x))
        mean, log_std = out.chunk(2, dim=1)
        return mean, log_std.clamp(-7, 4)

    def encode(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The posterior's mean, see `genzoo.model.HasLatent`."""
        return self.posterior(x, cond)[0]

    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The mean of p(x | z): (B, latent) -> (B, *shape)."""
        out: Tensor = self.decoder(z, self._c(cond, z))
        return out.view(len(z), *self.spec.shape)

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """Draw z ~ N(0, I), then the decoder's mean or a sample around it, as `output` says."""
        temperature = options.temperature or 1.0
        mean = self.decode(noise.normal(*self.latent_shape) * temperature, cond)
        return self.log_likelihood.draw(mean, noise, self.settings.output, temperature)

    # -- likelihood -----------------------------------------------------------------------

    @property
    def likelihood_convention(self) -> str:
        """See `genzoo.model.ExplainsLikelihood`."""
        k = self.settings.importance_samples
        return "ELBO, one draw of z" if k == 1 else f"IWAE-K, K = {k} draws of z"

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Log mean weight of K draws of z (Burda et al. 2016, eq. 8), (B,) nats.

        Of levels a bound of the log mass, of points of the log density in data units.
        """
        x = to_model(raw, self.spec)
        log_likelihood, log_ratio = self._draws(x, cond, self.posterior(x, cond), generator)
        return log_mean_exp(log_likelihood - log_ratio)

    def rough_log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """ELBO at the posterior's mean, (B,) nats: no noise to mislead the choice of a label."""
        x = to_model(raw, self.spec)
        posterior = self.posterior(x, cond)
        log_likelihood: Tensor = self.log_likelihood(x, self.decode(posterior[0], cond))
        return log_likelihood - kl_to_prior(posterior)

    def _draws(
        self,
        x: Tensor,
        cond: Mapping[str, Tensor],
        posterior: Normals,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Log p(x | z) and log q(z | x) / p(z) of K draws of z from q, (K, B) nats each."""
        mean, log_std = posterior
        log_likelihoods, log_ratios = [], []
        for _ in range(self.settings.importance_samples):
            epsilon = torch.randn(mean.shape, generator=generator, device=mean.device)
            z = mean + log_std.exp() * epsilon
            log_likelihoods.append(self.log_likelihood(x, self.decode(z, cond)))
            log_ratios.append(0.5 * (z.square() - epsilon.square()).sum(1) - log_std.sum(1))
        return torch.stack(log_likelihoods), torch.stack(log_ratios)

    @property
    def _seen(self) -> tuple[int, ...]:
        """The shape in which the encoder sees an item."""
        return self.spec.shape if isinstance(self.encoder, ConvEncoder) else (self.spec.dim,)

    def _c(self, cond: Mapping[str, Tensor], like: Tensor) -> Tensor:
        c: Tensor = self.label(cond, len(like), like.device)
        return c


def kl_to_prior(posterior: Normals) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, I)) in closed form (Kingma & Welling, appendix B), (B,) nats."""
    mean, log_std = posterior
    return (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(1)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Log of the mean of the weights, (K, B) -> (B,): at least their mean log, by Jensen."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))
