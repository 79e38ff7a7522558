"""The checks of autoregression: each blank alone, against formulas of their own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genzoo.course.kit import (
    DIGITS_SPEC,
    Submission,
    expect,
    same,
)
from genzoo.data.ranges import to_model
from genzoo.types import Batch, DataSpec, TrainState

SMALL = DataSpec((1, 2, 3), 5, {"label": 2}, (0.5, 0.5))
TINY = DataSpec((1, 2, 2), 3)


# -- what is right, by the checks' own formulas --------------------------------------------


def _order(kind: str, height: int, width: int) -> Tensor:
    """Eq. (1), cell by cell."""
    rows, columns = range(height), range(width)
    cells = {
        "raster": [(r, c) for r in rows for c in columns],
        "columns": [(r, c) for c in columns for r in rows],
        "serpentine": [(r, width - 1 - c if r % 2 else c) for r in rows for c in columns],
    }[kind]
    return torch.tensor([r * width + c for r, c in cells])


def _degrees(kind: str, units: int, pixels: int) -> Tensor:
    """Eq. (3), unit by unit."""
    rule = {"cyclic": lambda j: j % pixels, "spread": lambda j: math.floor(j * pixels / units)}
    return torch.tensor([rule[kind](j) for j in range(units)])


def _allowed(before: Tensor, after: Tensor, strict: bool) -> Tensor:
    """Eq. (4): by how much the degree rises."""
    return after[:, None] - before[None, :] >= int(strict)


def _masses(logits: Tensor, levels: Tensor) -> Tensor:
    """Eq. (5), by the probabilities."""
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return (p * F.one_hot(levels, logits.shape[-1])).sum(-1).log()


def _model(submission: Submission, spec: DataSpec) -> Any:
    """The student's model with the right masks, whatever its own functions say."""
    choices = submission.choices
    with submission.replaced(
        pixel_order=lambda height, width: _order(choices["order"], height, width),
        hidden_degrees=lambda units, pixels: _degrees(choices["degrees"], units, pixels),
        connections=_allowed,
    ):
        return submission.model(spec).eval()


def _uniform(submission: Submission, n: int, pixels: int, levels: int, word: int) -> Tensor:
    """As many uniform numbers a pixel as the variant's rule takes."""
    one = submission.choices["sampling"] == "inverse-cdf"
    return submission.uniform(*((n, pixels) if one else (n, pixels, levels)), word=word)


# -- checks --------------------------------------------------------------------------------


def order(submission: Submission) -> None:
    """Blank 1."""
    for height, width in ((2, 3), (3, 2), (4, 5), (8, 8)):
        same(
            submission.get("pixel_order")(height, width),
            _order(submission.choices["order"], height, width),
            f"pixel_order({height}, {width})",
            "write the numbers of 2 rows and 3 columns on paper, and follow eq. (1) with a finger",
        )


def degrees(submission: Submission) -> None:
    """Blank 2."""
    for units, pixels in ((512, 64), (10, 4), (4, 4), (7, 12)):
        same(
            submission.get("hidden_degrees")(units, pixels),
            _degrees(submission.choices["degrees"], units, pixels),
            f"hidden_degrees({units}, {pixels})",
            "units count from 0 and degrees go from 0 to pixels - 1",
        )


def mask(submission: Submission) -> None:
    """Blank 3."""
    generator = submission.generator(3)
    before, after = (torch.randint(0, 5, (n,), generator=generator) for n in (6, 9))
    for strict in (False, True):
        found = submission.get("connections")(before, after, strict)
        same(
            found,
            _allowed(before, after, strict),
            f"connections(before, after, strict={strict})",
            "a row for each unit of `after`; equal degrees see each other unless `strict`",
        )


def masses(submission: Submission) -> None:
    """Blank 4."""
    logits = 2 * submission.normal(4, 6, 5).double() + 1
    levels = torch.randint(0, 5, (4, 6), generator=submission.generator(4))
    same(
        submission.get("log_masses")(logits, levels),
        _masses(logits, levels),
        "log_masses(logits, levels)",
        "logits become probabilities over the levels, the last dimension; take that of the level",
    )


def bits(submission: Submission) -> None:
    """Blank 5."""
    log_p, pixels = -30 * submission.uniform(5).double() - 3, 6
    same(
        submission.get("bits_per_dim")(log_p, pixels),
        math.fsum(-value / math.log(2) / pixels for value in log_p.tolist()) / 5,
        "bits_per_dim(log_p, pixels)",
        "a bit is ln 2 nats; likely images need few bits; the mean over the images, a pixel",
    )


def pick(submission: Submission) -> None:
    """Blank 6: where each level begins and ends, or which one wins the race."""
    function, levels = submission.get("pick"), 7
    for temperature in (1.0, 0.7):
        logits = submission.normal(levels, word=6)
        p = (logits.double() / temperature).exp()
        p = p / p.sum()
        what = f"pick(logits, uniform, {temperature})"
        if submission.choices["sampling"] == "inverse-cdf":
            middle = (p.cumsum(0) - p / 2).float()
            uniform = torch.cat([torch.zeros(1), middle, torch.tensor([1 - 2**-24])])
            right = torch.tensor([0, *range(levels), levels - 1])
            hint = "count the F_l that u has passed; logits are divided by T before the softmax"
        else:
            # Of independent exponential times with the rates p, the earliest is l with chance p_l.
            uniform = submission.uniform(200, levels, word=7).clamp(min=1e-6)
            times = -uniform.double().log() / p
            first, second = times.sort(1).values[:, :2].T
            clear = second > 1.001 * first
            uniform, right = uniform[clear], times[clear].argmin(1)
            hint = "Gumbel noise is -log(-log u), added to logits that were divided by T"
        found = function(logits.expand(len(uniform), levels), uniform, temperature)
        same(found, right, what, hint)


def log_prob(submission: Submission) -> None:
    """Blank 7: with known logits."""
    model = _model(submission, SMALL)
    raw = torch.randint(0, 5, (8, 1, 2, 3), generator=submission.generator(8)).byte()
    cond = {"label": torch.arange(8) % 2}
    weight = submission.normal(6, 6, 5, word=8).double()

    def logits(levels: Tensor, cond: Any) -> Tensor:
        told = torch.einsum("bj,jil->bil", levels.double() + 1, weight)
        phase: Tensor = told + cond["label"][:, None, None]
        return phase.sin()

    model.logits = logits
    levels = raw.flatten(1).long()
    with submission.replaced(log_masses=_masses):
        found = model.log_prob(raw, cond)
    same(
        found,
        _masses(logits(levels, cond), levels).sum(1),
        "log_prob(raw, cond)",
        "the network gets the image as it is, for the masks hide what must be hidden; "
        "probabilities are multiplied, so their logs are added",
    )


def complete(submission: Submission) -> None:
    """Blank 8: with known logits, a known choice of the level, and any order."""
    model, generator, pixels, n = _model(submission, SMALL), submission.generator(9), 6, 5
    model.order = torch.randperm(pixels, generator=generator)
    place = model.order.argsort()
    earlier = (place[None, :] < place[:, None]).double()
    weight = earlier * (1 + submission.uniform(pixels, pixels, word=10).double())

    def logits(levels: Tensor, cond: Any) -> Tensor:
        told: Tensor = levels.double() @ weight.T + cond["label"][:, None]
        return (told[..., None] + torch.arange(5)).sin()

    def known_pick(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        mixed = logits @ torch.arange(1.0, 6.0).double()
        mixed = mixed + 9 * uniform.reshape(n, -1).double().sum(1)
        return (mixed * 10 / temperature).long().abs() % 5

    model.logits = logits
    uniform = _uniform(submission, n, pixels, 5, 11)
    given = torch.randint(0, 5, (n, pixels), generator=generator)
    cond = {"label": torch.arange(n) % 2}
    for known in (0, 4):
        right = given.clone()
        for k, pixel in list(enumerate(model.order.tolist()))[known:]:
            right[:, pixel] = known_pick(logits(right, cond)[:, pixel], uniform[:, k], 0.7)
        before = given.clone()
        with submission.replaced(pick=known_pick):
            found = model.complete(given, known, uniform, cond, 0.7)
        expect(torch.equal(given, before), "complete(…) changes the images that it was given")
        kept = model.order[:known]
        same(
            found[:, kept],
            right[:, kept],
            f"what complete(levels, {known}, …) keeps",
            f"the first {known} pixels of the order are known",
        )
        same(
            found,
            right,
            f"complete(levels, {known}, …)",
            "the k-th turn is that of the pixel order[k] and of uniform[:, k], and every turn asks "
            "the network again, for it must see what was drawn last",
        )


def _stirred(submission: Submission, spec: DataSpec) -> Any:
    """The student's own model with weights that make everything depend on everything."""
    model, generator = submission.model(spec).eval(), submission.generator(12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def chain(submission: Submission) -> None:
    """The whole: no pixel sees itself or a later one, and probabilities sum to one."""
    model = _stirred(submission, SMALL)
    turn = _order(submission.choices["order"], 2, 3).tolist()
    levels = torch.randint(0, 5, (1, 6), generator=submission.generator(13))
    cond = {"label": torch.tensor([1])}
    with torch.no_grad():
        before = model.logits(levels, cond)
        for k, pixel in enumerate(turn):
            changed = levels.clone()
            changed[:, pixel] = (changed[:, pixel] + 2) % 5
            moved = (model.logits(changed, cond) - before).abs().amax((0, 2)) > 0
            early = [earlier for earlier in turn[: k + 1] if moved[earlier]]
            expect(
                not early,
                f"pixel {pixel}, the {k + 1}. of the order, changes the prediction of pixel "
                f"{early[0] if early else pixel}, which is not after it",
                "with such a leak the network would copy what it should predict",
            )
            expect(
                k == 5 or moved[turn[k + 1]],
                f"pixel {turn[min(k + 1, 5)]} takes no notice of pixel {pixel} just before it",
                "some connections are missing",
            )
        tiny = _stirred(submission, TINY)
        everything = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8)
        total = tiny.log_prob(everything.reshape(-1, 1, 2, 2), {}, None).double().exp().sum()
    same(total, 1.0, "the sum of P(x) over all 81 images of 2 x 2 pixels with 3 levels")


def learns(submission: Submission) -> None:
    """The whole: a few steps on bright and dark images, and samples by their seed alone."""
    model, generator = submission.model(DIGITS_SPEC), submission.generator(14)
    label = torch.arange(30) % 10
    noise = torch.randint(0, 4, (30, 1, 8, 8), generator=generator)
    batch = Batch(to_model(label[:, None, None, None] + noise, DIGITS_SPEC), {"label": label})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    torch.manual_seed(submission.seed)
    values = []
    for step in range(25):
        total = model.loss(batch, "main", TrainState(step)).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    expect(all(math.isfinite(v) for v in values), "the loss is not finite in training")
    expect(
        abs(values[0] - math.log2(17)) < 0.3,
        f"before training the loss is {values[0]:.2f}, not about log2(17) = {math.log2(17):.2f} "
        "bits a pixel",
        "an untrained network knows nothing, so that all levels are about equally likely",
    )
    expect(
        values[-1] < values[0] - 1,
        f"25 steps bring the loss from {values[0]:.2f} to {values[-1]:.2f} bits a pixel only",
        "do all parameters get a gradient?",
    )
    a, b = (model.sample(4, seed=s) for s in (1, 1))
    expect(torch.equal(a, b), "the same seed draws other images", "all noise comes from `noise`")
    expect(not torch.equal(a, model.sample(4, seed=2)), "every seed draws the same images")
