"""``table.tex``: the scorecard as a LaTeX table in the style of booktabs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from genzoo_reports.document import Document
from genzoo_reports.tables import summary_rows

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "–": "--",
    "—": "---",
    "−": r"$-$",
    "½": r"$\frac{1}{2}$",
    "→": r"$\rightarrow$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "σ": r"$\sigma$",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "\u00a0": "~",
}
_NOTE = (
    "% needs \\usepackage{booktabs}, and \\usepackage[T1]{fontenc} for quotation marks",
    "% best numbers, supported by a paired test corrected for all claims, are bold",
)


def as_latex(document: Document) -> str:
    """A floating table of the models by the metrics of the verdict, its caption included."""
    table = document.table
    rows = summary_rows(table)
    best, metrics = rows["best"], rows["metrics"]
    lines = [
        *_NOTE,
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(_caption(document))}}}",
        r"\label{tab:genzoo}",
        rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
        r"\toprule",
        _row([escape(cell) for cell in rows["header"]]),
        r"\midrule",
    ]
    for label, *cells in rows["rows"]:
        marked = [
            rf"\textbf{{{escape(cell)}}}" if best.get(name) == label else escape(cell)
            for name, cell in zip(metrics, cells, strict=True)
        ]
        lines.append(_row([escape(label), *marked]))
    beside = ([rows["floor"]] if rows["floor"] else []) + rows["controls"]
    if beside:
        lines.append(r"\midrule")
        lines += [_row([rf"\textit{{{escape(cell)}}}" for cell in row]) for row in beside]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _caption(document: Document) -> str:
    seeds = len({run.seed for model in document.table.contenders for run in model.whole})
    spread = f"Mean ± half of the 95 % interval over {seeds} seeds. " if seeds > 1 else "One seed. "
    beside = "Italic: real data in the samples' place, and controls." if _italic(document) else ""
    return f"{document.heading}. {spread}{beside}".strip()


def _italic(document: Document) -> bool:
    return bool(document.table.floors or document.table.controls)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape(value: str) -> str:
    """A text that LaTeX sets as it is; letters outside of Latin become question marks."""
    return "".join(_SPECIAL.get(c) or _letter(c) for c in value)


def _letter(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " "
    return character if unicodedata.name(character, "").startswith("LATIN") else "?"
