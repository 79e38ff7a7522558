"""Everything a report says and shows, before it takes a form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genzoo.files import slug
from genzoo_reports import method
from genzoo_reports.cautions import cautions
from genzoo_reports.charts import Charts, charts
from genzoo_reports.collect import collect, text
from genzoo_reports.films import Films, films
from genzoo_reports.look import Gallery, gallery
from genzoo_reports.pictures import Picture
from genzoo_reports.tables import Table, build_table
from genzoo_reports.verdict import Verdict, verdicts
from genzoo_reports.wording import join, short_model


@dataclass(frozen=True)
class Document:
    """What all forms of one report share.

    Attributes:
        heading: of the report.
        lede: what a stranger must know before the first screen.
        verdicts: in the order of the topics.
        notes: what must be known before they are believed.
        gallery: what the samples look like.
        films: what leads to them.
        charts: the figures.
    """

    table: Table
    heading: str
    lede: str
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    gallery: Gallery
    films: Films
    charts: Charts

    def pictures(self) -> list[tuple[str, Picture]]:
        """The pictures and the names of their files."""
        parts = {
            "samples": self.gallery.grids,
            "nearest": self.gallery.nearest,
            "trajectory": self.films.trajectories,
            "interpolation": self.films.interpolations,
            "reconstruction": self.films.reconstructions,
        }
        return [
            (f"{part}-{index}-{slug(picture.model.label)}", picture)
            for part, pictures in parts.items()
            for index, picture in enumerate(pictures)
        ]


def compose(paths: Sequence[Path], title: str | None = None, *, controls: bool = True) -> Document:
    """Read runs and put the report together.

    Args:
        paths: run folders, comparison folders, or files of ``genzoo evaluate --json``.
        title: heading; by default the models and the data.
        controls: whether the control baselines are shown.

    Raises:
        InputError: nothing to report, an unreadable run, or runs that cannot be compared.
    """
    table = build_table(collect(paths), controls=controls)
    return Document(
        table=table,
        heading=text(title, 200) or _heading(table),
        lede=_lede(table),
        verdicts=tuple(verdicts(table)),
        notes=tuple(cautions(table)),
        gallery=gallery(table),
        films=films(table),
        charts=charts(table),
    )


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
