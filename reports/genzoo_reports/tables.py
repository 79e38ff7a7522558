"""What a report is written from: models by metrics, floors, controls and claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.evaluation.catalogue import METRICS
from genzoo_reports.claims import TESTED, Claim, check_claims
from genzoo_reports.collect import Collection, collect, mapping, number, text
from genzoo_reports.groups import Model, group, with_spread
from genzoo_reports.wording import arrow, digits, title


@dataclass(frozen=True)
class Table:
    """What the report is written from.

    Attributes:
        contenders: models that can win.
        controls: baselines that cannot.
        metrics: names of the columns, in the catalogue's order.
        floors: what real held-out data score.
        claims: by metric.
        yardsticks: what the evaluation's own controls score, by control and metric; those that
            stand among `controls` as runs are left out.
    """

    collection: Collection
    contenders: tuple[Model, ...]
    controls: tuple[Model, ...]
    metrics: tuple[str, ...]
    floors: Mapping[str, float]
    claims: Mapping[str, Claim]
    yardsticks: Mapping[str, Mapping[str, float]]

    @property
    def models(self) -> tuple[Model, ...]:
        """Contenders, then controls."""
        return self.contenders + self.controls

    def model(self, label: str) -> Model:
        """The model of a label."""
        return next(model for model in self.models if model.label == label)


def build_table(collection: Collection, *, controls: bool = True) -> Table:
    """Group runs by model, average over seeds, and test the claims."""
    present = {name for view in collection.runs for name in view.metrics}
    names = [name for name in METRICS if name in present]
    names += sorted(name for name in present if name not in METRICS)
    models = group([run for run in collection.runs if controls or not run.control], names)
    contenders = tuple(model for model in models if not model.control)
    return Table(
        collection=collection,
        contenders=contenders,
        controls=tuple(model for model in models if model.control),
        metrics=tuple(names),
        floors=_floors(models, names),
        claims=check_claims(contenders, names),
        yardsticks=_yardsticks(models) if controls else {},
    )


def _yardsticks(models: Sequence[Model]) -> dict[str, dict[str, float]]:
    """Means over the runs, which agree where their evaluations saw the same items."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in (run for model in models for run in model.whole):
        for control, values in mapping(run.scores.get("controls")).items():
            for name, value in mapping(values).items():
                known = number(value)
                if known is not None and name in METRICS:
                    found.setdefault(text(control, 40), {}).setdefault(name, []).append(known)
    shown = {model.runs[0].model for model in models}
    return {
        control: {name: math.fsum(several) / len(several) for name, several in values.items()}
        for control, values in found.items()
        if control not in shown
    }


def _floors(models: Sequence[Model], names: Sequence[str]) -> dict[str, float]:
    floors = {}
    for name in names:
        found = [m.metrics[name].floor for m in models if m.metrics[name].floor is not None]
        if found:
            floors[name] = math.fsum(f for f in found if f is not None) / len(found)
    return floors


def failures(table: Table) -> list[tuple[str, str]]:
    """(model and seed, reason) of every run that is not whole, and of folders left out."""
    failed = [
        (f"{model.label}, seed {run.seed}", run.problem or "")
        for model in table.models
        for run in model.runs
        if run.failed
    ]
    return failed + list(table.collection.left_out)


def summary_rows(
    runs: Sequence[Path] | Table, metrics: Sequence[str] | None = None
) -> dict[str, Any]:
    """The scorecard as plain texts, for a terminal.

    Args:
        runs: folders as for `genzoo_reports.render.write_report`, or a table already built.
        metrics: columns; by default those of the verdict that were evaluated.

    Returns:
        ``{"metrics": [name…], "header": ["model", title…], "rows": [[…]], "floor": […] | None,
        "controls": [[…]], "failed": [(run, reason)…], "best": {metric: label}}``; cells are
        ``0.123 ± 0.004``, ``–`` where nothing was evaluated; the arrow in a title points to good.
    """
    table = runs if isinstance(runs, Table) else build_table(collect(runs))
    default = [*TESTED[:5], "train_nn_share", "duplicates", *TESTED[5:]]
    names = [m for m in (metrics or default) if m in table.metrics]

    def row(model: Model) -> list[str]:
        cells = []
        for name in names:
            mean, half = with_spread(model.metrics[name])
            missing = model.metrics[name].mean is None
            cells.append("–" if missing else f"{mean} ± {half}" if half else mean)
        return [model.label, *cells]

    floor = [digits(table.floors[n], n) if n in table.floors else "–" for n in names]
    return {
        "metrics": names,
        "header": ["model", *(f"{title(name)} {arrow(name)}".strip() for name in names)],
        "rows": [row(model) for model in table.contenders],
        "floor": ["real vs real", *floor] if any(n in table.floors for n in names) else None,
        "controls": [row(model) for model in table.controls],
        "failed": failures(table),
        "best": {n: claim.leader for n, claim in table.claims.items() if claim.supported},
    }
