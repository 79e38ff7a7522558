"""``genzoo data``: what can be trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from genzoo_cli import options
from genzoo_cli.console import Answer, Command, table
from genzoo_cli.show import dataset_answer


@click.command(
    "data",
    cls=Command,
    short_help="List the data sets, or open one.",
    examples=(
        "genzoo data",
        "genzoo data digits",
        "genzoo data folder:photos --size 16 --json",
        "genzoo data 'shards:faces/{000..127}.tar' --size 64",
    ),
)
@click.argument("name", required=False)
@options.data_root
@options.size
def command(name: str | None, data_root: Path | None, size: int | None) -> Answer:
    """List the data sets, or open one (which downloads it where that is needed)."""
    if name is None:
        return _all()
    import genzoo

    return dataset_answer(genzoo.open_dataset(name, data_root, size=size))


def _all() -> Answer:
    from genzoo.data import DATASETS

    entries = list(DATASETS.values())
    rows = [
        (
            entry.name,
            entry.kind,
            "" if entry.embedded or ":" in entry.name else "downloaded",
            entry.summary,
        )
        for entry in entries
    ]
    more = (
        "\n\nYour own images: --data folder:PATH, with a sub-folder per class or none; "
        "more of them than memory holds: --data 'shards:train-*.tar' or hf:FOLDER."
    )
    return Answer(
        {"datasets": [dataclasses.asdict(entry) for entry in entries]},
        table(("data", "kind", "", "what it is"), rows, right=False) + more,
    )
