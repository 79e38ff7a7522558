"""Stopping on request at a place where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_live: list[Interruption] = []


class Interruption:
    """Listens for Ctrl-C and SIGTERM while it is entered; only the main thread can.

    Inside `deferred`, the first signal only sets `requested`, and a second one raises
    KeyboardInterrupt. Elsewhere the first one does. The handlers that were there before are
    restored at the end.
    """

    def __init__(self) -> None:
        """Nothing was requested."""
        self.requested = False
        self._deferring = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        _live.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the handlers from before."""
        _live.remove(self)
        for number, handler in self._before.items():
            # None: it was not installed from Python, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal; the block looks at `requested`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if not self._deferring or self.requested:
            raise KeyboardInterrupt
        self.requested = True


def request_stop() -> bool:
    """Ask what is inside `Interruption.deferred` to stop; unlike a signal, never for a second time.

    Returns:
        Whether there is such a block.
    """
    deferring = [interruption for interruption in _live if interruption._deferring]
    for interruption in deferring:
        interruption.requested = True
    return bool(deferring)
