"""What evaluation remembers between calls: extractors and what real data score.

Everything here can be made again, so a cache that cannot be read or written is a note, never
an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genzoo.errors import GenzooError
from genzoo.files import atomic_path, read_json, write_json
from genzoo.progress import Progress

SCHEMA = 1


def cache_folder(cache: str | Path | None = None) -> Path:
    """The folder asked for, else ``GENZOO_CACHE``, else ``~/.cache/genzoo``."""
    if cache is not None:
        return Path(cache)
    named = os.environ.get("GENZOO_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "genzoo"


def remembered(
    path: Path, make: Callable[[], Mapping[str, float]], progress: Progress
) -> dict[str, float]:
    """Numbers by name from a JSON file, or made now and written there."""
    if path.exists():
        try:
            return {k: float(v) for k, v in read_json(path, SCHEMA)["numbers"].items()}
        except (GenzooError, KeyError, TypeError, ValueError, AttributeError):
            progress.note(f"'{path}' is damaged; measured again")
    numbers = dict(make())
    raw: dict[str, Any] = {"schema": SCHEMA, "numbers": numbers}
    keep(path, lambda: write_json(path, raw), progress)
    return numbers


def remembered_tensors(
    path: Path, make: Callable[[], Mapping[str, Tensor]], progress: Progress
) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file that is what was written, or made now and kept."""
    if path.exists():
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads(file.metadata()["genzoo"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if content_hash(found) != told["sha256"]:
                raise ValueError("its content does not match its hash")
            return found
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            progress.note(f"'{path}' cannot be used ({error}); made again")
    tensors = {name: value.cpu().contiguous() for name, value in make().items()}

    def write() -> None:
        told = {"genzoo": json.dumps({"sha256": content_hash(tensors)})}
        with atomic_path(path) as beside:
            save_file(tensors, beside, metadata=told)

    keep(path, write, progress)
    return tensors


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and contents of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name].detach().cpu().numpy())
        digest.update(f"{name};{array.dtype.str};{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def keep(path: Path, write: Callable[[], None], progress: Progress) -> None:
    """Write into the cache, or say that it did not work."""
    try:
        write()
    except (GenzooError, OSError, RuntimeError) as error:
        progress.note(f"not cached: {error}; set GENZOO_CACHE to a folder that can be written")
