"""Calls the functions of an adversarial network: known players, gradients, a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genzoo.course.grading.inside import (
    POINTS,
    Arrays,
    Given,
    Header,
    Oracle,
    answer,
    draw_these,
    put,
    tensors,
    training,
)
from genzoo.types import Batch, SampleOptions, TrainState


def slopes(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Squared slopes of a given critic, and the gradient of their mean to one of its weights."""
    given = tensors(arrays)
    c = given["c"].requires_grad_()
    found = module.squared_slopes(lambda x: (x @ given["a"] + given["b"]).tanh() @ c, given["x"])
    (gradient,) = torch.autograd.grad(found.mean(), c)
    return answer(found, gradient[2])


def penalty(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """The penalty where the slopes are known: as long as the point is far from the origin."""
    given = tensors(arrays)
    module.squared_slopes = lambda critic, x: x.square().sum(1)
    return answer(module.penalty(nn.Identity(), given["real"], given["fake"], given["u"]))


class _Linear(nn.Module):
    """A player of one matrix."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def turn(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """A turn of linear players with known losses: the total, and its gradients to both."""
    given, model = tensors(arrays), module.Model(POINTS)
    model.critic, model.generator = _Linear(given["critic"]), _Linear(given["generator"])
    module.critic_loss = lambda real, fake: 2 * fake.mean() - real.mean()
    module.generator_loss = lambda real, fake: 3 * real.mean() - fake.mean()
    module.penalty = lambda critic, real, fake, u: (
        u.mean() * critic.w.square().sum() + real.mean() + fake.mean()
    )
    with draw_these(randn=given["z"], rand=given["u"]):
        total = model.loss(Batch(given["real"], {}), str(header["phase"]), TrainState()).total
    total.backward()
    players = (model.critic.w, model.generator.w)
    return answer(total, *(torch.zeros_like(p) if p.grad is None else p.grad for p in players))


def groups(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """Whether each group (row) has all parameters of each player (column), and no others."""
    model = module.Model(POINTS)
    found = {name: {id(p) for p in group} for name, group in model.param_groups().items()}
    players = [{id(p) for p in player.parameters()} for player in (model.critic, model.generator)]
    names = ("critic", "generator")
    return answer([[float(found.get(name) == player) for player in players] for name in names])


def drawn(module: Any, header: Header, arrays: Arrays, oracle: Oracle) -> Arrays:
    """What a linear generator makes of given noise."""
    given, model = tensors(arrays), module.Model(POINTS)
    put(model, generator=lambda z: z.double() @ given["generator"])
    with torch.no_grad():
        return answer(model.draw(Given(normal=given["normal"]), {}, SampleOptions()))


OPERATIONS = {
    "slopes": slopes,
    "penalty": penalty,
    "turn": turn,
    "groups": groups,
    "drawn": drawn,
    "train": training(POINTS),
}
