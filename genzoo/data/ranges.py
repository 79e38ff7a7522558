"""The only place where data change their range.

Outside a model, images are integer levels 0 … L-1 (uint8) and points are in their own
units. Inside, images lie in [-1, 1] and points are standardized, never clipped. In files
and pictures, images are 0 … 255.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.types import DataSpec


def to_model(raw: Tensor, spec: DataSpec) -> Tensor:
    """Levels or points to model space.

    Args:
        raw: (B, C, H, W) integer levels, or (B, D) points in data units.
        spec: whose levels, location and scale to use.

    Returns:
        float32 of the same shape: images in [-1, 1], points standardized.
    """
    if spec.levels is not None:
        return raw.float().mul_(2 / (spec.levels - 1)).sub_(1)
    location, scale = _standardization(spec, raw)
    return (raw.float() - location) / scale


def from_model(x: Tensor, spec: DataSpec) -> Tensor:
    """Model space to the nearest levels (uint8), or to points in data units (float32)."""
    if spec.levels is not None:
        return x.float().add(1).mul((spec.levels - 1) / 2).round().clamp(0, spec.levels - 1).byte()
    location, scale = _standardization(spec, x)
    return x.float() * scale + location


def to_display(levels: Tensor, spec: DataSpec) -> Tensor:
    """Levels to uint8 0 … 255: round(level / (L-1) · 255)."""
    assert spec.levels is not None
    return levels.float().mul(255 / (spec.levels - 1)).round().byte()


def from_display(images: Tensor, spec: DataSpec) -> Tensor:
    """uint8 0 … 255 to the nearest levels; inverts `to_display`."""
    assert spec.levels is not None
    return images.float().mul((spec.levels - 1) / 255).round().byte()


def dequantize(levels: Tensor, spec: DataSpec, generator: torch.Generator | None) -> Tensor:
    """Spread each level uniformly over its bin, in model space.

    Level k becomes U[k - ½, k + ½) before the map to [-1, 1], so a density p of the result
    bounds the mass: log P(levels) ≥ E[log p(x)] + `log_bin_volume` (Theis et al. 2016, eq. 3).
    """
    return spread(to_model(levels, spec), spec, generator)


def spread(x: Tensor, spec: DataSpec, generator: torch.Generator | None = None) -> Tensor:
    """Add to images in model space uniform noise as wide as a level's bin; points stay as they are.

    Differentiable. Noise comes from `generator`, or from torch's global one.
    """
    if spec.levels is None:
        return x
    source = x.device if generator is None else generator.device
    noise = torch.rand(x.shape, generator=generator, device=source).to(x.device)
    return x + (noise - 0.5) * (2 / (spec.levels - 1))


def log_bin_volume(spec: DataSpec) -> float:
    """Log of the volume that one item's bin (images) or unit cube (points) has in model space."""
    if spec.levels is not None:
        return spec.dim * math.log(2 / (spec.levels - 1))
    return -sum(math.log(s) for s in spec.scale)


def _standardization(spec: DataSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(spec.location, device=like.device),
        torch.tensor(spec.scale, device=like.device),
    )
