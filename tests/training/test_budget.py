from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genzoo.training.budget import BudgetClock, Used, count_flops
from genzoo.types import Budget

CPU = torch.device("cpu")


def test_linear_layers_cost_two_flops_a_weight_forward_and_four_backward() -> None:
    net = nn.Linear(7, 5)
    x = torch.randn(3, 7, requires_grad=True)
    assert count_flops(lambda: net(x)) == 2 * 3 * 7 * 5
    assert count_flops(lambda: net(x).sum().backward()) == 3 * 2 * 3 * 7 * 5


def test_convolutions_count_their_products() -> None:
    net = nn.Conv2d(2, 4, 3, padding=1)
    assert count_flops(lambda: net(torch.randn(5, 2, 8, 8))) == 2 * 5 * 64 * 4 * 2 * 9


def test_fused_attention_counts_like_its_matrix_products() -> None:
    q, k, v = (torch.randn(2, 3, n, d, requires_grad=True) for n, d in ((16, 8), (12, 8), (12, 8)))

    def by_hand() -> torch.Tensor:
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    forward = count_flops(by_hand)
    assert forward == 2 * 2 * 3 * 16 * 12 * (8 + 8)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == forward
    scores = 2 * 2 * 3 * 16 * 12 * 8  # the fused backward makes them once more
    both = count_flops(lambda: by_hand().sum().backward())
    fused = count_flops(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert fused == both + scores


def test_gradient_penalties_are_counted() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    x = torch.randn(3, 4, requires_grad=True)

    def penalty() -> None:
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        slope.square().sum().backward()

    assert count_flops(penalty) > count_flops(lambda: net(x).sum().backward())


@pytest.mark.parametrize(
    ("budget", "used", "progress"),
    [
        ("10steps", Used(step=5), 0.5),
        ("1kimg", Used(images=250), 0.25),
        ("1e3flops", Used(flops=100), 0.1),
        ("4s", Used(seconds=3), 0.75),
        ("4s", Used(seconds=30), 1.0),
    ],
)
def test_progress_is_the_used_fraction(budget: str, used: Used, progress: float) -> None:
    clock = BudgetClock(Budget.parse(budget), used, CPU)
    assert clock.progress == progress
    assert clock.state.progress == progress


def test_only_time_inside_running_is_charged() -> None:
    clock = BudgetClock(Budget.parse("1s"), Used(), CPU)
    time.sleep(0.05)
    assert clock.seconds == 0
    with clock.running():
        time.sleep(0.05)
        with clock.paused():
            time.sleep(0.3)
        assert 0.05 <= clock.seconds < 0.25
    charged = clock.seconds
    time.sleep(0.05)
    assert clock.seconds == clock.used.seconds == charged
    assert Used(**clock.used.to_dict()) == clock.used
