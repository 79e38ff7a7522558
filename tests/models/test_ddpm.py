"""DDPM: schedules, and every prediction against the exact answer for Gaussian data."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from genzoo.models.ddpm import DDPM, DDPMSettings, T, alphas_bar
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, SampleOptions, TrainState

POINTS = DataSpec((2,), None, location=(0.0, 0.0), scale=(1.0, 1.0))
MEAN, STD = 0.7, 0.5
PREDICTIONS = ("epsilon", "x", "v")


class Exact(DDPM):
    """E[target | x_t] for x₀ ~ N(MEAN, STD²) in every coordinate."""

    def predict(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        sigma = self.levels.float()[((time + 1) / 2 * T).round().long() - 1][:, None]
        alpha = (1 + sigma**2).rsqrt()
        clean = MEAN + STD**2 / (STD**2 + sigma**2) * (x / alpha - MEAN)
        noise = (x / alpha - clean) / sigma
        return {"epsilon": noise, "x": clean, "v": alpha * noise - sigma * alpha * clean}[
            self.settings.predict
        ]


def small(predict: str = "epsilon", **more: object) -> DDPMSettings:
    return DDPMSettings(width=8, depth=1, augment=0.0, predict=predict, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_noise_adds_up_step_by_step(schedule: str) -> None:
    """x_t = √(1-β_t) x_{t-1} + √β_t ε keeps √ᾱ_t of x₀ and has variance 1 - ᾱ_t.

    Fails with: ᾱ off by one, a sum for the product.
    """
    alpha_bar = alphas_bar(schedule)  # type: ignore[arg-type]
    before = torch.cat([torch.ones(1).double(), alpha_bar[:-1]])
    kept, variance = torch.ones(()).double(), torch.zeros(()).double()
    for t, beta in enumerate((1 - alpha_bar / before).tolist()):
        kept, variance = kept * math.sqrt(1 - beta), (1 - beta) * variance + beta
        assert float(kept**2) == pytest.approx(float(alpha_bar[t]), rel=1e-9)
        assert float(variance) == pytest.approx(1 - float(alpha_bar[t]), rel=1e-9)
        assert 0 < beta < 1


def test_schedules_are_the_papers() -> None:
    """β_1 = 0.0001 and β_T = 0.02; cosine: ᾱ_t = f(t) / f(0), half-way about a half."""
    linear, cosine = alphas_bar("linear"), alphas_bar("cosine")
    assert float(linear[0]) == pytest.approx(1 - 1e-4)
    assert float(linear[-1] / linear[-2]) == pytest.approx(0.98)
    assert float(linear[-1]) == pytest.approx(4.04e-5, rel=0.01)
    for t in (1, 500, 990):
        f, zero = (math.cos((u / T + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t, 0))
        assert float(cosine[t - 1]) == pytest.approx(f / zero, rel=1e-6)


def test_times_and_noise_levels_are_inverse() -> None:
    """Times 1 … T, also between them. Fails with: off by one."""
    model = DDPM(POINTS, small())
    t = torch.tensor([1, 2, 500, 999, 1000])
    assert torch.allclose(model.time(model.levels[t - 1].float()), t.float(), atol=1e-2)
    between = (model.levels[9] * model.levels[10]).sqrt().float()[None]
    assert float(model.time(between)) == pytest.approx(10.5, abs=1e-2)
    sigmas = model.sigmas(10)
    assert torch.equal(sigmas[:-1], model.levels[torch.arange(1000, 0, -100) - 1])
    assert float(sigmas[-1]) == 0 and len(model.sigmas(5000)) == 1001


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_denoise_is_the_posterior_mean(predict: str) -> None:
    """Fails with: v's sign, x₀ without 1/√ᾱ, ε not scaled by σ."""
    model = Exact(POINTS, small(predict))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for t in (1, 300, 900):
        sigma = float(model.levels[t - 1])
        expected = MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)
        assert torch.allclose(model.denoise(x, torch.full((5,), sigma), {}), expected, atol=1e-4)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_the_loss_is_least_at_the_exact_prediction(predict: str) -> None:
    """There it is the target's variance given x_t, in closed form for x₀; 40,000 items, 3 %.

    With P = Var[x₀ | x_t]: P for x, P/σ² for ε, P (1 + SNR) for v, times the min-SNR weight.
    Fails with: another target, ᾱ for its root, weights of another prediction.
    """
    x = MEAN + STD * torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0))
    for gamma in (0.0, 5.0):
        model = Exact(POINTS, small(predict, min_snr=gamma))
        snr = model.levels**-2
        posterior = STD**2 / (1 + STD**2 * snr)
        unit = {"epsilon": snr, "x": torch.ones_like(snr), "v": 1 + snr}[predict]
        weight = snr.clamp(max=gamma) if gamma else unit
        torch.manual_seed(0)
        found = float(model.loss(Batch(x, {}), "main", TrainState()).total)
        assert found == pytest.approx(float((posterior * weight).mean()), rel=0.03)


def test_the_network_is_shown_the_time_of_the_noise() -> None:
    """Data so large that x_t = √ᾱ_t x₀ up to a millionth. Fails with: ᾱ off by one."""
    shown: list[tuple[Tensor, Tensor]] = []

    class Shown(DDPM):
        def predict(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            shown.append((x, time))
            return x

    model = Shown(POINTS, small())
    model.loss(Batch(torch.full((500, 2), 1e6), {}), "main", TrainState())
    ((x, time),) = shown
    t = ((time + 1) / 2 * T).round().long()
    assert torch.allclose(x[:, 0] / 1e6, model.alpha_bar[t - 1].sqrt().float(), atol=1e-5)
    assert 1 <= int(t.min()) and int(t.max()) <= T and len(t.unique()) > 300


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpm-solver++"])
def test_samples_are_the_data(sampler: str) -> None:
    """4,000 points in 100 steps. Fails with: time reversed."""
    model = Exact(POINTS, small())
    options = SampleOptions(steps=100, sampler=sampler)
    x = model.draw(NoiseSource(0, 0, 4000), {}, options)
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(8000) + 0.01)
    assert float(x.std()) == pytest.approx(STD, rel=0.06)


def test_samplers_never_go_beyond_the_data() -> None:
    """Noise that is predicted a little wrong is data that are very wrong where σ is large.

    Fails with: no clipping, the likelihood's denoiser clipped.
    """

    class Off(Exact):
        def predict(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            return super().predict(x, time, cond) + 0.05

    model = Off(POINTS, small())
    model.on_fit_start(Batch(torch.tensor([[-0.5, 2.0]]), {}), torch.Generator())
    far, sigma = torch.full((3, 2), 100.0), torch.full((3,), float(model.levels[-1]))
    assert float(model.guess(far, sigma, {}).abs().max()) == 2.0
    assert float(model.denoise(far, sigma, {}).abs().min()) > 10
    x = model.draw(NoiseSource(0, 0, 500), {}, SampleOptions(steps=20))
    assert float(x.abs().max()) <= 2.0
