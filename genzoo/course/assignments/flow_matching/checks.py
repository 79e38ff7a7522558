"""The checks of flow matching: each blank alone, against formulas of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genzoo.course.kit import (
    POINTS_SPEC,
    Submission,
    expect,
    nats_of_normal,
    same,
)
from genzoo.noise import NoiseSource
from genzoo.types import Batch, SampleOptions, TrainState

Velocity = Callable[[Tensor, float], Tensor]

MEAN, STD = (0.5, -1.0), (0.4, 0.7)
"""Of a normal law that noise is carried to, in closed form."""


# -- what is right, by the checks' own formulas --------------------------------------------


def _weights(kind: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """How much of noise and of data there is at time t, eq. (1)."""
    if kind == "straight":
        return 1 - t, t
    return torch.sin((1 - t) * math.pi / 2), torch.sin(t * math.pi / 2)


def _rates(kind: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """Their derivatives by time."""
    one = torch.ones_like(t)
    if kind == "straight":
        return -one, one
    half = math.pi / 2
    return -half * torch.cos((1 - t) * half), half * torch.cos(t * half)


def _start(kind: str, normal: Tensor, uniform: Tensor) -> Tensor:
    """The noise of the variant."""
    if kind == "normal":
        return normal
    return 0.8 * (2 * (uniform >= 0.5).to(normal) - 1) + 0.6 * normal


def _start_log_density(kind: str, x: Tensor) -> Tensor:
    """Its log-density, (B, 2) to (B,)."""
    if kind == "normal":
        return nats_of_normal(x).sum(1)
    both = (nats_of_normal(x, 0.8, 0.6).exp() + nats_of_normal(x, -0.8, 0.6).exp()) / 2
    return both.log().sum(1)


def _curved(x: Tensor, t: float) -> Tensor:
    """A velocity that changes with place and time."""
    return torch.stack([x[:, 1].sin() + t, x[:, 0] * x[:, 1] - t**2], 1)


def _exact(kind: str) -> Velocity:
    """The velocity from standard normal noise to N(MEAN, STD²), in closed form.

    With x_t = α x_0 + β x_1 of the variance σ² = α² + β² s² around β m, the mean of u_t at x is
    β' m + (αα' + ββ' s²) / σ² (x - β m).
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        time = torch.as_tensor(t, dtype=x.dtype)
        (a, b), (da, db) = _weights(kind, time), _rates(kind, time)
        mean, std = (torch.tensor(v, dtype=x.dtype) for v in (MEAN, STD))
        slope = (a * da + b * db * std**2) / (a**2 + b**2 * std**2)
        return db * mean + slope * (x - b * mean)

    return velocity


# -- checks --------------------------------------------------------------------------------


def _pairs(submission: Submission, word: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, data and times, float64."""
    x0, x1 = (submission.normal(7, 2, word=10 * word + i).double() for i in (0, 1))
    return x0, x1, submission.uniform(7, word=10 * word + 2).double()


def path(submission: Submission) -> None:
    """Blank 1."""
    kind, (x0, x1, t) = submission.choices["path"], _pairs(submission, 1)
    function = submission.get("path_point")
    for end, right, name in ((0.0, x0, "the noise"), (1.0, x1, "the data")):
        same(
            function(x0, x1, torch.full_like(t, end)),
            right,
            f"path_point(x0, x1, t = {end:g})",
            f"at t = {end:g} the path must be at {name}",
        )
    a, b = _weights(kind, t)
    same(
        function(x0, x1, t),
        a[:, None] * x0 + b[:, None] * x1,
        "path_point(x0, x1, t)",
        "each item has its own time: make t a column, t[:, None], to multiply points",
    )


def target(submission: Submission) -> None:
    """Blank 2: the derivative of the checks' own path, by automatic differentiation."""
    kind, (x0, x1, t) = submission.choices["path"], _pairs(submission, 2)
    moving = t.clone().requires_grad_()
    a, b = _weights(kind, moving)
    point = a[:, None] * x0 + b[:, None] * x1
    slopes = [torch.autograd.grad(c.sum(), moving, retain_graph=True)[0] for c in point.T]
    same(
        submission.get("target_velocity")(x0, x1, t),
        torch.stack(slopes, 1),
        "target_velocity(x0, x1, t)",
        "differentiate eq. (1) by t; it leads from noise to data, and an inner derivative counts",
    )


def times(submission: Submission) -> None:
    """Blank 3."""
    for n in (5, 8):
        if submission.choices["time"] == "uniform":
            numbers = submission.uniform(n, word=n).double()
            right = [(b + u) / n for b, u in enumerate(numbers.tolist())]
            hint = (
                "item b gets the b-th of B equal parts of [0, 1], and its number says where in it"
            )
        else:
            numbers = submission.normal(n, word=n).double()
            right = [1 / (1 + math.exp(-v)) for v in numbers.tolist()]
            hint = "the sigmoid of each number"
        found = submission.get("times")(numbers)
        same(found, torch.tensor(right, dtype=torch.float64), "times(numbers)", hint)


def _rotated(x: Tensor, t: float) -> Tensor:
    """Round and round, a full turn in a unit of time."""
    return 2 * math.pi * torch.stack([-x[:, 1], x[:, 0]], 1)


def _order(step: Callable[..., Tensor], n: int = 50) -> float:
    """By what power of the steps' number the error falls on a circle, from the closed form."""
    x, errors = torch.tensor([[1.0, 0.5]], dtype=torch.float64), []
    for steps in (n, 2 * n):
        y, h = x, 0.5 / steps
        for i in range(steps):
            y = step(_rotated, y, i * h, h)
        errors.append(float((y + x).norm()))  # half a turn leads to -x
    return math.log2(errors[0] / errors[1]) if min(errors) > 0 else math.inf


def euler(submission: Submission) -> None:
    """Blank 4: one step, and its order."""
    step, x = submission.get("euler_step"), submission.normal(6, 2, word=40).double()
    for t, h in ((0.4, 0.3), (0.9, -0.2)):
        same(
            step(_curved, x, t, h),
            x + h * _curved(x, t),
            f"euler_step(v, x, t = {t}, h = {h})",
            "go on for a time h with the velocity at the beginning of the step",
        )
    order = _order(step)
    expect(abs(order - 1) < 0.2, f"twice as many steps divide the error by 2^{order:.2f}, not by 2")


def heun(submission: Submission) -> None:
    """Blank 5: one step, and its order."""
    step, x = submission.get("heun_step"), submission.normal(6, 2, word=50).double()
    for t, h in ((0.4, 0.3), (0.9, -0.2)):
        first = _curved(x, t)
        same(
            step(_curved, x, t, h),
            x + h * (first + _curved(x + h * first, t + h)) / 2,
            f"heun_step(v, x, t = {t}, h = {h})",
            "the second velocity is that at the point and at the time where Euler's step ends; "
            "the mean of both is taken from x",
        )
    order = _order(step)
    expect(abs(order - 2) < 0.2, f"twice as many steps divide the error by 2^{order:.2f}, not by 4")


def integrate(submission: Submission) -> None:
    """Blank 6: with a step that writes down when it is called."""
    function, x = submission.get("integrate"), submission.normal(4, 2, word=60).double()
    seen: list[tuple[float, float]] = []

    def step(velocity: Velocity, x: Tensor, t: float, h: float) -> Tensor:
        seen.append((float(t), float(h)))
        return x + h * velocity(x, t) + t * h

    for begin, end, steps in ((0.0, 1.0, 4), (0.2, 0.9, 7), (1.0, 0.0, 5)):
        what = f"integrate(v, x, {begin:g}, {end:g}, {steps}, step)"
        seen.clear()
        found = function(_curved, x, begin, end, steps, step)
        expect(
            len(seen) == steps,
            f"{what} makes {len(seen)} steps",
            f"{steps} steps, of which the last one ends at {end:g}",
        )
        h = (end - begin) / steps
        expect(
            all(abs(made - h) < 1e-6 for _, made in seen),
            f"{what} makes steps of {seen[0][1]:.3g} and not of {h:.3g}",
            "the steps are equal and lead from `begin` to `end`, backwards if need be",
        )
        right = x
        for i in range(steps):
            t = begin + i * h
            expect(
                abs(seen[i][0] - t) < 1e-6,
                f"step {i} of {what} is made at the time {seen[i][0]:.3g} and not {t:.3g}",
                "a step gets the time at which it begins",
            )
            right = right + h * _curved(right, t) + t * h
        same(found, right, what, "each step goes on from where the one before it ended")


def errors(submission: Submission) -> None:
    """Blank 7: with known paths and a known network."""
    model, (x0, x1, t) = submission.model(POINTS_SPEC), _pairs(submission, 7)
    model.velocity = lambda x, t: torch.stack([x[:, 0] * x[:, 1] + t, x[:, 1] - 2 * t], 1)
    point = 3 * x0 - x1 * t[:, None]
    aim = x0 * x1 + t[:, None] ** 2
    with submission.replaced(
        path_point=lambda x0, x1, t: 3 * x0 - x1 * t[:, None],
        target_velocity=lambda x0, x1, t: x0 * x1 + t[:, None] ** 2,
    ):
        found = model.errors(x0, x1, t)
    gap = model.velocity(point, t) - aim
    same(
        found,
        gap[:, 0] ** 2 + gap[:, 1] ** 2,
        "errors(x0, x1, t)",
        "the network is asked at the point of the path and at its time; one number an item, the "
        "squared length of a difference",
    )


def rates(submission: Submission) -> None:
    """Blank 8: against a divergence by hand."""
    model, x = submission.model(POINTS_SPEC), submission.normal(6, 2, word=80).double()

    def velocity(x: Tensor, t: Any) -> Tensor:
        a, b = x.unbind(1)
        return torch.stack([a.sin() * b + t, a**2 * b + b**3 - t * a], 1)

    model.velocity = velocity
    a, b = x.unbind(1)
    state = torch.cat([x, submission.normal(6, 1, word=81).double()], 1)
    found = model.rates(state, 0.3)
    expect(found.shape == (6, 3), f"rates(state, t) has the shape {tuple(found.shape)}, not (6, 3)")
    same(found[:, :2], velocity(x, 0.3), "the velocity in rates(state, t)")
    same(
        found[:, 2],
        -(a.cos() * b + a**2 + 3 * b**2),
        "the change of log p in rates(state, t)",
        "∂v_1/∂x_1 + ∂v_2/∂x_2, without the mixed derivatives; where points part, density falls",
    )


def noise(submission: Submission) -> None:
    """The whole begins with the noise of the variant."""
    kind, model = submission.choices["noise"], submission.model(POINTS_SPEC)
    model.velocity = lambda x, t: torch.zeros_like(x)
    source, hint = NoiseSource(3, 0, 9), "`start` and `start_log_density` were given: put them back"
    right = _start(kind, source.normal(2), source.uniform(2))
    found = model.draw(NoiseSource(3, 0, 9), {}, SampleOptions())
    same(found, right, "what draw(noise) starts with", hint)
    x = 2 * submission.normal(8, 2, word=90)
    density = submission.get("start_log_density")(x)
    same(density, _start_log_density(kind, x), "the log-density of the noise", hint)


def gaussian(submission: Submission) -> None:
    """The whole with a velocity in closed form carries a normal law to another one."""
    model, kind = submission.model(POINTS_SPEC), submission.choices["path"]
    model.velocity = _exact(kind)
    x0 = submission.normal(6, 2, word=91).double()
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, STD))
    x1 = mean + std * x0
    step = submission.get("heun_step")
    found = submission.get("integrate")(model.velocity, x0, 0.0, 1.0, 100, step)
    same(found, x1, "the way from noise to a normal law", tolerance=2e-3)
    with submission.replaced(start_log_density=lambda x: nats_of_normal(x).sum(1)):
        density = model.log_density(x1, {}, 100)
    right = nats_of_normal(x1, mean, std).sum(1)
    same(
        density,
        right,
        "log_density(x) of a normal law",
        "log_density was given: it goes back from 1 to 0, and takes the change away",
        tolerance=2e-3,
    )


def learns(submission: Submission) -> None:
    """The whole: a few steps on a small cloud, and samples by their seed alone."""
    model, middle = submission.model(POINTS_SPEC), torch.tensor([1.0, -1.0])
    x = middle + 0.3 * submission.normal(256, 2, word=92)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    torch.manual_seed(submission.seed)
    values = []
    for step in range(120):
        total = model.loss(Batch(x, {}), "main", TrainState(step)).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    expect(all(math.isfinite(v) for v in values), "the loss is not finite in training")
    before, after = values[0], sum(values[-20:]) / 20
    expect(
        after < 0.6 * before,
        f"120 steps bring the loss from {before:.2f} to {after:.2f} only",
        "do all parameters get a gradient?",
    )
    a, b = (model.sample(256, seed=s) for s in (1, 1))
    expect(torch.equal(a, b), "the same seed draws other points", "all noise comes from `noise`")
    expect(not torch.equal(a, model.sample(256, seed=2)), "every seed draws the same points")
    away = float((a.mean(0) - middle).norm())
    expect(away < 0.4, f"the samples' mean is {away:.2f} away from that of the data")
