"""Invertible maps of grids (B, C, H, W): what coupling flows are built of.

A coupling keeps some channels and maps each of the other numbers by a rising function whose
parameters a network reads off the kept ones: the Jacobian is triangular, both ways take one pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.nets.conv import ConvBlock
from genzoo.nets.mlp import ResidualMLP
from genzoo.nets.splines import inverse_spline, knots, parameters_of, spline

MakeNetwork = Callable[[int, int], nn.Module]  # from the numbers of input and output channels


class Map(nn.Module, ABC):
    """An invertible map that knows its Jacobian."""

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the latent.

        Args:
            x: (B, C, H, W).
            c: condition, (B, width).

        Returns:
            y of x's shape and log |det ∂y/∂x|, (B,).
        """

    @abstractmethod
    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """The x whose image is y."""


class Chain(Map):
    """Maps one after the other; log-determinants add."""

    def __init__(self, maps: Iterable[Map]) -> None:
        """The first of `maps` is nearest to the data."""
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See `Map`."""
        total = torch.zeros(len(x), device=x.device)
        for each in self.maps:
            x, log_det = each(x, c)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """See `Map`."""
        for each in reversed(list(self.maps)):
            assert isinstance(each, Map)
            y = each.inverse(y, c)
        return y


class ActNorm(Map):
    """y = (x - mean) / std, channel by channel: learned, but first measured (Glow, section 3.1)."""

    def __init__(self, channels: int) -> None:
        """The identity, until `initialize` is called."""
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(channels, 1, 1))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Give each channel of the data (B, C, H, W) mean 0 and variance 1."""
        std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
        self.mean.copy_(mean[0])
        self.log_std.copy_(std[0].clamp(min=1e-3).log())  # a channel may never vary

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See `Map`."""
        log_det = -self.log_std.sum() * x[0, 0].numel()
        return (x - self.mean) * torch.exp(-self.log_std), log_det.expand(len(x))

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """See `Map`."""
        return y * torch.exp(self.log_std) + self.mean


class ChannelMix(Map):
    """y = W x at every position: the invertible 1×1 convolution (Glow, section 3.2)."""

    def __init__(self, channels: int) -> None:
        """W starts as a random rotation, whose log-determinant is 0."""
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels)).Q)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See `Map`."""
        log_det = torch.linalg.slogdet(self.weight.float()).logabsdet * x[0, 0].numel()  # eq. 9
        return F.conv2d(x, self.weight[:, :, None, None]), log_det.expand(len(x))

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """See `Map`."""
        x: Tensor = torch.linalg.solve(self.weight, y.flatten(2))
        return x.view_as(y)


class Coupling(Map):
    """Keep the channels of a mask; map each other number as a network of the kept ones says."""

    kept: Tensor
    changed: Tensor

    def __init__(self, mask: Tensor, parameters: int, network: MakeNetwork) -> None:
        """The network reads the channels that `mask` (C,) keeps; `parameters` make one map."""
        super().__init__()
        if bool(mask.all()):
            mask = ~mask  # a single channel is mapped as the condition alone says
        self.register_buffer("kept", mask.float().view(-1, 1, 1), persistent=False)
        self.register_buffer("changed", (~mask).nonzero().flatten(), persistent=False)
        self.network = network(len(mask), parameters * len(self.changed))

    @abstractmethod
    def rise(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Map numbers x (B, n, H, W) with parameters raw (B, n, H, W, P): y and log dy/dx."""

    @abstractmethod
    def unrise(self, y: Tensor, raw: Tensor) -> Tensor:
        """The x whose image under `rise` is y."""

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See `Map`."""
        y, log_slope = self.rise(x[:, self.changed], self._read(x, c))
        return x.index_copy(1, self.changed, y), log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """See `Map`."""
        x = self.unrise(y[:, self.changed], self._read(y, c))
        return y.index_copy(1, self.changed, x)

    def _read(self, x: Tensor, c: Tensor) -> Tensor:
        """The parameters of the changed numbers, (B, n, H, W, P), from the kept ones."""
        raw: Tensor = self.network(x * self.kept, c)
        channels = len(self.changed)
        return raw.view(len(x), channels, -1, *raw.shape[2:]).movedim(2, -1)


class AffineCoupling(Coupling):
    """y = (x - t) exp(-s), RealNVP's equations 4 and 5 towards the latent."""

    def __init__(self, mask: Tensor, network: MakeNetwork, limit: float) -> None:
        """`limit` bounds the log scale s."""
        super().__init__(mask, 2, network)
        self.limit = limit

    def rise(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """See `Coupling`."""
        shift, log_scale = self._affine(raw)
        return (x - shift) * torch.exp(-log_scale), -log_scale

    def unrise(self, y: Tensor, raw: Tensor) -> Tensor:
        """See `Coupling`."""
        shift, log_scale = self._affine(raw)
        return y * torch.exp(log_scale) + shift

    def _affine(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = raw.unbind(-1)
        return shift, self.limit * torch.tanh(log_scale / self.limit)


class SplineCoupling(Coupling):
    """A monotone rational-quadratic spline for each number (Durkan et al. 2019, section 3.1)."""

    def __init__(self, mask: Tensor, network: MakeNetwork, bins: int, bound: float) -> None:
        """Splines of `bins` bins on [-bound, bound]."""
        super().__init__(mask, parameters_of(bins), network)
        self.bins, self.bound = bins, bound

    def rise(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """See `Coupling`."""
        return spline(x, knots(raw, self.bins, self.bound))

    def unrise(self, y: Tensor, raw: Tensor) -> Tensor:
        """See `Coupling`."""
        return inverse_spline(y, knots(raw, self.bins, self.bound))


class ConvConditioner(nn.Module):
    """Convolutions on a grid, for a coupling; starts at 0."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        grid: tuple[int, int],
        width: int,
        depth: int,
        cond_width: int,
        dropout: float,
    ) -> None:
        """From `channels` to `outputs` numbers at each position of the `grid`, (H, W)."""
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 1)
        self.position = nn.Parameter(0.02 * torch.randn(width, *grid))
        self.blocks = nn.ModuleList(ConvBlock(width, cond_width, dropout) for _ in range(depth))
        self.out = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, channels, H, W), (B, cond_width) -> (B, outputs, H, W)."""
        h = self.embed(x) + self.position
        for block in self.blocks:
            h = block(h, c)
        out: Tensor = self.out(F.silu(h))
        return out


class FlatConditioner(nn.Module):
    """An MLP that sees the whole grid at once, for points and small grids; starts at 0."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        grid: tuple[int, int],
        width: int,
        depth: int,
        cond_width: int,
        dropout: float,
    ) -> None:
        """See `ConvConditioner`."""
        super().__init__()
        self.shape = (outputs, *grid)
        area = math.prod(grid)
        self.mlp = ResidualMLP(channels * area, outputs * area, width, depth, cond_width, dropout)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, channels, H, W), (B, cond_width) -> (B, outputs, H, W)."""
        out: Tensor = self.mlp(x.flatten(1), c)
        return out.view(-1, *self.shape)


# -- masks -------------------------------------------------------------------------------------


def checkerboard(channels: int, side: int) -> Tensor:
    """Every other pixel of patches, (channels · side²,): pixels are channels after squeezing."""
    channel, row, column = (torch.arange(n) for n in (channels, side, side))
    parity = channel[:, None, None] + row[:, None] + column
    return (parity % 2 == 0).flatten()


def first_half(channels: int) -> Tensor:
    """The first half of the channels, (channels,), rounded up."""
    return torch.arange(channels) < (channels + 1) // 2
