"""DINOv2: of all spaces tried, distances in this one agree best with people (Stein et al. 2023).

torch-fidelity fetches code and weights from torch.hub and takes no file; here the network is
written down, so that only a file of tensors is needed and no foreign code runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo import compat
from genzoo.evaluation.extractors.pretrained import Weights, fits, locate, read_tensors, to_rgb
from genzoo.evaluation.features import Extractor, Features, Request
from genzoo.evaluation.result import FeatureInfo

SIDE, PATCH = 224, 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """A vision transformer's sizes.

    Attributes:
        width: of tokens, and the number of features.
        depth: number of blocks.
        heads: of attention.
        gated: whether the feed-forward part is gated (SwiGLU) instead of GELU.
        grid: side of the grid of patches that the position embeddings are for.
    """

    width: int
    depth: int
    heads: int
    gated: bool = False
    grid: int = 37


ARCHITECTURES: Mapping[str, Architecture] = {
    "dinov2-vit-s-14": Architecture(384, 12, 6),
    "dinov2-vit-b-14": Architecture(768, 12, 12),
    "dinov2-vit-l-14": Architecture(1024, 24, 16),
    "dinov2-vit-g-14": Architecture(1536, 40, 24, gated=True),
}
_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14_pretrain.pth"
_PUBLISHED = {
    "s": ("b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88),
    "b": ("0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346),
    "l": ("d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1218),
    "g": ("baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3", 4546),
}


class _Scale(nn.Module):
    """A factor for each feature (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        split = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))
        return out


class _Feed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _GatedFeed(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202), as wide as has the parameters of `_Feed`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class _Block(nn.Module):
    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=1e-6)
        self.attn = _Attention(sizes.width, sizes.heads)
        self.ls1 = _Scale(sizes.width)
        self.norm2 = nn.LayerNorm(sizes.width, eps=1e-6)
        self.mlp = _GatedFeed(sizes.width) if sizes.gated else _Feed(sizes.width)
        self.ls2 = _Scale(sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class _PatchEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class VisionTransformer(nn.Module):
    """DINOv2's network without registers (Oquab et al. 2023, arXiv:2304.07193).

    Parameters are named as in the published files.
    """

    def __init__(self, sizes: Architecture) -> None:
        """Build it with weights that mean nothing yet."""
        super().__init__()
        self.grid = sizes.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.mask_token = nn.Parameter(torch.zeros(1, sizes.width))  # in the files, unused
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, sizes.width))
        self.patch_embed = _PatchEmbedding(sizes.width)
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images (N, 3, H, W), sides divisible by 14 -> class token (N, width)."""
        height, width = (side // PATCH for side in x.shape[2:])
        patches = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1)
        tokens = tokens + self._positions(height, width)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)[:, 0]
        return out

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings for another grid than that of the training (bicubic).

        The factors are a tenth of a patch too large: so the network was evaluated, and the
        embeddings come out a little different without.
        """
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        whole, places = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = places.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        factors = ((height + 0.1) / self.grid, (width + 0.1) / self.grid)
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic")
        return torch.cat([whole, resized.flatten(2).transpose(1, 2)], 1)


class DinoV2(Extractor):
    """The class token, unscaled; images are resized to 224 as torch-fidelity does."""

    chunk = 16

    def __init__(self, network: nn.Module, info: FeatureInfo, device: torch.device) -> None:
        """Take a network of normalized images (N, 3, 224, 224)."""
        super().__init__(info, device)
        self.network = network.eval().to(device)

    def _extract(self, items: Tensor) -> Features:
        compat.install()
        from torch_fidelity import interpolate_compat_tensorflow as compatible

        x = to_rgb(items).to(self.device).float()
        resize = compatible.interpolate_bilinear_2d_like_tensorflow1x
        x = resize(x, size=(SIDE, SIDE), align_corners=False)
        mean, std = (
            torch.tensor(values, device=self.device).reshape(3, 1, 1) * 255
            for values in (MEAN, STD)
        )
        return Features(self.network((x - mean) / std))


def published(name: str) -> Weights:
    """Meta's file of a variant."""
    size = name.split("-")[2]
    url = _URL.format(size)
    digest, megabytes = _PUBLISHED[size]
    return Weights(url.rpartition("/")[2], url, digest, megabytes)


def open_dinov2(request: Request) -> DinoV2:
    """With the published weights; raises like `genzoo.evaluation.extractors.pretrained.locate`."""
    found = locate(published(request.name), request)
    state = read_tensors(found.path)
    with torch.device("meta"):  # drawing a billion weights only to drop them takes seconds
        network = VisionTransformer(ARCHITECTURES[request.name])
    with fits(found.path, request.name):
        network.load_state_dict(state, assign=True)
    network.float().requires_grad_(False)
    width = math.prod(network.norm.normalized_shape)
    info = FeatureInfo(request.name, found.sha256, None, "none", width, 0, found.source)
    return DinoV2(network, info, request.device)
