"""torchvision beside a torch that it was not compiled for.

The package index serves Linux a torchvision whose compiled operators need a CUDA torch.
Beside a CPU torch they do not load, and ``import torchvision`` fails while it describes the
operators ``nms`` and ``qnms``, which hardly anybody calls. Where exactly that happens, the
two are declared without an implementation and the import is done again: data, transforms,
models and all that builds on them then work, and calling the operators themselves raises
torchvision's own explanation. A whole torchvision is imported as it always is.

Importing this module and `install` import neither torch nor torchvision. A process that is
spawned imports genzoo, and so gets the hook, with the first genzoo object that it unpickles
or with the script that it was spawned from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SYMPTOM = "operator torchvision::"
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[Any] = []  # torch withdraws a library's operators when the library is collected


def install() -> None:
    """Mend the next ``import torchvision`` if it needs it; calling again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torchvision where the others find it, and watches over its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """The loader that torchvision has, with a second attempt after the known failure."""

    def __init__(self, native: Loader) -> None:
        self._native = native

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._native.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._native  # nothing later on should meet this class
        if module.__spec__ is not None:
            module.__spec__.loader = self._native
        before = dict(vars(module))
        try:
            self._native.exec_module(module)
        except RuntimeError as error:
            if _SYMPTOM not in str(error):
                raise
            vars(module).clear()
            vars(module).update(before)
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            _declare_operators()
            self._native.exec_module(module)


def _declare_operators() -> None:
    """Tell torch the signatures of the missing operators, without an implementation."""
    import torch

    untyped: Any = torch.library
    library = untyped.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
