"""A normalizing flow: finite differences, integrals and fresh data."""

from __future__ import annotations

import math

import numpy as np

from genzoo.course.grading.judge import Session, close, share, sliced_wasserstein

WIDTH = 64
SHAPES = ((WIDTH, 1), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (2, WIDTH), (2,))
STEPS = 1200
FAR, NEAR = 0.35, 0.16
"""Sliced Wasserstein distances without points and with all of them; real data have about .06."""


def weights(session: Session, prefix: str = "w", size: float = 0.5) -> dict[str, np.ndarray]:
    """Random weights of a coupling's network."""
    return {
        f"{prefix}{i}": size * session.random.standard_normal(shape) / math.sqrt(shape[-1])
        for i, shape in enumerate(SHAPES)
    }


def network(given: dict[str, np.ndarray], kept: np.ndarray, scale: str) -> np.ndarray:
    """Log s and t, (B, 2), by the grader's own arithmetic."""
    h = kept[:, None]
    for i in (0, 2, 4):
        h = h @ given[f"w{i}"].T + given[f"w{i + 1}"]
        h = h / (1 + np.exp(-h)) if i < 4 else h
    a, shift = h.T
    log_scale = {
        "exp": 2 * np.tanh(a / 2),
        "softplus": np.log(np.log1p(np.exp(a + math.log(math.e - 1)))),
        "sigmoid": math.log(2) - np.log1p(np.exp(-a)),
    }[scale]
    return np.stack([log_scale, shift], 1)


def inverse(session: Session) -> float:
    """transform(x) is right, and inverse undoes it, for both kinds of couplings."""
    found = []
    for kept in (0, 1):
        given, x = weights(session), session.random.standard_normal((40, 2))
        log_scale, shift = network(given, x[:, kept], session.choices["scale"]).T
        right = x.copy()
        right[:, 1 - kept] = np.exp(log_scale) * x[:, 1 - kept] + shift
        how = {"op": "coupling", "kept": kept}
        forth = session.ask({**how, "function": "transform"}, {**given, "x": x})
        back = session.ask({**how, "function": "inverse"}, {**given, "x": right})
        found += [close(forth, right, 1e-6), close(back, x, 1e-6)]
    return share(found)


def log_det(session: Session) -> float:
    """log_det is what finite differences of the right map say."""
    found = []
    for kept in (0, 1):
        given, x = weights(session), session.random.standard_normal((40, 2))
        right = network(given, x[:, kept], session.choices["scale"])[:, 0]
        asked = {"op": "coupling", "kept": kept, "function": "log_det"}
        found.append(close(session.ask(asked, {**given, "x": x}), right, 1e-6))
    return share(found)


def log_base(z: np.ndarray, kind: str) -> np.ndarray:
    """Eq. (4), summed over the coordinates."""
    if kind == "normal":
        return np.asarray((-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(1))
    if kind == "logistic":
        return np.asarray((-z - 2 * np.log1p(np.exp(-z))).sum(1))
    return np.asarray((-np.abs(z) - math.log(2)).sum(1))


def density(session: Session) -> float:
    """The noise's density, and the density of a random flow, by the grader's own chain."""
    base, scale = session.choices["base"], session.choices["scale"]
    z = 2 * session.random.standard_normal((50, 2))
    first = close(session.ask({"op": "base"}, {"z": z}), log_base(z, base), 1e-5)
    kept = [int(k) for k in session.random.integers(0, 2, 4)]
    parts = [weights(session, size=0.4) for _ in kept]
    x = session.random.standard_normal((60, 2))
    state, total = x.copy(), np.zeros(len(x))
    for k, given in zip(kept, parts, strict=True):
        log_scale, shift = network(given, state[:, k], scale).T
        state[:, 1 - k] = np.exp(log_scale) * state[:, 1 - k] + shift
        total += log_scale
    sent = {f"c{i}{name}": w for i, part in enumerate(parts) for name, w in part.items()}
    found = session.ask({"op": "density", "kept": kept}, {**sent, "x": x})
    return share([first, close(found, log_base(state, base) + total, 1e-5)])


def samples(session: Session) -> float:
    """Trained on a mixture that nobody has seen before, its samples look like it."""
    random = session.random
    centers = random.uniform(-1.6, 1.6, (4, 2))
    spread = random.uniform(0.15, 0.35, 4)

    def points(n: int) -> np.ndarray:
        chosen = random.integers(0, 4, n)
        return centers[chosen] + spread[chosen, None] * random.standard_normal((n, 2))

    asked = {
        "op": "train_and_draw",
        "steps": STEPS,
        "n": 1000,
        "seed": int(random.integers(1 << 30)),
    }
    drawn = session.ask(asked, {"x": points(5000)})
    if drawn.shape != (1000, 2):
        return 0.0
    distance = sliced_wasserstein(drawn, points(1000), random)
    session.note(f"sliced Wasserstein distance {distance:.3f}")
    return float(np.clip((FAR - distance) / (FAR - NEAR), 0, 1))


TESTS = {"inverse": inverse, "log-det": log_det, "density": density, "samples": samples}
