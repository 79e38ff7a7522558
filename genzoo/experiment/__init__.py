"""Several models, several seeds, one budget, one report.

A comparison is a folder: `compare.json` is the plan, `runs/<model>-s<seed>` are its runs, and
the report lies beside them. Carrying out the same plan again does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genzoo.data import Dataset
from genzoo.errors import Interrupted, PartialFailure
from genzoo.experiment.arrangement import Arrangement, arrange
from genzoo.experiment.cluster import on_cluster
from genzoo.experiment.forecasting import Forecast, forecast
from genzoo.experiment.plan import Model, open_plan
from genzoo.experiment.result import Comparison, ComparisonFailed
from genzoo.experiment.runners import Task, in_processes, one_by_one
from genzoo.notebook import listener
from genzoo.progress import Progress
from genzoo.registry import CONTROLS, DEFAULT_MODELS
from genzoo.runs import is_run, lock
from genzoo.training.interruption import Interruption
from genzoo.types import Budget

__all__ = ["Comparison", "ComparisonFailed", "Forecast", "compare", "forecast"]


def compare(
    models: Sequence[Model] | str = DEFAULT_MODELS,
    data: str | Dataset = "digits",
    *,
    budget: str | Budget = "12s",
    seeds: int = 3,
    jobs: int = 1,
    scheduler: str | None = None,
    controls: Sequence[str] | str = CONTROLS,
    out: str | Path | None = None,
    conditional: bool | None = None,
    device: str = "auto",
    devices: int = 1,
    preset: str = "auto",
    precision: str = "auto",
    compiled: bool | None = None,
    channels_last: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    samples: int = 1000,
    data_root: str | Path | None = None,
    size: int | None = None,
    threads: int | None = None,
    log: Sequence[str] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Train every model with every seed under the same budget, and write one report.

    Calling it again with the same plan does only what is missing: finished runs are kept,
    an interrupted or failed one goes on.

    Args:
        models: names, ``FILE.py:Class`` or classes.
        data: a dataset's name, or an opened dataset.
        budget: of each run.
        seeds: runs of each model, with seeds 0, 1, ….
        jobs: runs at a time, each in its own process.
        scheduler: a Dask cluster to carry out the runs: ``local`` (`jobs` processes here),
            ``slurm``, ``pbs``, ``lsf`` or ``sge`` (up to `jobs` jobs), or the address of one's
            own, such as ``tcp://10.0.0.1:8786``; the folder must lie where all machines see it.
        controls: baselines with known faults, one run each; ``()`` or ``none`` for none.
        out: folder; ``runs/compare-<data>-<budget>`` where absent.
        conditional: whether models are shown labels; where absent, if the data have some.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; of several GPUs each of `jobs`
            runs gets its own.
        devices: on which each run trains together, see `genzoo.train`.
        preset: size of the models, ``tiny``, ``small`` or ``base``; ``auto`` goes by the data's.
        precision: of training: ``fp32``, ``tf32`` or ``bf16``; ``auto`` goes by the device.
        compiled: whether to compile the networks; where absent, by device and budget.
        channels_last: whether images lie in memory pixel by pixel; where absent, by the device.
        settings: ``{"vae.width": 128}``, by model and name.
        samples: how many are drawn and evaluated.
        data_root: where downloaded data lie.
        size: side of the images of a folder.
        threads: CPU threads of each run.
        log: ``tensorboard``, ``wandb``: trackers of each run beside its `history.jsonl`.
        progress: told how far it is.

    Raises:
        InputError: the call is wrong, or `out` holds another comparison.
        ComparisonFailed: some runs failed; raised after the report is written, with the
            `comparison`.
        Interrupted: by Ctrl-C or SIGTERM; the same call goes on.
    """
    progress = listener(progress)
    arranged = arrange(
        models,
        data,
        budget=budget,
        seeds=seeds,
        jobs=jobs,
        scheduler=scheduler,
        controls=controls,
        out=out,
        conditional=conditional,
        device=device,
        devices=devices,
        preset=preset,
        precision=precision,
        compiled=compiled,
        channels_last=channels_last,
        settings=settings,
        samples=samples,
        data_root=data_root,
        size=size,
        threads=threads,
        log=log,
        progress=progress,
    )
    comparison = _carry_out(arranged, progress)
    if comparison.failed:
        raise ComparisonFailed(comparison)
    return comparison


def _carry_out(arranged: Arrangement, progress: Progress) -> Comparison:
    path, tasks, dataset = arranged.path, arranged.tasks, arranged.dataset
    with Interruption(), _resumable(path), lock(path):
        open_plan(path, arranged.plan)
        if arranged.scheduler is not None:
            failed = on_cluster(tasks, dataset, arranged.scheduler, arranged.slots, path, progress)
        elif arranged.slots.count == 1:
            failed = one_by_one(tasks, dataset, progress)
        else:
            failed = in_processes(tasks, dataset, arranged.slots, progress)
        report = _report(path, tasks, failed)
    return Comparison(path, tuple(task.path for task in tasks), failed, report)


@contextmanager
def _resumable(path: Path) -> Iterator[None]:
    """Say how an interrupted comparison goes on."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            f"comparison stopped; '{path}' is saved: the same command goes on with it"
        ) from None


def _report(path: Path, tasks: Sequence[Task], failed: Mapping[str, str]) -> Path:
    from genzoo_reports.report import write_report

    folders = [task.path for task in tasks if is_run(task.path)]
    if not folders:
        name, reason = next(iter(failed.items()))
        raise PartialFailure(f"none of {len(tasks)} runs could begin; {name}: {reason}")
    return write_report([*folders, path], path)
