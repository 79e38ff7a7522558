"""The page: one self-contained file that runs only its own script and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from genzoo.errors import InputError
from genzoo.evaluation.catalogue import METRICS, TARGETS, distance
from genzoo.runs import Run, write_bytes
from genzoo_reports import figures, forms, method
from genzoo_reports.cautions import cautions
from genzoo_reports.claims import RATIOS
from genzoo_reports.collect import collect, text
from genzoo_reports.figures import GLYPHS, SERIES
from genzoo_reports.groups import Model, with_spread
from genzoo_reports.look import Gallery, gallery
from genzoo_reports.tables import Table, build_table, failures
from genzoo_reports.verdict import Verdict, verdicts
from genzoo_reports.wording import (
    ALL_FAILED,
    NOT_EVALUATED,
    arrow,
    digits,
    join,
    short_model,
    title,
)

PAGE = "report.html"
GROUPS = {
    "fidelity": "Quality",
    "diversity": "Diversity",
    "modes": "Modes",
    "memorization": "Memorization",
    "likelihood": "Likelihood",
    "cost": "Cost and speed",
    "": "Other",
}


def write_report(
    runs: Sequence[Path | str | Run] | Path | str | Run,
    out: Path | str = "report.html",
    *,
    title: str | None = None,
    controls: bool = True,
) -> Path:
    """Write a report of finished runs. Computes nothing that was not evaluated.

    Args:
        runs: run folders, comparison folders (whose ``runs/*`` are taken), or files that
            ``genzoo evaluate --json`` wrote for samples from elsewhere.
        out: a page if it ends in ``.html``; else a directory that gets ``report.html``,
            ``report.md``, ``scores.csv`` and ``scores.json``.
        title: heading of the page; by default the models and the data.
        controls: whether the control baselines are shown.

    Returns:
        Path of the page.

    Raises:
        InputError: nothing to report, an unreadable run, runs on different data, or a place
            that cannot be written.
        MachineError: the disk is full or fails.
    """
    given = [runs] if isinstance(runs, (Path, str, Run)) else list(runs)
    paths = [run.path if isinstance(run, Run) else Path(run) for run in given]
    place = Path(out)
    single = place.suffix.lower() in (".html", ".htm")
    if not single and place.exists() and not place.is_dir():
        raise InputError(f"'{place}' is a file; give a directory or a name that ends in .html")
    table = build_table(collect(paths), controls=controls)
    heading = text(title, 200) or _heading(table)
    told, notes = verdicts(table), cautions(table)
    html = page(table, heading, told, notes)
    if single:
        write_bytes(place, html.encode())
        return place
    write_bytes(place / PAGE, html.encode())
    write_bytes(place / "report.md", forms.as_markdown(table, heading, told, notes).encode())
    write_bytes(place / "scores.csv", forms.as_csv(table).encode())
    write_bytes(place / "scores.json", forms.as_object(table, heading, told, notes).encode())
    return place / PAGE


def page(table: Table, heading: str, told: Sequence[Verdict], notes: Sequence[str]) -> str:
    """The whole HTML text."""
    environment = Environment(
        loader=PackageLoader("genzoo_reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _source(environment, "report.js")
    pictures = gallery(table)
    curves = figures.loss_curves(table)
    quality = figures.quality_plots(table)
    return environment.get_template("report.html").render(
        heading=heading,
        lede=_lede(table),
        style=Markup(_source(environment, "report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        table=table,
        cards=[_card(table, verdict) for verdict in told],
        notes=notes,
        columns=_columns(table),
        rows=[_row(table, model) for model in table.contenders],
        controls=[_row(table, model) for model in table.controls],
        yardsticks=_yardsticks(table),
        absent=_absent(table),
        gallery=pictures,
        sections=_sections(pictures, curves, quality),
        curves=curves,
        quality=quality,
        claims=_claims(table),
        facts=method.facts(table),
        machine=method.machine(table),
        settings=[(m, method.settings(m), method.done(m)) for m in table.models],
        conventions=method.conventions(table),
        commands=method.commands(table),
        failures=failures(table),
        svg=Markup,
        glyph=lambda slot: GLYPHS[slot % len(GLYPHS)] if slot >= 0 else "○",
        tint=lambda slot: f"var(--s{slot % SERIES})" if slot >= 0 else "var(--soft)",
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


def _heading(table: Table) -> str:
    data = table.collection.runs[0].data or "unnamed data"
    models = table.contenders or table.controls
    names = list(dict.fromkeys(short_model(model.runs[0].model) for model in models))
    what = join(names) if len(names) <= 5 else f"{len(names)} generative models"
    return text(f"{what} on {data}", 200)


def _lede(table: Table) -> str:
    """What a stranger must know to read the first screen."""
    known = dict(method.facts(table))
    count = len(table.contenders)
    models = "One generative model" if count == 1 else f"{count} generative models"
    items = known.get("Items", "")
    data = known.get("Data", "the same data") + (f" ({items})" if items else "")
    parts = [f"{models} learned from {data}"]
    budget = known.get("Budget a run", "")
    if budget:
        parts.append(f"with a budget of {budget} a run")
    seeds = len({run.seed for model in table.contenders for run in model.whole})
    parts.append(
        "and one seed (random start)" if seeds < 2 else f"and {seeds} seeds (random starts)"
    )
    drawn = known.get("Samples drawn a run", "")
    new = f", then drew {drawn} new items" if drawn and ";" not in drawn else ""
    return (
        f"{' '.join(parts)}{new}. Whose look real, how varied are they, are they new, and what "
        "did they cost?"
    )


# -- first screen ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Rung:
    """One model on the small scale of a verdict; positions in percent."""

    label: str
    slot: int
    shown: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Card:
    """A verdict with its small scale.

    Attributes:
        verdict: what it says.
        rungs: contenders, best first.
        scale: name of the metric that is drawn.
        mark: position of the floor or the ideal in percent, ``None`` if there is none.
        mark_name: what the mark is.
    """

    verdict: Verdict
    rungs: tuple[Rung, ...]
    scale: str
    mark: float | None
    mark_name: str


def _card(table: Table, verdict: Verdict) -> Card:
    name = verdict.metric
    models = [m for m in table.contenders if name and m.value(name) is not None]
    if not models:
        return Card(verdict, (), "", None, "")
    better = METRICS[name].better
    models.sort(key=lambda model: distance(better, model.value(name) or 0.0))
    mark, mark_name = table.floors.get(name), "real data"
    if mark is None and better in TARGETS:
        mark, mark_name = float(better), "perfect"
    low, high, log = _scale(name, models, mark)

    def place(value: float) -> float:
        if log:
            value = math.log(max(value, 1e-300))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(100 * min(1.0, max(0.0, share)), 2)

    rungs = []
    for model in models:
        summary = model.metrics[name]
        mean = summary.mean or 0.0
        rungs.append(
            Rung(
                label=model.label,
                slot=model.slot,
                shown=" ".join(filter(None, (digits(mean, name), summary.likelihood))),
                at=place(mean),
                low=place(mean if summary.low is None else summary.low),
                high=place(mean if summary.high is None else summary.high),
            )
        )
    spot = None if mark is None else place(mark)
    scale = f"{title(name)} {arrow(name)}".strip()
    return Card(verdict, tuple(rungs), scale, spot, mark_name if spot is not None else "")


def _scale(name: str, models: Sequence[Model], mark: float | None) -> tuple[float, float, bool]:
    """(low, high, logarithmic) of a card's scale."""
    values = [model.value(name) or 0.0 for model in models]
    values += [mark] if mark is not None else []
    if name in RATIOS and min(values) > 0:
        low, high = math.log(min(values)), math.log(max(values))
        pad = max(0.08 * (high - low), 0.3)
        return low - pad, high + pad, True
    group = METRICS[name].group
    if 0 <= min(values) and max(values) <= 1 and group in ("diversity", "memorization"):
        return 0.0, 1.0, False
    if group == "likelihood" or min(values) < 0:
        pad = 0.15 * (max(values) - min(values)) or 0.5
        return min(values) - pad, max(values) + pad, False
    return 0.0, 1.08 * max(*values, 1e-12), False


# -- scorecard ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A metric of the scorecard."""

    name: str
    group: str
    title: str
    arrow: str
    explanation: str
    floor: str


@dataclass(frozen=True)
class Cell:
    """A number of the scorecard; `order` sorts it, best first."""

    mean: str
    spread: str
    order: str
    best: bool
    missing: bool
    note: str


def _columns(table: Table) -> list[Column]:
    columns = []
    for name in table.metrics:
        known = METRICS.get(name)
        floor = table.floors.get(name)
        columns.append(
            Column(
                name=name,
                group=GROUPS[known.group if known else ""],
                title=title(name),
                arrow=arrow(name),
                explanation=known.explanation if known else "not a metric of this genzoo",
                floor="–" if floor is None else digits(floor, name),
            )
        )
    return columns


def _row(table: Table, model: Model) -> tuple[Model, list[Cell]]:
    cells = []
    for name in table.metrics:
        summary = model.metrics[name]
        claim = table.claims.get(name)
        mean, spread = with_spread(summary)
        note = summary.reason or ""
        if summary.mean is not None:
            count = len(summary.by_seed)
            note = f"{count} {'seed' if count == 1 else 'seeds'}"
            if summary.within:
                low, high = (digits(end, name) for end in summary.within)
                note += f"; {low} to {high} over the sampling alone"
        order = "" if summary.mean is None else repr(distance(summary.better, summary.mean))
        if summary.likelihood:
            note = f"{summary.likelihood}; {note}"
        if summary.caution:
            note = f"{note}; {summary.caution}"
        cells.append(
            Cell(
                mean=f"{mean}{'*' if summary.caution else ''}"
                if summary.mean is not None
                else _short(summary.reason),
                spread=spread,
                order=order,
                best=claim is not None and claim.supported and claim.leader == model.label,
                missing=summary.mean is None,
                note=note,
            )
        )
    return model, cells


def _yardsticks(table: Table) -> list[tuple[str, list[str]]]:
    """Rows of the evaluation's own controls."""
    return [
        (name, [digits(values[m], m) if m in values else "–" for m in table.metrics])
        for name, values in table.yardsticks.items()
    ]


def _short(reason: str | None) -> str:
    if reason == ALL_FAILED:
        return "failed"
    return NOT_EVALUATED if reason in (None, NOT_EVALUATED) else "n/a"


def _absent(table: Table) -> list[tuple[str, str]]:
    """(model and metrics, reason) of everything that was refused."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model in table.models:
        for name in table.metrics:
            reason = model.metrics[name].reason
            if reason and reason not in (NOT_EVALUATED, ALL_FAILED):
                reasons.setdefault((model.label, reason), []).append(title(name))
    return [(f"{label}: {join(names)}", why) for (label, why), names in reasons.items()]


def _claims(table: Table) -> list[dict[str, Any]]:
    """The tests behind the verdict, as texts."""
    rows = []
    for claim in table.claims.values():
        ends = [end for end in (claim.low, claim.high) if end is not None]
        rows.append(
            {
                "metric": title(claim.metric),
                "claim": f"{claim.leader} beats every other",
                "gap": ("× " if claim.metric in RATIOS else "") + digits(claim.gap),
                "rival": claim.rival,
                "interval": f"{digits(ends[0])} to {digits(ends[1])}" if len(ends) == 2 else "–",
                "p": "–" if claim.p_value is None else f"{claim.p_value:.2g}",
                "adjusted": "–" if claim.adjusted is None else f"{claim.adjusted:.2g}",
                "outcome": "shown" if claim.supported else claim.note or "not shown",
            }
        )
    return rows


def _sections(
    pictures: Gallery, curves: Sequence[object], quality: Sequence[object]
) -> list[tuple[str, str]]:
    """(anchor, name) of the parts that this report has."""
    look = bool(pictures.grids or pictures.clouds)
    parts = [
        ("verdict", "Verdict", True),
        ("scorecard", "Scorecard", True),
        ("look", "Samples", look),
        ("speed", "Quality and speed", bool(quality)),
        ("curves", "Training", bool(curves)),
        ("method", "Method", True),
    ]
    return [(anchor, name) for anchor, name, there in parts if there]
