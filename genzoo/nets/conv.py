"""Residual convolutions on a grid of patches: space-to-depth first, then few, wide pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ConvBlock(nn.Module):
    """Two 3×3 convolutions, residual, with a condition that scales and shifts in between."""

    def __init__(self, width: int, cond_width: int, dropout: float = 0.0) -> None:
        """Group norm with 16 channels a group."""
        super().__init__()
        groups = max(1, width // 16)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, affine=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(cond_width, 2 * width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.conv2, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, width, H, W), (B, cond_width) -> (B, width, H, W)."""
        scale, shift = self.modulation(c)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        out: Tensor = x + self.conv2(self.dropout(h))
        return out


class ConvNet(nn.Module):
    """A stack of `ConvBlock` on patches, from images to images of the same size."""

    def __init__(
        self,
        shape: tuple[int, ...],
        patch: int,
        width: int,
        depth: int,
        cond_width: int,
        dropout: float = 0.0,
    ) -> None:
        """`shape` is (C, H, W) with sides divisible by `patch`."""
        super().__init__()
        channels, height, wide = shape
        self.patch = patch
        self.embed = nn.Conv2d(channels * patch**2, width, 1)
        self.position = nn.Parameter(0.02 * torch.randn(width, height // patch, wide // patch))
        self.blocks = nn.ModuleList(ConvBlock(width, cond_width, dropout) for _ in range(depth))
        self.out = nn.Conv2d(width, channels * patch**2, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, C, H, W), (B, cond_width) -> (B, C, H, W)."""
        h = self.embed(F.pixel_unshuffle(x, self.patch)) + self.position
        for block in self.blocks:
            h = block(h, c)
        return F.pixel_shuffle(self.out(F.silu(h)), self.patch)
