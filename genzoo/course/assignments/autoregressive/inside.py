"""Calls the functions of an autoregressive model: known logits, and logits that are asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genzoo.course.grading.inside import Arrays, Header, Oracle, answer, put, tensors
from genzoo.types import DataSpec


def _model(module: Any, header: Header, shape: tuple[int, int]) -> Any:
    """A model of small images, without dropout, whose weights are large enough to matter."""
    torch.manual_seed(int(header.get("seed", 0)))
    model = module.Model(DataSpec((1, *shape), int(header["levels"]))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def log_prob(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Log-probabilities of images by the student's own network."""
    images = tensors(arrays)["images"]
    model = _model(module, header, (2, 2))
    with torch.no_grad():
        return answer(model.log_prob(images.view(-1, 1, 2, 2), {}))


def known_log_prob(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The same with known logits, and made-up masses."""
    given = tensors(arrays)
    model = _model(module, header, (2, 2))

    def known(levels: Tensor, cond: Any) -> Tensor:
        return torch.einsum("bd,dek->bek", levels.double(), given["weights"])

    put(model, logits=known)
    module.log_masses = lambda logits, levels: logits.sum(2) * levels
    with torch.no_grad():
        return answer(model.log_prob(given["images"].view(-1, 1, 2, 2), {}))


def logits(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Logits of the student's own network, (B, D, L)."""
    model = _model(module, header, (2, 2))
    with torch.no_grad():
        return answer(model.logits(tensors(arrays)["images"], {}))


def complete(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Images completed with the grader's logits and order, and a made-up way to choose a level."""
    given = tensors(arrays)
    model = _model(module, header, (3, 4))

    def asked(levels: Tensor, cond: Any) -> Tensor:
        return torch.from_numpy(oracle({"levels": levels.numpy()})["out"].copy())

    put(model, logits=asked)
    model.order.copy_(given["order"])
    module.pick = _pick
    known, temperature = int(header["known"]), float(header["temperature"])
    found = model.complete(given["levels"], known, given["uniform"], {}, temperature)
    return answer(found)


def _pick(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """A level that depends on all of it, and by no law that a blank asks for."""
    shift = uniform if uniform.ndim == 1 else uniform.sum(1)
    return (100 * (logits.sum(1) + shift + temperature).sin() ** 2).long() % logits.shape[1]


OPERATIONS = {
    "log_prob": log_prob,
    "known_log_prob": known_log_prob,
    "logits": logits,
    "complete": complete,
}
