"""Calls the functions of a flow: couplings with given weights, densities, a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, SampleOptions, TrainState

SPEC = DataSpec((2,), None, location=(0.0, 0.0), scale=(1.0, 1.0))
Arrays = dict[str, np.ndarray]


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _filled(part: Any, given: dict[str, torch.Tensor], prefix: str) -> Any:
    """A coupling in float64 with the grader's weights, in the order of its parameters."""
    part = part.double()
    with torch.no_grad():
        for index, parameter in enumerate(part.parameters()):
            parameter.copy_(given[f"{prefix}{index}"])
    return part


def coupling(module: Any, header: Any, arrays: Arrays, *_: Any) -> Arrays:
    """``transform``, ``inverse`` or ``log_det`` of a coupling, at points."""
    given = _tensors(arrays)
    part = _filled(module.Coupling(int(header["kept"])), given, "w")
    with torch.no_grad():
        found = getattr(part, str(header["function"]))(given["x"])
    return {"value": found.detach().double().numpy()}


def base(module: Any, header: Any, arrays: Arrays, *_: Any) -> Arrays:
    """The log-density of the noise."""
    with torch.no_grad():
        found = module.Model(SPEC).base_log_density(_tensors(arrays)["z"])
    return {"value": found.double().numpy()}


def density(module: Any, header: Any, arrays: Arrays, *_: Any) -> Arrays:
    """The log-density of a flow of couplings with given weights."""
    given = _tensors(arrays)
    model = module.Model(SPEC)
    kept = header["kept"]
    parts = [_filled(module.Coupling(int(k)), given, f"c{i}w") for i, k in enumerate(kept)]
    model.couplings = torch.nn.ModuleList(parts)
    with torch.no_grad():
        found = model.log_density(given["x"], {})
    return {"value": found.double().numpy()}


def train_and_draw(module: Any, header: Any, arrays: Arrays, *_: Any) -> Arrays:
    """Train on points for some steps, then draw."""
    torch.manual_seed(int(header["seed"]))
    x = torch.from_numpy(arrays["x"].copy()).float()
    model, steps = module.Model(SPEC), int(header["steps"])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = x[torch.randint(len(x), (256,))]
        total = model.loss(Batch(batch, {}), "main", TrainState(step, step / steps)).total
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    noise = NoiseSource(int(header["seed"]), 0, int(header["n"]))
    with torch.no_grad():
        return {"value": model.draw(noise, {}, SampleOptions()).double().numpy()}


OPERATIONS = {
    "coupling": coupling,
    "base": base,
    "density": density,
    "train_and_draw": train_and_draw,
}
