"""Flow matching: the grader is the velocity, and counts how often it is asked. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from genzoo.course.grading.judge import (
    Session,
    close,
    points_of_a_mixture,
    share,
    slopes,
    trained_on_points,
)


def weights(path: str, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of noise and data on the path at times t, eq. (1)."""
    if path == "straight":
        return 1 - t, t
    return np.cos(math.pi * t / 2), np.sin(math.pi * t / 2)


def point(kind: str, x0: np.ndarray, x1: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Eq. (1)."""
    a, b = weights(kind, t)
    return np.asarray(a[:, None] * x0 + b[:, None] * x1)


def pairs(session: Session) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, data and times."""
    return session.normal(30, 2), session.normal(30, 2), session.uniform(0.05, 0.95, 30)


def path(session: Session) -> bool:
    """Points on the path, eq. (1)."""
    x0, x1, t = pairs(session)
    found = session.call("path_point", x0, x1, t)[0]
    return close(found, point(session.choices["path"], x0, x1, t))


def target(session: Session) -> bool:
    """Their velocities, eq. (2), by finite differences."""
    x0, x1, t = pairs(session)
    ends = [point(session.choices["path"], x0, x1, t + h) for h in (1e-5, -1e-5)]
    return close(session.call("target_velocity", x0, x1, t)[0], (ends[0] - ends[1]) / 2e-5)


def times(session: Session) -> bool:
    """Times, eq. (3)."""
    if session.choices["time"] == "uniform":
        numbers = session.uniform(0, 1, 20)
        return close(session.call("times", numbers)[0], (np.arange(20) + numbers) / 20)
    numbers = session.normal(20)
    return close(session.call("times", numbers)[0], 1 / (1 + np.exp(-numbers)))


def errors(session: Session) -> bool:
    """Errors, eq. (4), of a known network on known paths."""
    (x0, x1, t), slope = pairs(session), session.normal(1)
    (found,) = session.ask({"op": "errors"}, {"x0": x0, "x1": x1, "t": t, "slope": slope})
    # Known: the path is x0 + 2 t x1, its velocity x1 - 3 x0, and the network says s · x + t.
    said = slope * (x0 + 2 * t[:, None] * x1) + t[:, None]
    return close(found, ((said - (x1 - 3 * x0)) ** 2).sum(1))


class Field:
    """A velocity that changes with place and time."""

    def __init__(self, session: Session) -> None:
        """Fresh weights."""
        self.a, self.b, self.c = session.normal(2, 4), session.normal(4), session.normal(4, 2) / 2

    def __call__(self, x: np.ndarray, t: float) -> np.ndarray:
        """(B, 2) to (B, 2)."""
        return np.asarray(np.tanh(x @ self.a + t * self.b) @ self.c)

    def weights(self) -> dict[str, np.ndarray]:
        """As arrays."""
        return {"a": self.a, "b": self.b, "c": self.c}

    def step(self, kind: str, x: np.ndarray, t: float, h: float) -> np.ndarray:
        """Eqs. (5) and (6)."""
        first = self(x, t)
        if kind == "euler_step":
            return x + h * first
        return np.asarray(x + h / 2 * (first + self(x + h * first, t + h)))


Answer = dict[str, np.ndarray]


def one_step(session: Session, kind: str, evaluations: int) -> bool:
    """One step of a kind, and how often the velocity is asked for."""
    field, x, asked = Field(session), session.normal(10, 2), list[float]()

    def says(arrays: Mapping[str, np.ndarray]) -> Answer:
        asked.append(float(arrays["t"]))
        return {"out": field(np.asarray(arrays["x"], dtype=float), asked[-1])}

    t, h = float(session.uniform(0, 1)), float(session.uniform(-0.3, 0.3))
    (found,) = session.ask({"op": "step", "function": kind, "t": t, "h": h}, {"x": x}, says)
    return close(found, field.step(kind, x, t, h)) and len(asked) == evaluations


def all_steps(session: Session, begin: float, end: float) -> bool:
    """All steps, each by a known rule: x + h (v(x, t) + t)."""
    field, x, asked = Field(session), session.normal(10, 2), list[float]()

    def rule(x: np.ndarray, t: float, h: float) -> np.ndarray:
        return x + h * (field(x, t) + t)

    def says(arrays: Mapping[str, np.ndarray]) -> Answer:
        t, h = float(arrays["t"]), float(arrays["h"])
        asked.append(t)
        return {"out": rule(np.asarray(arrays["x"], dtype=float), t, h)}

    count = int(session.random.integers(3, 9))
    request = {"op": "integrate", "begin": begin, "end": end, "steps": count}
    (found,) = session.ask(request, {"x": x}, says)
    h = (end - begin) / count
    for i in range(count):
        x = rule(x, begin + i * h, h)
    return close(found, x) and len(asked) == count


def euler(session: Session) -> bool:
    """Euler's step, eq. (5), along the grader's velocity, asked for once."""
    return one_step(session, "euler_step", 1)


def heun(session: Session) -> bool:
    """Heun's step, eq. (6), along the grader's velocity, asked for twice."""
    return one_step(session, "heun_step", 2)


def integrate(session: Session) -> float:
    """All steps, eq. (7), forth and back, by the grader's rule."""
    return share([all_steps(session, 0.0, 1.0), all_steps(session, 0.9, 0.2)])


def rates(session: Session) -> bool:
    """The change of log p, eq. (8), by finite differences."""
    field, x, t = Field(session), session.normal(25, 2), float(session.uniform(0, 1))
    (found,) = session.ask({"op": "rates", "t": t}, {**field.weights(), "x": x})
    spread = slopes(lambda at: field(at, t)[:, 0], x)[:, 0]
    spread = spread + slopes(lambda at: field(at, t)[:, 1], x)[:, 1]
    return close(found, np.concatenate([field(x, t), -spread[:, None]], 1), 1e-4)


def noise(session: Session) -> bool:
    """The noise of this variant."""
    normal, uniform = session.normal(25, 2), session.uniform(0, 1, 25, 2)
    corners = np.where(uniform < 0.5, -0.8, 0.8) + 0.6 * normal
    right = corners if session.choices["noise"] == "corners" else normal
    return close(session.call("start", normal, uniform)[0], right)


def stretched(session: Session) -> bool:
    """The density, eq. (9), at the end of a field that stretches."""
    # A velocity of (s_1 x_1, s_2 x_2): log p_1(x) = log p_0(x e^-s) - s_1 - s_2.
    x, s = session.normal(25, 2), session.uniform(-0.6, 0.6, 2)
    (found,) = session.ask({"op": "log_density"}, {"x": x, "stretch": s})
    right = log_noise(x * np.exp(-s), session.choices["noise"] == "corners") - s.sum()
    return close(found, right, 1e-3)


def density(session: Session) -> bool:
    """The change of log p, eq. (8); the given noise and density, eq. (9), are as they were."""
    return rates(session) and noise(session) and stretched(session)


def log_noise(x: np.ndarray, corners: bool) -> np.ndarray:
    """Log p_0, summed over the coordinates."""
    if not corners:
        return np.asarray((-0.5 * x**2 - 0.5 * math.log(2 * math.pi)).sum(1))
    each = [np.exp(-0.5 * ((x + s) / 0.6) ** 2) for s in (-0.8, 0.8)]
    return np.asarray(np.log((each[0] + each[1]) / (2 * 0.6 * math.sqrt(2 * math.pi))).sum(1))


def trained(session: Session) -> float:
    """Trained on a mixture that nobody has seen before, its samples look like it."""
    return trained_on_points(session)


TESTS = {
    "paths": (path, target, times, errors),
    "steps": (euler, heun, integrate),
    "density": (density,),
    "samples": (trained,),
}
SAMPLES = points_of_a_mixture
"""What the test of samples and the leaderboard train on and judge by."""
