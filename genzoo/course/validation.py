"""``genzoo course validate``: an assignment that its own solution, starter and mutants test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.course.assignment import MODEL, open_assignment
from genzoo.course.blanks import emptied, find_blanks
from genzoo.course.checking import Checked, check
from genzoo.course.kit import open_kit
from genzoo.course.writing import Rendered, render
from genzoo.errors import InputError
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
    progress: Progress | None = None,
) -> Validation:
    """Test an assignment's folder, as `genzoo.course.new` wrote it or as an instructor changed it.

    The solution passes every check with every seed and number of threads; the starter fails each
    check that a blank is for; each mutant fails its check and no other.

    Args:
        folder: with ``student/`` and ``instructor/`` in it. Their files are executed.
        seeds: of the checks' random inputs, for the solution.
        threads: numbers of threads for the solution.
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


def rendered(assignment: str, variant: int) -> Rendered:
    """An assignment of the library as texts, for tests."""
    return render(assignment, open_kit(assignment), variant)
