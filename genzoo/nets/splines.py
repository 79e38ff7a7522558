"""Monotone rational-quadratic splines with linear tails (Durkan et al. 2019, arXiv 1906.04032).

K bins tile the square [-B, B]². In each bin the map is a quotient of two quadratics that runs
through the bin's corners with given derivatives there (Gregory & Delbourgo 1982), so that it is
smooth, rises everywhere and is inverted in closed form. Outside the square it is the identity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SMALLEST = 1e-3  # of a bin's share of the square and of a derivative: keeps the map invertible
ONE = math.log(math.expm1(1 - SMALLEST))  # softplus(ONE) + SMALLEST = 1


class Knots(NamedTuple):
    """Where the bins meet, K + 1 corners for each number.

    Attributes:
        x: rising from -B to B, (…, K + 1).
        y: rising from -B to B, (…, K + 1).
        slope: dy/dx at each corner, positive, 1 at both ends, (…, K + 1).
    """

    x: Tensor
    y: Tensor
    slope: Tensor


def parameters_of(bins: int) -> int:
    """Numbers that `knots` reads for each spline: K widths, K heights, K - 1 slopes."""
    return 3 * bins - 1


def knots(raw: Tensor, bins: int, bound: float) -> Knots:
    """Any numbers to a valid spline; zeros to the identity (section 3.1).

    Args:
        raw: (…, `parameters_of` (bins)).
        bins: K.
        bound: B, half the side of the square.
    """
    widths, heights, slopes = raw.split([bins, bins, bins - 1], dim=-1)
    inner = F.softplus(slopes + ONE) + SMALLEST
    return Knots(
        _edges(widths, bound),
        _edges(heights, bound),
        F.pad(inner, (1, 1), value=1.0),  # the tails' slope, so that the derivative is continuous
    )


def spline(x: Tensor, at: Knots) -> tuple[Tensor, Tensor]:
    """The map and the log of its derivative.

    Args:
        x: (…), of any size.
        at: knots of each number's own spline.

    Returns:
        y (…) and log dy/dx (…).
    """
    bound = at.x[..., -1].detach()
    inside = x.abs() < bound
    x0, width, y0, height, d0, d1 = _bin(at, torch.where(inside, x, 0.0), at.x)
    secant = height / width
    xi = (torch.where(inside, x, 0.0) - x0) / width
    both = xi * (1 - xi)
    below = secant + (d1 + d0 - 2 * secant) * both
    y = y0 + height * (secant * xi.square() + d0 * both) / below  # eq. 4
    log_slope = _log_slope(xi, secant, d0, d1, below)
    return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def inverse_spline(y: Tensor, at: Knots) -> Tensor:
    """The x whose image is y, (…) -> (…): the root of a quadratic (appendix A.1)."""
    inside = y.abs() < at.y[..., -1]
    x0, width, y0, height, d0, d1 = _bin(at, torch.where(inside, y, 0.0), at.y)
    secant = height / width
    rise = torch.where(inside, y, 0.0) - y0
    bend = rise * (d1 + d0 - 2 * secant)
    a = height * (secant - d0) + bend
    b = height * d0 - bend
    c = -secant * rise
    # The form of the root that does not cancel where a is small.
    xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, x0 + xi * width, y)


def _log_slope(xi: Tensor, secant: Tensor, d0: Tensor, d1: Tensor, below: Tensor) -> Tensor:
    """Log dy/dx at the fraction `xi` of a bin (eq. 5)."""
    above = d1 * xi.square() + 2 * secant * xi * (1 - xi) + d0 * (1 - xi).square()
    return 2 * secant.log() + above.log() - 2 * below.log()


def _edges(raw: Tensor, bound: float) -> Tensor:
    """K numbers to the K + 1 edges of bins that tile [-bound, bound]."""
    bins = raw.shape[-1]
    share = SMALLEST + (1 - SMALLEST * bins) * raw.softmax(dim=-1)
    edges = F.pad(share.cumsum(dim=-1)[..., :-1], (1, 0))
    inner = bound * (2 * edges - 1)
    return F.pad(inner, (0, 1), value=bound)  # exactly, whatever the sum's rounding


def _bin(at: Knots, value: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
    """The bin of each value by its `edges`: left x, width, lower y, height, both slopes."""
    k = (value[..., None] >= edges[..., 1:-1]).sum(dim=-1, keepdim=True)

    def pick(of: Tensor, index: Tensor) -> Tensor:
        return of.gather(-1, index).squeeze(-1)

    x0, y0, d0 = (pick(of, k) for of in at)
    x1, y1, d1 = (pick(of, k + 1) for of in at)
    return x0, x1 - x0, y0, y1 - y0, d0, d1
