"""``assignment.toml``: which assignment, which variant, which files, how many points."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.course.kit import ASSIGNMENTS, Kit, open_kit
from genzoo.errors import InputError
from genzoo.files import read_toml

SCHEMA = 1
NAME = "assignment.toml"
MODEL = "submission/model.py"
REPORT = "report.md"
AI_USE = "ai_use.md"
REQUIRED = ("submission/__init__.py", MODEL, REPORT, AI_USE)
ALLOWED = (NAME, *REQUIRED, "figures/*.png", "figures/numbers.json")
MAX_BYTES = 5_000_000


@dataclass(frozen=True)
class Assignment:
    """A student's folder and what is asked for in it.

    Attributes:
        folder: with ``assignment.toml`` in it.
        name: of the kit.
        variant: seed of the choices.
        choices: by name.
        allowed: patterns of the files that may be handed in.
        required: files that must be.
        max_bytes: of all of them together.
        steps: of training.
        threads: of the computation.
    """

    folder: Path
    name: str
    variant: int
    choices: Mapping[str, Any]
    allowed: tuple[str, ...]
    required: tuple[str, ...]
    max_bytes: int
    steps: int
    threads: int

    @property
    def kit(self) -> Kit:
        """What the library knows of it."""
        return open_kit(self.name)

    @property
    def model(self) -> Path:
        """The student's file."""
        return self.folder / MODEL


def open_assignment(folder: str | Path) -> Assignment:
    """Read ``assignment.toml`` of a student's folder, or of the folder above it.

    Raises:
        InputError: there is none, or it is damaged.
    """
    folder = Path(folder)
    place = folder if (folder / NAME).is_file() else folder / "student"
    path = place / NAME
    if not path.is_file():
        raise InputError(
            f"'{folder}' is no assignment: it has no {NAME}; "
            "go into the student's folder, or make one with: genzoo course new"
        )
    return _checked(place, read_toml(path))


def _checked(folder: Path, raw: Mapping[str, Any]) -> Assignment:
    def take(where: Mapping[str, Any], key: str, kind: type) -> Any:
        value = where.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"'{folder / NAME}': '{key}' is missing or not as it was given out")
        return value

    if raw.get("schema") != SCHEMA:
        raise InputError(f"'{folder / NAME}' is of schema {raw.get('schema')!r}, not {SCHEMA}")
    name = take(raw, "assignment", str)
    if name not in ASSIGNMENTS:
        raise InputError(f"'{folder / NAME}': this genzoo has no assignment '{name}'")
    kit, choices = open_kit(name), take(raw, "choices", dict)
    for key, options in kit.choices.items():
        if choices.get(key) not in options:
            raise InputError(f"'{folder / NAME}': choice '{key}' is {choices.get(key)!r}")
    files, training = take(raw, "files", dict), take(raw, "training", dict)
    return Assignment(
        folder=folder,
        name=name,
        variant=take(raw, "variant", int),
        choices={key: choices[key] for key in kit.choices},
        allowed=tuple(map(str, take(files, "allowed", list))),
        required=tuple(map(str, take(files, "required", list))),
        max_bytes=take(files, "max_bytes", int),
        steps=take(training, "steps", int),
        threads=take(training, "threads", int),
    )


def as_toml(name: str, kit: Kit, variant: int, choices: Mapping[str, Any]) -> str:
    """The content of ``assignment.toml``."""
    lines = [
        "# What is asked for, and what may be handed in. genzoo reads it; leave it as it is.",
        f"schema = {SCHEMA}",
        f"assignment = {json.dumps(name)}",
        f"title = {json.dumps(kit.title, ensure_ascii=False)}",
        f"variant = {variant}",
        "",
        "[choices]  # of this variant",
        *(f"{key} = {json.dumps(value)}" for key, value in choices.items()),
        "",
        "[files]",
        f"allowed = {json.dumps(ALLOWED)}",
        f"required = {json.dumps(REQUIRED)}",
        f"max_bytes = {MAX_BYTES}",
        "",
        "[training]",
        f"steps = {kit.steps}",
        f"threads = {kit.threads}",
        f"minutes = {kit.minutes}  # of the whole loop on two cores",
        "",
        "[points]",
        *(f"{json.dumps(h.title, ensure_ascii=False)} = {h.points}" for h in kit.hidden),
        *(f"{json.dumps(q, ensure_ascii=False)} = {p}" for q, p in kit.questions.items()),
    ]
    return "\n".join(lines) + "\n"


def as_rubric(kit: Kit) -> str:
    """The content of the instructor's ``rubric.toml``: a table a test, automatic or manual."""
    lines = [
        "# Points by test: 'hidden' ones by random challenges, 'manual' ones by a person.",
        f"schema = {SCHEMA}",
    ]
    tests = [("hidden", h.name, h.title, h.points) for h in kit.hidden]
    tests += [
        ("manual", f"question-{i}", q, p) for i, (q, p) in enumerate(kit.questions.items(), 1)
    ]
    for kind, name, title, points in tests:
        lines += [
            "",
            "[[test]]",
            f"kind = {json.dumps(kind)}",
            f"name = {json.dumps(name)}",
            f"title = {json.dumps(title, ensure_ascii=False)}",
            f"points = {points}",
        ]
    return "\n".join(lines) + "\n"
