"""The notebook form: the same file, written cell by cell, then checked, drawn and packed."""

from __future__ import annotations

import json
import re
from typing import Any

from genzoo.course.assignment import MODEL

_PART = re.compile(r"^# -- (?P<title>.+?) -+$", re.MULTILINE)


def as_notebook(story: str, model: str) -> str:
    """A notebook that writes ``submission/model.py``, a cell a part, and uses it.

    Args:
        story: Markdown of the assignment.
        model: the file; a comment ``# -- title ----`` begins a part.
    """
    cells = [_markdown(story)]
    marks = [0, *(match.start() for match in _PART.finditer(model)), len(model)]
    for index, (start, stop) in enumerate(zip(marks, marks[1:], strict=False)):
        text = model[start:stop]
        if not text.strip():
            continue
        title = _PART.match(text)
        if title:
            cells.append(_markdown(f"## {title['title']}"))
        # Appended as they stand: the blank lines between parts belong to the file.
        append = "-a " if index else ""
        cells.append(_code(f"%%writefile {append}{MODEL}\n{text}"))
    cells.append(_markdown("## Check, draw, pack\n\nRun the cells above again after a change."))
    cells += [
        _code("import genzoo.course\n\ngenzoo.course.check()"),
        _code("genzoo.course.figures()"),
        _code("genzoo.course.pack()"),
    ]
    book = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(text)}


def _code(text: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": _lines(text),
    }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
