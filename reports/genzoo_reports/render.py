"""The page: one self-contained file that runs only its own script and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from genzoo_reports import method, scorecard
from genzoo_reports.cards import card
from genzoo_reports.costs import cost_card
from genzoo_reports.difference import HEAD, Difference, rows, sentences
from genzoo_reports.document import Document
from genzoo_reports.figures import GLYPHS, SERIES
from genzoo_reports.tables import failures


def page(document: Document) -> str:
    """The whole HTML text."""
    environment = _environment()
    script, table = _source(environment, "report.js"), document.table
    return environment.get_template("report.html").render(
        heading=document.heading,
        lede=document.lede,
        style=Markup(_source(environment, "report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        table=table,
        cards=[card(table, verdict) for verdict in document.verdicts],
        notes=document.notes,
        columns=scorecard.columns(table),
        rows=[scorecard.row(table, model) for model in table.contenders],
        controls=[scorecard.row(table, model) for model in table.controls],
        yardsticks=scorecard.yardsticks(table),
        absent=scorecard.absent(table),
        costs=cost_card(table),
        gallery=document.gallery,
        films=document.films,
        charts=document.charts,
        sections=_sections(document),
        claims=scorecard.claims(table),
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


def difference_page(found: Difference, heading: str) -> str:
    """The HTML text about what changed between two comparisons; it has no script."""
    environment = _environment()
    return environment.get_template("difference.html").render(
        heading=heading,
        style=Markup(_source(environment, "report.css")),
        sentences=sentences(found),
        head=HEAD,
        rows=rows(found),
        circumstances=found.circumstances,
        failed=found.failed,
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("genzoo_reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


def _sections(document: Document) -> list[tuple[str, str]]:
    """(anchor, name) of the parts that this report has."""
    charts: Any = document.charts
    look = bool(document.gallery.grids or document.gallery.clouds)
    curves = charts.training or charts.steps or charts.guidance or charts.losses
    parts = [
        ("verdict", "Verdict", True),
        ("scorecard", "Scorecard", True),
        ("look", "Samples", look),
        ("kinds", "Kinds and modes", charts.classes or charts.modes),
        ("cost", "Quality and cost", charts.quality or document.table.contenders),
        ("curves", "Curves", curves),
        ("method", "Method", True),
    ]
    return [(anchor, name) for anchor, name, there in parts if there]
