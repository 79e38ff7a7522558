"""A call of `genzoo.train` as the command line that repeats it in another process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Arguments of `train` that are yes or no, and what they are called on the command line.
_FLAGS = {
    "conditional": "conditional",
    "compiled": "compile",
    "channels_last": "channels-last",
    "evaluate": "evaluate",
}


def train_arguments(model: str, data: str, out: Path, options: Mapping[str, Any]) -> list[str]:
    """The words after ``genzoo``.

    Args:
        model: a name or ``FILE.py:Class``.
        data: a dataset's name.
        out: the run folder, with which it goes on.
        options: the others of `train`, by name; ``None`` is left to its default.
    """
    options = dict(options)
    arguments = ["train", "--resume", "--json", "--model", model, "--data", data]
    arguments += ["--out", str(out)]
    for name, flag in _FLAGS.items():
        if (value := options.pop(name, None)) is not None:
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
    if log := options.pop("log", ()):
        arguments += ["--log", ",".join(log)]
    for key, value in options.pop("settings").items():
        arguments += ["--set", f"{key}={'none' if value is None else value}"]
    for name, value in options.items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments
