"""The cost card: what training and sampling took, a row a quantity."""

from __future__ import annotations

from dataclasses import dataclass

from genzoo.evaluation.catalogue import METRICS
from genzoo_reports.groups import Model, with_spread
from genzoo_reports.tables import Table
from genzoo_reports.wording import arrow, title

SCORED = ("training_seconds", "samples_per_second")
"""The costs that stand in the scorecard, too."""


@dataclass(frozen=True)
class CostRow:
    """One quantity over all models.

    Attributes:
        title: with the arrow that points to good in `arrow`.
        explanation: what it is.
        cells: (mean, half of the interval over seeds or an empty text) of each model.
        reason: why it is missing in all of them; empty where it is in one at least.
    """

    title: str
    arrow: str
    explanation: str
    cells: tuple[tuple[str, str], ...]
    reason: str


def cost_card(table: Table) -> list[CostRow]:
    """Rows in the catalogue's order, over the contenders."""
    names = [n for n in table.metrics if n in METRICS and METRICS[n].group == "cost"]
    rows = []
    for name in names:
        found = [model.metrics[name] for model in table.contenders]
        missing = {summary.reason or "" for summary in found if summary.mean is None}
        rows.append(
            CostRow(
                title=title(name),
                arrow=arrow(name),
                explanation=METRICS[name].explanation,
                cells=tuple(_cell(model, name) for model in table.contenders),
                reason="; ".join(sorted(missing)) if all(s.mean is None for s in found) else "",
            )
        )
    return rows if table.contenders else []


def _cell(model: Model, name: str) -> tuple[str, str]:
    summary = model.metrics[name]
    if summary.mean is None:
        return ("unmeasured" if (summary.reason or "").startswith("unmeasured") else "–", "")
    return with_spread(summary)
