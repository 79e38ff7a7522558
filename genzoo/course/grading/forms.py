"""Results as other systems want them. Texts of students are plain text everywhere.

Gradescope: https://gradescope-autograders.readthedocs.io/en/latest/specs/
PrairieLearn: https://docs.prairielearn.com/externalGrading/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genzoo.course.grading.results import NOTE, Grade


def _head(grade: Grade) -> str:
    return f"{grade.sandbox}\n{NOTE}" if grade.sandbox else NOTE


def gradescope(grade: Grade) -> dict[str, Any]:
    """``results.json`` of Gradescope."""
    return {
        "score": grade.score,
        "output": _head(grade),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [
            {
                "score": test.score,
                "max_score": test.max_score,
                "status": "passed" if test.score == test.max_score else "failed",
                "name": test.title,
                "number": str(number),
                "output": test.output,
                "output_format": "text",
                "visibility": "visible",
            }
            for number, test in enumerate(grade.tests, 1)
        ],
    }


def with_leaderboard(
    results: Mapping[str, Any], columns: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    """``results.json`` of Gradescope with one hand-in's line of the leaderboard.

    Args:
        results: what `gradescope` gave; where empty, no points are given.
        columns: name and value of each column, the smaller the better.
    """
    shown = [{"name": name, "value": round(value, 4), "order": "asc"} for name, value in columns]
    return {**(results or {"score": 0.0, "tests": []}), "leaderboard": shown}


def prairielearn(grade: Grade) -> dict[str, Any]:
    """``results.json`` of PrairieLearn, whose score is a share."""
    return {
        "gradable": True,
        "score": round(grade.score / grade.max_score, 4) if grade.max_score else 0.0,
        "message": _head(grade),
        "output": "",
        "format_errors": [],
        "tests": [
            {
                "name": test.name,
                "description": test.title,
                "points": test.score,
                "max_points": test.max_score,
                "message": "",
                "output": test.output,
            }
            for test in grade.tests
        ],
    }


FORMS: Mapping[str, Callable[[Grade], dict[str, Any]]] = {
    "gradescope": gradescope,
    "prairielearn": prairielearn,
}
