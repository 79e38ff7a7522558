"""The page that a run folder shows of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import genzoo
from genzoo.evaluation.card import CARD, card
from genzoo.runs import Run, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained for two steps, and scored."""
    path = tmp_path_factory.mktemp("card") / "run"
    return genzoo.train("gaussian-vae", budget="2steps", samples=64, out=path)


def cells(page: str, first: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_introduces_itself(run: Run) -> None:
    """Metadata for hubs, what was asked for, and every score with its interval and floor.

    Fails with: a score left out, floor and interval exchanged, metadata that is no YAML.
    """
    page = (run.path / CARD).read_text()
    assert page == card(open_run(run.path))
    head = json.loads(page.split("---")[1])
    assert head["library_name"] == "genzoo" and head["datasets"] == ["digits"]
    scores = run.scores()
    assert scores is not None
    fd = scores["metrics"]["fd"]
    assert cells(page, "Fréchet distance")[1:] == [
        f"{fd['value']:.4g}",
        f"{fd['low']:.4g} to {fd['high']:.4g}",
        f"{fd['floor']:.4g}",
    ]
    known = [name for name, score in scores["metrics"].items() if score["value"] is not None]
    assert page.partition("## Scores")[2].count("\n| ") == len(known) + 2
    assert "budget" in page and cells(page, "budget")[1].startswith("`2steps`")


def test_what_comes_from_outside_breaks_no_table_and_names_no_folder(
    run: Run, tmp_path: Path
) -> None:
    """Also a run that was not evaluated. Fails with: texts as they are, whole paths."""
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"]["name"] = "folder:/home/somebody/a|b`c"
    config["model"] = "/home/somebody/mine.py:Mine"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "scores.json").unlink()
    page = card(open_run(copy))
    assert "somebody" not in page and "`a b c`" in page and "`mine.py:Mine`" in page
    assert "Not evaluated." in page and "model=YourClass" in page
