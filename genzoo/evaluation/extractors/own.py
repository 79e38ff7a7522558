"""A feature space of the user's: ``module:Class`` or ``FILE.py:Class``.

The class is built without arguments and called with images, uint8 (N, C, H, W) of the data's
own size, values 0 … 255; it answers with a tensor (N, d) of finite numbers, the same d and
the same numbers for the same images every time. An ``nn.Module`` is put into evaluation mode
and, like the images, on the device; anything else gets the images on the CPU::

    class Mean:
        def __call__(self, images):
            return images.float().mean((2, 3))

``__init__`` may draw random weights: torch's generator is seeded while it runs. Optional
attribute: ``chunk``, how many images are wanted at once (512).
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genzoo.errors import InputError, unknown
from genzoo.evaluation.features import Extractor, Features, Request, content_hash
from genzoo.evaluation.result import FeatureInfo
from genzoo.files import file_sha256
from genzoo.registry import import_file

PROBES = 4


class OwnExtractor(Extractor):
    """What a user's class makes of images, checked."""

    def __init__(self, called: Any, name: str, digest: str, request: Request) -> None:
        """Take an instance, and try it on a few images.

        Raises:
            InputError: it fails, or its answer is not what it should be.
        """
        super().__init__(FeatureInfo(name, digest, None, "none"), request.device)
        self.called = called.eval().to(request.device) if isinstance(called, nn.Module) else called
        self.chunk = int(getattr(called, "chunk", self.chunk))
        if self.chunk < 1:
            raise InputError(f"features '{name}': chunk {self.chunk} must be at least 1")
        shape = (PROBES, *request.dataset.spec.shape)
        random = torch.Generator().manual_seed(0)
        probe = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
        with torch.no_grad():
            first, second = self._ask(probe), self._ask(probe)
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-6):
            raise InputError(
                f"features '{name}': the same images give other features the second time; "
                "draw what is random in __init__"
            )
        self.info = FeatureInfo(name, digest, None, "none", first.shape[1])

    def _extract(self, items: Tensor) -> Features:
        features = self._ask(items)
        if features.shape[1] != self.info.dim:
            raise InputError(
                f"features '{self.info.name}': {features.shape[1]} features, before it were "
                f"{self.info.dim}"
            )
        return Features(features)

    def _ask(self, images: Tensor) -> Tensor:
        """The class's answer on `home`, in double precision."""
        name = self.info.name
        place = self.device if isinstance(self.called, nn.Module) else torch.device("cpu")
        try:
            found = self.called(images.to(place))
        except Exception as error:  # whatever the user's code does, one line tells of it
            raise InputError(f"features '{name}' failed: {error!r}") from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"features '{name}' must answer {len(images)} images with a tensor "
                f"({len(images)}, d), not {what}"
            )
        found = found.detach().to(self.home).double()
        if not found.isfinite().all() or not found.shape[1]:
            raise InputError(f"features '{name}' are not finite numbers, or none at all")
        return found


def open_own(request: Request) -> OwnExtractor:
    """Import and build the class; a file's code is executed, since the user named it.

    Raises:
        InputError: no such module, file or class, or not usable.
    """
    where, _, attribute = request.name.rpartition(":")
    module = _import(where, request.name)
    cls = getattr(module, attribute, None)
    if cls is None:
        own = [k for k, v in vars(module).items() if isinstance(v, type)]
        raise unknown(f"class in {where}", attribute, own)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            called = cls()
    except Exception as error:  # whatever the user's code does, one line tells of it
        raise InputError(
            f"features '{request.name}' must be built as {attribute}(): {error!r}"
        ) from error
    if not callable(called):
        raise InputError(f"features '{request.name}': {attribute} has no __call__(images)")
    return OwnExtractor(called, request.name, _hash(called, module), request)


def _import(where: str, name: str) -> ModuleType:
    is_file = where.endswith(".py")
    try:
        if is_file:
            if not Path(where).expanduser().is_file():
                raise InputError(f"features '{name}': there is no file '{where}'")
            return import_file(Path(where).expanduser())
        return importlib.import_module(where)
    except InputError:
        raise
    except Exception as error:  # whatever the user's code does, one line tells of it
        hint = "" if is_file else "; a class in a file is FILE.py:Class"
        raise InputError(f"features '{name}' cannot be imported: {error!r}{hint}") from error


def _hash(called: Any, module: ModuleType) -> str:
    """SHA-256 over the source file and all tensors that the instance holds."""
    digest = hashlib.sha256(f"{type(called).__qualname__};".encode())
    source = getattr(module, "__file__", None)
    if source is not None and Path(source).is_file():
        digest.update(file_sha256(Path(source)).encode())
    held: dict[str, Tensor] = {}
    for name, value in {"": called, **getattr(called, "__dict__", {})}.items():
        if isinstance(value, nn.Module):
            held |= {f"{name}.{key}": part for key, part in value.state_dict().items()}
        elif isinstance(value, Tensor):
            held[name] = value
        elif isinstance(value, np.ndarray) and value.dtype != object:
            held[name] = torch.from_numpy(np.ascontiguousarray(value))
    digest.update(content_hash(held).encode())
    return digest.hexdigest()
