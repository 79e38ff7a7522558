"""``genzoo course similarity``: hand-ins that are worth reading side by side.

Hand-ins are compared with each other, with the library's models and with the solution, by
fingerprints of what each person wrote (`genzoo.course.tokens`). Nothing of a hand-in is executed.

Blanks are a few lines with a few right answers, so that honest work looks alike. What the starter
gives to everybody, what more than half of the class shares, and, between hand-ins, what the
solution has, too, is left out. A number is a reason to look, and no proof of anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from textwrap import dedent
from typing import Any

from genzoo.course.blanks import emptied, find_blanks
from genzoo.course.grading.handin import MODEL, read_files, students
from genzoo.course.grading.judge import plain
from genzoo.course.grading.pages import write_page
from genzoo.course.tokens import (
    ELSEWHERE,
    MAX_CHARACTERS,
    Fingerprint,
    Segment,
    fingerprints,
    own_segments,
)
from genzoo.errors import InputError
from genzoo.files import disk_errors, write_json

SCHEMA = 1
PAIRS = 50
ALWAYS = 3
"""So many may share a fingerprint in the smallest class, or nobody could copy from anybody."""
FEW = 10
"""A share is taken of so many fingerprints at least: three of three are not everything."""
LEAST = 3
"""Two files that share fewer fingerprints are no pair."""
MAX_REGIONS, MAX_LINES, MAX_WIDTH = 40, 40, 160
MAX_REPEATS = 20
"""Places of one fingerprint in a file: a line that is there ten thousand times is shown once."""
NOTE = (
    "A number is a reason to look at both files, and no proof. Blanks are a few lines with a few "
    "right answers, so that honest solutions look alike, and short ones are the same. Left out is "
    "what the starter gives to everybody, what more than half of the class shares, and, between "
    "hand-ins and with the library, what the solution has, too. Who copies nothing but the "
    "usual right answer is not found."
)


@dataclass(frozen=True)
class Work:
    """What somebody wrote.

    Attributes:
        name: of the student, or of the file it is compared with.
        lines: of the file.
        segments: what is not everybody's.
        prints: of the segments.
    """

    name: str
    lines: tuple[str, ...]
    segments: tuple[Segment, ...]
    prints: tuple[Fingerprint, ...]

    @property
    def values(self) -> frozenset[int]:
        """Of the fingerprints."""
        return frozenset(p.value for p in self.prints)

    @property
    def text(self) -> str:
        """All that was written, without white space."""
        return "\n".join("".join(line.split()) for s in self.segments for line in s.lines)


@dataclass(frozen=True)
class Region:
    """Lines that match, each side from its first to its last line, from 1."""

    blank: int
    left: tuple[int, int]
    right_blank: int
    right: tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """Two files.

    Attributes:
        kind: of the right one: ``hand-in``, ``library`` or ``solution``.
        left: a hand-in.
        right: what it is compared with.
        shared: fingerprints that both have, without those that mean nothing.
        left_own: fingerprints of the left one, without those.
        right_own: of the right one.
        identical: whether they are the same letter by letter, with comments and names.
        blanks: shared and own fingerprints of the left one by blank.
        regions: the lines that match, in the left one's order.
    """

    kind: str
    left: str
    right: str
    shared: int
    left_own: int
    right_own: int
    identical: bool
    blanks: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    regions: tuple[Region, ...] = ()

    @property
    def containment(self) -> float:
        """Shared ones among those of the smaller hand-in, or of the hand-in beside a given file."""
        least = min(self.left_own, self.right_own) if self.kind == "hand-in" else self.left_own
        return self.shared / max(least, FEW)

    @property
    def jaccard(self) -> float:
        """Shared ones among those of either."""
        return self.shared / max(self.left_own + self.right_own - self.shared, 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "left": self.left,
            "right": self.right,
            "containment": round(self.containment, 4),
            "jaccard": round(self.jaccard, 4),
            "shared": self.shared,
            "identical": self.identical,
            "blanks": {_place(b): list(counts) for b, counts in self.blanks.items()},
            "lines": [[list(region.left), list(region.right)] for region in self.regions],
        }


@dataclass(frozen=True)
class Similarity:
    """Of a class.

    Attributes:
        pairs: of hand-ins, then with given files; the most alike first.
        notes: what to know of single hand-ins.
        works: all files by name.
        titles: of the blanks.
    """

    pairs: tuple[Pair, ...]
    notes: Mapping[str, str]
    works: Mapping[str, Work]
    titles: Mapping[int, str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": SCHEMA,
            "kind": "similarity",
            "note": NOTE,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "notes": dict(self.notes),
        }


def similarity(
    submissions: Sequence[str | Path],
    bundle: str | Path,
    out: str | Path | None = None,
    *,
    pairs: int = PAIRS,
) -> Similarity:
    """Compare hand-ins, each a student's folder or the zip that ``pack`` makes.

    Args:
        submissions: folders and zips.
        bundle: the instructor's folder.
        out: a file that ends with ``.html`` or ``.json``.
        pairs: of hand-ins that are kept, the most alike ones, and as many with given files.

    Raises:
        InputError: a bundle that is none, or a file of another kind.
    """
    if out is not None and Path(out).suffix not in (".html", ".json"):
        raise InputError(f"'{out}': the report is a file that ends with .html or .json")
    solution = _solution(Path(bundle))
    given = emptied(solution).splitlines()
    handed_in = students([Path(s) for s in submissions])
    works: dict[str, Work] = {}
    notes: dict[str, str] = {}
    for student, source in handed_in.items():
        try:
            content = read_files(source)[MODEL]
        except InputError as error:
            notes[student] = f"not compared: {plain(str(error), 300)}"
            continue
        works[student], told = _handed_in(student, content, given)
        if told:
            notes[student] = told
    found = _compared(works, _references(solution, given), given, pairs)
    titles = {blank.number: blank.title for blank in find_blanks(solution)}
    result = Similarity(found[0], notes, {**works, **found[1]}, titles)
    if out is not None:
        _write(result, Path(out))
    return result


def _solution(bundle: Path) -> str:
    path = bundle / "solution" / MODEL
    if not path.is_file():
        raise InputError(f"'{bundle}' has no solution/{MODEL}; give the instructor's folder")
    return path.read_text(encoding="utf-8")


def _work(name: str, text: str, given: Sequence[str]) -> Work:
    segments = tuple(own_segments(text, given))
    prints = tuple(p for segment in segments for p in fingerprints(segment))
    return Work(name, tuple(text.splitlines()), segments, prints)


def _handed_in(student: str, content: bytes, given: Sequence[str]) -> tuple[Work, str]:
    """What a student wrote, and what to know of it."""
    text, told = content.decode("utf-8-sig", "replace"), []
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS]
        told.append(f"only its first {MAX_CHARACTERS:,} characters are compared")
    try:
        blanks = find_blanks(text)
        expected = find_blanks("\n".join(given))
        still = [b.number for b in blanks if b.lines in {e.lines for e in expected}]
        if still:
            told.append(f"blanks as they were given: {', '.join(map(str, still))}")
        if len(blanks) != len(expected):
            told.append("marks of blanks are missing")
    except (InputError, ValueError):
        told.append("marks of blanks are damaged: compared as a whole")
    return _work(student, text, given), "; ".join(told)


def _references(solution: str, given: Sequence[str]) -> list[tuple[str, Work]]:
    """Kind and text of what a hand-in may have been taken from; read, not imported."""
    models = Path(__file__).parents[1] / "models"
    found = [("solution", _work(f"solution/{MODEL}", solution, given))]
    for path in sorted(models.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(("library", _work(f"genzoo/models/{path.name}", text, ())))
    return found


def _compared(
    works: Mapping[str, Work],
    references: Sequence[tuple[str, Work]],
    given: Sequence[str],
    count: int,
) -> tuple[tuple[Pair, ...], dict[str, Work]]:
    """The most alike pairs, and the given files by name."""
    sharing = Counter(value for work in works.values() for value in work.values)
    most = max(ALWAYS, len(works) / 2)
    usual = {value for value, people in sharing.items() if people > most}
    usual |= _work("", "\n".join(given), ()).values
    right = {value for kind, work in references if kind == "solution" for value in work.values}
    known = {name: work.values for name, work in works.items()}
    candidates: list[tuple[Pair, set[int] | frozenset[int]]] = []

    def compare(kind: str, left: Work, other: Work, theirs: frozenset[int]) -> None:
        without = usual if kind == "solution" else usual | right
        mine, theirs = known[left.name] - without, theirs - without
        identical = bool(left.text) and kind != "library" and left.text == other.text
        if len(mine & theirs) >= LEAST or identical:
            pair = Pair(
                kind, left.name, other.name, len(mine & theirs), len(mine), len(theirs), identical
            )
            candidates.append((pair, without))

    for one, other in combinations(works.values(), 2):
        compare("hand-in", one, other, known[other.name])
    for kind, reference in references:
        theirs = reference.values
        for work in works.values():
            compare(kind, work, reference, theirs)
    candidates.sort(key=lambda c: _order(c[0]))
    of_the_class = [c for c in candidates if c[0].kind == "hand-in"][:count]
    given_files = [c for c in candidates if c[0].kind != "hand-in"][:count]
    named = {reference.name: reference for _, reference in references}
    everything = {**named, **works}
    kept = tuple(
        _with_lines(pair, works[pair.left], everything[pair.right], without)
        for pair, without in (*of_the_class, *given_files)
    )
    return kept, named


def _order(pair: Pair) -> tuple[bool, float, float, str, str]:
    """The most alike first."""
    return (not pair.identical, -pair.containment, -pair.jaccard, pair.left, pair.right)


def _with_lines(pair: Pair, left: Work, right: Work, without: set[int] | frozenset[int]) -> Pair:
    """The pair with the blanks and lines in which it matches."""
    shared = (left.values & right.values) - without
    own: dict[int, set[int]] = {}
    for print_ in left.prints:
        if print_.value not in without:
            own.setdefault(print_.blank, set()).add(print_.value)
    blanks = {blank: (len(values & shared), len(values)) for blank, values in sorted(own.items())}
    regions = tuple(_regions(left, right, shared))
    return Pair(
        pair.kind, pair.left, pair.right, pair.shared, pair.left_own, pair.right_own,
        pair.identical, blanks, regions,
    )  # fmt: skip


def _regions(left: Work, right: Work, shared: set[int] | frozenset[int]) -> list[Region]:
    """Matching fingerprints that follow each other on both sides, as runs of lines."""
    places: dict[int, list[Fingerprint]] = {}
    for print_ in right.prints:
        if print_.value in shared and len(places.setdefault(print_.value, [])) < MAX_REPEATS:
            places[print_.value].append(print_)
    found: list[Region] = []
    for mine in left.prints:
        if mine.value not in places:
            continue
        last = found[-1] if found else None
        follows = [p for p in places[mine.value] if last is not None and _follows(last, mine, p)]
        if last is not None and follows:
            theirs = follows[0]
            found[-1] = Region(
                last.blank,
                (last.left[0], max(last.left[1], mine.last)),
                last.right_blank,
                (min(last.right[0], theirs.first), max(last.right[1], theirs.last)),
            )
        else:
            # The same blank of the other one, if it is there.
            theirs = min(places[mine.value], key=lambda p: p.blank != mine.blank)
            found.append(
                Region(mine.blank, (mine.first, mine.last), theirs.blank,
                       (theirs.first, theirs.last))
            )  # fmt: skip
    return found


def _follows(region: Region, mine: Fingerprint, theirs: Fingerprint) -> bool:
    same = (region.blank, region.right_blank) == (mine.blank, theirs.blank)
    near = region.left[0] <= mine.first <= region.left[1] + 1
    return same and near and region.right[0] <= theirs.first <= region.right[1] + 1


# -- the report -----------------------------------------------------------------------------


def _place(blank: int) -> str:
    return "elsewhere" if blank == ELSEWHERE else f"blank {blank}"


def _write(result: Similarity, path: Path) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        write_json(path, result.to_dict())
        return
    shown = [(_shown(pair, result), pair.kind == "hand-in") for pair in result.pairs]
    groups = {
        "Hand-ins beside each other": [pair for pair, among in shown if among],
        "Beside the solution and the library": [pair for pair, among in shown if not among],
    }
    write_page(
        path, "similarity.html.j2", title="Hand-ins that are alike", note=NOTE, groups=groups,
        notes=result.notes,
    )  # fmt: skip


def _shown(pair: Pair, result: Similarity) -> dict[str, Any]:
    """A pair for the page."""
    blanks = [
        f"{_place(blank)}: {shared} of {own}"
        for blank, (shared, own) in pair.blanks.items()
        if shared
    ]
    left, right = result.works[pair.left], result.works[pair.right]
    regions = [
        {
            "title": f"{_place(region.blank)} {result.titles.get(region.blank, '')}".strip(),
            "left": _lines(left, region.left),
            "right": _lines(right, region.right),
        }
        for region in pair.regions[:MAX_REGIONS]
    ]
    return {
        "left": pair.left,
        "right": pair.right,
        "containment": f"{pair.containment:.0%}",
        "jaccard": f"{pair.jaccard:.0%}",
        "shared": pair.shared,
        "identical": pair.identical,
        "blanks": ", ".join(blanks),
        "regions": regions,
        "more": max(0, len(pair.regions) - MAX_REGIONS),
    }


def _lines(work: Work, span: tuple[int, int]) -> str:
    """Numbered lines of a file, without what moves a cursor or turns a text around."""
    first, last = span
    kept = [line.expandtabs(4) for line in work.lines[first - 1 : min(last, first + MAX_LINES - 1)]]
    shown = [
        f"{number:4d}  {plain(line, MAX_WIDTH)}"
        for number, line in enumerate(dedent("\n".join(kept)).split("\n"), first)
    ]
    return "\n".join([*shown, "   …"] if last - first >= MAX_LINES else shown)
