"""``genzoo course leaderboard``: hand-ins by the samples that their models draw.

Nobody's own samples count: every model is trained again in the sandbox, on data that the grader
draws, the same for all. A round has data and a seed of its own. The spread between rounds is what
another seed would change, of the data and of the training; a bootstrap over the samples of one
training would know nothing of it and call chance a rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from genzoo.course.grading.forms import with_leaderboard
from genzoo.course.grading.grade import NO_SANDBOX, Desk, class_seed, for_each
from genzoo.course.grading.handin import digest, read_files, students, unpacked
from genzoo.course.grading.judge import DrawTest, Refused, Session, plain
from genzoo.course.grading.pages import write_page
from genzoo.course.grading.protocol import Broken
from genzoo.course.grading.rubric import Rubric, read_rubric
from genzoo.course.grading.sandbox import Limits, Worker, choose, unsafe
from genzoo.errors import GenzooError, InputError, unknown
from genzoo.files import read_json, write_json
from genzoo.notebook import listener
from genzoo.progress import Progress

SCHEMA = 1
ROUNDS = 3
SAMPLES = "samples.json"
"""In a hand-in's folder, for the instructor alone."""
BOARD = "leaderboard"
_STREAM = 0x626F617264
"""Keeps the rounds' random numbers apart from those of the tests."""


@dataclass
class Entry:
    """One hand-in.

    Attributes:
        student: name of its folder or zip.
        shares: `gaussians_share` of each round.
        why: it is not ranked; empty if it is. In our words, for everybody.
        detail: of `why`, for the instructor alone.
        rank: from 1; hand-ins that cannot be told apart share one.
        name: that everybody sees.
    """

    student: str
    shares: list[float] = field(default_factory=list)
    why: str = ""
    detail: str = ""
    rank: int | None = None
    name: str = ""

    @property
    def value(self) -> float:
        """Mean of the rounds: 0 as real data, 1 as one fitted Gaussian."""
        return float(np.mean(self.shares))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return _standard_error(np.array(self.shares))

    @property
    def shown(self) -> str:
        """Value and error, or why there are none."""
        return self.why or f"{self.value:.3f} ± {self.error:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """What everybody may see."""
        if self.why:
            return {"rank": None, "name": self.name, "why": self.why}
        told = {"value": round(self.value, 4), "error": round(self.error, 4)}
        return {"rank": self.rank, "name": self.name, **told}


def leaderboard(
    submissions: Sequence[str | Path],
    bundle: str | Path | Rubric,
    out: str | Path,
    *,
    seed: int | None = None,
    rounds: int = ROUNDS,
    jobs: int = 1,
    anonymous: bool = False,
    sandbox: bool = True,
    limits: Limits | None = None,
    form: str | None = None,
    results: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """Train every hand-in's model on the same fresh data, and rank them by their samples.

    What `out` has for the same files, bundle and seed is not computed again, not even half of a
    hand-in's rounds.

    Args:
        submissions: folders and zips.
        bundle: the instructor's folder.
        out: gets ``leaderboard.html`` and ``leaderboard.json``, and ``samples.json`` a hand-in; may
            be the folder of the grades.
        seed: of data and trainings; where absent that of `out`, or a random one, which is kept
            there. Whoever knows it can train for it: it stands in no file for everybody.
        rounds: each with data and a seed of its own, at least 2.
        jobs: hand-ins at a time.
        anonymous: show numbers in the place of names.
        sandbox: false runs untrusted code with your rights, and says so.
        limits: of a worker, which trains once.
        form: ``gradescope``, for `results`.
        results: a file of the one hand-in; what `grade` wrote there stays.
        progress: told how far it is.

    Returns:
        All of them: the ranked in order, then the others.

    Raises:
        InputError: a bundle without a test of samples, or a hand-in that is none.
        MachineError: no sandbox works here.
    """
    rubric = bundle if isinstance(bundle, Rubric) else read_rubric(bundle)
    if rubric.samples is None or "samples" not in rubric.thresholds:
        raise InputError(
            f"the bundle of '{rubric.assignment}' has no samples to rank by: a leaderboard is for "
            "vae, flow, gan and flow-matching, written by this version of genzoo course new"
        )
    if rounds < 2:
        raise InputError("a standard error needs 2 rounds or more")
    handed_in, out = students([Path(s) for s in submissions]), Path(out)
    _for_one(form, results, len(handed_in))
    backend = choose() if sandbox else unsafe()
    desk = Desk(rubric, out, class_seed(out, seed), backend, limits or Limits())
    progress, done, lock = listener(progress), set[str](), Lock()

    def one(student: str) -> Entry:
        entry = _rounds(student, handed_in[student], desk, rounds)
        with lock:
            done.add(student)
            progress.update("training", len(done) / len(handed_in), student)
        return entry

    entries = ranked(for_each(list(handed_in), one, jobs))
    numbers = _numbers([entry.student for entry in entries], desk.seed)
    for entry in entries:
        entry.name = f"hand-in {numbers[entry.student]}" if anonymous else entry.student
    _write(out, entries, desk, rounds)
    if results is not None:
        path = Path(results)
        write_json(path, with_leaderboard(_present(path), _columns(entries[0])))
    return entries


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Those with samples by rank, then the others.

    Who is within a standard error of the first of a rank shares it. In a round all have the same
    data, so that it is the differences of the rounds that tell, and not how hard the data were.
    """
    order = sorted((e for e in entries if not e.why), key=lambda e: (e.value, e.student))
    first: Entry | None = None
    for place, entry in enumerate(order, 1):
        if first is None or not _tied(first, entry):
            first, entry.rank = entry, place
        else:
            entry.rank = first.rank
    return order + sorted((e for e in entries if e.why), key=lambda e: e.student)


def _tied(a: Entry, b: Entry) -> bool:
    apart = np.array(b.shares) - np.array(a.shares)
    return abs(float(apart.mean())) <= _standard_error(apart)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


# -- one hand-in ----------------------------------------------------------------------------


def _rounds(student: str, source: Path, desk: Desk, rounds: int) -> Entry:
    """Its rounds, those that lie in its folder and those that are still missing."""
    try:
        files = read_files(source)
    except InputError as error:
        return Entry(student, why="no hand-in that can be read", detail=str(error))
    path, key = desk.out / student / SAMPLES, [digest(files), *desk.key]
    entry = _earlier(path, key, student)
    if entry.why or len(entry.shares) >= rounds:
        entry.shares = entry.shares[:rounds]
        return entry
    with unpacked(files) as folder:
        while not entry.why and len(entry.shares) < rounds:
            _round(entry, folder, desk)
            told = {"shares": entry.shares, "why": entry.why, "detail": entry.detail}
            head = {"schema": SCHEMA, "kind": "samples", "student": student, "key": key}
            write_json(path, {**head, **told})
    return entry


def _earlier(path: Path, key: list[Any], student: str) -> Entry:
    """What was computed for the same files, bundle and seed."""
    if not path.is_file():
        return Entry(student)
    try:
        told = read_json(path, SCHEMA)
        if told["key"] == key:
            return Entry(student, [float(s) for s in told["shares"]], told["why"], told["detail"])
    except (GenzooError, KeyError, TypeError, ValueError):
        pass  # damaged or of another version: computed again
    return Entry(student)


def _round(entry: Entry, folder: Path, desk: Desk) -> None:
    """One training in a worker of its own; the same numbers for everybody."""
    rubric, number = desk.rubric, len(entry.shares)
    random = np.random.default_rng([desk.seed, _STREAM, number])
    draw = rubric.samples
    assert draw is not None
    with Worker(desk.backend, folder, rubric.adapter, desk.limits) as worker:
        session = Session(worker, random, rubric.choices, rubric.thresholds)
        try:
            share, why = _trained(session, draw)
        except Refused as error:
            share, why, entry.detail = math.inf, "no samples: its code raised an error", str(error)
        except Broken as error:
            share, why = math.inf, "no samples: its code gave no answer"
            entry.detail = plain(str(error), 300)
    if not why and not math.isfinite(share):
        why = "samples without a distance"
    entry.why = why
    if not why:
        entry.shares.append(share)


def _trained(session: Session, draw: DrawTest) -> tuple[float, str]:
    test = draw(session.random, session.choices)
    return test.judged(test.drawn(session), session.random)


# -- for everybody --------------------------------------------------------------------------


def _numbers(names: Sequence[str], seed: int) -> dict[str, int]:
    """A number each that says nothing about names or ranks."""

    def hidden(name: str) -> str:
        return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()

    return {name: number for number, name in enumerate(sorted(names, key=hidden), 1)}


def _write(out: Path, entries: Sequence[Entry], desk: Desk, rounds: int) -> None:
    """The page and the same as JSON: without the seed, and without a student's words."""
    sandbox = NO_SANDBOX if desk.backend.name == "none" else ""
    told = {
        "schema": SCHEMA,
        "kind": BOARD,
        "assignment": desk.rubric.assignment,
        "rounds": rounds,
        "entries": [entry.to_dict() for entry in entries],
    }
    write_json(out / f"{BOARD}.json", {**told, "sandbox": sandbox} if sandbox else told)
    placed = [entry for entry in entries if not entry.why]
    low = min([0.0, *(e.value - e.error for e in placed)])
    high = min(1.6, max([1.0, *(e.value + e.error for e in placed)]))

    def percent(value: float) -> float:
        return round(float(np.clip(2 + 96 * (value - low) / (high - low), 0, 100)), 2)

    def shown(entry: Entry) -> Mapping[str, Any]:
        left, right = percent(entry.value - entry.error), percent(entry.value + entry.error)
        return {
            "rank": entry.rank,
            "name": entry.name,
            "shown": entry.shown,
            "left": left,
            "width": round(right - left, 2),
            "middle": percent(entry.value),
        }

    write_page(
        out / f"{BOARD}.html", "leaderboard.html.j2",
        title=f"Leaderboard of '{desk.rubric.assignment}'", rounds=rounds, sandbox=sandbox,
        ranked=[shown(entry) for entry in placed],
        unranked=[entry for entry in entries if entry.why],
        zero=percent(0), one=percent(1),
    )  # fmt: skip


def _for_one(form: str | None, results: str | Path | None, count: int) -> None:
    """Another system asks about one hand-in at a time."""
    if form is None and results is None:
        return
    if form != "gradescope":
        raise unknown("form", str(form), ["gradescope"])
    if results is None or count != 1:
        raise InputError("another system's form is for one hand-in, and needs a file to write")


def _present(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _columns(entry: Entry) -> list[tuple[str, float]]:
    """Nothing for who is not ranked."""
    if entry.why:
        return []
    return [("distance to real data", entry.value), ("standard error", entry.error)]
