"""For tests that run in a notebook's kernel: the grader as a program of its own, in its sandbox.

otter and nbgrader run tests where the hand-in has run, which can change what they see.
What the grader finds is trustworthy; that the kernel reports it is not. Where points matter, grade
the handed-in files with ``genzoo course grade``, which gives the same tests the same points.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from genzoo.errors import MachineError


def share(
    test: str,
    part: int | None = None,
    submission: str | Path = ".",
    bundle: str | Path = "instructor",
) -> float:
    """What a hand-in earns in a test, between 0 and 1. Nothing is said on stderr.

    Args:
        test: its name in the rubric.
        part: number of one of its parts, from 0; all of them where absent.
        submission: the student's folder.
        bundle: the instructor's folder.

    Raises:
        MachineError: the grader could not run.
        KeyError: no such test.
    """
    files = Path(submission).resolve(), Path(bundle).resolve()
    stamp = (files[0] / "submission" / "model.py").stat().st_mtime_ns
    found = {entry["name"]: entry for entry in _graded(*files, stamp)}[test]
    if part is None:
        return float(found["score"] / found["max_score"])
    lines = found["output"].splitlines()
    return float(part < len(lines) and lines[part].endswith(": right"))


@lru_cache(maxsize=8)
def _graded(submission: Path, bundle: Path, stamp: int) -> list[dict[str, Any]]:
    """All tests of a hand-in; `stamp` asks again when the file has changed."""
    with tempfile.TemporaryDirectory(prefix="genzoo-share-") as out:
        command = [
            sys.executable, "-m", "genzoo_cli", "course", "grade", str(submission),
            "--bundle", str(bundle), "--out", out, "--json", "--quiet",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_clean())
    try:
        tests: list[dict[str, Any]] = json.loads(done.stdout)["results"][0]["tests"]
    except (ValueError, KeyError, IndexError) as error:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MachineError(f"the grader could not run: {said[-1]}") from error
    return tests


def _clean() -> dict[str, str]:
    """The environment without what would make the new interpreter run other code first."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") or k == "PYTHONPATH"}
