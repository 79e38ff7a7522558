"""What this machine has for genzoo, what is missing and how to get it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from genzoo.errors import MachineError
from genzoo.machine import available_cores

State = Literal["ok", "note", "missing"]

_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "matplotlib": "matplotlib",
    "pillow": "PIL",
    "torch-fidelity": "torch_fidelity",
    "safetensors": "safetensors",
    "click": "click",
    "rich": "rich",
    "jinja2": "jinja2",
}
LITTLE_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: ``ok``; ``note``, works with a limit; ``missing``, genzoo cannot do without it.
        detail: what was found.
        remedy: how to mend it; empty where nothing is to be mended.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether genzoo can do its work here."""
        return all(finding.state != "missing" for finding in self.findings)

    @property
    def failure(self) -> MachineError | None:
        """What to raise where genzoo cannot work."""
        missing = [finding.name for finding in self.findings if finding.state == "missing"]
        return MachineError(f"missing: {', '.join(missing)}") if missing else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {"works": self.works, "findings": [asdict(f) for f in self.findings]}


def examine() -> Diagnosis:
    """Look at versions, devices, threads, folders and disk; imports every dependency."""
    return Diagnosis(
        (
            _python(),
            _genzoo(),
            *(_package(name, module) for name, module in _PACKAGES.items()),
            *_torchvision(),
            *_devices(),
            *_computation(),
            _threads(),
            *_folders(),
        )
    )


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _genzoo() -> Finding:
    from genzoo import __version__

    return Finding("genzoo", "ok", f"{__version__} in {Path(__file__).parent}")


def _package(name: str, module: str) -> Finding:
    """Whether a dependency is installed and imports."""
    try:
        number = version(name)
    except PackageNotFoundError:
        return Finding(name, "missing", "not installed", f"pip install {name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything; saying so is the point
        text = f"{number} fails to import: {error}".splitlines()[0]
        return Finding(name, "missing", text, f"pip install --force-reinstall {name}")
    return Finding(name, "ok", number)


def _torchvision() -> Iterator[Finding]:
    """Whether torchvision brought its compiled operators or goes without."""
    try:
        import torch
        import torchvision.extension  # noqa: F401
    except Exception:  # whatever it raised was reported with the packages
        return
    if hasattr(torch.ops.torchvision, "roi_align"):
        yield Finding("torchvision operators", "ok", "compiled")
    else:
        yield Finding(
            "torchvision operators",
            "note",
            "built for another torch; genzoo goes without them and needs none",
        )


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception:  # whatever it raised was reported with the packages
        return
    yield Finding("cpu", "ok", f"{platform.processor() or platform.machine()}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            memory = properties.total_memory / 2**30
            yield Finding(f"cuda:{i}", "ok", f"{properties.name}, {memory:.0f} GiB")
    elif torch.version.cuda or torch.version.hip:
        yield Finding("cuda", "note", "torch is built for it, but it finds no GPU or driver")
    else:
        yield Finding("cuda", "note", "this torch is built without it")
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")


def _computation() -> Iterator[Finding]:
    """How a training of images computes here where nothing else is asked for, and its costs."""
    try:
        from genzoo.training.acceleration import precisions_of
        from genzoo.training.device import resolve_device
        from genzoo.training.meter import EnergyCounter
    except Exception:  # whatever it raised was reported with the packages
        return
    device = resolve_device("auto")
    able = precisions_of(device)
    detail = f"{able[0]} for images, fp32 for points (--precision); {device} does {', '.join(able)}"
    yield Finding("precision", "ok", detail)
    if device.type == "cuda":
        yield Finding("compilation", "ok", "for long trainings of images (--compile)")
    elif shutil.which("g++") or shutil.which("clang++"):
        yield Finding("compilation", "ok", "off unless asked for (--compile)")
    else:
        yield Finding(
            "compilation", "note", "no C++ compiler, which only --compile needs", "install g++"
        )
    energy = EnergyCounter(device)
    if energy.source:
        yield Finding("energy", "ok", energy.source)
    else:
        remedy = "pip install 'genzoo[energy]'" if device.type == "cuda" else ""
        yield Finding("energy", "note", "unmeasured: no counter that may be read", remedy)


def _threads() -> Finding:
    cores = available_cores()
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    limit = os.environ.get("OMP_NUM_THREADS")
    detail = f"{threads} on {cores} cores" + (f" (OMP_NUM_THREADS={limit})" if limit else "")
    if threads < cores and limit:
        return Finding(
            "threads", "note", detail, "unset OMP_NUM_THREADS, or give --threads, to use all cores"
        )
    return Finding("threads", "ok", detail)


def _folders() -> Iterator[Finding]:
    """The places that are written: cache, data and runs."""
    from genzoo.evaluation.cache import cache_folder

    yield _folder("cache", cache_folder(), "set GENZOO_CACHE to a folder that can be written")
    try:
        from genzoo.data.images import data_root
    except ImportError:
        pass  # without torch, which was said above
    else:
        remedy = "set GENZOO_DATA to a folder that can be written, or give --data-root"
        yield _folder("data", data_root(None), remedy)
    yield _folder("runs", Path("runs").resolve(), "give --out with a folder that can be written")


def _folder(name: str, path: Path, remedy: str) -> Finding:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(name, "note", f"{path}: {error.strerror}", remedy)
    detail = f"{path}, {free / 1e9:.1f} GB free"
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Finding(name, "note", f"{path} cannot be written", remedy)
    if free < LITTLE_DISK_BYTES:
        return Finding(name, "note", detail, "free some disk space")
    return Finding(name, "ok", detail)
