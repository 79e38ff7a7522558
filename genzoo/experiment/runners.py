"""Carrying out runs: one by one here, or several at a time in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from genzoo.arguments import train_arguments
from genzoo.data import Dataset
from genzoo.errors import GenzooError, InputError, Interrupted
from genzoo.experiment.slots import Slots
from genzoo.jobs import POLL_SECONDS, launch, reason_of_exit
from genzoo.model import GenerativeModel
from genzoo.pipeline import train
from genzoo.progress import Progress, Silent
from genzoo.runs import is_run, open_run

RETRIES = 1  # of a process that was killed


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
        if is_finished(task.path):
            # Quiet, but it still checks that the run is the one that is wanted.
            listener: Progress = Silent()
        else:
            listener = _Prefixed(progress, name)
        try:
            train(
                task.model,
                dataset if task.options["devices"] == 1 else dataset.name,
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


def is_finished(path: Path) -> bool:
    """Whether a folder holds a run of which nothing is left to do."""
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

    def close(self) -> None:
        """Let go of a process that has ended."""
        self.errors.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


def in_processes(
    tasks: Sequence[Task], dataset: Dataset, slots: Slots, progress: Progress
) -> dict[str, str]:
    """Like `one_by_one`, a process in each slot at a time; one that is killed is tried again.

    Each has cores of its own, where there are enough of them and the system can say so, and GPUs.
    """
    from genzoo.evaluation import prepare

    prepare(dataset, tasks[0].options["samples"], progress=progress)
    waiting = [task for task in tasks if not is_finished(task.path)]
    running, done = list[_Process](), len(tasks) - len(waiting)
    free = list(range(slots.count))
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(waiting.pop(0), dataset, 0, slots, free.pop(0)))
            time.sleep(POLL_SECONDS)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if job.process.returncode < 0 and job.tries < RETRIES:
                    progress.note(f"{job.name} was killed: going on with it")
                    job.close()
                    running.append(_start(job.task, dataset, job.tries + 1, slots, job.slot))
                    continue
                done += 1
                free.append(job.slot)
                progress.update(job.name, 1.0)
                if job.process.returncode != 0:
                    failed[job.name] = reason_of_exit(
                        job.task.path, job.process.returncode, job.errors
                    )
                    progress.note(f"{job.name} failed: {failed[job.name]}")
                job.close()
            begun = sum(show(job.name, job.task.path, progress) for job in running)
            progress.update("comparison", (done + begun) / len(tasks), f"{done} of {len(tasks)}")
    finally:
        # Only an interruption leaves some: each saves itself at the end of its step.
        for job in running:
            job.process.send_signal(signal.SIGINT)
        for job in running:
            job.process.wait()
            job.close()
    return failed


def show(name: str, path: Path, progress: Progress) -> float:
    """A line on a run that another process carries out; how far its training is."""
    try:
        run = open_run(path)
        line = run.history()[-1]
    except (InputError, LookupError):
        progress.update(name, 0.0, "starting")
        return 0.0
    if run.status["state"] in ("trained", "sampled", "finished"):
        detail = {"trained": "sampling", "sampled": "evaluating"}.get(run.status["state"], "")
        progress.update(name, 0.999, detail)  # 1 is said when the process has ended
        return 0.999
    part, loss = next(iter(line["loss"].items()), ("", 0.0))
    progress.update(name, 0.999 * line["progress"], f"training, {part} {loss:.4g}")
    return float(line["progress"])


def _start(task: Task, dataset: Dataset, tries: int, slots: Slots, slot: int) -> _Process:
    """`train` in a process on the cores and GPUs of a slot."""
    errors = tempfile.TemporaryFile()
    own = slots.environments[slot] if slots.gpus else {}
    process = launch(arguments_of(task, dataset), errors, {**os.environ, **own})
    slots.pin(process.pid, slot)
    return _Process(task, process, errors, tries, slot)


def arguments_of(task: Task, dataset: Dataset) -> list[str]:
    """The command line of a run."""
    return train_arguments(str(task.model), dataset.name, task.path, task.options)
