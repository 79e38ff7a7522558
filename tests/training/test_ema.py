from __future__ import annotations

import pytest
import torch
from torch import nn

from genzoo.training.ema import WeightAverage


def test_half_of_the_average_is_gone_after_a_half_life() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], half_life=0.1)
    with torch.no_grad():
        weight.fill_(0.0)
    for i in range(10):
        average.update(0.01, 0.6 + 0.01 * i)
    assert average.weights[0].item() == pytest.approx(0.5)


def test_the_size_of_steps_does_not_matter() -> None:
    results = []
    for steps in (10, 1000):
        weight = nn.Parameter(torch.tensor([1.0]))
        average = WeightAverage([weight], half_life=0.05)
        with torch.no_grad():
            weight.fill_(0.0)
        for i in range(steps):
            average.update(0.1 / steps, 0.5 + 0.1 * i / steps)
        results.append(average.weights[0].item())
    assert results[0] == pytest.approx(results[1], rel=1e-3)


def test_initial_weights_leave_no_trace_early_in_training() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], half_life=0.5)
    with torch.no_grad():
        weight.fill_(0.0)
    for step in range(1, 101):
        average.update(0.001, 0.001 * step)
    assert average.weights[0].item() < 1e-6


def test_without_a_half_life_the_raw_weights_stay() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], half_life=0)
    average.update(0.1, 0.1)
    average.exchange()
    assert average.weights == [] and weight.item() == 1.0


def test_exchange_swaps_and_swaps_back() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight], half_life=0.1)
    with torch.no_grad():
        weight.fill_(5.0)
    average.exchange()
    assert weight.item() == 1.0 and average.weights[0].item() == 5.0
    average.exchange()
    assert weight.item() == 5.0 and average.weights[0].item() == 1.0
