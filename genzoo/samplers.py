"""Ways from noise to data with a `Denoiser`: DDPM, DDIM, Euler, Heun, DPM-Solver++(2M).

All work on x = x₀ + σε, whatever the model was trained on: a variance-preserving x_t = α(x₀ + σε)
and a rectified x_t = (1 - t)(x₀ + σε), σ = t / (1 - t), are the same up to a factor that the
model's `denoise` takes off. There the probability-flow ODE is dx/dσ = (x - D(x; σ)) / σ (Karras
et al. 2022, arXiv 2206.00364, eq. 1 with σ(t) = t, s(t) = 1). Each sampler yields the state at
every noise level, so that the way can be shown; the last one is the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from genzoo.errors import unknown

DenoiseFn = Callable[[Tensor, Tensor], Tensor]
NormalFn = Callable[[], Tensor]
Sampler = Callable[[DenoiseFn, Tensor, Tensor, NormalFn], Iterator[Tensor]]


# -- noise levels ----------------------------------------------------------------------------


def karras_sigmas(steps: int, sigma_range: tuple[float, float], rho: float = 7.0) -> Tensor:
    """Noise levels of `steps` solver steps, (steps + 1,) float64 falling to 0 (eq. 5)."""
    low, high = (s ** (1 / rho) for s in sigma_range)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1)
    sigmas = (high + ramp.double() * (low - high)) ** rho
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def rectified_sigmas(steps: int, sigma_range: tuple[float, float]) -> Tensor:
    """Noise levels σ = t / (1 - t) with t in equal steps down to 0, (steps + 1,) float64."""
    top = sigma_range[1] / (1 + sigma_range[1])
    t = torch.linspace(top, 0, steps + 1, dtype=torch.float64)
    return t / (1 - t)


# -- samplers --------------------------------------------------------------------------------


def euler(denoise: DenoiseFn, x: Tensor, sigmas: Tensor, normal: NormalFn) -> Iterator[Tensor]:
    """Euler's method, which in these coordinates is DDIM (Song et al. 2021, 2010.02502, eq. 13).

    Each step goes to D + σ' (x - D) / σ. One evaluation a step, first order.

    Args:
        denoise: (x (B, *shape), sigma (B,)) -> posterior mean (B, *shape).
        x: noise with standard deviation ``sigmas[0]``, (B, *shape).
        sigmas: falling noise levels, the last one 0.
        normal: fresh standard normal noise, (B, *shape); not used here.
    """
    for here, there in _steps(sigmas):
        clean = denoise(x, x.new_full((len(x),), here))
        x = clean + there / here * (x - clean)
        yield x


def heun(denoise: DenoiseFn, x: Tensor, sigmas: Tensor, normal: NormalFn) -> Iterator[Tensor]:
    """Heun's method (Karras et al. 2022, algorithm 1): 2·steps - 1 evaluations, second order.

    Args: as `euler`.
    """
    for here, there in _steps(sigmas):
        slope = (x - denoise(x, x.new_full((len(x),), here))) / here
        tried = x + (there - here) * slope
        if there > 0:
            slope_there = (tried - denoise(tried, x.new_full((len(x),), there))) / there
            tried = x + (there - here) * (slope + slope_there) / 2
        x = tried
        yield x


def dpm_solver(denoise: DenoiseFn, x: Tensor, sigmas: Tensor, normal: NormalFn) -> Iterator[Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): second order.

    With λ = -ln σ and h = λ' - λ a step is x' = σ'/σ x + (1 - e^-h) D̃, where D̃ extrapolates D
    from the last two evaluations, of which each step needs one new. The last step, for which h
    is infinite, goes to D itself.

    Args: as `euler`.
    """
    before: tuple[float, Tensor] | None = None
    for here, there in _steps(sigmas):
        clean = denoise(x, x.new_full((len(x),), here))
        target = clean
        if there > 0:
            h = math.log(here / there)
            if before is not None:
                h_before, clean_before = before
                target = clean + h / (2 * h_before) * (clean - clean_before)
            before = h, clean
        x = there / here * x + (1 - there / here) * target
        yield x


def ddpm(denoise: DenoiseFn, x: Tensor, sigmas: Tensor, normal: NormalFn) -> Iterator[Tensor]:
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, eqs. 6 and 7): a draw of q(x' | x, D).

    Mean D + σ'²/σ² (x - D) and variance σ'² (σ² - σ'²) / σ². One evaluation a step.

    Args: as `euler`; `normal` is asked once a step but the last.
    """
    for here, there in _steps(sigmas):
        clean = denoise(x, x.new_full((len(x),), here))
        ratio = (there / here) ** 2
        x = clean + ratio * (x - clean)
        if there > 0:
            x = x + there * math.sqrt(1 - ratio) * normal()
        yield x


SAMPLERS: Mapping[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": euler,
    "euler": euler,
    "heun": heun,
    "dpm-solver++": dpm_solver,
}


def find_sampler(name: str) -> Sampler:
    """A sampler by its name.

    Raises:
        InputError: no such sampler, with the nearest name.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def _steps(sigmas: Tensor) -> Iterator[tuple[float, float]]:
    levels = sigmas.tolist()
    return zip(levels[:-1], levels[1:], strict=True)


# -- guidance --------------------------------------------------------------------------------


def guided(
    strong: DenoiseFn,
    weak: DenoiseFn,
    weight: float,
    interval: tuple[float, float] = (0.0, math.inf),
) -> DenoiseFn:
    """The denoiser weak + w (strong - weak).

    With the unconditional model as the weak one this is classifier-free guidance (Ho and
    Salimans 2022, arXiv 2207.12598, eq. 6), with a worse model autoguidance (Karras et al. 2024,
    arXiv 2406.02507, eq. 3). w = 1 is the strong one alone, whose evaluations are then all.

    Args:
        strong: what is wanted.
        weak: what is led away from.
        weight: w.
        interval: noise levels within which to guide (Kynkäänniemi et al. 2024, 2404.07724).
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        wanted = strong(x, sigma)
        if weight == 1 or not interval[0] <= float(sigma[0]) <= interval[1]:
            return wanted
        unwanted = weak(x, sigma)
        return unwanted + weight * (wanted - unwanted)

    return denoise
