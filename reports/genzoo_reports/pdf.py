"""``report.pdf``: the report on paper, for handing in."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import matplotlib
from fpdf import FPDF
from fpdf.fonts import FontFace

from genzoo_reports import method, scorecard
from genzoo_reports.collect import text
from genzoo_reports.costs import cost_card
from genzoo_reports.document import Document
from genzoo_reports.figures import FAINT, INK, SOFT, Drawing
from genzoo_reports.groups import Model
from genzoo_reports.pictures import Picture
from genzoo_reports.tables import Table, failures

FONT = "DejaVu"
WIDTH = 180.0
"""Millimetres between the margins of an A4 page."""
MODELS_A_TABLE = 5
ROW = 95.0
"""Millimetres that a row of figures takes at most, the lower margin included."""
_Item = TypeVar("_Item")


def as_pdf(document: Document) -> bytes:
    """The file's content; the same report gives the same bytes."""
    pdf = _Paper(document)
    pdf.title_page(document)
    pdf.scorecard(document.table)
    pdf.samples(document)
    pdf.drawings("Figures", document.charts.all())
    pdf.costs(document.table)
    pdf.how(document.table)
    return bytes(pdf.output())


class _Paper(FPDF):
    """A4 with the page's typography in DejaVu, whose letters cover most scripts' names."""

    def __init__(self, document: Document) -> None:
        super().__init__(format="A4")
        fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self.add_font(FONT, "", fonts / "DejaVuSans.ttf")
        self.add_font(FONT, "B", fonts / "DejaVuSans-Bold.ttf")
        self.set_margins(15, 15)
        self.set_auto_page_break(True, 18)
        self.set_title(document.heading)
        self.set_creator("genzoo")
        self.set_lang("en")
        self.set_creation_date(_made(document.table))
        self.add_page()

    def footer(self) -> None:
        """The page's number."""
        self.set_y(-12)
        self._font(8, tint=SOFT)
        self.cell(0, 5, str(self.page_no()), align="C")

    def title_page(self, document: Document) -> None:
        """Heading, warnings and verdicts."""
        self._font(20, bold=True)
        self._say(document.heading, 9)
        self._font(10, tint=SOFT)
        self._say(document.lede, 5.2)
        if document.notes:
            self._heading("Before you believe it", 11)
            self._font(9)
            for note in document.notes:
                self._say(f"•  {note}", 4.6)
        self._heading("Verdict")
        for verdict in document.verdicts:
            if self.get_y() > self.h - 60:
                self.add_page()
            self.ln(2)
            self._font(8, tint=SOFT)
            self._say(verdict.topic.upper(), 4.2)
            self._font(12, bold=True)
            self._say(verdict.headline, 6)
            self._font(9.5)
            for sentence in verdict.sentences:
                self._say(sentence, 4.8)

    def scorecard(self, table: Table) -> None:
        """A row a metric, a column a model; several tables where there are many models."""
        columns = scorecard.columns(table)
        if not columns:
            return
        self._heading("Scorecard")
        self._font(8.5, tint=SOFT)
        self._say(
            "Mean ± half of the 95 % interval over seeds. Arrows point to good. Bold: best, where "
            "a test supports it. Real vs real: held-out data in the samples' place. Controls, in "
            "brackets, cannot win.",
            4.4,
        )
        cells = {model.label: scorecard.row(table, model)[1] for model in table.models}
        models = list(table.models)
        for start in range(0, len(models), MODELS_A_TABLE):
            part = models[start : start + MODELS_A_TABLE]
            head = ["Metric", *(_named(model) for model in part), "real vs real"]
            rows = []
            for index, column in enumerate(columns):
                found = [cells[model.label][index] for model in part]
                shown = [f"{c.mean} ± {c.spread}" if c.spread else c.mean for c in found]
                name = f"{column.title} {column.arrow}".strip()
                rows.append(
                    ([name, *shown, column.floor], [False, *(c.best for c in found), False])
                )
            self._table(head, rows)

    def samples(self, document: Document) -> None:
        """Grids, neighbours, and the strips."""
        shown = document.gallery
        if shown.grids or shown.clouds:
            self._heading("Samples")
            self._font(8.5, tint=SOFT)
            self._say(f"{shown.order} Not chosen by hand: the first of each.", 4.4)
        self._pictures(shown.grids, 4)
        self.drawings("", [*shown.clouds])
        for name, pictures in (
            (
                "The samples closest to training data, above their nearest training items",
                shown.nearest,
            ),
            ("From noise to sample", document.films.trajectories),
            ("Between two latent codes", document.films.interpolations),
            ("Held-out items above their reconstructions", document.films.reconstructions),
        ):
            if pictures:
                self._heading(name, 11, room=ROW + 15)
                self._pictures(pictures, 2)

    def drawings(self, heading: str, drawings: Sequence[Drawing]) -> None:
        """Two a row, with their captions."""
        if not drawings:
            return
        if heading:
            self._heading(heading, room=ROW + 20)
        for pair in _rows(drawings, 2):
            with self._row() as (left, top):
                width = (WIDTH - 8) / 2
                bottoms = []
                for index, drawing in enumerate(pair):
                    x = left + index * (width + 8)
                    self.set_xy(x, top)
                    self._font(9, bold=True)
                    self.multi_cell(width, 4.6, drawing.heading, align="L")
                    wide, high = drawing.art.size
                    picture = io.BytesIO(drawing.art.standalone("png"))
                    y, height = self.get_y(), width * high / wide
                    self.image(picture, x, y, width, height, alt_text=drawing.art.alt)
                    self.set_xy(x, y + height + 1)
                    self._font(7.5, tint=SOFT)
                    self.multi_cell(width, 3.7, drawing.caption, align="L")
                    bottoms.append(self.get_y())
                self.set_y(max(bottoms) + 4)

    def costs(self, table: Table) -> None:
        """The cost card."""
        rows = cost_card(table)
        if not rows:
            return
        self._heading("Cost")
        models = table.contenders
        for start in range(0, len(models), MODELS_A_TABLE):
            part = slice(start, start + MODELS_A_TABLE)
            head = ["Quantity", *(model.label for model in models[part])]
            shown = [
                [
                    f"{row.title} {row.arrow}".strip(),
                    *(f"{mean} ± {half}" if half else mean for mean, half in row.cells[part]),
                ]
                for row in rows
            ]
            self._table(head, [(cells, [False] * len(cells)) for cells in shown])

    def how(self, table: Table) -> None:
        """What is needed to doubt or repeat it."""
        self._heading("How it was measured")
        failed = failures(table)
        pairs = [*method.facts(table), *method.machine(table)]
        pairs += [(f"failed: {name}", why) for name, why in failed]
        pairs += [("Command", line) for line in method.commands(table)[:12]]
        self._table(("", ""), [([name, value], [False, False]) for name, value in pairs], (50, 130))
        conventions = method.conventions(table)
        if conventions:
            self._heading("Metrics", 11)
            rows = [
                [row.title, "; ".join(filter(None, (row.convention, row.features, row.reference)))]
                for row in conventions
            ]
            self._table(
                ("Metric", "Convention"), [(row, [False, False]) for row in rows], (50, 130)
            )

    def _font(self, size: float, *, bold: bool = False, tint: str = INK) -> None:
        self.set_font(FONT, "B" if bold else "", size)
        self.set_text_color(*_rgb(tint))

    def _say(self, words: str, line: float) -> None:
        self.multi_cell(0, line, text(words), align="L", new_x="LMARGIN", new_y="NEXT")

    def _heading(self, words: str, size: float = 15, room: float = 50) -> None:
        """A heading with at least `room` millimetres of its page left."""
        if self.get_y() > self.h - room:
            self.add_page()
        self.ln(4)
        if size > 12:
            self.start_section(words)
        self._font(size, bold=True)
        self._say(words, size * 0.5)
        self.ln(1.5)

    def _table(
        self,
        head: Sequence[str],
        rows: Sequence[tuple[Sequence[str], Sequence[bool]]],
        widths: Sequence[float] | None = None,
    ) -> None:
        self._font(7.5)
        self.set_draw_color(*_rgb(FAINT))
        widths = widths or (46, *[(WIDTH - 46) / (len(head) - 1)] * (len(head) - 1))
        left = "L" if len(head) == 2 else "R"
        with self.table(
            borders_layout="HORIZONTAL_LINES",
            col_widths=tuple(widths),
            text_align=("L", *[left] * (len(head) - 1)),
            line_height=4.2,
            first_row_as_headings=any(head),
            headings_style=FontFace(emphasis="BOLD", color=INK),
            width=sum(widths),
            align="L",
        ) as table:
            if any(head):
                table.row([text(cell) for cell in head])
            for cells, bold in rows:
                row = table.row()
                for cell, strong in zip(cells, bold, strict=True):
                    row.cell(text(cell), style=FontFace(emphasis="BOLD") if strong else None)
        self.ln(3)

    def _pictures(self, pictures: Sequence[Picture], columns: int) -> None:
        for several in _rows(pictures, columns):
            with self._row() as (left, top):
                width, bottoms = (WIDTH - 5 * (columns - 1)) / columns, []
                for index, picture in enumerate(several):
                    x = left + index * (width + 5)
                    self.set_xy(x, top)
                    self._font(8.5, bold=True)
                    self.multi_cell(width, 4.4, picture.model.label, align="L")
                    y, height = self.get_y(), width * picture.height / picture.width
                    self.image(io.BytesIO(picture.png), x, y, width, height, alt_text=picture.alt)
                    bottoms.append(y + height)
                self.set_y(max(bottoms) + 4)

    @contextmanager
    def _row(self) -> Iterator[tuple[float, float]]:
        """What is placed side by side stays on one page."""
        if self.get_y() > self.h - ROW:
            self.add_page()
        yield self.l_margin, self.get_y()
        self.set_x(self.l_margin)


def _rows(items: Sequence[_Item], columns: int) -> Iterator[Sequence[_Item]]:
    return (items[i : i + columns] for i in range(0, len(items), columns))


def _named(model: Model) -> str:
    return f"({model.label})" if model.control else model.label


def _made(table: Table) -> datetime:
    """When the newest run began: the day of printing would change the file."""
    stamps = (text(run.config.get("created"), 40) for model in table.models for run in model.runs)
    found = []
    for stamp in stamps:
        try:
            when = datetime.fromisoformat(stamp)
        except ValueError:
            continue
        found.append(when if when.tzinfo else when.replace(tzinfo=timezone.utc))
    return max(found, default=datetime(2000, 1, 1, tzinfo=timezone.utc))


def _rgb(shade: str) -> tuple[int, int, int]:
    red, green, blue = (int(shade[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
