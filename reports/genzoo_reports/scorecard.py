"""The scorecard: models by metrics, with floors, controls and the tests behind what is marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from genzoo.evaluation.catalogue import METRICS, distance
from genzoo_reports.claims import RATIOS
from genzoo_reports.costs import SCORED
from genzoo_reports.groups import Model, with_spread
from genzoo_reports.tables import Table
from genzoo_reports.wording import ALL_FAILED, NOT_EVALUATED, arrow, digits, join, title

GROUPS = {
    "fidelity": "Quality",
    "diversity": "Diversity",
    "modes": "Modes",
    "memorization": "Memorization",
    "likelihood": "Likelihood",
    "cost": "Cost and speed",
    "": "Other",
}


@dataclass(frozen=True)
class Column:
    """A metric of the scorecard."""

    name: str
    group: str
    title: str
    arrow: str
    explanation: str
    reference: str
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


def shown(table: Table) -> list[str]:
    """The metrics of the scorecard; the cost card has the costs that no claim is about."""
    groups = {name: METRICS[name].group if name in METRICS else "" for name in table.metrics}
    return [name for name in table.metrics if groups[name] != "cost" or name in SCORED]


def columns(table: Table) -> list[Column]:
    """Its columns, with what real data score."""
    columns = []
    for name in shown(table):
        known = METRICS.get(name)
        floor = table.floors.get(name)
        columns.append(
            Column(
                name=name,
                group=GROUPS[known.group if known else ""],
                title=title(name),
                arrow=arrow(name),
                explanation=known.explanation if known else "not a metric of this genzoo",
                reference=known.reference if known else "",
                floor="–" if floor is None else digits(floor, name),
            )
        )
    return columns


def row(table: Table, model: Model) -> tuple[Model, list[Cell]]:
    """A model's cells, a cell a column."""
    cells = []
    for name in shown(table):
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


def yardsticks(table: Table) -> list[tuple[str, list[str]]]:
    """Rows of the evaluation's own controls."""
    return [
        (name, [digits(values[m], m) if m in values else "–" for m in shown(table)])
        for name, values in table.yardsticks.items()
    ]


def _short(reason: str | None) -> str:
    if reason == ALL_FAILED:
        return "failed"
    return NOT_EVALUATED if reason in (None, NOT_EVALUATED) else "n/a"


def absent(table: Table) -> list[tuple[str, str]]:
    """(model and metrics, reason) of everything that was refused."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model in table.models:
        for name in table.metrics:
            reason = model.metrics[name].reason
            if reason and reason not in (NOT_EVALUATED, ALL_FAILED):
                reasons.setdefault((model.label, reason), []).append(title(name))
    return [(f"{label}: {join(names)}", why) for (label, why), names in reasons.items()]


def claims(table: Table) -> list[dict[str, Any]]:
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
