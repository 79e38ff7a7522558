"""``grades.csv``: all hand-ins of a folder; columns that a person fills in are kept."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from genzoo.course.grading.results import Grade
from genzoo.course.grading.rubric import Rubric
from genzoo.errors import GenzooError
from genzoo.files import read_json, write_bytes

BOOK = "grades.csv"
LATE = "late"
"""Points that are taken away; a person enters them."""


def write_book(out: Path, rubric: Rubric) -> None:
    """Write the table of everything in a folder of results; entries by hand are kept.

    ``total`` is there as soon as all questions have points: automatic and manual ones, less what is
    taken away for being late, and not below 0.
    """
    questions = [name for name, _, _ in rubric.questions]
    tests = [name for name, _, _ in rubric.tests]
    kept = _entries(out / BOOK, [*questions, LATE])
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["student", *tests, "automatic", *questions, LATE, "total"])
    for grade in _grades(out):
        scores = {test.name: test.score for test in grade.tests}
        by_hand = [kept.get(grade.student, {}).get(name, "") for name in [*questions, LATE]]
        row = [scores.get(name, 0.0) for name in tests]
        total = _total(grade.score, by_hand[:-1], by_hand[-1])
        writer.writerow([_shown(grade.student), *row, grade.score, *by_hand, total])
    write_bytes(out / BOOK, buffer.getvalue().encode())


def _grades(out: Path) -> list[Grade]:
    """Of all folders with a result, by student."""
    found = []
    for path in sorted(out.glob("*/results.json")):
        try:
            found.append(Grade.from_dict(read_json(path), {}))
        except (GenzooError, KeyError, TypeError):
            continue  # not ours
    return found


def _entries(path: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """What a person has entered, by student and column."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        str(row.get("student", "")).removeprefix("'"): {n: row.get(n) or "" for n in names}
        for row in rows
    }


def _total(automatic: float, manual: list[str], late: str) -> float | str:
    try:
        points = [float(entry) for entry in manual]
        return round(max(0.0, automatic + sum(points) - float(late or 0)), 2)
    except ValueError:
        return ""


def _shown(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@") else name
