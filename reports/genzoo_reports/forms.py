"""The report for other programs: ``report.md``, ``scores.csv`` and ``scores.json``.

``scores.json`` of a report (schema 1, kind ``report``)::

    {"schema": 1, "kind": "report", "title": text, "data": name, "data_fingerprint": hex,
     "results": [one object a run: "run" (folder), "model", "label", "control", "seed", "state",
                 "problem": text|null, "n", "metrics": as in a run's scores.json],
     "summary": [one object a model: "model" (label), "control", "runs", "seeds", "copies":
                 text|null, "metrics": {name: {"mean", "low", "high", "seeds", "floor",
                 "likelihood", "reason"}}],          low and high: 95 % Student's t over seeds
     "verdict": [{"topic", "headline", "leader": label|null, "sentences": [text]}],
     "claims": [{"metric", "leader", "rival", "gap", "low", "high", "ratio": whether the gap is
                 leader / rival, "p_value", "p_adjusted" (Holm), "supported", "tied", "seeds"}],
     "cautions": [text], "failed": [{"run", "reason"}], "left_out": [{"run", "reason"}]}

``scores.csv`` has one row per run and metric; ``value`` is empty where `reason` is not.
All numbers are finite; what is missing is ``null``.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from genzoo_reports.claims import RATIOS
from genzoo_reports.collect import RunView, features
from genzoo_reports.document import Document
from genzoo_reports.groups import Model
from genzoo_reports.tables import Table, failures, summary_rows

SCHEMA = 1
_COLUMNS = (
    "model",
    "seed",
    "control",
    "metric",
    "value",
    "low",
    "high",
    "floor",
    "n",
    "better",
    "likelihood",
    "reason",
    "convention",
    "data",
    "run",
)


def as_csv(table: Table) -> str:
    """One row per run and metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for model in table.models:
        for run in model.runs:
            for name in table.metrics:
                writer.writerow(_csv_row(model, run, name))
    return buffer.getvalue()


def _csv_row(model: Model, run: RunView, name: str) -> list[object]:
    metric = run.metrics.get(name)
    reason = (metric.reason if metric else None) or run.problem or "not evaluated"
    numbers: list[object] = ["" for _ in range(5)]
    if metric:
        found = (metric.value, metric.low, metric.high, metric.floor, metric.n)
        numbers = ["" if number is None else number for number in found]
        reason = metric.reason or ""
    return [
        _cell(model.label),
        run.seed,
        str(model.control).lower(),
        _cell(name),
        *numbers,
        model.metrics[name].better,
        _cell(metric.likelihood or "" if metric else ""),
        _cell(reason),
        _cell(metric.convention if metric else ""),
        _cell(run.data),
        _cell(run.name),
    ]


def _cell(value: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value


def as_object(document: Document) -> str:
    """The content of ``scores.json``; see the module's description."""
    table = document.table
    first = table.collection.runs[0]
    value = {
        "schema": SCHEMA,
        "kind": "report",
        "title": document.heading,
        "data": first.data,
        "data_fingerprint": first.fingerprint,
        "results": [_result(model, run) for model in table.models for run in model.runs],
        "summary": [_summary(model) for model in table.models],
        "verdict": [
            {
                "topic": verdict.topic,
                "headline": verdict.headline,
                "leader": verdict.leader or None,
                "sentences": list(verdict.sentences),
            }
            for verdict in document.verdicts
        ],
        "claims": [
            {
                "metric": claim.metric,
                "leader": claim.leader,
                "rival": claim.rival,
                "gap": claim.gap,
                "low": claim.low,
                "high": claim.high,
                "ratio": claim.metric in RATIOS,
                "p_value": claim.p_value,
                "p_adjusted": claim.adjusted,
                "supported": claim.supported,
                "tied": list(claim.tied),
                "seeds": claim.seeds,
            }
            for claim in table.claims.values()
        ],
        "cautions": list(document.notes),
        "failed": [
            {"run": run.name, "reason": run.problem}
            for model in table.models
            for run in model.runs
            if run.failed
        ],
        "left_out": [{"run": name, "reason": why} for name, why in table.collection.left_out],
    }
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _result(model: Model, run: RunView) -> dict[str, Any]:
    n = run.scores.get("n")
    return {
        "run": run.name,
        "model": run.model,
        "label": model.label,
        "control": model.control,
        "seed": run.seed,
        "state": run.state,
        "problem": run.problem,
        "n": n if isinstance(n, int) else None,
        "metrics": {
            name: {
                "value": metric.value,
                "low": metric.low,
                "high": metric.high,
                "floor": metric.floor,
                "n": metric.n,
                "convention": metric.convention,
                "better": metric.better,
                "ideal": metric.ideal,
                "features": None if metric.features is None else features(metric.features),
                "likelihood": metric.likelihood,
                "reason": metric.reason,
            }
            for name, metric in run.metrics.items()
        },
    }


def _summary(model: Model) -> dict[str, Any]:
    return {
        "model": model.label,
        "control": model.control,
        "runs": len(model.runs),
        "seeds": sorted({run.seed for run in model.whole}),
        "copies": model.copies or None,
        "metrics": {
            name: {
                "mean": found.mean,
                "low": found.low,
                "high": found.high,
                "seeds": len(found.by_seed),
                "floor": found.floor,
                "likelihood": found.likelihood,
                "reason": found.reason,
            }
            for name, found in model.metrics.items()
        },
    }


def as_markdown(document: Document) -> str:
    """Verdict and scorecard as they render on GitHub."""
    table, notes = document.table, document.notes
    lines = [f"# {plain(document.heading)}", "", plain(document.lede), "", "## Verdict", ""]
    for verdict in document.verdicts:
        sentences = " ".join(verdict.sentences)
        lines.append(f"- **{verdict.topic}: {plain(verdict.headline)}.** {plain(sentences)}")
    if notes:
        lines += ["", "## Read this first", "", *(f"- {plain(note)}" for note in notes)]
    rows = summary_rows(table)
    best = rows["best"]
    lines += ["", "## Scorecard", "", _line(rows["header"])]
    lines.append("|" + "---|" + "---:|" * (len(rows["header"]) - 1))
    for row in rows["rows"]:
        marked = [
            f"**{plain(cell)}**" if best.get(name) == row[0] else plain(cell)
            for name, cell in zip(rows["metrics"], row[1:], strict=True)
        ]
        lines.append("| " + " | ".join([f"**{plain(row[0])}**", *marked]) + " |")
    if rows["floor"]:
        lines.append(_line(rows["floor"], "*"))
    lines += [_line(row, "*") for row in rows["controls"]]
    lines += [
        "",
        "Mean ± half of the 95 % interval over seeds (Student's t). Bold numbers: best, supported "
        "by a paired test corrected for the claims of this report (Holm). Italic rows: real "
        "held-out data against real data, and controls, which cannot win. – means not evaluated.",
        "",
    ]
    everything = summary_rows(table, table.metrics)
    columns = [*everything["rows"], *everything["controls"]]
    columns += [everything["floor"]] if everything["floor"] else []
    head = ["metric", *(row[0] for row in columns)]
    lines += ["## All metrics", "", _line(head), "|---|" + "---:|" * len(columns)]
    for index, name in enumerate(everything["header"][1:], start=1):
        lines.append(_line([name, *(row[index] for row in columns)]))
    lines.append("")
    failed = failures(table)
    if failed:
        lines += ["## Failed runs", "", *(f"- {plain(n)}: {plain(why)}" for n, why in failed), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str], mark: str = "") -> str:
    return "| " + " | ".join(f"{mark}{plain(cell)}{mark}" for cell in cells) + " |"


def plain(value: str) -> str:
    """A text that Markdown shows as it is."""
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", escaped)
