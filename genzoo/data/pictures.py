"""Image files: the one place that finds, opens and normalizes them. Imports no torch.

What becomes of a file, whatever it is:

- the first frame of an animation, upright as its EXIF orientation says;
- 8 bits a channel: 16-bit gray is divided by 257, 16-bit color loses its low byte;
- gray, palette, CMYK and other modes become RGB; color profiles are ignored;
- transparency is composited on white;
- with a size, the largest centered square is cut out and resized (bicubic, antialiased).
  That is the same as resizing the shorter side and cutting out the center.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from genzoo.errors import InputError

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000


def read_image(path: str | Path, size: int | None = None) -> Pixels:
    """One image file as RGB.

    Args:
        path: of the file.
        size: height and width wanted; the file's own where absent.

    Returns:
        (H, W, 3) uint8; the three channels are equal where the image is gray.

    Raises:
        InputError: the file is missing, empty, corrupt, unreadable or above `MAX_PIXELS`.
    """
    if not os.path.isfile(path):  # a pipe would block, a broken link has nothing to read
        raise InputError(f"{path}: not a file that can be read as an image")
    try:
        with open(path, "rb") as file:
            return decode_image(file, str(path), size)
    except PermissionError:
        raise InputError(f"{path}: no permission to read this image") from None


def decode_image(file: BinaryIO, name: str, size: int | None = None) -> Pixels:
    """One encoded image, from a file or from memory, as RGB; see `read_image`."""
    image = decode_plain(file, name, size)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)


def decode_plain(file: BinaryIO, name: str, size: int | None = None) -> Pixels:
    """`decode_image`, but (H, W) of most that is stored in gray: copying that thrice is slow.

    Args:
        file: open for reading, at its beginning.
        name: what errors call it.
        size: height and width wanted; the image's own where absent.

    Raises:
        InputError: empty, corrupt, or above `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pixel counts and odd metadata: checked here
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"{name}: {image.width}x{image.height} is above the limit of "
                    f"{MAX_PIXELS // 1_000_000} million pixels; make the image smaller"
                )
            image.load()
            # A PNG says in its information how to turn it, before or behind its pixels.
            if image.format != "PNG" or image.info:
                ImageOps.exif_transpose(image, in_place=True)
            plain = _to_gray_or_rgb(image)
    except (InputError, MemoryError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name}: is far above the limit of {MAX_PIXELS // 1_000_000} million pixels; "
            "make the image smaller"
        ) from error
    except Exception as error:  # decoders raise anything on a corrupt file
        empty = file.seek(0, os.SEEK_END) == 0
        raise InputError(
            f"{name}: {'this file is empty' if empty else 'not a readable image'}; "
            "mend or remove it"
        ) from error
    if size is not None:
        plain = _square(plain, size)
    return np.asarray(plain, dtype=np.uint8)


def is_gray(image: Pixels) -> bool:
    """Whether the channels of an image (H, W, 3) are equal."""
    return bool((image == image[..., :1]).all())


def _to_gray_or_rgb(image: Image.Image) -> Image.Image:
    """Any mode of a loaded image to 8 bits of gray or RGB, transparency on white."""
    if image.mode.startswith("I"):
        wide = np.asarray(image, dtype=np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("gray values beyond 16 bits")
        image = Image.fromarray(np.rint(wide / 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point gray values have no stated range")
    elif image.mode == "L" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    """The largest centered square of `image`, resized.

    Cut first, so that a very long image never becomes a huge one.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.BICUBIC)


def drop_color(images: Pixels) -> Pixels:
    """(N, H, W, 3) to (N, H, W, 1) where all of them are gray, else unchanged."""
    return images[..., :1] if all(map(is_gray, images)) else images


@dataclass(frozen=True)
class ImageFolder:
    """The image files of a folder, in the order of their names.

    Attributes:
        paths: of the files.
        labels: index into `class_names` of each file; empty without classes.
        class_names: sub-folders in the order of their names; empty with fewer than two.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]


def find_images(folder: str | Path) -> ImageFolder:
    """The images in a folder: those below its first-level sub-folders are their class.

    Hidden files and folders (name begins with a dot) and files without an image suffix
    (`SUFFIXES`) are ignored. Links are followed wherever they point; no folder is entered
    twice. One sub-folder alone is no class.

    Raises:
        InputError: there is no such folder, it may not be read, it holds no images, or it has
            images both in itself and in sub-folders.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "there is no such folder"
        raise InputError(f"{folder}: {what}; give the path of a folder of images")
    seen = {os.path.realpath(root)}
    top, below = _list(root)
    classes = {sub.name: files for sub in below if (files := list(_walk(sub, seen)))}
    if top and classes:
        raise InputError(
            f"{folder}: images lie both in it and in its sub-folder '{next(iter(classes))}'; "
            "put all of them into sub-folders (the classes), or none"
        )
    if not top and not classes:
        raise InputError(f"{folder}: no images here (looked for {' '.join(sorted(SUFFIXES))})")
    if len(classes) < 2:
        return ImageFolder(tuple(top or next(iter(classes.values()))), (), ())
    return ImageFolder(
        tuple(path for files in classes.values() for path in files),
        tuple(label for label, files in enumerate(classes.values()) for _ in files),
        tuple(classes),
    )


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """All image files at any depth, each folder once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    files, folders = _list(folder)
    yield from files
    for sub in folders:
        yield from _walk(sub, seen)


def _list(folder: Path) -> tuple[list[Path], list[Path]]:
    """Image files and sub-folders in a folder, by name."""
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except PermissionError:
        raise InputError(f"{folder}: no permission to read this folder") from None
    folders = [p for p in entries if p.is_dir()]
    files = [p for p in entries if p.suffix.lower() in SUFFIXES and not p.is_dir()]
    return files, folders
