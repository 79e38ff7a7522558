"""An assignment of two functions without torch, so that many gradings take little time."""

from __future__ import annotations

from pathlib import Path

SOLUTION = "def f(x): return x**2 + 1\n\n\ndef g(x): return x - 1\n"
HIDDEN = {
    "rubric.toml": """
[[test]]
kind = "hidden"
name = "square"
title = "f(x) is right"
points = 20

[[test]]
kind = "hidden"
name = "less"
title = "g(x) is right"
points = 15
""",
    "solution/assignment.toml": 'assignment = "flow"\nvariant = 0\n[choices]\n',
    "solution/submission/model.py": SOLUTION,
    "hidden/thresholds.toml": "",
    "hidden/challenges.py": """
from genzoo.course.grading.judge import close


def square(session):
    x = session.normal(40)
    return close(session.ask({"op": "f"}, {"x": x})[0], x**2 + 1)


def less(session):
    x = session.normal(40)
    return close(session.ask({"op": "g"}, {"x": x})[0], x - 1)


TESTS = {"square": (square,), "less": (less,)}
""",
    "hidden/inside.py": """
import numpy as np

OPERATIONS = {
    "f": lambda module, header, arrays, oracle: {"0": np.asarray(module.f(arrays["x"]))},
    "g": lambda module, header, arrays, oracle: {"0": np.asarray(module.g(arrays["x"]))},
}
""",
}
"""The bundle's files."""


def write_bundle(folder: Path) -> Path:
    """Write the instructor's folder of 20 and 15 points."""
    for name, text in HIDDEN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
