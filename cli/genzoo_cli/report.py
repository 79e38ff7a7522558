"""``genzoo report``: one page from any number of runs."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo_cli import options
from genzoo_cli.console import Answer, Command, table


@click.command(
    "report",
    cls=Command,
    short_help="Write one page about any number of runs.",
    examples=(
        "genzoo report runs/diffusion-digits-s0 runs/vae-digits-s0 --out report.html",
        'genzoo report runs/compare-digits-12s --out page --title "Digits in twelve seconds"',
        "genzoo report runs/compare-digits-12s --out hand-in.pdf",
        "genzoo report --diff runs/compare-before runs/compare-after",
    ),
)
@click.argument("runs", nargs=-1, required=True, type=options.FILE, metavar="RUN…")
@click.option(
    "--out",
    type=options.FILE,
    default="report.html",
    show_default=True,
    metavar="DIR|FILE",
    help="A file ending in .html, .pdf, .md, .tex, .csv or .json; or a folder for all of these and "
    "every figure as .svg and .png.",
)
@click.option("--title", metavar="TEXT", help="Heading of the page.")
@click.option(
    "--diff",
    is_flag=True,
    help="Say what changed between two comparisons, OLD and NEW; --out FILE.html, .md or .json "
    "writes it to a file.",
)
@click.pass_context
def command(
    context: click.Context, runs: tuple[Path, ...], out: Path, title: str | None, diff: bool
) -> Answer:
    """Write one self-contained page about runs or comparisons. Nothing is computed."""
    if diff:
        chosen = context.get_parameter_source("out") is not click.core.ParameterSource.DEFAULT
        return _difference(runs, out if chosen else None)
    import genzoo

    page = genzoo.report(runs, out, title=title)
    return Answer({"report": str(page), "runs": [str(run) for run in runs]}, f"report: {page}")


def _difference(runs: tuple[Path, ...], out: Path | None) -> Answer:
    if len(runs) != 2:
        raise click.UsageError(f"--diff takes two comparisons, OLD and NEW, not {len(runs)}")
    from genzoo_reports.difference import HEAD, as_object, rows, sentences
    from genzoo_reports.report import write_difference

    found, page = write_difference(*runs, out)
    tested = [row for row, change in zip(rows(found), found.changes, strict=True) if change.tested]
    parts = ["\n".join(sentences(found))]
    parts += [table(HEAD, tested, right=False)] if tested else []
    rest = len(found.changes) - len(tested)
    parts += (
        [f"and {rest} numbers that no claim is about: --out FILE.html or --json"] if rest else []
    )
    if found.circumstances:
        parts.append(table(("what", "old", "new"), found.circumstances, right=False))
    parts += [f"written to {page}"] if page else []
    return Answer(as_object(found), "\n\n".join(parts))
