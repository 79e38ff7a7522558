"""``genzoo course new``: an assignment's folders for students and for instructors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from genzoo.course.assignment import AI_USE, MODEL, NAME, REPORT, as_rubric, as_toml
from genzoo.course.blanks import emptied, find_blanks
from genzoo.course.kit import Kit, Mutant, open_kit
from genzoo.course.notebooks import as_notebook
from genzoo.errors import InputError
from genzoo.files import write_bytes

NOTEBOOK = "assignment.ipynb"
HIDDEN = ("challenges.py", "inside.py", "thresholds.toml")
"""What the grader needs of an assignment: what it asks, who answers, and for how many points."""


def new(folder: str | Path, assignment: str, *, variant: int = 0, notebook: bool = False) -> Path:
    """Write ``student/`` and ``instructor/`` of an assignment.

    Args:
        folder: a new or empty one.
        assignment: a name of `genzoo.course.kit.ASSIGNMENTS`.
        variant: seed of the choices; 0 takes the textbook's.
        notebook: whether the student gets a notebook, too.

    Returns:
        The student's folder.

    Raises:
        InputError: no such assignment, or the folder is in use.
    """
    if variant < 0:
        raise InputError(f"--variant {variant}: must be 0 or more")
    kit, folder = open_kit(assignment), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"'{folder}' exists and is not empty; give a new folder")
    made = render(assignment, kit, variant)
    for name, text in made.student().items():
        write_bytes(folder / "student" / name, text.encode())
    if notebook:
        write_bytes(folder / "student" / NOTEBOOK, made.notebook().encode())
    for name, text in made.instructor().items():
        write_bytes(folder / "instructor" / name, text.encode())
    return folder / "student"


class Rendered:
    """An assignment in one variant, as texts."""

    def __init__(self, name: str, kit: Kit, variant: int, choices: Mapping[str, Any]) -> None:
        """Render the solution; the rest follows from it."""
        self.name, self.kit, self.variant, self.choices = name, kit, variant, dict(choices)
        self._environment = Environment(
            loader=PackageLoader("genzoo.course", "assignments"),
            autoescape=False,  # Python and Markdown, of our own templates alone
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self.solution = self._template("model.py.j2")
        self.blanks = find_blanks(self.solution)

    def _template(self, file: str) -> str:
        package = self.name.replace("-", "_")
        place = f"{package}/{file}" if not file.startswith("shared/") else file
        return self._environment.get_template(place).render(
            kit=self.kit,
            name=self.name,
            variant=self.variant,
            blanks=getattr(self, "blanks", ()),
            self_choices=self.choices,
            **self.choices,
        )

    @property
    def place(self) -> Path:
        """The assignment's folder in the library."""
        return Path(__file__).parent / "assignments" / self.name.replace("-", "_")

    def student(self) -> dict[str, str]:
        """Files of the student's folder by name."""
        return self._folder(emptied(self.solution))

    def instructor(self) -> dict[str, str]:
        """Files of the instructor's folder by name."""
        files = {f"solution/{name}": text for name, text in self._folder(self.solution).items()}
        files["rubric.toml"] = as_rubric(self.kit)
        files["hidden/README.md"] = self._template("shared/hidden.md.j2")
        for name in HIDDEN:
            files[f"hidden/{name}"] = (self.place / name).read_text(encoding="utf-8")
        files["GUIDE.md"] = self._template("shared/guide.md.j2")
        for mutant in self.mutants():
            files[f"mutants/{mutant.name}/{MODEL}"] = self.mutated(mutant)
            files[f"mutants/{mutant.name}/check.txt"] = f"{mutant.check}\n"
        return files

    def mutants(self) -> list[Mutant]:
        """Those that make sense in this variant."""
        return [mutant for mutant in self.kit.mutants if mutant.fits(self.choices)]

    def mutated(self, mutant: Mutant) -> str:
        """The solution with one mistake.

        Raises:
            InputError: the text that it replaces does not occur exactly once.
        """
        if self.solution.count(mutant.old) != 1:
            raise InputError(
                f"mutant '{mutant.name}' of '{self.name}' replaces a text that occurs "
                f"{self.solution.count(mutant.old)} times: {mutant.old!r}"
            )
        return self.solution.replace(mutant.old, mutant.new)

    def notebook(self) -> str:
        """The student's notebook."""
        return as_notebook(self._template("README.md.j2"), emptied(self.solution))

    def _folder(self, model: str) -> dict[str, str]:
        return {
            "README.md": self._template("README.md.j2") + self._template("shared/how.md.j2"),
            NAME: as_toml(self.name, self.kit, self.variant, self.choices),
            "submission/__init__.py": "",
            MODEL: model,
            REPORT: self._template("report.md.j2") + self._template("shared/card.md.j2"),
            AI_USE: self._template("shared/ai_use.md.j2"),
        }


def render(name: str, kit: Kit, variant: int) -> Rendered:
    """An assignment in one variant."""
    return Rendered(name, kit, variant, kit.variant(variant))
