"""What a command shows: a result on stdout, and on stderr how far it is."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import click

from genzoo.errors import GenzooError

FIRST_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """What a command found out.

    Attributes:
        payload: for ``--json``.
        text: the same for people; nothing is printed where both are empty.
        failure: what went wrong nevertheless; it is said on stderr and decides the exit code.
        code: the exit code where there is no failure.
    """

    payload: Mapping[str, Any]
    text: str
    failure: GenzooError | None = None
    code: int = 0

    @property
    def exit_code(self) -> int:
        """The failure's, or else `code`."""
        return self.failure.exit_code if self.failure else self.code


@dataclass
class Session:
    """How the user wants to be talked to.

    Attributes:
        json: one JSON object on stdout and nothing else.
        debug: tracebacks.
        quiet: no progress.
    """

    json: bool = False
    debug: bool = False
    quiet: bool = False
    progress: Reporter = field(default_factory=lambda: Reporter(quiet=True))


class Command(click.Command):
    """A command with ``--json``, ``--quiet``, ``--debug``; its callback returns an `Answer`."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        """Add the options that all commands have.

        Args:
            *args: of click's command.
            examples: whole command lines, shown at the end of the help.
            **kwargs: of click's command.
        """
        super().__init__(*args, **kwargs)
        self.examples = examples
        flags = {
            ("--json",): "Print one JSON object on stdout.",
            ("--quiet", "-q"): "Show no progress.",
            ("--debug",): "Show the traceback of an error.",
        }
        for names, text in flags.items():
            self.params.append(
                click.Option(names, is_flag=True, expose_value=False, callback=_set, help=text)
            )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, one a line, never wrapped."""
        write_examples(formatter, self.examples)

    def invoke(self, ctx: click.Context) -> Answer:
        """Run the command with its progress shown, then print what it returned."""
        session = ctx.ensure_object(Session)
        with Reporter(quiet=session.quiet) as session.progress, _kept_clean(session.json):
            answer: Answer = super().invoke(ctx)
        if answer.payload or answer.text:
            click.echo(to_json(answer.payload) if session.json else answer.text)
        if answer.failure:
            write_line(str(answer.failure))
        return answer


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """A section of a help page with a command line in each of its lines."""
    with formatter.section("Examples"):
        for line in examples:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _set(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        setattr(ctx.ensure_object(Session), str(param.name), True)


@contextlib.contextmanager
def _kept_clean(json_wanted: bool) -> Iterator[None]:
    """Send what libraries print to stderr where stdout belongs to the JSON object."""
    if json_wanted:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    else:
        yield


def to_json(payload: Mapping[str, Any]) -> str:
    """Strict JSON: a number that is not finite is a fault of the payload."""
    return json.dumps(payload, indent=2, allow_nan=False, ensure_ascii=False)


def write_line(message: str) -> None:
    """What went wrong, on stderr."""
    click.echo(f"genzoo: error: {message}", err=True)


def write_error(session: Session, error: BaseException, code: int, message: str) -> None:
    """One line on stderr, and for ``--json`` the same as an object on stdout."""
    with contextlib.suppress(OSError):
        write_line(message)
        if session.json:
            kind = type(error).__name__
            body = {"error": {"type": kind, "message": message, "exit_code": code}}
            click.echo(to_json(body))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True) -> str:
    """Columns of text, two spaces apart; all but the first to the right unless told otherwise.

    A heading that is wider than its column goes over several lines.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(head)
    widths = [
        max(len(text) for text in (*column, *title.split(), ""))
        for column, title in zip(columns, head, strict=True)
    ]
    titles = [
        textwrap.wrap(title, max(width, 1), break_on_hyphens=False)
        for title, width in zip(head, widths, strict=True)
    ]
    height = max(len(title) for title in titles)
    titles = [[""] * (height - len(title)) + title for title in titles]
    lines = [*zip(*titles, strict=True), ["─" * width for width in widths], *rows]
    shown = []
    for line in lines:
        cells = [
            cell.rjust(width) if right and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def duration(seconds: float) -> str:
    """``42 s``, ``3:05`` or ``1:02:03``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Reporter:
    """A `genzoo.progress.Progress` on stderr: bars on a terminal, now and then a line elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Nothing is shown before the first call."""
        self._quiet = quiet
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}
        self._bars: Any = None

    def __enter__(self) -> Reporter:
        """Open for work."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away, so that what is printed next starts on a line of its own."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def note(self, message: str) -> None:
        """A line that stays."""
        if self._quiet:
            return
        with self._lock:
            if self._bars is not None:
                self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)
            else:
                click.echo(message, err=True)

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        """See `genzoo.progress.Progress.update`."""
        if self._quiet:
            return
        fraction = min(max(fraction, 0.0), 1.0)
        with self._lock:
            state = self._tasks.setdefault(task, _Task(time.monotonic(), fraction))
            # Live bars put a stream of their own in the place of stderr, so they are asked first.
            if self._bars is not None or sys.stderr.isatty():
                self._draw(task, state, fraction, detail)
            else:
                self._print(task, state, fraction, detail)
            if fraction >= 1:
                del self._tasks[task]

    def _draw(self, task: str, state: _Task, fraction: float, detail: str) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if state.bar is None:
            state.bar = self._bars.add_task(task, total=1.0, detail="", left="")
        left = state.left(fraction)
        text = f"{duration(left)} left" if left is not None else ""
        self._bars.update(state.bar, completed=fraction, detail=detail, left=text)
        if fraction >= 1:
            self._bars.remove_task(state.bar)
            if state.elapsed() >= 2:
                line = _joined(f"{task}: done in {duration(state.elapsed())}", detail)
                self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _print(self, task: str, state: _Task, fraction: float, detail: str) -> None:
        """A line after five seconds, then ever more rarely, and one at the end of long work."""
        elapsed = state.elapsed()
        if fraction >= 1:
            if elapsed >= 2:
                line = _joined(f"{task}: done in {duration(elapsed)}", detail)
                click.echo(line, err=True)
            return
        if elapsed < state.next_line:
            return
        state.next_line = elapsed + max(FIRST_LINE_SECONDS, elapsed / 4)
        left = state.left(fraction)
        remaining = f"{duration(left)} left" if left is not None else ""
        click.echo(_joined(f"{task}: {fraction:.0%}", detail, remaining), err=True)


@dataclass
class _Task:
    """What is remembered of a piece of work."""

    started: float
    at: float
    next_line: float = FIRST_LINE_SECONDS
    bar: Any = None

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def left(self, fraction: float) -> float | None:
        """Seconds to go at the pace so far; work may have been resumed in its middle."""
        done = fraction - self.at
        return self.elapsed() * (1 - fraction) / done if done > 0.005 else None


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False, style="dim"),
        console=Console(stderr=True),
        transient=True,
    )
