"""Tar files of pictures as WebDataset writes them, read in place and never unpacked.

A sample is a run of members whose names agree up to the first dot of their last part:
``0/000123.png`` beside ``0/000123.cls`` or ``0/000123.json``. Members of other kinds (pickles
among them), hidden ones and links are passed over without being read, and no name ever becomes
a path.

Python's `tarfile` takes 18 µs a member, webdataset 50 µs a sample, and neither can begin in the
middle: 1,000,000 small pictures would be looked through for a minute before training starts. So
the headers are read here (POSIX.1-2017, "pax Interchange Format"), most of them by numpy; tests
hold what is found against both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from genzoo.data.indexing import Scan, ShardIndex, Stat, check_unchanged
from genzoo.data.pictures import SUFFIXES
from genzoo.errors import InputError

BLOCK = 512
WINDOW = 1 << 20  # looked through at once, and stays in the caches of a core
BUFFER = 1 << 18  # of reading pictures
# What is read together with its header: labels, small pictures, and extended headers.
CARRIED = 1 << 16
PICTURES = frozenset(suffix[1:].encode() for suffix in SUFFIXES)
LABEL_FIELDS = ("label", "cls", "class", "class_id")

# Name, place of the content in the archive, its size, and the content itself if it is small.
# The name is to be shown by `shown` and never used as a path.
Member = tuple[bytes, int, int, "bytes | None"]


def members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """The regular files of an archive in their order; the file may be read between them.

    Raises:
        InputError: damaged, cut off, compressed, or no archive at all.
    """
    walk = _Walk(path, os.fstat(file.fileno()).st_size)
    while not walk.ended:
        file.seek(walk.position)
        yield from walk.window(file.read(WINDOW))
    file.seek(walk.position)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise InputError(
                f"{path}: goes on behind its end; write the archives that were joined into it "
                "one by one"
            )


def index_tar(path: Path) -> ShardIndex:
    """What an archive holds.

    Raises:
        InputError: see `members` and `genzoo.data.indexing.Scan`; a label without a picture.
    """
    scan = Scan(path)
    with open(path, "rb", buffering=0) as file:
        current, picture, label = b"", None, None
        for member in members(file, path):
            name = member[0]
            dot = name.find(b".", name.rfind(b"/") + 1)
            if dot < 1 or name[dot - 1] == 47 or name.startswith(b"__"):
                continue  # hidden, without a suffix, or about the archive itself
            key, suffix = name[:dot], name[dot + 1 :].lower()
            if key != current:
                _close(scan, picture, label, file)
                current, picture, label = key, None, None
            if suffix in PICTURES:
                if picture is not None:
                    raise InputError(
                        f"{path}: sample '{shown(key)}' has two pictures; leave one of them"
                    )
                picture = member
            elif suffix == b"cls" or (suffix == b"json" and label is None):
                label = member
        _close(scan, picture, label, file)
    return scan.index(lambda start: f"'{_name_before(path, start)}'")


def read_tar(path: Path, starts: list[int], lengths: list[int], index: Stat) -> list[bytes]:
    """The pictures at these places.

    Raises:
        InputError: the archive is another than the one of which `index` tells size and time.
    """
    with open(path, "rb", buffering=BUFFER) as file:
        check_unchanged(path, os.fstat(file.fileno()), index)
        found = []
        for start, length in zip(starts, lengths, strict=True):
            file.seek(start)
            found.append(file.read(length))
        return found


def name_in_tar(path: Path, start: int) -> str:
    """What the member whose content begins at `start` is called, for an error."""
    return f"{_name_before(path, start)} in {path}"


def shown(name: bytes) -> str:
    """A name from an archive in printable characters, at most 80."""
    text = ascii(name.decode("utf-8", "surrogateescape"))[1:-1]
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Walk:
    """The way through an archive.

    Attributes:
        position: of the next header.
        ended: whether the end was seen.
    """

    def __init__(self, path: Path, total: int) -> None:
        """At the beginning of an archive of `total` bytes."""
        self.path, self.total = path, total
        self.position, self.ended = 0, False
        # What an extended header says of the member that follows.
        self._name: bytes | None = None
        self._size: int | None = None

    def window(self, content: bytes) -> Iterator[Member]:
        """The members whose headers are in a part of the archive that begins at `position`."""
        base = self.position
        headers: list[int] = []  # of all kinds, in `content`
        own: list[int] = []  # numbers of those that regular files have
        places: list[int] = []  # of their contents
        sizes: list[int] = []
        named: dict[int, bytes] = {}
        failure: InputError | None = None
        try:
            while True:
                if self._name is None and self._size is None:
                    end = _plain(content, self.position - base, headers, own, places, sizes)
                    self.position = base + end
                if not self._next(content, base, headers):
                    break
                if self._size is None:
                    size = _size(content, headers[-1])
                else:
                    size = self._size
                kind, here = content[headers[-1] + 156], headers[-1] + BLOCK
                if size > CARRIED or here + size <= len(content):
                    carried = size <= CARRIED
                elif base + here + size > self.total:
                    raise self._cut_off()
                else:
                    headers.pop()  # it is looked at again with the window that has it all
                    break
                # Links, devices, folders and pipes have no content, whatever their size says.
                after = here + (0 if 49 <= kind <= 54 else -(-size // BLOCK) * BLOCK)
                if base + after > self.total:
                    raise self._cut_off()
                self.position = base + after
                if kind in b"0\x007":
                    if self._name is not None:
                        named[len(places)] = self._name
                    own.append(len(headers) - 1)
                    places.append(here)
                    sizes.append(size)
                elif kind in b"xgLK":
                    if not carried:
                        raise self._damaged(f"a header of {size:,} bytes")
                    self._extend(kind, content[here : here + size])
                    continue
                elif kind in b"SM":
                    raise self._damaged("a sparse file, or one begun elsewhere")
                self._name = self._size = None
        except InputError as error:
            failure = error
        rows = np.frombuffer(content, dtype=np.uint8, count=len(content) // BLOCK * BLOCK)
        table = rows.reshape(-1, BLOCK)[np.array(headers, dtype=np.int64) // BLOCK]
        self._check(table, base, headers)
        if failure is not None:
            raise failure
        names = _names(table[own])
        for row, name in named.items():
            names[row] = name
        parts = [
            content[place : place + size] if size <= CARRIED else None
            for place, size in zip(places, sizes, strict=True)
        ]
        yield from zip(names, [base + place for place in places], sizes, parts, strict=True)

    def _next(self, content: bytes, base: int, headers: list[int]) -> bool:
        """Note the next header; whether there is one in this part."""
        place = self.position - base
        if place + BLOCK > len(content):
            if base + len(content) >= self.total:
                raise self._cut_off()
            return False
        if not content[place] and not content[place : place + BLOCK].strip(b"\0"):
            self.ended = True
            return False
        headers.append(place)
        return True

    def _extend(self, kind: int, content: bytes) -> None:
        """Keep what an extended header says of names and sizes."""
        if kind == 76:  # L
            self._name = content.partition(b"\0")[0]
        elif kind != 75:  # K is the target of a link
            found = _records(content)
            if found is None or any(key.startswith(b"GNU.sparse") for key in found):
                raise self._damaged("an extended header that cannot be read, or a sparse file")
            if kind == 120 and b"path" in found:
                self._name = found[b"path"]
            if b"size" in found:
                self._size = _whole(found[b"size"], 10)
                if self._size < 0:
                    raise self._damaged("a member without a size")

    def _check(self, table: NDArray[np.uint8], base: int, headers: list[int]) -> None:
        """Whether the checksums are those of the headers: the sum of all, their own as blanks."""
        digits = table[:, 148:154] - np.uint8(48)
        told = digits.astype(np.int64) @ 8 ** np.arange(5, -1, -1)
        for row in np.flatnonzero((digits > 7).any(1)):
            told[row] = _whole(table[row, 148:156].tobytes().strip(b" \0"), 8)
        found = table.sum(1, dtype=np.uint32) + 8 * 32 - table[:, 148:156].sum(1, dtype=np.uint32)
        wrong = np.flatnonzero(told != found)
        if len(wrong):
            raise _no_archive(self.path, base + headers[wrong[0]], table[wrong[0]].tobytes())

    def _cut_off(self) -> InputError:
        return InputError(f"{self.path}: this archive is cut off; fetch or write it again")

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}: holds {what}; write the archive again")


def _plain(
    content: bytes,
    place: int,
    headers: list[int],
    own: list[int],
    places: list[int],
    sizes: list[int],
) -> int:
    """Note the members from `place` on, up to one that needs a second look; returns its place.

    What `_Walk.window` does of all members, for those of which nearly all archives consist.
    """
    length = len(content)
    try:
        while (kind := content[place + 156]) == 48 or kind == 120:  # 0 or x
            size = int(content[place + 124 : place + 135], 8)
            here = place + BLOCK
            after = here + (size + BLOCK - 1) // BLOCK * BLOCK
            if after > length or not 0 <= size <= CARRIED:
                break
            if kind == 48:
                own.append(len(headers))
                places.append(here)
                sizes.append(size)
            elif not _is_time(content[here : here + size]):
                break
            headers.append(place)
            place = after
    except (IndexError, ValueError):
        pass
    return place


def _is_time(content: bytes) -> bool:
    """Whether an extended header is of the commonest kind: a time with a fraction of a second."""
    return content.count(b"\n") == 1 and b" mtime=" in content[:16]


def _close(scan: Scan, picture: Member | None, label: Member | None, file: BinaryIO) -> None:
    """Hand over a sample, if it is one."""
    if picture is None:
        if label is not None and label[0].lower().endswith(b".cls"):
            raise InputError(
                f"{scan.path}: '{shown(label[0])}' labels no picture; "
                "write picture and label one after the other"
            )
        return
    _, start, size, content = picture
    scan.add(start, size, file if content is None else content, _label(label, scan.path))


def _label(label: Member | None, path: Path) -> str | None:
    """The text of a ``.cls`` or the label in a ``.json``, if there is one."""
    if label is None:
        return None
    name, _, size, content = label
    if content is None:
        raise InputError(f"{path}: '{shown(name)}' is {size:,} bytes long and no label")
    if name[-4:].lower() == b".cls":
        return content.strip().decode("utf-8", "surrogateescape")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: '{shown(name)}' is not JSON") from None
    if not isinstance(value, dict):
        return None
    labels = [value[field] for field in LABEL_FIELDS if field in value]
    if not labels:
        return None
    if isinstance(labels[0], bool) or not isinstance(labels[0], (int, str)):
        raise InputError(
            f"{path}: the label in '{shown(name)}' is neither a whole number nor a text"
        )
    return str(labels[0])


def _size(content: bytes, place: int) -> int:
    """Of the member whose header is there; -1, which no size is, becomes a checksum's error."""
    try:
        size = int(content[place + 124 : place + 135], 8)
    except ValueError:
        field = content[place + 124 : place + 136]
        if field[0] & 0x80:  # beyond 8 GiB, as GNU writes it
            return int.from_bytes(field[1:], "big")
        return max(0, _whole(field.strip(b" \0") or b"0", 8))
    return max(0, size)


def _whole(text: bytes, base: int) -> int:
    """A number that is not negative; -1 where the text is none."""
    try:
        return max(-1, int(text, base))
    except ValueError:
        return -1


def _names(table: NDArray[np.uint8]) -> list[bytes]:
    """Names in headers (n, 512), with their prefix where they have one."""
    names: list[bytes] = np.ascontiguousarray(table[:, :100]).view("S100").ravel().tolist()
    for row in np.flatnonzero(table[:, 345]):
        header = table[row].tobytes()
        if header[257:263] == b"ustar\0":
            names[row] = header[345:500].partition(b"\0")[0] + b"/" + names[row]
    return [name.partition(b"\0")[0] if b"\0" in name else name for name in names]


def _name_before(path: Path, start: int) -> str:
    with open(path, "rb") as file:
        file.seek(start - BLOCK)
        header = np.frombuffer(file.read(BLOCK), dtype=np.uint8)
    return shown(_names(header.reshape(1, BLOCK))[0])


def _records(content: bytes) -> dict[bytes, bytes] | None:
    """The records ``length key=value`` of an extended header; ``None`` for a damaged one."""
    found: dict[bytes, bytes] = {}
    while content.strip(b"\0"):
        length, _, _ = content.partition(b" ")
        end = _whole(length, 10)
        if not len(length) + 1 < end <= len(content):
            return None
        key, _, value = content[len(length) + 1 : end - 1].partition(b"=")
        found[key] = value
        content = content[end:]
    return found


def _no_archive(path: Path, position: int, header: bytes) -> InputError:
    if position:
        return InputError(f"{path}: damaged at byte {position:,}; fetch or write it again")
    packed = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "zstd -d"}
    if header[:2] in packed:
        return InputError(
            f"{path}: a compressed archive has no places to jump to; {packed[header[:2]]} it"
        )
    return InputError(f"{path}: not a tar file")
