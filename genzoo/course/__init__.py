"""Assignments on generative models: write, check, draw, pack, validate.

Students' files are executed by `check` and `figures` in this process: run them on your own
work. Grading work of others is another matter.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genzoo.course.checking import check
    from genzoo.course.packing import pack
    from genzoo.course.studio import figures
    from genzoo.course.validation import validate
    from genzoo.course.writing import new

_HOME = {
    "check": "checking",
    "figures": "studio",
    "new": "writing",
    "pack": "packing",
    "validate": "validation",
}
__all__ = ["check", "figures", "new", "pack", "validate"]


def __getattr__(name: str) -> Any:
    """Import a function from where it lives."""
    if name not in _HOME:
        raise AttributeError(f"module 'genzoo.course' has no attribute '{name}'")
    return getattr(importlib.import_module(f"genzoo.course.{_HOME[name]}"), name)
