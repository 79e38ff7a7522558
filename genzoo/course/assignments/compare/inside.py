"""Calls the functions that judge models, with known moments, radii and factors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from genzoo.course.grading.inside import DIGITS, Arrays, Given, Header, Oracle, answer, tensors
from genzoo.types import SampleOptions


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two numbers a set that are no moments, but known to the grader."""
    x = x.double()
    return x[0], x.T @ x + torch.eye(x.shape[1])


def frechet(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The Fréchet distance with known moments."""
    given = tensors(arrays)
    module.mean_and_covariance = _moments
    return answer(module.frechet_distance(given["a"], given["b"]))


def precision(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Precision with known radii."""
    given = tensors(arrays)
    module.radii = lambda x: given["radii"]
    return answer(module.precision(given["real"], given["fake"]))


def fit(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Mean and factor of the baseline, from known moments."""
    given, model = tensors(arrays), module.Model(DIGITS)
    module.mean_and_covariance = lambda x: (given["mean"], given["covariance"])
    data = SimpleNamespace(x=torch.zeros(100, 1, 8, 8))
    model.on_fit_start(data, torch.Generator().manual_seed(0))
    return answer(model.mean, model.factor)


def drawn(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """What the baseline draws with a known factor from given noise."""
    given, model = tensors(arrays), module.Model(DIGITS)
    model.mean.copy_(given["mean"])
    model.factor.copy_(given["factor"])
    noise = Given(normal=given["normal"].float())
    return answer(model.draw(noise, {}, SampleOptions()))


OPERATIONS = {"frechet": frechet, "precision": precision, "fit": fit, "drawn": drawn}
