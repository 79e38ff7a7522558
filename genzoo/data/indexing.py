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
        self._digests: list[bytes] = []
        self._labels: list[str | None] = []
        self._sizes: dict[bytes, None] = {}

    def add(self, start: int, length: int, source: BinaryIO | bytes, label: str | None) -> None:
        """One more picture.

        Args:
            start: see `ShardIndex`.
            length: of it in bytes.
            source: the picture, or the file that has it at `start`.
            label: its label; ``None`` where it has none.
        """
        content = source if isinstance(source, bytes) else b""
        if len(content) != length or length > WHOLE:
            content = _ends(source, start, length)
        self._starts.append(start)
        self._lengths.append(length)
        self._digests.append(hashlib.sha256(content).digest()[:16])
        self._labels.append(label)
        if content.startswith(PNG) and len(self._sizes) < MAX_SIZES:
            self._sizes[content[16:24]] = None

    def index(
        self,
        name: Callable[[int], str],
        cuts: NDArray[np.int64] | None = None,
        classes: tuple[str, ...] = (),
    ) -> ShardIndex:
        """All that was found.

        Args:
            name: what errors call the picture at a place.
            cuts: see `ShardIndex`.
            classes: see `ShardIndex`.

        Raises:
            InputError: a picture is empty or too large, or only some of them have labels.
        """
        lengths = np.array(self._lengths, dtype=np.int64)
        self._check(lengths, name)
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(t, len(numbers)) for t in self._labels if t is not None]
        digests = b"".join(self._digests)
        whole = hashlib.sha256(digests)
        whole.update(json.dumps(list(numbers)).encode())
        whole.update(np.array(codes, dtype="<i4").tobytes())
        return ShardIndex(
            self.path,
            self._stat,
            np.array(self._starts, dtype=np.int64),
            lengths,
            np.frombuffer(digests, dtype=">u4")[::4].astype(np.uint32),
            np.array(codes, dtype=np.int32),
            tuple(numbers),
            classes,
            tuple(
                (int.from_bytes(found[:4], "big"), int.from_bytes(found[4:], "big"))
                for found in self._sizes
            ),
            np.empty(0, dtype=np.int64) if cuts is None else cuts,
            whole.hexdigest(),
        )

    def _check(self, lengths: NDArray[np.int64], name: Callable[[int], str]) -> None:
        wrong = np.flatnonzero((lengths < 1) | (lengths > MAX_PICTURE))
        if len(wrong):
            row = int(wrong[0])
            bytes_, shown = int(lengths[row]), name(self._starts[row])
            what = f"has {bytes_:,} bytes, too many for a picture" if bytes_ else "is empty"
            raise InputError(f"{self.path}: {shown} {what}; mend or remove it")
        bare = [label is None for label in self._labels]
        if any(bare) and not all(bare):
            shown = name(self._starts[bare.index(True)])
            raise InputError(
                f"{self.path}: some pictures have labels, but {shown} has none; give all of them "
                "labels, or none"
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


def _ends(source: BinaryIO | bytes, start: int, length: int) -> bytes:
    """A small picture; beginning, length and end of a larger one."""
    if not isinstance(source, bytes):
        source.seek(start)
        if length <= WHOLE:
            return source.read(length)
        head = source.read(PART)
        source.seek(start + length - PART)
        return b"%b%d;%b" % (head, length, source.read(PART))
    return b"%b%d;%b" % (source[:PART], length, source[-PART:])


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
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as kept:
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
