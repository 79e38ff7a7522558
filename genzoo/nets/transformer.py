"""Transformers on patches, modulated by a condition (DiT, Peebles & Xie 2023, arXiv 2212.09748).

Patches come first: attention and MLPs then work on few, wide tokens, which is what makes
images affordable on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, T, C·patch²) in raster order; points (B, D) -> (B, D, 1)."""
    if x.ndim == 2:
        return x[:, :, None]
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `patchify` for items of `shape`; extra channels are kept as such."""
    if len(shape) == 1:
        return tokens.squeeze(2)
    _, height, width = shape
    grid = tokens.transpose(1, 2).unflatten(2, (height // patch, width // patch))
    return F.pixel_shuffle(grid, patch)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Softmax(q kᵀ / √d) v, (B, heads, T, d) each; in float32 on the CPU.

    The CPU's fused kernel has a backward pass in bfloat16 that takes up to ten times as long.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), is_causal=causal, dropout_p=dropout
        )


class Attention(nn.Module):
    """Multi-head self-attention, causal or not."""

    def __init__(self, width: int, heads: int, causal: bool = False, dropout: float = 0.0) -> None:
        """`width` must be divisible by `heads`."""
        super().__init__()
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width).

        With a `cache` (empty at first), `x` holds only the newest tokens: keys and values of
        the earlier ones come from it, and it is extended in place.
        """
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        y = attend(
            q,
            k,
            v,
            causal=self.causal and tokens > 1,
            dropout=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Block(nn.Module):
    """Attention and MLP, residual; shift, scale and gate come from a condition (adaLN-Zero)."""

    def __init__(
        self,
        width: int,
        heads: int,
        cond_width: int,
        causal: bool = False,
        dropout: float = 0.0,
        expand: int = 4,
    ) -> None:
        """`cond_width` 0 makes an ordinary pre-norm block."""
        super().__init__()
        affine = cond_width == 0
        self.norm1 = nn.LayerNorm(width, elementwise_affine=affine)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=affine)
        self.attention = Attention(width, heads, causal)
        self.mlp = nn.Sequential(
            nn.Linear(width, expand * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(expand * width, width),
            nn.Dropout(dropout),  # here, not on the wide layer: drawing the masks takes time
        )
        self.modulation: nn.Linear | None = None
        if cond_width:
            self.modulation = nn.Linear(cond_width, 6 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor | None, cache: list[Tensor] | None = None) -> Tensor:
        """(B, T, width), (B, cond_width) -> (B, T, width)."""
        if self.modulation is None or c is None:
            x = x + self.attention(self.norm1(x), cache)
            plain: Tensor = x + self.mlp(self.norm2(x))
            return plain
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, dim=2)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1, cache)
        out: Tensor = x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return out


class DiT(nn.Module):
    """A transformer from images to images of the same size, told a condition vector."""

    def __init__(
        self,
        shape: tuple[int, ...],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        cond_width: int,
        dropout: float = 0.0,
    ) -> None:
        """`shape` is (C, H, W) with sides divisible by `patch`."""
        super().__init__()
        channels, height, wide = shape
        self.shape, self.patch = shape, patch
        tokens = (height // patch) * (wide // patch)
        self.embed = nn.Linear(channels * patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, cond_width, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(cond_width, 2 * width)
        self.out = nn.Linear(width, channels * patch**2)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, C, H, W), (B, cond_width) -> (B, C, H, W)."""
        h = self.embed(patchify(x, self.patch)) + self.position
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=2)
        h = self.out(self.norm(h) * (1 + scale) + shift)
        return unpatchify(h, self.patch, self.shape)
