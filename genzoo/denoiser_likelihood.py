"""What a `Denoiser` says of given data: a density by its probability flow, a bound by its errors.

The probability-flow ODE dx/dσ = (x - D(x; σ)) / σ of Karras et al. 2022 (arXiv 2206.00364, eq. 1
with σ(t) = t, s(t) = 1) is solved from the data up to noise; `genzoo.samplers` solve it the other
way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.data.ranges import dequantize, log_bin_volume, to_model
from genzoo.errors import InputError
from genzoo.model import Denoiser
from genzoo.types import DataSpec

SlopeFn = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FlowSolver:
    """How the probability-flow ODE is solved for a density.

    Attributes:
        tolerance: local error a step may make: in coordinates of unit variance (root mean
            square over an item's dimensions), and in nats per dimension.
        probes: Rademacher directions whose estimates of the trace are averaged.
        exact_up_to: dimensions up to which the trace is summed exactly instead.
        max_steps: steps after which an item is given up; its density is then NaN.
    """

    tolerance: float = 5e-4
    probes: int = 2
    exact_up_to: int = 4
    max_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse what no solver can do."""
        if not 0 < self.tolerance < 1:
            raise InputError(f"solver tolerance {self.tolerance}: must lie between 0 and 1")
        if self.probes < 1:
            raise InputError(f"{self.probes} trace probes: at least 1 is needed")

    def describe(self, spec: DataSpec, sigma_range: tuple[float, float]) -> str:
        """What `flow_log_prob` computes, in words for a score's convention."""
        trace = f"Hutchinson trace, {self.probes} Rademacher probes"
        if spec.dim <= self.exact_up_to:
            trace = "exact trace"
        words = f"probability-flow ODE (Dormand-Prince 5(4), tolerance {self.tolerance:g}; {trace})"
        law = f"{words} of the law at σ = {density_range(spec, sigma_range)[0]:.3g}"
        return f"{law}, rounded to levels; uniform dequantization" if spec.is_image else law


def density_range(spec: DataSpec, sigma_range: tuple[float, float]) -> tuple[float, float]:
    """Noise levels between which a likelihood is computed.

    The law of levels is a comb, whose teeth a denoiser sees at σ far below a level's bin;
    dequantized levels lie between them. With noise as strong as dequantization's, width/√12,
    the model's law is as smooth as what is asked of it.
    """
    low, high = sigma_range
    if spec.levels is not None:
        low = max(low, 2 / (spec.levels - 1) / math.sqrt(12))
    return low, high


def flow_log_prob(
    model: Denoiser,
    raw: Tensor,
    cond: Mapping[str, Tensor],
    *,
    spec: DataSpec,
    scale: float = 1.0,
    solver: FlowSolver = FlowSolver(),  # noqa: B008  (frozen)
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate of log P(raw | cond), (B,) nats: mass of levels, density of points in data units.

    Of levels it is the density of dequantized data and the volume of their bin, so in mean a
    lower bound (Theis et al. 2016, eq. 3) of the mass of the law at `density_range`'s lower end
    rounded to levels, up to the errors of solver and trace. See `flow_log_density`.
    """
    x = dequantize(raw, spec, generator) if spec.is_image else to_model(raw, spec)
    log_density = flow_log_density(
        model,
        x,
        cond,
        sigma_range=density_range(spec, model.sigma_range),
        scale=scale,
        solver=solver,
        generator=generator,
    )
    return log_density + log_bin_volume(spec)


def flow_log_density(
    model: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor],
    *,
    sigma_range: tuple[float, float] | None = None,
    scale: float = 1.0,
    solver: FlowSolver = FlowSolver(),  # noqa: B008  (frozen)
    generator: torch.Generator | None = None,
) -> Tensor:
    """Log density of the probability flow at its lower end (Song et al. 2021, eq. 39).

    The instantaneous change of variables along dx/dσ, with the samplers' own start N(0, σ_max²)
    at the upper end: the density of what a sampler that stops at σ_min draws, so noise of
    σ_min is part of the law and no error of this estimate. It is solved for u = x / √(σ² +
    scale²) over ln σ, where a Gaussian of that scale stands still and u stays of unit size, so
    that one tolerance suits all noise levels.

    Args:
        model: the denoiser.
        x: items in model space at noise σ_min, (B, *shape).
        cond: conditions, (B,) each.
        sigma_range: from where to where; the denoiser's own range where absent.
        scale: standard deviation of the data; it changes the cost, not the answer.
        solver: tolerance and trace estimator.
        generator: of the trace probes; torch's global one where absent.

    Returns:
        (B,) nats; NaN where the solver failed.
    """
    low, high = sigma_range or model.sigma_range
    dim = x[0].numel()
    probes = trace_probes(x, solver, generator)

    def slope(log_sigma: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        sigma = log_sigma.exp()
        size = (sigma**2 + scale**2).sqrt()
        noisy = state[:, :-1] * size[:, None]
        some = {name: value[rows] for name, value in cond.items()}
        shaped = noisy.view(-1, *x.shape[1:])
        denoised, trace = denoise_with_trace(model, shaped, sigma, some, probes[:, rows])
        shrink = (sigma / size) ** 2
        speed = (noisy - denoised.flatten(1)) / size[:, None] - state[:, :-1] * shrink[:, None]
        return torch.cat([speed, (dim - trace - dim * shrink)[:, None]], dim=1)

    start, end = math.hypot(low, scale), math.hypot(high, scale)
    state = torch.cat([x.flatten(1) / start, x.new_zeros(len(x), 1)], dim=1)
    state = solve_rows(slope, state, math.log(low), math.log(high), solver)
    square = (state[:, :-1] * end / high).square().sum(1)
    log_prior = -0.5 * square - dim * (math.log(high) + 0.5 * math.log(2 * math.pi))
    return log_prior + state[:, -1] + dim * math.log(end / start)


def trace_probes(x: Tensor, solver: FlowSolver, generator: torch.Generator | None) -> Tensor:
    """Directions v whose mean of vᵀJv is, or estimates, the trace of J, (P, B, *shape).

    Up to `FlowSolver.exact_up_to` dimensions these are the axes times √D, which give the trace
    itself; above, random signs (Hutchinson 1990).
    """
    dim = x[0].numel()
    if dim <= solver.exact_up_to:
        axes = torch.eye(dim, dtype=x.dtype, device=x.device) * math.sqrt(dim)
        return axes[:, None].expand(dim, len(x), dim).reshape(dim, *x.shape)
    source = x.device if generator is None else generator.device
    signs = torch.randint(0, 2, (solver.probes, *x.shape), generator=generator, device=source)
    return signs.to(x) * 2 - 1


def denoise_with_trace(
    model: Denoiser, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor], probes: Tensor
) -> tuple[Tensor, Tensor]:
    """D(x; σ), (B, *shape), and the mean over probes v of vᵀ(∂D/∂x)v, (B,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        denoised = model.denoise(x, sigma, cond)
        trace = x.new_zeros(len(x))
        for i, probe in enumerate(probes):
            (product,) = torch.autograd.grad(denoised, x, probe, retain_graph=i + 1 < len(probes))
            trace = trace + (product * probe).flatten(1).sum(1)
    return denoised.detach(), trace.detach() / len(probes)


# Dormand and Prince 1980, table 2: nodes, stages (the last is the fifth-order step, whose slope
# is the next step's first) and the difference to the fourth-order step.
_NODES = (0.2, 0.3, 0.8, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def solve_rows(
    slope: SlopeFn, state: Tensor, start: float, end: float, solver: FlowSolver
) -> Tensor:
    """Dormand-Prince with a step size for every row, so that no row depends on the others.

    Rows that have arrived leave the batch. scipy's ``solve_ivp`` would share one step among
    all rows, and carry each state to the CPU and back.

    Args:
        slope: (time (b,), state (b, n), rows (b,)) -> (b, n); `rows` tells which rows are left.
        state: at `start`, (B, n): coordinates, and the log density in the last column.
        start: first time.
        end: last time, later than `start`.
        solver: tolerance and limit of steps.

    Returns:
        The state at `end`, (B, n); NaN in the rows that did not arrive.
    """
    out = torch.full_like(state, math.nan)
    rows = torch.arange(len(state), device=state.device)
    time, step = (state.new_full((len(state),), v) for v in (start, (end - start) / 40))
    first = slope(time, state, rows)
    for _ in range(solver.max_steps):
        step = torch.minimum(step, end - time)
        slopes, new = [first], state
        for node, weights in zip(_NODES, _STAGES, strict=True):
            new = state + step[:, None] * _combine(weights, slopes)
            slopes.append(slope(time + node * step, new, rows))
        error = _error_norm(step[:, None] * _combine(_ERROR, slopes), solver.tolerance)
        good = error <= 1
        time = torch.where(good, time + step, time)
        state, first = (
            torch.where(good[:, None], a, b) for a, b in ((new, state), (slopes[-1], first))
        )
        # A NaN error is refused and shrinks the step like any large one.
        step = step * (0.9 * error.nan_to_num(math.inf).clamp(1e-6, 1e6) ** -0.2).clamp(0.2, 5.0)
        arrived = end - time <= 1e-6 * (end - start)
        out[rows[arrived]] = state[arrived]
        going = ~arrived & first.isfinite().all(1) & (step > 1e-7 * (end - start))
        if not bool(going.any()):
            break
        rows, time, step, state, first = (v[going] for v in (rows, time, step, state, first))
    return out


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total = total + weight * slope
    return total


def _error_norm(error: Tensor, tolerance: float) -> Tensor:
    """Error of a step over what is tolerated, (B, n) -> (B,); n - 1 is the dimension."""
    coordinates = error[:, :-1].square().mean(1).sqrt()
    nats_per_dim = error[:, -1].abs() / (error.shape[1] - 1)
    return torch.maximum(coordinates, nats_per_dim) / tolerance


# -- bound -----------------------------------------------------------------------------------


def denoising_cost(
    model: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor],
    *,
    sigma_range: tuple[float, float],
    draws: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """∫ E|x - D(x + σε; σ)|² / σ² d ln σ, what diffusion costs in continuous time, (B,) nats.

    Kingma et al. 2021 (arXiv 2107.00630), eq. 17 with SNR = 1/σ². Noise levels are one in each
    of `draws` equal parts of ln σ, at a random place: unbiased, no network gradient needed.
    """
    low, high = (math.log(sigma) for sigma in sigma_range)
    width = (high - low) / draws
    source = x.device if generator is None else generator.device
    total = x.new_zeros(len(x))
    for part in range(draws):
        place = torch.rand(len(x), generator=generator, device=source).to(x)
        sigma = (low + (part + place) * width).exp()
        noise = torch.randn(x.shape, generator=generator, device=source).to(x)
        noisy = x + sigma.view(-1, *[1] * (x.ndim - 1)) * noise
        error = (model.denoise(noisy, sigma, cond) - x).flatten(1).square().sum(1)
        total = total + width * error / sigma**2
    return total


def variational_bound(
    model: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor],
    *,
    levels: int,
    sigma_range: tuple[float, float],
    draws: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Unbiased estimate of a lower bound of log P(levels), (B,) nats (Kingma et al. 2021, eq. 11).

    The least noisy latent z = x + σ_min ε is decoded pixel by pixel by P(level | z) ∝
    N(z; level, σ_min²); the rest is paid by `denoising_cost` and the KL to the prior.

    Args:
        model: the denoiser.
        x: images in model space, exactly on the levels, (B, C, H, W).
        cond: conditions, (B,) each.
        levels: how many there are on [-1, 1].
        sigma_range: noise of z, and of the prior.
        draws: noise levels at which the denoiser is asked.
        generator: of all noise.
    """
    low, high = sigma_range
    source = x.device if generator is None else generator.device
    noise = torch.randn(x.shape, generator=generator, device=source).to(x)
    places = torch.linspace(-1, 1, levels, dtype=x.dtype, device=x.device)
    z = (x + low * noise).flatten(1)
    log_norm = torch.stack([-0.5 * ((z - place) / low) ** 2 for place in places]).logsumexp(0)
    decoded = (-0.5 * noise.flatten(1) ** 2 - log_norm).sum(1)
    prior = 0.5 * (x / high).flatten(1).square().sum(1)
    cost = denoising_cost(model, x, cond, sigma_range=sigma_range, draws=draws, generator=generator)
    return decoded - prior - cost
