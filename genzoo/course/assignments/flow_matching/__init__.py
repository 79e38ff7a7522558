"""Flow matching on points: a velocity that carries noise to data, and how finely to follow it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import NullLocator
from torch import Tensor

from genzoo.course.kit import (
    POINTS_SPEC,
    Check,
    Figure,
    Hidden,
    Kit,
    Mutant,
    Submission,
    expect,
    nats_of_normal,
    same,
)
from genzoo.course.studio import Studio, canvas
from genzoo.data.points import LAWS
from genzoo.data.ranges import from_model, log_bin_volume, to_model
from genzoo.evaluation.sliced import sliced_wasserstein
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


@contextmanager
def _standing_in(submission: Submission, **functions: Callable[..., Any]) -> Iterator[None]:
    """The student's file with known functions in the place of its own."""
    module, before = submission.module, {name: submission.get(name) for name in functions}
    for name, function in functions.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


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
    with _standing_in(
        submission,
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
    with _standing_in(submission, start_log_density=lambda x: nats_of_normal(x).sum(1)):
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


# -- figures -------------------------------------------------------------------------------

COUNTS = (1, 2, 4, 8, 16, 32, 64)
LIMIT = 3.0


def _noise(studio: Studio, n: int) -> Tensor:
    source = NoiseSource(1, 0, n)
    drawn: Tensor = studio.module.start(source.normal(2), source.uniform(2))
    return drawn


def _frame(place: Any, title: str) -> None:
    place.set_title(title, fontsize=10)
    place.set_aspect("equal")
    place.set_xlim(-LIMIT, LIMIT)
    place.set_ylim(-LIMIT, LIMIT)


def _draw_film(studio: Studio) -> None:
    """Noise on its way to the data, in six pictures."""
    model: Any = studio.model
    module, x, stops = studio.module, _noise(studio, 2000), (0.0, 0.25, 0.5, 0.75, 1.0)
    clouds = [("t = 0: noise", x)]
    for begin, end in zip(stops[:-1], stops[1:], strict=True):
        x = module.integrate(model.velocity, x, begin, end, 20, module.heun_step)
        clouds.append((f"t = {end:g}", x))
    clouds[-1] = ("t = 1: samples", x)
    clouds.append(("held-out points", studio.test(2000)))
    figure, axes = canvas(2, 3, (7.5, 5.3))
    for place, (title, cloud) in zip(axes, clouds, strict=True):
        last = title.startswith("held")
        place.scatter(*cloud.T, s=2, alpha=0.5, linewidths=0, color="C1" if last else "C0")
        _frame(place, title)
    studio.save("film", figure)


def _draw_paths(studio: Studio) -> float:
    """Paths of the training, which cross, and of the model, which do not.

    Returns:
        How much longer those of the model are than straight ones.
    """
    model: Any = studio.model
    module, steps, shown = studio.module, 64, 70
    x0, x1 = _noise(studio, 1000), studio.test(1000)
    moments = [i / steps for i in range(steps + 1)]
    known = [module.path_point(x0, x1, torch.full((1000,), t)) for t in moments]
    followed = [x0]
    for begin, end in zip(moments[:-1], moments[1:], strict=True):
        followed.append(
            module.integrate(model.velocity, followed[-1], begin, end, 1, module.heun_step)
        )
    figure, axes = canvas(1, 2, (7.5, 3.9))
    titles = ("paths of the training", "paths of the model")
    for place, title, states in zip(axes, titles, (known, followed), strict=True):
        lines = torch.stack(states)[:, :shown]
        place.plot(lines[..., 0], lines[..., 1], color="0.6", linewidth=0.6)
        place.scatter(*lines[0].T, s=9, color="C2", label="t = 0", zorder=3)
        place.scatter(*lines[-1].T, s=9, color="C0", label="t = 1", zorder=3)
        _frame(place, title)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    studio.save("paths", figure)
    length = torch.stack(followed).diff(dim=0).norm(dim=2).sum(0)
    return float(length.mean() / (followed[-1] - followed[0]).norm(dim=1).mean())


def _draw_quality(studio: Studio) -> dict[str, float]:
    """How far samples are from held-out points, by the number of the network's evaluations."""
    model: Any = studio.model
    module, n = studio.module, 4000
    x0, real = _noise(studio, n), studio.test(n)
    floor = sliced_wasserstein(to_model(studio.data.train.data[:n], studio.data.spec), real)
    figure, axes = canvas(1, 1, (6, 3.6))
    numbers = {"data to data": floor}
    for name, step, cost in (("Euler", module.euler_step, 1), ("Heun", module.heun_step, 2)):
        points = []
        for evaluations in COUNTS:
            if evaluations % cost == 0:
                x = module.integrate(model.velocity, x0, 0.0, 1.0, evaluations // cost, step)
                points.append((evaluations, sliced_wasserstein(x, real)))
        axes[0].plot(*zip(*points, strict=True), marker="o", label=name)
        numbers |= {f"{name}, {e} evaluations": d for e, d in points if e in (4, 8, 16, 64)}
    axes[0].axhline(floor, color="0.45", linestyle="--", label="as many training points")
    axes[0].set_xscale("log", base=2)
    axes[0].set_yscale("log")
    axes[0].set_yticks((0.02, 0.05, 0.1, 0.2, 0.5, 1.0), ("0.02", "0.05", "0.1", "0.2", "0.5", "1"))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].set_xticks(COUNTS, [str(count) for count in COUNTS])
    axes[0].set_xlabel("evaluations of the network for a sample")
    axes[0].set_ylabel("sliced Wasserstein distance")
    axes[0].legend(frameon=False)
    studio.save("quality", figure)
    return {f"distance: {name}": value for name, value in numbers.items()}


def _draw_density(studio: Studio) -> None:
    """The log-density of the model beside the true one, in model space."""
    model: Any = studio.model
    side, data = 100, studio.data
    true = LAWS[data.name].log_density
    axis = torch.linspace(-2.5, 2.5, side)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    volume = log_bin_volume(data.spec)
    pictures = (true(from_model(grid, data.spec)) - volume, model.log_density(grid, {}, 25))
    top = float(true(data.test.data[:1000]).median()) - volume
    figure, axes = canvas(1, 2, (7.8, 3.7))
    for place, title, values in zip(axes, ("of the data", "of the model"), pictures, strict=True):
        shown = place.imshow(
            np.asarray(values.reshape(side, side).clamp(min=top - 8)),
            origin="lower", extent=(-2.5, 2.5, -2.5, 2.5), vmin=top - 8, vmax=top,
        )  # fmt: skip
        place.set_title(f"log-density {title}", fontsize=10)
    figure.colorbar(shown, ax=axes, label="nats", extend="both")
    studio.save("density", figure)


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Curves, the film, the paths, quality against evaluations, the density."""
    model: Any = studio.model
    raw = studio.data.test.data[:1000]
    studio.curves()
    with torch.no_grad():
        _draw_film(studio)
        longer = _draw_paths(studio)
        distances = _draw_quality(studio)
        _draw_density(studio)
        nll = -float(model.log_prob(raw, {}, None).mean())
    entropy = -float(LAWS[studio.data.name].log_density(raw).mean())
    return (
        studio.numbers
        | distances
        | {
            "length of the model's paths (straight: 1)": longer,
            "held-out -log p(x) (nats)": nll,
            "the same of the true density (nats)": entropy,
        }
    )


# -- the assignment ------------------------------------------------------------------------

_STRAIGHT, _BENT = {"path": "straight"}, {"path": "trigonometric"}
_UNIFORM, _LOGIT = {"time": "uniform"}, {"time": "logit-normal"}

KIT = Kit(
    title="Flow matching",
    data="data",
    choices={
        "data": ["moons", "swiss-roll", "checkerboard", "ring"],
        "path": ["straight", "trigonometric"],
        "time": ["uniform", "logit-normal"],
        "noise": ["normal", "corners"],
    },
    steps=5000,
    minutes=2,
    hidden=(
        Hidden("paths", "the paths, their velocities and their times", 20),
        Hidden("steps", "Euler's and Heun's steps, one and all of them", 20),
        Hidden("density", "the change of log p on the way", 15),
        Hidden("samples", "samples of a fresh distribution look like it", 15),
    ),
    questions={"Learning": 5, "Paths": 5, "Steps": 10, "Density": 5, "Reflection": 5},
    checks=(
        Check("path", "the path leads from noise to data as eq. (1) says", 1, path),
        Check("target", "its velocity is the derivative, eq. (2)", 2, target),
        Check("times", "times are those of eq. (3)", 3, times),
        Check("euler", "Euler's step is eq. (5), of order 1", 4, euler),
        Check("heun", "Heun's step is eq. (6), of order 2", 5, heun),
        Check("integrate", "all steps follow one another by eq. (7)", 6, integrate),
        Check("errors", "the error of each item is eq. (4)", 7, errors),
        Check("rates", "log p changes on the way as eq. (8) says", 8, rates),
        Check("noise", "the noise is that of this variant", 0, noise),
        Check("gaussian", "a known velocity carries a normal law to another one", 0, gaussian),
        Check("learns", "the whole learns, and draws by its seed alone", 0, learns),
    ),
    mutants=(
        Mutant(
            "reversed-time",
            "path",
            "return (1 - t) * x0 + t * x1",
            "return t * x0 + (1 - t) * x1",
            only=_STRAIGHT,
        ),
        Mutant(
            "reversed-time",
            "path",
            "return angle.cos() * x0 + angle.sin() * x1",
            "return angle.sin() * x0 + angle.cos() * x1",
            only=_BENT,
        ),
        Mutant("sign-of-the-target", "target", "x1 - x0\n", "x0 - x1\n", only=_STRAIGHT),
        Mutant(
            "sign-of-the-target",
            "target",
            "angle.cos() * x1 - angle.sin() * x0",
            "angle.cos() * x1 + angle.sin() * x0",
            only=_BENT,
        ),
        Mutant(
            "inner-derivative",
            "target",
            "return math.pi / 2 * (",
            "return 1.0 * (",
            only=_BENT,
        ),
        Mutant(
            "no-parts",
            "times",
            "(torch.arange(len(numbers), device=numbers.device) + numbers) / len(numbers)",
            "numbers",
            only=_UNIFORM,
        ),
        Mutant(
            "noise-for-data-times",
            "times",
            "torch.sigmoid(numbers)",
            "torch.sigmoid(-numbers)",
            only=_LOGIT,
        ),
        Mutant("time-of-the-end", "euler", "h * velocity(x, t)\n", "h * velocity(x, t + h)\n"),
        Mutant("backwards", "euler", "x + h * velocity(x, t)", "x - h * velocity(x, t)"),
        Mutant("not-averaged", "heun", "x + h / 2 * (first + second)", "x + h * (first + second)"),
        Mutant(
            "second-at-the-beginning",
            "heun",
            "velocity(x + h * first, t + h)",
            "velocity(x + h * first, t)",
        ),
        Mutant("one-step-too-few", "integrate", "range(steps)", "range(steps - 1)"),
        Mutant("one-step-too-many", "integrate", "range(steps)", "range(steps + 1)"),
        Mutant("time-stands-still", "integrate", "begin + i * h, h)", "begin, h)"),
        Mutant(
            "never-backwards",
            "integrate",
            "h = (end - begin) / steps\n",
            "h = abs(end - begin) / steps\n",
        ),
        Mutant(
            "mean-for-sum",
            "errors",
            "difference.square().sum(dim=1)",
            "difference.square().mean(dim=1)",
        ),
        Mutant("length-not-squared", "errors", "difference.square()", "difference.abs()"),
        Mutant(
            "asked-at-the-data",
            "errors",
            "self.velocity(path_point(x0, x1, t), t)",
            "self.velocity(x1, t)",
        ),
        Mutant("density-grows", "rates", "change = -(", "change = ("),
        Mutant(
            "mixed-derivatives",
            "rates",
            "(of_first[:, 0] + of_second[:, 1])",
            "(of_first.sum(1) + of_second.sum(1))",
        ),
        Mutant("half-the-divergence", "rates", " + of_second[:, 1])", ")"),
        Mutant(
            "clouds-too-wide",
            "noise",
            "+ 0.6 * normal",
            "+ 0.8 * normal",
            only={"noise": "corners"},
        ),
        Mutant("change-added", "gaussian", "- end[:, 2]", "+ end[:, 2]"),
    ),
    figures=draw_figures,
    drawn=(
        Figure("curves", "losses over the steps, of early and late times"),
        Figure("film", "noise on its way to the data"),
        Figure("paths", "paths of the training and of the model"),
        Figure("quality", "distance to held-out points by the network's evaluations"),
        Figure("density", "log-densities of the data and of the model"),
    ),
)
