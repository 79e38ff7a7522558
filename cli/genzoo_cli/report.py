"""``genzoo report``: one page from any number of runs."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo_cli import options
from genzoo_cli.console import Answer, Command


@click.command(
    "report",
    cls=Command,
    short_help="Write one page about any number of runs.",
    examples=(
        "genzoo report runs/diffusion-digits-s0 runs/vae-digits-s0 --out report.html",
        'genzoo report runs/compare-digits-12s --out page --title "Digits in twelve seconds"',
    ),
)
@click.argument("runs", nargs=-1, required=True, type=options.FILE, metavar="RUN…")
@click.option(
    "--out",
    type=options.FILE,
    default="report.html",
    show_default=True,
    metavar="DIR|PAGE.html",
    help="A folder for report.html, report.md, scores.csv and scores.json; or just the page.",
)
@click.option("--title", metavar="TEXT", help="Heading of the page.")
def command(runs: tuple[Path, ...], out: Path, title: str | None) -> Answer:
    """Write one self-contained page about runs or comparisons. Nothing is computed."""
    import genzoo

    page = genzoo.report(runs, out, title=title)
    return Answer({"report": str(page), "runs": [str(run) for run in runs]}, f"report: {page}")
