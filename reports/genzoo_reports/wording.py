"""Numbers and names as a person would write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genzoo.evaluation.catalogue import METRICS

NOT_EVALUATED = "not evaluated"
ALL_FAILED = "all of its runs failed"


def digits(value: float, metric: str = "") -> str:
    """A number as a person would write it.

    >>> digits(0.12345), digits(52341.7), digits(12.04, "training_seconds")
    ('0.123', '52,342', '12.0')
    """
    if metric in ("parameters", "training_flops"):
        return compact(value)
    if metric in ("nfe", "duplicates", "test_duplicates") and value == round(value):
        return f"{value:,.0f}"
    size = abs(value)
    if size >= 1e7 or 0 < size < 5e-4:
        return f"{value:.2e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def compact(value: float) -> str:
    """A large count in three digits.

    >>> compact(1234567), compact(84210), compact(12), compact(6.07e13)
    ('1.23 M', '84.2 k', '12', '60.7 T')
    """
    for size, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.904)
    '90 %'
    """
    return f"{100 * share:.0f} %"


def title(name: str) -> str:
    """Heading of a metric."""
    return METRICS[name].title if name in METRICS else name


def arrow(name: str) -> str:
    """Which way is good."""
    better = METRICS[name].better if name in METRICS else "none"
    toward = {"0": "→ 0", "0.5": "→ ½", "1": "→ 1"}
    return {"lower": "↓", "higher": "↑", **toward}.get(better, "")


def short_model(name: str) -> str:
    """``path/to/file.py:Net`` as ``Net (file.py)``; other names as they are."""
    path, separator, cls = name.rpartition(".py:")
    return f"{cls} ({Path(path).name}.py)" if separator else name


def join(words: Sequence[str]) -> str:
    """Words as in a sentence.

    >>> join(["gan", "vae", "flow"])
    'gan, vae and flow'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
