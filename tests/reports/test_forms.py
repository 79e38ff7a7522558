"""The report's other forms: figures as files, PDF, LaTeX, Markdown."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from importlib.resources import files
from pathlib import Path

import numpy as np
from fake_runs import digits_like, metric, write_run, write_seeds
from matplotlib.axes import Axes
from PIL import Image

from genzoo_reports.figures import PALETTE, color, draw
from genzoo_reports.report import write_report

HOSTILE = "<script>alert(1)</script>\"'&]]>"


def _paint(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=color(0), linewidth=8)
    axes.set_title(HOSTILE)
    axes.set_xlabel(r"$\frac{ and $")
    axes.set_yscale("log")
    axes.set_ylim(2, 3_000_000)


def test_the_palette_is_the_pages() -> None:
    style = (files("genzoo_reports") / "templates" / "report.css").read_text(encoding="utf-8")
    light = style[: style.index("}")]
    for name, shade in PALETTE.items():
        assert f"--{name}: {shade};" in light


def test_a_drawing_inside_the_page_has_the_pages_colours() -> None:
    svg = draw("figure-1", "a line from 0 to 1", _paint).svg
    assert "var(--s0)" in svg and "var(--ink)" in svg
    assert not any(shade in svg for shade in PALETTE.values())
    assert r">$\frac{ and $<" in svg, "a dollar sign starts no formula"
    assert ">1 M<" in svg and ">10 k<" in svg and "mathdefault" not in svg


def test_an_svg_file_stands_alone() -> None:
    art = draw("figure-1", f"a line from 0 to 1 {HOSTILE}", _paint)
    data = art.standalone("svg")
    root = ElementTree.fromstring(data)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["aria-label"] == f"a line from 0 to 1 {HOSTILE}"
    shown = data.decode()
    assert PALETTE["s0"] in shown and "var(" not in shown
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in ("script", "image", "text", "metadata")
        for value in element.attrib.values():
            assert all(to.startswith("#") for to in re.findall(r"url\((.)", value))
    places = set(re.findall(r'\b(?:https?:)?//[^"\s]+', shown))
    assert places <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert data == draw("figure-1", art.alt, _paint).standalone("svg")


def test_a_png_file_shows_the_real_colours_on_white() -> None:
    art = draw("figure-1", "a line", _paint, (2.0, 1.0))
    with Image.open(io.BytesIO(art.standalone("png"))) as opened:
        assert opened.size == (400, 200)
        assert "Software" not in opened.info
        pixels = np.asarray(opened.convert("RGB")).reshape(-1, 3)
    shades = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}
    assert {"#ffffff", PALETTE["s0"]} <= shades
    assert art.standalone("png") == art.standalone("png")


# -- LaTeX ----------------------------------------------------------------------------------


def _three(tmp_path: Path, label: str = "gan") -> Path:
    for name, fd in ((label, 0.5), ("vae", 0.2)):
        by_seed = [
            {"fd": metric(fd + s / 100, floor=0.01), "recall": metric(0.5)} for s in (0, 1, 2)
        ]
        write_seeds(tmp_path / "runs", name, by_seed, samples=digits_like(0))
    write_run(tmp_path / "runs" / "noise-s0", "noise", 0, {"fd": metric(9.0)}, control=True)
    return tmp_path


def test_latex_has_the_scorecard_with_the_best_in_bold(tmp_path: Path) -> None:
    place = write_report(_three(tmp_path), tmp_path / "table.tex", title="50 % of a_b & {c}")
    text = place.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({row.count(" & ") for row in rows}) == 1
    assert len(rows) == 1 + 2 + 1 + 1  # head, models, real data, the control
    assert re.search(r"vae & \\textbf\{0\.210 \$\\pm\$ 0\.025\}", text)
    assert r"\caption{50 \% of a\_b \& \{c\}." in text
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{table}"):
        assert part in text


def test_latex_runs_no_command_of_a_run(tmp_path: Path) -> None:
    evil = r"\input{/etc/passwd}$\write18{ls}$ 名前"
    place = write_report(_three(tmp_path), tmp_path / "table.tex", title=evil)
    caption = next(line for line in place.read_text().splitlines() if "caption" in line)
    assert r"\textbackslash{}input\{/etc/passwd\}\$\textbackslash{}write18\{ls\}\$ ??" in caption


# -- PDF ------------------------------------------------------------------------------------


def test_pdf_is_whole_and_always_the_same(tmp_path: Path) -> None:
    root = _three(tmp_path)
    first = write_report(root, tmp_path / "one.pdf", title=HOSTILE).read_bytes()
    assert first == write_report(root, tmp_path / "two.pdf", title=HOSTILE).read_bytes()
    assert first.startswith(b"%PDF-") and first.rstrip().endswith(b"%%EOF")
    assert 2 <= len(re.findall(rb"/Type /Page\b", first)) <= 12
    assert len(re.findall(rb"/Alt ", first)) >= 2, "pictures have alternative texts"
    assert b"/JavaScript" not in first and b"/Launch" not in first and b"/URI" not in first
    assert len(first) < 4_000_000


# -- the folder -----------------------------------------------------------------------------


def test_a_folder_gets_every_form_and_every_figure(tmp_path: Path) -> None:
    page = write_report(_three(tmp_path), tmp_path / "out")
    names = {path.name for path in (page.parent / "figures").iterdir()}
    drawn = {name[:-4] for name in names if name.endswith(".svg")}
    assert "fd-samples_per_second" not in drawn and "samples-0-vae" not in drawn
    assert all(f"{name}.png" in names for name in drawn)
    assert {name for name in names if name.startswith("samples-")} == {
        "samples-0-gan.png",
        "samples-1-vae.png",
    }
    for name in names:
        if name.endswith(".png"):
            with Image.open(page.parent / "figures" / name) as opened:
                opened.verify()


def test_a_file_takes_the_form_of_its_suffix(tmp_path: Path) -> None:
    root = _three(tmp_path)
    begins = {
        "html": "<!DOCTYPE html>",
        "md": "# gan and vae",
        "csv": "model,seed",
        "json": "{",
        "tex": "% needs",
    }
    for suffix, start in begins.items():
        assert write_report(root, tmp_path / f"r.{suffix}").read_text().startswith(start)
