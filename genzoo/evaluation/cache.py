"""What evaluation remembers between calls: extractors and what real data score.

Everything here can be made again, so a cache that cannot be read or written is a note, never
an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genzoo.errors import GenzooError
from genzoo.files import read_json, write_json
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


def keep(path: Path, write: Callable[[], None], progress: Progress) -> None:
    """Write into the cache, or say that it did not work."""
    try:
        write()
    except (GenzooError, OSError, RuntimeError) as error:
        progress.note(f"not cached: {error}; set GENZOO_CACHE to a folder that can be written")
