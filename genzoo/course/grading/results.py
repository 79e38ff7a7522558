"""What a hand-in got: plain data that is written, read and put into other systems' forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genzoo.course.grading.rubric import Rubric

SCHEMA = 1
NOTE = "of the automatic points; the report is graded by a person"


@dataclass
class TestResult:
    """One test of one hand-in.

    Attributes:
        name: of the test.
        title: what was asked for.
        score: what it got.
        max_score: what it could get.
        output: a line a part: right or not, and what it asked.
    """

    __test__ = False  # not for pytest
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
        audit: for the instructor alone: notes, times, memory, what was printed, how it ended.
        sandbox: says so if there was none.
    """

    student: str
    tests: list[TestResult]
    sha256: str = ""
    audit: dict[str, Any] = field(default_factory=dict)
    sandbox: str = ""

    @classmethod
    def nothing(cls, student: str, rubric: Rubric, why: str) -> Grade:
        """No points in any test."""
        return cls(student, [TestResult(n, t, 0.0, p, why) for n, t, p in rubric.tests])

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], audit: dict[str, Any]) -> Grade:
        """Read what `to_dict` wrote."""
        tests = [TestResult(**test) for test in raw["tests"]]
        return cls(raw["student"], tests, raw["sha256"], audit, raw.get("sandbox", ""))

    @property
    def score(self) -> float:
        """Of the automatic points."""
        return round(sum(test.score for test in self.tests), 2)

    @property
    def max_score(self) -> float:
        """The automatic points."""
        return round(sum(test.max_score for test in self.tests), 2)

    def to_dict(self) -> dict[str, Any]:
        """What a student may see; the same hand-in and seed give the same bytes."""
        told = {
            "schema": SCHEMA,
            "kind": "grade",
            "student": self.student,
            "score": self.score,
            "max_score": self.max_score,
            "note": NOTE,
            "sha256": self.sha256,
            "tests": [asdict(test) for test in self.tests],
        }
        return {**told, "sandbox": self.sandbox} if self.sandbox else told
