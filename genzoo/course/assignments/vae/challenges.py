"""A variational autoencoder: closed forms of a linear-Gaussian, and fresh data. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genzoo.course.grading.judge import (
    SampleTest,
    Session,
    chamfer,
    close,
    trained_on,
    turned_digits,
)

LATENTS, PIXELS, NOISE_STD, NOISE_SCALE = 8, 64, 0.35, 0.25


def log_normal(x: np.ndarray, mean: np.ndarray | float, std: np.ndarray | float) -> np.ndarray:
    """Log N(x; mean, std²), summed over the last dimension."""
    each = -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    return np.asarray(each.sum(-1))


def prior(session: Session) -> tuple[float, float]:
    """Mean and standard deviation."""
    return session.choices["prior_mean"], session.choices["prior_std"]


def deviations(session: Session) -> bool:
    """The posterior's standard deviation, eq. (1)."""
    raw = 1.5 * session.normal(30, LATENTS)
    (found,) = session.call("posterior_std", raw)
    softplus = np.log1p(np.exp(raw)) + 0.001
    return close(found, np.exp(raw / 2) if session.choices["scale"] == "log_var" else softplus)


def divergence(session: Session) -> bool:
    """The divergence to the prior, eq. (3)."""
    mean, std = session.normal(30, LATENTS), session.uniform(0.2, 2, 30, LATENTS)
    m, s = prior(session)
    each = math.log(s) - np.log(std) + (std**2 + (mean - m) ** 2) / (2 * s**2) - 0.5
    return close(session.call("kl", mean, std)[0], each.sum(1))


def likelihood(session: Session) -> bool:
    """The log-likelihood of pixels, eq. (4)."""
    kind, out = session.choices["likelihood"], session.normal(20, PIXELS)
    x = session.normal(20, PIXELS)
    if kind == "bernoulli":
        x = (x > 0).astype(float)
        right = -(x * np.log1p(np.exp(-out)) + (1 - x) * np.log1p(np.exp(out))).sum(1)
    elif kind == "gaussian":
        right = log_normal(x, out, NOISE_STD)
    else:
        right = (-np.abs(x - out) / NOISE_SCALE - math.log(2 * NOISE_SCALE)).sum(1)
    return close(session.call("log_likelihood", x, out)[0], right)


def codes(session: Session) -> bool:
    """A code, eq. (2), and the gradients through it."""
    mean, std, eps = session.normal(6, 8), session.uniform(0.5, 2, 6, 8), session.normal(6, 8)
    force = session.normal(6, 8)
    given = {"mean": mean, "std": std, "eps": eps, "force": force}
    found = session.ask({"op": "drawn"}, given)
    right = [mean + std * eps, force, force * eps]
    return len(found) == 3 and all(map(close, found, right))


@dataclass(frozen=True)
class Linear:
    """A linear model of unit noise, and a guess of its posterior.

    Attributes:
        x: pixels, (B, 64).
        columns: of the decoder, (64, 8), orthogonal: the posterior's coordinates are independent.
        mean: of the posterior, (B, 8).
        std: of the posterior, (B, 8).
        log_p: exact log-likelihood of x.
    """

    x: np.ndarray
    columns: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    log_p: np.ndarray

    def arrays(self, eps: np.ndarray) -> dict[str, np.ndarray]:
        """For the worker."""
        given = {"x": self.x, "columns": self.columns, "mean": self.mean, "std": self.std}
        return {**given, "eps": eps}

    def log_likelihood(self, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes, drawn in a made-up way that the worker knows, and log p(x|z)."""
        z = np.cos(self.mean) + self.std * np.sin(eps)
        return z, log_normal(self.x, z @ self.columns.T, 1.0)


def linear(session: Session) -> Linear:
    """A fresh one, with its exact posterior."""
    (m, s), x = prior(session), session.normal(12, PIXELS)
    columns = np.linalg.qr(session.normal(PIXELS, LATENTS))[0] * session.uniform(0.5, 2, LATENTS)
    precision = 1 / s**2 + (columns**2).sum(0)
    mean = (m / s**2 + x @ columns) / precision
    gap, covariance = x - columns @ np.full(LATENTS, m), np.eye(PIXELS)
    covariance = covariance + s**2 * columns @ columns.T
    log_p = -0.5 * (gap @ np.linalg.inv(covariance) * gap).sum(1)
    log_p = log_p - 0.5 * (np.linalg.slogdet(covariance)[1] + PIXELS * math.log(2 * math.pi))
    return Linear(x, columns, mean, np.broadcast_to(precision**-0.5, mean.shape).copy(), log_p)


def bound_parts(session: Session) -> bool:
    """Both parts of the bound, eq. (5), with a known divergence."""
    model, eps = linear(session), session.normal(12, LATENTS)
    found = session.ask({"op": "bound_parts"}, model.arrays(eps))
    right = [model.log_likelihood(eps)[1], (model.mean * model.std).sum(1)]
    return len(found) == 2 and all(map(close, found, right))


def exact_bound(session: Session) -> bool:
    """With the exact posterior the importance bound is log p(x), whatever the codes."""
    model = linear(session)
    (found,) = session.ask({"op": "importance_bound"}, model.arrays(session.normal(5, 12, LATENTS)))
    return close(found, model.log_p)


def importance_bound(session: Session) -> bool:
    """The importance bound of a posterior that is off, eq. (6)."""
    model, (m, s) = linear(session), prior(session)
    model = replace(model, mean=model.mean + 0.3 * session.normal(12, 8), std=1.3 * model.std)
    eps = session.normal(7, 12, LATENTS)
    z, log_w = model.log_likelihood(eps)
    log_w = log_w + log_normal(z, m, s) - log_normal(z, model.mean, model.std)
    (found,) = session.ask({"op": "importance_bound"}, model.arrays(eps))
    return close(found, np.logaddexp.reduce(log_w, 0) - math.log(7))


def loss(session: Session) -> bool:
    """The loss, eq. (7), of known parts."""
    log_lik, kl = session.normal(9) - 5, session.normal(9)
    (found,) = session.ask({"op": "loss"}, {"log_lik": log_lik, "kl": kl})
    return close(found, (kl - log_lik).mean())


def decoded(session: Session) -> bool:
    """Codes of the prior are decoded."""
    (m, s), eps, columns = prior(session), session.normal(9, LATENTS), session.normal(PIXELS, 8)
    (found,) = session.ask({"op": "decoded"}, {"normal": eps, "columns": columns})
    return close(found.reshape(len(found), -1), (m + s * eps) @ columns.T)


def digits(random: np.random.Generator, choices: Mapping[str, Any]) -> SampleTest:
    """Digits that nobody has seen so; they are binarized for a Bernoulli likelihood."""
    x, _ = turned_digits(random)
    if choices["likelihood"] == "bernoulli":
        x = np.where(x > 0, 1.0, -1.0)
    return SampleTest(x[:997], x[997:], chamfer)


def trained(session: Session) -> float:
    """Trained on digits that nobody has seen so, its samples look like them."""
    return trained_on(session, digits(session.random, session.choices))


TESTS = {
    "kl": (deviations, divergence),
    "likelihood": (likelihood,),
    "bounds": (codes, bound_parts, exact_bound, importance_bound, loss),
    "samples": (decoded, trained),
}
SAMPLES = digits
"""What the test of samples and the leaderboard train on and judge by."""
