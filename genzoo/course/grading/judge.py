"""A test group's session with its worker, and how answers are judged. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from genzoo.course.grading.protocol import Broken
from genzoo.course.grading.sandbox import Worker


class Refused(Exception):
    """The student's function raised, in the student's words."""


@dataclass
class Session:
    """What a test has: a worker, random numbers, the variant, and thresholds.

    Attributes:
        worker: serves the submission.
        random: of the challenges; its seed is in the audit.
        choices: of the variant.
        thresholds: the bundle's ``hidden/thresholds.toml``.
        notes: for the audit.
    """

    worker: Worker
    random: np.random.Generator
    choices: Mapping[str, Any]
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def ask(
        self,
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        oracle: Oracle | None = None,
    ) -> list[np.ndarray]:
        """The arrays that an operation of the adapter answers, at least one.

        Args:
            header: the operation's name as ``op``, and its numbers.
            arrays: its inputs.
            oracle: answers what the student's code asks on its way.

        Raises:
            Refused: the student's function raised.
            Broken: the worker ended, or answered with something else.
        """
        found, values = self.worker.ask(header, arrays)
        asked = 0
        while "oracle" in found and oracle is not None:
            asked += 1
            if asked > MAX_QUESTIONS:
                raise Broken(f"more than {MAX_QUESTIONS:,} questions")
            found, values = self.worker.ask({}, oracle(values))
        if "error" in found:
            raise Refused(plain(str(found["error"]), 300))
        if "0" not in values:
            raise Broken("an answer without a value")
        return [values[str(i)] for i in range(len(values)) if str(i) in values]

    def call(self, function: str, *arguments: Any) -> list[np.ndarray]:
        """What a function of the student's file returns: arrays and numbers are its arguments."""
        arrays = {f"a{i}": a for i, a in enumerate(arguments) if isinstance(a, np.ndarray)}
        told = [f"a{i}" if f"a{i}" in arrays else a for i, a in enumerate(arguments)]
        return self.ask({"op": "call", "function": function, "arguments": told}, arrays)

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal numbers."""
        return self.random.standard_normal(shape)

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Uniform numbers."""
        return self.random.uniform(low, high, shape)

    def seed(self) -> int:
        """For the worker."""
        return int(self.random.integers(1 << 30))

    def note(self, text: str) -> None:
        """Something for the instructor's eyes."""
        self.notes.append(text)


def plain(text: str, length: int) -> str:
    """A student's words without what moves a terminal's cursor or hides what stands before."""
    kept = "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return kept if len(kept) <= length else kept[: length - 1] + "…"


MAX_QUESTIONS = 20_000
Oracle = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
Part = Callable[[Session], float | bool]
"""Returns a share of its points; its docstring's first line is what the result says of it."""
Test = Sequence[Part]
"""Parts of equal weight. What raises in one of them costs that part alone."""


def close(found: np.ndarray, right: np.ndarray | float, tolerance: float = 1e-5) -> bool:
    """Whether all numbers are right, relative to their size; float32's rounding is forgiven."""
    right = np.asarray(right, dtype=float)
    if found.shape != right.shape or not np.isfinite(found).all():
        return False
    return bool(np.abs(found - right).max() <= tolerance * (1 + np.abs(right).max()))


def share(parts: Sequence[float]) -> float:
    """How many hold, or their mean."""
    return float(np.mean(parts))


def between(found: float, none: float, full: float) -> float:
    """A share of points: 0 at `none`, 1 at `full`, a line between; either may be the larger."""
    return float(np.clip((found - none) / (full - none), 0, 1)) if math.isfinite(found) else 0.0


def slopes(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, h: float = 1e-5
) -> np.ndarray:
    """Derivatives of a number an item by its coordinates, (B, D), by central differences."""
    found = np.empty(x.shape)
    for i in range(x.shape[1]):
        step = np.zeros(x.shape[1])
        step[i] = h
        found[:, i] = (function(x + step) - function(x - step)) / (2 * h)
    return found


def mixture_of(random: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Points of four clouds that nobody has seen before, standardized.

    Returns:
        A function of a number of points, (N, 2).
    """
    angle, far = random.uniform(0, 2 * math.pi), random.uniform(1.0, 1.8, 4)
    turned = angle + np.array([0.0, 0.5, 1.0, 1.5]) * math.pi + random.uniform(-0.3, 0.3, 4)
    centers = far[:, None] * np.stack([np.cos(turned), np.sin(turned)], 1)
    spread = random.uniform(0.1, 0.25, 4)
    mean, std = centers.mean(0), np.sqrt(centers.var(0) + (spread**2).mean())

    def points(count: int) -> np.ndarray:
        chosen = random.integers(0, 4, count)
        moved = centers[chosen] + spread[chosen, None] * random.standard_normal((count, 2))
        return np.asarray((moved - mean) / std)

    return points


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of each row to the nearest of the other set, the mean of both directions."""
    apart = cdist(a, b)
    return float(apart.min(1).mean() + apart.min(0).mean()) / 2


def gaussians_share(
    drawn: np.ndarray,
    train: np.ndarray,
    fresh: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], float],
    random: np.random.Generator,
) -> float:
    """How far samples are from fresh data: 0 as real data are, 1 as one fitted Gaussian is.

    Args:
        drawn: samples, (N, D).
        train: what the model was trained on, at least N rows.
        fresh: data of the same law, (N, D).
        distance: of two sets of N rows.
        random: of the Gaussian.

    Returns:
        Infinite if the samples have another shape or are not finite, or if they are `copies`.
    """
    unusable = drawn.shape != fresh.shape or not np.isfinite(drawn).all()
    if unusable or copies(drawn, train, fresh):
        return math.inf
    fitted = random.multivariate_normal(train.mean(0), np.cov(train, rowvar=False), len(fresh))
    fitted = fitted.clip(train.min(0), train.max(0))
    floor, gaussian = distance(train[: len(fresh)], fresh), distance(fitted, fresh)
    return (distance(drawn, fresh) - floor) / (gaussian - floor)


NEARER = 0.85
"""Honest models have about one half; copies with a little noise nearly 1."""
CLOSE, OFTEN = 0.2, 0.25
"""As a share of the usual distance between real data. Points of the plane are this close to any of
both sets in 5 of 100 cases, images practically never."""


def copies(drawn: np.ndarray, train: np.ndarray, fresh: np.ndarray) -> str:
    """Of what the samples are copies; empty if they are none.

    They are if more than `NEARER` of them lie nearer to one set than to the other, or if more than
    `OFTEN` of them lie on an item of either set: a public dataset can be copied without being sent.

    Args:
        drawn: samples, (N, D).
        train: what the model was trained on.
        fresh: data of the same law that the model has not seen.
    """
    near = slice(0, 1000)
    to_train, to_fresh = (cdist(drawn[near], x).min(1) for x in (train, fresh))
    if (to_train < to_fresh).mean() > NEARER:
        return "training data"
    if (to_fresh < to_train).mean() > NEARER:
        return "test data"
    usual = np.median(cdist(fresh[near], train).min(1))
    lying_on = np.minimum(to_train, to_fresh) < CLOSE * usual
    return "training and test data" if lying_on.mean() > OFTEN else ""


@dataclass(frozen=True)
class SampleTest:
    """What a test of samples has: it trains on one set, and judges by another.

    Attributes:
        train: items that are sent to the worker.
        fresh: items of the same law that are not; as many samples are drawn.
        distance: of two sets of flat rows.
    """

    train: np.ndarray
    fresh: np.ndarray
    distance: Callable[[np.ndarray, np.ndarray], float]

    def drawn(self, session: Session) -> np.ndarray:
        """Samples of the hand-in's model, trained in the worker."""
        steps, n = session.thresholds["samples"]["steps"], len(self.fresh)
        asked = {"op": "train", "steps": steps, "n": n, "seed": session.seed()}
        return session.ask(asked, {"x": self.train})[0]

    def judged(self, drawn: np.ndarray, random: np.random.Generator) -> tuple[float, str]:
        """`gaussians_share` of samples, or infinity and the reason why they have none.

        Args:
            drawn: samples.
            random: of the Gaussian.
        """
        if drawn.shape != self.fresh.shape:
            return math.inf, f"samples of shape {drawn.shape}, not {self.fresh.shape}"
        if not np.isfinite(drawn).all():
            return math.inf, "samples that are not finite"
        flat, train, fresh = (x.reshape(len(x), -1) for x in (drawn, self.train, self.fresh))
        copied = copies(flat, train, fresh)
        if copied:
            return math.inf, f"{COPIES_OF}{copied}"
        found = gaussians_share(flat, train, fresh, self.distance, random)
        if found < TOO_NEAR:
            return math.inf, f"{COPIES_OF}test data with noise: nearer to it than real data are"
        return found, ""


TOO_NEAR = -0.5
"""Only copies get so far below 0, real data; blurred digits get to -0.15."""
COPIES_OF = "copies of the "
DrawTest = Callable[[np.random.Generator, Mapping[str, Any]], SampleTest]
"""Draws fresh data for a variant's choices: ``SAMPLES`` of a bundle's challenges."""


def points_of_a_mixture(random: np.random.Generator, choices: Mapping[str, Any]) -> SampleTest:
    """Points of a mixture that nobody has seen before."""
    points, n = mixture_of(random), 4000
    return SampleTest(points(n), points(n), sliced_wasserstein)


def turned_digits(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Digits as nobody has seen them: turned, mirrored, shifted, and in another order of labels.

    Returns:
        Images in [-1, 1], (1797, 1, 8, 8), shuffled, and labels 0 to 9.
    """
    from sklearn.datasets import load_digits

    x, label = load_digits(return_X_y=True)
    images = (x / 8 - 1).reshape(-1, 8, 8)
    images = np.rot90(images, int(random.integers(4)), (1, 2))
    images = images[:, :: random.choice((-1, 1)), :]
    images = np.roll(images, random.integers(-2, 3, 2), (1, 2))
    order = random.permutation(len(images))
    renamed = random.permutation(10)[label]
    return np.ascontiguousarray(images[order])[:, None], renamed[order]


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, directions: int = 60) -> float:
    """Mean distance of the sorted projections of equally many points of the plane, (N, 2) each."""
    angle = math.pi * np.arange(directions) / directions
    w = np.stack([np.cos(angle), np.sin(angle)])
    return float(np.abs(np.sort(a @ w, axis=0) - np.sort(b @ w, axis=0)).mean())


def trained_on(session: Session, test: SampleTest) -> float:
    """A share of the points for samples of a model that the worker trains on fresh data."""
    law = session.thresholds["samples"]
    found, why = test.judged(test.drawn(session), session.random)
    session.note(why or f"{found:.3f} of a Gaussian's distance")
    return between(found, law["none"], law["full"])


def trained_on_points(session: Session) -> float:
    """`trained_on` a fresh mixture."""
    return trained_on(session, points_of_a_mixture(session.random, session.choices))
