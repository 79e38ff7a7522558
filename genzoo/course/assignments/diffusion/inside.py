"""Calls the functions of a diffusion model: made-up schedules, and a denoiser that is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genzoo.course.grading.inside import (
    DIGITS,
    Arrays,
    Header,
    Oracle,
    answer,
    draw_these,
    put,
    tensors,
)
from genzoo.noise import NoiseSource
from genzoo.types import Batch, SampleOptions, TrainState


def _wide(a: Tensor) -> Tensor:
    return a[:, None, None, None]


def _schedule(module: Any, given: dict[str, Tensor]) -> None:
    """ᾱ as the grader says."""
    module.alpha_bar = lambda t: given["schedule"][t]
    module.wide = _wide


def add_noise(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Noisy images."""
    given = tensors(arrays)
    _schedule(module, given)
    return answer(module.add_noise(given["x"], given["t"], given["eps"]))


def target(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """What the network is asked to say."""
    given = tensors(arrays)
    _schedule(module, given)
    return answer(module.target(given["x"], given["t"], given["eps"]))


def clean(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Clean images from what is said."""
    given = tensors(arrays)
    _schedule(module, given)
    return answer(module.clean(given["x_t"], given["t"], given["out"]))


def loss(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The loss of a known network, with known noise and targets."""
    given, model = tensors(arrays), module.Model(DIGITS)
    module.add_noise = lambda x, t, eps: x + _wide(t) * eps
    module.target = lambda x, t, eps: x - 2 * eps
    put(model, net=lambda x, t, label: given["slope"] * x)
    with draw_these(randint=given["t"], randn=given["eps"]):
        return answer(model.loss(Batch(given["x"], {}), "main", TrainState()).total)


def path(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The end of the path; the grader says the clean images in the place of the network."""
    given, model = tensors(arrays), module.Model(DIGITS)
    _schedule(module, given)

    def says(x_t: Tensor, t: Tensor, label: Tensor, weight: float) -> Tensor:
        told = torch.tensor(float(weight), dtype=torch.float64)
        said = oracle({"x_t": x_t.numpy(), "t": t.numpy(), "weight": told.numpy()})
        return torch.from_numpy(said["out"].copy())

    module.clean = lambda x_t, t, out: out
    put(model, says=says)
    n = int(header["n"])
    noise = NoiseSource(int(header["seed"]), 0, n)
    label = {"label": torch.zeros(n, dtype=torch.int64)}
    options = SampleOptions(steps=int(header["steps"]), guidance=float(header["guidance"]))
    for state in model.path(noise, label, options):
        end = state
    return answer(end)


OPERATIONS = {
    "add_noise": add_noise,
    "target": target,
    "clean": clean,
    "loss": loss,
    "path": path,
}
