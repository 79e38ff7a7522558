"""Pretrained networks: their weights are files of known content, fetched or given.

A file is recognized by its SHA-256. One of other content is refused unless the user trusts
it, and even then only tensors are read from it: never arbitrary pickles.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genzoo.errors import InputError, MachineError
from genzoo.evaluation.features import Request
from genzoo.files import file_sha256

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Weights:
    """A published file.

    Attributes:
        file: its name in torch's cache of checkpoints, where other tools look for it too.
        url: where it is fetched from.
        sha256: of its content.
        megabytes: about how large it is.
    """

    file: str
    url: str
    sha256: str
    megabytes: int


@dataclass(frozen=True)
class Located:
    """Weights on this machine.

    Attributes:
        path: of the file.
        sha256: of its content, as found.
        source: what to publish: the file's name, and whether it is another than expected.
    """

    path: Path
    sha256: str
    source: str


def locate(weights: Weights, request: Request) -> Located:
    """The file that was given, one that is there already, or one fetched now.

    Raises:
        InputError: not the published file, and not trusted either.
        MachineError: missing, and cannot be fetched.
    """
    if request.weights is not None:
        return _given(weights, request.weights, request)
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    if not path.exists():
        _fetch(weights, path, request)
    found = file_sha256(path)
    if found != weights.sha256:
        raise InputError(
            f"'{path}' is damaged or not the published file (SHA-256 {found[:16]}…, expected "
            f"{weights.sha256[:16]}…); remove it, so that it is fetched again"
        )
    return Located(path, found, weights.file)


def _given(weights: Weights, path: Path, request: Request) -> Located:
    if not path.is_file():
        raise InputError(f"--weights {path}: there is no such file")
    found = file_sha256(path)
    if found == weights.sha256:
        return Located(path, found, weights.file)
    if not request.trust:
        raise InputError(
            f"--weights {path}: not the published {weights.file} of {request.name} (SHA-256 "
            f"{found[:16]}…, expected {weights.sha256[:16]}…); --trust uses it all the same"
        )
    request.progress.note(f"{request.name}: weights of unknown origin, SHA-256 {found}")
    return Located(path, found, f"{path.name} (not the published weights)")


def _fetch(weights: Weights, path: Path, request: Request) -> None:
    """Download it; what does not have the right hash never gets its name."""
    request.progress.note(f"fetching {weights.url} ({weights.megabytes} MB), once")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            weights.url, str(path), hash_prefix=weights.sha256, progress=False
        )
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        raise MachineError(
            f"features '{request.name}' need {weights.url} ({weights.megabytes} MB), which cannot "
            f"be fetched ({reason}); place the file at '{path}' or give it with --weights PATH"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` file or a torch file, and nothing but tensors.

    Raises:
        InputError: damaged, or holding anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(f"'{path}' cannot be read as weights ({reason})") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"'{path}' holds no tensors by name, so no weights")
    return {str(name): value for name, value in loaded.items()}


@contextmanager
def fits(path: Path, name: str) -> Iterator[None]:
    """Turn what torch says of weights for another network into one line.

    Raises:
        InputError: the weights do not fit.
    """
    try:
        yield
    except (RuntimeError, KeyError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join((str(error) or repr(error)).split())[:200]
        raise InputError(f"'{path}' has no weights of {name} ({reason})") from error


def to_rgb(images: Tensor) -> Tensor:
    """uint8 (N, 1 or 3, H, W) -> (N, 3, H, W): gray is repeated, as torch-fidelity wants it.

    Raises:
        InputError: neither one channel nor three.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise InputError(f"pretrained networks see 1 or 3 channels, the images have {channels}")
    return images.expand(-1, 3, -1, -1)
