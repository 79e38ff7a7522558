"""``genzoo course check``: the student's own file, check by check in teaching order."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from genzoo.course.assignment import MODEL, Assignment, open_assignment
from genzoo.course.blanks import Blank, find_blanks
from genzoo.course.kit import Check, CheckFailed, Submission
from genzoo.errors import InputError

Status = Literal["passed", "failed", "blank", "waiting"]
CHECK_SECONDS = 30.0
_MARKS = {"passed": "✓", "failed": "✗", "blank": "·", "waiting": "·"}
_BLANK = re.compile(r"blank (\d+): ")


@dataclass(frozen=True)
class Outcome:
    """How one check ended.

    Attributes:
        check: its name.
        title: what must hold.
        status: ``blank`` where what it is about is not filled in; ``waiting`` where it is about
            the whole and something before it does not hold.
        cause: what is wrong, one line.
        hint: where to look, one line.
        where: file and line.
    """

    check: str
    title: str
    status: Status
    cause: str = ""
    hint: str = ""
    where: str = ""

    def __str__(self) -> str:
        """Up to three lines."""
        lines = [f"{_MARKS[self.status]} {self.title}"]
        lines += [f"    {self.cause}"] if self.cause else []
        lines += [f"    {self.where}"] if self.where else []
        lines += [f"    hint: {self.hint}"] if self.hint else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        assignment: that was checked.
        outcomes: in teaching order.
        seconds: that it took.
    """

    assignment: Assignment
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def passed(self) -> int:
        """Number of checks that hold."""
        return sum(outcome.status == "passed" for outcome in self.outcomes)

    @property
    def complete(self) -> bool:
        """Whether all do."""
        return self.passed == len(self.outcomes)

    def summary(self) -> str:
        """The end of the report: how many hold, and what was not run."""
        lines = [f"{self.passed} of {len(self.outcomes)} checks hold ({self.seconds:.0f} s)."]
        lines.append("Not run here, graded with random challenges:")
        lines += [f"  - {h.title} ({h.points} points)" for h in self.assignment.kit.hidden]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "schema": 1,
            "kind": "check",
            "assignment": self.assignment.name,
            "variant": self.assignment.variant,
            "passed": self.passed,
            "checks": [vars(outcome) for outcome in self.outcomes],
            "not_run": [h.title for h in self.assignment.kit.hidden],
            "seconds": self.seconds,
        }


def check(
    folder: str | Path = ".",
    *,
    seed: int = 0,
    threads: int = 1,
    limit: float = CHECK_SECONDS,
    say: Callable[[str], None] | None = print,
) -> Checked:
    """Run every check on a student's folder. The student's file is executed.

    Args:
        folder: with ``assignment.toml``.
        seed: of the random inputs.
        threads: of the computation; one is fastest for such small networks.
        limit: seconds after which a single check is stopped.
        say: told each outcome as it comes; to stdout by default, nothing goes to stderr.

    Raises:
        InputError: no assignment, or its file cannot be read.
    """
    assignment = open_assignment(folder)
    begun, say = time.monotonic(), say or (lambda line: None)
    outcomes: list[Outcome] = []
    for outcome in _outcomes(assignment, seed, threads, limit):
        outcomes.append(outcome)
        say(str(outcome))
    found = Checked(assignment, tuple(outcomes), time.monotonic() - begun)
    say("")
    say(found.summary())
    return found


def _outcomes(assignment: Assignment, seed: int, threads: int, limit: float) -> Iterator[Outcome]:
    text = read_model(assignment)
    try:
        blanks = {blank.number: blank for blank in find_blanks(text)}
    except InputError:  # marks are the student's to remove
        blanks = {}
    with _quiet(), limited_threads(threads):
        try:
            module = load(assignment.model)
        except Exception as error:
            yield _broken(
                "imports", "submission/model.py can be imported", error, assignment, blanks
            )
            for item in assignment.kit.all_checks():
                yield Outcome(item.name, item.title, "waiting", "the file cannot be imported yet")
            return
        yield Outcome("imports", "submission/model.py can be imported", "passed")
        submission, good = Submission(module, assignment.choices, seed), True
        for item in assignment.kit.all_checks():
            if item.blank == 0 and not good:
                yield Outcome(item.name, item.title, "waiting", "mend what is above first")
                continue
            outcome = run_check(item, submission, assignment, blanks, limit)
            good = good and outcome.status == "passed"
            yield outcome


def run_check(
    item: Check,
    submission: Submission,
    assignment: Assignment,
    blanks: Mapping[int, Blank],
    limit: float,
) -> Outcome:
    """One check, whatever the student's code does."""
    state = torch.get_rng_state()
    try:
        with _time_limit(limit):
            item.run(submission)
    except CheckFailed as error:
        blank = blanks.get(item.blank)
        where = f"{MODEL}, line {blank.line} (blank {blank.number})" if blank else ""
        return Outcome(item.name, item.title, "failed", error.cause, error.hint, where)
    except Exception as error:
        return _broken(item.name, item.title, error, assignment, blanks)
    finally:
        torch.set_rng_state(state)
    return Outcome(item.name, item.title, "passed")


def _broken(
    name: str, title: str, error: Exception, assignment: Assignment, blanks: Mapping[int, Blank]
) -> Outcome:
    """What an exception of the student's code means."""
    line = _line(error, assignment.model)
    where = f"{MODEL}, line {line}" if line else ""
    if isinstance(error, NotImplementedError):
        found = _BLANK.match(str(error))
        number = int(found[1]) if found else 0
        cause = (
            f"blank {number} is not filled in: {blanks[number].title}"
            if number in blanks
            else ("something is not filled in")
        )
        return Outcome(name, title, "blank", cause, "", where)
    told = " ".join(str(error).split())[:300]
    if isinstance(error, TimeoutError):
        return Outcome(name, title, "failed", told, "is there a loop that does not end?", where)
    return Outcome(name, title, "failed", f"{type(error).__name__}: {told}", "", where)


def _line(error: BaseException, file: Path) -> int | None:
    """The last line of the student's file that the exception went through."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return lines[-1] if lines else None


def read_model(assignment: Assignment) -> str:
    """The text of the student's file.

    Raises:
        InputError: it is missing or not text.
    """
    try:
        return assignment.model.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"'{assignment.model}' is missing; put it back") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{assignment.model}' cannot be read: {error}") from error


def load(path: Path) -> ModuleType:
    """Import a file afresh, without leaving it among the modules of this process."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"genzoo_course_submission_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stderr: some graders take a single warning there for a failure."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(sys.stdout):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Torch computes with so many threads, so that sums come out the same everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` where the system can interrupt; elsewhere nothing limits."""
    main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not main:
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"this took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
