"""The entry point: finds the command, runs it, and turns every failure into one line."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from genzoo import __version__
from genzoo.errors import unknown
from genzoo_cli.console import Answer, Session, write_error, write_examples
from genzoo_cli.failures import explain

COMMANDS = (
    "compare",
    "train",
    "sample",
    "evaluate",
    "report",
    "course",
    "models",
    "data",
    "doctor",
)


class LazyGroup(click.Group):
    """Commands that are imported when they are asked for."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        """See `Command`."""
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        write_examples(formatter, self.examples)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Most useful first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``genzoo_cli.<name>``."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"genzoo_cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or the one that was probably meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    examples=(
        "genzoo compare",
        "genzoo train --model diffusion --data digits --budget 60s",
        "genzoo sample runs/diffusion-digits-s0 -n 64 -o grid.png",
        "genzoo evaluate runs/diffusion-digits-s0 samples.npz --data digits",
        "genzoo report runs/diffusion-digits-s0 --out report.html",
    ),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="genzoo", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def genzoo(ctx: click.Context, debug: bool) -> None:
    """Compare generative models on your own data, with your own compute."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its words; those of the process where absent.

    Returns:
        0 done; 2 wrong call or input; 3 some runs of several failed; 4 the machine or genzoo
        itself failed; 130 interrupted.
    """
    if "_GENZOO_COMPLETE" in os.environ:  # click's protocol for completion in shells
        genzoo.main(prog_name="genzoo")
    if argv is None:
        # A batch system that ends its job is to leave a resumable run, as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Advice of torch's C++ parts, whose level is read when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    words = list(sys.argv[1:] if argv is None else argv)
    # Looked up by hand because parsing itself may be what fails.
    session = Session(json="--json" in words, debug="--debug" in words)
    try:
        return _run(words, session)
    except BrokenPipeError:
        # The reader (`| head`) has enough; nothing may be written at exit either.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except (Exception, KeyboardInterrupt) as error:
        code, message = explain(error)
        if session.debug:
            traceback.print_exception(error, file=sys.stderr)
        if not getattr(error, "told", False):
            write_error(session, error, code, message)
        return code


def _run(words: list[str], session: Session) -> int:
    with warnings.catch_warnings():
        if not session.debug:
            # Advice of libraries to programmers, which would bury the one line that matters.
            warnings.simplefilter("ignore")
        with genzoo.make_context("genzoo", words, obj=session) as ctx:
            answer: Any = genzoo.invoke(ctx)
    sys.stdout.flush()
    return answer.exit_code if isinstance(answer, Answer) else 0
