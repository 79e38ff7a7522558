"""The report's other forms: figures as files, PDF, LaTeX, Markdown."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from importlib.resources import files

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from genzoo_reports.figures import PALETTE, color, draw

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
