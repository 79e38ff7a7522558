"""What somebody wrote themselves in a file with blanks, and fingerprints of it.

Nothing is executed, imported or parsed: broken files have fingerprints, too.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import keyword
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from genzoo.course.blanks import find_blanks
from genzoo.errors import InputError

GRAM, WINDOW = 8, 4
"""Tokens of a k-gram, and k-grams of a window: whatever is shared over 11 tokens is found, and
nothing is that is shared over fewer than 8."""
MAX_CHARACTERS = 200_000
"""Of a file; the longest model of the library has a fifth of it."""
MAX_BROKEN_LINES = 5000
ELSEWHERE = 0
"""Number of what was written outside of all blanks."""

_KEPT = frozenset(keyword.kwlist) | frozenset(dir(builtins)) | {"self"}
_SILENT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    *(getattr(tokenize, name, -1) for name in ("FSTRING_MIDDLE", "FSTRING_END")),
)
_STRINGS = (tokenize.STRING, getattr(tokenize, "FSTRING_START", -1))


@dataclass(frozen=True)
class Segment:
    """Lines that somebody wrote.

    Attributes:
        blank: its number, or `ELSEWHERE`.
        line: number of the first line in the file, from 1.
        lines: as they were written.
    """

    blank: int
    line: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Fingerprint:
    """One k-gram that the winnowing chose.

    Attributes:
        value: hash of its tokens.
        blank: where it lies.
        first: line in the file.
        last: line in the file.
    """

    value: int
    blank: int
    first: int
    last: int


def own_segments(text: str, given: Iterable[str]) -> list[Segment]:
    """What is not everybody's: the blanks' contents, and other lines that were not given.

    Args:
        text: of the file. Where its marks are damaged, all of it is `ELSEWHERE`.
        given: the starter's lines.
    """
    lines, known = text.splitlines(), {line.strip() for line in given} | {""}
    inside: dict[int, int] = {}
    try:
        blanks = find_blanks(text)
    except (InputError, ValueError):  # also a number of more digits than Python reads
        blanks = []
    for blank in blanks:
        inside |= {blank.line + i: blank.number for i in range(len(blank.lines))}
    found = [
        Segment(blank.number, blank.line + 1, blank.lines)
        for blank in blanks
        if any(line.strip() not in known for line in blank.lines)
    ]
    run: list[str] = []
    for position, line in enumerate([*lines, ""]):
        if position not in inside and line.strip() not in known:
            run.append(line)
        elif run:
            found.append(Segment(ELSEWHERE, position - len(run) + 1, tuple(run)))
            run = []
    return found


def fingerprints(segment: Segment) -> list[Fingerprint]:
    """Winnowing (Schleimer, Wilkerson, Aiken 2003): the least hash of each window of k-grams.

    Less than a k-gram is one fingerprint as a whole.
    """
    tokens = list(_normalized(segment.lines))
    if not tokens:
        return []
    width = min(GRAM, len(tokens))
    grams = [
        (_hash(word for word, _ in tokens[i : i + width]), i)
        for i in range(len(tokens) - width + 1)
    ]
    window = min(WINDOW, len(grams))
    chosen = {
        # The last of equal ones, so that a run of the same gives one a window.
        min(grams[i : i + window], key=lambda gram: (gram[0], -gram[1]))
        for i in range(len(grams) - window + 1)
    }
    return [
        Fingerprint(
            value,
            segment.blank,
            segment.line + tokens[at][1],
            segment.line + tokens[at + width - 1][1],
        )
        for value, at in sorted(chosen, key=lambda gram: gram[1])
    ]


def _hash(words: Iterable[str]) -> int:
    content = "\0".join(words).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _normalized(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Tokens with their lines from 0: names by their kind, without comments and docstrings.

    Names that can be chosen freely are all the same; what Python or a library calls so stays:
    keywords, built-in functions, attributes of others than ``self``, names of arguments.
    """
    raw = list(_tokens(lines))
    depth, header = 0, False
    for index, (kind, word, line) in enumerate(raw):
        before = [raw[index - i][1] if index >= i else "" for i in (1, 2)]
        after = raw[index + 1] if index + 1 < len(raw) else (tokenize.NEWLINE, "", line)
        header = (header or word == "def") and kind != tokenize.NEWLINE
        if kind in _SILENT:
            continue
        if kind in _STRINGS:
            starts = index == 0 or raw[index - 1][0] in (tokenize.NEWLINE, tokenize.NL)
            if not (starts and after[0] in (tokenize.NEWLINE, tokenize.NL)):
                yield "string", line
        elif kind == tokenize.NUMBER:
            yield _number(word), line
        elif kind == tokenize.NAME:
            argument = depth > 0 and after[1] == "=" and not header
            attribute = before[0] == "." and before[1] != "self"
            kept = attribute or argument or (before[0] != "." and word in _KEPT)
            yield word if kept else "name", line
        else:
            depth = max(0, depth + (word in ("(", "[", "{")) - (word in (")", "]", "}")))
            yield word, line


def _number(word: str) -> str:
    """2, 2.0 and 2. are the same."""
    try:
        return repr(float(word))
    except ValueError:
        return word


def _tokens(lines: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """Kinds, words and lines; where Python's tokenizer stops, it goes on in the next line."""
    # Without indentation, which is white space here, a part of a file is as good as a whole one.
    bare = [line.strip() for line in lines]
    begun = 0
    try:
        for kind, word, line in _tokenized("\n".join(bare)):
            begun = line + 1
            yield kind, word, line
    except _BROKEN:
        # What is open at the end of the file fails from each of its lines again.
        for number in range(begun, min(len(bare), begun + MAX_BROKEN_LINES)):
            with suppress(*_BROKEN):
                yield from ((kind, word, number) for kind, word, _ in _tokenized(bare[number]))


_BROKEN = (tokenize.TokenError, SyntaxError, ValueError)


def _tokenized(text: str) -> Iterator[tuple[int, str, int]]:
    for token in tokenize.generate_tokens(io.StringIO(text + "\n").readline):
        yield token.type, token.string, token.start[0] - 1
