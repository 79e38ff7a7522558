"""Files that are never half there, and folders that one process owns. No torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genzoo.errors import GenzooError, InputError, InUse, MachineError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCK = "lock"
MAX_TOML_BYTES = 100_000

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def disk_error(error: OSError, path: Path) -> GenzooError:
    """The one-line error for an operating-system error on `path`."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return MachineError(
            f"cannot write '{path}': {reason.lower()}; free some space and go on with --resume"
        )
    if error.errno in _FORBIDDEN:
        return InputError(f"no permission for '{path}': {reason.lower()}; choose another place")
    if isinstance(error, FileNotFoundError):
        return InputError(f"there is no '{path}'")
    if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError)):
        return InputError(f"cannot use '{path}': {reason.lower()}; choose another place")
    return MachineError(f"cannot access '{path}': {reason.lower()}")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn operating-system errors inside into one-line errors on `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends without an error.

    Raises:
        InputError: no permission, or not a place for a file.
        MachineError: the disk is full or fails.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, because some writers choose the format by it.
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        beside = Path(name)
        try:
            yield beside
            _synchronize(beside)
            # mkstemp makes files that others cannot read.
            beside.chmod(0o666 & ~_umask())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically; raises like `atomic_path`."""
    with atomic_path(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; raises like `atomic_path`."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, schema: int | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.
        schema: the version that its ``schema`` field must have; ``None`` for any.

    Raises:
        InputError: missing, damaged, no object, or of another schema version.
    """
    path = Path(path)
    with disk_errors(path):
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise InputError(f"'{path}' is damaged or half-written: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"'{path}' does not hold a JSON object")
    if schema is not None and value.get("schema") != schema:
        raise InputError(
            f"'{path}' has schema version {value.get('schema')!r}, this genzoo reads {schema}; "
            "use the version of genzoo that wrote it"
        )
    return value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with disk_errors(Path(path)), open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _synchronize(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


# -- one owner at a time --------------------------------------------------------------------


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Own a run folder; the system frees it when its owner dies, however it dies.

    Raises:
        InUse: another live process owns it.
    """
    path = Path(path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        file = _own(path / LOCK)
    _held.add(file)
    try:
        yield
    finally:
        with suppress(OSError):
            (path / LOCK).unlink()
        if file in _held:
            _held.remove(file)
            os.close(file)


_held: set[int] = set()


def _let_go() -> None:
    """In a forked process: else the folder would be locked for as long as that one lives."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _own(path: Path) -> int:
    """An open, locked file that names its owner."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock_file(file)
        except (BlockingIOError, PermissionError):
            owner = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise InUse(
                f"'{path.parent}' is in use by process {owner}; wait for it or stop it"
            ) from None
        # Its last owner may have removed it between our open and our lock.
        if _same(file, path):
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
            return file
        os.close(file)


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lock_file(file: int) -> None:
    """Take the kernel's lock or raise BlockingIOError (POSIX) or PermissionError (Windows)."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        # Far behind the content, so that others can read who owns it.
        os.lseek(file, 1 << 30, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def slug(name: str) -> str:
    """A dataset's or model's name as part of a folder's name."""
    kind, _, path = name.partition(":")
    text = f"{kind}-{Path(path).name}" if path else name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "data"


def read_toml(path: Path) -> dict[str, Any]:
    """A small TOML file.

    Raises:
        InputError: too large, or not TOML.
    """
    with disk_errors(path):
        if path.stat().st_size > MAX_TOML_BYTES:
            raise InputError(f"'{path}' is larger than {MAX_TOML_BYTES:,} bytes")
        content = path.read_bytes()
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not readable: {error}") from error
