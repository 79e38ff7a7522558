"""What the assignments' adapters share, inside of the worker: no expected value is here.

An adapter is ``hidden/inside.py`` of a bundle: ``OPERATIONS`` by name, each a function of the
student's module, a request's header and arrays, and an oracle, that returns arrays. What they
change in the module is taken back after each request.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, Recipe, SampleOptions, TrainState

Arrays = dict[str, np.ndarray]
Header = Mapping[str, Any]
Oracle = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Asks the grader in the middle of a request, and returns what it says."""
Operation = Callable[[Any, Header, Arrays, Oracle], Arrays]


POINTS = DataSpec((2,), None, location=(0.0, 0.0), scale=(1.0, 1.0))
DIGITS = DataSpec((1, 8, 8), 17, {"label": 10}, (0.1,) * 10)


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The arrays as tensors of their own types."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def answer(*values: Any) -> Arrays:
    """Tensors and numbers as arrays "0", "1", … of float64."""
    found = (torch.as_tensor(value, dtype=torch.float64).detach().numpy() for value in values)
    return {str(number): array for number, array in enumerate(found)}


def call(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """A function of the student's file.

    Its arguments are the header's: a word is the array of that name, everything else is itself.
    """
    given = tensors(arrays)
    arguments = [given[a] if isinstance(a, str) else a for a in header["arguments"]]
    with torch.no_grad():
        found = getattr(module, str(header["function"]))(*arguments)
    return answer(*found) if isinstance(found, tuple) else answer(found)


def put(owner: Any, **parts: Any) -> None:
    """Put stand-ins in the place of functions, methods, or parts of a network."""
    for name, part in parts.items():
        getattr(owner, "_modules", {}).pop(name, None)
        object.__setattr__(owner, name, part)


@contextmanager
def draw_these(**numbers: Tensor) -> Iterator[None]:
    """``torch.randn``, ``rand`` and so on return these tensors; ``randn_like`` as ``randn``."""
    names = {name: value for name, value in numbers.items()}
    names |= {f"{name}_like": value for name, value in names.items() if name in ("randn", "rand")}
    before = {name: getattr(torch, name) for name in names}
    try:
        for name, value in names.items():
            setattr(torch, name, lambda *_, value=value, **__: value.clone())
        yield
    finally:
        for name, function in before.items():
            setattr(torch, name, function)


class Given:
    """A noise source that has the grader's numbers in the place of its own."""

    def __init__(self, **numbers: Tensor) -> None:
        """Numbers by the name of the law: ``normal``, ``uniform``."""
        self._numbers = numbers
        self.n = len(next(iter(numbers.values())))
        self.device = torch.device("cpu")

    def normal(self, *shape: int) -> Tensor:
        """The given ones, whatever the shape."""
        return self._numbers["normal"].clone()

    def uniform(self, *shape: int) -> Tensor:
        """The given ones, whatever the shape."""
        return self._numbers["uniform"].clone()


def filled(part: Any, given: Mapping[str, Tensor], prefix: str) -> Any:
    """A network in float64 with the grader's weights, in the order of its parameters."""
    part = part.double()
    with torch.no_grad():
        for index, parameter in enumerate(part.parameters()):
            parameter.copy_(given[f"{prefix}{index}"])
    return part


def training(spec: DataSpec) -> Operation:
    """The operation that trains a model of such data by its own recipe, then draws.

    Its header has ``steps`` of training, ``n`` items to draw, and the ``seed`` of both; its array
    ``x`` are the data.
    """

    def train(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
        x, seed = tensors(arrays)["x"].float(), int(header["seed"])
        torch.manual_seed(seed)
        mean = _trained(module.Model(spec), x, int(header["steps"])).eval()
        with torch.no_grad():
            return answer(mean.draw(NoiseSource(seed, 0, int(header["n"])), {}, SampleOptions()))

    return train


def _trained(model: Any, x: Tensor, steps: int) -> Any:
    """The average of the model's weights after a training."""
    recipe: Recipe = model.recipe()
    groups = model.param_groups() or {"main": list(model.parameters())}
    players = {name: _optimizer(recipe, group) for name, group in groups.items()}
    mean = copy.deepcopy(model).requires_grad_(False)
    decay = 0.5 ** (1 / max(1.0, recipe.ema * steps)) if recipe.ema else 0.0
    for step, rate in _rates(recipe, steps):
        batch = Batch(x[torch.randint(len(x), (recipe.batch_size,))], {})
        for name, optimizer in players.items():
            for other, group in groups.items():
                for parameter in group:
                    parameter.requires_grad_(other == name)
            total = model.loss(batch, name, TrainState(step, step / steps)).total
            optimizer.zero_grad()
            total.backward()
            if recipe.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(groups[name], recipe.grad_clip)
            for settings in optimizer.param_groups:
                settings["lr"] = rate * recipe.lr_scale.get(name, 1.0)
            optimizer.step()
        with torch.no_grad():
            for kept, new in zip(mean.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
    return mean


def _optimizer(recipe: Recipe, group: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        group, recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, foreach=True
    )


def _rates(recipe: Recipe, steps: int) -> Iterator[tuple[int, float]]:
    """Steps with their learning rates: up in a line, down along half a cosine."""
    for step in range(steps):
        done = step / steps
        rise = min(1.0, (done + 1 / steps) / recipe.warmup) if recipe.warmup else 1.0
        fall = recipe.lr_end + (1 - recipe.lr_end) * (1 + math.cos(math.pi * done)) / 2
        yield step, recipe.lr * rise * fall
