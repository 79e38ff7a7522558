"""Samplers with denoisers that are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.errors import InputError
from genzoo.samplers import (
    SAMPLERS,
    DenoiseFn,
    find_sampler,
    guided,
    karras_sigmas,
    rectified_sigmas,
)


def mixture_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x₀ | x₀ + σε = x] for x₀ ~ ½ N(-1, 0.3²) + ½ N(1, 0.3²) in one dimension."""
    variance = 0.3**2 + sigma[:, None] ** 2
    centers = torch.tensor([-1.0, 1.0], dtype=x.dtype)
    weight = (-0.5 * (x - centers) ** 2 / variance).softmax(1)
    means = centers + 0.3**2 / variance * (x - centers)
    return (weight * means).sum(1, keepdim=True)


def gaussian_denoiser(mean: float, s: float) -> DenoiseFn:
    """E[x₀ | x₀ + σε = x] for x₀ ~ N(mean, s²)."""
    return lambda x, sigma: mean + s**2 / (s**2 + sigma[:, None] ** 2) * (x - mean)


def end(name: str, denoise: DenoiseFn, x: Tensor, sigmas: Tensor, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return list(
        SAMPLERS[name](
            denoise, x, sigmas, lambda: torch.randn(x.shape, generator=random, dtype=x.dtype)
        )
    )[-1]


@pytest.mark.parametrize(
    ("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm-solver++", 2)]
)
def test_order_of_convergence(name: str, order: int) -> None:
    """Halving the step divides the error by 2 or by 4.

    The last step, from the smallest σ to 0, is Euler's and the same for all: compare before it.
    Steps are uneven. Fails with: Heun without its second slope, 2M without what it extrapolates,
    time reversed.
    """

    def upto_last(steps: int) -> Tensor:
        sigmas = karras_sigmas(3 * steps // 2, (0.01, 80.0))[:-1]
        sigmas = sigmas[torch.arange(len(sigmas)) % 3 != 1]
        x = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None] * 80
        return end(name, mixture_denoiser, x, sigmas)

    exact = end(
        "heun",
        mixture_denoiser,
        torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None] * 80,
        karras_sigmas(5000, (0.01, 80.0))[:-1],
    )
    errors = [float((upto_last(n) - exact).abs().mean()) for n in (160, 320, 640)]
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(order - 0.25 < found < order + 0.4 for found in orders), orders


def test_dpm_solver_extrapolates_to_the_middle_of_each_step() -> None:
    """D = -ln σ = λ is linear in λ: each step but the first goes by its value half-way.

    Fails with: the ratio of the steps turned round, whose errors cancel over many steps.
    """
    sigmas = torch.tensor([10.0, 8.0, 2.0, 1.5, 0.0], dtype=torch.float64)
    x = torch.full((1, 1), 4.0, dtype=torch.float64)
    states = SAMPLERS["dpm-solver++"](lambda x, s: -s.log()[:, None], x, sigmas, torch.rand)
    expected, middles = 4.0, [10.0, math.sqrt(8 * 2), math.sqrt(2 * 1.5), 1.5]
    for state, here, there, at in zip(states, sigmas[:-1], sigmas[1:], middles, strict=True):
        expected = float(there / here) * expected - (1 - float(there / here)) * math.log(at)
        assert float(state) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm-solver++"])
def test_noise_is_carried_to_the_data_distribution(name: str) -> None:
    """A Gaussian's flow is known in closed form: x(0) = μ + (x(T) - μ) s / √(s² + T²).

    Fails with: time reversed, σ² for σ in the slope.
    """
    s, mean, top = 0.5, 0.7, 20.0
    x = torch.linspace(-40, 40, 9, dtype=torch.float64)[:, None]
    found = end(name, gaussian_denoiser(mean, s), x, karras_sigmas(1000, (1e-3, top)))
    assert torch.allclose(found, mean + (x - mean) * s / math.sqrt(s**2 + top**2), atol=1e-2)


def test_ancestral_steps_have_the_moments_of_the_posterior() -> None:
    """With D = x₀ exactly, x' ~ q(x' | x, x₀) each time: N(x₀, σ'²) in all (Ho et al., eqs. 6, 7).

    20,000 chains: 4 standard errors. Fails with: σ'² for the posterior's variance, σ'/σ for its
    square in the mean, noise in the last step.
    """
    sigmas = torch.tensor([5.0, 2.0, 0.7, 0.0], dtype=torch.float64)
    x = 0.3 + 5 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1)).double()
    random = torch.Generator().manual_seed(2)
    states = list(
        SAMPLERS["ddpm"](
            lambda x, sigma: torch.full_like(x, 0.3),
            x,
            sigmas,
            lambda: torch.randn(x.shape, generator=random, dtype=x.dtype),
        )
    )
    for state, sigma in zip(states[:2], sigmas[1:3].tolist(), strict=True):
        assert float(state.mean()) == pytest.approx(0.3, abs=4 * sigma / math.sqrt(20_000))
        assert float(state.std()) == pytest.approx(sigma, rel=4 / math.sqrt(40_000))
    assert torch.equal(states[2], torch.full_like(x, 0.3))


def test_ancestral_sampling_reaches_the_data() -> None:
    """Many small steps: N(0.7, 0.5²), 4 standard errors of 8,000 chains and 1 % of bias."""
    random = torch.Generator().manual_seed(3)
    x = 20 * torch.randn(8000, 1, generator=random, dtype=torch.float64)
    found = end("ddpm", gaussian_denoiser(0.7, 0.5), x, karras_sigmas(200, (1e-3, 20.0)))
    assert float(found.mean()) == pytest.approx(0.7, abs=4 * 0.5 / math.sqrt(8000) + 0.005)
    assert float(found.std()) == pytest.approx(0.5, rel=4 / math.sqrt(16_000) + 0.02)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_one_step_is_the_mean_and_a_thousand_are_finite(name: str) -> None:
    """One step from pure noise goes to D. Fails with: a division by the last σ, which is 0."""
    x = torch.linspace(-100, 100, 5)[:, None]
    one = end(name, mixture_denoiser, x, karras_sigmas(1, (0.002, 80.0)))
    assert torch.allclose(one, mixture_denoiser(x, torch.full((5,), 80.0)), atol=1e-4)
    many = end(name, mixture_denoiser, x, karras_sigmas(1000, (0.002, 80.0)))
    assert bool(many.isfinite().all()) and float((many.abs() - 1).abs().max()) < 1.5


def test_noise_levels_fall_to_zero() -> None:
    """From the largest, Karras' by way of the smallest. Fails with: a level too many."""
    sigmas = karras_sigmas(18, (0.002, 80.0))
    assert sigmas[0] == pytest.approx(80.0) and sigmas[-2] == pytest.approx(0.002)
    assert sigmas[-1] == 0 and bool((sigmas.diff() < 0).all()) and len(sigmas) == 19
    assert karras_sigmas(1, (0.002, 80.0)).tolist() == pytest.approx([80.0, 0.0])
    straight = rectified_sigmas(4, (0.002, 80.0))
    assert straight[0] == pytest.approx(80.0) and straight[-1] == 0
    t = straight / (1 + straight)
    assert torch.allclose(t.diff(), torch.full((4,), -80 / 81 / 4).double())


def test_guidance_extrapolates_within_its_interval() -> None:
    """weak + w (strong - weak); one evaluation where w = 1 or outside.

    Fails with: the sign of the difference, strong + w (strong - weak), the interval ignored.
    """
    asked: list[str] = []

    def constant(name: str, value: float) -> DenoiseFn:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            asked.append(name)
            return torch.full_like(x, value)

        return denoise

    x, strong, weak = torch.zeros(2, 1), constant("strong", 3.0), constant("weak", 1.0)
    for weight, sigma, value, evaluations in (
        (1.0, 1.0, 3.0, 1),
        (2.0, 1.0, 5.0, 2),
        (0.0, 1.0, 1.0, 2),
        (2.0, 9.0, 3.0, 1),
    ):
        asked.clear()
        found = guided(strong, weak, weight, (0.5, 4.0))(x, torch.full((2,), sigma))
        assert found.tolist() == [[value]] * 2 and len(asked) == evaluations


def test_an_unknown_sampler_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'heun'"):
        find_sampler("huen")
