"""Pages that are whole in one file: no scripts, nothing from elsewhere, every text escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from genzoo.files import write_bytes


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page.

    Args:
        path: of the HTML file.
        template: a name in this folder.
        values: of the template; whatever is in them is shown as text.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_bytes(path, environment.get_template(template).render(values).encode())
