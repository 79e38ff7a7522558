"""Comparisons on Dask clusters: of this machine, of SLURM, and at an address."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import genzoo
from genzoo import jobs
from genzoo.errors import InputError, Interrupted, InUse, PartialFailure
from genzoo.experiment import ComparisonFailed, cluster
from genzoo.jobs import Common, Lost
from genzoo.runs import lock, open_run
from genzoo.training.interruption import Interruption, request_stop

pytest.importorskip("distributed", reason="no Dask: pip install 'genzoo[cluster]'")
import psutil  # noqa: E402  (comes with distributed)

TINY = f"{Path(__file__).parent / 'tiny_models.py'}:Tiny"
STEPS = 4000


def compare(out: Path, **options: Any) -> genzoo.Comparison:
    options = {
        "models": TINY,
        "budget": f"{STEPS}steps",
        "seeds": 2,
        "samples": 40,
        "controls": (),
        "threads": 1,
        **options,
    }
    return genzoo.compare(data="ring", out=out, device="cpu", **options)


def content(comparison: genzoo.Comparison) -> dict[str, bytes]:
    names = ("model.safetensors", "samples.npz")
    return {
        f"{path.name}/{name}": (path / name).read_bytes()
        for path in comparison.runs
        for name in names
    }


def check_nothing_twice(comparison: genzoo.Comparison) -> None:
    for path in comparison.runs:
        run = open_run(path)
        steps = [entry["step"] for entry in run.history()]
        assert run.finished and steps == sorted(set(steps)) and steps[-1] == STEPS


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> genzoo.Comparison:
    return compare(tmp_path_factory.mktemp("serial") / "c")


class Listener:
    """Does something once, when a run has come to the middle of its training."""

    def __init__(self, act: Callable[[], None], run: str = "tiny_models-tiny-s0") -> None:
        self._act, self._run = act, run
        self.acted = False
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        middle = 0.1 <= fraction <= 0.8 and detail.startswith("training")
        if task == self._run and middle and not self.acted:
            self.acted = True
            self._act()


def owner(run: Path) -> psutil.Process:
    """The process that a run is carried out in."""
    return psutil.Process(int((run / "lock").read_text()))


# -- a run's process ------------------------------------------------------------------------


@contextmanager
def training(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a run without end, once it has begun."""
    words = ["train", "--model", TINY, "--data", "ring", "--budget", "1h", "--out", str(out)]
    with tempfile.TemporaryFile() as errors, jobs.launch(words, errors) as process:
        until = time.monotonic() + 60
        while not (out / "status.json").exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        try:
            yield process
        finally:
            process.kill()


def test_a_run_whose_parent_is_gone_saves_itself(tmp_path: Path) -> None:
    with training(tmp_path / "run") as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == Interrupted.exit_code
    run = open_run(tmp_path / "run")
    assert run.status["state"] == "interrupted"
    jobs.wait_until_free(run.path, 0)


def test_a_request_to_stop_does_not_break_off_the_saving_of_another() -> None:
    assert not request_stop()
    with Interruption() as interruption:
        assert not request_stop()
        with interruption.deferred():
            signal.raise_signal(signal.SIGTERM)
            assert request_stop() and request_stop()
            assert interruption.requested
    assert not request_stop()


def test_waiting_for_a_folder(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(InUse, match="in use by process"):
        jobs.wait_until_free(tmp_path, 0.3)
    jobs.wait_until_free(tmp_path, 0.0)


# -- what a worker must share ---------------------------------------------------------------


def common(tmp_path: Path, **changes: Any) -> Common:
    folder, probe = tmp_path / "c", tmp_path / "cache" / "probe"
    for path in (folder, probe.parent):
        path.mkdir(exist_ok=True)
    probe.touch()
    return Common(
        **{"folder": str(folder), "probe": str(probe), "environment": {}, "topic": "t"} | changes
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"version": "0.0.1"}, "this is 0.0.1; install the same"),
        ({"folder": "/nowhere/c"}, "does not see '/nowhere/c'; put --out"),
        ({"probe": "/nowhere/cache/p"}, "does not see '/nowhere/cache'; set GENZOO_CACHE"),
        ({"cores": 10_000}, "2 runs with 10000 threads each.*would not be fair"),
    ],
)
def test_a_worker_that_shares_too_little_refuses(
    tmp_path: Path, changes: dict[str, Any], says: str | None
) -> None:
    found = common(tmp_path, **changes)
    with lock(tmp_path / "c"):
        if says is None:
            found.check(2)
        else:
            with pytest.raises(InputError, match=says):
                found.check(2)


def test_a_worker_that_does_not_see_the_lock_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two could write one run"):
        common(tmp_path).check(1)


class Worker:
    """What a run asks of a worker of Dask."""

    def __init__(self, task: str = "executing", name: int = 0) -> None:
        self.name = name
        self.state = SimpleNamespace(nthreads=1, tasks={"key": SimpleNamespace(state=task)})
        self.told: list[Any] = []

    def get_current_task(self) -> str:
        return "key"

    def log_event(self, topic: str, message: Any) -> None:
        self.told.append(message["run"])


@pytest.fixture
def on_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    import distributed

    def carry_out(worker: Worker, *words: str, **changes: Any) -> str | None:
        monkeypatch.setattr(distributed, "get_worker", lambda: worker)
        with lock(tmp_path / "c"):
            return jobs.carry_out(str(tmp_path / "run"), words, common(tmp_path, **changes))

    return carry_out


def test_a_run_waits_for_the_one_before_it(
    tmp_path: Path, on_a_worker: Callable[..., str | None]
) -> None:
    worker, begun, earlier = Worker(), time.monotonic(), lock(tmp_path / "run")
    earlier.__enter__()
    threading.Timer(1.0, earlier.__exit__, (None, None, None)).start()
    assert on_a_worker(worker, "--version") is None
    assert time.monotonic() - begun >= 1.0 and worker.told == ["run"]


def test_how_a_run_ends(on_a_worker: Callable[..., str | None]) -> None:
    reason = on_a_worker(Worker(), "nonsense")
    assert reason and reason.startswith("exit code 2: genzoo: error: unknown command 'nonsense'")
    with pytest.raises(Lost, match="no longer wanted"):
        on_a_worker(Worker("cancelled"), "doctor")


def test_a_worker_of_this_machine_has_gpus_of_its_own(
    tmp_path: Path, on_a_worker: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $CUDA_VISIBLE_DEVICES >> {told}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    slots = ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"})
    for name in (1, 0):
        assert on_a_worker(Worker(name=name), slots=slots) is None
    assert told.read_text() == "2,3\n0,1\n"


# -- asking for a cluster -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheduler": "slrum"}, "unknown scheduler 'slrum'; did you mean 'slurm'"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "no Dask scheduler answers at 'tcp://127.0.0.1:9'"),
        ({"scheduler": "nonsense://x"}, "no Dask scheduler answers"),
        ({"scheduler": "local", "models": (genzoo.GenerativeModel,)}, "scheduler needs models by"),
        ({"scheduler": "sge"}, "there is no 'qsub' here"),
    ],
)
def test_clusters_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with pytest.raises(InputError, match=says) as caught:
        compare(tmp_path / "c", **options)
    assert "\n" not in str(caught.value)


def test_without_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'genzoo\[cluster\]'"):
        compare(tmp_path / "c", scheduler="local")


@pytest.mark.parametrize("name", sorted(cluster.BATCH))
def test_jobs_of_batch_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import dask.config

    handler = signal.getsignal(signal.SIGINT)
    dask_jobqueue = cluster.import_jobqueue()
    assert signal.getsignal(signal.SIGINT) is handler
    kind = getattr(dask_jobqueue, cluster.BATCH[name])
    made: dict[str, Any] = {}

    class Script:
        """Writes the script of a job and asks for nothing."""

        job_cls = kind.job_cls

        def __init__(self, **options: Any) -> None:
            made["script"] = kind.job_cls(
                scheduler="tcp://s",
                name="w",
                **{k: v for k, v in options.items() if k != "silence_logs"},
            ).job_script()

        def job_script(self) -> str:
            return str(made["script"])

        def adapt(self, **options: Any) -> None:
            made.update(options)

    monkeypatch.setattr(dask_jobqueue, cluster.BATCH[name], Script)
    monkeypatch.setattr(shutil, "which", lambda command: command)
    monkeypatch.setattr(cluster, "_check_slurm", lambda script: None)
    asked = cluster.find_scheduler(name, jobs=7, threads=2, devices=2)
    unsaid = dask.config.set({f"jobqueue.{name}.memory": None})
    with unsaid, pytest.raises(InputError, match=f"Set DASK_JOBQUEUE__{name.upper()}__MEMORY=8GB"):
        cluster._batch(asked, tmp_path)
    with dask.config.set({f"jobqueue.{name}.memory": "2GB", f"jobqueue.{name}.queue": "mine"}):
        cluster._batch(asked, tmp_path)
    assert made["maximum_jobs"] == 7
    words = made["script"].split()
    assert words[len(words) - words[::-1].index("--nthreads")] == "1"  # the last one counts
    if name == "slurm":
        assert "#SBATCH --cpus-per-task=4" in made["script"] and "#SBATCH -p mine" in made["script"]


# -- on this machine ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_killed_worker_costs_nothing(
    tmp_path: Path, serial: genzoo.Comparison, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.1)
    run = tmp_path / "c" / "runs" / "tiny_models-tiny-s0"
    killer = Listener(lambda: owner(run).parent().kill())
    found = compare(tmp_path / "c", seeds=seeds, scheduler="local", jobs=2, progress=killer)
    assert killer.acted and any("was lost" in note for note in killer.notes), killer.notes
    assert content(found).items() <= content(serial).items()
    check_nothing_twice(found)
    assert "going on at step" in (run / "log.txt").read_text()


@pytest.mark.slow
def test_a_dead_machine_costs_what_was_done_since_its_checkpoint(
    tmp_path: Path, serial: genzoo.Comparison
) -> None:
    """The run dies with its worker."""

    def kill() -> None:
        process = owner(tmp_path / "c" / "runs" / "tiny_models-tiny-s0")
        worker = process.parent()
        process.kill()
        worker.kill()

    killer = Listener(kill)
    found = compare(tmp_path / "c", scheduler="local", jobs=2, progress=killer)
    assert killer.acted and content(found) == content(serial)
    check_nothing_twice(found)


@pytest.mark.slow
def test_a_run_that_dies_again_and_again_is_reported(tmp_path: Path) -> None:
    class Killer(Listener):
        def update(self, task: str, fraction: float, detail: str = "") -> None:
            self.acted = False
            super().update(task, fraction, detail)

    def kill() -> None:
        with suppress(OSError, ValueError, psutil.Error):  # it may be between two tries
            owner(tmp_path / "c" / "runs" / "tiny_models-tiny-s0").kill()

    killer = Killer(kill)
    with pytest.raises(ComparisonFailed, match="1 of 2 runs failed.*killed by signal 9") as caught:
        compare(tmp_path / "c", budget="8s", scheduler="local", jobs=2, progress=killer)
    assert list(caught.value.comparison.failed) == ["tiny_models-tiny-s0"]


@pytest.mark.slow
def test_failures_and_ctrl_c_are_those_of_one_process(
    tmp_path: Path, serial: genzoo.Comparison
) -> None:
    stopper = Listener(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="the same command goes on"):
        compare(tmp_path / "c", scheduler="local", jobs=2, progress=stopper)
    run = tmp_path / "c" / "runs" / "tiny_models-tiny-s0"
    assert open_run(run).status["state"] == "interrupted" and (run / "checkpoint").exists()
    assert not (tmp_path / "c" / "report.html").exists()
    again = compare(tmp_path / "c", scheduler="local", jobs=2)
    assert content(again) == content(serial)
    with pytest.raises(ComparisonFailed, match="ZeroDivisionError: my mistake") as caught:
        models = (TINY, TINY.replace(":Tiny", ":Broken"))
        compare(tmp_path / "d", models=models, seeds=1, budget="6steps", scheduler="local")
    assert list(caught.value.comparison.failed) == ["tiny_models-broken-s0"]


@pytest.mark.slow
def test_a_cluster_of_ones_own_by_its_address(
    tmp_path: Path, serial: genzoo.Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers in another folder, with another cache and two runs at a time."""
    from distributed import LocalCluster

    monkeypatch.setenv("GENZOO_CACHE", os.environ["GENZOO_CACHE"])
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path)
        elsewhere.setenv("GENZOO_CACHE", str(tmp_path / "other"))
        own = LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None)
    with own:
        found = compare(tmp_path / "c", scheduler=own.scheduler_address)
        assert content(found) == content(serial)
        with pytest.raises(PartialFailure, match="not be fair"):
            compare(tmp_path / "d", scheduler=own.scheduler_address, budget="1s", threads=999)


# -- on a real SLURM ------------------------------------------------------------------------


def _slurm() -> str | None:
    """Why there is none that answers, or ``None``."""
    if shutil.which("sbatch") is None:
        return "no SLURM here; tests/one_node_slurm.sh makes one of this machine"
    done = subprocess.run(["sinfo", "-h"], capture_output=True, text=True)
    return (
        None
        if done.returncode == 0 and done.stdout
        else "SLURM does not run; see tests/one_node_slurm.sh"
    )


@pytest.mark.slow
@pytest.mark.skipif(_slurm() is not None, reason=str(_slurm()))
def test_a_killed_slurm_job_costs_nothing(tmp_path: Path, serial: genzoo.Comparison) -> None:
    import dask.config

    run = tmp_path / "c" / "runs" / "tiny_models-tiny-s0"

    def kill() -> None:
        number = owner(run).environ()["SLURM_JOB_ID"]
        subprocess.run(["scancel", "--signal=KILL", "--full", number], check=True)

    killer = Listener(kill)
    cluster.import_jobqueue()  # its defaults, before they are changed for a while
    with dask.config.set({"jobqueue.slurm.memory": "1GB"}):
        with (
            dask.config.set({"jobqueue.slurm.queue": "nonsense"}),
            pytest.raises(InputError, match="SLURM would refuse the job: .*invalid partition"),
        ):
            compare(tmp_path / "d", scheduler="slurm")
        found = compare(tmp_path / "c", scheduler="slurm", jobs=2, progress=killer)
    assert killer.acted and any("was lost" in note for note in killer.notes), killer.notes
    assert content(found) == content(serial)
    check_nothing_twice(found)
    assert sorted((tmp_path / "c" / "cluster").glob("*.out"))
