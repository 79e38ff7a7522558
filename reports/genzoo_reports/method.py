"""How it was measured: everything a reader needs to doubt or repeat a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from genzoo.errors import InputError
from genzoo.evaluation.catalogue import METRICS
from genzoo.types import Budget
from genzoo_reports.collect import RunView, features, mapping, number, text
from genzoo_reports.groups import Model
from genzoo_reports.tables import Table
from genzoo_reports.wording import NOT_EVALUATED, digits, title


@dataclass(frozen=True)
class MetricRow:
    """One metric's convention, for the table of the page."""

    title: str
    explanation: str
    reference: str
    convention: str
    features: str


def facts(table: Table) -> list[tuple[str, str]]:
    """(name, value) pairs about data, budget and sample numbers."""
    runs = [run for run in table.collection.runs if run.run is not None]
    contenders = [run for run in runs if not run.control]
    data = [mapping(run.config.get("data")) for run in runs]
    counts = [number(run.scores.get("n")) for run in table.collection.runs]
    seeds = sorted({run.seed for run in contenders})
    pairs = [
        ("Data", _join(run.data for run in table.collection.runs)),
        ("Items", _join(shape(mapping(entry.get("spec"))) for entry in data)),
        ("Data fingerprint", _join(run.fingerprint[:16] for run in table.collection.runs)),
        ("Budget a run", _join(budget(run.config.get("budget")) for run in contenders)),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Samples drawn a run", _join(_count(run.config.get("samples")) for run in runs)),
        ("Samples compared with as many held-out items", _join(_count(n) for n in counts)),
        ("Device", _join(text(run.config.get("device"), 40) for run in runs)),
        ("Devices", _devices(contenders)),
        ("Threads", _join(_count(run.config.get("threads")) for run in contenders)),
    ]
    return [(name, value) for name, value in pairs if value]


def _devices(runs: Sequence[RunView]) -> str:
    """How many trained a run together, where that is more than one."""
    found = []
    for run in runs:
        each, nodes = run.config.get("devices", 1), run.config.get("nodes", 1)
        machines = f" on each of {nodes} machines" if nodes != 1 else ""
        found.append(f"{each}{machines}" if (each, nodes) != (1, 1) else "1")
    return _join(found) if set(found) - {"1"} else ""


def budget(raw: object) -> str:
    """A budget in words.

    >>> budget("12s"), budget("2000steps")
    ('12 seconds of training', '2,000 steps')
    """
    try:
        found = Budget.parse(text(raw, 40))
    except InputError:
        return text(raw, 40)
    unit = {"seconds": "seconds of training", "flops": "FLOPs"}.get(found.unit, found.unit)
    amount = f"{found.amount:,.0f}" if 1 <= found.amount < 1e9 else f"{found.amount:g}"
    return f"{amount} {unit}"


def shape(spec: Mapping[str, Any]) -> str:
    """``8×8 gray images, 17 levels, 10 classes``."""
    sizes, levels = spec.get("shape"), number(spec.get("levels"))
    if not isinstance(sizes, (list, tuple)) or not all(isinstance(n, int) for n in sizes):
        return ""
    if len(sizes) != 3 or levels is None:
        return f"points in {sizes[0]} dimensions" if len(sizes) == 1 else ""
    kind = {1: "gray", 3: "RGB"}.get(sizes[0], f"{sizes[0]}-channel")
    classes = number(mapping(spec.get("cond")).get("label"))
    labels = f", {classes:.0f} classes" if classes else ""
    return f"{sizes[2]}×{sizes[1]} {kind} images, {levels:.0f} levels{labels}"


def machine(table: Table) -> list[tuple[str, str]]:
    """Versions and hardware, over all runs."""
    runs = [run for run in table.collection.runs if run.run is not None]
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault("genzoo", []).append(text(run.config.get("genzoo"), 40))
        for part in ("versions", "machine", "git"):
            for key, value in mapping(run.config.get(part)).items():
                name = text(key, 40) if part != "git" else f"git {text(key, 40)}"
                found.setdefault(name, []).append("" if value is None else text(value, 120))
        found.setdefault("run at", []).append(text(run.config.get("created"), 40)[:10])
    return [(name, joined) for name, values in found.items() if (joined := _join(values))]


def settings(model: Model) -> str:
    """``key=value`` of everything that was set."""
    first = mapping(model.runs[0].config.get("settings"))
    shown = ", ".join(f"{text(k, 60)}={text(v, 80)}" for k, v in first.items())
    conditional = model.runs[0].config.get("conditional")
    known = isinstance(conditional, bool)
    labels = ("labels shown to the model" if conditional else "no labels shown") if known else ""
    return "; ".join(part for part in (shown, labels) if part) or "none recorded"


def done(model: Model) -> list[str]:
    """Parameters, steps, items and seconds of a model's runs, as cells of a table."""
    cells = []
    for key in ("parameters", "step", "images", "seconds"):
        values = [number(run.status.get(key)) for run in model.whole]
        known = [value for value in values if value is not None]
        if not known:
            cells.append("–")
            continue
        mean = sum(known) / len(known)
        cells.append(digits(mean) if key == "seconds" else f"{mean:,.0f}")
    return cells


def conventions(table: Table) -> list[MetricRow]:
    """What every metric of the report means and how it was computed."""
    rows = []
    for name in table.metrics:
        known = METRICS.get(name)
        metrics = [run.metrics[name] for run in table.collection.runs if name in run.metrics]
        used = [metric for metric in metrics if metric.value is not None]
        counts = _join(_count(metric.n) for metric in used)
        conventions = _join(metric.convention for metric in used)
        kinds = _join(metric.likelihood or "" for metric in used)
        parts = [f"n = {counts}" if counts else "", conventions, kinds]
        rows.append(
            MetricRow(
                title=title(name),
                explanation=known.explanation if known else "",
                reference=known.reference if known else "",
                convention="; ".join(part for part in parts if part) or NOT_EVALUATED,
                features=_join(_space(metric.features) for metric in used),
            )
        )
    return rows


def _space(raw: Mapping[str, Any] | None) -> str:
    if raw is None:
        return ""
    known = features(raw)
    accuracy = known["accuracy"]
    parts = [
        known["name"],
        f"hash {known['hash'][:12]}" if known["hash"] else "",
        f"accuracy {accuracy:.3f}" if accuracy is not None else "",
        f"fitted on {known['split']}" if known["split"] else "",
    ]
    return ", ".join(part for part in parts if part)


def commands(table: Table) -> list[str]:
    """The command that made the comparison, or those that made the runs."""
    if table.collection.command:
        return [_line(table.collection.command)]
    return [line for run in table.collection.runs if (line := _command(run))]


def _command(run: RunView) -> str:
    words = run.config.get("command")
    return _line([text(word) for word in words]) if isinstance(words, list) else ""


def _line(words: Sequence[str]) -> str:
    """A command as it would be typed: where the program lies is nobody's business."""
    return shlex.join([PurePath(words[0]).name, *words[1:]]) if words else ""


def _count(value: object) -> str:
    found = number(value)
    return "" if found is None else f"{found:,.0f}"


def _join(values: Iterable[str], limit: int = 4) -> str:
    """Distinct values in order of appearance."""
    distinct = list(dict.fromkeys(value for value in values if value))
    more = f" and {len(distinct) - limit} more" if len(distinct) > limit else ""
    return "; ".join(distinct[:limit]) + more
