"""Gated PixelCNN: convolutions that see earlier pixels only (van den Oord et al. 2016, 1606.05328).

p(x) = Π p(pixel | the rows above, the pixels to the left in its row). Two stacks read the
image: the vertical one the rows above, the horizontal one the pixels to the left; together they
have no blind spot. Instead of masks, the input is shifted by one pixel once, after which every
convolution looks backwards and may see its own place. The channels of a pixel, and the coordinates
of a point, follow one another in a masked head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.models.conditionals import ExactModel, TokenHead
from genzoo.nets.embeddings import ConditionEmbedding
from genzoo.noise import NoiseSource
from genzoo.types import DataSpec, SampleOptions


@dataclass(frozen=True)
class PixelCNNSettings:
    """Settings of `PixelCNN`.

    Attributes:
        width: features of each stack.
        depth: gated layers; each lets a pixel see one row and one column further.
        hidden: units that predict a channel from the pixel's context and earlier channels.
        mixtures: logistics a pixel of more than 32 levels, or Gaussians a coordinate.
        dropout: of features and hidden units of images; points come in plenty and have none.
        augment: share of the training images that are shifted (the network is told how far).
        batch_size: items a step; few, because full-resolution convolutions are slow.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    width: int = 32
    depth: int = 6
    hidden: int = 64
    mixtures: int = 10
    dropout: float = 0.1
    augment: float = 0.7
    batch_size: int = 32
    lr: float = 4e-3
    weight_decay: float = 0.01
    ema: float = 0.05


class GatedLayer(nn.Module):
    """tanh(W_f * x + V_f c) ⊙ σ(W_g * x + V_g c) in both stacks (eq. 4 and figure 2)."""

    def __init__(self, width: int, cond_width: int, dropout: float) -> None:
        """`width` features in, as many out."""
        super().__init__()
        self.down = nn.Conv2d(width, 2 * width, (2, 3))  # the row above and this one
        self.right = nn.Conv2d(width, 2 * width, (1, 2))  # the pixel to the left and this one
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.condition = nn.Linear(cond_width, 4 * width)
        self.dropout = nn.Dropout(dropout)

    def vertical(self, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One layer of the vertical stack.

        Args:
            v: features (B, width, H, W).
            c: condition (B, cond_width).

        Returns:
            The new features, and what the horizontal stack is told, (B, 2 width, H, W).
        """
        a = self.down(F.pad(v, (1, 1, 1, 0)))
        return _gate(a, self.condition(c).chunk(2, dim=1)[0]), self.across(a)

    def horizontal(self, h: Tensor, above: Tensor, c: Tensor) -> Tensor:
        """One residual layer of the horizontal stack, told `above` by the vertical one."""
        a = self.right(F.pad(h, (1, 0, 0, 0))) + above
        gated = _gate(a, self.condition(c).chunk(2, dim=1)[1])
        out: Tensor = h + self.out(self.dropout(gated))
        return out


class CausalConvolutions(nn.Module):
    """From an image to a context for each pixel, from the pixels before it in raster order."""

    def __init__(self, channels: int, width: int, depth: int, cond_width: int, dropout: float):
        """`depth` gated layers."""
        super().__init__()
        self.depth = depth
        # A further channel of ones tells black (or gray) from what lies outside of the image.
        self.enter_down = nn.Conv2d(channels + 1, width, (1, 3))
        self.enter_right = nn.Conv2d(channels + 1, width, 1)
        self.layers = nn.ModuleList(GatedLayer(width, cond_width, dropout) for _ in range(depth))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, C, H, W), (B, cond_width) -> contexts (B, width, H, W)."""
        return self.horizontal(x, self.vertical(x, c), c)

    def vertical(self, x: Tensor, c: Tensor) -> list[Tensor]:
        """What the rows above each pixel tell each layer, (B, 2 width, H, W) each.

        Row r depends on rows r - 1 - depth to r - 1 of `x`.
        """
        rows_above = F.pad(_with_ones(x), (1, 1, 1, 0))[:, :, :-1]
        v, told = self.enter_down(rows_above), []
        for layer in self.layers:
            assert isinstance(layer, GatedLayer)
            v, above = layer.vertical(v, c)
            told.append(above)
        return told

    def horizontal(self, x: Tensor, told: list[Tensor], c: Tensor) -> Tensor:
        """Contexts of the pixels of any rows, (B, width, rows, W), which do not see each other.

        Args:
            x: the rows, (B, C, rows, W).
            told: what `vertical` says of them.
            c: condition (B, cond_width).
        """
        left = F.pad(_with_ones(x), (1, 0, 0, 0))[..., :-1]
        h: Tensor = self.enter_right(left)
        for layer, above in zip(self.layers, told, strict=True):
            assert isinstance(layer, GatedLayer)
            h = layer.horizontal(h, above, c)
        return h


class PixelCNN(ExactModel):
    """Causal convolutions and a masked head; `log_prob` is the exact mass of levels.

    Points have no neighbours: the head alone models them, a masked autoencoder (MADE).
    """

    Settings = PixelCNNSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"augment": 0.0, "dropout": 0.0},
        "base": {"width": 128, "depth": 12, "augment": 0.0, "lr": 5e-4},
    }

    def __init__(self, spec: DataSpec, settings: PixelCNNSettings | None = None) -> None:
        """Pixels are tokens; a point is a single one."""
        super().__init__(spec, settings)
        s = self.settings
        self.condition = ConditionEmbedding(spec, s.width, s.augment > 0)
        self.stacks: CausalConvolutions | None = None
        if spec.is_image:
            channels = spec.shape[0]
            self.stacks = CausalConvolutions(channels, s.width, s.depth, s.width, s.dropout)
        self.head = TokenHead(
            spec,
            spec.shape[0],
            s.width,
            hidden=s.hidden,
            mixtures=s.mixtures,
            dropout=s.dropout if spec.is_image else 0.0,
        )

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """Pixel by pixel; the vertical stack runs once a row, on the rows that it can see."""
        temperature = options.temperature or 1.0
        c = self.condition(cond, noise.n, noise.device)
        if self.stacks is None:
            return self.head.sample(c, noise.uniform(self.spec.dim, 2), temperature)
        channels, height, width = self.spec.shape
        uniform = noise.uniform(height, width, channels, 2)
        x = torch.zeros(noise.n, *self.spec.shape, device=noise.device)
        for i in range(height):
            top = max(0, i - 1 - self.stacks.depth)
            told = [a[:, :, -1:] for a in self.stacks.vertical(x[:, :, top : i + 1], c)]
            for j in range(width):
                left = [a[..., : j + 1] for a in told]
                context = self.stacks.horizontal(x[:, :, i : i + 1, : j + 1], left, c)[:, :, 0, j]
                x[:, :, i, j] = self.head.sample(context, uniform[:, i, j], temperature)
        return x

    def tokens_and_contexts(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Pixels in raster order (B, H·W, C) and what each knows (B, H·W, width)."""
        c = self.condition(cond, len(x), x.device)
        if self.stacks is None:
            return x[:, None], c[:, None]
        return x.flatten(2).transpose(1, 2), self.stacks(x, c).flatten(2).transpose(1, 2)


def _gate(a: Tensor, c: Tensor) -> Tensor:
    """Tanh of one half of the features, times the sigmoid of the other; `c` is added to both."""
    feature, gate = (a + c[:, :, None, None]).chunk(2, dim=1)
    return torch.tanh(feature) * torch.sigmoid(gate)


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
