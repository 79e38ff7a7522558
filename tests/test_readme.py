"""What the README promises about adding a model is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import genzoo

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    """The model in the README."""
    found = [
        b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "class" in b
    ]
    assert len(found) == 1
    return found[0]


def test_the_example_has_at_most_25_lines() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert 10 < len(lines) <= 25


def test_the_example_keeps_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(example())
    results = genzoo.check_model(f"{path}:FlowMatching", steps=100)
    assert sum(r.status == "passed" for r in results) >= 18


def test_the_example_trains_and_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(example())
    run = genzoo.train(
        f"{path}:FlowMatching", budget="20steps", samples=100, out=tmp_path / "run", seed=1
    )
    assert run.finished
    scores = run.scores()
    assert scores is not None and 0.5 < scores["metrics"]["two_sample_1nn"]["value"] <= 1


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (code,) = [b for b in blocks if "genzoo.train" in b]
    monkeypatch.chdir(tmp_path)
    exec(code.replace("60s", "5steps"), {})
    assert "fd" in capsys.readouterr().out
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_every_link_inside_the_repository_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
