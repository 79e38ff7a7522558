"""Tar files of pictures as WebDataset writes them, read in place and never unpacked.

A sample is a run of members whose names agree up to the first dot of their last part:
``0/000123.png`` beside ``0/000123.cls`` or ``0/000123.json``. Members of other kinds (pickles
among them), hidden ones and links are passed over without being read, and no name ever becomes
a path.

Python's `tarfile` takes 18 µs a member, webdataset 50 µs a sample, and neither can begin in the
middle: 1,000,000 small pictures would be looked through for a minute before training starts. So
the headers are read here (POSIX.1-2017, "pax Interchange Format"), in 4 µs; tests hold what is
found against both.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from genzoo.data.indexing import LABEL_BYTES, Scan, ShardIndex, check_unchanged
from genzoo.data.pictures import SUFFIXES
from genzoo.errors import InputError

BLOCK = 512
BUFFER = 1 << 18
# Extended headers hold names and times; nothing honest is longer.
MAX_EXTENDED = 1 << 16
PICTURES = frozenset(suffix[1:] for suffix in SUFFIXES)
LABEL_FIELDS = ("label", "cls", "class", "class_id")
_UNSUPPORTED = {b"S": "a sparse file", b"M": "a member that begins in another archive"}


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes:
        name: as the archive has it; to be shown with `shown`, never used as a path.
        start: of its content in the archive, in bytes.
        size: of its content in bytes.
    """

    name: str
    start: int
    size: int


def members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """The regular files of an archive in their order; the file may be read between them.

    Raises:
        InputError: damaged, cut off, compressed, or no archive at all.
    """
    total = os.fstat(file.fileno()).st_size
    position, named, sized = 0, "", -1
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise _cut_off(path)
        if header[0] == 0 and not header.strip(b"\0"):
            return _check_rest(file, path)
        if not _is_header(header):
            raise _no_archive(path, position, header)
        kind, start = header[156:157], position + BLOCK
        size = _size(header[124:136], path) if sized < 0 else sized
        # Links, devices, folders and pipes have no content, whatever their size says.
        position = start + (0 if kind in b"123456" else -(-size // BLOCK) * BLOCK)
        if position > total:
            raise _cut_off(path)
        if kind in b"xLKg":
            if size > MAX_EXTENDED:
                raise InputError(f"{path}: a header of {size:,} bytes; this archive is damaged")
            if kind == b"L":
                named = _text(file.read(size).rstrip(b"\0"))
            elif kind != b"K":
                found = _records(file.read(size), path)
                named = found.get("path", named) if kind == b"x" else named
                sized = _whole(found["size"], path) if "size" in found else sized
            continue
        if kind in _UNSUPPORTED:
            raise InputError(f"{path}: holds {_UNSUPPORTED[kind]}; write the archive again")
        if kind in b"0\0" or kind == b"7":
            yield Member(named or _name(header), start, size)
        named, sized = "", -1


def index_tar(path: Path) -> ShardIndex:
    """What an archive holds.

    Raises:
        InputError: see `members` and `genzoo.data.indexing.Scan`; a label without a picture.
    """
    scan = Scan(path)
    with open(path, "rb", buffering=BUFFER) as file:
        current, sample = "", _Sample()
        for member in members(file, path):
            key, suffix = _split(member.name)
            if not key:
                continue
            if key != current:
                sample.close(scan, file)
                current, sample = key, _Sample(key)
            sample.add(suffix, member, path)
        sample.close(scan, file)
    return scan.index()


def read_tar(
    path: Path, starts: list[int], lengths: list[int], index: tuple[int, int]
) -> list[bytes]:
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
    with open(path, "rb") as file:
        file.seek(start - BLOCK)
        return f"{shown(_name(file.read(BLOCK)))} in {path}"


def shown(name: str) -> str:
    """A name from an archive in printable characters, at most 80."""
    text = ascii(name)[1:-1]
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Sample:
    """The members of one key."""

    def __init__(self, key: str = "") -> None:
        """None yet."""
        self.key = key
        self.picture: Member | None = None
        self.label: tuple[str, Member] | None = None

    def add(self, suffix: str, member: Member, path: Path) -> None:
        """Keep a picture or a label; drop what is neither."""
        if suffix in PICTURES:
            if self.picture is not None:
                raise InputError(f"{path}: sample '{shown(self.key)}' has two pictures; leave one")
            self.picture = member
        elif suffix == "cls" or (suffix == "json" and self.label is None):
            self.label = suffix, member

    def close(self, scan: Scan, file: BinaryIO) -> None:
        """Hand over the sample, if it is one."""
        if self.picture is None:
            if self.label is not None and self.label[0] == "cls":
                raise InputError(
                    f"{scan.path}: '{shown(self.label[1].name)}' labels no picture; "
                    "write picture and label one after the other"
                )
            return
        name, start, size = self.picture
        label = None if self.label is None else self._read_label(scan.path, file)
        scan.add(name, start, size, file, label)

    def _read_label(self, path: Path, file: BinaryIO) -> str | None:
        assert self.label is not None
        suffix, (name, start, size) = self.label
        if size > LABEL_BYTES:
            raise InputError(f"{path}: '{shown(name)}' is {size:,} bytes long and no label")
        file.seek(start)
        content = file.read(size)
        if suffix == "cls":
            return _text(content).strip()
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


def _split(name: str) -> tuple[str, str]:
    """Key and suffix as WebDataset has them; no key for what is no part of a sample."""
    slash = name.rfind("/") + 1
    dot = name.find(".", slash)
    if dot <= slash or name.startswith("__"):
        return "", ""
    return name[:dot], name[dot + 1 :].lower()


def _is_header(header: bytes) -> bool:
    """Whether the checksum is that of the header: the sum of its bytes, its own as blanks.

    The lower half of Adler-32 is one more than the sum modulo 65521, and is made in C.
    """
    try:
        told = int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    found = zlib.adler32(header[156:], zlib.adler32(b"        ", zlib.adler32(header[:148])))
    return (found & 0xFFFF) == (told + 1) % 65521


def _size(field: bytes, path: Path) -> int:
    if field[0] & 0x80:  # beyond 8 GiB, as GNU writes it
        return int.from_bytes(field[1:], "big")
    return _whole(field.strip(b" \0") or b"0", path, 8)


def _whole(text: bytes | str, path: Path, base: int = 10) -> int:
    try:
        value = int(text, base)
    except ValueError:
        value = -1
    if value < 0:
        raise InputError(f"{path}: a member without a size; this archive is damaged")
    return value


def _name(header: bytes) -> str:
    name = header[:100].rstrip(b"\0")
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].rstrip(b"\0") + b"/" + name
    return _text(name)


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _records(content: bytes, path: Path) -> dict[str, str]:
    """The records ``length key=value`` of an extended header."""
    found: dict[str, str] = {}
    while content.strip(b"\0"):
        length, _, rest = content.partition(b" ")
        end = _whole(length, path)
        key, _, value = content[len(length) + 1 : end - 1].partition(b"=")
        if end <= len(length) + 1 or end > len(content):
            raise InputError(f"{path}: an extended header is damaged; write the archive again")
        if key.startswith(b"GNU.sparse"):
            raise InputError(f"{path}: holds a sparse file; write the archive again")
        found[_text(key)] = _text(value)
        content = content[end:]
    return found


def _check_rest(file: BinaryIO, path: Path) -> None:
    """After the end there are zeros alone, or archives were put one after the other."""
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise InputError(
                f"{path}: goes on behind its end; write the archives that were joined into it "
                "one by one"
            )


def _cut_off(path: Path) -> InputError:
    return InputError(f"{path}: this archive is cut off; fetch or write it again")


def _no_archive(path: Path, position: int, header: bytes) -> InputError:
    if position:
        return InputError(f"{path}: damaged at byte {position:,}; fetch or write it again")
    packed = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "zstd -d"}
    if header[:2] in packed:
        return InputError(
            f"{path}: a compressed archive has no places to jump to; {packed[header[:2]]} it"
        )
    return InputError(f"{path}: not a tar file")
