"""What a training costs the machine: memory, energy, and how much of its speed is used.

What cannot be measured is ``None``, never an estimate.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genzoo.training.acceleration import Acceleration
from genzoo.training.device import synchronize

POWERCAP = Path("/sys/class/powercap")
PROCESS = Path("/proc/self")
SIDE = {"cpu": 1024, "cuda": 8192, "mps": 2048}  # of the matrices that are multiplied
MOST_SECONDS = 0.3


class Meter:
    """Memory and energy of a training from here to `reading`."""

    def __init__(self, device: torch.device, energy: EnergyCounter | None = None) -> None:
        """Begin; peaks of before are forgotten where the system can forget them."""
        self._device = device
        self._energy = energy or EnergyCounter(device)
        self._resettable = _reset_peak_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._begun = self._energy.joules()

    def reading(self) -> dict[str, Any]:
        """Costs so far.

        Returns:
            ``peak_memory_bytes`` of the process, libraries and data included, ``None`` where only
            that of its whole life is known; ``device_memory_bytes`` of the GPU's allocator;
            ``energy_joules`` and ``energy_source``.
        """
        now = self._energy.joules()
        measured = now is not None and self._begun is not None
        return {
            "peak_memory_bytes": _peak_memory() if self._resettable else None,
            "device_memory_bytes": _device_memory(self._device),
            "energy_joules": now - self._begun if measured else None,  # type: ignore[operator]
            "energy_source": self._energy.source if measured else None,
        }


def joined(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Costs of a training in two parts: the larger memory, the sum of the energies."""
    memory = {
        name: max((r[name] for r in (earlier, later) if r.get(name) is not None), default=None)
        for name in ("peak_memory_bytes", "device_memory_bytes")
    }
    energies = [earlier.get("energy_joules"), later["energy_joules"]]
    same = earlier.get("energy_source") == later["energy_source"]
    known = same and None not in energies
    return {
        **memory,
        "energy_joules": sum(energies) if known else None,
        "energy_source": later["energy_source"] if known else None,
    }


class EnergyCounter:
    """Joules that a device has taken so far: a GPU's own counter, or the CPU packages' RAPL.

    The packages' counter holds all that ran on the machine, not this process alone.

    Attributes:
        source: what is read, ``None`` where there is nothing to read.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP) -> None:
        """Find the counters of `device`."""
        self.source: str | None = None
        self._read: Callable[[], float] | None = None
        if device.type == "cuda":
            self._read = _nvml_counter(device)
            self.source = "GPU, by NVML" if self._read else None
        elif device.type == "cpu":
            packages = [Package(path) for path in sorted(powercap.glob("intel-rapl:[0-9]"))]
            if packages and all(package.readable() for package in packages):
                self._read = lambda: sum(package.joules() for package in packages)
                self.source = "CPU packages with all that ran on them, by RAPL"

    def joules(self) -> float | None:
        """Since some moment; ``None`` where it cannot be read."""
        if self._read is None:
            return None
        try:
            return self._read()
        except Exception:  # a driver may raise anything; energy is then unmeasured
            return None


class Package:
    """A RAPL domain, whose counter starts again from 0 at its end.

    It is read often enough only if nobody waits longer than it takes to go round: about an hour
    for a server under load.
    """

    def __init__(self, path: Path) -> None:
        """`path` is a folder of the powercap tree."""
        self._path, self._rounds, self._last = path, 0, 0

    def readable(self) -> bool:
        """Whether this process may read it."""
        try:
            self.joules()
        except (OSError, ValueError):
            return False
        return True

    def joules(self) -> float:
        """Since some moment."""
        now = int((self._path / "energy_uj").read_text())
        if now < self._last:
            self._rounds += 1
        self._last = now
        top = int((self._path / "max_energy_range_uj").read_text()) if self._rounds else 0
        return (now + self._rounds * top) / 1e6


def matmul_rate(device: torch.device, acceleration: Acceleration, seconds: float) -> float:
    """FLOP/s of the device's best product of two large matrices in the training's precision.

    Args:
        device: as used for the training, with its threads.
        acceleration: its precision.
        seconds: of the training; a fiftieth of it is spent here at most.
    """
    side = SIDE.get(device.type, 1024) if seconds >= 1 else 256
    a = torch.randn(side, side, device=device)
    b = torch.randn(side, side, device=device)
    if acceleration.precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    best, limit = float("inf"), min(MOST_SECONDS, seconds / 50)
    begun = time.perf_counter()
    with acceleration.computing(device), torch.no_grad():
        a @ b  # the first one sets things up
        while best == float("inf") or time.perf_counter() - begun < limit:
            synchronize(device)
            start = time.perf_counter()
            a @ b
            synchronize(device)
            best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _reset_peak_memory() -> bool:
    """Linux can forget a process's peak; elsewhere there is only that of its whole life."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_memory() -> int | None:
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _device_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return None


def _nvml_counter(device: torch.device) -> Callable[[], float] | None:
    try:
        import pynvml  # type: ignore[import-not-found,unused-ignore]

        pynvml.nvmlInit()
        # torch and NVML may number GPUs differently, so they are matched by their identifier
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no driver, or a GPU without a counter
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
