"""``genzoo compare``: several models, several seeds, one budget, one report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genzoo.rates import RATES
from genzoo.registry import CONTROLS, DEFAULT_MODELS
from genzoo_cli import options
from genzoo_cli.console import Answer, Command, Session
from genzoo_cli.show import comparison_answer, forecast_answer


@click.command(
    "compare",
    cls=Command,
    short_help="Train several models under one budget, and report.",
    examples=(
        "genzoo compare",
        "genzoo compare --models vae,diffusion --data fashion-mnist --budget 5min",
        "genzoo compare --data grid --budget 2000steps --seeds 5 --jobs 2",
        "genzoo compare --data cifar10 --budget 1e17flops --dry-run --device-rates h100",
        "genzoo compare --budget 1e15flops --scheduler slurm --jobs 12 --threads 8 --out /shared/c",
        "genzoo compare --models diffusion,mine.py:Mine --controls none --out runs/mine",
    ),
)
@click.option(
    "--models",
    type=options.names,
    default=DEFAULT_MODELS,
    metavar="A,B,…",
    help=f"What to compare.  [default: {','.join(DEFAULT_MODELS)}]",
)
@options.data()
@options.budget("12s")
@click.option(
    "--seeds",
    type=options.COUNT,
    default=3,
    show_default=True,
    metavar="N",
    help="Trainings per model; they give the confidence intervals.",
)
@click.option(
    "--jobs",
    type=options.COUNT,
    default=1,
    show_default=True,
    metavar="N",
    help="Trainings at a time; they share the cores.",
)
@click.option(
    "--scheduler",
    metavar="NAME",
    help="A Dask cluster for the runs: local (--jobs processes), slurm, pbs, lsf or sge (up to "
    "--jobs jobs), or an address, tcp://HOST:PORT. --out must lie where all machines see it.",
)
@click.option(
    "--controls",
    type=options.names,
    default=CONTROLS,
    metavar="A,B,…",
    help=f"Baselines with known faults, or none.  [default: {','.join(CONTROLS)}]",
)
@click.option(
    "--out",
    type=options.FILE,
    metavar="DIR",
    help="Comparison folder.  [default: runs/compare-DATA-BUDGET]",
)
@options.conditional
@options.device
@options.devices
@options.preset
@options.acceleration
@options.settings("vae.width=128", "A setting of one of the models, MODEL.KEY=VALUE")
@options.samples
@options.data_root
@options.size
@options.threads
@options.log
@click.option(
    "--dry-run",
    is_flag=True,
    help="Train nothing but a few steps, write nothing, and tell what the comparison will need: "
    "parameters, FLOPs, memory, seconds, device-hours.",
)
@click.option(
    "--device-rates",
    metavar="NAME",
    help="With --dry-run: extrapolate the seconds to another device, such as "
    f"{', '.join(list(RATES)[:4])}.",
)
@options.pass_session
def command(
    session: Session,
    /,
    settings: tuple[tuple[str, str], ...],
    out: Path | None,
    dry_run: bool,
    device_rates: str | None,
    **how: Any,
) -> Answer:
    """Train every model with every seed under the same budget, and write one report.

    An interrupted comparison goes on when the same command is given again. A model that fails
    is shown as failed, with its reason, and the others go on (exit code 3).
    """
    import genzoo
    from genzoo.experiment import ComparisonFailed

    how |= {"settings": dict(settings), "out": out, "progress": session.progress}
    if dry_run:
        return forecast_answer(genzoo.forecast(device_rates=device_rates, **how))
    if device_rates is not None:
        raise click.UsageError("--device-rates goes with --dry-run")
    try:
        found = genzoo.compare(**how)
    except ComparisonFailed as failure:
        return comparison_answer(failure.comparison, failure)
    return comparison_answer(found)
