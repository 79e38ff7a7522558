"""Several models, several seeds, one budget, one report.

A comparison is a folder: `compare.json` is the plan, `runs/<model>-s<seed>` are its runs, and
the report lies beside them. Carrying out the same plan again does only what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genzoo.data import Dataset, open_dataset
from genzoo.errors import InputError, Interrupted, PartialFailure
from genzoo.experiment.cluster import Scheduler, find_scheduler, on_cluster
from genzoo.experiment.plan import (
    Model,
    distinct,
    find_sources,
    open_plan,
    settings_by_model,
    threads_of_each,
)
from genzoo.experiment.result import Comparison, ComparisonFailed
from genzoo.experiment.runners import Task, in_processes, one_by_one
from genzoo.files import slug
from genzoo.notebook import listener
from genzoo.progress import Progress
from genzoo.registry import CONTROLS, DEFAULT_MODELS
from genzoo.runs import SCHEMA, is_run, lock
from genzoo.training import resolve_device
from genzoo.training.interruption import Interruption
from genzoo.training.loading import ModelSource
from genzoo.training.loggers import check_trackers
from genzoo.types import Budget

__all__ = ["Comparison", "ComparisonFailed", "compare"]


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
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
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
    for name, value, least in (("seeds", seeds, 1), ("jobs", jobs, 1), ("samples", samples, 1)):
        if value < least:
            raise InputError(f"--{name} {value}: must be at least {least}")
    check_trackers(log)
    parsed = Budget.parse(budget)
    cluster = None if scheduler is None else find_scheduler(scheduler, jobs, threads)
    if cluster is not None and cluster.is_elsewhere:
        place, each = device, cluster.threads  # which device there is, each worker knows
    else:
        place, each = str(resolve_device(device)), threads_of_each(jobs, threads, parsed)
    apart = "jobs > 1" if jobs > 1 else None if scheduler is None else "scheduler"
    if apart and not isinstance(data, str):
        raise InputError(f"{apart} needs the name of a dataset, which each process opens")
    contenders, baselines = distinct(models), distinct(controls)
    sources = find_sources([*contenders, *baselines], apart)
    own = settings_by_model(settings or {}, sources)
    dataset = (
        data
        if isinstance(data, Dataset)
        else open_dataset(data, data_root, size=size, progress=progress)
    )
    path = Path(out) if out is not None else _default_path(dataset, parsed)
    plan = {
        "schema": SCHEMA,
        "kind": "comparison",
        "models": [sources[m].name for m in contenders],
        "controls": [sources[m].name for m in baselines],
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "budget": str(parsed),
        "seeds": seeds,
        "settings": {
            sources[m].name: sources[m].settings(own[m], dataset.spec, preset) for m in sources
        },
        "conditional": conditional,
        "samples": samples,
        "jobs": jobs,
        "scheduler": scheduler,
        "command": [str(part) for part in sys.argv],
    }
    common = {
        "budget": parsed,
        "conditional": conditional,
        "device": place,
        "preset": preset,
        "precision": precision,
        "compiled": compiled,
        "channels_last": channels_last,
        "samples": samples,
        "data_root": data_root,
        "size": size,
        "threads": each,
        "log": tuple(log),
    }
    wanted = [(m, s) for m in contenders for s in range(seeds)] + [(m, 0) for m in baselines]
    tasks = [_task(path, sources[m], m, seed, own[m], common) for m, seed in wanted]
    comparison = _carry_out(path, plan, tasks, dataset, jobs, cluster, progress)
    if comparison.failed:
        raise ComparisonFailed(comparison)
    return comparison


def _task(
    path: Path,
    source: ModelSource,
    model: Model,
    seed: int,
    settings: Mapping[str, Any],
    common: Mapping[str, Any],
) -> Task:
    named = source.name if isinstance(model, str) else model
    folder = path / "runs" / f"{source.short}-s{seed}"
    return Task(named, folder, {**common, "seed": seed, "settings": settings})


def _carry_out(
    path: Path,
    plan: Mapping[str, Any],
    tasks: Sequence[Task],
    dataset: Dataset,
    jobs: int,
    cluster: Scheduler | None,
    progress: Progress,
) -> Comparison:
    with Interruption(), _resumable(path), lock(path):
        open_plan(path, plan)
        if cluster is not None:
            failed = on_cluster(tasks, dataset, cluster, path, progress)
        elif jobs == 1:
            failed = one_by_one(tasks, dataset, progress)
        else:
            failed = in_processes(tasks, dataset, jobs, progress)
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


def _default_path(dataset: Dataset, budget: Budget) -> Path:
    return Path("runs") / f"compare-{slug(dataset.name)}-{budget}"


def _report(path: Path, tasks: Sequence[Task], failed: Mapping[str, str]) -> Path:
    from genzoo_reports.report import write_report

    folders = [task.path for task in tasks if is_run(task.path)]
    if not folders:
        name, reason = next(iter(failed.items()))
        raise PartialFailure(f"none of {len(tasks)} runs could begin; {name}: {reason}")
    return write_report([*folders, path], path)
