"""Where training runs, and randomness that leaves the caller's as it was."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from genzoo.errors import InputError, MachineError
from genzoo.machine import available_cores


def available_devices() -> list[str]:
    """Names that `resolve_device` takes on this machine, beside ``auto``."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name.

    Args:
        name: ``auto`` (CUDA or MPS where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        InputError: no such device here; names those that are.
    """
    there = available_devices()
    name = str(name).strip().lower()
    if name == "auto":
        name = next((d for d in ("cuda", "mps") if d in there), "cpu")
    if name not in there:
        raise InputError(f"device '{name}' is not there; this machine has: {', '.join(there)}")
    return torch.device("cuda:0" if name == "cuda" else name)


def kind_of_several(name: str, devices: int) -> str:
    """``cpu`` or ``cuda``: on which kind a training on several devices of a machine goes.

    Raises:
        InputError: another kind, or not so many.
    """
    kind = str(name).strip().lower()
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--devices {devices}: --device must be cpu, cuda or auto, not '{kind}'")
    there = torch.cuda.device_count()
    if kind == "cuda" and there < devices:
        raise InputError(
            f"--devices {devices}: this machine has {there} CUDA devices; ask for fewer, "
            "or for --device cpu"
        )
    return kind


def spare_cores(device: torch.device, processes: int = 1) -> int:
    """Cores that work on a device leaves to others.

    Args:
        device: half of the cores are enough to feed a GPU; the CPU needs one for each thread.
        processes: that work so on this machine.
    """
    own = max(1, available_cores() // processes)
    return max(1, own // 2) if device.type != "cpu" else max(0, own - torch.get_num_threads())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that clocks tell the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of `device`, and no others."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[_index(device)].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def isolated_rng(device: torch.device) -> Iterator[None]:
    """Leave torch's global generators of the CPU and of `device` as they were found."""
    cpu = torch.get_rng_state()
    if device.type == "cuda":
        torch.cuda.init()
        there = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        there = torch.mps.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if device.type == "cuda":
            torch.cuda.set_rng_state(there, device)
        elif device.type == "mps":
            torch.mps.set_rng_state(there)


@contextmanager
def limited_threads(threads: int | None) -> Iterator[int]:
    """Use `threads` CPU threads inside, torch's own choice where ``None``; yields the number.

    Raises:
        InputError: less than one thread.
    """
    before = torch.get_num_threads()
    if threads is not None and threads < 1:
        raise InputError(f"--threads {threads}: at least 1 is needed")
    if threads is not None and threads != before:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turn the several ways in which memory runs out into one error.

    Raises:
        MachineError: out of memory during `what`.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(what) from error
    except RuntimeError as error:
        # The CPU allocator raises a plain RuntimeError.
        if "DefaultCPUAllocator" in str(error):
            raise _out_of_memory(what) from error
        raise


def describe_machine(device: torch.device) -> dict[str, str | int | None]:
    """Platform, processor, cores and GPU, for the record."""
    gpu = None
    if device.type == "cuda":
        gpu = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        gpu = "Apple MPS"
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "gpu": gpu,
    }


def _out_of_memory(what: str) -> MachineError:
    return MachineError(
        f"out of memory during {what}; use a smaller batch (--set batch_size=...), "
        "a smaller model or another device"
    )


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
