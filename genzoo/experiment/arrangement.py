"""What a comparison will do, checked before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.data import Dataset, open_dataset
from genzoo.errors import InputError
from genzoo.experiment.cluster import Scheduler, find_scheduler
from genzoo.experiment.plan import (
    Model,
    distinct,
    find_sources,
    settings_by_model,
)
from genzoo.experiment.runners import Task
from genzoo.experiment.slots import Slots, share_out
from genzoo.files import slug
from genzoo.progress import Progress
from genzoo.registry import CONTROLS, DEFAULT_MODELS
from genzoo.runs import SCHEMA
from genzoo.training.loading import ModelSource
from genzoo.training.loggers import check_trackers
from genzoo.types import Budget


@dataclass(frozen=True)
class Arrangement:
    """A comparison that may begin.

    Attributes:
        path: of its folder, which may not be there yet.
        plan: for `compare.json`.
        tasks: the runs, in their order.
        dataset: opened.
        budget: of each run.
        slots: of the runs at a time, where they happen on this machine.
        scheduler: of a cluster, where one was asked for.
    """

    path: Path
    plan: dict[str, Any]
    tasks: list[Task]
    dataset: Dataset
    budget: Budget
    slots: Slots
    scheduler: Scheduler | None


def arrange(
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
) -> Arrangement:
    """Find models, data and cluster; the arguments are those of `genzoo.compare`.

    Raises:
        InputError: the call is wrong.
    """
    counts = {"seeds": seeds, "jobs": jobs, "devices": devices, "samples": samples}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    check_trackers(log)
    parsed = Budget.parse(budget)
    cluster = None if scheduler is None else find_scheduler(scheduler, jobs, threads, devices)
    if cluster is not None and cluster.is_elsewhere:
        slots = Slots(jobs, device, cluster.threads)  # which device there is, each worker knows
    else:
        slots = share_out(jobs, devices, threads, device, parsed)
    apart = "jobs > 1" if jobs > 1 else "devices > 1" if devices > 1 else None
    apart = apart if scheduler is None else "scheduler"
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
        "devices": devices,
        "scheduler": scheduler,
        "command": [str(part) for part in sys.argv],
    }
    common = {
        "budget": parsed,
        "conditional": conditional,
        "device": slots.device,
        "devices": devices,
        "preset": preset,
        "precision": precision,
        "compiled": compiled,
        "channels_last": channels_last,
        "samples": samples,
        "data_root": data_root,
        "size": size,
        "threads": slots.threads,
        "log": tuple(log),
    }
    wanted = [(m, s) for m in contenders for s in range(seeds)] + [(m, 0) for m in baselines]
    tasks = [_task(path, sources[m], m, seed, own[m], common) for m, seed in wanted]
    return Arrangement(path, plan, tasks, dataset, parsed, slots, cluster)


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


def _default_path(dataset: Dataset, budget: Budget) -> Path:
    return Path("runs") / f"compare-{slug(dataset.name)}-{budget}"
