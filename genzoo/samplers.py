"""Samplers as functions of a `Denoiser`: from noise at the largest sigma down to data.

All solve the probability-flow ODE dx/dσ = (x - D(x; σ)) / σ of Karras et al. 2022
(arXiv 2206.00364, eq. 1 with σ(t) = t, s(t) = 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DenoiseFn = Callable[[Tensor, Tensor], Tensor]


def karras_sigmas(steps: int, sigma_range: tuple[float, float], rho: float = 7.0) -> Tensor:
    """Noise levels of `steps` solver steps, (steps + 1,) float64 falling to 0 (eq. 5)."""
    low, high = (s ** (1 / rho) for s in sigma_range)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1)
    sigmas = (high + ramp.double() * (low - high)) ** rho
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def heun(denoise: DenoiseFn, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's second-order method (Algorithm 1); 2·steps - 1 network evaluations.

    Args:
        denoise: (x (B, *shape), sigma (B,)) -> posterior mean (B, *shape).
        x: noise with standard deviation ``sigmas[0]``, (B, *shape).
        sigmas: falling noise levels, the last one 0.
    """
    for here, there in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        slope = (x - denoise(x, x.new_full((len(x),), here))) / here
        euler = x + (there - here) * slope
        if there > 0:
            slope_there = (euler - denoise(euler, x.new_full((len(x),), there))) / there
            euler = x + (there - here) * (slope + slope_there) / 2
        x = euler
    return x
