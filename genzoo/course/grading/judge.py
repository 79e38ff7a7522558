"""A test group's session with its worker, and how answers are judged. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genzoo.course.grading.protocol import Broken
from genzoo.course.grading.sandbox import Worker


class Refused(Exception):
    """The student's function raised, in the student's words."""


@dataclass
class Session:
    """What a test has: a worker, random numbers, and the variant.

    Attributes:
        worker: serves the submission.
        random: of the challenges; its seed is in the audit.
        choices: of the variant.
        notes: for the audit.
    """

    worker: Worker
    random: np.random.Generator
    choices: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    def ask(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The array that the student's function answers.

        Raises:
            Refused: it raised.
            Broken: the worker ended, or answered with something else.
        """
        found, values = self.worker.ask(header, arrays)
        if "error" in found:
            raise Refused(str(found["error"])[:300])
        if "value" not in values:
            raise Broken("an answer without a value")
        return np.asarray(values["value"])

    def note(self, text: str) -> None:
        """Something for the instructor's eyes."""
        self.notes.append(text)


Test = Callable[[Session], float]


def close(found: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    """Whether all numbers are right, relative to their size."""
    if found.shape != right.shape or not np.isfinite(found).all():
        return False
    return bool(np.abs(found - right).max() <= tolerance * (1 + np.abs(right).max()))


def share(parts: Sequence[bool]) -> float:
    """How many hold."""
    return sum(parts) / len(parts)


def sliced_wasserstein(
    a: np.ndarray, b: np.ndarray, random: np.random.Generator, directions: int = 100
) -> float:
    """Mean distance of the sorted projections of equally many points, (N, D) each."""
    if a.shape != b.shape or not np.isfinite(a).all():
        return math.inf
    w = random.standard_normal((a.shape[1], directions))
    w /= np.linalg.norm(w, axis=0)
    return float(np.abs(np.sort(a @ w, axis=0) - np.sort(b @ w, axis=0)).mean())
