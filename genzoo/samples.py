"""Samples on disk: NPZ files, image folders and grids. Imports no torch.

An ``.npz`` holds ``images`` uint8 (N, H, W, C) in 0 … 255 or ``points`` float32 (N, D) in the
data's own units, and ``labels`` int64 (N,) where the samples have them. Reading also takes
``arr_0`` (and ``arr_1`` for labels) as `numpy.savez` names arrays without a name, a plain
``.npy``, and a folder of images. Nothing that is read is ever executed or unpickled.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from genzoo.data.pictures import Pixels, drop_color, find_images, read_image
from genzoo.errors import InputError, MachineError, unknown
from genzoo.files import disk_errors, write_bytes
from genzoo.notebook import frame as frame_of

__all__ = ["MAX_BYTES", "SampleSet", "read_image", "read_samples"]

MAX_BYTES = 4 << 30
"""Arrays that would need more memory than this, 4 GiB, are refused before they are read."""

_ARRAYS = ("images", "points", "labels")
_CELL, _GAP = 64, 2  # pixels of a grid


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Samples, checked and in one form, with or without labels.

    Attributes:
        images: (N, H, W, C) uint8 in 0 … 255, C = 1 or 3; ``None`` for points.
        points: (N, D) float32 in the data's units; ``None`` for images.
        labels: (N,) int64, 0 or more; ``None`` where the samples have none.

    Other integer types are converted where their values fit; (N, H, W) becomes
    (N, H, W, 1). Floating-point images are refused, because their range would be a guess.

    Raises:
        InputError: a wrong shape, type, range or length, NaN, or nothing at all.
    """

    images: Pixels | None = None
    points: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Check and normalize."""
        if (self.images is None) == (self.points is None):
            raise InputError("samples are either images or points: give exactly one of them")
        if self.images is not None:
            object.__setattr__(self, "images", _checked_images(self.images))
        if self.points is not None:
            object.__setattr__(self, "points", _checked_points(self.points))
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, len(self)))

    def __len__(self) -> int:
        """Number of samples."""
        data = self.points if self.images is None else self.images
        assert data is not None
        return len(data)

    def frame(self) -> Any:
        """A ``pandas.DataFrame``, a row a sample: ``x0``, ``x1``, … and ``label`` where known.

        Raises:
            InputError: pandas is not installed.
        """
        data = self.points if self.images is None else self.images.reshape(len(self), -1)
        assert data is not None
        columns = {f"x{i}": column for i, column in enumerate(data.T)}
        labels = {} if self.labels is None else {"label": self.labels}
        return frame_of(columns | labels)

    def _repr_html_(self) -> str:
        from genzoo_reports.notebook import samples_html

        return samples_html(self)

    def write_npz(self, path: str | Path) -> None:
        """Write an ``.npz``; equal samples give equal bytes on every machine (no compression)."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        buffer = io.BytesIO()
        np.savez(buffer, **{k: v for k, v in arrays.items() if v is not None})
        write_bytes(Path(path), buffer.getvalue())

    def write_grid_png(
        self, path: str | Path, columns: int | None = None, limit: int | None = 64
    ) -> None:
        """Write a picture: a grid of the first `limit` images, or a scatter plot of all points.

        Args:
            path: of the PNG.
            columns: images in a row; as many as make the grid square where absent.
            limit: most images shown, ``None`` for all.
        """
        picture = _scatter(self.points) if self.points is not None else None
        if self.images is not None:
            picture = _png(image_grid(self.images[:limit], columns))
        assert picture is not None
        write_bytes(Path(path), picture)

    def write_folder(self, folder: str | Path, class_names: Sequence[str] = ()) -> None:
        """Write a PNG per image into a new folder, in a sub-folder per class where labelled.

        Args:
            folder: must not exist, or be empty.
            class_names: names of the sub-folders; the labels' numbers where absent.

        Raises:
            InputError: the samples are points, or the folder is not empty.
            MachineError: the disk failed; no half-written folder is left.
        """
        if self.images is None:
            raise InputError("points cannot be written as a folder of images; write an .npz")
        target = Path(folder).expanduser()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{folder}: exists and is not empty; give a new folder")
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".samples-") as scratch:
                made = Path(scratch) / "folder"
                made.mkdir()
                self._write_pngs(made, class_names)
                if target.exists():
                    target.rmdir()
                os.replace(made, target)

    def _write_pngs(self, folder: Path, class_names: Sequence[str]) -> None:
        assert self.images is not None
        width = len(str(len(self) - 1))
        for i, image in enumerate(self.images):
            place = folder
            if self.labels is not None:
                label = int(self.labels[i])
                name = class_names[label] if label < len(class_names) else str(label)
                place = folder / _folder_name(name)
                place.mkdir(exist_ok=True)
            (place / f"{i:0{width}d}.png").write_bytes(_png(image))


def read_samples(path: str | Path, class_names: Sequence[str] = ()) -> SampleSet:
    """Read samples from an ``.npz``, an ``.npy`` or a folder of images.

    Args:
        path: of the file or folder. Images of a folder must be of one size. Its sub-folders
            are labels where they are class names, or else where all of them are numbers;
            where neither, the samples have no labels.
        class_names: of the data that the samples imitate.

    Raises:
        InputError: there is nothing, it cannot be read, or it is not what it should be.
    """
    place = Path(path)
    try:
        if place.is_dir():
            return _read_folder(place, class_names)
        if not place.exists():
            raise InputError("there is no such file or folder")
        with place.open("rb") as file:
            return _read_file(file)
    except InputError as error:
        named = str(error).startswith(str(place))
        raise InputError(str(error) if named else f"{path}: {error}") from error.__cause__
    except PermissionError:
        raise InputError(f"{path}: no permission to read this") from None
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}") from error


def image_grid(images: Pixels, columns: int | None = None) -> Pixels:
    """Images side by side on white, enlarged by a whole factor so that small ones can be seen.

    Args:
        images: (N, H, W, C) uint8.
        columns: images in a row; square where absent.

    Returns:
        (H', W', C) uint8.
    """
    n, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    if columns < 1:
        raise InputError(f"a grid of {columns} columns: at least 1 is needed")
    factor = max(1, _CELL // max(height, width))
    large = images.repeat(factor, axis=1).repeat(factor, axis=2)
    h, w = height * factor + _GAP, width * factor + _GAP
    grid = np.full((math.ceil(n / columns) * h + _GAP, columns * w + _GAP, channels), 255, np.uint8)
    for i, image in enumerate(large):
        y, x = (i // columns) * h + _GAP, (i % columns) * w + _GAP
        grid[y : y + h - _GAP, x : x + w - _GAP] = image
    return grid


# -- checks -------------------------------------------------------------------------------


def _checked_images(given: ArrayLike) -> Pixels:
    images = np.asarray(given)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        hint = "; points are (N, D)" if images.ndim == 1 else ""
        if images.ndim == 4 and images.shape[1] in (1, 3):
            hint = "; put the channels last, as by transpose(0, 2, 3, 1)"
        shape = np.shape(given)
        raise InputError(f"images have shape {shape}, not (N, H, W, C) with C = 1 or 3{hint}")
    if images.dtype.kind not in "iu":
        hint = "; scale to 0 … 255, round and convert to uint8" if images.dtype.kind == "f" else ""
        raise InputError(f"images are {images.dtype}, not uint8 in 0 … 255{hint}")
    _refuse_empty("images", images)
    if images.dtype != np.uint8 and (images.min() < 0 or images.max() > 255):
        raise InputError(f"images have values in {images.min()} … {images.max()}, beyond 0 … 255")
    return np.ascontiguousarray(images, dtype=np.uint8)


def _checked_points(given: ArrayLike) -> NDArray[np.float32]:
    points = np.asarray(given)
    if points.dtype.kind not in "fiu":
        raise InputError(f"points are {points.dtype}, not float32")
    if points.ndim != 2:
        raise InputError(f"points have shape {points.shape}, not (N, D)")
    _refuse_empty("points", points)
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(points, dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(single).all(1))
    if len(wrong):
        shown = ", ".join(f"{v:g}" for v in points[wrong[0], :3])
        raise InputError(
            f"points must be finite float32, but {len(wrong)} of {len(points)} are not: "
            f"the first is number {wrong[0]}, ({shown}{', …' if points.shape[1] > 3 else ''})"
        )
    return single


def _checked_labels(given: ArrayLike, n: int) -> NDArray[np.int64]:
    labels = np.asarray(given)
    if labels.dtype.kind not in "iu":
        raise InputError(f"labels are {labels.dtype}, not int64")
    if labels.shape != (n,):
        raise InputError(f"labels have shape {labels.shape}, but there are {n} samples: not ({n},)")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int64).max:
        raise InputError(f"labels have values in {labels.min()} … {labels.max()}, not 0 or more")
    return np.ascontiguousarray(labels, dtype=np.int64)


def _refuse_empty(what: str, array: NDArray[Any]) -> None:
    if array.size == 0:
        raise InputError(f"{what} have shape {array.shape}: there is nothing in them")


# -- reading ------------------------------------------------------------------------------


def _read_file(file: IO[bytes]) -> SampleSet:
    head = file.read(6)
    file.seek(0)
    if not head:
        raise InputError("this file is empty")
    if head.startswith(b"\x93NUMPY"):
        size = os.fstat(file.fileno()).st_size
        return _unnamed(_read_array(file, size, "the array"), None)
    if head.startswith(b"PK"):
        return _read_npz(file)
    raise InputError("neither an .npz, an .npy nor a folder of images")


def _read_npz(file: IO[bytes]) -> SampleSet:
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = set(_ARRAYS) & set(sizes)
            if not wanted - {"labels"}:
                wanted = {"arr_0", "arr_1"} & set(sizes)
            if not wanted - {"labels", "arr_1"}:
                names = ", ".join(sorted(sizes)[:8]) or "nothing"
                raise InputError(f"holds {names}, but neither 'images' nor 'points'")
            if sum(sizes[name].file_size for name in wanted) > MAX_BYTES:
                raise InputError(f"holds more than {MAX_BYTES >> 30} GiB; split it")
            arrays = {}
            for name in sorted(wanted):
                with archive.open(sizes[name]) as member:
                    arrays[name] = _read_array(member, sizes[name].file_size, f"'{name}'")
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises anything
        if isinstance(error, (MemoryError, OSError)) and not isinstance(error, EOFError):
            raise
        raise InputError(f"this .npz is damaged ({error})") from error
    if "arr_0" in arrays:
        return _unnamed(arrays["arr_0"], arrays.get("arr_1"))
    return SampleSet(**arrays)


def _unnamed(data: NDArray[Any], labels: NDArray[Any] | None) -> SampleSet:
    """Points if there are two coordinates each, else images."""
    if data.ndim == 2:
        return SampleSet(points=data, labels=labels)
    return SampleSet(images=data, labels=labels)


def _read_array(file: IO[bytes], size: int, what: str) -> NDArray[Any]:
    """An array of the NPY format, whose header is checked before memory is taken for it."""
    start = io.BytesIO(file.read(min(size, 1 << 16)))
    try:
        version = np.lib.format.read_magic(start)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = header(start)
    except Exception as error:
        raise InputError(f"{what} is not in NumPy's .npy format") from error
    if dtype.hasobject:
        raise InputError(f"{what} holds Python objects, which are never loaded; save plain numbers")
    expected = math.prod(shape) * dtype.itemsize
    if expected != size - start.tell() or dtype.itemsize == 0 or min(shape, default=1) < 0:
        raise InputError(
            f"{what} is cut off or damaged: {size - start.tell()} bytes, not {expected}"
        )
    if expected > MAX_BYTES:
        raise InputError(f"{what} needs more than {MAX_BYTES >> 30} GiB; split it")
    buffer = bytearray(start.read())  # writable, as torch wants it
    buffer += file.read()
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if fortran else "C")


def _read_folder(folder: Path, class_names: Sequence[str]) -> SampleSet:
    found = find_images(folder)
    images = [read_image(found.paths[0])]
    for path in found.paths[1:]:
        images.append(read_image(path))
        if images[-1].shape != images[0].shape:
            raise InputError(
                f"{path}: {_size(images[-1])}, but {found.paths[0].name} is {_size(images[0])}; "
                "samples must be of one size"
            )
        if len(images) * images[0].nbytes > MAX_BYTES:
            raise InputError(f"{folder}: holds more than {MAX_BYTES >> 30} GiB of pixels; split it")
    numbers = _folder_labels(found.class_names, class_names)
    labels = None if numbers is None else np.array([numbers[k] for k in found.labels])
    return SampleSet(images=drop_color(np.stack(images)), labels=labels)


def _folder_labels(folders: Sequence[str], class_names: Sequence[str]) -> list[int] | None:
    """The label that each sub-folder's name means; ``None`` where they mean none."""
    known = {_folder_name(name): label for label, name in enumerate(class_names)}
    strange = [name for name in folders if name not in known]
    if not folders:
        return None
    if not strange:
        return [known[name] for name in folders]
    if all(name.isascii() and name.isdigit() and len(name) < 19 for name in folders):
        return [int(name) for name in folders]
    if len(strange) < len(folders):
        raise unknown("class folder", strange[0], known)
    return None


# -- writing ------------------------------------------------------------------------------


def _folder_name(class_name: str) -> str:
    """A class name as the name of a folder: no separators, not hidden."""
    return class_name.replace("/", "-").replace("\\", "-").lstrip(".") or "_"


def _size(image: Pixels) -> str:
    return f"{image.shape[1]}x{image.shape[0]} pixels"


def _png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _scatter(points: NDArray[np.float32]) -> bytes:
    """The first two coordinates; the only one against zero where there is no second."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(5, 5), dpi=100, layout="tight")
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(
        points[:, 0],
        points[:, 1] if points.shape[1] > 1 else 0 * points[:, 0],
        s=2,
        linewidths=0,
        alpha=0.6,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
