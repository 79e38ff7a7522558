"""A normalizing flow of affine couplings on points: exact densities by the change of variables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

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
from genzoo.noise import NoiseSource
from genzoo.types import Batch, SampleOptions, TrainState

LOG_SCALE, SHIFT = 0.3, -0.7


def _coupling(submission: Submission, kept: int) -> Any:
    """The student's coupling with a network that depends on its input; float64."""
    coupling = submission.get("Coupling")(kept).double()
    generator = submission.generator(kept + 1)
    with torch.no_grad():
        for parameter in coupling.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return coupling


def _known(coupling: Any, x: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Eq. (2) and its inverse by the checks' own formula."""
    log_scale, shift = coupling.log_scale_and_shift(x[:, kept])
    z, back = x.clone(), x.clone()
    z[:, 1 - kept] = log_scale.exp() * x[:, 1 - kept] + shift
    back[:, 1 - kept] = (x[:, 1 - kept] - shift) / log_scale.exp()
    return z, back


def transform(submission: Submission) -> None:
    """Blank 1."""
    for kept in (0, 1):
        coupling, x = _coupling(submission, kept), submission.normal(7, 2).double()
        found = coupling.transform(x)
        same(
            found[:, kept],
            x[:, kept],
            f"the coordinate that Coupling({kept}) keeps",
            "with kept = 0 the first coordinate stays and the second one changes",
        )
        same(
            found,
            _known(coupling, x, kept)[0],
            "transform(x)",
            "s multiplies before t is added; log_scale_and_shift returns log s",
        )


def inverse(submission: Submission) -> None:
    """Blank 2."""
    for kept in (0, 1):
        coupling, z = _coupling(submission, kept), submission.normal(7, 2, word=1).double()
        same(
            coupling.inverse(z),
            _known(coupling, z, kept)[1],
            "inverse(z)",
            "first take t away, then divide by s: the last step is undone first",
        )


def log_det(submission: Submission) -> None:
    """Blank 3: against the Jacobian by automatic differentiation."""
    for kept in (0, 1):
        coupling, x = _coupling(submission, kept), submission.normal(5, 2, word=2).double()

        def known(row: Tensor, coupling: Any = coupling, kept: int = kept) -> Tensor:
            return _known(coupling, row[None], kept)[0][0]

        jacobians = [torch.autograd.functional.jacobian(known, row) for row in x]
        right = torch.stack([torch.linalg.slogdet(j)[1] for j in jacobians])
        same(
            coupling.log_det(x),
            right,
            "log_det(x)",
            "one number an item: the log of what stretches, not its inverse, nothing averaged",
        )


def base(submission: Submission) -> None:
    """Blank 4: against closed forms, and it integrates to one."""
    model, z = submission.model(POINTS_SPEC), 2 * submission.normal(9, 2, word=3)
    kind = submission.choices["base"]
    right = {
        "normal": nats_of_normal(z),
        "logistic": -z - 2 * torch.log1p(torch.exp(-z)),
        "laplace": -z.abs() - math.log(2),
    }[kind].sum(1)
    same(
        model.base_log_density(z),
        right,
        "base_log_density(z)",
        f"log p of the {kind} law of eq. (4) in each coordinate; independent: add them up",
    )


class _Affine(nn.Module):
    """A map that is known to the checks."""

    def transform(self, x: Tensor) -> Tensor:
        return math.exp(LOG_SCALE) * x + SHIFT

    def inverse(self, z: Tensor) -> Tensor:
        return (z - SHIFT) * math.exp(-LOG_SCALE)

    def log_det(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), 2 * LOG_SCALE, dtype=x.dtype) + 0 * x.sum(1)


class _Swap(_Affine):
    """Another one, which does not commute with the first."""

    def transform(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 1] + x[:, 0] ** 3, x[:, 0]], 1)

    def inverse(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 1], z[:, 0] - z[:, 1] ** 3], 1)

    def log_det(self, x: Tensor) -> Tensor:
        return x[:, 0].abs()  # not its own, so that one sees where it was asked


def _with_known_maps(submission: Submission, **replaced: Any) -> Any:
    model = submission.model(POINTS_SPEC)
    model.couplings = nn.ModuleList([_Affine(), _Swap()])
    for name, function in replaced.items():
        object.__setattr__(model, name, function)
    return model


def change_of_variables(submission: Submission) -> None:
    """Blank 5: with maps and noise that are known."""
    model = _with_known_maps(submission, base_log_density=lambda z: z[:, 0] - 2 * z[:, 1])
    x = submission.normal(6, 2, word=4)
    first = _Affine().transform(x)
    z = _Swap().transform(first)
    right = z[:, 0] - 2 * z[:, 1] + 2 * LOG_SCALE + first[:, 0].abs()
    same(
        model.log_density(x, {}),
        right,
        "log_density(x)",
        "each log-determinant at the point where its coupling begins; all of them are added",
    )


def loss(submission: Submission) -> None:
    """Blank 6."""
    model, x = submission.model(POINTS_SPEC), submission.normal(8, 2, word=5)
    object.__setattr__(model, "log_density", lambda x, cond: x[:, 0] * 3 - 1)
    total = model.loss(Batch(x, {}), "main", TrainState()).total
    same(
        total,
        -(x[:, 0] * 3 - 1).mean(),
        "the loss",
        "likely data should make it small; it must not depend on the size of the batch",
    )


def draw(submission: Submission) -> None:
    """Blank 7: the inverse maps in the reverse order."""
    model = _with_known_maps(submission)
    found = model.draw(NoiseSource(3, 0, 9), {}, SampleOptions())
    z = model.base_sample(NoiseSource(3, 0, 9))
    same(
        found,
        _Affine().inverse(_Swap().inverse(z)),
        "draw(noise)",
        "the last coupling of the way to the noise is the first one of the way back",
    )


def learns(submission: Submission) -> None:
    """The whole: a few steps on a tilted cloud raise its likelihood."""
    model, generator = submission.model(POINTS_SPEC), submission.generator(9)
    x = torch.randn(256, 2, generator=generator) @ torch.tensor([[0.5, 0.4], [0.0, 0.2]])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    torch.manual_seed(submission.seed)
    values = []
    for step in range(120):
        total = model.loss(Batch(x, {}), "main", TrainState(step)).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total))
    expect(all(math.isfinite(v) for v in values), "the loss is not finite in training")
    expect(
        values[-1] < values[0] - 0.5,
        f"120 steps bring the loss from {values[0]:.2f} to {values[-1]:.2f} nats only",
        "do all parameters get a gradient?",
    )
    a, b = (model.sample(64, seed=s) for s in (1, 1))
    expect(torch.equal(a, b), "the same seed draws other points", "all noise comes from `noise`")
    expect(not torch.equal(a, model.sample(64, seed=2)), "every seed draws the same points")


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Curves, samples beside data, the density."""
    model: Any = studio.model
    data, drawn = studio.test(1000), model.sample(1000, seed=1)
    location, scale = (torch.tensor(v) for v in (studio.data.spec.location, studio.data.spec.scale))
    z = data
    with torch.no_grad():
        for coupling in model.couplings:
            z = coupling.transform(z)
    studio.curves()
    standard = (drawn - location) / scale
    studio.points("samples", [("data", data), ("samples", standard), ("data as noise", z)])
    axis = torch.linspace(-2.5, 2.5, 160)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    with torch.no_grad():
        density = model.log_density(grid, {}).exp().reshape(160, 160).numpy()
    figure, axes = canvas(1, 1, (4.2, 4))
    axes[0].imshow(density, origin="lower", extent=(-2.5, 2.5, -2.5, 2.5), cmap="viridis")
    axes[0].set_title("density of the model")
    studio.save("density", figure)
    raw = studio.data.test.data
    with torch.no_grad():
        nll = -float(model.log_prob(raw, {}, None).mean())
    entropy = -float(LAWS[studio.data.name].log_density(raw).mean())
    mass = float(density.sum() * (5 / 159) ** 2)
    return studio.numbers | {
        "held-out -log p(x) (nats)": nll,
        "entropy of the data (nats)": entropy,
        "integral of the density over the frame": mass,
    }


KIT = Kit(
    title="A normalizing flow",
    data="data",
    choices={
        "data": ["moons", "swiss-roll", "checkerboard"],
        "base": ["normal", "logistic", "laplace"],
        "scale": ["exp", "softplus", "sigmoid"],
    },
    steps=2500,
    minutes=2,
    harder={"ring": 6000, "grid": 10_000},
    hidden=(
        Hidden("inverse", "the inverse undoes the transformation", 15, ("transform", "inverse")),
        Hidden("log-det", "the log-determinant agrees with finite differences", 20, ("log-det",)),
        Hidden(
            "density",
            "the density integrates to one, with its noise",
            20,
            ("base", "change-of-variables", "loss", "draw"),
        ),
        Hidden("samples", "samples of a fresh distribution look like it", 15, (), whole=True),
    ),
    questions={"Learning": 10, "Samples": 10, "Density": 5, "Reflection": 5},
    checks=(
        Check("transform", "one coupling transforms as eq. (2) says", 1, transform),
        Check("inverse", "its inverse undoes it", 2, inverse),
        Check("log-det", "its log-determinant is that of the Jacobian", 3, log_det),
        Check("base", "the noise has the density of eq. (4)", 4, base),
        Check("change-of-variables", "the density follows by eq. (5)", 5, change_of_variables),
        Check("loss", "the loss is eq. (6)", 6, loss),
        Check("draw", "sampling goes the whole way back", 7, draw),
        Check("learns", "the whole learns, and draws by its seed alone", 0, learns),
    ),
    mutants=(
        Mutant(
            "shift-before-scale",
            "transform",
            "log_scale.exp() * other + shift",
            "log_scale.exp() * (other + shift)",
        ),
        Mutant(
            "inverse-scales-first",
            "inverse",
            "(other - shift) * (-log_scale).exp()",
            "other * (-log_scale).exp() - shift",
        ),
        Mutant("log-det-of-the-inverse", "log-det", "return log_scale\n", "return -log_scale\n"),
        Mutant(
            "log-det-averaged",
            "log-det",
            "return log_scale\n",
            "return log_scale.mean().expand(len(x))\n",
        ),
        Mutant("mean-for-sum", "base", ".sum(dim=1)\n", ".mean(dim=1)\n"),
        Mutant(
            "missing-log-det",
            "change-of-variables",
            "return self.base_log_density(z) + total",
            "return self.base_log_density(z)",
        ),
        Mutant(
            "log-det-after-the-map",
            "change-of-variables",
            "            total = total + coupling.log_det(z)\n"
            "            z = coupling.transform(z)\n",
            "            z = coupling.transform(z)\n"
            "            total = total + coupling.log_det(z)\n",
        ),
        Mutant(
            "likelihood-minimized", "loss", "total = -self.log_density", "total = self.log_density"
        ),
        Mutant("sum-for-mean", "loss", "batch.cond).mean()", "batch.cond).sum()"),
        Mutant("not-reversed", "draw", "reversed(self.couplings)", "self.couplings"),
        Mutant(
            "transform-for-inverse", "draw", "z = coupling.inverse(z)", "z = coupling.transform(z)"
        ),
    ),
    figures=draw_figures,
    drawn=(
        Figure("curves", "losses over the steps"),
        Figure("samples", "data, samples, and the data carried to noise"),
        Figure("density", "the learned density"),
    ),
)
