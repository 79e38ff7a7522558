"""A U-Net (Ronneberger et al. 2015, arXiv 1505.04597), of the blocks of the other nets.

Fine grids are narrow and coarse ones wide, so that detail and layout cost about the same; what the
way down knew of each grid is handed over to the way up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.nets.conv import ConvBlock
from genzoo.nets.transformer import Block

MOST_GRIDS = 3


def grids_of(height: int, width: int) -> int:
    """How many grids, each half as fine as the one before: sides stay even until the last."""
    count = 1
    while count < MOST_GRIDS and height % 2 == 0 and width % 2 == 0 and min(height, width) > 2:
        height, width, count = height // 2, width // 2, count + 1
    return count


class UNet(nn.Module):
    """From images to images of the same size, told a condition vector; its output starts at 0."""

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
        """Build both ways.

        Args:
            shape: (C, H, W) with sides divisible by `patch`.
            patch: side in pixels of what becomes a point of the finest grid.
            width: features of the finest grid; the coarser ones have twice as many.
            depth: blocks a grid, on the way down as on the way up.
            heads: of the attention on the coarsest grid.
            cond_width: length of the condition vector.
            dropout: inside the blocks.
        """
        super().__init__()
        channels, height, wide = shape[0], shape[1] // patch, shape[2] // patch
        grids = grids_of(height, wide)
        widths = [width] + [2 * width] * (grids - 1)

        def blocks(features: int) -> nn.ModuleList:
            return nn.ModuleList(ConvBlock(features, cond_width, dropout) for _ in range(depth))

        self.patch = patch
        self.embed = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down = nn.ModuleList(blocks(n) for n in widths)
        self.shrink = nn.ModuleList(
            nn.Conv2d(4 * a, b, 1) for a, b in zip(widths, widths[1:], strict=False)
        )
        coarse = (height >> (grids - 1), wide >> (grids - 1))
        self.position = nn.Parameter(0.02 * torch.randn(coarse[0] * coarse[1], widths[-1]))
        self.middle = Block(widths[-1], heads, cond_width, dropout=dropout, expand=2)
        self.grow = nn.ModuleList(
            nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.merge = nn.ModuleList(nn.Conv2d(2 * n, n, 1) for n in widths)
        self.up = nn.ModuleList(blocks(n) for n in widths)
        self.out = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, C, H, W), (B, cond_width) -> (B, C, H, W)."""
        h, kept = self.embed(F.pixel_unshuffle(x, self.patch)), []
        for grid, blocks in enumerate(self.down):
            if grid:
                h = self.shrink[grid - 1](F.pixel_unshuffle(h, 2))
            h = _through(blocks, h, c)
            kept.append(h)
        tokens = h.flatten(2).transpose(1, 2) + self.position
        h = self.middle(tokens, c).transpose(1, 2).view_as(h)
        for grid in reversed(range(len(kept))):
            h = self.merge[grid](torch.cat([h, kept[grid]], dim=1))
            h = _through(self.up[grid], h, c)
            if grid:
                h = F.pixel_shuffle(self.grow[grid - 1](h), 2)
        return F.pixel_shuffle(self.out(F.silu(h)), self.patch)


def _through(blocks: nn.Module, h: Tensor, c: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, c)
    return h
