"""``genzoo course grade``: hand-ins to points. Imports neither torch nor a submission.

A zero-score result is written before anything of a hand-in is touched, and replaced when every
process of its sandbox is dead.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import stat
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from genzoo.course.grading.judge import Refused, Session, Test
from genzoo.course.grading.protocol import Broken
from genzoo.course.grading.sandbox import Backend, Limits, Worker, choose, unsafe
from genzoo.errors import InputError
from genzoo.files import read_toml, write_bytes, write_json
from genzoo.notebook import listener
from genzoo.progress import Progress

SCHEMA = 1
MAX_FILES, MAX_FILE_BYTES = 200, 2_000_000
MODEL = "submission/model.py"
HIDDEN = "hidden"
_NAMES = ("submission/__init__.py", MODEL)


@dataclass(frozen=True)
class Rubric:
    """What is asked of every hand-in.

    Attributes:
        bundle: the instructor's folder.
        assignment: name of the kit.
        choices: of the variant.
        tests: (name, title, points) of the automatic part.
        questions: (name, title, points) of what a person grades.
        thresholds: of the tests.
        challenges: the tests by name.
    """

    bundle: Path
    assignment: str
    variant: int
    choices: Mapping[str, Any]
    tests: tuple[tuple[str, str, float], ...]
    questions: tuple[tuple[str, str, float], ...]
    thresholds: Mapping[str, Any]
    challenges: Mapping[str, Test]

    @property
    def points(self) -> float:
        """Of the automatic part."""
        return sum(points for _, _, points in self.tests)


@dataclass
class TestResult:
    """One test of one hand-in."""

    name: str
    title: str
    score: float
    max_score: float
    output: str = ""


@dataclass
class Grade:
    """One hand-in.

    Attributes:
        student: name of its folder or zip.
        tests: in the rubric's order.
        sha256: of its Python files.
        audit: for the instructor alone: seed, back end, notes, times, what was printed.
    """

    student: str
    tests: list[TestResult]
    sha256: str = ""
    audit: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Of the automatic points."""
        return round(sum(test.score for test in self.tests), 2)

    def to_dict(self) -> dict[str, Any]:
        """What a student may see; the same hand-in and seed give the same bytes."""
        return {
            "schema": SCHEMA,
            "kind": "grade",
            "student": self.student,
            "score": self.score,
            "max_score": round(sum(test.max_score for test in self.tests), 2),
            "note": "of the automatic points; the report is graded by a person",
            "sha256": self.sha256,
            "tests": [asdict(test) for test in self.tests],
        }


def read_rubric(bundle: str | Path) -> Rubric:
    """The instructor's bundle: ``rubric.toml`` and the variant.

    Raises:
        InputError: it is not one.
    """
    folder = Path(bundle)
    path = folder / "rubric.toml"
    if not path.is_file():
        raise InputError(f"'{folder}' has no rubric.toml; give the instructor's folder")
    told = read_toml(folder / "solution" / "assignment.toml")
    tests: list[tuple[str, str, float]] = []
    questions: list[tuple[str, str, float]] = []
    for entry in read_toml(path).get("test", []):
        found = (str(entry["name"]), str(entry["title"]), float(entry.get("points", 0)))
        (tests if entry.get("kind") == "hidden" else questions).append(found)
    name, variant, choices = (told.get(key) for key in ("assignment", "variant", "choices"))
    if not (isinstance(name, str) and isinstance(variant, int) and isinstance(choices, dict)):
        raise InputError(f"'{folder}': solution/assignment.toml is damaged")
    challenges = _challenges(folder / HIDDEN / "challenges.py")
    lacking = [test for test, _, _ in tests if test not in challenges]
    if lacking or not (folder / HIDDEN / "inside.py").is_file():
        raise InputError(
            f"'{folder}': hidden/ has nothing for {', '.join(lacking) or 'the worker'}; "
            "write the assignment again with: genzoo course new"
        )
    thresholds = read_toml(folder / HIDDEN / "thresholds.toml")
    return Rubric(
        folder, name, variant, choices, tuple(tests), tuple(questions), thresholds, challenges
    )


def _challenges(path: Path) -> Mapping[str, Test]:
    """The instructor's own code, which is trusted; it imports no torch."""
    if not path.is_file():
        raise InputError(f"'{path}' is missing; give the instructor's folder")
    module = ModuleType("hidden_challenges")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    tests: Mapping[str, Test] = module.TESTS
    return tests


def grade(
    submissions: Sequence[str | Path],
    bundle: str | Path,
    out: str | Path,
    *,
    seed: int | None = None,
    sandbox: bool = True,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> list[Grade]:
    """Grade hand-ins, each a student's folder or the zip that ``pack`` makes.

    What has a grade in `out` for the same files and seed is not graded again.

    Args:
        submissions: folders and zips.
        bundle: the instructor's folder.
        out: gets a folder a hand-in with ``results.json`` and ``audit.json``, and ``grades.csv``.
        seed: of the challenges; a random one where absent, which the audits tell.
        sandbox: false runs untrusted code with your rights, and says so in every result.
        limits: of a worker.
        progress: told how far it is.

    Raises:
        InputError: a bundle or hand-in that is none.
        MachineError: no sandbox works here.
    """
    rubric, progress = read_rubric(bundle), listener(progress)
    backend = choose() if sandbox else unsafe()
    seed = secrets.randbits(32) if seed is None else seed
    found = []
    for number, source in enumerate(map(Path, submissions)):
        progress.update("grading", number / len(submissions), source.name)
        found.append(_grade_one(source, rubric, Path(out), seed, backend, limits or Limits()))
        write_bytes(Path(out) / "grades.csv", _as_csv(found, rubric).encode())
    progress.update("grading", 1.0)
    return found


def _grade_one(
    source: Path, rubric: Rubric, out: Path, seed: int, backend: Backend, limits: Limits
) -> Grade:
    student = source.stem if source.suffix == ".zip" else source.resolve().name
    place = out / student
    nothing = [TestResult(n, t, 0.0, p, "not graded") for n, t, p in rubric.tests]
    result = Grade(student, nothing)
    try:
        files = read_files(source)
    except InputError as error:
        result.tests = [TestResult(n, t, 0.0, p, str(error)) for n, t, p in rubric.tests]
        _write(place, result, seed, backend)
        return result
    result.sha256 = _digest(files)
    earlier = _earlier(place, result.sha256, seed, backend)
    if earlier is not None:
        return earlier
    _write(place, result, seed, backend)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="genzoo-hand-in-") as scratch:
        for name, content in files.items():
            write_bytes(Path(scratch) / name, content)
        result.tests, notes = _tests(Path(scratch), rubric, seed, student, backend, limits)
    result.audit = {"notes": notes, "seconds": round(time.monotonic() - begun, 1)}
    _write(place, result, seed, backend)
    return result


def _tests(
    folder: Path, rubric: Rubric, seed: int, student: str, backend: Backend, limits: Limits
) -> tuple[list[TestResult], list[str]]:
    adapter = rubric.bundle / HIDDEN / "inside.py"
    results, notes = [], []
    for index, (test, title, points) in enumerate(rubric.tests):
        random = np.random.default_rng([seed, index, *student.encode()[:64]])
        # A fresh worker a test: what one test leaves behind is of no use in the next.
        with Worker(backend, folder, adapter, limits) as worker:
            session = Session(worker, random, rubric.choices, rubric.thresholds)
            told = list(_parts(rubric.challenges[test], session))
            notes += [f"{test}: {note}" for note in session.notes]
            if worker.output:
                notes.append(f"{test} printed: {worker.output.decode('utf-8', 'replace')!r}")
        earned = float(np.mean([part for part, _ in told]))
        output = "\n".join(line for _, line in told)
        results.append(TestResult(test, title, round(earned * points, 2), points, output))
    return results, notes


def _parts(test: Test, session: Session) -> Iterator[tuple[float, str]]:
    """Share and words of each part; a worker that has ended answers to none."""
    ended = ""
    for part in test:
        what, found, why = (part.__doc__ or part.__name__).splitlines()[0].rstrip("."), 0.0, ended
        if not ended:
            try:
                found = float(np.clip(float(part(session)), 0.0, 1.0))
            except Refused as error:
                why = f"your code raised {error}"
            except Broken as error:
                why = ended = f"your code gave no answer: {error}"
        found = found if np.isfinite(found) else 0.0
        yield found, f"{why or _word(found)}: {what}"


def _word(share: float) -> str:
    return "right" if share == 1 else "not right" if share == 0 else f"{share:.0%} right"


def read_files(source: Path) -> dict[str, bytes]:
    """The Python files of a hand-in, without following links or trusting a zip's names.

    Raises:
        InputError: missing, too large, or not what may be handed in.
    """
    if source.is_dir():
        found = {}
        for name in _NAMES:
            path = source / name
            if path.is_symlink() or not path.is_file():
                continue
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(f"{name} is larger than {MAX_FILE_BYTES:,} bytes")
            found[name] = path.read_bytes()
    elif source.is_file():
        found = _unzipped(source)
    else:
        raise InputError(f"'{source}' does not exist")
    if MODEL not in found:
        raise InputError(f"the hand-in has no {MODEL}")
    return found


def _unzipped(source: Path) -> dict[str, bytes]:
    found = {}
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES:
                raise InputError(f"the zip has more than {MAX_FILES} files")
            for entry in entries:
                if entry.filename not in _NAMES:
                    continue
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise InputError(f"{entry.filename} is a link")
                with archive.open(entry) as file:  # the header's size may lie
                    content = file.read(MAX_FILE_BYTES + 1)
                if len(content) > MAX_FILE_BYTES:
                    raise InputError(f"{entry.filename} is larger than {MAX_FILE_BYTES:,} bytes")
                found[entry.filename] = content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"the zip cannot be read: {error}") from error
    return found


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()


def _earlier(place: Path, sha256: str, seed: int, backend: Backend) -> Grade | None:
    """The finished grade of the same files with the same seed."""
    try:
        audit = json.loads((place / "audit.json").read_text(encoding="utf-8"))
        raw = json.loads((place / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = (audit.get("seed"), audit.get("backend"), raw.get("sha256"))
    if same != (seed, backend.name, sha256) or not audit.get("finished"):
        return None
    return Grade(raw["student"], [TestResult(**t) for t in raw["tests"]], sha256, audit)


def _write(place: Path, result: Grade, seed: int, backend: Backend) -> None:
    told = result.to_dict()
    if backend.name == "none":
        told["sandbox"] = "NONE: graded without a sandbox"
    write_json(place / "results.json", told)
    audit = {
        "schema": SCHEMA,
        "kind": "audit",
        "student": result.student,
        "seed": seed,
        "backend": backend.name,
        "strength": backend.strength,
        "finished": bool(result.audit),
        **result.audit,
    }
    write_json(place / "audit.json", audit)


def _as_csv(grades: Sequence[Grade], rubric: Rubric) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["student", *(name for name, _, _ in rubric.tests), "automatic", "manual", "late"]
    )
    for found in grades:
        name = found.student
        shown = f"'{name}" if name[:1] in ("=", "+", "-", "@") else name
        writer.writerow([shown, *(test.score for test in found.tests), found.score, "", ""])
    return buffer.getvalue()
