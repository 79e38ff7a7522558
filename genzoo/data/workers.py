"""Work in processes of its own, with the answers in the order of the questions.

Processes rather than threads: decoding small pictures holds Python's lock nearly all the time,
and a training loop that waits for it loses more than the decoding takes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import current_process
from typing import Any, TypeVar

from torch import Generator
from torch.utils.data import DataLoader, Dataset

from genzoo.errors import MachineError

Q = TypeVar("Q")
A = TypeVar("A")

GRACE_SECONDS = 10.0
AHEAD = 4  # questions that each process may be ahead of whoever takes the answers


def in_workers(
    work: Callable[[Q], A | Exception], questions: Iterable[Q], workers: int
) -> Iterator[A]:
    """``work`` of each question, in order; the questions may go on for ever.

    Args:
        work: a function of a module. What it cannot do, it returns as an exception, which is
            raised here as it is: one raised there would arrive with a traceback as its text.
        questions: small things that can be sent to a process.
        workers: how many processes; 0 for none, then an answer is made when it is asked for.

    Raises:
        Exception: what `work` returned.
        MachineError: a process died.
    """
    if workers and not current_process().daemon:  # which may have no children
        answers: Iterable[A | Exception] = DataLoader(
            _Work(work),
            batch_size=None,
            sampler=questions,
            num_workers=workers,
            prefetch_factor=AHEAD,
            collate_fn=_unchanged,
            worker_init_fn=partial(_settle, os.getpid()),
            generator=Generator(),  # else it would draw from the global one
        )
    else:
        answers = map(work, questions)
    try:
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            yield answer
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MachineError(
            "a process that reads pictures was killed; free some memory, and go on with --resume"
        ) from error


class _Work(Dataset[Any]):
    """A function whose values are its items."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        """Of this function."""
        self._work = work

    def __getitem__(self, question: Any) -> Any:
        return self._work(question)


def _unchanged(answer: A) -> A:
    return answer


def _settle(parent: int, number: int) -> None:
    """Leave the end to the main process: when it stops us, or is no more."""
    # Ctrl-C, and the end of a job, reach all processes at once, but the main one needs pictures
    # for the step that it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(GRACE_SECONDS, os._exit, [1]).start())
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """End when the parent was killed; torch's own watch waits until someone takes the answers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
