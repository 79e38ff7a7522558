"""The figures of flow matching: the film, paths, quality against evaluations, the density."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.ticker import NullLocator
from torch import Tensor

from genzoo.course.studio import Studio, canvas
from genzoo.data.points import LAWS
from genzoo.data.ranges import from_model, log_bin_volume, to_model
from genzoo.evaluation.sliced import sliced_wasserstein
from genzoo.noise import NoiseSource

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
