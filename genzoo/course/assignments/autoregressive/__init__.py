"""A masked autoregressive network on digits: exact probabilities, and one pixel after the other."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

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
from genzoo.course.studio import Studio, canvas
from genzoo.data.dataset import Split
from genzoo.data.ranges import to_model
from genzoo.model import evaluating
from genzoo.noise import NoiseSource
from genzoo.training.snapshots import load_snapshot, snapshots
from genzoo.types import Batch, DataSpec, SampleOptions, TrainState

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


def _model(submission: Submission, spec: DataSpec) -> Any:
    """The student's model with the right masks, whatever its own functions say."""
    choices = submission.choices
    with _standing_in(
        submission,
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
    with _standing_in(submission, log_masses=_masses):
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
        with _standing_in(submission, pick=known_pick):
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


# -- figures -------------------------------------------------------------------------------


def _sheet(images: Tensor, hidden: Tensor | None = None) -> np.ndarray:
    """Tiles with white lines between them, RGB: (R, C, 8, 8) levels; what is hidden is blue."""
    rows, columns, height, width = images.shape
    tiles = (images.float() / 16)[..., None].repeat(1, 1, 1, 1, 3)
    if hidden is not None:
        tiles[hidden] = torch.tensor([0.55, 0.75, 0.95])
    sheet = torch.ones(rows, height + 1, columns, width + 1, 3)
    sheet[:, :height, :, :width] = tiles.permute(0, 2, 1, 3, 4)
    flat = sheet.reshape(rows * (height + 1), columns * (width + 1), 3)
    return np.asarray(flat[:-1, :-1])


def _one_of_each(labels: Tensor) -> Tensor:
    """The index of the first item of each of the ten labels."""
    return torch.stack([(labels == label).nonzero()[0, 0] for label in range(10)])


def _draw_samples(studio: Studio) -> None:
    data, labels = studio.data.test.data, studio.data.test.labels
    assert labels is not None
    real = torch.stack([data[labels == label][:4, 0] for label in range(10)], 1)
    wanted = {"label": torch.arange(10).repeat(4)}
    drawn = [
        studio.model.sample(40, cond=wanted, seed=1, options=SampleOptions(temperature=t))
        for t in (1.0, 0.7)
    ]
    figure, axes = canvas(3, 1, (4.6, 6.6))
    titles = ("held-out digits", "samples, temperature 1", "samples, temperature 0.7")
    sheets = (real, *(x.reshape(4, 10, 8, 8) for x in drawn))
    for place, title, sheet in zip(axes, titles, sheets, strict=True):
        place.imshow(_sheet(sheet), interpolation="nearest")
        place.set_title(title, fontsize=10)
        place.axis("off")
    studio.save("samples", figure)


def _draw_completions(studio: Studio) -> None:
    """Held-out digits, their first half, and four ways to go on."""
    model: Any = studio.model
    labels = studio.data.test.labels
    assert labels is not None
    chosen = _one_of_each(labels)
    levels = studio.data.test.data[chosen].flatten(1).long()
    pixels, known, ways = 64, 32, 4
    one = studio.choices["sampling"] == "inverse-cdf"
    noise = NoiseSource(1, 0, 10 * ways)
    uniform = noise.uniform(pixels) if one else noise.uniform(pixels, 17)
    with evaluating(model), torch.no_grad():
        cond = {"label": labels[chosen].repeat(ways)}
        found = model.complete(levels.repeat(ways, 1), known, uniform, cond, 1.0)
    rows = torch.cat([levels[None], levels[None], found.reshape(ways, 10, pixels)])
    hidden = torch.zeros(rows.shape, dtype=torch.bool)
    hidden[1][:, model.order[known:]] = True
    shape = (ways + 2, 10, 8, 8)
    figure, axes = canvas(1, 1, (5.6, 3.1))
    axes[0].imshow(_sheet(rows.reshape(shape), hidden.reshape(shape)), interpolation="nearest")
    names = ("held out", "first half", *("completed" for _ in range(ways)))
    axes[0].set_yticks([9 * i + 3.5 for i in range(len(names))], names, fontsize=9)
    axes[0].set_xticks([])
    axes[0].tick_params(length=0)
    axes[0].spines[:].set_visible(False)
    studio.save("completions", figure)


def _draw_bits(studio: Studio, each: Tensor, context: Tensor) -> None:
    """Bits of each pixel on held-out digits, without and with the pixels before it."""
    figure, axes = canvas(1, 2, (7, 3))
    top = math.log2(17)
    titles = ("each pixel for itself", "given those before it")
    for place, title, values in zip(axes, titles, (each, context), strict=True):
        shown = place.imshow(values.reshape(8, 8), cmap="viridis", vmin=0, vmax=top)
        place.set_title(f"{title}: {float(values.mean()):.2f} bits", fontsize=10)
        place.axis("off")
    figure.colorbar(shown, ax=axes, label="bits")
    studio.save("bits", figure)


def _bits_of(model: Any, split: Split) -> float:
    """Bits a pixel of digits given their labels, without dropout."""
    assert split.labels is not None
    with evaluating(model), torch.no_grad():
        log_p = model.log_prob(split.data, {"label": split.labels}, None)
    return -float(log_p.mean()) / (64 * math.log(2))


def _draw_curves(studio: Studio, known: dict[str, float]) -> None:
    """The loss over the steps, and what the snapshots on the way say of both splits."""
    figure, axes = canvas(1, 1, (6, 3.6))
    history = [
        (entry["step"], entry["loss"]["main/bits_per_dim"]) for entry in studio.run.history()
    ]
    axes[0].plot(*zip(*history, strict=True), color="C0", label="training batches, with dropout")
    stages: list[tuple[int, Any]] = []
    for snapshot in snapshots(studio.run):
        early = copy.deepcopy(studio.model)
        load_snapshot(early, studio.run, snapshot)
        stages.append((snapshot.step, early))
    stages.append((studio.run.status["step"], studio.model))
    for name, split, color in (
        ("training digits", studio.data.train, "C2"),
        ("held-out digits", studio.data.test, "C3"),
    ):
        points = [(step, _bits_of(model, split)) for step, model in stages]
        axes[0].plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, label=name)
    for style, (name, value) in zip(("--", ":"), known.items(), strict=True):
        axes[0].axhline(value, color="0.45", linestyle=style, label=f"{name}: {value:.2f}")
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("bits a pixel")
    axes[0].set_ylim(0, 4.4)
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    studio.save("curves", figure)


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Curves, samples at two temperatures, completed digits, and where the bits go."""
    model: Any = studio.model
    train, test = studio.data.train, studio.data.test
    assert train.labels is not None and test.labels is not None
    histogram = F.one_hot(train.data.flatten(1).long(), 17).sum(0) + 0.5
    each = -(histogram / histogram.sum(1, keepdim=True)).log2()
    levels = test.data.flatten(1).long()
    alone = each.gather(1, levels.T).mean(1)
    with evaluating(model), torch.no_grad():
        logits = model.logits(levels, {"label": test.labels})
        context = -studio.module.log_masses(logits, levels).mean(0) / math.log(2)
        log_p = [
            model.log_prob(test.data, {"label": torch.full_like(test.labels, label)}, None)
            for label in range(10)
        ]
    of_labels = torch.stack(log_p, 1)
    right = float((of_labels.argmax(1) == test.labels).float().mean())
    nothing, histograms = math.log2(17), float(alone.mean())
    _draw_curves(studio, {"all levels alike": nothing, "each pixel for itself": histograms})
    _draw_samples(studio)
    _draw_completions(studio)
    _draw_bits(studio, alone, context)
    return studio.numbers | {
        "held-out bits a pixel": _bits_of(model, test),
        "training digits, bits a pixel": _bits_of(model, train),
        "each pixel for itself, bits": histograms,
        "all levels alike, bits": nothing,
        "-log P of a held-out digit (nats)": -float(
            of_labels.gather(1, test.labels[:, None]).mean()
        ),
        "held-out digits recognised by Bayes' rule": f"{100 * right:.1f} %",
    }


# -- the assignment ------------------------------------------------------------------------

_CDF = {"sampling": "inverse-cdf"}
_GUMBEL = {"sampling": "gumbel-max"}
_ONCE = """        logits_of = self.logits(levels, cond)
        for k in range(known, self.pixels):
            pixel = self.order[k]
            logits = logits_of[:, pixel]
"""
_EACH = """        for k in range(known, self.pixels):
            pixel = self.order[k]
            logits = self.logits(levels, cond)[:, pixel]
"""

KIT = Kit(
    title="An autoregressive model",
    data="digits",
    choices={
        "order": ["raster", "columns", "serpentine"],
        "degrees": ["cyclic", "spread"],
        "sampling": ["inverse-cdf", "gumbel-max"],
    },
    steps=800,
    minutes=1,
    hidden=(
        Hidden("masks", "the order, the degrees and the masks", 20),
        Hidden("likelihood", "log-probabilities, which sum to one, and bits", 20),
        Hidden("pick", "one level drawn from its probabilities", 15),
        Hidden("complete", "images are completed in the order", 15),
    ),
    questions={"Learning": 10, "Samples": 5, "Completion": 5, "Bits": 5, "Reflection": 5},
    checks=(
        Check("order", "the pixels come in the order of eq. (1)", 1, order),
        Check("degrees", "hidden units have the degrees of eq. (3)", 2, degrees),
        Check("mask", "layers are connected as eq. (4) says", 3, mask),
        Check("masses", "logits become log-probabilities by eq. (5)", 4, masses),
        Check("bits", "nats become bits a pixel by eq. (6)", 5, bits),
        Check("pick", "one level is drawn by eq. (7)", 6, pick),
        Check("log-prob", "an image has the log-probability of eq. (8)", 7, log_prob),
        Check("complete", "pixels are drawn one after the other by eq. (9)", 8, complete),
        Check("chain", "no pixel sees itself or a later one; P sums to one", 0, chain),
        Check("learns", "the whole learns, and draws by its seed alone", 0, learns),
    ),
    mutants=(
        Mutant(
            "transposed",
            "order",
            "return torch.arange(height * width)\n",
            "return torch.arange(height * width).reshape(height, width).T.reshape(-1)\n",
            only={"order": "raster"},
        ),
        Mutant(
            "rows-for-columns",
            "order",
            "return numbers.T.reshape(-1)",
            "return numbers.reshape(-1)",
            only={"order": "columns"},
        ),
        Mutant(
            "first-row-reversed",
            "order",
            "numbers[1::2] = numbers[1::2].flip(1)",
            "numbers[0::2] = numbers[0::2].flip(1)",
            only={"order": "serpentine"},
        ),
        Mutant(
            "degrees-from-one",
            "degrees",
            "torch.arange(units) % pixels",
            "torch.arange(units) % pixels + 1",
            only={"degrees": "cyclic"},
        ),
        Mutant(
            "degrees-divided-first",
            "degrees",
            "torch.arange(units) * pixels // units",
            "torch.arange(units) // (units // pixels + 1)",
            only={"degrees": "spread"},
        ),
        Mutant(
            "sees-what-it-predicts",
            "mask",
            "return after[:, None] > before[None, :]",
            "return after[:, None] >= before[None, :]",
        ),
        Mutant(
            "hidden-too-strict",
            "mask",
            "    return after[:, None] >= before[None, :]",
            "    return after[:, None] > before[None, :]",
        ),
        Mutant("not-normalized", "masses", "logits.log_softmax(dim=-1)", "logits"),
        Mutant("softmax-over-pixels", "masses", "log_softmax(dim=-1)", "log_softmax(dim=1)"),
        Mutant("nats-called-bits", "bits", "/ (pixels * math.log(2))", "/ pixels"),
        Mutant("per-image", "bits", "/ (pixels * math.log(2))", "/ math.log(2)"),
        Mutant("sum-for-mean", "bits", "-log_p.mean()", "-log_p.sum()"),
        Mutant("likelihood-minimized", "bits", "-log_p.mean()", "log_p.mean()"),
        Mutant("temperature-multiplies", "pick", "logits / temperature", "logits * temperature"),
        Mutant(
            "argmax-for-sampling",
            "pick",
            "return (cdf <= uniform[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)",
            "return logits.argmax(dim=-1)",
            only=_CDF,
        ),
        Mutant(
            "one-level-too-high",
            "pick",
            "(cdf <= uniform[:, None]).sum(dim=-1)",
            "((cdf <= uniform[:, None]).sum(dim=-1) + 1)",
            only=_CDF,
        ),
        Mutant(
            "beyond-the-last-level",
            "pick",
            ".clamp(max=logits.shape[-1] - 1)",
            " + (uniform > 0.9999)",
            only=_CDF,
        ),
        Mutant(
            "argmax-without-noise",
            "pick",
            "(logits / temperature + gumbel)",
            "(logits / temperature)",
            only=_GUMBEL,
        ),
        Mutant(
            "gumbel-upside-down",
            "pick",
            "gumbel = -torch.log(-torch.log(uniform))",
            "gumbel = torch.log(-torch.log(uniform))",
            only=_GUMBEL,
        ),
        Mutant("mean-for-sum", "log-prob", ".sum(dim=1)\n", ".mean(dim=1)\n"),
        Mutant(
            "shifted-by-one",
            "log-prob",
            "log_masses(self.logits(levels, cond), levels)",
            "log_masses(self.logits(levels.roll(1, dims=1), cond), levels)",
        ),
        Mutant("order-forgotten", "complete", "pixel = self.order[k]", "pixel = k"),
        Mutant("asked-once", "complete", _EACH, _ONCE),
        Mutant(
            "one-pixel-late",
            "complete",
            "range(known, self.pixels)",
            "range(known + 1, self.pixels)",
        ),
        Mutant("same-noise", "complete", "uniform[:, k]", "uniform[:, 0]"),
        Mutant(
            "temperature-forgotten",
            "complete",
            "uniform[:, k], temperature)",
            "uniform[:, k], 1.0)",
        ),
        Mutant("last-layer-not-strict", "chain", "strict=True", "strict=False"),
    ),
    figures=draw_figures,
    drawn=(
        Figure("curves", "bits a pixel over the steps"),
        Figure("samples", "held-out digits, and samples at two temperatures"),
        Figure("completions", "digits completed from their first half"),
        Figure("bits", "bits of each pixel, without and with those before it"),
    ),
)
