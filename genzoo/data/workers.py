"""Work in processes of its own, with the answers in the order of the questions.

Processes rather than threads: decoding small pictures holds Python's lock nearly all the time,
and a training loop that waits for it loses more than the decoding takes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import current_process
from typing import TypeVar

from genzoo.errors import MachineError

Q = TypeVar("Q")
A = TypeVar("A")

GRACE_SECONDS = 10.0
AHEAD = 4  # questions that each process is given at a time


def in_workers(
    work: Callable[[Q], A | Exception], questions: Iterable[Q], workers: int, ahead: bool = True
) -> Iterator[A]:
    """``work`` of each question, in order; the questions may go on for ever.

    Args:
        work: a function of a module. What it cannot do, it returns as an exception, which is
            raised here as it is: one raised there would arrive with a traceback as its text.
        questions: small things that can be sent to a process.
        workers: how many processes; 0 for none, then an answer is made when it is asked for.
        ahead: whether they go on while an answer is used. Where that takes all cores, they had
            better wait: a thread that shares its core holds up all threads of its parallel loop.

    Raises:
        Exception: what `work` returned.
        MachineError: a process died.
    """
    if not workers or current_process().daemon:  # which may have no children
        for question in questions:
            yield _told(work(question))
        return
    coming, asked = iter(questions), deque[Future[A | Exception]]()
    with _pool(workers) as pool:
        while True:
            if ahead or not asked:
                some = islice(coming, AHEAD * workers - len(asked))
                asked.extend(pool.submit(work, question) for question in some)
                if not ahead:
                    wait(asked)
            if not asked:
                return
            yield _told(asked.popleft().result())


def _told(answer: A | Exception) -> A:
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, initializer=_settle, initargs=(os.getpid(),))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise MachineError(
            "a process that reads pictures was killed; free some memory, and go on with --resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _settle(parent: int) -> None:
    """Leave the end to the main process: when it stops us, or is no more."""
    # Ctrl-C, and the end of a job, reach all processes at once, but the main one needs pictures
    # for the step that it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(GRACE_SECONDS, os._exit, [1]).start())
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """End when the parent was killed, also while it is not waiting for an answer."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
