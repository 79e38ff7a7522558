"""Frames between the grader and the sandboxed worker: JSON and plain arrays, never objects.

A frame is a length (4 bytes, big-endian), a JSON header of that length, and the bytes of the
arrays that the header names. Both sides refuse what is too long, of another type, or not finite.
This module needs the standard library and NumPy alone.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MAX_HEADER = 1 << 20
MAX_BYTES = 64 << 20
"""Of the arrays of a frame together."""
TYPES = {"float32": np.float32, "float64": np.float64, "int64": np.int64, "uint8": np.uint8}
MAX_DIMENSIONS = 5

Message = tuple[dict[str, Any], dict[str, np.ndarray]]
Read = Callable[[int], bytes]
"""Gives exactly so many bytes, or raises `Broken`."""


class Broken(Exception):
    """The other side ended, or sent what is no frame."""


def encode(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """A frame.

    Raises:
        Broken: it would be longer than the other side accepts.
    """
    listed, parts, total = [], [], 0
    for name, array in (arrays or {}).items():
        plain = np.asarray(array, order="C")
        kind = plain.dtype.name
        if kind not in TYPES:
            raise Broken(f"array '{name}' is of type {kind}")
        listed.append([name, kind, list(plain.shape)])
        parts.append(plain.tobytes())
        total += len(parts[-1])
    text = json.dumps({**header, "arrays": listed}, allow_nan=False).encode()
    if len(text) > MAX_HEADER or total > MAX_BYTES:
        raise Broken("a frame would be too long")
    return struct.pack(">I", len(text)) + text + b"".join(parts)


def decode(read: Read) -> Message:
    """The next frame.

    Raises:
        Broken: the other side ended, or what came is no frame.
    """
    (length,) = struct.unpack(">I", read(4))
    if length > MAX_HEADER:
        raise Broken(f"a header of {length:,} bytes")
    try:
        header = json.loads(read(length), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Broken(f"a header that is no JSON: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("arrays"), list):
        raise Broken("a header that is no object")
    arrays, total = {}, 0
    for entry in header.pop("arrays"):
        name, kind, shape = _described(entry)
        size = math.prod(shape) * np.dtype(TYPES[kind]).itemsize
        total += size
        if total > MAX_BYTES:
            raise Broken(f"arrays of more than {MAX_BYTES:,} bytes")
        arrays[name] = np.frombuffer(read(size), TYPES[kind]).reshape(shape)
    return header, arrays


def _described(entry: object) -> tuple[str, str, tuple[int, ...]]:
    """One entry of a header's list of arrays."""
    if not isinstance(entry, list) or len(entry) != 3:
        raise Broken("an array without description")
    name, kind, shape = entry
    whole = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
    if not isinstance(name, str) or kind not in TYPES or not whole:
        raise Broken("an array without description")
    if any(type(n) is not int or n < 0 for n in shape):
        raise Broken(f"array '{name}' has a shape that is none")
    return name, kind, tuple(shape)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
