"""Judging generative models: the student writes metrics, a baseline, and tests of chance."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy import stats
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
from genzoo.course.studio import Studio, canvas
from genzoo.noise import NoiseSource
from genzoo.pipeline import train
from genzoo.types import Batch, SampleOptions


def moments(submission: Submission) -> None:
    """Blank 1."""
    x = submission.normal(7, 3)
    mean, covariance = submission.get("mean_and_covariance")(x)
    same(mean, x.double().mean(0), "the mean")
    right = np.cov(x.double().numpy(), rowvar=False)
    same(covariance, right, "the covariance", "eq. (1): by what is divided?")


def _known_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of a set that is marked by its first number; not what the student computes."""
    generator = torch.Generator().manual_seed(int(x.flatten()[0]))
    a = torch.randn(4, 4, generator=generator).double()
    return torch.randn(4, generator=generator).double(), a @ a.T + 0.1 * torch.eye(4)


def frechet(submission: Submission) -> None:
    """Blank 2: against the eigenvalues of the product of the covariances."""
    a, b = torch.full((3, 4), 5.0), torch.full((3, 4), 6.0)
    (mean_a, cov_a), (mean_b, cov_b) = _known_moments(a), _known_moments(b)
    product = np.linalg.eigvals(cov_a.numpy() @ cov_b.numpy()).real.clip(0)
    right = float((mean_a - mean_b).square().sum() + torch.trace(cov_a + cov_b))
    right -= 2 * float(np.sqrt(product).sum())
    distance = submission.get("frechet_distance")
    with submission.replaced(mean_and_covariance=_known_moments):
        same(distance(a, b), right, "frechet_distance(a, b)", "eq. (2), a trace of matrices")
        same(distance(a, a), 0.0, "the distance of a set to itself", tolerance=1e-6)


def _apart(submission: Submission, a: Tensor, b: Tensor) -> np.ndarray:
    """All distances, one after the other."""
    out = np.zeros((len(a), len(b)))
    for i, j in itertools.product(range(len(a)), range(len(b))):
        gap = (a[i].double() - b[j].double()).abs()
        euclidean = submission.choices["distance"] == "euclidean"
        out[i, j] = float(gap.square().sum().sqrt() if euclidean else gap.sum())
    return out


def radius(submission: Submission) -> None:
    """Blank 3."""
    x, k = submission.normal(9, 2, word=1), submission.choices["k"]
    right = np.sort(_apart(submission, x, x), axis=1)[:, k]
    hint = "an item is at distance 0 from itself, and is no neighbour of itself"
    same(submission.get("radii")(x), right, "radii(x)", hint)


def precise(submission: Submission) -> None:
    """Blank 4: with given radii."""
    real, fake = submission.normal(12, 2, word=2), submission.normal(40, 2, word=3) * 1.5
    sizes = submission.uniform(12, word=4).double()
    inside = _apart(submission, fake, real) <= sizes.numpy()
    with submission.replaced(radii=lambda x: sizes[: len(x)]):
        found = submission.get("precision")(real, fake)
    hint = "one ball is enough; the balls are those of the real items; a share of the fakes"
    same(found, float(inside.any(1).mean()), "precision(real, fake)", hint)


def told_apart(submission: Submission) -> None:
    """Blank 5."""
    real, fake = submission.normal(14, 2, word=5), submission.normal(11, 2, word=6) + 0.7
    both = torch.cat([real, fake])
    apart = _apart(submission, both, both)
    np.fill_diagonal(apart, math.inf)
    kind = np.arange(25) < 14
    right = float((kind[apart.argmin(1)] == kind).mean())
    found = submission.get("two_sample_accuracy")
    hint = "the nearest *other* item; right where both are of the same kind"
    same(found(real, fake), right, "two_sample_accuracy(real, fake)", hint)
    same(found(real, fake + 50), 1.0, "the accuracy for sets that lie far apart", hint)


def copies(submission: Submission) -> None:
    """Blank 6."""
    fake, train, held_out = (submission.normal(n, 2, word=w) for n, w in ((30, 7), (9, 8), (9, 9)))
    nearer = _apart(submission, fake, train).min(1) < _apart(submission, fake, held_out).min(1)
    found = submission.get("train_share")
    hint = "of each fake the nearest training item and the nearest held-out item"
    same(found(fake, train, held_out), float(nearer.mean()), "train_share(…)", hint)
    same(found(train + 1e-4, train, held_out), 1.0, "the share of copies", hint)


def interval(submission: Submission) -> None:
    """Blank 7."""
    level, hint = submission.choices["level"], "eq. (6): which quantile, which deviation, which √n?"
    for n in (2, 3, 7):
        x = submission.normal(n, word=20 + n).double().numpy()
        low, high = stats.t.interval(level, n - 1, x.mean(), stats.sem(x))
        found = submission.get("mean_interval")(x.tolist())
        same(np.asarray(found), np.array([x.mean(), low, high]), "mean_interval(values)", hint)


def chance(submission: Submission) -> None:
    """Blank 8."""
    for n in (3, 5, 8):
        a = submission.normal(n, word=30 + n).double().numpy()
        b = a - 0.4 - 0.3 * submission.normal(n, word=40 + n).double().numpy()
        if submission.choices["test"] == "sign-flip":
            d = a - b
            sums = [abs(sum(s * v for s, v in zip(signs, d, strict=True)))
                    for signs in itertools.product((1, -1), repeat=n)]  # fmt: skip
            right = float(np.mean([s >= abs(d.sum()) - 1e-12 for s in sums]))
            hint = "all 2^n patterns, the one that was seen among them; two-sided"
        else:
            right, hint = float(stats.ttest_rel(a, b).pvalue), "both tails; n - 1 degrees"
        same(submission.get("p_value")(a.tolist(), b.tolist()), right, "p_value(a, b)", hint)


def fitted(submission: Submission) -> None:
    """Blank 9."""
    model = submission.model(DIGITS_SPEC)
    mean = submission.normal(64, word=50).double()
    a = submission.normal(64, 64, word=51).double() / 8
    covariance = a @ a.T
    with submission.replaced(mean_and_covariance=lambda x: (mean, covariance)):
        model.on_fit_start(Batch(torch.zeros(3, 1, 8, 8), {}), torch.Generator())
    same(model.mean, mean.float(), "the baseline's mean")
    product = covariance + 0.001 * torch.eye(64)
    if submission.choices["baseline"] == "diagonal":
        product = torch.diag(product.diagonal())
    hint = "eq. (8): L times its transpose must give the covariance"
    same(model.factor @ model.factor.T, product.float(), "L Lᵀ", hint, tolerance=1e-3)


def drawn(submission: Submission) -> None:
    """Blank 10: with a known mean and factor."""
    model = submission.model(DIGITS_SPEC)
    mean, factor = submission.normal(64, word=60), submission.normal(64, 64, word=61).tril()
    model.mean.copy_(mean)
    model.factor.copy_(factor)
    found = model.draw(NoiseSource(4, 0, 6), {}, SampleOptions())
    eps = NoiseSource(4, 0, 6).normal(64)
    right = torch.stack([mean + factor @ e for e in eps]).view(-1, 1, 8, 8)
    same(found, right, "draw(noise)", "L multiplies each item's ε from the left; rows are items")


def learns(submission: Submission) -> None:
    """The whole: fitted to correlated items, the baseline's samples are near to them."""
    model = submission.model(DIGITS_SPEC)
    mix = submission.normal(64, 64, word=70) / 16
    x = (submission.normal(600, 64, word=71) @ mix).clamp(-1, 1)
    model.on_fit_start(Batch(x.view(-1, 1, 8, 8), {}), torch.Generator())
    fake = model.draw(NoiseSource(1, 0, 600), {}, SampleOptions()).flatten(1)
    noise = submission.normal(600, 64, word=72)
    near, far = (submission.get("frechet_distance")(x, other) for other in (fake, noise))
    expect(near < 0.2 * far, f"FD of the baseline is {near:.2f}, that of plain noise {far:.2f}")
    seeds = [model.sample(8, seed=s) for s in (1, 1, 2)]
    expect(torch.equal(seeds[0], seeds[1]), "the same seed draws other images")
    expect(not torch.equal(seeds[0], seeds[2]), "every seed draws the same images")


CONTENDERS = {"gaussian-vae": 600, "realnvp": 300, "gan": 250}
SEEDS = 2
ITEMS = 400


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Samples, scores and the precision-recall plane of several models and two controls."""
    module: Any = studio.module
    shades = studio.data.spec.levels
    assert shades is not None
    data = studio.data.train.data.double().flatten(1)
    known = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:ITEMS]]
    held_out = studio.data.test.data.double().flatten(1)
    real, other = held_out[:ITEMS], held_out[-ITEMS:]
    found: dict[str, list[Tensor]] = {"baseline": [], "copycat": []}
    for seed in range(SEEDS):
        found["baseline"].append(studio.model.sample(ITEMS, seed=seed).double().flatten(1))
        for name, steps in {**CONTENDERS, "copycat": 1}.items():
            studio.progress.update("models", seed / SEEDS, f"{name}, seed {seed}")
            place = studio.run.path.with_name(f"{studio.data.name}-{name}-s{seed}")
            run = train(
                name, studio.data, budget=f"{steps}steps", seed=seed, out=place, resume=True,
                evaluate=False, samples=ITEMS, threads=studio.assignment.threads,
                device=studio.device,
                precision="fp32", progress=studio.progress,
            )  # fmt: skip
            samples = run.samples()
            assert samples is not None and samples.images is not None
            gray = torch.from_numpy(samples.images.astype(np.float64)).flatten(1)
            levels = gray * (shades - 1) / 255
            found.setdefault(name, []).append(levels)
    studio.progress.update("models", 1.0)
    sets = {"real data": [other], **found}
    _samples(studio, sets)
    scores = {
        name: [_judged(module, real, known, fake) for fake in fakes] for name, fakes in sets.items()
    }
    means = {
        name: {key: float(np.mean([s[key] for s in several])) for key in several[0]}
        for name, several in scores.items()
    }
    _bars(studio, module, scores)
    figure, axes = canvas(1, 1, (5, 4))
    for name, mean in means.items():
        axes[0].plot(mean["recall"], mean["precision"], "o", label=name)
        axes[0].annotate(f" {name}", (mean["recall"], mean["precision"]))
    axes[0].set_xlabel("recall")
    axes[0].set_ylabel("precision")
    axes[0].set_xlim(0, 1.2)
    studio.save("precision-recall", figure)
    numbers = {
        f"{name}: {key}": value for name, mean in means.items() for key, value in mean.items()
    }
    fds = {name: [s["FD"] for s in several] for name, several in scores.items()}
    first, second = sorted((n for n in CONTENDERS), key=lambda n: float(np.mean(fds[n])))[:2]
    p = module.p_value(fds[first], fds[second])
    return studio.numbers | numbers | {f"p-value, FD of {first} and {second}": float(p)}


def _judged(module: Any, real: Tensor, known: Tensor, fake: Tensor) -> dict[str, float]:
    """All numbers of one set of samples, by the student's functions."""
    return {
        "FD": module.frechet_distance(real, fake),
        "precision": module.precision(real, fake),
        "recall": module.precision(fake, real),
        "1-NN accuracy": module.two_sample_accuracy(real, fake),
        "train share": module.train_share(fake, known, real),
    }


def _samples(studio: Studio, sets: dict[str, list[Tensor]]) -> None:
    figure, axes = canvas(len(sets), 1, (6, 0.85 * len(sets)))
    levels = studio.data.spec.levels
    assert levels is not None
    for place, (name, fakes) in zip(axes, sets.items(), strict=True):
        height, width = studio.data.spec.shape[1:]
        row = fakes[0][:10].view(-1, height, width).permute(1, 0, 2).reshape(height, -1)
        place.imshow(row.numpy(), cmap="gray", vmin=0, vmax=levels - 1)
        place.set_ylabel(name, rotation=0, ha="right", va="center")
        place.set_xticks([])
        place.set_yticks([])
    studio.save("samples", figure)


def _bars(studio: Studio, module: Any, scores: dict[str, list[dict[str, float]]]) -> None:
    keys = list(next(iter(scores.values()))[0])
    figure, axes = canvas(1, len(keys), (2.5 * len(keys), 2.9))
    for place, key in zip(axes, keys, strict=True):
        for position, several in enumerate(scores.values()):
            values = [s[key] for s in several]
            mean, half = float(np.mean(values)), 0.0
            if len(values) > 1:
                mean, _, high = module.mean_interval(values)
                half = high - mean
            place.bar(position, mean, yerr=half or None, color=f"C{position}")
            place.plot([position] * len(values), values, "k.", markersize=4)
        place.set_title(key, fontsize=10)
        # Intervals of two seeds are wide; the bars are what is compared by eye.
        top = max(float(np.mean([s[key] for s in several])) for several in scores.values())
        place.set_ylim(0, 1.4 * top)
        place.set_xticks(range(len(scores)), list(scores), rotation=70, fontsize=8)
    studio.save("scores", figure)


KIT = Kit(
    title="Judging generative models",
    data="digits",
    choices={
        "k": [3, 5],
        "distance": ["euclidean", "manhattan"],
        "level": [0.95, 0.9],
        "test": ["sign-flip", "paired-t"],
        "baseline": ["gaussian", "diagonal"],
    },
    steps=1,
    minutes=3,
    harder={"mnist": 1, "fashion-mnist": 1},
    hidden=(
        Hidden(
            "distances", "moments and Fréchet distance of fresh sets", 20, ("moments", "frechet")
        ),
        Hidden(
            "neighbours",
            "radii, precision, accuracy and train share of fresh sets",
            25,
            ("radii", "precision", "two-sample", "train-share"),
        ),
        Hidden("chance", "intervals and p-values of fresh scores", 15, ("interval", "p-value")),
        Hidden("baseline", "the baseline fitted to a fresh Gaussian", 10, ("fit", "draw")),
    ),
    questions={"Looking": 3, "Numbers": 9, "Copies": 6, "Chance": 7, "Reflection": 5},
    checks=(
        Check("moments", "mean and covariance are eq. (1)", 1, moments),
        Check("frechet", "the Fréchet distance is eq. (2)", 2, frechet),
        Check("radii", "balls reach to the K-th nearest other item", 3, radius),
        Check("precision", "precision is eq. (3)", 4, precise),
        Check("two-sample", "the accuracy is eq. (4)", 5, told_apart),
        Check("train-share", "copies are seen by eq. (5)", 6, copies),
        Check("interval", "the interval of a mean is eq. (6)", 7, interval),
        Check("p-value", "the test of chance is eq. (7)", 8, chance),
        Check("fit", "the baseline is fitted by eq. (8)", 9, fitted),
        Check("draw", "the baseline draws what it has fitted", 10, drawn),
        Check("learns", "the whole works, and draws by its seed alone", 0, learns),
    ),
    mutants=(
        Mutant("biased-covariance", "moments", "/ (len(x) - 1)", "/ len(x)"),
        Mutant("not-centred", "moments", "centred = x - mean", "centred = x"),
        Mutant(
            "distance-of-means-not-squared",
            "frechet",
            "(mean_a - mean_b).square().sum()",
            "(mean_a - mean_b).norm()",
        ),
        Mutant(
            "root-of-the-elements",
            "frechet",
            "mixed = root(half @ cov_b @ half)",
            "mixed = (half @ cov_b @ half).clamp(min=0).sqrt()",
        ),
        Mutant(
            "factor-two-forgotten", "frechet", "cov_a + cov_b - 2 * mixed", "cov_a + cov_b - mixed"
        ),
        Mutant("its-own-neighbour", "radii", ".values[:, K]", ".values[:, K - 1]"),
        Mutant("all-balls", "precision", "inside.any(dim=1)", "inside.all(dim=1)"),
        Mutant("share-of-the-real", "precision", "inside.any(dim=1)", "inside.any(dim=0)"),
        Mutant(
            "itself-included",
            "two-sample",
            "apart.fill_diagonal_(math.inf)",
            "apart.fill_diagonal_(0.0)",
        ),
        Mutant(
            "error-for-accuracy", "two-sample", "(kind[nearest] == kind)", "(kind[nearest] != kind)"
        ),
        Mutant(
            "mean-distance",
            "train-share",
            "distances(fake, train).amin(dim=1)",
            "distances(fake, train).mean(dim=1)",
        ),
        Mutant(
            "sides-swapped", "train-share", "(to_train < to_held_out)", "(to_train > to_held_out)"
        ),
        Mutant(
            "normal-for-student",
            "interval",
            "stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)",
            "stats.norm.ppf((1 + LEVEL) / 2)",
        ),
        Mutant(
            "one-sided-quantile", "interval", "stats.t.ppf((1 + LEVEL) / 2,", "stats.t.ppf(LEVEL,"
        ),
        Mutant(
            "deviation-for-error", "interval", "x.std(ddof=1) / math.sqrt(len(x))", "x.std(ddof=1)"
        ),
        Mutant(
            "one-sided-flips",
            "p-value",
            "sums = np.abs(signs @ d)",
            "sums = signs @ d",
            {"test": "sign-flip"},
        ),
        Mutant(
            "one-sided-t",
            "p-value",
            "2 * stats.t.sf(abs(t), len(d) - 1)",
            "stats.t.sf(abs(t), len(d) - 1)",
            {"test": "paired-t"},
        ),
        Mutant(
            "covariance-for-factor",
            "fit",
            "torch.linalg.cholesky(covariance + 0.001 * torch.eye(len(mean)))",
            "covariance + 0.001 * torch.eye(len(mean))",
            {"baseline": "gaussian"},
        ),
        Mutant(
            "variance-for-std",
            "fit",
            "(covariance.diagonal() + 0.001).sqrt()",
            "covariance.diagonal() + 0.001",
            {"baseline": "diagonal"},
        ),
        Mutant("factor-transposed", "draw", "eps @ self.factor.T", "eps @ self.factor"),
        Mutant("mean-forgotten", "draw", "x = self.mean + eps", "x = eps"),
    ),
    figures=draw_figures,
    excused={"the_label_matters": "the baseline draws digits of any label"},
    drawn=(
        Figure("samples", "samples of each model"),
        Figure("scores", "scores of each model"),
        Figure("precision-recall", "precision and recall"),
    ),
)
