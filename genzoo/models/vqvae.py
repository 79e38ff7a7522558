"""A vector-quantized autoencoder with a learned prior (van den Oord et al. 2017, 1711.00937).

An encoder turns an item into a few discrete codes, each the nearest entry of a codebook; a
decoder turns codes into an item. Then, with both frozen, a causal transformer learns which codes
go together. Training has two stages, one for each of these halves. An item has a single
sequence of codes, so that log p(codes) + log p(x | codes) is a lower bound of log p(x).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from genzoo.nets.likelihood import GaussianLikelihood, Output
from genzoo.nets.transformer import Block, patchify, unpatchify
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, Recipe, SampleOptions, TrainState

# Encoded training items that the codebook starts from.
FIRST_ITEMS = 1024
# A code is dead below this share of an even code's use; dead codes are revived in the first
# part of the first stage only, so that the decoder has time to learn what they mean.
DEAD, REVIVAL = 0.1, 0.6


@dataclass(frozen=True)
class VQVAESettings:
    """Settings of `VQVAE`.

    Attributes:
        patch: side of a patch in pixels, with one code each; 0 chooses 2 for sides up to 16 and
            4 above.
        point_codes: codes of a point.
        codes: entries of the codebook.
        code_width: numbers in an entry; few keep all entries in use (Yu et al. 2022,
            arXiv 2110.04627).
        width: features of all networks.
        depth: transformer layers of the encoder, and of the decoder.
        prior_depth: transformer layers of the prior.
        heads: attention heads.
        dropout: in the prior's MLPs.
        commitment: weight β of the pull of the encoder towards its codes (eq. 3; 0.25 there, for
            encodings of any length and an error of fixed weight).
        first_stage: fraction of the budget for the autoencoder; the rest is the prior's.
        output: what a sample is: ``mean`` of the decoder or a ``sample`` of its distribution;
            ``auto`` is the mean for images and a sample for points. The likelihood speaks of
            samples, whose pixels carry independent noise; what the field shows are means.
        augment: share of the training images that are shifted (the prior is told how far).
        batch_size: items a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    patch: int = 0
    point_codes: int = 4
    codes: int = 128
    code_width: int = 8
    width: int = 64
    depth: int = 2
    prior_depth: int = 3
    heads: int = 4
    dropout: float = 0.1
    commitment: float = 1.0
    first_stage: float = 0.4
    output: Output = "auto"
    augment: float = 0.7
    batch_size: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class Tokens(nn.Module):
    """A stack of transformer layers on a fixed number of tokens, without any condition."""

    def __init__(self, s: VQVAESettings, tokens: int, inputs: int, outputs: int) -> None:
        """From `inputs` to `outputs` numbers a token."""
        super().__init__()
        self.embed = nn.Linear(inputs, s.width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, s.width))
        self.blocks = nn.ModuleList(Block(s.width, s.heads, 0, expand=2) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width)
        self.out = nn.Linear(s.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T, outputs)."""
        h = self.embed(x) + self.position
        for block in self.blocks:
            h = block(h, None)
        out: Tensor = self.out(self.norm(h))
        return out


class Codebook(nn.Module):
    """Entries e_k, each the centre of the encodings nearest to it.

    The entries are moved by the gradient of the codebook loss (eq. 3, second term) rather than by
    a running mean (appendix A.1): the loss then has no side effect, and the loop's learning rate,
    weight average and checkpoints hold for the entries as for every weight.
    """

    use: Tensor

    def __init__(self, codes: int, width: int) -> None:
        """`codes` entries of `width` numbers."""
        super().__init__()
        self.entries = nn.Parameter(torch.randn(codes, width))
        self.register_buffer("use", torch.ones(codes))  # 1 is an even code's

    def nearest(self, z: Tensor) -> Tensor:
        """Index of the nearest entry (eq. 1 and 2): (B, T, width) -> (B, T) int64."""
        e = self.entries
        return (e.square().sum(1) - 2 * z @ e.T).argmin(2)

    def forward(self, codes: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, width)."""
        return self.entries[codes]

    @torch.no_grad()
    def revive(self, z: Tensor, codes: Tensor) -> None:
        """Move entries that are hardly used onto random encodings of the last batch.

        Args:
            z: encodings, (B, T, width).
            codes: their nearest entries, (B, T).
        """
        count = torch.bincount(codes.flatten(), minlength=len(self.use))
        self.use.lerp_(count * (len(self.use) / codes.numel()), 0.02)
        dead = (self.use < DEAD).nonzero()[:, 0]
        chosen = torch.randint(codes.numel(), dead.shape, device=z.device)
        self.entries[dead] = z.flatten(0, 1)[chosen]
        self.use[dead] = 1.0


class Prior(nn.Module):
    """p(codes) = Π_t p(code_t | codes before it): a causal transformer with a key-value cache."""

    def __init__(self, spec: DataSpec, s: VQVAESettings, tokens: int) -> None:
        """The label, and the shift of a shifted image, stand before the first code."""
        super().__init__()
        self.start = ConditionEmbedding(spec, s.width, s.augment > 0)
        self.embed = nn.Embedding(s.codes, s.width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, s.width))
        self.blocks = nn.ModuleList(
            Block(s.width, s.heads, 0, causal=True, dropout=s.dropout) for _ in range(s.prior_depth)
        )
        self.norm = nn.LayerNorm(s.width)
        self.out = nn.Linear(s.width, s.codes)
        nn.init.zeros_(self.out.weight)

    def log_prob(self, codes: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Log p(codes | cond), (B, T) -> (B,) nats, in one parallel pass."""
        start = self.start(cond, len(codes), codes.device)[:, None]
        before = torch.cat([start, self.embed(codes[:, :-1])], dim=1)
        log_p = self._logits(before + self.position, None).float().log_softmax(2)
        return log_p.gather(2, codes[:, :, None]).flatten(1).sum(1)

    def draw(self, uniform: Tensor, cond: Mapping[str, Tensor], temperature: float) -> Tensor:
        """Codes (B, T), one after the other, as quantiles of uniform numbers (B, T)."""
        caches: list[list[Tensor]] = [[] for _ in self.blocks]
        before, codes = self.start(cond, len(uniform), uniform.device), []
        for t in range(uniform.shape[1]):
            logits = self._logits((before + self.position[t])[:, None], caches)[:, 0]
            edges = (logits / temperature).softmax(1).cumsum(1)[:, :-1]
            codes.append((edges <= uniform[:, t : t + 1]).sum(1))
            before = self.embed(codes[-1])
        return torch.stack(codes, dim=1)

    def _logits(self, h: Tensor, caches: list[list[Tensor]] | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            h = block(h, None, caches[i] if caches is not None else None)
        out: Tensor = self.out(self.norm(h))
        return out


class VQVAE(GenerativeModel):
    """Autoencoder and prior, trained one after the other in phases of those names."""

    Settings = VQVAESettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"augment": 0.0, "dropout": 0.0},
        "base": {"codes": 512, "width": 256, "prior_depth": 8, "augment": 0.0, "lr": 5e-4},
    }
    likelihood: LikelihoodKind = "bound"
    likelihood_convention = "log p(codes) + log p(x | codes) at the encoder's codes"

    def __init__(self, spec: DataSpec, settings: VQVAESettings | None = None) -> None:
        """One token a patch; a point has `point_codes` tokens."""
        super().__init__(spec, settings)
        s = self.settings
        if not 0 < s.first_stage < 1:
            raise InputError(f"first_stage {s.first_stage}: must lie between 0 and 1")
        self.patch = (s.patch or default_patch(spec)) if spec.is_image else 1
        size = spec.shape[0] * self.patch**2 if spec.is_image else spec.dim
        tokens = spec.dim // size if spec.is_image else s.point_codes
        self.latent_shape = (tokens, s.code_width)
        self.encoder = Tokens(s, tokens, size, s.code_width)
        self.codebook = Codebook(s.codes, s.code_width)
        self.decoder = Tokens(s, tokens, s.code_width, size)
        self.log_likelihood = GaussianLikelihood(spec)
        self.prior = Prior(spec, s, tokens)
        self._last: tuple[Tensor, Tensor] | None = None  # encodings and codes of the last batch

    def recipe(self) -> Recipe:
        """AdamW; each stage has a cosine of its own."""
        first = self.settings.first_stage
        spans = {"autoencoder": (0.0, first), "prior": (first, 1.0)}
        return replace(super().recipe(), betas=(0.9, 0.95), spans=spans)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """``autoencoder`` (with codebook and likelihood) and ``prior``."""
        prior = list(self.prior.parameters())
        known = set(prior)
        return {
            "autoencoder": [p for p in self.parameters() if p not in known],
            "prior": prior,
        }

    def phases(self, state: TrainState) -> tuple[str, ...]:
        """The autoencoder first, then the prior on its codes.

        The second stage outlasts the weight average's memory many times, so that at its end the
        averaged autoencoder is the one whose codes the prior has learned.
        """
        return ("autoencoder",) if state.progress < self.settings.first_stage else ("prior",)

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Start the codebook from encodings of training items."""
        some = torch.randperm(len(data.x), generator=generator)[:FIRST_ITEMS].to(data.x.device)
        with torch.no_grad():
            z = self._encodings(data.x[some]).flatten(0, 1)
            chosen = torch.randint(len(z), (self.settings.codes,), generator=generator)
            self.codebook.entries.copy_(z[chosen.to(z.device)])

    def on_step_end(self, state: TrainState) -> None:
        """Revive dead codes, early in the first stage."""
        if self._last is not None and state.progress < REVIVAL * self.settings.first_stage:
            self.codebook.revive(*self._last)
        self._last = None

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """Eq. 3 or, in the second stage, -log p(codes); in nats per dimension."""
        x, cond = shifted(batch, self.settings.augment)
        if phase == "prior":
            total = -self.prior.log_prob(self.codes(x), cond).mean() / self.spec.dim
            return Loss(total, {"prior": total.detach()})
        z = self._encodings(x)
        codes = self.codebook.nearest(z)
        e = self.codebook(codes)
        if self.training:
            self._last = z.detach(), codes
        # Straight through: the decoder sees e, its gradient goes to z as if e were z.
        reconstruction = -self.log_likelihood(x, self._decoded(z + (e - z).detach())).mean()
        reconstruction = reconstruction / self.spec.dim
        towards_encodings = F.mse_loss(e, z.detach())
        commitment = F.mse_loss(z, e.detach())
        total = reconstruction + towards_encodings + self.settings.commitment * commitment
        parts = {
            "total": total,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "perplexity": perplexity(codes, self.settings.codes),
        }
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """(B, *shape) in model space -> (B, T) int64; no gradient."""
        return self.codebook.nearest(self._encodings(x))

    def encode(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Entries of the item's codes, (B, T, code_width); the label is not used."""
        out: Tensor = self.codebook(self.codes(x))
        return out

    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The decoder's mean for the codes nearest to z, (B, T, code_width) -> (B, *shape)."""
        return self._decoded(self.codebook(self.codebook.nearest(z)))

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Log p(codes, x) at the encoder's codes: one term of p(x) = Σ_codes p(codes, x)."""
        x = to_model(raw, self.spec)
        codes = self.codes(x)
        given_codes: Tensor = self.log_likelihood(x, self._decoded(self.codebook(codes)))
        return self.prior.log_prob(codes, cond) + given_codes

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """Codes from the prior, then the decoder's mean or a sample around it."""
        temperature = options.temperature or 1.0
        codes = self.prior.draw(noise.uniform(self.latent_shape[0]), cond, temperature)
        mean = self._decoded(self.codebook(codes))
        return self.log_likelihood.draw(mean, noise, self.settings.output, temperature)

    def _encodings(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, T, code_width), not yet quantized."""
        if self.spec.is_image:
            tokens = patchify(x, self.patch)
        else:
            tokens = x[:, None].expand(-1, self.latent_shape[0], -1)
        # Of fixed length (Yu et al. 2022, section 3.2): the reconstruction would reward ever
        # longer encodings, between which the entries are ever farther apart.
        direction: Tensor = F.normalize(self.encoder(tokens), dim=2)
        return direction * math.sqrt(self.settings.code_width)

    def _decoded(self, e: Tensor) -> Tensor:
        """(B, T, code_width) -> (B, *shape): a patch from each token, a point from their mean."""
        out: Tensor = self.decoder(e)
        return unpatchify(out, self.patch, self.spec.shape) if self.spec.is_image else out.mean(1)


def perplexity(codes: Tensor, number: int) -> Tensor:
    """Exp of the entropy of the codes' use, between 1 and `number`."""
    share = torch.bincount(codes.flatten(), minlength=number) / codes.numel()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()
