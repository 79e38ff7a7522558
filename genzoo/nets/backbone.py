"""The networks that denoisers share: any of them maps an item and a condition to an item."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from genzoo.nets.conv import ConvNet
from genzoo.nets.mlp import ResidualMLP
from genzoo.nets.transformer import DiT
from genzoo.nets.unet import UNet
from genzoo.types import DataSpec

Backbone = Literal["auto", "conv", "unet", "dit", "mlp"]


def default_patch(spec: DataSpec) -> int:
    """2 for images up to 16 pixels, 4 above: about 16 to 64 tokens up to 32 pixels."""
    return 2 if max(spec.shape[1:]) <= 16 else 4


def build_backbone(
    spec: DataSpec,
    kind: Backbone,
    *,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    cond_width: int,
    dropout: float,
) -> nn.Module:
    """A network (B, *shape), (B, cond_width) -> (B, *shape) whose output starts at 0.

    Args:
        spec: of the data.
        kind: ``auto`` takes convolutions for images and an MLP for points.
        patch: side of a patch in pixels; 0 for `default_patch`, or half of it for a U-Net, which
            makes its grid coarser itself.
        width: features.
        depth: blocks.
        heads: attention heads of a DiT or a U-Net.
        cond_width: length of the condition vector.
        dropout: inside the blocks.
    """
    if not spec.is_image or kind == "mlp":
        return FlatMLP(spec, width, depth, cond_width, dropout)
    if kind == "unet":
        patch = patch or default_patch(spec) // 2
        return UNet(spec.shape, patch, width, depth, heads, cond_width, dropout)
    patch = patch or default_patch(spec)
    if kind == "dit":
        return DiT(spec.shape, patch, width, depth, heads, cond_width, dropout)
    return ConvNet(spec.shape, patch, width, depth, cond_width, dropout)


class FlatMLP(nn.Module):
    """A residual MLP on the flattened item."""

    def __init__(
        self, spec: DataSpec, width: int, depth: int, cond_width: int, dropout: float
    ) -> None:
        """From ``spec.dim`` numbers to as many."""
        super().__init__()
        self.mlp = ResidualMLP(spec.dim, spec.dim, width, depth, cond_width, dropout)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, *shape), (B, cond_width) -> (B, *shape)."""
        out: Tensor = self.mlp(x.flatten(1), c)
        return out.view_as(x)
