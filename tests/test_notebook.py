"""Results in a notebook: live progress, HTML without scripts, tables for pandas."""

from __future__ import annotations

import html.parser
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import Tiny, tiny_data

import genzoo
from genzoo import notebook
from genzoo.errors import InputError
from genzoo.notebook import NotebookProgress, listener
from genzoo.progress import Silent
from genzoo.samples import SampleSet

EVIL = "<script>alert('x')</script>"
DATA = tiny_data()


class Tags(html.parser.HTMLParser):
    """Elements of a fragment, which must nest, run nothing and load nothing."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []
        self.words: list[str] = []
        self.feed(fragment)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert (value or "").startswith("data:image/")
            if tag == "img" and name == "alt":
                assert value
        if tag != "img" and tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# -- what shows itself ----------------------------------------------------------------------


def test_samples_show_themselves_as_a_grid_or_a_cloud() -> None:
    images = SampleSet(images=np.zeros((50, 8, 8, 1), np.uint8), labels=np.arange(50) % 3)
    shown = Tags(images._repr_html_())
    assert shown.text == "50 images of 8 × 8 pixels, gray, 3 kinds of labels"
    assert shown.found.count("img") == 1
    points = SampleSet(points=np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32))
    assert Tags(points._repr_html_()).text == "30 points in 2 dimensions"
    many = SampleSet(points=np.zeros((30, 5), np.float32))
    assert "img" not in Tags(many._repr_html_()).found


def test_samples_as_a_frame() -> None:
    points = SampleSet(points=np.array([[1, 2], [3, 4]], np.float32), labels=np.array([7, 8]))
    frame = points.frame()
    assert list(frame.columns) == ["x0", "x1", "label"]
    assert frame.to_numpy().tolist() == [[1, 2, 7], [3, 4, 8]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> genzoo.Comparison:
    out = tmp_path_factory.mktemp("notebook") / "c"
    how: dict[str, Any] = {"budget": "4steps", "seeds": 2, "samples": 40, "controls": ("noise",)}
    return genzoo.compare((Tiny,), DATA, out=out, device="cpu", **how)


def test_a_run_shows_its_samples_scores_and_losses(compared: genzoo.Comparison) -> None:
    run = genzoo.open_run(compared.runs[0])
    shown = Tags(run._repr_html_())
    assert "tiny on tiny: finished, 4 steps" in shown.text.lower()
    assert "40 images of 4 × 4 pixels" in shown.text and "1-NN" in shown.text
    frame = run.frame()
    assert frame["step"].tolist() == [1, 2, 3, 4] and "loss/main/restore" in frame.columns


def test_a_comparison_shows_its_scorecard(compared: genzoo.Comparison) -> None:
    shown = Tags(compared._repr_html_())
    assert "noise" in shown.text and "±" in shown.text and "1-NN" in shown.text
    assert str(compared.report) in shown.text
    frame = compared.frame()
    assert set(frame["seed"]) == {0, 1} and {"value", "low", "floor"} <= set(frame.columns)
    summary = compared.summary()[0]["metrics"]
    name = next(iter(summary))
    row = frame[(frame.model == frame.model[0]) & (frame.metric == name)]
    assert row.value.mean() == pytest.approx(summary[name]["mean"])


def test_an_evaluation_shows_its_scores_and_escapes_names(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 5, (40, 4, 4, 1)) * 63
    (tmp_path / EVIL.replace("/", "_")).mkdir()
    path = tmp_path / EVIL.replace("/", "_") / "<b>.npz"
    SampleSet(images=images.astype(np.uint8)).write_npz(path)
    found = genzoo.evaluate(path, DATA, device="cpu")
    fragment = found._repr_html_()
    assert "<b>.npz" not in fragment.replace("<b>&lt;b&gt;", "") and "&lt;b&gt;.npz" in fragment
    shown = Tags(fragment)
    assert "95 % interval" in shown.text and "not evaluated" in shown.text
    frame = found.frame()
    assert (
        frame.set_index("metric").value["two_sample_1nn"] == found.metrics["two_sample_1nn"].value
    )


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        SampleSet(points=np.zeros((3, 2), np.float32)).frame()


def test_neither_pandas_nor_ipython_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, genzoo, genzoo.pipeline, genzoo_reports.notebook;"
        "sys.exit(any(name in sys.modules for name in ('pandas', 'IPython')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- progress -------------------------------------------------------------------------------


class Screen:
    """IPython as far as it is used: remembers what is under the cell."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.displays = 0

    def install(self, monkeypatch: pytest.MonkeyPatch, *, kernel: bool) -> None:
        shell = types.SimpleNamespace(**({"kernel": 1} if kernel else {}))
        top, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        top.get_ipython = lambda: shell  # type: ignore[attr-defined]
        display.HTML = str  # type: ignore[attr-defined]
        display.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", top)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, content: str, display_id: bool) -> Any:
        self.displays += 1
        self.shown.append(content)
        return types.SimpleNamespace(update=self.shown.append)


def test_who_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    mine = Silent()
    assert listener(mine) is mine and isinstance(listener(None), Silent)
    Screen().install(monkeypatch, kernel=False)  # the terminal's IPython shows no HTML
    assert isinstance(listener(None), Silent)
    Screen().install(monkeypatch, kernel=True)
    assert isinstance(listener(None), NotebookProgress)


def test_progress_moves_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    screen.install(monkeypatch, kernel=True)
    monkeypatch.setattr(notebook, "REFRESH_SECONDS", 0.0)
    progress = NotebookProgress()
    progress.update("training", 0.25, f"loss {EVIL}")
    progress.update("sampling", 0.5)
    progress.note(f"careful {EVIL}")
    shown = Tags(screen.shown[-1])
    assert shown.text == f"careful {EVIL} training 25% loss {EVIL} sampling 50%"
    progress.update("training", 1.0)
    assert "training" not in screen.shown[-1] and "careful" in screen.shown[-1]
    assert screen.displays == 1, "one display that is updated"


def test_training_in_a_notebook_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    screen.install(monkeypatch, kernel=True)
    monkeypatch.setattr(notebook, "REFRESH_SECONDS", 0.0)
    genzoo.train(Tiny, DATA, out=tmp_path / "run", budget="4steps", samples=20, evaluate=False)
    assert any("training" in Tags(content).text for content in screen.shown)


@pytest.mark.slow
def test_a_real_notebook_shows_progress_and_result(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    cells = [
        "import genzoo",
        "run = genzoo.train('gaussian', 'ring', budget='2steps', samples=40, out='run')\nrun",
        "run.samples()",
        "run.frame()",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client.NotebookClient(
        book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [
        "".join(str(o.get("data", {}).get("text/html", "")) for o in cell.outputs)
        for cell in book.cells
    ]
    assert 'role="status"' in outputs[1] and "gaussian on ring: finished" in outputs[1]
    assert "40 points in 2 dimensions" in outputs[2]
