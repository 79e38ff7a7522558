"""What an exception means to the person at the command line: one line and an exit code."""

from __future__ import annotations

import errno

import click

from genzoo.errors import GenzooError

# Errors of the operating system that the user's call did not cause.
_MACHINE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file is larger than is allowed here; raise the limit (ulimit -f)",
    errno.EIO: "the disk cannot be read or written",
    errno.ENOMEM: "there is not enough memory; use a smaller model, fewer samples or fewer jobs",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the one line for an exception.

    Returns:
        2 for what the caller can mend in the call, 4 for the machine and for faults of genzoo
        itself, 130 for an interruption, or the code that a `GenzooError` carries.
    """
    if isinstance(error, click.ClickException):
        return 2, _usage(error)
    if isinstance(error, GenzooError):
        return error.exit_code, _line(str(error))
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return 130, "interrupted"
    if isinstance(error, MemoryError) or _is_device_memory(error):
        return 4, _line(
            f"out of memory ({error or 'allocation failed'}); "
            "use a smaller model, a smaller batch or fewer samples"
        )
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("genzoo"):
        return 4, f"{error.name} is not installed; 'genzoo doctor' says how to get what is missing"
    name = type(error).__name__
    return 4, _line(f"internal error ({name}: {error}): please report it; --debug shows more")


def _usage(error: click.ClickException) -> str:
    """The message of click, and where the right spelling is to be found."""
    message = _line(error.format_message())
    if isinstance(error, click.NoSuchOption):
        message = f"no such option '{error.option_name}'"
        if error.possibilities:
            message += f"; did you mean '{error.possibilities[0]}'?"
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{message.rstrip('.')} (see '{context.command_path} --help')"


def _system(error: OSError) -> tuple[int, str]:
    name = f"'{error.filename}': " if error.filename is not None else ""
    if error.errno in _MACHINE:
        return 4, _line(f"{name}{_MACHINE[error.errno]}")
    if isinstance(error, PermissionError):
        return 2, _line(f"{name}permission denied; choose another folder or change its permissions")
    if error.filename is not None:
        return 2, _line(f"{name}{(error.strerror or str(error)).lower()}")
    return 4, _line(f"{error.strerror or error}")


def _is_device_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory (without importing torch to ask it)."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error).lower() for text in _OUT_OF_MEMORY)
    )


def _line(text: str) -> str:
    """Any text as one line."""
    return " ".join(text.split())
