"""More data from the same data, without teaching a model to make shifted images.

Whole-pixel shifts only: images are never mirrored, since most data sets of digits and letters
would not survive it. A network is told the shift, so that it can be asked for none (the
non-leaking augmentation of Karras et al. 2022, arXiv 2206.00364, appendix F.2); a GAN shows
shifted images to its critic alone (Zhao et al. 2020, arXiv 2006.10738).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.types import DataSpec


def random_shift(x: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Move some images by up to an eighth of their side, repeating their edges; differentiable.

    Args:
        x: images, (B, C, H, W).
        probability: share of the images that are moved.

    Returns:
        The images, and by what fraction of their height they were moved down and right, (B, 2).
    """
    n, channels, height, width = x.shape
    reach = max(1, height // 8)
    moved = torch.rand(n, 1, device=x.device) < probability
    shift = torch.randint(-reach, reach + 1, (n, 2), device=x.device) * moved
    rows = (torch.arange(height, device=x.device) - shift[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - shift[:, 1:]).clamp(0, width - 1)
    index = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, index).view_as(x), shift / height


class ShiftEmbedding(nn.Module):
    """Shifts a training batch, and turns the shifts into a vector that is 0 for no shift."""

    def __init__(self, spec: DataSpec, probability: float, width: int) -> None:
        """Does nothing to points, or with `probability` 0."""
        super().__init__()
        self.probability = probability if spec.is_image else 0.0
        self.embed = nn.Linear(2, width, bias=False) if self.probability else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """(B, *shape) -> the same, shifted, and what to add to the condition, (B, width) or 0."""
        if self.embed is None:
            return x, 0.0
        x, shift = random_shift(x, self.probability)
        return x, self.embed(8 * shift)
