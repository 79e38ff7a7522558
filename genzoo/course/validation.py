"""``genzoo course validate``: an assignment that its own solution, starter and mutants test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from genzoo.course.assignment import MODEL, open_assignment
from genzoo.course.blanks import emptied, find_blanks
from genzoo.course.checking import Checked, check
from genzoo.course.grading.grade import grade
from genzoo.course.grading.rubric import Rubric, read_rubric
from genzoo.course.kit import open_kit
from genzoo.errors import InputError, MachineError
from genzoo.files import write_bytes
from genzoo.notebook import listener
from genzoo.progress import Progress

PATIENCE = 600.0
"""Seconds for a check of a solution: two threads on a busy machine take long, and do end."""


@dataclass(frozen=True)
class Expectation:
    """One thing that must be so, and whether it is.

    Attributes:
        what: in words.
        met: whether it is so.
        detail: what was found instead.
    """

    what: str
    met: bool
    detail: str = ""


@dataclass(frozen=True)
class Validation:
    """Everything that was expected of an assignment."""

    assignment: str
    variant: int
    expectations: tuple[Expectation, ...]

    @property
    def failed(self) -> tuple[Expectation, ...]:
        """What is not so."""
        return tuple(e for e in self.expectations if not e.met)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "schema": 1,
            "kind": "validation",
            "assignment": self.assignment,
            "variant": self.variant,
            "expectations": [vars(e) for e in self.expectations],
        }


def validate(
    folder: str | Path,
    *,
    seeds: int = 2,
    threads: tuple[int, ...] = (1, 2),
    points: bool = True,
    progress: Progress | None = None,
) -> Validation:
    """Test an assignment's folder, as `genzoo.course.new` wrote it or as an instructor changed it.

    The solution passes every check with every seed and number of threads; the starter fails each
    check that a blank is for; each mutant fails its check and no other. By the grader's challenges
    the solution gets every point, the starter none, and each mutant loses points where its check
    is graded and nowhere else, but for tests of the whole. Attacks get none.

    Args:
        folder: with ``student/`` and ``instructor/`` in it. Their files are executed.
        seeds: of the checks' random inputs, for the solution.
        threads: numbers of threads for the solution.
        points: whether to grade, too, where a sandbox works.
        progress: told how far it is.

    Raises:
        InputError: the folder is not whole.
    """
    folder, progress = Path(folder), listener(progress)
    student, instructor = folder / "student", folder / "instructor"
    assignment = open_assignment(student)
    if not (instructor / "solution" / MODEL).is_file():
        raise InputError(f"'{instructor}' has no solution; give the folder that course new wrote")
    found: list[Expectation] = []
    steps = list(_steps(student, instructor, seeds, threads))
    if points:
        steps += _graded_steps(student, instructor)
    for number, (what, run) in enumerate(steps):
        progress.update("validate", number / len(steps), what)
        found += run()
    progress.update("validate", 1.0)
    return Validation(assignment.name, assignment.variant, tuple(found))


def _steps(
    student: Path, instructor: Path, seeds: int, threads: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    solution = instructor / "solution"
    for seed in range(seeds):
        for count in threads:
            yield (
                f"solution, seed {seed}, {count} threads",
                lambda seed=seed, count=count: [_passes(solution, seed, count)],
            )
    yield "starter", lambda: list(_starter(student))
    for number in range(1, len(find_blanks((solution / MODEL).read_text())) + 1):
        yield f"blank {number} left out", lambda number=number: [_left_out(solution, number)]
    for mutant in sorted((instructor / "mutants").glob("*/check.txt")):
        yield (
            f"mutant {mutant.parent.name}",
            lambda mutant=mutant: [_mutant(solution, mutant.parent)],
        )


def _passes(solution: Path, seed: int, threads: int) -> Expectation:
    found = check(solution, seed=seed, threads=threads, limit=PATIENCE, say=None)
    what = f"the solution passes every check (seed {seed}, {threads} threads)"
    return Expectation(what, found.complete, _told(found))


def _starter(student: Path) -> Iterator[Expectation]:
    outcomes = {outcome.check: outcome for outcome in check(student, say=None).outcomes}
    for item in open_assignment(student).kit.checks:
        if item.blank:
            status = outcomes[item.name].status
            what = f"the starter fails '{item.name}'"
            yield Expectation(what, status in ("blank", "failed"), status)


def _left_out(solution: Path, number: int) -> Expectation:
    """With one blank left out, a check names it."""
    text = emptied((solution / MODEL).read_text(encoding="utf-8"), [number])
    with _copy(solution, text) as folder:
        found = check(folder, say=None)
    causes = [outcome.cause for outcome in found.outcomes if outcome.status == "blank"]
    named = any(cause.startswith(f"blank {number} ") for cause in causes)
    return Expectation(f"blank {number} left out is named", named, _told(found))


def _mutant(solution: Path, mutant: Path) -> Expectation:
    wanted = (mutant / "check.txt").read_text(encoding="utf-8").strip()
    with _copy(solution, (mutant / MODEL).read_text(encoding="utf-8")) as folder:
        found = check(folder, say=None)
    failed = [o.check for o in found.outcomes if o.status in ("failed", "blank")]
    what = f"mutant '{mutant.name}' fails '{wanted}' and no other"
    return Expectation(what, failed == [wanted], f"it fails {', '.join(failed) or 'nothing'}")


def _graded_steps(student: Path, instructor: Path) -> list[tuple[str, Any]]:
    """What the grader must say, if it can say anything on this machine."""
    from genzoo.course.grading.sandbox import choose

    try:
        choose()
    except MachineError as error:
        what = f"points are not validated here: {error}"
        return [("points", lambda: [Expectation(what, True)])]
    rubric = read_rubric(instructor)
    full = {name: points for name, _, points in rubric.tests}
    # Trainings take the longest and are asked of the solution alone.
    whole = {hidden.name for hidden in open_kit(rubric.assignment).hidden if hidden.whole}
    quick = replace(rubric, tests=tuple(test for test in rubric.tests if test[0] not in whole))
    steps: list[tuple[str, Any]] = [
        ("points of the solution", lambda: [_gets(instructor / "solution", rubric, full)]),
        ("points of the starter", lambda: [_gets(student, rubric, dict.fromkeys(full, 0.0))]),
    ]
    for mutant in sorted((instructor / "mutants").glob("*/check.txt")):
        # A mutant of a test of the whole shows there alone.
        asked = rubric if _graded_by(mutant.parent, rubric) <= whole else quick
        run = partial(_loses, mutant.parent, asked)
        steps.append((f"points of mutant {mutant.parent.name}", lambda run=run: [run()]))
    for name, text in ATTACKS.items():
        attack = partial(_attack, name, text, quick)
        steps.append((f"attack: {name}", lambda run=attack: [run()]))
    return steps


def _points(folder: Path, rubric: Rubric) -> dict[str, float]:
    """Of each test, with a fresh seed of the folder's name."""
    with tempfile.TemporaryDirectory(prefix="genzoo-validate-") as out:
        (found,) = grade([folder], rubric, out, seed=0)
    return {test.name: test.score for test in found.tests}


def _gets(folder: Path, rubric: Rubric, wanted: Mapping[str, float]) -> Expectation:
    found = _points(folder, rubric)
    what = f"'{folder.name}' gets {sum(wanted.values()):g} points"
    return Expectation(what, found == wanted, f"it gets {found}")


def _graded_by(mutant: Path, rubric: Rubric) -> set[str]:
    """The hidden tests that are about the check of a mutant."""
    check = (mutant / "check.txt").read_text(encoding="utf-8").strip()
    return {h.name for h in open_kit(rubric.assignment).hidden if check in h.checks}


def _loses(mutant: Path, rubric: Rubric) -> Expectation:
    found, wanted = _points(mutant, rubric), _graded_by(mutant, rubric)
    whole = {h.name for h in open_kit(rubric.assignment).hidden if h.whole}
    lost = {name for name, _, points in rubric.tests if found[name] < points}
    what = f"mutant '{mutant.name}' loses points of {', '.join(sorted(wanted))} and no other"
    met = wanted <= lost and lost - wanted <= whole
    return Expectation(what, met, f"it loses points of {', '.join(sorted(lost)) or 'nothing'}")


ATTACKS = {
    "ends without an answer": "import os\nos._exit(0)\n",
    "forges answers": """import json, os, struct
head = json.dumps({"ok": True, "arrays": [["0", "float64", [1]]]}).encode()
for descriptor in range(3, 64):
    try:
        os.write(descriptor, (struct.pack(">I", len(head)) + head + bytes(8)) * 50)
    except OSError:
        pass
""",
    "takes the library's solution": "from genzoo.course.kit import *\n",
    "takes the library's models": "from genzoo.models import *\n",
    "answers with nothing finite": """import torch
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *a, **k: torch.full((3,), float("nan"))
""",
}
"""Hand-ins that must get nothing, whatever the assignment."""


def _attack(name: str, text: str, rubric: Rubric) -> Expectation:
    with tempfile.TemporaryDirectory(prefix="genzoo-validate-") as scratch:
        place = Path(scratch) / "attack"
        write_bytes(place / MODEL, text.encode())
        found = _points(place, rubric)
    return Expectation(f"a hand-in that {name} gets nothing", not any(found.values()), f"{found}")


class _copy:  # noqa: N801  (a context manager)
    """A solution's folder with another model, for a moment."""

    def __init__(self, solution: Path, model: str) -> None:
        self._solution, self._model = solution, model
        self._scratch = tempfile.TemporaryDirectory(prefix="genzoo-validate-")

    def __enter__(self) -> Path:
        place = Path(self._scratch.name)
        name = "assignment.toml"
        write_bytes(place / name, (self._solution / name).read_bytes())
        write_bytes(place / MODEL, self._model.encode())
        return place

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()


def _told(found: Checked) -> str:
    return "; ".join(f"{o.check}: {o.cause}" for o in found.outcomes if o.status != "passed")
