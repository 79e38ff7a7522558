"""Options that several commands share, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from genzoo.registry import PRESETS
from genzoo_cli.console import Session

pass_session = click.make_pass_decorator(Session, ensure=True)
Decorator = Callable[[Any], Any]


def names(value: str | Sequence[str]) -> tuple[str, ...]:
    """``"gan,vae"`` to ``("gan", "vae")``; ``none`` is none at all."""
    if not isinstance(value, str):
        return tuple(value)
    words = tuple(word.strip() for word in value.split(","))
    if words == ("none",):
        return ()
    if not all(words):
        raise click.BadParameter(f"'{value}' must be names with commas between, such as gan,vae")
    return words


def numbers(value: str) -> tuple[int, ...]:
    """``"3,7"`` to ``(3, 7)``."""
    try:
        return tuple(int(word) for word in value.split(","))
    except ValueError:
        text = f"'{value}' must be whole numbers with commas between, such as 3,7"
        raise click.BadParameter(text) from None


def interval(value: str) -> tuple[float, float]:
    """``"0.3,5"`` to ``(0.3, 5.0)``."""
    try:
        low, high = (float(word) for word in value.split(","))
    except ValueError:
        text = f"'{value}' must be two numbers with a comma between, such as 0.3,5"
        raise click.BadParameter(text) from None
    return low, high


def setting(value: str) -> tuple[str, str]:
    """``"width=32"`` to ``("width", "32")``."""
    key, _, text = value.partition("=")
    if not (key.strip() and text.strip()):
        raise click.BadParameter(f"'{value}' must be KEY=VALUE, such as width=64")
    return key.strip(), text.strip()


def whole(least: int) -> Callable[[Any], int]:
    """The reader of a whole number that is `least` or more."""

    def read(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            raise click.BadParameter(f"'{value}' is not a whole number") from None
        if number < least:
            raise click.BadParameter(f"{number} is too small: it must be {least} or more")
        return number

    return read


FILE = click.Path(path_type=Path)
SEED = whole(0)
COUNT = whole(1)

data_root = click.option(
    "--data-root", type=FILE, metavar="DIR", help="Where downloaded data lie or go."
)
size = click.option(
    "--size",
    type=COUNT,
    metavar="PIXELS",
    help="Side of the images of folder:PATH (32), shards:PATTERN and hf:NAME (their own).",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, cpu, cuda[:N] or mps.",
)
devices = click.option(
    "--devices",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="N",
    help="Devices of each machine that train together, a process each.",
)
nodes = click.option(
    "--nodes",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="M",
    help="Machines: under torchrun or SLURM, or the same command on each.",
)
conditional = click.option(
    "--conditional/--no-conditional",
    default=None,
    help="Whether to learn the labels.  [default: where the data have labels]",
)
samples = click.option(
    "--samples",
    type=COUNT,
    default=1000,
    show_default=True,
    metavar="N",
    help="How many to draw, and score, at the end.",
)
preset = click.option(
    "--preset",
    type=click.Choice(("auto", *PRESETS)),
    default="auto",
    show_default=True,
    help=f"Size of the models: {'; '.join(f'{name}: {what}' for name, what in PRESETS.items())}.",
)
_precision = click.option(
    "--precision",
    type=click.Choice(("auto", "fp32", "tf32", "bf16")),
    default="auto",
    show_default=True,
    help="Of training's matrix products; auto takes bf16 for images where the device has it.",
)
_compiled = click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Whether to compile the networks.  [default: long trainings on a GPU]",
)
_channels_last = click.option(
    "--channels-last/--no-channels-last",
    default=None,
    help="Whether images lie in memory pixel by pixel.  [default: bf16 on a GPU]",
)


def acceleration(command: Any) -> Any:
    """How the device computes: ``--precision``, ``--compile``, ``--channels-last``."""
    return _precision(_compiled(_channels_last(command)))


own_model = click.option(
    "--model",
    metavar="FILE.py:Class",
    help="The class, for a run of your own model; its file is executed.",
)
trust = click.option(
    "--trust",
    is_flag=True,
    help="Execute the file that the run names as its model, if unchanged; use --weights of unknown "
    "content.",
)
threads = click.option(
    "--threads", type=COUNT, metavar="N", help="CPU threads of the training.  [default: all cores]"
)


log = click.option(
    "--log",
    type=names,
    default=(),
    metavar="A,B",
    help="Trackers beside history.jsonl: tensorboard, wandb (offline unless WANDB_MODE=online).",
)


def data(default: str | None = "digits") -> Decorator:
    """``--data NAME``."""
    return click.option(
        "--data",
        default=default,
        show_default=default is not None,
        metavar="NAME",
        help="A name from 'genzoo data', folder:PATH, shards:PATTERN, or hf:NAME."
        + ("" if default else "  [default: what the run was trained on]"),
    )


def budget(default: str) -> Decorator:
    """``--budget AMOUNT``."""
    return click.option(
        "--budget",
        default=default,
        show_default=True,
        metavar="AMOUNT",
        help="What one training may use: 60s, 5min, 2000steps, 200kimg, 1e13flops.",
    )


def seed(what: str) -> Decorator:
    """``--seed N``."""
    return click.option(
        "--seed", type=SEED, default=0, show_default=True, metavar="N", help=f"Seed of {what}."
    )


def settings(example: str, what: str) -> Decorator:
    """``--set KEY=VALUE``, any number of times."""
    return click.option(
        "--set",
        "settings",
        type=setting,
        metavar="KEY=VALUE",
        multiple=True,
        help=f"{what}, for example {example}; repeatable.",
    )
