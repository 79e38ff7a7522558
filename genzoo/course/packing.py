"""``genzoo course pack``: a zip of what may be handed in, the same bytes for the same files."""

from __future__ import annotations

import fnmatch
import io
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from genzoo.course.assignment import AI_USE, REPORT, Assignment, open_assignment
from genzoo.course.blanks import open_blanks
from genzoo.course.checking import read_model
from genzoo.errors import InputError
from genzoo.files import write_bytes

_DATE = (1980, 1, 1, 0, 0, 0)
_OWN = ("__pycache__", "work")
"""Folders of the program's own making, which are nobody's hand-in."""
TODO = "TODO"
"""Marks an answer that is not written yet."""


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        path: of the zip.
        files: in it.
        left_out: files of the folder that may not be handed in.
        missing: what is still to do, in words; empty if it is whole.
    """

    path: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """For a terminal."""
        lines = [f"{self.path}: {len(self.files)} files"]
        lines += [f"  {name}" for name in self.files]
        if self.left_out:
            lines.append(f"Not handed in: {', '.join(self.left_out)}")
        if self.missing:
            lines += ["Still missing:", *(f"  - {what}" for what in self.missing)]
        return "\n".join(lines)


def pack(folder: str | Path = ".", out: str | Path | None = None) -> Packed:
    """Zip a student's folder. Nothing is executed.

    Args:
        folder: with ``assignment.toml``.
        out: the zip; ``<assignment>.zip`` in the folder where absent.

    Raises:
        InputError: no assignment, a file that is none, or more bytes than allowed.
    """
    assignment = open_assignment(folder)
    place = Path(out) if out is not None else assignment.folder / f"{assignment.name}.zip"
    files, left_out, total = [], [], 0
    for name in _names(assignment.folder):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in assignment.allowed):
            left_out.append(name)
            continue
        info = os.lstat(assignment.folder / name)
        if not stat.S_ISREG(info.st_mode):
            raise InputError(f"'{name}' is a link or no file; hand in files only")
        total += info.st_size
        if total > assignment.max_bytes:
            raise InputError(
                f"more than {assignment.max_bytes:,} bytes with '{name}'; make pictures smaller"
            )
        files.append(name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (assignment.folder / name).read_bytes())
    write_bytes(place, buffer.getvalue())
    kept = [name for name in left_out if name != place.name and not name.endswith(".zip")]
    return Packed(place, tuple(files), tuple(kept), tuple(missing(assignment, files)))


def _names(folder: Path) -> list[str]:
    """Files below a folder in order, hidden ones and caches left aside."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _OWN)
        for name in sorted(names):
            if not name.startswith("."):
                found.append((Path(root) / name).relative_to(folder).as_posix())
    return sorted(found)


def missing(assignment: Assignment, files: list[str]) -> list[str]:
    """What is still to do before handing in."""
    found = [f"{name} is missing" for name in assignment.required if name not in files]
    if "submission/model.py" in files:
        found += [f"blank {b.number}: {b.title}" for b in open_blanks(read_model(assignment))]
    drawn = [f"figures/{figure.name}.png" for figure in assignment.kit.drawn]
    if any(name not in files for name in drawn):
        found.append("figures: draw them with genzoo course figures")
    for name in (REPORT, AI_USE):
        text = (assignment.folder / name).read_text(encoding="utf-8") if name in files else ""
        todo = text.count(TODO)
        if todo:
            found.append(f"{name}: {todo} {'answer' if todo == 1 else 'answers'} marked {TODO}")
    return found
