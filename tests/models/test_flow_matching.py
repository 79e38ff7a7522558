"""Flow matching against the exact velocity of Gaussian data."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from genzoo.models.flow_matching import FlowMatching, FlowMatchingSettings, pair
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, SampleOptions, TrainState

POINTS = DataSpec((2,), None, location=(0.0, 0.0), scale=(1.0, 1.0))
MEAN, STD = 0.7, 0.5


class Exact(FlowMatching):
    """E[ε - x₀ | x_t] for x₀ ~ N(MEAN, STD²) in every coordinate."""

    def velocity(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        t = t[:, None]
        variance = (1 - t) ** 2 * STD**2 + t**2
        rest = x - (1 - t) * MEAN
        return t / variance * rest - (MEAN + (1 - t) * STD**2 / variance * rest)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm-solver++", "ddpm"])
def test_the_exact_velocity_makes_the_data(sampler: str) -> None:
    """4,000 points in 60 steps: mean and deviation. Fails with: time reversed, ε + x₀, σ for t."""
    model = Exact(POINTS, FlowMatchingSettings(width=8, depth=1))
    options = SampleOptions(steps=60, sampler=sampler)
    x = model.draw(NoiseSource(0, 0, 4000), {}, options)
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(8000) + 0.01)
    assert float(x.std()) == pytest.approx(STD, rel=0.06)


def test_denoise_is_the_posterior_mean() -> None:
    """MEAN + STD² / (STD² + σ²) (x - MEAN) at every σ. Fails with: x for x_t, t = σ."""
    model = Exact(POINTS, FlowMatchingSettings(width=8, depth=1))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for sigma in (0.002, 0.5, 80.0):
        expected = MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)
        found = model.denoise(x, torch.full((5,), sigma), {})
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_loss_is_least_at_the_exact_velocity() -> None:
    """There it is the variance of ε - x₀ given x_t, E[STD² / ((1-t)² STD² + t²)]; of 0, E|ε - x₀|².

    100,000 items. Fails with: a target of x₀ - ε, the time of data and noise exchanged.
    """
    torch.manual_seed(0)
    settings = FlowMatchingSettings(width=8, depth=1, augment=0.0)
    x = MEAN + STD * torch.randn(100_000, 2)
    t = torch.sigmoid(torch.randn(1_000_000))
    least = float((STD**2 / ((1 - t) ** 2 * STD**2 + t**2)).mean())
    for model, expected in (
        (Exact(POINTS, settings), least),
        (FlowMatching(POINTS, settings), 1 + STD**2 + MEAN**2),
    ):
        loss = model.loss(Batch(x, {}), "main", TrainState()).total
        assert float(loss.detach()) == pytest.approx(expected, rel=0.01)


def test_pairing_is_the_cheapest_and_keeps_labels() -> None:
    """A permutation; of 1-D items it sorts; among equal labels only. Fails with: the dearest."""
    random = torch.Generator().manual_seed(0)
    x, noise = torch.randn(50, 1, generator=random), torch.randn(50, 1, generator=random)
    rows = pair(x, noise)
    assert rows.sort().values.tolist() == list(range(50))
    assert torch.equal(noise[rows][x[:, 0].argsort()], noise.sort(dim=0).values)
    label = torch.arange(50) % 3
    within = pair(x, noise, label)
    assert torch.equal(label[within], label)
    assert within.sort().values.tolist() == list(range(50))
