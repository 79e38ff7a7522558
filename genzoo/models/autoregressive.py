"""An autoregressive transformer: p(x) = Π_t p(x_t | x_<t), exact and in closed form.

Patches are tokens, because one token a pixel would cost patch² times as much: a causal
transformer (as in Image GPT, Chen et al. 2020) gives each patch a context from the patches before
it, and a small masked network predicts the patch's numbers one after the other
(`genzoo.models.conditionals`). Likelihood is one parallel pass, sampling goes step by step with
the keys and values of earlier tokens cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genzoo.models.conditionals import ExactModel, TokenHead
from genzoo.nets.backbone import default_patch
from genzoo.nets.embeddings import ConditionEmbedding
from genzoo.nets.transformer import Block, patchify, unpatchify
from genzoo.noise import NoiseSource
from genzoo.types import DataSpec, SampleOptions

Caches = list[list[Tensor]]  # keys and values of the earlier tokens, by layer


@dataclass(frozen=True)
class AutoregressiveSettings:
    """Settings of `Autoregressive`.

    Attributes:
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        width: features of the transformer.
        depth: transformer layers.
        heads: attention heads.
        hidden: units that predict a number from the context and the patch's earlier numbers.
        mixtures: logistics a pixel of more than 32 levels, or Gaussians a coordinate.
        dropout: of tokens and hidden units of images (measured; 1,000 digits are soon memorized).
            Points come in plenty and have none.
        augment: share of the training images that are shifted (the network is told how far).
        batch_size: items a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    patch: int = 0
    width: int = 64
    depth: int = 3
    heads: int = 4
    hidden: int = 64
    mixtures: int = 10
    dropout: float = 0.3
    augment: float = 0.9
    batch_size: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class Autoregressive(ExactModel):
    """A causal transformer on patches; `log_prob` is the exact mass of levels."""

    Settings = AutoregressiveSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"augment": 0.0, "dropout": 0.0},
        "base": {"width": 256, "depth": 8, "augment": 0.0, "dropout": 0.1, "lr": 5e-4},
    }

    def __init__(self, spec: DataSpec, settings: AutoregressiveSettings | None = None) -> None:
        """Patches are tokens; for points every coordinate is one."""
        super().__init__(spec, settings)
        s = self.settings
        self.patch = (s.patch or default_patch(spec)) if spec.is_image else 1
        self.size = spec.shape[0] * self.patch**2 if spec.is_image else 1
        self.tokens = spec.dim // self.size
        dropout = s.dropout if spec.is_image else 0.0
        self.condition = ConditionEmbedding(spec, s.width, s.augment > 0)
        self.embed = nn.Sequential(nn.Linear(self.size, s.width), nn.Dropout(dropout))
        self.position = nn.Parameter(0.02 * torch.randn(self.tokens, s.width))
        self.layers = nn.ModuleList(
            Block(s.width, s.heads, s.width, causal=True, dropout=dropout) for _ in range(s.depth)
        )
        self.norm = nn.LayerNorm(s.width)
        self.head = TokenHead(
            spec, self.size, s.width, hidden=s.hidden, mixtures=s.mixtures, dropout=dropout
        )

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """One token after the other, each from the contexts of those before it."""
        uniform = noise.uniform(self.tokens, self.size, 2)
        c = self.condition(cond, noise.n, noise.device)
        caches: Caches = [[] for _ in self.layers]
        before, tokens = c, []
        for t in range(self.tokens):
            context = self._contexts((before + self.position[t])[:, None], c, caches)[:, 0]
            tokens.append(self.head.sample(context, uniform[:, t], options.temperature or 1.0))
            before = self.embed(tokens[-1])
        return unpatchify(torch.stack(tokens, dim=1), self.patch, self.spec.shape)

    def tokens_and_contexts(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Patches (B, T, size) and what the true patches before each tell of it (B, T, width)."""
        tokens = patchify(x, self.patch)
        return tokens, self._teacher_forced(tokens, cond)

    def _teacher_forced(self, tokens: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The context of each token from the true tokens before it, (B, T, width).

        The condition stands before the first token.
        """
        c = self.condition(cond, len(tokens), tokens.device)
        before = torch.cat([c[:, None], self.embed(tokens[:, :-1])], dim=1) + self.position
        return self._contexts(before, c, None)

    def _contexts(self, h: Tensor, c: Tensor, caches: Caches | None) -> Tensor:
        """Through the transformer, all tokens or with `caches` the newest alone."""
        for i, layer in enumerate(self.layers):
            h = layer(h, c, caches[i] if caches is not None else None)
        out: Tensor = self.norm(h)
        return out
