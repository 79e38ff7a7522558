"""Calls the functions of a flow: couplings with given weights, densities, a training."""

from __future__ import annotations

from typing import Any

import torch

from genzoo.course.grading.inside import (
    POINTS,
    Arrays,
    Header,
    Oracle,
    answer,
    filled,
    put,
    tensors,
    training,
)
from genzoo.types import Batch, SampleOptions, TrainState


class _Known:
    """A coupling whose parts are known: x + a, and a log-determinant that depends on x."""

    def __init__(self, shift: torch.Tensor, slope: torch.Tensor) -> None:
        self.shift, self.slope = shift, slope

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x + self.shift

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.shift) / self.slope

    def log_det(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.shift).sum(1)


def coupling(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """``transform``, ``inverse`` or ``log_det`` of a coupling with given weights, at points."""
    given = tensors(arrays)
    part = filled(module.Coupling(int(header["kept"])), given, "w")
    with torch.no_grad():
        return answer(getattr(part, str(header["function"]))(given["x"]))


def base(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The log-density of the noise."""
    with torch.no_grad():
        return answer(module.Model(POINTS).base_log_density(tensors(arrays)["z"]))


def _model(module: Any, given: dict[str, torch.Tensor]) -> Any:
    """A flow of known couplings."""
    model = module.Model(POINTS)
    shifts, slopes = given["shifts"], given["slopes"]
    put(model, couplings=[_Known(a, b) for a, b in zip(shifts, slopes, strict=True)])
    return model


def chain(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The log-density of known couplings, with a known noise."""
    given = tensors(arrays)
    model = _model(module, given)
    put(model, base_log_density=lambda z: -z.square().sum(1))
    with torch.no_grad():
        return answer(model.log_density(given["x"], {}))


def loss(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The loss where the log-density is known."""
    given = tensors(arrays)
    model = module.Model(POINTS)
    put(model, log_density=lambda x, cond: given["log_density"].clone())
    return answer(model.loss(Batch(given["x"], {}), "main", TrainState()).total)


def carried(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """What known couplings draw from the noise that the student's file makes of given numbers."""
    given = tensors(arrays)
    model = _model(module, given)
    put(model, base_sample=lambda noise: given["z"].clone())
    with torch.no_grad():
        return answer(model.draw(None, {}, SampleOptions()))


OPERATIONS = {
    "coupling": coupling,
    "base": base,
    "chain": chain,
    "loss": loss,
    "carried": carried,
    "train": training(POINTS),
}
