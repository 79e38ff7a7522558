"""``genzoo course grade``: hand-ins to points. Imports neither torch nor a submission.

A zero-score result is written before anything of a hand-in is touched, and replaced when every
process of its sandbox is dead.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from genzoo.course.grading.book import write_book
from genzoo.course.grading.forms import FORMS
from genzoo.course.grading.handin import digest, read_files, students, unpacked
from genzoo.course.grading.judge import Refused, Session, Test, plain
from genzoo.course.grading.protocol import Broken
from genzoo.course.grading.results import Grade, TestResult
from genzoo.course.grading.rubric import Rubric, read_rubric
from genzoo.course.grading.sandbox import Backend, Limits, Worker, choose, unsafe
from genzoo.errors import InputError, unknown
from genzoo.files import read_json, write_json
from genzoo.notebook import listener
from genzoo.progress import Progress

SCHEMA = 1
CLASS = "class.json"
"""Seed and rubric of a folder of results, so that a second call goes on where one stopped."""
NO_SANDBOX = "NONE: graded without a sandbox"


Found = TypeVar("Found")


@dataclass(frozen=True)
class Desk:
    """What all hand-ins of a class have in common.

    Attributes:
        rubric: of the assignment.
        out: folder of the results.
        seed: of the challenges.
        backend: of the sandboxes.
        limits: of a worker.
        extra: writes a result in another system's form, where one is asked for.
    """

    rubric: Rubric
    out: Path
    seed: int
    backend: Backend
    limits: Limits
    extra: Callable[[Grade], None] = field(default=lambda grade: None)

    @property
    def key(self) -> list[Any]:
        """Beside a hand-in's files: what was done by another is done again."""
        return [self.rubric.sha256, self.seed, self.backend.name]


def grade(
    submissions: Sequence[str | Path],
    bundle: str | Path | Rubric,
    out: str | Path,
    *,
    seed: int | None = None,
    jobs: int = 1,
    sandbox: bool = True,
    limits: Limits | None = None,
    form: str | None = None,
    results: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Grade]:
    """Grade hand-ins, each a student's folder or the zip that ``pack`` makes.

    What has a grade in `out` for the same files, rubric and seed is not graded again.

    Args:
        submissions: folders and zips.
        bundle: the instructor's folder.
        out: gets a folder a hand-in with ``results.json`` and ``audit.json``, and ``grades.csv``.
        seed: of the challenges; where absent that of `out`, or a random one, which is kept there.
        jobs: hand-ins at a time.
        sandbox: false runs untrusted code with your rights, and says so in every result.
        limits: of a worker.
        form: a name of `genzoo.course.grading.forms.FORMS`, for `results`.
        results: a file for the one hand-in's result in that form.
        progress: told how far it is.

    Raises:
        InputError: a bundle or hand-in that is none.
        MachineError: no sandbox works here.
    """
    rubric = bundle if isinstance(bundle, Rubric) else read_rubric(bundle)
    handed_in, out = students([Path(s) for s in submissions]), Path(out)
    progress = listener(progress)
    extra = _extra(form, results, len(handed_in))
    for student in handed_in:
        extra(Grade.nothing(student, rubric, "not graded"))
    backend = choose() if sandbox else unsafe()
    desk = Desk(rubric, out, class_seed(out, seed), backend, limits or Limits(), extra)
    done: set[str] = set()
    lock = Lock()

    def one(student: str) -> Grade:
        result = _grade_one(student, handed_in[student], desk)
        with lock:
            done.add(student)
            write_book(out, rubric)
            progress.update("grading", len(done) / len(handed_in), student)
        return result

    return for_each(list(handed_in), one, jobs)


def for_each(students: Sequence[str], one: Callable[[str], Found], jobs: int) -> list[Found]:
    """Results in order, some hand-ins at a time; the first error ends all."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            return list(pool.map(one, students))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _extra(form: str | None, results: str | Path | None, count: int) -> Callable[[Grade], None]:
    if form is None and results is None:
        return lambda grade: None
    if form is None or form not in FORMS:
        raise unknown("form", str(form), FORMS)
    if results is None or count != 1:
        raise InputError("another system's form is for one hand-in, and needs a file to write")
    path, write = Path(results), FORMS[form]
    return lambda grade: write_json(path, write(grade))


def class_seed(out: Path, seed: int | None) -> int:
    """The seed that is asked for, that of the folder, or a new one."""
    path = out / CLASS
    if seed is None and path.is_file():
        kept = read_json(path, SCHEMA).get("seed")
        if isinstance(kept, int):
            return kept
    chosen = secrets.randbits(32) if seed is None else seed
    write_json(path, {"schema": SCHEMA, "kind": "class", "seed": chosen})
    return chosen


def _grade_one(student: str, source: Path, desk: Desk) -> Grade:
    place, rubric = desk.out / student, desk.rubric
    result = Grade.nothing(student, rubric, "not graded")
    try:
        files = read_files(source)
    except InputError as error:
        result = Grade.nothing(student, rubric, str(error))
        _write(place, result, desk)
        return result
    result.sha256 = digest(files)
    earlier = _earlier(place, result.sha256, desk)
    if earlier is not None:
        desk.extra(earlier)
        return earlier
    _write(place, result, desk)
    begun = time.monotonic()
    with unpacked(files) as folder:
        result.tests, told = _tests(folder, student, desk)
    result.audit = {"tests": told, "seconds": round(time.monotonic() - begun, 1)}
    _write(place, result, desk)
    return result


def _tests(folder: Path, student: str, desk: Desk) -> tuple[list[TestResult], list[dict[str, Any]]]:
    """Results of all tests, and what the audit says of each."""
    rubric, results, audits = desk.rubric, [], []
    for index, (test, title, points) in enumerate(rubric.tests):
        random = np.random.default_rng([desk.seed, index, *student.encode()])
        # A fresh worker a test: what one test leaves behind is of no use in the next.
        with Worker(desk.backend, folder, rubric.adapter, desk.limits) as worker:
            session = Session(worker, random, rubric.choices, rubric.thresholds)
            told = list(_parts(rubric.challenges[test], session))
        audits.append(
            {
                "test": test,
                "notes": session.notes,
                "printed": plain(worker.output.decode("utf-8", "replace"), 2000),
                **worker.used,
            }
        )
        earned = float(np.mean([part for part, _ in told]))
        output = "\n".join(line for _, line in told)
        results.append(TestResult(test, title, round(earned * points, 2), points, output))
    return results, audits


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
            except Exception as error:  # an answer of another form must not end the class
                why = "your code's answer has another form than was asked for"
                session.note(f"{part.__name__}: {type(error).__name__}: {plain(str(error), 200)}")
        found = found if np.isfinite(found) else 0.0
        yield found, f"{what}: {why or _word(found)}"


def _word(share: float) -> str:
    return "right" if share == 1 else "not right" if share == 0 else f"{share:.0%} right"


def _earlier(place: Path, sha256: str, desk: Desk) -> Grade | None:
    """The finished grade of the same files by the same rubric and seed."""
    try:
        audit = json.loads((place / "audit.json").read_text(encoding="utf-8"))
        raw = json.loads((place / "results.json").read_text(encoding="utf-8"))
        if audit["finished"] and audit["key"] == [sha256, *desk.key]:
            return Grade.from_dict(raw, audit)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # damaged or of another version: graded again
    return None


def _write(place: Path, result: Grade, desk: Desk) -> None:
    if desk.backend.name == "none":
        result.sandbox = NO_SANDBOX
    write_json(place / "results.json", result.to_dict())
    audit = {
        "schema": SCHEMA,
        "kind": "audit",
        "student": result.student,
        "finished": bool(result.audit),
        "key": [result.sha256, *desk.key],
        "seed": desk.seed,
        "backend": desk.backend.name,
        "strength": desk.backend.strength,
        "limits": asdict(desk.limits),
        **result.audit,
    }
    write_json(place / "audit.json", audit)
    desk.extra(result)
