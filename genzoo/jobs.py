"""A run in a process of its own, here or on a worker of a cluster; imports no torch.

The process is ``genzoo train --resume …``. It ends, with its work saved, when the process that
started it dies: so nobody trains for a parent that is gone, and whoever takes up the run gets
its folder.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from genzoo import __version__
from genzoo.errors import InputError, Interrupted, InUse, MachineError
from genzoo.machine import available_cores
from genzoo.runs import lock, open_run

# Some runs of a dead worker still save themselves when another worker takes them up.
TAKE_OVER_SECONDS = 120.0
POLL_SECONDS = 0.2
INTERRUPTED = Interrupted.exit_code
# Dask's workers set these to 1 for their own sake; a run's threads are its own affair.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def launch(
    arguments: tuple[str, ...] | list[str],
    errors: IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """``genzoo WORD…`` in a process of its own session, so that Ctrl-C reaches it through us alone.

    Args:
        arguments: the words.
        errors: what it says on stderr goes there.
        environment: of the process; this one's where absent.
    """
    inherited = os.environ if environment is None else environment
    return subprocess.Popen(
        [sys.executable, "-m", "genzoo.jobs", *arguments],
        stdin=subprocess.PIPE,  # whose end tells the process that we are gone
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={**inherited, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True,
    )


def reason_of_exit(path: Path, code: int, errors: IO[bytes]) -> str:
    """Why a run ended: what its status or the last line on stderr says.

    Args:
        path: of the run.
        code: with which its process ended.
        errors: where it wrote.
    """
    try:
        run = open_run(path)
        if run.status["state"] == "failed" and run.status["reason"]:
            return str(run.status["reason"])
    except InputError:
        pass
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}{': ' + lines[-1] if lines else ''}"


def wait_until_free(path: Path, seconds: float) -> None:
    """Wait until no process owns a run folder.

    Raises:
        InUse: it is still owned after `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            with lock(path):
                return
        except InUse:
            if time.monotonic() >= until:
                raise
        time.sleep(POLL_SECONDS)


# -- on a worker of a cluster ---------------------------------------------------------------


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the one who asked for the runs: a hook of Dask, in each local worker.

    In a terminal the signal reaches every process, and a worker would die with a traceback.
    """
    if threading.current_thread() is threading.main_thread():
        # Not SIG_IGN, which the processes of the runs would inherit.
        signal.signal(signal.SIGINT, lambda number, frame: None)


@dataclass(frozen=True)
class Common:
    """What every machine that carries out runs of a comparison must share.

    Attributes:
        folder: of the comparison, absolute; its lock is held while the comparison goes on.
        probe: a file in the cache of the evaluation, absolute.
        environment: variables of the runs.
        topic: where workers tell what they begin.
        cores: of each run, where seconds are measured: a worker must have that many.
        slots: variables of the runs of each worker of this machine, by its number.
        version: of genzoo.
    """

    folder: str
    probe: str
    environment: Mapping[str, str]
    topic: str
    cores: int | None = None
    slots: tuple[Mapping[str, str], ...] = ()
    version: str = field(default=__version__)

    def check(self, runs_at_a_time: int) -> None:
        """That this machine can carry out a run so that nothing is done twice or differently.

        Raises:
            InputError: it sees other files, has another genzoo, or too few cores.
        """
        host, folder = socket.gethostname(), Path(self.folder)
        if self.version != __version__:
            raise InputError(
                f"worker on {host} has genzoo {__version__}, this is {self.version}; "
                "install the same on both"
            )
        for path, mend in (
            (folder, "put --out on a file system that all machines share"),
            (Path(self.probe), "set GENZOO_CACHE to a folder that all machines share"),
        ):
            if not path.exists():
                shown = path if path == folder else path.parent
                raise InputError(f"worker on {host} does not see '{shown}'; {mend}")
        if not _is_owned(folder):
            raise InputError(
                f"worker on {host} does not see that '{folder}' is in use: its file system keeps "
                "locks on one machine, so two could write one run; put --out on another (NFS 4, "
                "Lustre mounted with flock)"
            )
        if self.cores is not None and runs_at_a_time * self.cores > (there := available_cores()):
            raise InputError(
                f"worker on {host}: {runs_at_a_time} runs with {self.cores} threads each on "
                f"{there} cores: a budget in seconds would not be fair; give the worker fewer "
                "threads, or take a budget in steps, images or flops"
            )


class Lost(MachineError):
    """A run's process was killed or stopped; another try goes on with what it saved."""


def carry_out(path: str, arguments: tuple[str, ...], common: Common) -> str | None:
    """One run, as a task of Dask in a thread of a worker.

    Args:
        path: of the run folder, absolute.
        arguments: of ``genzoo``.
        common: what is the same for all runs.

    Returns:
        Why the run failed, or ``None``.

    Raises:
        Lost: it may be tried again.
        InputError: this machine cannot carry it out.
    """
    from distributed import get_worker

    worker = get_worker()
    key, folder = worker.get_current_task(), Path(path)
    common.check(worker.state.nthreads)
    wait_until_free(folder, TAKE_OVER_SECONDS)
    worker.log_event(common.topic, {"run": folder.name, "host": socket.gethostname()})
    kept = {k: v for k, v in os.environ.items() if k not in THREADS}
    own = common.slots[int(worker.name) % len(common.slots)] if common.slots else {}
    with _process(arguments, {**kept, **common.environment, **own}) as (process, errors):
        while (code := process.poll()) is None:
            if not _is_wanted(worker, key):
                process.send_signal(signal.SIGINT)  # it saves itself at the end of its step
                process.wait()
                raise Lost(f"{folder.name}: no longer wanted")
            time.sleep(POLL_SECONDS)
        if code == 0:
            return None
        reason = reason_of_exit(folder, code, errors)
    if code < 0 or code == INTERRUPTED:
        raise Lost(reason)
    return reason


@contextmanager
def _process(
    arguments: tuple[str, ...], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    with tempfile.TemporaryFile() as errors:
        with launch(arguments, errors, environment) as process:
            yield process, errors


def _is_wanted(worker: Any, key: Any) -> bool:
    """Whether the scheduler still waits for a task that this worker carries out."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state in ("executing", "long-running")


def _is_owned(path: Path) -> bool:
    try:
        with lock(path):
            return False
    except InUse:
        return True


# -- in the process of a run ----------------------------------------------------------------


def main() -> None:
    """The command line of genzoo, for as long as whoever started it lives."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    runpy.run_module("genzoo_cli", run_name="__main__", alter_sys=True)


def _stop_with_parent() -> None:
    # Not through sys.stdin, whose lock would be held at the end of the process.
    while os.read(0, 1):
        pass
    # Only a process that has loaded it can be inside a training.
    interruption = sys.modules.get("genzoo.training.interruption")
    if interruption is None or not interruption.request_stop():
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
