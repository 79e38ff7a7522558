"""The classic normalizing flows: RealNVP, Glow and the neural spline flow.

A coupling keeps some numbers of an item and maps each of the others by a simple rising function
whose parameters a network reads off the kept ones. So the Jacobian is triangular, and both
directions take one pass. The three differ in that function and in what mixes the numbers between
couplings:

- RealNVP (Dinh et al. 2017, arXiv 1605.08803): affine; checkerboard and channel masks alternate.
- Glow (Kingma & Dhariwal 2018, arXiv 1807.03039): affine; a learned matrix, after normalization.
- Neural spline flow (Durkan et al. 2019, arXiv 1906.04032): Glow with splines in place of lines.

Images are squeezed into patches first: convolutions then see few, wide positions. Points are
images of one pixel with a channel per coordinate.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.model import evaluating
from genzoo.models.flow import NormalizingFlow
from genzoo.nets.backbone import default_patch
from genzoo.nets.couplings import (
    ActNorm,
    AffineCoupling,
    Chain,
    ChannelMix,
    ConvConditioner,
    Coupling,
    FlatConditioner,
    MakeNetwork,
    Map,
    SplineCoupling,
    checkerboard,
    first_half,
)
from genzoo.nets.embeddings import ConditionEmbedding
from genzoo.types import Batch, DataSpec, Recipe

SMALL_GRID = 49  # positions up to which an MLP reads the grid
FIRST_ITEMS = 512  # that ActNorm is initialized with


@dataclass(frozen=True)
class CouplingSettings:
    """Settings of every coupling flow.

    Attributes:
        patch: side of a patch in pixels; 0 chooses 2 for sides up to 16 and 4 above.
        scales: how often half of the channels leave while the rest is squeezed by 2, plus 1;
            as many as the image's sides allow; points have one.
        couplings: in all, shared evenly by the scales.
        network: ``conv``, or an ``mlp`` that sees the whole grid; ``auto`` takes the latter for
            points and grids of up to 7 × 7, where it is several times as fast (measured).
        width: features of the MLPs; convolutions have half as many.
        depth: residual blocks of each network.
        dropout: inside the blocks.
        augment: share of the training images that are shifted (the networks are told how far).
        noise: standard deviation in model space of Gaussian noise that training adds to images in
            place of uniform dequantization and that sampling removes; 0 trains for bits/dim.
        batch_size: items a step.
        lr: peak learning rate.
        weight_decay: of AdamW.
        ema: half-life of the weight average as a fraction of the budget.
    """

    patch: int = 0
    scales: int = 2
    couplings: int = 8
    network: Literal["auto", "conv", "mlp"] = "auto"
    width: int = 128
    depth: int = 1
    dropout: float = 0.2
    augment: float = 0.7
    noise: float = 0.1
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.05


@dataclass(frozen=True)
class AffineFlowSettings(CouplingSettings):
    """Settings of `RealNVP` and `Glow`: those of `CouplingSettings`, and of the lines.

    Attributes:
        couplings: in all, shared evenly by the scales; lines are cheaper than splines and weaker.
        limit: bound of a coupling's log scale, by a tanh as in Dinh et al. 2017, section 4.1; with
            3 and 16 couplings training on points diverges (measured).
    """

    couplings: int = 16
    limit: float = 1.0


@dataclass(frozen=True)
class SplineFlowSettings(CouplingSettings):
    """Settings of `SplineFlow`: those of `CouplingSettings`, and of the splines.

    Attributes:
        bins: of each spline (8 as in Durkan et al. 2019).
        bound: splines live on [-bound, bound], the identity beyond; 5 holds what is standardized.
    """

    bins: int = 8
    bound: float = 5.0


class CouplingFlow(NormalizingFlow):
    """Couplings on several scales (RealNVP, section 3.6).

    After the maps of a scale half of the channels are done; the others are squeezed and go on, so
    that late couplings see far at little cost.
    """

    Settings: ClassVar[type] = CouplingSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"augment": 0.0, "dropout": 0.0},
        "base": {"width": 256, "couplings": 24, "augment": 0.0, "lr": 3e-4},
    }

    def __init__(self, spec: DataSpec, settings: Any = None) -> None:
        """As many scales as asked for, while both sides of the grid are even."""
        super().__init__(spec, settings)
        s = self.settings
        self.patch = (s.patch or default_patch(spec)) if spec.is_image else 1
        self.latent_shape = (spec.dim,)
        self.label = ConditionEmbedding(spec, s.width, s.augment > 0)
        grids = self._grids()
        # what leaves at each scale: half of the channels, and at the last all of them
        self.shapes = [(c // 2, h, w) for c, h, w in grids[:-1]] + grids[-1:]
        each = -(-s.couplings // len(grids))
        self.scales = nn.ModuleList()
        for i, (channels, height, width) in enumerate(grids):
            squeeze = 2 if i else self.patch
            network = self._network((height, width))
            steps = (self.step(j, channels, squeeze, network) for j in range(each))
            self.scales.append(Chain(m for step in steps for m in step))

    def _grids(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of each scale, finest first."""
        channels, height, width = self.spec.shape if self.spec.is_image else (self.spec.dim, 1, 1)
        p = self.patch
        grids = [(channels * p**2, height // p, width // p)]
        while len(grids) < self.settings.scales and not (grids[-1][1] % 2 or grids[-1][2] % 2):
            channels, height, width = grids[-1]
            grids.append((2 * channels, height // 2, width // 2))
        return grids

    def _network(self, grid: tuple[int, int]) -> MakeNetwork:
        """What makes a coupling's network on a grid (H, W)."""
        s = self.settings
        flat = s.network == "mlp" or (s.network == "auto" and math.prod(grid) <= SMALL_GRID)
        return partial(
            FlatConditioner if flat else ConvConditioner,
            grid=grid,
            width=s.width if flat else s.width // 2,
            depth=s.depth,
            cond_width=s.width,
            dropout=s.dropout,
        )

    @abstractmethod
    def step(self, i: int, channels: int, squeeze: int, network: MakeNetwork) -> Iterator[Map]:
        """The maps of one step.

        Args:
            i: number of the step on its scale.
            channels: of the grid.
            squeeze: side of the patches of pixels that the channels are.
            network: what makes a coupling's network for this scale.
        """

    def recipe(self) -> Recipe:
        """AdamW with a cosine to 0."""
        return replace(super().recipe(), betas=(0.9, 0.95))

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Initialize each `ActNorm` with what reaches it of the data."""
        chosen = torch.randperm(len(data.x), generator=generator)[:FIRST_ITEMS].to(data.x.device)
        cond = {name: of[chosen] for name, of in data.cond.items()}
        norms = [m for m in self.modules() if isinstance(m, ActNorm)]
        hooks = [m.register_forward_pre_hook(lambda m, args: m.initialize(args[0])) for m in norms]
        with evaluating(self), torch.no_grad():
            self.encode(self.blurred(data.x[chosen], generator), cond)
        for hook in hooks:
            hook.remove()

    def encode_with_log_det(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """From x (B, *shape) to z (B, dim) and log |det ∂z/∂x|, (B,)."""
        c = self.label(cond, len(x), x.device)
        h = F.pixel_unshuffle(x, self.patch) if self.spec.is_image else x[:, :, None, None]
        done, total = [], torch.zeros(len(x), device=x.device)
        for i, maps in enumerate(self.scales):
            if i:
                out, h = h.chunk(2, dim=1)
                done.append(out)
                h = F.pixel_unshuffle(h, 2)
            h, log_det = maps(h, c)
            total = total + log_det
        return torch.cat([part.flatten(1) for part in (*done, h)], dim=1), total

    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Map z (B, dim) back to x (B, *shape)."""
        c = self.label(cond, len(z), z.device)
        parts = z.split([math.prod(shape) for shape in self.shapes], dim=1)
        *done, h = (p.reshape(-1, *shape) for p, shape in zip(parts, self.shapes, strict=True))
        for i, maps in reversed(list(enumerate(self.scales))):
            assert isinstance(maps, Map)
            h = maps.inverse(h, c)
            if i:
                h = torch.cat([done[i - 1], F.pixel_shuffle(h, 2)], dim=1)
        return F.pixel_shuffle(h, self.patch) if self.spec.is_image else h.flatten(1)


class RealNVP(CouplingFlow):
    """Affine couplings with alternating masks, without batch norm (Dinh et al. 2017)."""

    Settings = AffineFlowSettings

    def step(self, i: int, channels: int, squeeze: int, network: MakeNetwork) -> Iterator[Map]:
        """Checkerboard, its complement, half of the channels, the other half (section 3.4)."""
        board = checkerboard(channels // squeeze**2, squeeze)
        mask = board if i % 4 < 2 else first_half(channels)
        yield AffineCoupling(mask if i % 2 == 0 else ~mask, network, self.settings.limit)


class Glow(CouplingFlow):
    """ActNorm, invertible 1×1 convolution, affine coupling (Kingma & Dhariwal 2018, table 1)."""

    Settings: ClassVar[type] = AffineFlowSettings

    def step(self, i: int, channels: int, squeeze: int, network: MakeNetwork) -> Iterator[Map]:
        """One step of flow (figure 2a)."""
        yield ActNorm(channels)
        yield ChannelMix(channels)
        yield self.coupling(first_half(channels), network)

    def coupling(self, mask: Tensor, network: MakeNetwork) -> Coupling:
        """What maps the channels that `mask` does not keep."""
        return AffineCoupling(mask, network, self.settings.limit)


class SplineFlow(Glow):
    """Glow's steps with rational-quadratic splines: RQ-NSF (C) (Durkan et al. 2019, section 4)."""

    Settings = SplineFlowSettings

    def coupling(self, mask: Tensor, network: MakeNetwork) -> Coupling:
        """See `Glow.coupling`."""
        return SplineCoupling(mask, network, self.settings.bins, self.settings.bound)
