"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener to work that takes more than two seconds."""

    def note(self, message: str) -> None:
        """A line worth keeping."""

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        """`task` is done to `fraction` in [0, 1]; 1 ends it. `detail` is short free text."""


class Silent:
    """The listener of library calls that did not bring one."""

    def note(self, message: str) -> None:
        """Drop it."""

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        """Drop it."""
