"""Reports as files: one page, or a folder with every form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genzoo.errors import InputError
from genzoo.runs import Run, write_bytes
from genzoo_reports import difference as differences
from genzoo_reports import forms
from genzoo_reports.collect import text
from genzoo_reports.difference import Difference, difference
from genzoo_reports.document import Document, compose
from genzoo_reports.latex import as_latex
from genzoo_reports.pdf import as_pdf
from genzoo_reports.render import difference_page, page

PAGE = "report.html"
FORMS: Mapping[str, Callable[[Document], bytes]] = {
    PAGE: lambda document: page(document).encode(),
    "report.md": lambda document: forms.as_markdown(document).encode(),
    "report.pdf": as_pdf,
    "table.tex": lambda document: as_latex(document).encode(),
    "scores.csv": lambda document: forms.as_csv(document.table).encode(),
    "scores.json": lambda document: forms.as_object(document).encode(),
}
"""What a folder gets, beside ``figures/NAME.svg`` and ``.png``. A single file takes the form of
its suffix."""
FIGURES = "figures"


def write_report(
    runs: Sequence[Path | str | Run] | Path | str | Run,
    out: Path | str = PAGE,
    *,
    title: str | None = None,
    controls: bool = True,
) -> Path:
    """Write a report of finished runs. Computes nothing that was not evaluated.

    Args:
        runs: run folders, comparison folders (whose ``runs/*`` are taken), or files that
            ``genzoo evaluate --json`` wrote for samples from elsewhere.
        out: a file in the form of its suffix (``.html``, ``.md``, ``.pdf``, ``.tex``, ``.csv``
            or ``.json``); else a directory that gets all of them and the figures as files.
        title: heading; by default the models and the data.
        controls: whether the control baselines are shown.

    Returns:
        Path of the file, or of the page in the directory.

    Raises:
        InputError: nothing to report, an unreadable run, runs that cannot be compared, or a
            place that cannot be written.
        MachineError: the disk is full or fails.
    """
    given = [runs] if isinstance(runs, (Path, str, Run)) else list(runs)
    paths = [run.path if isinstance(run, Run) else Path(run) for run in given]
    place = Path(out)
    single = {Path(name).suffix: form for name, form in FORMS.items()} | {".htm": FORMS[PAGE]}
    form = None if place.is_dir() else single.get(place.suffix.lower())
    if form is None and place.exists() and not place.is_dir():
        raise InputError(
            f"'{place}' is a file; give a directory or a name that ends in {', '.join(single)}"
        )
    document = compose(paths, title, controls=controls)
    if form is not None:
        write_bytes(place, form(document))
        return place
    for name, write in FORMS.items():
        write_bytes(place / name, write(document))
    _write_figures(document, place / FIGURES)
    return place / PAGE


def write_difference(
    old: Path | str, new: Path | str, out: Path | str | None = None
) -> tuple[Difference, Path | None]:
    """What changed between two comparisons, and a file about it where one is asked for.

    Args:
        old: a comparison folder, run folder or file of ``genzoo evaluate --json``.
        new: another on the same data, judged alike.
        out: ``.html``, ``.md`` or ``.json``.

    Raises:
        InputError: one cannot be read, they cannot be compared, or `out` has another suffix.
    """
    place = None if out is None else Path(out)
    if place is not None and place.suffix.lower() not in (".html", ".htm", ".md", ".json"):
        raise InputError(f"'{place}': give a name that ends in .html, .md or .json")
    found = difference(old, new)
    if place is not None:
        suffix = place.suffix.lower()
        if suffix == ".md":
            content = differences.as_markdown(found, old, new)
        elif suffix == ".json":
            content = differences.dumps(found)
        else:
            heading = f"What changed from {Path(old).name} to {Path(new).name}"
            content = difference_page(found, text(heading, 200))
        write_bytes(place, content.encode())
    return found, place


def _write_figures(document: Document, folder: Path) -> None:
    """Every drawing in both forms, and the pictures; what an earlier report left is replaced."""
    for drawing in document.charts.all():
        for form in ("svg", "png"):
            content = drawing.art.standalone(form)
            write_bytes(folder / f"{drawing.art.identity}.{form}", content)
    for name, picture in document.pictures():
        write_bytes(folder / f"{name}.png", picture.png)
