"""A variational autoencoder of digits: reparametrization, KL, the ELBO and tighter bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributions

from genzoo.course.kit import (
    DIGITS_SPEC,
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
from genzoo.course.studio import Studio
from genzoo.noise import NoiseSource
from genzoo.types import Batch, SampleOptions, TrainState


def _prior(submission: Submission) -> tuple[float, float]:
    return submission.choices["prior_mean"], submission.choices["prior_std"]


def posterior_std(submission: Submission) -> None:
    """Blank 1."""
    raw = 3 * submission.normal(5, 8)
    log_var = submission.choices["scale"] == "log_var"
    right = torch.exp(raw / 2) if log_var else torch.log1p(raw.exp()) + 0.001
    hint = "eq. (1): it must be positive; is it a standard deviation or a variance?"
    same(submission.get("posterior_std")(raw), right, "posterior_std(raw)", hint)


def reparametrized(submission: Submission) -> None:
    """Blank 2: the number, and its gradients."""
    mean, std, eps = (submission.normal(4, 8, word=w) for w in (1, 2, 3))
    mean, std = mean.requires_grad_(), std.abs().requires_grad_()
    z = submission.get("sample_posterior")(mean, std, eps)
    same(z, (mean + std * eps).detach(), "sample_posterior(mean, std, eps)", "eq. (2)")
    expect(z.requires_grad, "no gradient flows through the code", "nothing may be detached")
    z.sum().backward()
    same(mean.grad, torch.ones(4, 8), "the gradient of z by the mean")
    same(std.grad, eps, "the gradient of z by the standard deviation")


def divergence(submission: Submission) -> None:
    """Blank 3."""
    m, s = _prior(submission)
    mean, std = submission.normal(6, 8, word=4), submission.normal(6, 8, word=5).exp()
    normal = distributions.Normal
    right = distributions.kl_divergence(normal(mean, std), normal(m, s)).sum(1)
    found = submission.get("kl")
    hint = "a sum over the dimensions of the code, one number an item; it is never negative"
    same(found(mean, std), right, "kl(mean, std)", hint)
    at = torch.full((3, 8), m), torch.full((3, 8), s)
    same(found(*at), torch.zeros(3), "kl of the prior to itself", "which prior does eq. (3) name?")


def likelihood(submission: Submission) -> None:
    """Blank 4."""
    out, kind = submission.normal(5, 64, word=6), submission.choices["likelihood"]
    x = submission.normal(5, 64, word=7)
    if kind == "bernoulli":
        x = (x > 0).float()
        right = distributions.Bernoulli(logits=out).log_prob(x)
    elif kind == "gaussian":
        right = nats_of_normal(x, out, 0.35)
    else:
        right = distributions.Laplace(out, 0.25).log_prob(x)
    hint = "log p of each pixel by eq. (4), its constant included; over the pixels one adds"
    same(submission.get("log_likelihood")(x, out), right.sum(1), "log_likelihood(x, out)", hint)


def _stand_ins(submission: Submission) -> tuple[Any, dict[str, Any]]:
    """A model with a known encoder and decoder, and known functions around it."""
    model = submission.model(DIGITS_SPEC)
    object.__setattr__(model, "posterior", lambda x: (x[:, :8] + 1, x[:, 8:16].abs() + 0.5))
    model.decoder = _Decoder()
    known = {
        "sample_posterior": lambda mean, std, eps: mean + std * eps,
        "log_likelihood": lambda x, out: (x * out).sum(1),
        "kl": lambda mean, std: mean.sum(1) - 3 * std.sum(1),
    }
    return model, known


class _Decoder(torch.nn.Module):
    """Repeats the code over the pixels."""

    def forward(self, z: Tensor) -> Tensor:
        return z.repeat(1, 8)


def bound_parts(submission: Submission) -> None:
    """Blank 5."""
    model, known = _stand_ins(submission)
    x, eps = submission.normal(5, 64, word=8), submission.normal(5, 8, word=9)
    mean, std = x[:, :8] + 1, x[:, 8:16].abs() + 0.5
    out = (mean + std * eps).repeat(1, 8)
    with submission.replaced(**known):
        found = model.bound_parts(x, eps)
    expect(isinstance(found, tuple) and len(found) == 2, "bound_parts must return two tensors")
    hint = "the decoder gets the code that was drawn with eps"
    same(found[0], (x * out).sum(1), "log p(x|z)", hint)
    same(found[1], mean.sum(1) - 3 * std.sum(1), "the KL", "it is asked of mean and std")


def weights(submission: Submission) -> None:
    """Blank 6: one code an item makes the bound the logarithm of its weight."""
    model, known = _stand_ins(submission)
    m, s = _prior(submission)
    x, eps = submission.normal(5, 64, word=10), submission.normal(1, 5, 8, word=11)
    mean, std = x[:, :8] + 1, x[:, 8:16].abs() + 0.5
    z = mean + std * eps[0]
    prior, proposal = nats_of_normal(z, m, s).sum(1), nats_of_normal(z, mean, std).sum(1)
    right = (x * z.repeat(1, 8)).sum(1) + prior - proposal
    # Blank 7 must not matter here: the weights are looked at where they are put together.
    seen: list[Tensor] = []
    with submission.replaced(**known), _recorded(seen):
        model.importance_bound(x, eps)
    hint = "log of a product and a quotient: what is added, what is taken away?"
    same(seen[0][0] if seen else None, right, "log w", hint)


@contextmanager
def _recorded(seen: list[Tensor]) -> Iterator[None]:
    """Remember what `torch.stack` is given."""
    real = torch.stack

    def stack(tensors: Any, *args: Any, **how: Any) -> Tensor:
        out = real(tensors, *args, **how)
        seen.append(out)
        return out

    torch.stack = stack
    try:
        yield
    finally:
        torch.stack = real


def importance_bound(submission: Submission) -> None:
    """Blank 7: the mean of known weights, also of huge and tiny ones."""
    log_weights = 3 * submission.normal(6, 4, word=12)
    log_weights[:, 1] += 800
    log_weights[:, 2] -= 800
    model, real = submission.model(DIGITS_SPEC), torch.stack
    known = {"sample_posterior": lambda *_: torch.zeros(4, 8)}
    torch.stack = lambda tensors, *args, **how: log_weights
    try:
        with submission.replaced(log_likelihood=lambda *_: torch.zeros(4), **known):
            found = model.importance_bound(torch.zeros(4, 64), torch.zeros(6, 4, 8))
    finally:
        torch.stack = real
    right = torch.logsumexp(log_weights.double(), 0) - math.log(6)
    hint = "the mean is inside of the logarithm; weights of e^800 overflow unless you take care"
    same(found, right, "importance_bound", hint)


def loss(submission: Submission) -> None:
    """Blank 8."""
    model, x = submission.model(DIGITS_SPEC), submission.normal(6, 1, 8, 8, word=13)
    log_lik, kl = submission.normal(6, word=14) - 5, submission.normal(6, word=15).abs()
    object.__setattr__(model, "bound_parts", lambda x, eps: (log_lik, kl))
    total = model.loss(Batch(x, {}), "main", TrainState()).total
    hint = "minimizing it must raise eq. (5); the size of the batch must not matter"
    same(total, (kl - log_lik).mean(), "the loss", hint)


def draw(submission: Submission) -> None:
    """Blank 9."""
    model, (m, s) = submission.model(DIGITS_SPEC), _prior(submission)
    model.decoder = _Decoder()
    object.__setattr__(model, "image", lambda out: out)
    found = model.draw(NoiseSource(5, 0, 7), {}, SampleOptions())
    right = (m + s * NoiseSource(5, 0, 7).normal(8)).repeat(1, 8)
    same(found, right, "draw(noise)", "eps is standard normal; which law has the prior?")


def learns(submission: Submission) -> None:
    """The whole: a few steps on eight items raise the bound."""
    model, x = submission.model(DIGITS_SPEC), submission.uniform(8, 1, 8, 8, word=16) * 2 - 1
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    torch.manual_seed(submission.seed)
    values = []
    for step in range(150):
        total = model.loss(Batch(x.repeat(8, 1, 1, 1), {}), "main", TrainState(step)).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total))
    expect(all(math.isfinite(v) for v in values), "the loss is not finite in training")
    fallen = sum(values[:5]) / 5 - sum(values[-5:]) / 5
    expect(fallen > 5, f"150 steps on eight items lower the loss by {fallen:.2f} nats only")
    expect(
        torch.equal(model.sample(16, seed=1), model.sample(16, seed=1)),
        "the same seed draws other images",
        "all noise comes from `noise`",
    )
    expect(
        not torch.equal(model.sample(16, seed=1), model.sample(16, seed=2)),
        "every seed draws the same images",
    )


COUNTS = (1, 4, 16, 64, 256)


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Curves, samples, reconstructions, interpolations, and the bound against the codes."""
    model: Any = studio.model
    studio.curves()
    codes = NoiseSource(1, 0, 50)
    with torch.no_grad():
        studio.images("samples", model.draw(codes, {}, SampleOptions()), 10)
        x = studio.test(10)
        z = model.encode(x, {})
        shown = model.image(model.pixels(x) * 12 - 6) if _binary(studio) else x
        studio.images("reconstructions", torch.cat([shown, model.decode(z, {})]), 10)
        t = torch.linspace(0, 1, 10)[:, None]
        rows = [model.decode(z[i] + t * (z[i + 5] - z[i]), {}) for i in range(5)]
        studio.images("interpolations", torch.cat(rows), 10)
        pixels = model.pixels(studio.test(200))
        generator = torch.Generator().manual_seed(0)
        eps = torch.randn(COUNTS[-1], len(pixels), 8, generator=generator)
        parts = [model.bound_parts(pixels, e) for e in eps[:64]]
        log_lik = float(torch.stack([p[0] for p in parts]).mean())
        divergence = float(parts[0][1].mean())
        bounds = [(k, float(model.importance_bound(pixels, eps[:k]).mean())) for k in COUNTS]
    studio.lines("bound", "codes an item, K", "nats an item", {"bound": bounds}, logarithmic=True)
    return studio.numbers | {
        "held-out log p(x|z) (nats)": log_lik,
        "held-out KL (nats)": divergence,
        "held-out ELBO (nats)": log_lik - divergence,
        **{f"held-out bound with {k} codes (nats)": bound for k, bound in bounds},
    }


def _binary(studio: Studio) -> bool:
    return bool(studio.choices["likelihood"] == "bernoulli")


KIT = Kit(
    title="A variational autoencoder",
    data="digits",
    choices={
        "likelihood": ["bernoulli", "gaussian", "laplace"],
        "prior_mean": [0.0, 1.0, -0.5],
        "prior_std": [1.0, 0.5, 2.0],
        "scale": ["log_var", "softplus"],
    },
    steps=3000,
    minutes=2,
    harder={"mnist": 6000, "fashion-mnist": 6000},
    hidden=(
        Hidden(
            "kl",
            "the divergence to the prior is that of fresh distributions",
            15,
            ("posterior-std", "kl"),
        ),
        Hidden("likelihood", "the log-likelihood of fresh pixels", 15, ("likelihood",)),
        Hidden(
            "bounds",
            "ELBO and importance bound of a linear model with a known likelihood",
            25,
            ("reparametrized", "bound-parts", "weights", "importance-bound", "loss"),
        ),
        Hidden("samples", "samples of a fresh data set look like it", 15, ("draw",), whole=True),
    ),
    questions={
        "Learning": 8,
        "Samples, reconstructions, interpolations": 10,
        "Bounds": 7,
        "Reflection": 5,
    },
    checks=(
        Check("posterior-std", "the posterior's standard deviation is eq. (1)", 1, posterior_std),
        Check("reparametrized", "codes are drawn as eq. (2), with gradients", 2, reparametrized),
        Check("kl", "the divergence to the prior is eq. (3)", 3, divergence),
        Check("likelihood", "the pixels have the likelihood of eq. (4)", 4, likelihood),
        Check("bound-parts", "the two parts of the ELBO belong together", 5, bound_parts),
        Check("weights", "a code has the weight of eq. (6)", 6, weights),
        Check("importance-bound", "the bound is the log of the mean weight", 7, importance_bound),
        Check("loss", "the loss is eq. (7)", 8, loss),
        Check("draw", "new images come from the prior", 9, draw),
        Check("learns", "the whole learns, and draws by its seed alone", 0, learns),
    ),
    mutants=(
        Mutant(
            "variance-for-std",
            "posterior-std",
            "(0.5 * raw).exp()",
            "raw.exp()",
            {"scale": "log_var"},
        ),
        Mutant(
            "not-positive",
            "posterior-std",
            "F.softplus(raw) + 0.001",
            "raw + 0.001",
            {"scale": "softplus"},
        ),
        Mutant(
            "scaled-by-the-variance", "reparametrized", "mean + std * eps", "mean + std**2 * eps"
        ),
        Mutant(
            "gradient-stopped",
            "reparametrized",
            "return mean + std * eps",
            "return (mean + std * eps).detach()",
        ),
        Mutant(
            "kl-sign",
            "kl",
            "return each.sum(dim=1)\n    # END 3",
            "return -each.sum(dim=1)\n    # END 3",
        ),
        Mutant(
            "kl-mean-for-sum",
            "kl",
            "return each.sum(dim=1)\n    # END 3",
            "return each.mean(dim=1)\n    # END 3",
        ),
        Mutant("std-in-the-kl", "kl", "(std**2 + (mean", "(std + (mean"),
        Mutant(
            "pixels-averaged",
            "likelihood",
            "    return each.sum(dim=1)\n    # END 4",
            "    return each.mean(dim=1)\n    # END 4",
            {"likelihood": "bernoulli"},
        ),
        Mutant(
            "pixels-averaged-laplace",
            "likelihood",
            "    return each.sum(dim=1)\n    # END 4",
            "    return each.mean(dim=1)\n    # END 4",
            {"likelihood": "laplace"},
        ),
        Mutant(
            "unit-noise",
            "likelihood",
            "log_normal(x, out, NOISE_STD)",
            "log_normal(x, out, 1.0)",
            {"likelihood": "gaussian"},
        ),
        Mutant(
            "decodes-the-mean",
            "bound-parts",
            "self.decoder(sample_posterior(mean, std, eps))",
            "self.decoder(mean)",
        ),
        Mutant(
            "prior-forgotten",
            "weights",
            "                + log_normal(z, PRIOR_MEAN, PRIOR_STD)\n",
            "",
        ),
        Mutant(
            "weight-upside-down",
            "weights",
            "- log_normal(z, mean, std)",
            "+ log_normal(z, mean, std)",
        ),
        Mutant(
            "mean-of-logs",
            "importance-bound",
            "torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))",
            "log_weights.mean(dim=0)",
        ),
        Mutant("sum-of-weights", "importance-bound", " - math.log(len(log_weights))", ""),
        Mutant(
            "kl-added", "loss", "(divergence - log_lik).mean()", "(-divergence - log_lik).mean()"
        ),
        Mutant(
            "loss-summed", "loss", "(divergence - log_lik).mean()", "(divergence - log_lik).sum()"
        ),
        Mutant(
            "noise-for-codes",
            "draw",
            "z = PRIOR_MEAN + PRIOR_STD * eps",
            "z = PRIOR_MEAN + PRIOR_STD * eps**2",
        ),
    ),
    figures=draw_figures,
    excused={"the_label_matters": "it draws digits of any label"},
    drawn=(
        Figure("curves", "reconstruction and KL over the steps"),
        Figure("samples", "samples"),
        Figure("reconstructions", "digits above, their reconstructions below"),
        Figure("interpolations", "from one digit's code to another's"),
        Figure("bound", "the bound against the number of codes"),
    ),
)
