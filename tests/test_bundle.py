"""What instructors upload: run as the systems run it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from genzoo import course
from genzoo.course.grading import adapters
from genzoo.course.grading.bundle import bundle
from genzoo.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without the test that trains."""
    folder = tmp_path_factory.mktemp("bundle") / "week"
    course.new(folder, "flow")
    path = folder / "instructor" / "rubric.toml"
    parts = path.read_text().split("[[test]]")
    path.write_text("[[test]]".join(part for part in parts if '"samples"' not in part))
    return folder


def unpacked(path: Path, where: Path) -> Path:
    """As the systems do: modes are kept."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(where)
        for entry in archive.infolist():
            (where / entry.filename).chmod(entry.external_attr >> 16)
    return where


def run(program: Path, root: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "GRADING_ROOT": str(root), "GRADING_PYTHON": sys.executable}
    return subprocess.run([str(program)], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("lms", ["gradescope", "prairielearn"])
def test_a_container_grades(lms: str, week: Path, tmp_path: Path) -> None:
    path = bundle(week / "instructor", lms, tmp_path / "up.zip")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert not any("solution/submission" in name or "mutants" in name for name in names)
    if lms == "gradescope":
        assert {"setup.sh", "run_autograder"} <= set(names)
        here = unpacked(path, tmp_path / "source")
        program, student = here / "run_autograder", tmp_path / "submission"
    else:
        program = unpacked(path, tmp_path) / "tests" / "run.sh"
        student = tmp_path / "student"
    student.symlink_to(week / "instructor" / "solution")
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "results/results.json").read_text())
    assert told["score"] == (55.0 if lms == "gradescope" else 1.0)
    rubric = program.parent / "instructor" / "rubric.toml"
    assert stat.S_IMODE(rubric.stat().st_mode) & 0o077 == 0
    # A hand-in that cannot be graded has its zero on record.
    student.unlink()
    student.mkdir()
    (tmp_path / "results/results.json").unlink()
    run(program, tmp_path)
    assert json.loads((tmp_path / "results/results.json").read_text())["score"] == 0


def test_the_same_bundle_has_the_same_bytes(week: Path, tmp_path: Path) -> None:
    one, two = (bundle(week / "instructor", "gradescope", tmp_path / n) for n in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        setup = archive.read("setup.sh").decode()
    assert "'torch>=" in setup and "fpdf2" not in setup and "extra" not in setup
    with pytest.raises(InputError, match="did you mean 'gradescope'"):
        bundle(week / "instructor", "gradscope")


def test_notebooks_ask_the_grader(week: Path, tmp_path: Path) -> None:
    """The files that otter and nbgrader run, and what they call."""
    otter = unpacked(bundle(week / "instructor", "otter", tmp_path / "o.zip"), tmp_path / "o")
    text = (otter / "tests/log_det.py").read_text()
    compile(text, "log_det.py", "exec")
    assert "points = 20.0" in text and "share('log-det', 0) == 1" in text
    cells = unpacked(bundle(week / "instructor", "nbgrader", tmp_path / "n.zip"), tmp_path / "n")
    cell = (cells / "cells.py").read_text().split("# %%")[1]
    assert "BEGIN HIDDEN TESTS" in cell and "share('log-det')" in cell
    solution = week / "instructor" / "solution"
    assert adapters.share("inverse", None, solution, week / "instructor") == 1
    assert adapters.share("inverse", 1, solution, week / "instructor") == 1
    assert adapters.share("log-det", 0, week / "student", week / "instructor") == 0


@pytest.mark.slow
def test_a_container_of_768_megabytes_is_enough(week: Path, tmp_path: Path) -> None:
    """Resident memory of the whole tree of processes, at its highest, with a training."""
    course.new(tmp_path / "week", "vae")
    here = unpacked(
        bundle(tmp_path / "week/instructor", "gradescope", tmp_path / "up.zip"), tmp_path / "source"
    )
    (tmp_path / "submission").symlink_to(tmp_path / "week/instructor/solution")
    highest, over = [0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            highest.append(resident(os.getpid()))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = run(here / "run_autograder", tmp_path)
    over.set()
    watcher.join()
    assert done.returncode == 0 and json.loads(
        (tmp_path / "results/results.json").read_text()
    )["score"] == 70  # fmt: skip
    print(f"highest resident memory: {max(highest) / 2**20:.0f} MB")
    assert max(highest) <= 768 * 2**20


def resident(parent: int) -> int:
    """Bytes of all processes below one, shared pages divided among those that share them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    total, todo = 0, list(children.get(parent, []))
    while todo:
        process = todo.pop()
        todo += children.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
