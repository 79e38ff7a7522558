"""``genzoo evaluate``: scores of runs, sample files and folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genzoo_cli import options
from genzoo_cli.console import Answer, Command, Session
from genzoo_cli.show import evaluation_answer, self_test_answer, sweep_answer


@click.command(
    "evaluate",
    cls=Command,
    short_help="Score runs, sample files or folders of images.",
    examples=(
        "genzoo evaluate runs/diffusion-digits-s0",
        "genzoo evaluate samples.npz --data digits --json",
        "genzoo evaluate runs/vae-digits-s0 drawn-by-hand/ --data digits -o scores.json",
        "genzoo evaluate made/ --data folder:photos --size 64 --features inception",
        "genzoo evaluate samples.npz --data held-out.npz --train train.npz",
        "genzoo evaluate 'shards:made/*.tar' --data 'shards:faces/*.tar' --size 64",
        "genzoo evaluate runs/diffusion-digits-s0 --sweep steps --values 2,4,8,16",
        "genzoo evaluate runs/compare-digits-12s --sweep training",
        "genzoo evaluate --self-test --data digits",
        "genzoo evaluate part1.npz --data cifar10 --first 50000 --gather part1.safetensors",
        "genzoo evaluate --merge part0.safetensors part1.safetensors --data cifar10",
    ),
)
@click.argument("sources", nargs=-1, type=options.FILE, metavar="[X …]")
@click.option(
    "--data",
    metavar="NAME|FILE",
    help="What they imitate: a name from 'genzoo data', folder:PATH, shards:PATTERN, hf:NAME, or "
    "held-out items as a file or folder.  [default: what the run was trained on; digits for "
    "--self-test]",
)
@click.option(
    "--train",
    type=options.FILE,
    metavar="FILE",
    help="Training items, where --data are held-out items; needed to ask about memorization.",
)
@click.option(
    "--features",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Feature space: auto, pixels, pca, classifier, self-supervised, inception, dinov2, clip, "
    "or your own module:Class or FILE.py:Class (which is executed).",
)
@click.option(
    "--weights", type=options.FILE, metavar="FILE", help="Weights of inception, dinov2 or clip."
)
@click.option(
    "--n",
    "-n",
    type=options.COUNT,
    metavar="N",
    help="Items on either side at most.  [default: as many as both have, up to 10,000]",
)
@click.option(
    "--self-test",
    is_flag=True,
    help="Show that every metric orders samples with known faults as theory says.",
)
@click.option(
    "--sweep",
    type=click.Choice(["steps", "guidance", "training"]),
    help="Draw from the runs X, or the runs of the comparisons X, at several numbers of solver "
    "steps, guidance weights or moments of their training, and score each, for the report.",
)
@click.option("--values", metavar="N,N…", help="Numbers of steps, or guidance weights, to sweep.")
@click.option("--merge", is_flag=True, help="All X are parts of one set of samples.")
@click.option(
    "--gather",
    type=options.FILE,
    metavar="FILE",
    help="Score nothing: write what is kept of X, a part of a larger set, for --merge.",
)
@click.option(
    "--first",
    type=options.SEED,
    default=0,
    show_default=True,
    metavar="N",
    help="Number of the first sample of a part, for --gather.",
)
@click.option("-o", "--out", type=options.FILE, metavar="FILE", help="Also write the JSON there.")
@options.seed("what an estimate draws")
@options.device
@options.own_model
@options.trust
@options.data_root
@options.size
@options.pass_session
def command(
    session: Session,
    /,
    sources: tuple[Path, ...],
    self_test: bool,
    sweep: str | None,
    values: str | None,
    merge: bool,
    gather: Path | None,
    first: int,
    out: Path | None,
    **how: Any,
) -> Answer:
    """Score samples against held-out real data, beside what real data themselves score.

    X is a run folder, an .npz (images uint8 N×H×W×C, or points N×D; labels where there are some),
    an .npy, a folder of images, or any number of
    images as shards:PATTERN or hf:NAME. What is not a run needs --data.
    """
    import genzoo

    if self_test:
        if sources:
            raise click.UsageError("--self-test makes its own samples; leave out X")
        for name in ("seed", "model"):
            how.pop(name)
        how["data"] = how["data"] or "digits"
        how["n"] = how["n"] or 1000
        return self_test_answer(genzoo.self_test(progress=session.progress, **how), out)
    if not sources:
        raise click.UsageError("name what to score: a run, a file or a folder (or --self-test)")
    if values is not None and not sweep:
        raise click.UsageError("--values needs --sweep")
    if sweep:
        return _sweep(session, sources, sweep, values, out, how)
    if gather or merge:
        return _in_parts(session, sources, merge, gather, first, out, how)
    results = [genzoo.evaluate(source, progress=session.progress, **how) for source in sources]
    return evaluation_answer(results, out)


def _sweep(
    session: Session,
    sources: tuple[Path, ...],
    over: str,
    values: str | None,
    out: Path | None,
    how: dict[str, Any],
) -> Answer:
    """Quality along one knob."""
    from genzoo.evaluation.sweep import sweep_all

    if any(how[name] is not None for name in ("data", "train", "weights")):
        raise click.UsageError("--sweep judges a run by its own data; leave out --data and its kin")
    kept = {name: how[name] for name in ("seed", "device", "model", "trust")}
    if how["n"] is not None:
        kept["n"] = how["n"]
    found = sweep_all(sources, over, values=_numbers(values), progress=session.progress, **kept)
    return sweep_answer(found, over, out)


def _numbers(values: str | None) -> list[float] | None:
    try:
        return None if values is None else [float(value) for value in values.split(",")]
    except ValueError:
        raise click.UsageError(f"--values {values}: write numbers, for example 1,4,16") from None


def _in_parts(
    session: Session,
    sources: tuple[Path, ...],
    merge: bool,
    gather: Path | None,
    first: int,
    out: Path | None,
    how: dict[str, Any],
) -> Answer:
    """Samples that come in parts: keep what is needed of one, or merge and score all."""
    import genzoo
    from genzoo.evaluation import gather_samples
    from genzoo.evaluation.shards import merge_all

    if how["data"] is None:
        raise click.UsageError("parts do not say what they imitate; name the data by --data")
    wanted = ("data", "features", "weights", "trust", "data_root", "size", "device")
    common = {name: how[name] for name in wanted}
    parts = []
    for number, source in enumerate(sources):
        session.progress.update("gathering", number / len(sources), source.name)
        parts.append(gather_samples(source, first=first, **common))
        first += parts[-1].count
    session.progress.update("gathering", 1.0)
    whole = merge_all(parts)
    if gather is not None:
        whole.write(gather)
        kept = {"out": str(gather), "samples": whole.count, "kept": len(whole.keys)}
        return Answer(kept, f"{whole.count:,} samples seen, {len(whole.keys):,} kept: {gather}")
    result = genzoo.evaluate(whole, progress=session.progress, **how)
    return evaluation_answer([result], out)
