"""What a file of pictures holds, found in one pass over it and remembered.

An index has the place, the label and a hash of each picture. It is kept beside downloaded data,
by the file's path, size and time of change; the hashes in it are of the content alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import GenzooError, InputError
from genzoo.files import atomic_path

# Raise it whenever what is found, or how it is hashed, changes.
VERSION = 1
MAX_PICTURE = 256 << 20
LABEL_BYTES = 1 << 20
# Of a larger picture, length, beginning and end are hashed: reading all would cost minutes.
WHOLE, PART = 1 << 16, 1 << 15
MAX_SIZES = 3
PNG = b"\x89PNG\r\n\x1a\n"

Stat = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The pictures of one file.

    Attributes:
        path: of the file.
        stat: its size in bytes and its time of change in nanoseconds.
        starts: where each picture begins: its byte in a tar, its row in a parquet file, (N,).
        lengths: bytes of each, (N,); 0 where nobody needs to know.
        draws: 32 bits of each picture's hash, (N,): who belongs to the held-out ones.
        codes: place of each label in `names`, (N,) int32; empty without labels.
        names: the labels as texts, in the order of their first appearance.
        classes: all labels in the order that the file declares; empty where it does not.
        sizes: different widths and heights that were seen in headers, `MAX_SIZES` at most.
        cuts: rows at which what is read at once must end (row groups); empty where any may.
        digest: SHA-256 over all pictures and labels in their order.
    """

    path: Path
    stat: Stat
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    draws: NDArray[np.uint32]
    codes: NDArray[np.int32]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    cuts: NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.starts)


class Scan:
    """A `ShardIndex` in the making.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        """Nothing was found yet."""
        self.path, self._stat = path, stat_of(os.stat(path))
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self._digests = bytearray()
        self._codes: list[int] = []
        self._names: dict[str, int] = {}
        self._sizes: dict[bytes, None] = {}
        self._whole = hashlib.sha256()

    def add(
        self,
        name: str,
        start: int,
        length: int,
        source: BinaryIO | bytes,
        label: str | None,
    ) -> None:
        """One more picture.

        Args:
            name: what errors call it.
            start: see `ShardIndex`.
            length: of it in bytes.
            source: the picture, or the file that has it at `start`.
            label: its label; ``None`` where it has none.

        Raises:
            InputError: it is empty or too large, or only some of the pictures have labels.
        """
        if not 0 < length <= MAX_PICTURE:
            what = "is empty" if not length else f"has {length:,} bytes, too many for a picture"
            raise InputError(f"{self.path}: '{ascii(name)[1:-1]:.80}' {what}; mend or remove it")
        if (label is None) != (not self._codes) and self._starts:
            raise InputError(
                f"{self.path}: some pictures have labels and others, such as "
                f"'{ascii(name)[1:-1]:.80}', have none; give all of them labels, or none"
                if label is None
                else f"{self.path}: '{ascii(name)[1:-1]:.80}' has a label, but those before it "
                "have none; give all of them labels, or none"
            )
        content = _hashed_part(source, start, length)
        digest = hashlib.sha256(content).digest()[:16]
        self._starts.append(start)
        self._lengths.append(length)
        self._digests += digest
        self._whole.update(digest)
        if label is not None:
            self._codes.append(self._names.setdefault(label, len(self._names)))
            self._whole.update(f"{len(label)};{label}".encode("utf-8", "surrogateescape"))
        if len(self._sizes) < MAX_SIZES and content.startswith(PNG):
            self._sizes[content[16:24]] = None

    def index(
        self, cuts: NDArray[np.int64] | None = None, classes: tuple[str, ...] = ()
    ) -> ShardIndex:
        """All that was found, and what else a `ShardIndex` tells."""
        digests = np.frombuffer(bytes(self._digests), dtype=">u4")
        return ShardIndex(
            self.path,
            self._stat,
            np.array(self._starts, dtype=np.int64),
            np.array(self._lengths, dtype=np.int64),
            digests[::4].astype(np.uint32),
            np.array(self._codes, dtype=np.int32),
            tuple(self._names),
            classes,
            tuple(
                (int.from_bytes(found[:4], "big"), int.from_bytes(found[4:], "big"))
                for found in self._sizes
            ),
            np.empty(0, dtype=np.int64) if cuts is None else cuts,
            self._whole.hexdigest(),
        )


def remembered_index(
    path: Path, folder: Path, make: Callable[[Path], ShardIndex]
) -> ShardIndex | GenzooError:
    """The index of a file from `folder`, or made now and kept there; an error as a value."""
    try:
        stat = stat_of(os.stat(path))
        key = hashlib.sha256(f"{VERSION};{path};{stat}".encode("utf-8", "surrogateescape"))
        place = folder / f"{key.hexdigest()[:32]}.npz"
        found = _load(place, path, stat)
        if found is None:
            found = make(path)
            _keep(place, found)
        return found
    except GenzooError as error:
        return error
    except OSError as error:
        return InputError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})")


def stat_of(found: os.stat_result) -> Stat:
    """What tells one state of a file from another."""
    return found.st_size, found.st_mtime_ns


def check_unchanged(path: Path, found: os.stat_result, index: Stat) -> None:
    """Whether a file is still the one that was indexed.

    Raises:
        InputError: it is not.
    """
    if stat_of(found) != tuple(index):
        raise InputError(f"{path}: was changed while it was in use; begin again")


def _hashed_part(source: BinaryIO | bytes, start: int, length: int) -> bytes:
    """All of a small picture; length, beginning and end of a larger one."""
    if isinstance(source, bytes):
        if length <= WHOLE:
            return source
        head, tail = source[:PART], source[-PART:]
    else:
        source.seek(start)
        if length <= WHOLE:
            return source.read(length)
        head = source.read(PART)
        source.seek(start + length - PART)
        tail = source.read(PART)
    return b"%b%d;%b" % (head, length, tail)


def _keep(place: Path, found: ShardIndex) -> None:
    """Write an index; that it can be made again makes every failure harmless."""
    told = {
        "names": found.names,
        "classes": found.classes,
        "sizes": found.sizes,
        "digest": found.digest,
    }
    text = json.dumps(told).encode()
    try:
        with atomic_path(place) as beside:
            np.savez(
                beside,
                starts=found.starts,
                lengths=found.lengths,
                draws=found.draws,
                codes=found.codes,
                cuts=found.cuts,
                told=np.frombuffer(text, dtype=np.uint8),
            )
    except (GenzooError, OSError):
        pass


def _load(place: Path, path: Path, stat: Stat) -> ShardIndex | None:
    """A kept index, or ``None`` where there is none to be trusted."""
    if not place.exists():
        return None
    try:
        with np.load(place, allow_pickle=False) as kept:
            told = json.loads(kept["told"].tobytes())
            return ShardIndex(
                path,
                stat,
                kept["starts"],
                kept["lengths"],
                kept["draws"],
                kept["codes"],
                tuple(told["names"]),
                tuple(told["classes"]),
                tuple((w, h) for w, h in told["sizes"]),
                kept["cuts"],
                told["digest"],
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
