"""Marked blanks: a solution with its marks is the one source of starter, solution and mutants.

A blank is a run of lines between two comments of the same indentation::

    # BLANK 3: log |det J| of one coupling, eq. (4)
    ...the solution...
    # END 3
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from genzoo.errors import InputError

MAX_LINES = 15
_BEGIN = re.compile(r"^(?P<indent> *)# BLANK (?P<number>\d+): (?P<title>.+)$")
_END = re.compile(r"^ *# END (?P<number>\d+)$")


@dataclass(frozen=True)
class Blank:
    """A blank of a file.

    Attributes:
        number: counts from 1.
        title: what belongs there, with the equation's number.
        line: of its mark, counting from 1.
        lines: between the marks.
        indent: spaces before the marks.
    """

    number: int
    title: str
    line: int
    lines: tuple[str, ...]
    indent: str

    @property
    def todo(self) -> str:
        """What stands there in the starter."""
        told = json.dumps(f"blank {self.number}: {self.title}", ensure_ascii=False)
        return f"{self.indent}raise NotImplementedError({told})"


def find_blanks(text: str) -> list[Blank]:
    """The blanks of a file in order.

    Raises:
        InputError: a mark without its partner, or numbers out of order.
    """
    found: list[Blank] = []
    begun: tuple[int, re.Match[str]] | None = None
    lines = text.splitlines()
    for position, line in enumerate(lines):
        begin, end = _BEGIN.match(line), _END.match(line)
        if begin:
            if begun is not None:
                raise InputError(f"line {position + 1}: a blank begins inside of another")
            begun = (position, begin)
        elif end:
            if begun is None or begun[1]["number"] != end["number"]:
                raise InputError(f"line {position + 1}: '{line.strip()}' ends no blank")
            start, mark = begun
            inner = tuple(lines[start + 1 : position])
            found.append(
                Blank(int(mark["number"]), mark["title"], start + 1, inner, mark["indent"])
            )
            begun = None
    if begun is not None:
        raise InputError(f"line {begun[0] + 1}: '{begun[1].group().strip()}' has no end")
    if [blank.number for blank in found] != list(range(1, len(found) + 1)):
        raise InputError("blanks must be numbered 1, 2, … in the file's order")
    return found


def emptied(text: str, numbers: Iterable[int] | None = None) -> str:
    """The file with these blanks, or all of them, left to be filled."""
    wanted = None if numbers is None else set(numbers)
    lines = text.splitlines()
    for blank in reversed(find_blanks(text)):
        if wanted is None or blank.number in wanted:
            lines[blank.line : blank.line + len(blank.lines)] = [blank.todo]
    return "\n".join(lines) + "\n"


def open_blanks(text: str) -> list[Blank]:
    """The blanks that are still as they were given out."""
    return [blank for blank in find_blanks(text) if blank.lines == (blank.todo,)]
