"""What is asked of every hand-in: the instructor's bundle, which is trusted."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from genzoo.course.grading.judge import DrawTest, Test
from genzoo.errors import InputError
from genzoo.files import read_toml

HIDDEN = "hidden"
CHALLENGES, ADAPTER, THRESHOLDS = "challenges.py", "inside.py", "thresholds.toml"


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
        samples: draws the data of the test of samples, where there is one.
    """

    bundle: Path
    assignment: str
    variant: int
    choices: Mapping[str, Any]
    tests: tuple[tuple[str, str, float], ...]
    questions: tuple[tuple[str, str, float], ...]
    thresholds: Mapping[str, Any]
    challenges: Mapping[str, Test]
    samples: DrawTest | None = None

    @property
    def adapter(self) -> Path:
        """Who calls the student's functions, inside of the sandbox."""
        return self.bundle / HIDDEN / ADAPTER

    @property
    def sha256(self) -> str:
        """Of everything that decides about points: another bundle, another grade."""
        names = ["rubric.toml", "solution/assignment.toml"]
        names += [f"{HIDDEN}/{name}" for name in (CHALLENGES, ADAPTER, THRESHOLDS)]
        digest = hashlib.sha256()
        for name in names:
            content = (self.bundle / name).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    @property
    def points(self) -> float:
        """Of the automatic part."""
        return sum(points for _, _, points in self.tests)


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
    challenges, samples = _challenges(folder / HIDDEN / CHALLENGES)
    lacking = [test for test, _, _ in tests if test not in challenges]
    if lacking or not (folder / HIDDEN / ADAPTER).is_file():
        raise InputError(
            f"'{folder}': hidden/ has nothing for {', '.join(lacking) or 'the worker'}; "
            "write the assignment again with: genzoo course new"
        )
    thresholds = read_toml(folder / HIDDEN / THRESHOLDS)
    return Rubric(
        folder, name, variant, choices, tuple(tests), tuple(questions), thresholds, challenges,
        samples,
    )  # fmt: skip


def _challenges(path: Path) -> tuple[Mapping[str, Test], DrawTest | None]:
    """The instructor's own code, which is trusted; it imports no torch."""
    if not path.is_file():
        raise InputError(f"'{path}' is missing; give the instructor's folder")
    module = ModuleType("hidden_challenges")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module.TESTS, getattr(module, "SAMPLES", None)
