"""``genzoo course bundle``: what an instructor uploads to a system that grades.

Gradescope and PrairieLearn start a program of ours as root in a container, which sandboxes the
hand-in. otter and nbgrader run tests in the notebook's own kernel, where a hand-in has run before:
their points are only as honest as the hand-in (see `genzoo.course.grading.adapters`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from genzoo.course.grading.rubric import Rubric, read_rubric
from genzoo.errors import unknown
from genzoo.files import write_bytes

_DATE = (1980, 1, 1, 0, 0, 0)
_PACKAGES = ("genzoo", "genzoo_cli")
_KEPT = (".py", ".typed")
_UNUSED = ("fpdf2", "matplotlib", "pillow", "rich", "torch-fidelity", "torchvision")
"""Requirements of genzoo that grading never imports."""

INSTALL = """#!/usr/bin/env bash
# Builds the container: a sandbox, Python, and what grading needs. A build of torch without CUDA is
# a tenth of the size and all that is used.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update && apt-get install -y --no-install-recommends bubblewrap python3 python3-venv
python3 -m venv {root}/venv
{root}/venv/bin/pip install --no-cache-dir \\
{requirements}
"""
RUN = """#!/usr/bin/env bash
# Grades one hand-in. Nothing of it is trusted: it runs in a sandbox, and a zero is on record before
# it is touched.
set -u
root=${{GRADING_ROOT:-{root}}}
python=${{GRADING_PYTHON:-$root/venv/bin/python}}
here=$root/{here}
chmod -R go-rwx "$here"  # what is hidden stays hidden, whatever the sandbox
mkdir -p "$root/results"
PYTHONPATH=$here/library OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \\
  "$python" -m genzoo_cli course grade "$root/{student}" --quiet \\
  --bundle "$here/instructor" --out "$root/grading" \\
  --form {lms} --results "$root/results/results.json"
"""


def bundle(instructor: str | Path, lms: str, out: str | Path | None = None) -> Path:
    """Write the zip for a grading system.

    Args:
        instructor: the instructor's folder.
        lms: a name of `SYSTEMS`.
        out: the zip; ``ASSIGNMENT-LMS.zip`` beside the folder where absent.

    Raises:
        InputError: no such system, or no instructor's folder.
    """
    if lms not in SYSTEMS:
        raise unknown("system", lms, SYSTEMS)
    rubric = read_rubric(instructor)
    path = Path(out) if out else rubric.bundle.parent / f"{rubric.assignment}-{lms}.zip"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(SYSTEMS[lms](rubric).items()):
            entry = zipfile.ZipInfo(name, _DATE)
            program = name.endswith(".sh") or name == "run_autograder"
            entry.external_attr = (0o755 if program else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    write_bytes(path, buffer.getvalue())
    return path


def _gradescope(rubric: Rubric) -> dict[str, bytes]:
    told = {"root": "/autograder", "requirements": _requirements()}
    run = {"root": "/autograder", "here": "source", "student": "submission", "lms": "gradescope"}
    return {
        "setup.sh": INSTALL.format(**told).encode(),
        "run_autograder": RUN.format(**run).encode(),
        **_library(),
        **_hidden(rubric),
    }


def _prairielearn(rubric: Rubric) -> dict[str, bytes]:
    told = {"root": "/grade", "requirements": _requirements()}
    run = {"root": "/grade", "here": "tests", "student": "student", "lms": "prairielearn"}
    info = {
        "gradingMethod": "External",
        "externalGradingOptions": {
            "enabled": True,
            "image": "an image that install.sh has made",
            "entrypoint": "/grade/tests/run.sh",
            "timeout": 600,
        },
    }
    files = {
        "install.sh": INSTALL.format(**told).encode(),
        "run.sh": RUN.format(**run).encode(),
        "info.json": (json.dumps(info, indent=2) + "\n").encode(),
        **_library(),
        **_hidden(rubric),
    }
    return {f"tests/{name}": content for name, content in files.items()}


OTTER = """OK_FORMAT = False

from otter.test_files import test_case

name = {name!r}
points = {points!r}
"""
OTTER_CASE = '''

@test_case(points={points!r}, hidden=True)
def test_part_{part}(env):
    """{title}"""
    from genzoo.course.grading.adapters import share

    assert share({name!r}, {part}) == 1, {title!r}
'''


def _otter(rubric: Rubric) -> dict[str, bytes]:
    """A file a test, a case a part of it: partial credit is by parts."""
    files = {"otter_config.json": b'{\n  "show_hidden": false,\n  "files": ["instructor"]\n}\n'}
    for name, _, points in rubric.tests:
        parts = rubric.challenges[name]
        text = OTTER.format(name=name, points=points)
        for number, part in enumerate(parts):
            title = (part.__doc__ or part.__name__).splitlines()[0]
            each = round(points / len(parts), 4)
            text += OTTER_CASE.format(points=each, part=number, title=title, name=name)
        files[f"tests/{name.replace('-', '_')}.py"] = text.encode()
    return {**files, **_hidden(rubric)}


NBGRADER = """### BEGIN HIDDEN TESTS
# {title} ({points:g} points): make this an autograder cell; its last value is the points.
from genzoo.course.grading.adapters import share

round({points!r} * share({name!r}), 2)
### END HIDDEN TESTS
"""


def _nbgrader(rubric: Rubric) -> dict[str, bytes]:
    cells = [NBGRADER.format(name=n, title=t, points=p) for n, t, p in rubric.tests]
    return {"cells.py": "\n\n# %%\n".join(cells).encode(), **_hidden(rubric)}


SYSTEMS: Mapping[str, Callable[[Rubric], dict[str, bytes]]] = {
    "gradescope": _gradescope,
    "prairielearn": _prairielearn,
    "otter": _otter,
    "nbgrader": _nbgrader,
}


def _hidden(rubric: Rubric) -> dict[str, bytes]:
    """What decides about points, and no solution."""
    names = ("rubric.toml", "solution/assignment.toml")
    paths = [rubric.bundle / name for name in names]
    paths += sorted(path for path in (rubric.bundle / "hidden").iterdir() if path.is_file())
    return {
        f"instructor/{path.relative_to(rubric.bundle).as_posix()}": path.read_bytes()
        for path in paths
    }


def _library() -> dict[str, bytes]:
    """The sources of genzoo that is running now: the grader of a course stays as it is."""
    found = {}
    for package in _PACKAGES:
        root = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(root.rglob("*")):
            if path.suffix in _KEPT and path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(root.parent).as_posix()
                found[f"library/{name}"] = path.read_bytes()
    return found


def _requirements() -> str:
    """What grading needs of genzoo's own requirements, a quoted line each."""
    found = []
    for line in importlib.metadata.requires("genzoo") or []:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0].lower()
        if "extra ==" not in line and name not in _UNUSED:
            found.append("  '" + line.replace("'", '"') + "'")
    return " \\\n".join(sorted(found))
