"""The pixels themselves: nothing learned, nothing hidden, hardly what people see."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genzoo.data.ranges import to_display
from genzoo.evaluation.extractors.fitted import fit_split
from genzoo.evaluation.features import Extractor, Features, Request, content_hash
from genzoo.evaluation.result import FeatureInfo

# A covariance of more dimensions costs minutes and needs more samples than there are.
MAX_DIM = 1024


class Pixels(Extractor):
    """Pixels less the mean gray value, in a unit that makes their mean square 1.

    The cubic kernel of KID depends on scale, so the scale must not be an accident. Images of
    more than `MAX_DIM` values are averaged over square blocks, the smallest that will do.
    """

    def __init__(
        self, images: Tensor, split: str, device: torch.device, max_dim: int = MAX_DIM
    ) -> None:
        """Take the mean gray value and the unit from images (N, C, H, W) uint8."""
        shape = tuple(images.shape[1:])
        self.block = block_side(shape, max_dim)
        dim = shape[0] * math.prod(-(-side // self.block) for side in shape[1:])
        self.mean, self.unit = 0.0, 1.0
        parts = [self._values(part) for part in images.split(self.chunk)]
        total = sum(part.numel() for part in parts)
        self.mean = float(sum(part.sum() for part in parts)) / total
        square = float(sum((part - self.mean).square().sum() for part in parts)) / total
        # Images of a single gray value have no scale of their own.
        self.unit = math.sqrt(square) if square > 1e-12 else 1.0
        numbers = torch.tensor([self.mean, self.unit, self.block], dtype=torch.float64)
        digest = content_hash({"pixels": numbers})
        source = f"averaged {self.block}x{self.block}" if self.block > 1 else ""
        info = FeatureInfo("pixels", digest, None, split, dim, len(images), source)
        super().__init__(info, device)

    def _values(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> (N, d) float64 in [0, 1], averaged over blocks."""
        x = images.double() / 255
        if self.block > 1:
            x = F.avg_pool2d(x, self.block, ceil_mode=True)
        return x.flatten(1)

    def _extract(self, items: Tensor) -> Features:
        return Features((self._values(items.to(self.home)) - self.mean) / self.unit)


def block_side(shape: tuple[int, ...], max_dim: int = MAX_DIM) -> int:
    """Side of the smallest blocks whose averages are at most `max_dim` values an image.

    >>> [block_side(shape) for shape in ((1, 28, 28), (3, 32, 32), (3, 64, 64))]
    [1, 2, 4]
    """
    block = 1
    while shape[0] * math.prod(-(-side // block) for side in shape[1:]) > max_dim:
        if block >= max(shape[1:]):
            break
        block += 1
    return block


def open_pixels(request: Request) -> Pixels:
    """The pixels of a dataset."""
    split, name = fit_split(request.dataset)
    return Pixels(to_display(split.data, request.dataset.spec), name, request.device)
