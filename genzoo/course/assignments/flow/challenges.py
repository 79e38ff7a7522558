"""A normalizing flow: the grader's own arithmetic on fresh weights, and fresh data. NumPy alone."""

from __future__ import annotations

import math

import numpy as np

from genzoo.course.grading.judge import (
    Session,
    close,
    points_of_a_mixture,
    share,
    trained_on_points,
)

WIDTH = 64
SHAPES = ((WIDTH, 1), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (2, WIDTH), (2,))


def weights(session: Session) -> dict[str, np.ndarray]:
    """Random weights of a coupling's network."""
    return {
        f"w{i}": 0.5 * session.normal(*shape) / math.sqrt(shape[-1])
        for i, shape in enumerate(SHAPES)
    }


def network(given: dict[str, np.ndarray], kept: np.ndarray, scale: str) -> np.ndarray:
    """Log s and t, (B, 2)."""
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


def transform(given: dict[str, np.ndarray], x: np.ndarray, kept: int, scale: str) -> np.ndarray:
    """Eq. (2)."""
    log_scale, shift = network(given, x[:, kept], scale).T
    out = x.copy()
    out[:, 1 - kept] = np.exp(log_scale) * x[:, 1 - kept] + shift
    return out


def coupling(session: Session, function: str, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """What a function of a fresh coupling says, and x or f(x) as it should be."""
    given, x = weights(session), session.normal(40, 2)
    z = transform(given, x, kept, session.choices["scale"])
    asked = {"op": "coupling", "kept": kept, "function": function}
    at, right = (z, x) if function == "inverse" else (x, z)
    (found,) = session.ask(asked, {**given, "x": at})
    if function == "log_det":
        right = _log_slope(given, x, kept, session.choices["scale"])
    return found, right


def _log_slope(given: dict[str, np.ndarray], x: np.ndarray, kept: int, scale: str) -> np.ndarray:
    """Log |df/dx| of the changed coordinate, by central differences."""
    step = np.zeros(2)
    step[1 - kept] = 1e-5
    ends = [transform(given, x + s * step, kept, scale)[:, 1 - kept] for s in (1, -1)]
    return np.asarray(np.log((ends[0] - ends[1]) / 2e-5))


def transforms(session: Session) -> float:
    """A coupling of either kind transforms by eq. (2)."""
    return share([close(*coupling(session, "transform", kept)) for kept in (0, 1)])


def inverse(session: Session) -> float:
    """The inverse undoes it."""
    return share([close(*coupling(session, "inverse", kept)) for kept in (0, 1)])


def log_det(session: Session) -> float:
    """The log-determinant is what finite differences say."""
    return share([close(*coupling(session, "log_det", kept)) for kept in (0, 1)])


def log_base(z: np.ndarray, kind: str) -> np.ndarray:
    """Eq. (4), summed over the coordinates."""
    if kind == "normal":
        return np.asarray((-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(1))
    if kind == "logistic":
        return np.asarray((-z - 2 * np.log1p(np.exp(-z))).sum(1))
    return np.asarray((-np.abs(z) - math.log(2)).sum(1))


def base(session: Session) -> bool:
    """The noise's log-density, eq. (4)."""
    z = 2 * session.normal(50, 2)
    return close(session.ask({"op": "base"}, {"z": z})[0], log_base(z, session.choices["base"]))


def known_chain(session: Session) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Known couplings and points; where they are carried, and the sum of log-determinants."""
    known = {"shifts": session.normal(4, 2), "slopes": session.uniform(0.5, 2.0, 4, 1)}
    x = session.normal(60, 2)
    state, total = x.copy(), np.zeros(len(x))
    for shift, slope in zip(known["shifts"], known["slopes"], strict=True):
        total += (state * shift).sum(1)
        state = slope * state + shift
    return {**known, "x": x}, state, total


def chain(session: Session) -> bool:
    """The density of known couplings, eq. (5)."""
    known, state, total = known_chain(session)
    return close(session.ask({"op": "chain"}, known)[0], total - (state**2).sum(1))


def carried(session: Session) -> bool:
    """Noise is carried back through known couplings."""
    known, state, _ = known_chain(session)
    return close(session.ask({"op": "carried"}, {**known, "z": state})[0], known["x"])


def loss(session: Session) -> bool:
    """The loss, eq. (6), of known densities."""
    log_density = session.normal(60)
    given = {"x": session.normal(60, 2), "log_density": log_density}
    return close(session.ask({"op": "loss"}, given)[0], -log_density.mean())


def trained(session: Session) -> float:
    """Trained on a mixture that nobody has seen before, its samples look like it."""
    return trained_on_points(session)


TESTS = {
    "inverse": (transforms, inverse),
    "log-det": (log_det,),
    "density": (base, chain, loss, carried),
    "samples": (trained,),
}
SAMPLES = points_of_a_mixture
"""What the test of samples and the leaderboard train on and judge by."""
