"""``genzoo evaluate``: scores of runs, sample files and folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genzoo_cli import options
from genzoo_cli.console import Answer, Command, Session
from genzoo_cli.show import evaluation_answer


@click.command(
    "evaluate",
    cls=Command,
    short_help="Score runs, sample files or folders of images.",
    examples=(
        "genzoo evaluate runs/diffusion-digits-s0",
        "genzoo evaluate samples.npz --data digits --json",
        "genzoo evaluate runs/vae-digits-s0 drawn-by-hand/ --data digits -o scores.json",
    ),
)
@click.argument("sources", nargs=-1, required=True, type=options.FILE, metavar="X [Y …]")
@options.data(None)
@click.option("-o", "--out", type=options.FILE, metavar="FILE", help="Also write the JSON there.")
@options.seed("what an estimate draws")
@options.device
@options.own_model
@options.trust
@options.data_root
@options.size
@options.pass_session
def command(session: Session, /, sources: tuple[Path, ...], out: Path | None, **how: Any) -> Answer:
    """Score samples against held-out real data, beside what real data themselves score.

    X is a run folder, an .npz (images uint8 N×H×W×C, or points N×2; labels where there are some),
    an .npy, or a folder of images. What is not a run needs --data.
    """
    import genzoo

    results = [genzoo.evaluate(source, progress=session.progress, **how) for source in sources]
    return evaluation_answer(results, out)
