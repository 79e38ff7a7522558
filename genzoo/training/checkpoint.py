"""Tensors and counters on disk: safetensors and JSON, verified, two generations, no pickle."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from genzoo.errors import InputError
from genzoo.runs import (
    CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    SCHEMA,
    disk_errors,
    read_json,
    write_bytes,
    write_json,
)

_TENSORS, _STATE = "state.safetensors", "state.json"
_NEXT_CHECKPOINT = "checkpoint-next"


class Checkpoint(NamedTuple):
    """All that training needs to go on.

    Attributes:
        tensors: weights, average and optimizer states by name, on the CPU.
        state: counters, a JSON object.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors atomically.

    Tied weights are written once for each of their names.

    Returns:
        SHA-256 of the file.

    Raises:
        InputError: a value is no tensor, or there is no permission.
        MachineError: the disk is full.
    """
    wrong = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if wrong:
        raise InputError(f"the model's state '{wrong[0]}' is no tensor; keep state in buffers")
    # safetensors refuses tensors that share memory or have gaps.
    content = safetensors.torch.save(
        {
            name: value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
    )
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read tensors that must be exactly those that were written.

    Raises:
        InputError: missing, or the content's hash is another.
    """
    with disk_errors(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"'{path}' is damaged: its SHA-256 is not what was written")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise InputError(f"'{path}' is damaged: {error}") from error


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the current one becomes the previous one.

    At every moment one of them is whole: the new one is complete before any is moved.
    """
    beside, current, previous = (
        run / name for name in (_NEXT_CHECKPOINT, CHECKPOINT, PREVIOUS_CHECKPOINT)
    )
    with disk_errors(beside):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
    digest = write_tensors(beside / _TENSORS, checkpoint.tensors)
    write_json(beside / _STATE, {"schema": SCHEMA, "sha256": digest, **checkpoint.state})
    with disk_errors(current):
        if current.exists():
            shutil.rmtree(previous, ignore_errors=True)
            current.rename(previous)
        beside.rename(current)


def load_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint.

    Returns:
        The checkpoint, or ``None`` if there is none, and notes on damaged ones that were
        passed over.
    """
    notes: list[str] = []
    for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
        folder = run / name
        if not folder.exists():
            continue
        try:
            state = read_json(folder / _STATE, SCHEMA)
            return Checkpoint(
                read_tensors(folder / _TENSORS, str(state.get("sha256"))), state
            ), notes
        except InputError as error:
            notes.append(f"checkpoint passed over: {error}")
    return None, notes


def remove_checkpoints(run: Path) -> None:
    """Free the space of checkpoints that are no longer needed."""
    for name in (_NEXT_CHECKPOINT, PREVIOUS_CHECKPOINT, CHECKPOINT):
        shutil.rmtree(run / name, ignore_errors=True)
