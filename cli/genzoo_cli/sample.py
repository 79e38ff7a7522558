"""``genzoo sample``: draw from a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genzoo_cli import options
from genzoo_cli.console import Answer, Command, Session
from genzoo_cli.show import samples_answer


@click.command(
    "sample",
    cls=Command,
    short_help="Draw samples from a run.",
    examples=(
        "genzoo sample runs/diffusion-digits-s0 -n 64 -o grid.png",
        "genzoo sample runs/diffusion-digits-s0 -n 1000 -o samples.npz --seed 1 --steps 10",
        "genzoo sample runs/diffusion-digits-s0 -o strong.png --guidance 2 --sampler dpm-solver++",
        "genzoo sample runs/diffusion-digits-s0 -n 6 --trajectory -o film.png",
        "genzoo sample runs/flow-digits-s0 -n 6 --interpolate -o between.png",
        "genzoo sample runs/gaussian-vae-digits-s0 -n 20 --manifold -o map.png",
        "genzoo sample runs/vae-digits-s0 -n 20 --labels 3,7 -o images/",
    ),
)
@click.argument("run", type=options.FILE)
@click.option(
    "-n", "n", type=options.COUNT, default=64, show_default=True, metavar="N", help="How many."
)
@click.option(
    "-o",
    "--out",
    type=options.FILE,
    required=True,
    metavar="FILE|DIR",
    help="grid.png, samples.npz, or a folder for one PNG each.",
)
@options.seed("the samples; sample i of a seed is always the same")
@click.option(
    "--labels", type=options.numbers, metavar="N,N,…", help="Only these; they take turns."
)
@click.option("--steps", type=int, metavar="N", help="Solver steps.  [default: the model's]")
@click.option("--guidance", type=float, metavar="W", help="Classifier-free guidance; 1 is none.")
@click.option("--temperature", type=float, metavar="T", help="Scale of the prior's noise.")
@click.option("--sampler", metavar="NAME", help="ddpm, ddim, euler, heun or dpm-solver++.")
@click.option(
    "--guidance-interval",
    type=options.interval,
    metavar="LOW,HIGH",
    help="Guide at noise levels between these only.",
)
@click.option(
    "--guide",
    type=options.FILE,
    metavar="RUN",
    help="Guide away from this worse run (autoguidance).",
)
@click.option(
    "--trajectory",
    "show",
    flag_value="trajectory",
    help="N rows from noise to a sample in the place of samples.",
)
@click.option(
    "--interpolate",
    "show",
    flag_value="interpolate",
    help="N rows from one latent code to another.",
)
@click.option(
    "--manifold",
    "show",
    flag_value="manifold",
    help="A map of N by N latent codes under one label: all of them where a code is two numbers.",
)
@click.option(
    "--reconstruct",
    "show",
    flag_value="reconstruct",
    help="N held-out items, each beside what its latent code keeps of it.",
)
@click.option(
    "--batch-size",
    type=options.COUNT,
    default=256,
    show_default=True,
    metavar="N",
    help="At a time.",
)
@options.device
@options.own_model
@options.trust
@options.pass_session
def command(session: Session, /, run: Path, out: Path, **how: Any) -> Answer:
    """Draw samples from a run and write them."""
    import genzoo

    samples = genzoo.sample(run, out=out, progress=session.progress, **how)
    return samples_answer(samples, run, out, how["show"])
