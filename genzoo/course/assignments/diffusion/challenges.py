"""A diffusion model: the grader is the denoiser, of a mixture that it knows. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from genzoo.course.grading.judge import Session, close, share

SHAPE = (1, 8, 8)


def alpha_bar(schedule: str, T: int) -> np.ndarray:
    """Eq. (1) at t = 0 … T."""
    t = np.arange(T + 1)
    if schedule == "linear":
        betas = np.linspace(0.0001, 0.02, T) * 1000 / T
        return np.concatenate([[1.0], np.cumprod(1 - betas)])
    if schedule == "cosine":
        f = np.cos(math.pi / 2 * (t / T + 0.008) / 1.008) ** 2
        return np.asarray(np.maximum(f / f[0], 0.0001))
    s = 1 / (1 + np.exp(6 * t / T - 3))
    low, high = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    return np.asarray(np.maximum((s - low) / (high - low), 0.0001))


def own_schedule(session: Session) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A made-up ᾱ that the student's functions are given, times, and ᾱ at them for images."""
    made = np.sort(session.uniform(0.05, 0.95, session.choices["T"] + 1))[::-1].copy()
    t = session.random.integers(1, session.choices["T"] + 1, 12)
    return made, t, made[t][:, None, None, None]


def spoken(predicts: str, a: np.ndarray, x: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Eq. (3)."""
    if predicts == "noise":
        return eps
    return x if predicts == "image" else np.sqrt(a) * eps - np.sqrt(1 - a) * x


def schedule(session: Session) -> bool:
    """The schedule, eq. (1), at every time."""
    T = session.choices["T"]
    (found,) = session.call("alpha_bar", np.arange(T + 1))
    return close(found, alpha_bar(session.choices["schedule"], T), 1e-4)


def add_noise(session: Session) -> bool:
    """Noisy images, eq. (2), by a made-up schedule."""
    made, t, a = own_schedule(session)
    x, eps = session.normal(12, *SHAPE), session.normal(12, *SHAPE)
    (found,) = session.ask({"op": "add_noise"}, {"schedule": made, "x": x, "t": t, "eps": eps})
    return close(found, np.sqrt(a) * x + np.sqrt(1 - a) * eps)


def target(session: Session) -> bool:
    """The network's target, eq. (3)."""
    made, t, a = own_schedule(session)
    x, eps = session.normal(12, *SHAPE), session.normal(12, *SHAPE)
    (found,) = session.ask({"op": "target"}, {"schedule": made, "x": x, "t": t, "eps": eps})
    return close(found, spoken(session.choices["predicts"], a, x, eps))


def clean(session: Session) -> bool:
    """The clean image that the network's words mean."""
    made, t, a = own_schedule(session)
    x, eps = session.normal(12, *SHAPE), session.normal(12, *SHAPE)
    given = {"schedule": made, "t": t, "x_t": np.sqrt(a) * x + np.sqrt(1 - a) * eps}
    out = spoken(session.choices["predicts"], a, x, eps)
    return close(session.ask({"op": "clean"}, {**given, "out": out})[0], x, 1e-4)


def loss(session: Session) -> bool:
    """The loss, eq. (4), of a known network, noise and target."""
    x, eps, t = session.normal(12, *SHAPE), session.normal(12, *SHAPE), own_schedule(session)[1]
    slope = session.normal(1)
    (found,) = session.ask({"op": "loss"}, {"x": x, "eps": eps, "t": t, "slope": slope})
    # Known: noisy images are x + t ε, targets x - 2 ε, and the network says slope · x_t.
    noisy = x + t[:, None, None, None] * eps
    return close(found, ((slope * noisy - (x - 2 * eps)) ** 2).mean())


def guidance(session: Session) -> float:
    """Guidance, eq. (6), at fresh weights."""
    parts = []
    for weight in session.uniform(1.5, 6, 3):
        c, u = session.normal(8, *SHAPE), session.normal(8, *SHAPE)
        (found,) = session.call("guided", c, u, float(weight))
        parts.append(close(found, u + weight * (c - u)))
    return share(parts)


class Mixture:
    """Two round clouds in the space of images, and what one knows of an image under noise."""

    def __init__(self, session: Session) -> None:
        """Fresh centres and spreads, well inside of [-1, 1]."""
        self.centers = session.uniform(-0.6, 0.6, 2, 64)
        self.std = session.uniform(0.03, 0.08, 2)

    def denoised(self, x_t: np.ndarray, a: float) -> np.ndarray:
        """E[x | x_t], (B, 64), where x_t = sqrt(a) x + sqrt(1 - a) ε."""
        variance = a * self.std**2 + 1 - a
        gap = x_t[:, None] - math.sqrt(a) * self.centers  # (B, 2, 64)
        log_w = -0.5 * (gap**2).sum(2) / variance - 32 * np.log(variance)
        weight = np.exp(log_w - log_w.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        shrunk = (math.sqrt(a) * self.std**2 / variance)[:, None] * gap
        return np.asarray((weight[..., None] * (self.centers + shrunk)).sum(1))

    def spreads(self, x: np.ndarray) -> np.ndarray:
        """How far images are from the centre of their cloud, as a share of its spread, (2,)."""
        apart = ((x[:, None] - self.centers) ** 2).mean(2)
        near = apart.argmin(1)
        if len(np.unique(near)) < 2:
            return np.full(2, np.inf)
        spread = [np.sqrt(apart[near == k, k].mean()) for k in (0, 1)]
        return np.asarray(spread / self.std)


@dataclass(frozen=True)
class Chain:
    """The variant's sampler, by eq. (5).

    Attributes:
        law: of the images.
        a_of: ᾱ at 0 … T.
        times: from T to 0.
        fresh: whether each step has noise of its own.
    """

    law: Mixture
    a_of: np.ndarray
    times: list[int]
    fresh: bool

    def step(self, x_t: np.ndarray, t: int, s: int) -> tuple[np.ndarray, float]:
        """Mean and variance of what comes at time s."""
        a_t, a_s = self.a_of[t], self.a_of[s]
        x = np.clip(self.law.denoised(x_t, a_t), -1, 1)
        implied = (x_t - math.sqrt(a_t) * x) / math.sqrt(1 - a_t)
        variance = (1 - a_s) / (1 - a_t) * (1 - a_t / a_s) if self.fresh else 0.0
        mean = math.sqrt(a_s) * x + math.sqrt(max(0.0, 1 - a_s - variance)) * implied
        return np.asarray(mean), variance

    def run(self, session: Session, n: int) -> np.ndarray:
        """Images of the grader's own, (n, 64)."""
        x = session.normal(n, 64)
        for t, s in pairwise(self.times):
            mean, variance = self.step(x, t, s)
            x = mean + math.sqrt(variance) * session.normal(n, 64)
        return np.asarray(x)

    def follows(self, session: Session, states: list[np.ndarray]) -> bool:
        """Whether each state follows from the one before; fresh noise is standard normal."""
        residuals = []
        for (t, s), x_t, x_s in zip(pairwise(self.times), states, states[1:], strict=False):
            mean, variance = self.step(x_t, t, s)
            if variance > 1e-12:
                residuals.append((x_s - mean) / math.sqrt(variance))
            elif not close(x_s, mean, 1e-3):
                return False
        if not residuals:
            return True
        z = np.stack(residuals)  # (steps, n, 64)
        session.note(f"noise of the steps: mean {z.mean():.4f}, deviation {z.std():.4f}")
        again = np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]
        near = abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02 and abs(again) < 0.02
        return bool(near and (np.abs(z.std((1, 2)) - 1) < 0.06).all())


def sampler(session: Session) -> float:
    """Sampling with the grader's denoiser, step by step, eq. (5).

    A third each: the times and guidance of the questions, the steps between them, and images at
    the end that are as far from their clouds' centres as the grader's own.
    """
    T, law, n = session.choices["T"], Mixture(session), 100
    a_of = alpha_bar(session.choices["schedule"], T)
    steps, weight = int(session.random.integers(20, 41)), float(session.uniform(2, 4))
    times = [round(T * (1 - i / steps)) for i in range(steps + 1)]
    chain = Chain(law, a_of, times, session.choices["sampler"] == "ancestral")
    asked: list[tuple[np.ndarray, int, float]] = []

    def says(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x_t = np.asarray(arrays["x_t"], dtype=float).reshape(n, 64)
        t = int(np.clip(int(arrays["t"].ravel()[0]), 1, T))
        asked.append((x_t, t, float(arrays["weight"])))
        return {"out": law.denoised(x_t, a_of[t]).reshape(n, *SHAPE)}

    request = {"op": "path", "steps": steps, "guidance": weight, "n": n, "seed": session.seed()}
    (end,) = session.ask(request, {"schedule": a_of}, says)
    session.note(f"{len(asked)} evaluations for {steps} steps")
    right = [t for _, t, _ in asked] == times[:-1]
    if end.shape != (n, *SHAPE) or not right or any(abs(w - weight) > 1e-5 for *_, w in asked):
        return 0.0
    states = [*(x_t for x_t, _, _ in asked), end.reshape(n, 64)]
    gap = np.log(law.spreads(states[-1]) / law.spreads(chain.run(session, 2000)))
    session.note(f"spreads are off by {np.abs(gap).max():.3f}")
    return share([1.0, chain.follows(session, states), bool((np.abs(gap) < 0.1).all())])


TESTS = {
    "noise": (schedule, add_noise),
    "parametrization": (target, clean, loss),
    "sampler": (sampler,),
    "guidance": (guidance,),
}
