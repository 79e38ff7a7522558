"""``genzoo train``: one model on one data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genzoo_cli import options
from genzoo_cli.console import Answer, Command, Session
from genzoo_cli.show import run_answer


@click.command(
    "train",
    cls=Command,
    short_help="Train one model, and leave a run folder.",
    examples=(
        "genzoo train --model diffusion",
        "genzoo train --model vae --data fashion-mnist --budget 5min --out runs/vae",
        "genzoo train --model flow --data folder:photos --size 16 --no-conditional",
        "genzoo train --model consistency --init runs/diffusion-digits-s0",
        "genzoo train --model gan --data ring --budget 2000steps --seed 1 --resume",
        "genzoo train --model diffusion --data cifar10 --devices 4",
    ),
)
@click.option(
    "--model",
    required=True,
    metavar="NAME",
    help="A name from 'genzoo models', or FILE.py:Class.",
)
@options.data()
@options.budget("60s")
@options.seed("weights, batches and samples")
@click.option(
    "--out",
    type=options.FILE,
    metavar="DIR",
    help="Run folder.  [default: runs/MODEL-DATA-sSEED]",
)
@options.conditional
@options.device
@options.devices
@options.nodes
@options.preset
@options.acceleration
@options.settings("width=128", "A setting of the model ('genzoo models NAME' lists them)")
@click.option(
    "--init", type=options.FILE, metavar="RUN", help="Start from the weights of this run."
)
@click.option("--resume", is_flag=True, help="Go on with the unfinished run in --out.")
@click.option(
    "--evaluate/--no-evaluate",
    default=True,
    show_default=True,
    help="Score the samples at the end.",
)
@options.samples
@options.data_root
@options.size
@options.threads
@options.log
@options.pass_session
def command(
    session: Session,
    /,
    model: str,
    settings: tuple[tuple[str, str], ...],
    out: Path | None,
    **how: Any,
) -> Answer:
    """Train a model and leave a run folder: weights, history, samples, scores.

    Ctrl-C stops it cleanly; the same command with --resume goes on.
    """
    import genzoo

    run = genzoo.train(model, settings=dict(settings), out=out, progress=session.progress, **how)
    return run_answer(run)
