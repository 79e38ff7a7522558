"""Carrying out runs: one by one here, or several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from genzoo.arguments import train_arguments
from genzoo.data import Dataset
from genzoo.errors import GenzooError, InputError, Interrupted
from genzoo.model import GenerativeModel
from genzoo.pipeline import train
from genzoo.progress import Progress, Silent
from genzoo.runs import is_run, open_run

RETRIES = 1  # of a process that was killed
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Task:
    """One run of the plan, as arguments of `train`."""

    model: str | type[GenerativeModel]
    path: Path
    options: Mapping[str, Any]


class _Prefixed:
    """Progress of one run of several."""

    def __init__(self, inner: Progress, name: str) -> None:
        """Put `name` before everything."""
        self._inner, self._name = inner, name

    def note(self, message: str) -> None:
        """Pass on."""
        self._inner.note(f"{self._name}: {message}")

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        """Pass on."""
        self._inner.update(f"{self._name} {task}", fraction, detail)


def one_by_one(tasks: Sequence[Task], dataset: Dataset, progress: Progress) -> dict[str, str]:
    """Reasons of the runs that failed, by name."""
    failed = {}
    for number, task in enumerate(tasks):
        name = task.path.name
        progress.update("comparison", number / len(tasks), name)
        if _finished(task.path):
            # Quiet, but it still checks that the run is the one that is wanted.
            listener: Progress = Silent()
        else:
            listener = _Prefixed(progress, name)
        try:
            train(
                task.model,
                dataset,
                out=task.path,
                resume=is_run(task.path),
                progress=listener,
                **task.options,
            )
        except Interrupted:
            raise
        except Exception as error:  # one bad run must not cost the others
            failed[name] = _reason(error)
            progress.note(f"{name} failed: {failed[name]}")
    progress.update("comparison", 1.0)
    return failed


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GenzooError) else f"{type(error).__name__}: {text}"


def _finished(path: Path) -> bool:
    try:
        return open_run(path).finished
    except InputError:
        return False


@dataclass(frozen=True)
class _Process:
    task: Task
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    tries: int
    slot: int

    @property
    def name(self) -> str:
        return self.task.path.name


def in_processes(
    tasks: Sequence[Task], dataset: Dataset, jobs: int, progress: Progress
) -> dict[str, str]:
    """Like `one_by_one`, with `jobs` processes at a time; one that is killed is tried again.

    Each has cores of its own, where there are enough of them and the system can say so.
    """
    from genzoo.evaluation import prepare

    prepare(dataset, tasks[0].options["samples"], progress=progress)
    waiting = [task for task in tasks if not _finished(task.path)]
    running, done = list[_Process](), len(tasks) - len(waiting)
    slots = list(range(jobs))
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(0), dataset, 0, slots.pop(0)))
            time.sleep(POLL_SECONDS)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if job.process.returncode < 0 and job.tries < RETRIES:
                    progress.note(f"{job.name} was killed: going on with it")
                    job.errors.close()
                    running.append(_start(job.task, dataset, job.tries + 1, job.slot))
                    continue
                done += 1
                slots.append(job.slot)
                progress.update(job.name, 1.0)
                if job.process.returncode != 0:
                    failed[job.name] = _reason_of_exit(job)
                    progress.note(f"{job.name} failed: {failed[job.name]}")
                job.errors.close()
            begun = sum(_show(job, progress) for job in running)
            progress.update("comparison", (done + begun) / len(tasks), f"{done} of {len(tasks)}")
    finally:
        # Only an interruption leaves some: each saves itself at the end of its step.
        for job in running:
            job.process.send_signal(signal.SIGINT)
        for job in running:
            job.process.wait()
            job.errors.close()
    return failed


def _show(job: _Process, progress: Progress) -> float:
    """A line on a run that another process carries out; how far its training is."""
    try:
        run = open_run(job.task.path)
        line = run.history()[-1]
    except (InputError, LookupError):
        progress.update(job.name, 0.0, "starting")
        return 0.0
    if run.status["state"] in ("trained", "sampled", "finished"):
        detail = {"trained": "sampling", "sampled": "evaluating"}.get(run.status["state"], "")
        progress.update(job.name, 0.999, detail)  # 1 is said when the process has ended
        return 1.0
    name, loss = next(iter(line["loss"].items()), ("", 0.0))
    progress.update(job.name, 0.999 * line["progress"], f"training, {name} {loss:.4g}")
    return float(line["progress"])


def _start(task: Task, dataset: Dataset, tries: int, slot: int) -> _Process:
    """`train` in a process of its own session, so that Ctrl-C reaches it through us alone."""
    errors = tempfile.TemporaryFile()
    process = subprocess.Popen(
        [sys.executable, "-m", "genzoo_cli", *_arguments(task, dataset)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True,
    )
    _pin(process.pid, slot, task.options.get("threads"))
    return _Process(task, process, errors, tries, slot)


def _pin(pid: int, slot: int, threads: int | None) -> None:
    """Give a process that has just begun the cores of its slot, if there are that many."""
    if threads is None or not hasattr(os, "sched_setaffinity"):
        return
    own = sorted(os.sched_getaffinity(0))[slot * threads : (slot + 1) * threads]
    if len(own) == threads:
        with contextlib.suppress(OSError):  # it may have ended already
            os.sched_setaffinity(pid, own)


def _arguments(task: Task, dataset: Dataset) -> list[str]:
    """The command line of a run."""
    return train_arguments(str(task.model), dataset.name, task.path, task.options)


def _reason_of_exit(job: _Process) -> str:
    """What the run's status or the last line on stderr says."""
    try:
        run = open_run(job.task.path)
        if run.status["state"] == "failed" and run.status["reason"]:
            return str(run.status["reason"])
    except InputError:
        pass
    job.errors.seek(0)
    lines = job.errors.read().decode(errors="replace").strip().splitlines()
    code = job.process.returncode
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}{': ' + lines[-1] if lines else ''}"
