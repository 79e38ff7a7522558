"""What generators and critics of every kind of GAN stand on."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.data.ranges import spread
from genzoo.nets.augmentation import diff_augment
from genzoo.nets.backbone import default_patch
from genzoo.types import DataSpec


class Layout:
    """How both networks see an item: a grid of patches, or one flat vector."""

    def __init__(self, spec: DataSpec, backbone: Literal["conv", "mlp"], patch: int) -> None:
        """Points are always flat; `patch` 0 chooses `default_patch`."""
        self.shape = spec.shape
        self.patch, self.channels = 1, spec.dim
        self.grid: tuple[int, ...] = ()
        if spec.is_image and backbone == "conv":
            self.patch = patch or default_patch(spec)
            self.grid = tuple(n // self.patch for n in spec.shape[1:])
            self.channels = spec.shape[0] * self.patch**2

    def fold(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, channels, *grid)."""
        return F.pixel_unshuffle(x, self.patch) if self.grid else x.flatten(1)

    def unfold(self, h: Tensor) -> Tensor:
        """(B, channels, *grid) -> (B, *shape)."""
        return F.pixel_shuffle(h, self.patch) if self.grid else h.view(-1, *self.shape)

    def layer(self, inputs: int, outputs: int) -> nn.Conv2d | nn.Linear:
        """A 3×3 convolution on a grid, a linear layer on vectors."""
        if self.grid:
            return nn.Conv2d(inputs, outputs, 3, padding=1)
        return nn.Linear(inputs, outputs)


def slope(score: Tensor, x: Tensor) -> Tensor:
    """∇ₓ D(x) of each item, differentiable: (B,), (B, *shape) -> (B, dim)."""
    (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return gradient.flatten(1)


def shown_to_critic(x: Tensor, spec: DataSpec, diffaugment: bool) -> Tensor:
    """What a critic sees of real and generated items alike; differentiable.

    Generated values are real numbers until the very end: unless both are spread over the levels'
    bins, the critic could tell them from data by their last digits alone.

    Args:
        x: in model space, (B, *shape).
        spec: whose levels to use.
        diffaugment: whether to move and mask images too, see `diff_augment`.
    """
    x = spread(x, spec)
    return diff_augment(x) if diffaugment else x
