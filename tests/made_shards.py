"""Small shards and parquet files of pictures, written by the libraries that people use."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pictures(n: int, seed: int = 0, side: int = 8, channels: int = 1) -> NDArray[np.uint8]:
    """Different pictures, (n, side, side) or (n, side, side, 3)."""
    shape = (n, side, side) if channels == 1 else (n, side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(picture: NDArray[np.uint8], form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form)
    return file.getvalue()


def write_tar(
    path: Path, entries: Iterable[tuple[str | tarfile.TarInfo, bytes]], mtime: float = 0
) -> Path:
    """Members in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if isinstance(name, str):
                info.size, info.mtime = len(content), mtime  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(content) if content else None)
    return path


def samples(
    images: Sequence[NDArray[np.uint8]], labels: Sequence[object] | None = None, first: int = 0
) -> list[tuple[str, bytes]]:
    """``000001.png`` and, with labels, ``000001.cls``."""
    found = []
    for i, image in enumerate(images):
        found.append((f"{first + i:06d}.png", encoded(image)))
        if labels is not None:
            found.append((f"{first + i:06d}.cls", str(labels[i]).encode()))
    return found


def write_shards(
    folder: Path, n: int = 120, files: int = 4, classes: int = 3, seed: int = 0, **more: int
) -> str:
    """Some tars of n pictures together; returns the name of the data."""
    images = pictures(n, seed, **more)
    labels = [i % classes for i in range(n)] if classes else None
    edges = np.linspace(0, n, files + 1).astype(int)
    for k, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        own = None if labels is None else labels[a:b]
        write_tar(folder / f"part-{k:03d}.tar", samples(images[a:b], own, a))
    return f"shards:{folder}/part-*.tar"
