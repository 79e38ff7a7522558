"""More data from the same data, without teaching a model to make shifted images.

Whole-pixel shifts only: images are never mirrored, since most data sets of digits and letters
would not survive it. A network is told the shift, so that it can be asked for none (the
non-leaking augmentation of Karras et al. 2022, arXiv 2206.00364, appendix F.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.types import Batch


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


def shifted(batch: Batch, probability: float) -> Batch:
    """The batch with some images shifted and the condition ``shift`` that says how far.

    Points, and images with `probability` 0, come back as they are.
    """
    if batch.x.ndim != 4 or probability == 0:
        return batch
    x, shift = random_shift(batch.x, probability)
    return Batch(x, {**batch.cond, "shift": shift})


def diff_augment(x: Tensor) -> Tensor:
    """Move and mask images, differentiably (DiffAugment, Zhao et al. 2020, arXiv 2006.10738).

    A critic that sees real and generated images through the same random transforms, in both
    phases (eq. 4 and 5), cannot learn few real ones by heart, and the generator still has to match
    the images themselves. Translation and cutout always; brightness only of colour images, since
    ink on gray ones is their content. Never mirrored. Points come back as they are.

    Args:
        x: images in model space, (B, C, H, W).
    """
    if x.ndim != 4:
        return x
    if x.shape[1] == 3:
        x = x + torch.rand(len(x), 1, 1, 1, device=x.device) - 0.5
    moved, _ = random_shift(x, 1.0)
    return cutout(moved)


def cutout(x: Tensor) -> Tensor:
    """Gray out a rectangle of half the sides, centred anywhere; differentiable.

    Args:
        x: images in model space, whose middle gray is 0; (B, C, H, W).
    """
    height, width = x.shape[2:]
    rows, columns = _half(len(x), height, x.device), _half(len(x), width, x.device)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _half(n: int, side: int, device: torch.device) -> Tensor:
    """Half of `side` around a random place, cut where it leaves the image: (n, side) bool."""
    start = torch.randint(-(side // 4), side - side // 4, (n, 1), device=device)
    place = torch.arange(side, device=device)
    return (place >= start) & (place < start + side // 2)
