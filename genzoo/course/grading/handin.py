"""A hand-in: a student's folder, or the zip that ``pack`` makes. Nothing in it is trusted."""

from __future__ import annotations

import hashlib
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from genzoo.errors import InputError
from genzoo.files import write_bytes

MAX_FILES, MAX_FILE_BYTES = 200, 2_000_000
MODEL = "submission/model.py"
_NAMES = ("submission/__init__.py", MODEL)
_STUDENT = re.compile(r"\w[\w .,@+()-]{0,99}")


def students(sources: Sequence[Path]) -> dict[str, Path]:
    """Hand-ins by the student's name or number: that of the folder, or of the zip.

    Raises:
        InputError: a missing file, a name that cannot be a folder's, or two of the same.
    """
    found: dict[str, Path] = {}
    for source in sources:
        if not source.exists():
            raise InputError(f"hand-in '{source}' does not exist")
        name = source.name.removesuffix(".zip") if source.is_file() else source.resolve().name
        if not _STUDENT.fullmatch(name):
            raise InputError(
                f"hand-in {ascii(name)}: give its file a name of letters, digits and .,@+()-"
            )
        if name in found:
            raise InputError(f"'{found[name]}' and '{source}' are both of '{name}'; grade one")
        found[name] = source
    return found


def read_files(source: Path) -> dict[str, bytes]:
    """The Python files of a hand-in, without following links or trusting a zip's names.

    Raises:
        InputError: missing, too large, or not what may be handed in.
    """
    if source.is_dir():
        found = {}
        for name in _NAMES:
            path = source / name
            if path.is_symlink() or not path.is_file():
                continue
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(f"{name} is larger than {MAX_FILE_BYTES:,} bytes")
            found[name] = path.read_bytes()
    elif source.is_file():
        found = _unzipped(source)
    else:
        raise InputError(f"'{source}' does not exist")
    if MODEL not in found:
        raise InputError(f"the hand-in has no {MODEL}")
    return found


@contextmanager
def unpacked(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder of these files that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="genzoo-hand-in-") as scratch:
        for name, content in files.items():
            write_bytes(Path(scratch) / name, content)
        yield Path(scratch)


def _unzipped(source: Path) -> dict[str, bytes]:
    found = {}
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES:
                raise InputError(f"the zip has more than {MAX_FILES} files")
            for entry in entries:
                if entry.filename not in _NAMES:
                    continue
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise InputError(f"{entry.filename} is a link")
                with archive.open(entry) as file:  # the header's size may lie
                    content = file.read(MAX_FILE_BYTES + 1)
                if len(content) > MAX_FILE_BYTES:
                    raise InputError(f"{entry.filename} is larger than {MAX_FILE_BYTES:,} bytes")
                found[entry.filename] = content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"the zip cannot be read: {error}") from error
    return found


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 of names and contents."""
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return found.hexdigest()
