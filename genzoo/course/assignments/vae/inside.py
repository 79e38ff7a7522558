"""Calls the functions of a variational autoencoder: known encoders and decoders, a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genzoo.course.grading.inside import (
    DIGITS,
    Arrays,
    Given,
    Header,
    Oracle,
    answer,
    put,
    tensors,
    training,
)
from genzoo.types import Batch, SampleOptions, TrainState


def drawn(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """A code, and the gradients of its product with a force."""
    given = tensors(arrays)
    mean, std = (given[name].requires_grad_() for name in ("mean", "std"))
    z = module.sample_posterior(mean, std, given["eps"])
    return answer(z, *torch.autograd.grad((given["force"] * z).sum(), (mean, std)))


def _linear(module: Any, given: dict[str, Tensor]) -> Any:
    """A model with a known encoder, a linear decoder and unit noise."""
    model = module.Model(DIGITS)
    put(
        model,
        posterior=lambda x: (given["mean"], given["std"]),
        decoder=lambda z: z @ given["columns"].T,
        image=lambda out: out,
    )
    # No stand-in is the answer to another blank: whoever reads this file learns nothing.
    module.sample_posterior = lambda mean, std, eps: mean.cos() + std * eps.sin()
    module.log_likelihood = lambda x, out: module.log_normal(x, out, 1.0)
    module.kl = lambda mean, std: (mean * std).sum(1)
    return model


def bound_parts(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Both parts of the bound, with a known divergence."""
    given = tensors(arrays)
    with torch.no_grad():
        return answer(*_linear(module, given).bound_parts(given["x"], given["eps"]))


def importance_bound(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The bound of many codes."""
    given = tensors(arrays)
    with torch.no_grad():
        return answer(_linear(module, given).importance_bound(given["x"], given["eps"]))


def loss(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The loss where both parts are known."""
    given, model = tensors(arrays), module.Model(DIGITS)
    put(model, bound_parts=lambda x, eps: (given["log_lik"], given["kl"]))
    batch = Batch(torch.zeros(len(given["kl"]), 1, 8, 8), {})
    return answer(model.loss(batch, "main", TrainState()).total)


def decoded(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """What a linear decoder makes of the codes of given noise."""
    given, model = tensors(arrays), module.Model(DIGITS)
    put(model, decoder=lambda z: z @ given["columns"].T, image=lambda out: out)
    with torch.no_grad():
        return answer(model.draw(Given(normal=given["normal"]), {}, SampleOptions()))


OPERATIONS = {
    "drawn": drawn,
    "bound_parts": bound_parts,
    "importance_bound": importance_bound,
    "loss": loss,
    "decoded": decoded,
    "train": training(DIGITS),
}
