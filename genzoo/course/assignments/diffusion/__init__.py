"""A diffusion model of digits: schedule, targets, samplers, classifier-free guidance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genzoo.course.kit import (
    DIGITS_SPEC,
    Check,
    Figure,
    Hidden,
    Kit,
    Mutant,
    Submission,
    expect,
    same,
)
from genzoo.course.studio import Studio
from genzoo.evaluation.sliced import sliced_wasserstein
from genzoo.noise import NoiseSource
from genzoo.types import Batch, SampleOptions, TrainState


def known_alpha_bar(submission: Submission) -> Tensor:
    """Eq. (1) at t = 0 … T in double precision, one time after the other."""
    steps, kind, out = submission.choices["T"], submission.choices["schedule"], [1.0]
    for t in range(1, steps + 1):
        if kind == "linear":
            beta = (0.0001 + (0.02 - 0.0001) * (t - 1) / (steps - 1)) * 1000 / steps
            out.append(out[-1] * (1 - beta))
        elif kind == "cosine":
            f = [math.cos(math.pi / 2 * (k / steps + 0.008) / 1.008) ** 2 for k in (t, 0)]
            out.append(max(f[0] / f[1], 0.0001))
        else:
            s = [1 / (1 + math.exp(-z)) for z in (-6 * t / steps + 3, -3, 3)]
            out.append(max((s[0] - s[1]) / (s[2] - s[1]), 0.0001))
    return torch.tensor(out, dtype=torch.float64)


def _simple(t: Tensor) -> Tensor:
    """A schedule that is not the student's, so that only the asked function matters."""
    return 1 / (1 + 0.2 * t.float())


def _inputs(submission: Submission, word: int) -> tuple[Tensor, Tensor, Tensor]:
    x, eps = (submission.normal(5, 1, 8, 8, word=word + k) for k in (0, 1))
    return x, torch.tensor([1, 3, 7, 12, 20]), eps


def _wide(a: Tensor) -> Tensor:
    return a[:, None, None, None]


def schedule(submission: Submission) -> None:
    """Blank 1."""
    t = torch.arange(submission.choices["T"] + 1)
    found = submission.get("alpha_bar")(t)
    right = known_alpha_bar(submission)
    expect(
        isinstance(found, Tensor) and found.shape == right.shape,
        f"alpha_bar of {len(t)} times must be {len(t)} numbers",
    )
    same(found[0], 1.0, "alpha_bar(0)", "time 0 is clean data: nothing is multiplied yet")
    same(found, right, "alpha_bar(t)", "eq. (1); is time t the t-th step or the one before?")


def noisy(submission: Submission) -> None:
    """Blank 2."""
    x, t, eps = _inputs(submission, 10)
    a = _wide(_simple(t))
    with submission.replaced(alpha_bar=_simple):
        found = submission.get("add_noise")(x, t, eps)
    same(
        found,
        a.sqrt() * x + (1 - a).sqrt() * eps,
        "add_noise(x, t, eps)",
        "eq. (2): ᾱ speaks of variances, x and ε are multiplied by standard deviations",
    )


def targets(submission: Submission) -> None:
    """Blank 3."""
    x, t, eps = _inputs(submission, 20)
    a = _wide(_simple(t))
    right = {
        "noise": eps,
        "velocity": a.sqrt() * eps - (1 - a).sqrt() * x,
        "image": x,
    }[submission.choices["predicts"]]
    with submission.replaced(alpha_bar=_simple):
        found = submission.get("target")(x, t, eps)
    same(found, right, "target(x, t, eps)", "eq. (3)")


def solved(submission: Submission) -> None:
    """Blank 4: gives back the image from a noisy one and the right words."""
    x, t, eps = _inputs(submission, 30)
    a = _wide(_simple(t))
    x_t = a.sqrt() * x + (1 - a).sqrt() * eps
    words = {
        "noise": eps,
        "velocity": a.sqrt() * eps - (1 - a).sqrt() * x,
        "image": x,
    }[submission.choices["predicts"]]
    with submission.replaced(alpha_bar=_simple):
        found = submission.get("clean")(x_t, t, words)
    same(
        found,
        x,
        "clean(x_t, t, out) where the network is right",
        "put eq. (3) into eq. (2) and solve for x",
    )


def guidance(submission: Submission) -> None:
    """Blank 5."""
    c, u = submission.normal(4, 1, 8, 8, word=40), submission.normal(4, 1, 8, 8, word=41)
    found = submission.get("guided")
    same(found(c, u, 1.0), c, "guided(c, u, 1)", "w = 1 must change nothing")
    same(found(c, u, 0.0), u, "guided(c, u, 0)", "w = 0 forgets the label")
    same(found(c, u, 3.0), u + 3 * (c - u), "guided(c, u, 3)", "away from u, beyond c")


def stepped(submission: Submission) -> None:
    """Blank 6: against the exact posterior of one pixel's Gaussian."""
    x, t, eps = _inputs(submission, 50)
    x_t, s = submission.normal(5, 1, 8, 8, word=52), torch.tensor([0, 1, 4, 11, 2])
    a_t, a_s = _wide(_simple(t)).double(), _wide(_simple(s)).double()
    if submission.choices["sampler"] == "ddim":
        implied = (x_t - a_t.sqrt() * x) / (1 - a_t).sqrt()
        right = a_s.sqrt() * x + (1 - a_s).sqrt() * implied
    else:
        # q(x_s | x_t, x): the product of two Gaussians, by precisions.
        ratio = a_t / a_s
        variance = (1 - a_s) * (1 - ratio) / (1 - a_t)
        mean = a_s.sqrt() * (1 - ratio) / (1 - a_t) * x
        mean = mean + ratio.sqrt() * (1 - a_s) / (1 - a_t) * x_t
        right = mean + variance.sqrt() * eps
    with submission.replaced(alpha_bar=_simple):
        found = submission.get("step")(x_t, x, t, s, eps)
    same(
        found,
        right,
        "step(x_t, x, t, s, eps)",
        "eq. (5); at s = 0 the guess itself must come out",
        tolerance=1e-3,
    )


class _Recorder:
    """A network that remembers what it is asked, and answers with known words."""

    def __init__(self, words: Any) -> None:
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []
        self._words = words

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.asked.append((x, t, label))
        out: Tensor = self._words(x, t, label)
        return out


def loss(submission: Submission) -> None:
    """Blank 7: with known noise, target and network."""
    model, x = submission.model(DIGITS_SPEC), submission.normal(6, 1, 8, 8, word=60)
    net = _Recorder(lambda x, t, label: 2 * x)
    _put(model, net=net)
    known = {"add_noise": lambda x, t, eps: x + _wide(t.float()), "target": lambda x, t, eps: -x}
    batch = Batch(x, {"label": torch.arange(6)})
    with submission.replaced(**known):
        total = model.loss(batch, "main", TrainState()).total
    expect(len(net.asked) == 1, f"the network is asked {len(net.asked)} times, not once")
    t = net.asked[0][1]
    same(net.asked[0][0], x + _wide(t.float()), "what the network sees", "it sees x_t, not x")
    right = (2 * (x + _wide(t.float())) + x).square().mean()
    same(total, right, "the loss", "eq. (4): a mean over items and pixels")


def _put(model: Any, **parts: Any) -> None:
    """Put stand-ins in the place of a module's parts."""
    for name, part in parts.items():
        model._modules.pop(name, None)
        object.__setattr__(model, name, part)


def sampling(submission: Submission) -> None:
    """Blank 8: the order of times, and what each step is given."""
    model, seen = submission.model(DIGITS_SPEC), []
    object.__setattr__(model, "says", lambda x_t, t, label, weight: _wide(t.float()) * weight)

    def step(x_t: Tensor, x: Tensor, t: Tensor, s: Tensor, eps: Tensor) -> Tensor:
        seen.append((int(t[0]), int(s[0]), x_t.clone(), x.clone(), eps.clone()))
        return x_t * 0.5 + eps

    known = {"clean": lambda x_t, t, out: out / 1000 + 0 * x_t, "step": step}
    options = SampleOptions(steps=4, guidance=2.0)
    with submission.replaced(**known):
        states = list(model.path(NoiseSource(2, 0, 3), {"label": torch.zeros(3).long()}, options))
    times = model.times(4)
    asked = [(t, s) for t, s, *_ in seen]
    expect(
        asked == list(zip(times[:-1], times[1:], strict=True)),
        f"the steps go {asked}, but the times are {times}",
        "from T down to 0, each step from one of self.times to the next",
    )
    expect(len(states) == 5, f"4 steps have 5 states, but {len(states)} are yielded")
    source = NoiseSource(2, 0, 3)
    x_t = source.normal(1, 8, 8)
    for (t, _, given, guess, eps), state in zip(seen, states[1:], strict=True):
        same(given, x_t, "x_t of a step", "each step goes on from the state before")
        right = _wide(torch.full((3,), 2.0 * t) / 1000) + torch.zeros(3, 1, 8, 8)
        same(
            guess,
            right.clamp(-1, 1),
            "the guess x of a step",
            "what says(…) with the guidance of the options means, in [-1, 1]",
        )
        fresh = source.normal(1, 8, 8)
        same(eps, fresh, "the noise of a step", "fresh noise from `noise` for each step")
        x_t = x_t * 0.5 + fresh
        same(state, x_t, "a yielded state")


def learns(submission: Submission) -> None:
    """The whole: a few steps on eight items lower the loss; sampling keeps to its seed."""
    model = submission.model(DIGITS_SPEC)
    x = (submission.uniform(8, 1, 8, 8, word=70) > 0.5).float().repeat(8, 1, 1, 1) * 2 - 1
    label = torch.arange(64) % 8 % 10
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    torch.manual_seed(submission.seed)
    values = []
    for step in range(80):
        total = model.loss(Batch(x, {"label": label}), "main", TrainState(step)).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total))
    expect(all(math.isfinite(v) for v in values), "the loss is not finite in training")
    first, last = float(np.mean(values[:5])), float(np.mean(values[-10:]))
    expect(last < 0.8 * first, f"80 steps bring the loss from {first:.3f} to {last:.3f} only")
    how = {"options": SampleOptions(steps=5)}
    expect(
        torch.equal(model.sample(8, seed=1, **how), model.sample(8, seed=1, **how)),
        "the same seed draws other images",
        "all noise comes from `noise`",
    )
    expect(
        not torch.equal(model.sample(8, seed=1, **how), model.sample(8, seed=2, **how)),
        "every seed draws the same images",
    )


STEPS = (1, 2, 4, 8, 16, 32)
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Curves, samples, a film, quality against steps and against guidance."""
    model: Any = studio.model
    studio.curves()
    label = torch.arange(10).repeat_interleave(8)
    with torch.no_grad():
        model.eval()
        shown = model.draw(NoiseSource(1, 0, 80), {"label": label}, SampleOptions())
        studio.images("samples", shown, 8)
        states = list(model.path(NoiseSource(2, 0, 6), {"label": torch.arange(6)}, SampleOptions()))
        chosen = [states[i] for i in np.linspace(0, len(states) - 1, 9).round().astype(int)]
        film = torch.stack([s / s.std().clamp(min=1) for s in chosen], 1)
        studio.images("film", film.flatten(0, 1), 9)
        far = []
        for count in STEPS:
            drawn = _drawn(model, SampleOptions(steps=count))
            far.append((count, _distance(drawn, studio.test(len(drawn)))))
        quality, variety = [], []
        for weight in WEIGHTS:
            drawn = _drawn(model, SampleOptions(steps=16, guidance=weight))
            quality.append((weight, _distance(drawn, studio.test(len(drawn)))))
            variety.append((weight, float(_spread_in_classes(drawn))))
    studio.lines(
        "steps",
        "sampling steps",
        "sliced Wasserstein distance",
        {"distance": far},
        logarithmic=True,
    )
    studio.lines(
        "guidance",
        "guidance weight w",
        "in pixels of [-1, 1]",
        {"distance to data": quality, "spread within a digit": variety},
    )
    real = _distance(studio.test(400), studio.test(797)[397:])
    return studio.numbers | {
        "distance of real data to real data": real,
        **{f"distance with {count} steps": d for count, d in far},
        **{f"distance with guidance {w:g}": d for w, d in quality},
        **{f"spread with guidance {w:g}": v for w, v in variety},
    }


def _drawn(model: Any, options: SampleOptions, n: int = 400) -> Tensor:
    """Images in model space, every digit equally often."""
    cond = {"label": torch.arange(n) % 10}
    out: Tensor = model.draw(NoiseSource(3, 0, n), cond, options)
    return out.clamp(-1, 1)


def _spread_in_classes(x: Tensor) -> Tensor:
    """Mean standard deviation of a pixel within each digit, of what `_drawn` returns."""
    return torch.stack([x[k::10].flatten(1).std(0).mean() for k in range(10)]).mean()


def _distance(images: Tensor, real: Tensor) -> float:
    """Sliced Wasserstein distance in pixels."""
    return sliced_wasserstein(images.flatten(1), real.flatten(1))


KIT = Kit(
    title="A diffusion model",
    data="digits",
    choices={
        "schedule": ["linear", "cosine", "sigmoid"],
        "predicts": ["noise", "velocity", "image"],
        "sampler": ["ancestral", "ddim"],
        "T": [200, 500],
    },
    steps=4000,
    minutes=3,
    harder={"mnist": 20_000, "fashion-mnist": 20_000},
    hidden=(
        Hidden("noise", "the moments of x_t given x at fresh times", 15, ("schedule", "noise")),
        Hidden(
            "parametrization",
            "targets and clean images belong together",
            15,
            ("target", "clean", "loss"),
        ),
        Hidden(
            "sampler",
            "the sampler with an exact denoiser of a fresh mixture",
            25,
            ("step", "sampling"),
        ),
        Hidden("guidance", "guidance at fresh weights", 15, ("guidance",)),
    ),
    questions={"Learning": 6, "Samples": 7, "Steps": 6, "Guidance": 6, "Reflection": 5},
    checks=(
        Check("schedule", "the schedule is eq. (1)", 1, schedule),
        Check("noise", "noisy images are those of eq. (2)", 2, noisy),
        Check("target", "the network's target is eq. (3)", 3, targets),
        Check("clean", "the clean image follows from what the network says", 4, solved),
        Check("guidance", "guidance is eq. (6)", 5, guidance),
        Check("step", "a step back in time is eq. (5)", 6, stepped),
        Check("loss", "the loss is eq. (4)", 7, loss),
        Check("sampling", "sampling goes from T to 0, step by step", 8, sampling),
        Check("learns", "the whole learns, and draws by its seed alone", 0, learns),
    ),
    mutants=(
        Mutant(
            "alpha-bar-off-by-one",
            "schedule",
            "torch.cat([torch.ones(1), torch.cumprod(1 - betas, dim=0)])",
            "torch.cat([torch.cumprod(1 - betas, dim=0), torch.ones(1)])",
            {"schedule": "linear"},
        ),
        Mutant(
            "cosine-not-squared",
            "schedule",
            "(torch.cos(angle) ** 2 / start)",
            "(torch.cos(angle) / start)",
            {"schedule": "cosine"},
        ),
        Mutant(
            "time-reversed-schedule",
            "schedule",
            "-6 * t / T + 3",
            "-6 * (T - t) / T + 3",
            {"schedule": "sigmoid"},
        ),
        Mutant(
            "variance-for-std",
            "noise",
            "return a.sqrt() * x + (1 - a).sqrt() * eps",
            "return a * x + (1 - a) * eps",
        ),
        Mutant(
            "noise-and-signal-swapped",
            "noise",
            "return a.sqrt() * x + (1 - a).sqrt() * eps",
            "return (1 - a).sqrt() * x + a.sqrt() * eps",
        ),
        Mutant(
            "velocity-sign",
            "target",
            "a.sqrt() * eps - (1 - a).sqrt() * x",
            "(1 - a).sqrt() * x - a.sqrt() * eps",
            {"predicts": "velocity"},
        ),
        Mutant(
            "image-for-noise",
            "target",
            "    return eps\n    # END 3",
            "    return x\n    # END 3",
            {"predicts": "noise"},
        ),
        Mutant(
            "noise-for-image",
            "target",
            "    return x\n    # END 3",
            "    return eps\n    # END 3",
            {"predicts": "image"},
        ),
        Mutant(
            "division-forgotten",
            "clean",
            "(x_t - (1 - a).sqrt() * out) / a.sqrt()",
            "x_t - (1 - a).sqrt() * out",
            {"predicts": "noise"},
        ),
        Mutant(
            "clean-plus",
            "clean",
            "a.sqrt() * x_t - (1 - a).sqrt() * out",
            "a.sqrt() * x_t + (1 - a).sqrt() * out",
            {"predicts": "velocity"},
        ),
        Mutant(
            "guidance-sign",
            "guidance",
            "without + weight * (with_label - without)",
            "without - weight * (with_label - without)",
        ),
        Mutant(
            "guidance-from-the-label",
            "guidance",
            "without + weight * (with_label - without)",
            "with_label + weight * (with_label - without)",
        ),
        Mutant(
            "noise-twice",
            "step",
            "rest * implied",
            "(1 - a_s).sqrt() * implied",
            {"sampler": "ancestral"},
        ),
        Mutant(
            "step-times-swapped",
            "step",
            "a_t, a_s = wide(alpha_bar(t)), wide(alpha_bar(s))",
            "a_s, a_t = wide(alpha_bar(t)), wide(alpha_bar(s))",
        ),
        Mutant(
            "clean-input",
            "loss",
            "self.net(add_noise(x, t, eps), t, label)",
            "self.net(x, t, label)",
        ),
        Mutant("summed-loss", "loss", ".square().mean()", ".square().sum()"),
        Mutant(
            "reversed-time",
            "sampling",
            "times = self.times(options.steps or 40)",
            "times = self.times(options.steps or 40)[::-1]",
        ),
        Mutant("guidance-ignored", "sampling", "x_t, t, label, weight)", "x_t, t, label, 1.0)"),
    ),
    figures=draw_figures,
    drawn=(
        Figure("curves", "the loss over the steps"),
        Figure("samples", "samples, a digit a row"),
        Figure("film", "from noise to image"),
        Figure("steps", "error against the number of steps"),
        Figure("guidance", "quality and variety against guidance"),
    ),
)
