"""A GAN on points: the game, the penalty that keeps it honest, and what happens without."""

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
    same,
)
from genzoo.course.studio import Studio, canvas
from genzoo.data.points import LAWS, Mixture
from genzoo.evaluation.sliced import sliced_wasserstein
from genzoo.noise import NoiseSource
from genzoo.pipeline import train
from genzoo.training import load_model
from genzoo.types import Batch, SampleOptions, TrainState

LATENTS = 8


def _scores(submission: Submission, word: int) -> tuple[Tensor, Tensor]:
    real, fake = (2 * submission.normal(9, word=word + k).double() for k in (0, 1))
    return real, fake


def critic(submission: Submission) -> None:
    """Blank 1."""
    real, fake = _scores(submission, 1)
    right = {
        "non-saturating": torch.log1p((-real).exp()).mean() + torch.log1p(fake.exp()).mean(),
        "hinge": (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(),
        "relativistic": torch.log1p((fake - real).exp()).mean(),
    }[submission.choices["objective"]]
    hint = "it should fall when real scores rise and when generated scores fall; means, not sums"
    same(submission.get("critic_loss")(real, fake), right, "critic_loss(real, fake)", hint)


def generator(submission: Submission) -> None:
    """Blank 2."""
    real, fake = _scores(submission, 3)
    right = {
        "non-saturating": torch.log1p((-fake).exp()).mean(),
        "hinge": -fake.mean(),
        "relativistic": torch.log1p((real - fake).exp()).mean(),
    }[submission.choices["objective"]]
    hint = "eq. (2): it should fall when generated scores rise"
    same(submission.get("generator_loss")(real, fake), right, "generator_loss(real, fake)", hint)


class _Quadratic(nn.Module):
    """D(x) = a·x + |x|²/2, whose gradient is a + x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.3, -1.2], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a + 0.5 * x.square().sum(1)


def slopes(submission: Submission) -> None:
    """Blank 3: the values, and that they can be trained against."""
    net, x = _Quadratic(), submission.normal(6, 2, word=5).double()
    found = submission.get("squared_slopes")(net, x)
    right = (net.a.detach() + x).square().sum(1)
    same(found, right, "squared_slopes(critic, x)", "a sum over the coordinates, an item each")
    expect(
        found.requires_grad,
        "no gradient flows from the slopes to the critic",
        "the graph of the gradient must be kept: create_graph",
    )
    (moved,) = torch.autograd.grad(found.sum(), net.a)
    same(moved, 2 * (net.a.detach() + x).sum(0), "its gradient by the critic's weights")


def penalized(submission: Submission) -> None:
    """Blank 4: with known slopes."""
    real, fake = (submission.normal(7, 2, word=w).double() for w in (6, 7))
    u, seen = submission.uniform(7, 1, word=8).double(), []

    def known(net: Any, x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x[:, 0] ** 2 + 0.5

    with submission.replaced(squared_slopes=known):
        found = submission.get("penalty")(None, real, fake, u)
    r1 = submission.choices["penalty"] == "r1"
    at = real if r1 else u * real + (1 - u) * fake
    expect(len(seen) == 1, f"squared_slopes is asked {len(seen)} times, not once")
    same(seen[0], at, "where the slopes are taken", "eq. (4) says at which points")
    squared = at[:, 0] ** 2 + 0.5
    right = 0.5 * squared.mean() if r1 else 0.1 * (squared.sqrt() - 1).square().mean()
    same(found, right, "penalty(critic, real, fake, u)", "eq. (4), its factor included")


def groups(submission: Submission) -> None:
    """Blank 5."""
    model = submission.model(POINTS_SPEC)
    found = model.param_groups()
    expect(
        isinstance(found, dict) and list(found) == ["critic", "generator"],
        f"the groups are {list(found) if isinstance(found, dict) else found!r}",
        'two of them, "critic" first',
    )
    for name in ("critic", "generator"):
        own = {id(p) for p in getattr(model, name).parameters()}
        expect(
            {id(p) for p in found[name]} == own,
            f'group "{name}" has not just the parameters of the {name}',
        )


class _Scaled(nn.Module):
    """Points that are noise times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.5))

    def forward(self, z: Tensor) -> Tensor:
        return self.w * z[:, :2]


class _Sum(nn.Module):
    """A critic with one weight, which remembers what it scored."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.tensor(0.7))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return self.v * x.sum(1)


def _players(submission: Submission) -> Any:
    model = submission.model(POINTS_SPEC)
    model.critic, model.generator = _Sum(), _Scaled()
    return model


def critics_turn(submission: Submission) -> None:
    """Blank 6: what is added, and who learns from it."""
    model, x = _players(submission), submission.normal(8, 2, word=9) + 3
    known = {
        "critic_loss": lambda real, fake: real.mean() - 2 * fake.mean(),
        "penalty": lambda net, real, fake, u: 5 * real.mean() + 7 * fake.square().mean(),
    }
    torch.manual_seed(submission.seed + 1)
    with submission.replaced(**known):
        total = model.loss(Batch(x, {}), "critic", TrainState()).total
    torch.manual_seed(submission.seed + 1)
    fake = 1.5 * torch.randn(8, LATENTS)[:, :2]
    right = 0.7 * x.sum(1).mean() - 2 * 0.7 * fake.sum(1).mean()
    right = right + 5 * x.mean() + 7 * fake.square().mean()
    same(total, right, "the critic's total", "eq. (1) of the scores, plus eq. (4)")
    total.backward()
    expect(
        model.generator.w.grad is None,
        "the critic's turn moves the generator, too",
        "its points are taken as they are: no gradient may go back into it",
    )
    expect(model.critic.v.grad is not None, "the critic's turn does not move the critic")


def generators_turn(submission: Submission) -> None:
    """Blank 7."""
    model, x = _players(submission), submission.normal(8, 2, word=10) + 3
    known = {"generator_loss": lambda real, fake: 2 * fake.mean() - real.mean()}
    torch.manual_seed(submission.seed + 2)
    with submission.replaced(**known):
        total = model.loss(Batch(x, {}), "generator", TrainState()).total
    torch.manual_seed(submission.seed + 2)
    fake = 1.5 * torch.randn(8, LATENTS)[:, :2]
    right = 2 * 0.7 * fake.sum(1).mean() - 0.7 * x.sum(1).mean()
    same(total, right, "the generator's total", "eq. (2) of the critic's scores")
    total.backward()
    expect(
        model.generator.w.grad is not None,
        "no gradient reaches the generator",
        "in its own turn nothing may be detached",
    )


def draw(submission: Submission) -> None:
    """Blank 8."""
    model = _players(submission)
    found = model.draw(NoiseSource(6, 0, 5), {}, SampleOptions())
    right = 1.5 * NoiseSource(6, 0, 5).normal(LATENTS)[:, :2]
    same(found, right, "draw(noise)", "all randomness comes from `noise`")


def learns(submission: Submission) -> None:
    """The whole: a few turns bring the points to where the data are."""
    model, target = submission.model(POINTS_SPEC), torch.tensor([1.5, -1.0])
    generator = submission.generator(11)
    torch.manual_seed(submission.seed)
    parameters = model.param_groups()
    optimizers = {k: torch.optim.Adam(v, 2e-3, (0.5, 0.9)) for k, v in parameters.items()}
    for step in range(150):
        x = target + 0.3 * torch.randn(64, 2, generator=generator)
        for phase in ("critic", "generator"):
            total = model.loss(Batch(x, {}), phase, TrainState(step)).total
            expect(math.isfinite(float(total)), "a loss is not finite in training")
            optimizers[phase].zero_grad()
            total.backward()
            optimizers[phase].step()
    model.eval()
    with torch.no_grad():
        drawn = model.draw(NoiseSource(1, 0, 256), {}, SampleOptions())
    gap = float((drawn.mean(0) - target).norm())
    expect(
        gap < 1.2,
        f"after 150 turns the points are still {gap:.2f} away from the data",
        "do both players learn, each in its own turn?",
    )
    seeds = [model.sample(8, seed=s) for s in (1, 1, 2)]
    expect(torch.equal(seeds[0], seeds[1]), "the same seed draws other points")
    expect(not torch.equal(seeds[0], seeds[2]), "every seed draws the same points")


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Curves, samples with and without the penalty, the critic's scores."""
    model: Any = studio.model
    studio.curves()
    untamed = _without_penalty(studio)
    with torch.no_grad():
        drawn = {
            name: net.eval().draw(NoiseSource(1, 0, 1000), {}, SampleOptions())
            for name, net in (("with the penalty", model), ("without", untamed))
        }
    data = studio.test(1000)
    studio.points("samples", [("data", data), *drawn.items()])
    axis = torch.linspace(-2.2, 2.2, 120)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    figure, axes = canvas(1, 2, (8, 3.6))
    for place, (name, net) in zip(
        axes, (("with the penalty", model), ("without", untamed)), strict=True
    ):
        with torch.no_grad():
            scores = net.critic(grid).reshape(120, 120).numpy()
        shown = place.imshow(scores, origin="lower", extent=(-2.2, 2.2, -2.2, 2.2), cmap="RdBu")
        figure.colorbar(shown, ax=place)
        place.plot(*data[:300].T.numpy(), "k.", markersize=1)
        place.set_title(f"scores, {name}", fontsize=10)
    studio.save("critic", figure)
    found = dict(studio.numbers)
    for name, points in drawn.items():
        found[f"sliced Wasserstein distance, {name}"] = sliced_wasserstein(points, data)
        modes = _modes_covered(studio, points)
        if modes:
            found[f"modes covered, {name}"] = modes
    found["sliced Wasserstein distance of real data"] = sliced_wasserstein(
        data, studio.test(2000)[1000:]
    )
    return found


def _without_penalty(studio: Studio) -> Any:
    """The same model, schedule and number of steps, with nothing to keep the critic tame."""
    module: Any = studio.module
    kept, module.penalty = module.penalty, lambda *_: torch.zeros(())
    try:
        run = train(
            module.Model, studio.data, budget=f"{studio.assignment.steps}steps",
            out=studio.run.path.with_name(f"{studio.run.path.name}-without"), resume=True,
            evaluate=False, samples=100, threads=studio.assignment.threads,
            device=studio.device,
            precision="fp32", progress=studio.progress,
        )  # fmt: skip
        return load_model(run, device=torch.device("cpu"), model=module.Model)
    finally:
        module.penalty = kept


def _modes_covered(studio: Studio, points: Tensor) -> str:
    """``24 of 25`` modes with a fifth of their share or more; empty where there are no modes."""
    law = LAWS[studio.data.name]
    if not isinstance(law, Mixture):
        return ""
    location, scale = (torch.tensor(v) for v in (studio.data.spec.location, studio.data.spec.scale))
    apart = torch.cdist((points * scale + location).double(), torch.from_numpy(law.centers))
    # Wide balls: how many modes are met, not how sharply.
    hits = torch.bincount(
        apart.argmin(1)[apart.amin(1) < 10 * law.sigma], minlength=len(law.centers)
    )
    covered = int((hits >= 0.2 * len(points) / len(law.centers)).sum())
    return f"{covered} of {len(law.centers)}"


KIT = Kit(
    title="A generative adversarial network",
    data="data",
    choices={
        "data": ["ring", "grid", "moons"],
        "objective": ["non-saturating", "relativistic", "hinge"],
        "penalty": ["r1", "gradient-penalty"],
    },
    steps=3000,
    minutes=2,
    harder={"checkerboard": 6000, "swiss-roll": 6000},
    hidden=(
        Hidden("game", "both losses at fresh scores", 20, ("critic-loss", "generator-loss")),
        Hidden("slopes", "slopes and penalty of a fresh critic", 20, ("slopes", "penalty")),
        Hidden(
            "turns",
            "each player learns in its own turn alone",
            15,
            ("groups", "critics-turn", "generators-turn"),
        ),
        Hidden(
            "samples", "samples of a fresh distribution look like it", 15, ("draw",), whole=True
        ),
    ),
    questions={"The game": 8, "Samples": 9, "The critic": 8, "Reflection": 5},
    checks=(
        Check("critic-loss", "the critic's loss is eq. (1)", 1, critic),
        Check("generator-loss", "the generator's loss is eq. (2)", 2, generator),
        Check("slopes", "slopes are eq. (3), and can be trained against", 3, slopes),
        Check("penalty", "the penalty is eq. (4)", 4, penalized),
        Check("groups", "each player has its own parameters", 5, groups),
        Check("critics-turn", "in the critic's turn the critic learns alone", 6, critics_turn),
        Check(
            "generators-turn", "in the generator's turn the generator learns", 7, generators_turn
        ),
        Check("draw", "points come from the noise that is given", 8, draw),
        Check("learns", "the whole learns, and draws by its seed alone", 0, learns),
    ),
    mutants=(
        Mutant(
            "critic-upside-down",
            "critic-loss",
            "F.softplus(-real).mean() + F.softplus(fake).mean()",
            "F.softplus(real).mean() + F.softplus(-fake).mean()",
            {"objective": "non-saturating"},
        ),
        Mutant(
            "critic-of-the-wrong-pair",
            "critic-loss",
            "F.softplus(-(real - fake)).mean()",
            "F.softplus(real - fake).mean()",
            {"objective": "relativistic"},
        ),
        Mutant(
            "margin-forgotten",
            "critic-loss",
            "F.relu(1 - real).mean()",
            "F.relu(-real).mean()",
            {"objective": "hinge"},
        ),
        Mutant(
            "saturating",
            "generator-loss",
            "return F.softplus(-fake).mean()",
            "return -F.softplus(fake).mean()",
            {"objective": "non-saturating"},
        ),
        Mutant(
            "generator-sign",
            "generator-loss",
            "return -fake.mean()",
            "return fake.mean()",
            {"objective": "hinge"},
        ),
        Mutant(
            "generator-helps-the-critic",
            "generator-loss",
            "F.softplus(-(fake - real)).mean()",
            "F.softplus(fake - real).mean()",
            {"objective": "relativistic"},
        ),
        Mutant("no-graph", "slopes", ", x, create_graph=True)", ", x)"),
        Mutant(
            "mean-of-squares",
            "slopes",
            "gradient.square().sum(dim=1)",
            "gradient.square().mean(dim=1)",
        ),
        Mutant("half-forgotten", "penalty", "GAMMA / 2 *", "GAMMA *", {"penalty": "r1"}),
        Mutant(
            "at-generated-items",
            "penalty",
            "squared_slopes(critic, real).mean()",
            "squared_slopes(critic, fake).mean()",
            {"penalty": "r1"},
        ),
        Mutant(
            "slope-zero",
            "penalty",
            "(slopes - 1).square()",
            "slopes.square()",
            {"penalty": "gradient-penalty"},
        ),
        Mutant(
            "ends-exchanged",
            "penalty",
            "u * real + (1 - u) * fake",
            "(1 - u) * real + u * fake",
            {"penalty": "gradient-penalty"},
        ),
        Mutant(
            "groups-exchanged",
            "groups",
            '"critic": list(self.critic.parameters()),\n'
            '            "generator": list(self.generator.parameters()),',
            '"critic": list(self.generator.parameters()),\n'
            '            "generator": list(self.critic.parameters()),',
        ),
        Mutant(
            "undetached-generator",
            "critics-turn",
            "self.generator(z).detach()",
            "self.generator(z)",
        ),
        Mutant(
            "untamed",
            "critics-turn",
            "tamed = penalty(self.critic, real, fake, u)",
            "tamed = 0 * penalty(self.critic, real, fake, u)",
        ),
        Mutant(
            "generator-detached",
            "generators-turn",
            "        fake = self.generator(z)\n        game = generator_loss",
            "        fake = self.generator(z).detach()\n        game = generator_loss",
        ),
        Mutant(
            "noise-of-its-own",
            "draw",
            "self.generator(noise.normal(LATENTS))",
            "self.generator(torch.randn(noise.n, LATENTS))",
        ),
    ),
    figures=draw_figures,
    drawn=(
        Figure("curves", "losses of critic and generator over the steps"),
        Figure("samples", "data, samples with the penalty, samples without"),
        Figure("critic", "the critic's scores over the plane"),
    ),
)
