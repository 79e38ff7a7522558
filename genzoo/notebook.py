"""Jupyter and Colab: live progress, and tables as pandas has them. Needs neither to import."""

from __future__ import annotations

import html
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from genzoo.errors import InputError
from genzoo.progress import Progress, Silent

REFRESH_SECONDS = 0.2
NOTES = 8
"""Most lines of notes that stay in view."""


def listener(progress: Progress | None) -> Progress:
    """The listener that was brought, else a live one in a notebook, else a silent one."""
    if progress is not None:
        return progress
    return NotebookProgress() if in_notebook() else Silent()


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, which shows HTML."""
    loaded = sys.modules.get("IPython")
    return hasattr(loaded.get_ipython(), "kernel") if loaded is not None else False


class NotebookProgress:
    """A bar a task under the running cell; what is done goes away, notes stay."""

    def __init__(self) -> None:
        """Nothing is shown until there is something to tell."""
        self._tasks: dict[str, tuple[float, str]] = {}
        self._notes: list[str] = []
        self._display: Any = None
        self._shown_at = 0.0

    def note(self, message: str) -> None:
        """A line worth keeping."""
        self._notes = [*self._notes, message][-NOTES:]
        self._show()

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        """Move a bar; at 1 it is taken away."""
        if fraction >= 1:
            self._tasks.pop(task, None)
        else:
            self._tasks[task] = (max(fraction, 0.0), detail)
        if fraction >= 1 or time.monotonic() >= self._shown_at + REFRESH_SECONDS:
            self._show()

    def _show(self) -> None:
        display = importlib.import_module("IPython.display")
        content = display.HTML(self._html())
        if self._display is None:
            self._display = display.display(content, display_id=True)
        else:
            self._display.update(content)
        self._shown_at = time.monotonic()

    def _html(self) -> str:
        rows = [
            f'<div><label>{html.escape(task)} <progress value="{fraction:.3f}" max="1" '
            f'style="vertical-align:middle"></progress></label> {fraction:.0%} '
            f"{html.escape(detail)}</div>"
            for task, (fraction, detail) in self._tasks.items()
        ]
        notes = [f"<div>{html.escape(note)}</div>" for note in self._notes]
        return f'<div role="status">{"".join(notes + rows)}</div>'


def frame(content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
    """A ``pandas.DataFrame`` of columns by name, or with a row a mapping.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise InputError("frame() needs pandas; install it with: pip install pandas") from error
    return pandas.DataFrame(content)
