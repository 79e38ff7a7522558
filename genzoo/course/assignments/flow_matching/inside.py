"""Calls the functions of flow matching: known paths, and a velocity that is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genzoo.course.grading.inside import (
    POINTS,
    Arrays,
    Header,
    Oracle,
    answer,
    put,
    tensors,
    training,
)


def errors(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Errors of a known network on known paths."""
    given, model = tensors(arrays), module.Model(POINTS)
    module.path_point = lambda x0, x1, t: x0 + 2 * t[:, None] * x1
    module.target_velocity = lambda x0, x1, t: x1 - 3 * x0
    put(model, velocity=lambda x, t: given["slope"] * x + t[:, None])
    return answer(model.errors(given["x0"], given["x1"], given["t"]))


def _asked(oracle: Oracle, x: Tensor, **numbers: float) -> Tensor:
    """What the grader says about points and numbers."""
    told = {
        name: torch.tensor(float(v), dtype=torch.float64).numpy() for name, v in numbers.items()
    }
    return torch.from_numpy(oracle({"x": x.detach().numpy(), **told})["out"].copy())


def step(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """One step along the grader's velocity."""
    rule = getattr(module, str(header["function"]))
    x, t, h = tensors(arrays)["x"], float(header["t"]), float(header["h"])
    return answer(rule(lambda x, t: _asked(oracle, x, t=t), x, t, h))


def integrate(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """All steps, each by the grader's rule."""
    begin, end, steps = (header[name] for name in ("begin", "end", "steps"))
    x = tensors(arrays)["x"]

    def rule(velocity: Any, x: Tensor, t: float, h: float) -> Tensor:
        return _asked(oracle, x, t=t, h=h)

    return answer(module.integrate(None, x, begin, end, steps, rule))


def rates(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Motion and change of log p in a given field."""
    given, model = tensors(arrays), module.Model(POINTS)
    put(model, velocity=lambda x, t: (x @ given["a"] + t * given["b"]).tanh() @ given["c"])
    state = torch.cat([given["x"], torch.zeros(len(given["x"]), 1).double()], 1)
    return answer(model.rates(state, float(header["t"])))


def log_density(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The density at the end of a field that stretches, with known steps."""
    given, model = tensors(arrays), module.Model(POINTS)
    s = given["stretch"]

    def exact(rates: Any, state: Tensor, begin: float, end: float, steps: int, rule: Any) -> Tensor:
        """The field's end in closed form, whatever the steps are."""
        moved = state[:, :2] * (s * (end - begin)).exp()
        return torch.cat([moved, state[:, 2:] - s.sum() * (end - begin)], 1)

    module.integrate = exact
    with torch.no_grad():
        return answer(model.log_density(given["x"], {}))


OPERATIONS = {
    "errors": errors,
    "step": step,
    "integrate": integrate,
    "rates": rates,
    "log_density": log_density,
    "train": training(POINTS),
}
