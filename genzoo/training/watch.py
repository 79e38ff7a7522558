"""Signs of trouble in a training's history that do not stop it, told as they come.

Numbers that are not finite do stop it, see `genzoo.training.loop.Trainer.check`.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

MEMORY = 20  # lines of history that a new one is compared with
FEWEST = 10  # lines before anything is said
SPIKE = 10.0  # deviations above the median
DEAD = 1e-4  # of a phase's usual gradient
DEAD_LINES = 3


class Watch:
    """Reads the lines of a history in order, and says what a person would want to look at."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._losses: dict[str, deque[float]] = {}
        self._norms: dict[str, deque[float]] = {}
        self._dead: dict[str, int] = {}
        self._silent_until: dict[str, int] = {}
        self._lines = 0

    def look(self, line: Mapping[str, Any]) -> list[str]:
        """Notes on a line of `history.jsonl`.

        A loss far above those of the last lines is a spike: ten deviations, which are measured by
        the median, so that earlier spikes do not hide later ones. A phase whose gradient falls to
        a ten-thousandth of the usual for several lines is dead: of a critic, that leaves the
        generator without a teacher.

        Args:
            line: with ``step``, ``loss`` and ``grad_norm``.
        """
        self._lines += 1
        notes = []
        for name, value in line["loss"].items():
            past = self._losses.setdefault(name, deque(maxlen=MEMORY))
            usual = _usual(past)
            if (
                usual is not None
                and value > usual[0] + SPIKE * usual[1]
                and self._may_say(_phase_of(name))
            ):
                notes.append(
                    f"loss spike at step {line['step']}: '{name}' is {value:.4g} after a median "
                    f"of {usual[0]:.4g}; if it does not come down, lower --set lr=..."
                )
            past.append(value)
        for phase, norm in line["grad_norm"].items():
            past = self._norms.setdefault(phase, deque(maxlen=MEMORY))
            usual = _usual(past)
            if usual is None or norm >= DEAD * usual[0]:
                self._dead[phase] = 0
                past.append(norm)  # a dead phase does not make death the usual
                continue
            self._dead[phase] += 1
            if self._dead[phase] == DEAD_LINES:
                notes.append(
                    f"phase '{phase}' is dead since before step {line['step']}: its gradient fell "
                    f"to {norm:.2g} from {usual[0]:.2g}, and what depends on it learns nothing"
                )
        return notes

    def _may_say(self, phase: str) -> bool:
        """Once a phase, whose losses are parts of each other, until what was seen is forgotten."""
        if self._lines < self._silent_until.get(phase, 0):
            return False
        self._silent_until[phase] = self._lines + MEMORY
        return True


def _phase_of(loss: str) -> str:
    return loss.partition("/")[0]


def _usual(past: deque[float]) -> tuple[float, float] | None:
    """Median and deviation (1.48 times the median distance from it; a percent at the least)."""
    if len(past) < FEWEST:
        return None
    median = statistics.median(past)
    spread = 1.4826 * statistics.median(abs(value - median) for value in past)
    return median, max(spread, 0.01 * abs(median))
