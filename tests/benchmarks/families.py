"""Every family at equal compute: train, score, tabulate. Goes on where it was stopped.

    python tests/benchmarks/families.py --data digits --budget 60s --threads 2
    python tests/benchmarks/families.py --data ring grid --models gan vae flow --seeds 5
    python tests/benchmarks/families.py --validation --models gan --set gamma=1 --set width=48

One run after the other, in folders below `--out`; a finished run is not repeated. Prints a table a
data set: the mean over seeds, with the smallest and the largest where there are several. Defaults
are chosen with `--validation`, which never looks at the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch

import genzoo
from genzoo.data import Dataset, open_dataset
from genzoo.data.dataset import Split, fingerprint
from genzoo.errors import GenzooError, Interrupted
from genzoo.registry import CONTROLS, MODELS

IMAGES = (
    "fd",
    "two_sample_1nn",
    "train_nn_share",
    "recall",
    "cas",
    "bits_per_dim",
    "nfe",
    "samples_per_second",
)
POINTS = (
    "modes_covered",
    "modes_well_covered",
    "high_quality_share",
    "mode_spread",
    "two_sample_1nn",
    "nll_nats",
)


def validation_of(dataset: Dataset) -> Dataset:
    """The training items alone: a fifth of them, 10,000 at most, takes the place of the test."""
    items, labels = dataset.train
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
    held = min(len(items) // 5, 10_000)

    def part(rows: torch.Tensor) -> Split:
        return Split(items[rows], None if labels is None else labels[rows])

    train, test = part(order[held:]), part(order[:held])
    digest = fingerprint(dataset.spec, train, test, dataset.reserved)
    return dataclasses.replace(dataset, train=train, test=test, fingerprint=digest)


def run(model: str, data: Dataset, seed: int, given: argparse.Namespace) -> dict[str, Any] | None:
    """The scores of one run, trained now if it was not before; ``None`` where it failed."""
    budget = str(given.budget).replace(" ", "")
    part = "-validation" if given.validation else ""
    how = [given.preset, given.precision]
    name = "-".join([model, *sorted(given.set), *(part for part in how if part)])
    out = given.out / f"{data.name}{part}-{budget}-{given.threads}t" / f"{name}-s{seed}"
    try:
        done = genzoo.train(
            model,
            data,
            budget=budget,
            seed=seed,
            out=out,
            settings=dict(pair.split("=", 1) for pair in given.set),
            preset=given.preset or "auto",
            precision=given.precision or "auto",
            threads=given.threads,
            resume=out.exists(),
            samples=given.samples,
        )
    except Interrupted:
        raise
    except GenzooError as error:
        print(f"{model} on {data}, seed {seed}: {error}", flush=True)
        return None
    scores = done.scores()
    return None if scores is None else scores["metrics"]


def cell(rows: list[dict[str, Any]], metric: str) -> str:
    """Mean, and the range where there are several seeds."""
    values = [row[metric]["value"] for row in rows if row.get(metric, {}).get("value") is not None]
    if not values:
        return "–"
    text = f"{statistics.mean(values):.4g}"
    return text if len(values) == 1 else f"{text} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Read the command line."""
    contenders = [name for name in MODELS if name not in CONTROLS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", nargs="+", default=contenders, choices=list(MODELS))
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--validation", action="store_true", help="judge by training items")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--preset")
    parser.add_argument("--precision")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    given = parser.parse_args()
    for name in given.data:
        data = open_dataset(name, given.data_root)
        if given.validation:
            data = validation_of(data)
        metrics: tuple[str, ...] | None = None
        for model in given.models:
            found = [run(model, data, seed, given) for seed in range(given.seeds)]
            rows = [row for row in found if row is not None]
            if not rows:
                continue
            if metrics is None:
                metrics = IMAGES if "fd" in rows[0] and "nll_nats" not in rows[0] else POINTS
                print(f"\n{name}, {given.budget}, {given.threads} threads, {given.seeds} seeds\n")
                print(f"| model | {' | '.join(metrics)} |\n|{'---|' * (len(metrics) + 1)}")
            print(f"| `{model}` | {' | '.join(cell(rows, m) for m in metrics)} |", flush=True)


if __name__ == "__main__":
    main()
