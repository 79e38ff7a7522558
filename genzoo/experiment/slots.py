"""One machine for several runs at a time: cores and GPUs of its own for each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from genzoo.errors import InputError
from genzoo.machine import available_cores
from genzoo.training.device import kind_of_several, resolve_device
from genzoo.types import Budget

GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slots:
    """What each of the runs at a time gets.

    Attributes:
        count: runs at a time.
        device: what each is told.
        threads: of each process of a run; torch's choice where absent.
        cores: of each run; ``None`` where it may use all.
        gpus: of each run, as the value of `GPUS`; empty where it is told by `device`.
    """

    count: int
    device: str
    threads: int | None = None
    cores: int | None = None
    gpus: tuple[str, ...] = ()

    @property
    def environments(self) -> tuple[Mapping[str, str], ...]:
        """Variables of the processes in each slot; empty where they need none."""
        return tuple({GPUS: self.gpus[k % len(self.gpus)]} for k in range(self.count) if self.gpus)

    def pin(self, pid: int, slot: int) -> None:
        """Give a process that has just begun the cores of its slot, if there are that many."""
        if self.cores is None or not hasattr(os, "sched_setaffinity"):
            return
        own = sorted(os.sched_getaffinity(0))[slot * self.cores : (slot + 1) * self.cores]
        if len(own) == self.cores:
            with contextlib.suppress(OSError):  # it may have ended already
                os.sched_setaffinity(pid, own)


def share_out(jobs: int, devices: int, threads: int | None, device: str, budget: Budget) -> Slots:
    """Cores and GPUs of `jobs` runs at a time, each on `devices` devices.

    Raises:
        InputError: there are too few devices, or seconds would be measured on cores or a GPU
            that several runs fight for.
    """
    asked = device.strip().lower()
    if devices > 1:
        kind = kind_of_several(asked, devices)
    else:
        place = resolve_device(asked)
        kind = place.type if asked in ("auto", place.type) else str(place)
    processes, cores = jobs * devices, available_cores()
    if processes == 1:
        return Slots(1, str(resolve_device(asked)), threads)
    each = max(1, cores // processes) if threads is None else threads
    gpus = _gpus(jobs, devices) if kind == "cuda" and jobs > 1 else ()
    if jobs > 1 and budget.unit == "seconds":
        if kind != "cpu" and len(set(gpus)) < jobs:
            raise InputError(
                f"--jobs {jobs} on fewer GPUs than that: a budget in seconds would not be fair; "
                "use fewer jobs, or a budget in steps, images or flops"
            )
        if processes * each > cores:
            shared = f"--jobs {jobs}" + (f" on {devices} devices each" if devices > 1 else "")
            raise InputError(
                f"{shared} with {each} threads each on {cores} cores: a budget in seconds would "
                "not be fair; use fewer jobs, or a budget in steps, images or flops"
            )
    return Slots(jobs, kind, each, each * devices if jobs > 1 else None, gpus)


def _gpus(jobs: int, devices: int) -> tuple[str, ...]:
    """The GPUs of each slot: disjoint where there are enough; single ones are shared otherwise."""
    there = _visible()
    if devices > 1 and jobs * devices > len(there):
        raise InputError(
            f"--jobs {jobs} --devices {devices}: this machine has {len(there)} CUDA devices, not "
            f"{jobs * devices}; use fewer"
        )
    slots = min(jobs, len(there) // devices)
    return tuple(",".join(there[k * devices : (k + 1) * devices]) for k in range(slots))


def _visible() -> Sequence[str]:
    """Names of the GPUs that this process sees, as `GPUS` has them."""
    named = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(number) for number in range(count)]
