"""Carrying out runs on the workers of a Dask cluster: one's own, SLURM's, or this machine's.

The unit of work is the one of ``--jobs``: a run in a process of its own, which goes on from the
last checkpoint of its folder. Dask decides where it happens, and where again after a worker
died; the folder's lock, which the system frees when its owner dies, keeps two from writing it.
See `README.md` beside this file.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genzoo.data import Dataset
from genzoo.errors import GenzooError, InputError, InUse, MachineError, unknown
from genzoo.experiment.runners import RETRIES, Task, arguments_of, is_finished, show
from genzoo.experiment.slots import Slots
from genzoo.files import atomic_path
from genzoo.jobs import TAKE_OVER_SECONDS, THREADS, Common, carry_out, wait_until_free
from genzoo.progress import Progress
from genzoo.types import Budget

LOCAL = "local"
# Batch systems by the name that is asked for, and what dask-jobqueue calls them.
BATCH = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 0.5
IMPATIENT_SECONDS = 30.0


@dataclass(frozen=True)
class Scheduler:
    """Where runs are carried out.

    Attributes:
        name: ``local``, a key of `BATCH`, or an address such as ``tcp://10.0.0.1:8786``.
        jobs: workers to ask for; an address has those that it has.
        threads: CPU threads of each process of a run; torch's choice where absent.
        devices: of each run, a process each.
    """

    name: str
    jobs: int
    threads: int | None
    devices: int = 1

    @property
    def cores(self) -> int | None:
        """That each run needs, where it is known."""
        return None if self.threads is None else self.threads * self.devices

    @property
    def is_elsewhere(self) -> bool:
        """Whether runs happen on other machines, whose devices this one does not know."""
        return self.name != LOCAL


def find_scheduler(name: str, jobs: int, threads: int | None, devices: int = 1) -> Scheduler:
    """What a name means, with as many threads for each run as it gives them.

    Raises:
        InputError: it is neither a known name nor an address, or Dask is not installed.
    """
    name = name.strip()
    if "://" not in name and name.lower() not in (LOCAL, *BATCH):
        raise unknown("scheduler", name, (LOCAL, *BATCH, "tcp://HOST:PORT"))
    try:
        import dask.config
        import distributed  # noqa: F401

        if name.lower() in BATCH:
            import_jobqueue()
    except ImportError as error:
        raise InputError(
            f"--scheduler {name} needs Dask; install it with: pip install 'genzoo[cluster]'"
        ) from error
    if "://" in name:
        return Scheduler(name, jobs, threads or 1, devices)
    name = name.lower()
    if name in BATCH and threads is None:
        cores = int(dask.config.get(f"jobqueue.{name}.cores", None) or 1)
        threads = max(1, cores // devices)
    return Scheduler(name, jobs, threads, devices)


def on_cluster(
    tasks: Sequence[Task],
    dataset: Dataset,
    scheduler: Scheduler,
    slots: Slots,
    folder: Path,
    progress: Progress,
) -> dict[str, str]:
    """Like `genzoo.experiment.runners.one_by_one`, on the workers of a cluster.

    Args:
        tasks: the runs.
        dataset: which every worker opens by its name.
        scheduler: of the cluster.
        slots: of the workers of this machine.
        folder: of the comparison, whose lock is held.
        progress: told how far it is.

    Raises:
        InputError: there is no such cluster, or it cannot be asked for.
        MachineError: the scheduler is gone.
    """
    from genzoo.evaluation import prepare

    failed: dict[str, str] = {}
    waiting = [task for task in tasks if not is_finished(task.path)]
    if not waiting:
        return failed
    with _quiet(), _connected(scheduler, folder.resolve(), progress) as client:
        # Scores compare only within one feature space, so it is made once, for all.
        prepare(dataset, tasks[0].options["samples"], progress=progress)
        with _common(folder.resolve(), tasks[0], scheduler, slots) as common:
            crew = _Crew(client, common, dataset, progress)
            try:
                crew.send(waiting)
                while crew.open:
                    time.sleep(LOOK_SECONDS)
                    failed |= crew.look(len(tasks) - len(waiting), len(tasks))
            except BaseException:
                crew.call_off()
                raise
    return failed


class _Crew:
    """The runs that were handed to a cluster."""

    def __init__(self, client: Any, common: Common, dataset: Dataset, progress: Progress) -> None:
        """Listen to what workers tell."""
        self.open: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}
        self._client, self._common = client, common
        self._dataset, self._progress = dataset, progress
        self._told: deque[Mapping[str, str]] = deque()
        self._hosts: dict[str, str] = {}
        self._done, self._since, self._impatient = 0, time.monotonic(), False
        client.subscribe_topic(common.topic, lambda event: self._told.append(event[1]))

    def send(self, tasks: Sequence[Task]) -> None:
        """Hand runs over, in their order."""
        for task in tasks:
            path = task.path.resolve()
            self._paths[path.name] = path
            self.open[path.name] = self._client.submit(
                carry_out,
                str(path),
                tuple(arguments_of(_absolute(task), self._dataset)),
                self._common,
                key=f"{path.name}-{uuid.uuid4().hex}",
                pure=False,
                retries=RETRIES,
            )

    def look(self, before: int, total: int) -> dict[str, str]:
        """Show how far the runs are; reasons of those that have failed since the last look.

        Args:
            before: runs that were finished already.
            total: runs of the comparison.

        Raises:
            MachineError: the scheduler is gone.
        """
        while self._told:
            self._hear(self._told.popleft())
        failed = {}
        for name in [name for name, future in self.open.items() if future.done()]:
            reason = _reason(self.open.pop(name))
            self._done += 1
            self._progress.update(name, 1.0)
            if reason is not None:
                failed[name] = reason
                self._progress.note(f"{name} failed: {reason}")
        begun = sum(show(n, self._paths[n], self._progress) for n in self.open if n in self._hosts)
        done = before + self._done
        self._progress.update("comparison", (done + begun) / total, self._detail(done, total))
        return failed

    def call_off(self) -> None:
        """Let every run save itself, and wait for it."""
        with suppress(Exception):  # a scheduler that is gone; its workers stop on their own
            self._client.cancel(list(self.open.values()), force=True)
        for name in self.open:
            if name in self._hosts:
                with suppress(InUse):
                    wait_until_free(self._paths[name], TAKE_OVER_SECONDS)

    def _hear(self, event: Mapping[str, str]) -> None:
        name, host = event["run"], event["host"]
        if name in self._hosts:
            self._progress.note(f"{name} was lost with its process: going on with it on {host}")
        elif host != socket.gethostname():
            self._progress.note(f"{name} begins on {host}")
        self._hosts[name] = host

    def _detail(self, done: int, total: int) -> str:
        if self._hosts or self._done:
            return f"{done} of {total}"
        if not self._impatient and time.monotonic() > self._since + IMPATIENT_SECONDS:
            self._impatient = True
            self._progress.note("no worker has come yet: is the queue full, or the job refused?")
        return f"{done} of {total}, waiting for a worker"


def _reason(future: Any) -> str | None:
    """Why a run failed, or ``None``.

    Raises:
        MachineError: the scheduler has forgotten it.
    """
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise MachineError("the scheduler of the cluster is gone; the same command goes on")
    error = future.exception() if future.status == "error" else None
    if error is None:
        reason: str | None = future.result()
        return reason
    if isinstance(error, KilledWorker):
        return "its worker died again and again; see the worker's log, memory first"
    text = " ".join(str(error).split())
    return text if isinstance(error, GenzooError) else f"{type(error).__name__}: {text}"


def _absolute(task: Task) -> Task:
    """The same for a worker, whose working directory is another."""
    root = task.options["data_root"]
    there = None if root is None else str(Path(root).resolve())
    return replace(task, path=task.path.resolve(), options={**task.options, "data_root": there})


@contextmanager
def _common(folder: Path, task: Task, scheduler: Scheduler, slots: Slots) -> Iterator[Common]:
    """What all workers share; a file in the cache shows that they see it."""
    from genzoo.evaluation.cache import cache_folder

    cache = cache_folder().resolve()
    environment = {k: os.environ[k] for k in (*THREADS, "GENZOO_DATA") if k in os.environ}
    probe = cache / f"seen-by-all-{uuid.uuid4().hex}"
    with atomic_path(probe) as beside:
        beside.touch()
    try:
        measured = Budget.parse(task.options["budget"]).unit == "seconds"
        yield Common(
            str(folder),
            str(probe),
            {**environment, "GENZOO_CACHE": str(cache)},
            topic=f"genzoo-{uuid.uuid4().hex}",
            cores=scheduler.cores if measured else None,
            slots=slots.environments,
        )
    finally:
        probe.unlink(missing_ok=True)


# -- clusters -------------------------------------------------------------------------------


@contextmanager
def _connected(scheduler: Scheduler, folder: Path, progress: Progress) -> Iterator[Any]:
    """A client of the cluster; what was started for it is stopped at the end."""
    from distributed import Client

    if scheduler.name == LOCAL:
        cluster: Any = _local(scheduler)
    elif scheduler.name in BATCH:
        cluster = _batch(scheduler, folder)
    else:
        with _client_of(scheduler.name) as client:
            yield client
        return
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _client_of(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"no Dask scheduler answers at '{address}' within {CONNECT_SECONDS:.0f} s; start one "
            "with 'dask scheduler' and give the address that it prints, as tcp://HOST:8786"
        ) from error
    with client:
        yield client


def _local(scheduler: Scheduler) -> Any:
    """Processes of this machine, one run each at a time."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=scheduler.jobs,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        memory_limit=None,  # a run is a process of its own, which the worker does not count
        silence_logs=logging.CRITICAL,
        preload=[carry_out.__module__],  # whose `dask_setup` it calls
    )


def _batch(scheduler: Scheduler, folder: Path) -> Any:
    """Jobs of a batch system, as `jobqueue.<name>` of Dask's configuration says.

    Each is a worker that does one run at a time on `cores` CPUs. A job that ends before the
    comparison does is asked for again.

    Raises:
        InputError: the system's commands are not here, or the configuration lacks something.
    """
    import dask.config

    name = scheduler.name
    kind = getattr(import_jobqueue(), BATCH[name])
    if shutil.which(command := kind.job_cls.submit_command.split()[0]) is None:
        raise InputError(f"--scheduler {name}: there is no '{command}' here; go where it is")
    section = f"jobqueue.{name}"
    if dask.config.get(f"{section}.memory", None) is None:
        variable = f"DASK_JOBQUEUE__{name.upper()}__MEMORY"
        raise InputError(
            f"--scheduler {name}: how much memory has a job? Set {variable}=8GB, or memory under "
            f"jobqueue: {name}: in ~/.config/dask/jobqueue.yaml"
        )
    cluster = kind(
        cores=scheduler.cores,
        processes=1,
        log_directory=dask.config.get(f"{section}.log-directory", None) or str(folder / "cluster"),
        # As many threads as CPUs would be as many runs at a time; the last one counts.
        worker_extra_args=[
            *(dask.config.get(f"{section}.worker-extra-args", None) or ()),
            "--nthreads",
            "1",
        ],
        silence_logs=logging.CRITICAL,
    )
    if name == "slurm":
        try:
            _check_slurm(cluster.job_script())
        except InputError:
            cluster.close()
            raise
    # A run takes long, which Dask cannot know: a worker for each that waits, up to `jobs`.
    cluster.adapt(minimum_jobs=0, maximum_jobs=scheduler.jobs, target_duration="1ms", interval="2s")
    return cluster


def _check_slurm(script: str) -> None:
    """Ask SLURM whether it would take a job; Dask would wait for a refused one for ever.

    Raises:
        InputError: it would not; says why.
    """
    done = subprocess.run(
        ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"--scheduler slurm: SLURM would refuse the job: {lines[0]:.300}")


def import_jobqueue() -> Any:
    """dask-jobqueue without the handler of Ctrl-C that it installs: it ends the process with 0."""
    before = signal.getsignal(signal.SIGINT)
    jobqueue = importlib.import_module("dask_jobqueue")
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)
    return jobqueue


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's log says the same as our notes, at length."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
