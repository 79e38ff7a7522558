"""The page and the files beside it: complete, escaped, and closed to the outside."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import FEATURES, digits_like, losses, metric, scores, write_run, write_seeds
from PIL import Image

from genzoo.errors import InputError
from genzoo.samples import SampleSet
from genzoo_reports.figures import PALETTE
from genzoo_reports.report import FORMS, write_report
from genzoo_reports.tables import summary_rows

VOID = {"meta", "img", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """Elements of a page, and whether they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


FULL: dict[str, Any] = {
    "fd": metric(0.2, floor=0.01, features=FEATURES),
    "two_sample_1nn": metric(0.6, floor=0.5),
    "recall": metric(0.7, floor=0.9, features=FEATURES),
    "coverage": metric(0.8, floor=0.95, features=FEATURES),
    "train_nn_share": metric(0.51),
    "duplicates": metric(0, n=1000),
    "samples_per_second": metric(1000.0),
}


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """Two models with two seeds, and a control."""
    root = tmp_path / "comparison"
    history = losses(("critic/loss", "generator/loss"))
    shown = {"samples": digits_like(0), "history": history}
    write_seeds(
        root / "runs",
        "gan",
        [FULL, {**FULL, "fd": metric(0.25, floor=0.01, features=FEATURES)}],
        **shown,
    )
    likelihood = {"bits_per_dim": metric(2.5, likelihood="bound")}
    better = {**FULL, **likelihood, "fd": metric(0.1, floor=0.01, features=FEATURES)}
    write_seeds(root / "runs", "flow", [better, better], **shown)
    write_run(root / "runs" / "noise-s0", "noise", 0, FULL, control=True, samples=digits_like(1))
    plan = {"models": ["gan", "flow"], "seeds": 2, "command": ["genzoo", "compare", "a b"]}
    (root / "compare.json").write_text(json.dumps(plan))
    return root


def page_of(*runs: Path) -> tuple[str, Page]:
    out = write_report(runs, runs[0].parent / "out" / "page.html")
    html = out.read_text(encoding="utf-8")
    return html, Page(html)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_page_is_whole_and_holds_every_part(comparison: Path) -> None:
    html, page = page_of(comparison)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids)), "ids must be unique, those inside figures too"
    for anchor in ("verdict", "scorecard", "look", "cost", "curves", "method"):
        assert anchor in ids
    targets = [a["href"] for a in page.all("a")]
    assert all(target and target.startswith("#") and target[1:] in ids for target in targets)
    assert "genzoo compare 'a b'" in page.text
    assert "real vs real" in page.text and "noise" in page.text
    assert len(html) < 8_000_000


def test_figures_speak_and_follow_the_page(comparison: Path) -> None:
    html, page = page_of(comparison)
    figures = [a for a in page.all("svg")]
    assert len(figures) >= 5  # quality twice; gan critic, gan generator; the flow's two
    for figure in figures:
        assert figure["role"] == "img"
        assert re.search(r"\d", figure["aria-label"] or "")
    assert any("flow: Fréchet distance 0.100 at 1,000" in (f["aria-label"] or "") for f in figures)
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert not any(shade in drawn for shade in PALETTE.values()), "colours must be variables"
    for image in page.all("img"):
        assert image["alt"] and (image["src"] or "").startswith("data:image/png;base64,")


def test_the_policy_admits_the_one_script_and_nothing_else(comparison: Path) -> None:
    html, page = page_of(comparison)
    policy = next(
        a["content"]
        for a in page.all("meta")
        if a.get("http-equiv") == "Content-Security-Policy" and a["content"]
    )
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == len(page.all("script")) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    # Before any style or script, or it would not hold for them.
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_nothing_points_outside(comparison: Path) -> None:
    html, page = page_of(comparison)
    assert "http://" not in html and "https://" not in html and "//cdn" not in html
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:"))
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    values = {
        "fd": metric(0.1, convention=evil, features={**FEATURES, "name": evil}),
        "recall": metric(None, reason=evil),
        evil: metric(1.0),
    }
    one = write_run(
        tmp_path / "a",
        evil,
        0,
        values,
        samples=digits_like(0),
        history=losses((f"{evil}/{evil}",)),
        settings={evil: evil},
        config={"command": [evil], "device": evil, "machine": {evil: evil}},
        data=evil,
    )
    two = write_run(tmp_path / "b", "vae", 0, state="failed", reason=evil, data=evil)
    out = write_report([one, two], tmp_path / "out", title=evil)
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.all("script")) == 1
    assert all((a["src"] or "").startswith("data:") for a in page.all("img"))
    assert not any(name.startswith("on") for _, a in page.tags for name in a)
    assert "alert(1)" in page.text
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown and "<img" not in markdown


def test_wrong_numbers_and_types_do_not_break_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "gan", 0, {"recall": 0.5})
    raw: Any = scores({"recall": 0.5})
    raw["metrics"] |= {
        "fd": {"value": float("nan")},
        "kid": {"value": "0.1"},
        "coverage": {"value": 10**400},
        "density": [1, 2],
        "precision": {"value": True, "n": "many", "features": 7, "convention": {"a": 1}},
        "cas": None,
        "two_sample_1nn": {"value": 0.6, "low": float("inf"), "floor": "x", "better": 3},
        "bits_per_dim": {"value": float("-inf"), "reason": 12, "likelihood": []},
    }
    (folder / "scores.json").write_text(json.dumps(raw))
    out = write_report([folder], tmp_path / "out")
    assert "0.600" in Page(out.read_text(encoding="utf-8")).text
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    found = written["results"][0]["metrics"]
    assert found["fd"]["value"] is None
    assert found["fd"]["reason"] == "the recorded value is not a finite number"
    assert found["two_sample_1nn"]["value"] == 0.6
    assert found["two_sample_1nn"]["low"] is None


@pytest.mark.parametrize("content", ["[1]", "{", '{"metrics": 3}', "[" * 100_000, '"' + "x" * 99])
def test_a_damaged_scores_file_costs_only_its_own_scores(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path / "a", "gan", 0, {"fd": 0.1})
    (folder / "scores.json").write_text(content)
    good = write_run(tmp_path / "b", "vae", 0, {"fd": 0.3})
    out = write_report([folder, good], tmp_path / "out.html")
    assert "0.300" in out.read_text(encoding="utf-8")


def test_links_out_of_a_run_folder_are_not_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "gan", 0, {"fd": 0.1})
    digits_like(0).write_npz(tmp_path / "secret.npz")
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "secret.json").write_text(json.dumps(scores({"fd": 0.777})))
    for name in ("samples.npz", "nearest.png", "scores.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / f"secret{Path(name).suffix}")
    html, page = page_of(folder)
    assert page.all("img") == []
    assert "0.777" not in page.text
    assert "scores.json leads out of the run folder" in page.text


def test_missing_metrics_read_not_evaluated(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", "gan", 0, {"fd": 0.1})
    two = write_run(tmp_path / "b", "vae", 0, None)
    _, page = page_of(one, two)
    row = page.text.partition("Scorecard")[2]
    assert "not evaluated" in row
    assert summary_rows([one, two])["rows"][1][:2] == ["vae", "–"]


def test_rows_for_a_terminal(comparison: Path) -> None:
    rows = summary_rows([comparison])
    at = rows["metrics"].index("fd") + 1
    assert rows["header"][0] == "model" and rows["header"][at] == "Fréchet distance ↓"
    assert [row[0] for row in rows["rows"]] == ["gan", "flow"]
    # Two seeds, 0.20 and 0.25: t(.975, 1) = 12.706 times 0.025.
    assert rows["rows"][0][at] == "0.225 ± 0.318"
    assert rows["floor"][at] == "0.010"
    assert [row[0] for row in rows["controls"]] == ["noise"]
    assert rows["failed"] == []


def test_the_files_beside_the_page_agree(comparison: Path, tmp_path: Path) -> None:
    out = write_report([comparison], tmp_path / "out").parent
    assert {path.name for path in out.iterdir()} == {*FORMS, "figures"}
    rows = read_csv(out / "scores.csv")
    fd = [row for row in rows if row["metric"] == "fd" and row["model"] == "gan"]
    assert [(row["seed"], row["value"]) for row in fd] == [("0", "0.2"), ("1", "0.25")]
    absent = next(r for r in rows if r["metric"] == "bits_per_dim" and r["model"] == "gan")
    assert (absent["value"], absent["reason"]) == ("", "not evaluated")
    raw = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert (raw["schema"], raw["kind"], len(raw["results"])) == (1, "report", 5)
    summary = {entry["model"]: entry for entry in raw["summary"]}
    assert summary["gan"]["metrics"]["fd"]["mean"] == pytest.approx(0.225)
    assert summary["noise"]["control"] is True
    assert [entry["topic"] for entry in raw["verdict"]][:2] == ["Sample quality", "Diversity"]
    markdown = (out / "report.md").read_text(encoding="utf-8")
    header = next(line for line in markdown.splitlines() if line.startswith("| model"))
    blocks = markdown.split("## All metrics")
    for block in blocks:
        table = [line for line in block.splitlines() if line.startswith("|")]
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(table) > 2 and len(cells) == 1
    assert "Fréchet distance ↓" in header and len(blocks) == 2


def test_a_spreadsheet_finds_no_formula(tmp_path: Path) -> None:
    run = write_run(tmp_path / "=HYPERLINK()", "vae", 0, {"fd": 0.1})
    write_report([run], tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "scores.csv")
    assert rows[0]["run"] == "'=HYPERLINK()"


def test_grids_show_the_same_classes_in_the_same_places(tmp_path: Path) -> None:
    """Brightness tells the label in these samples; every row of every grid has its own."""
    from genzoo_reports.collect import collect
    from genzoo_reports.look import gallery
    from genzoo_reports.tables import build_table

    runs = [
        write_run(tmp_path / name, name, 0, {"fd": 0.1}, samples=digits_like(seed))
        for seed, name in enumerate(("gan", "vae"))
    ]
    pictures = gallery(build_table(collect(runs)))
    for picture in pictures.grids:
        data = base64.b64decode(picture.uri.partition(",")[2])
        (tmp_path / "grid.png").write_bytes(data)
        grid = np.asarray(Image.open(tmp_path / "grid.png"))
        assert grid.shape == (10 * 42 - 2, 8 * 42 - 2, 2)
        means = [grid[42 * k : 42 * k + 40, :40, 0].mean() for k in range(10)]
        assert [round((mean - 19.5) / 20) for mean in means] == list(range(10))
        assert grid[40:42, :, 1].max() == 0, "gaps are see-through"
    assert pictures.order.startswith("One class a row")


def test_large_images_stay_within_the_page(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, 96, 96, 3)).astype(np.uint8)
    runs = [
        write_run(tmp_path / str(k), "gan", k, {"fd": 0.1}, samples=SampleSet(images=images),
                  settings={"width": k})
        for k in range(4)
    ]  # fmt: skip
    html, page = page_of(*runs)
    assert len(page.all("img")) == 8
    assert len(html) < 8_000_000


def test_points_become_scatter_plots_in_one_frame(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    near = random.normal(size=(300, 2)).astype(np.float32)
    far = near * 100
    runs = [
        write_run(tmp_path / name, name, 0, {"nll_nats": metric(2.8, likelihood="exact")},
                  samples=SampleSet(points=points), data="ring")
        for name, points in (("gan", near), ("vae", near + 0.1), ("flow", far))
    ]  # fmt: skip
    _, page = page_of(*runs)
    labels = [a["aria-label"] or "" for a in page.all("svg")]
    clouds = [label for label in labels if label.startswith("300 points drawn by")]
    assert len(clouds) == 3
    assert int(re.findall(r"; (\d+) outside", clouds[2])[0]) > 200
    assert int(re.findall(r"; (\d+) outside", clouds[0])[0]) < 10


def test_runs_on_other_data_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", "gan", 0, {"fd": 0.1})
    two = write_run(tmp_path / "b", "vae", 0, {"fd": 0.1}, fingerprint="e" * 64, data="mnist")
    with pytest.raises(InputError, match="a is on 'digits', b on 'mnist'"):
        write_report([one, two], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_wrong_places_are_refused_in_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "gan", 0, {"fd": 0.1})
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for runs, out, words in (
        ([tmp_path / "none"], "o.html", "none' does not exist"),
        ([tmp_path / "empty"], "o.html", "neither a run folder"),
        ([], "o.html", "no run to report"),
        ([run], "file", "is a file; give a directory"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            write_report(runs, tmp_path / out)
        assert "\n" not in str(caught.value)


def test_settings_tell_two_runs_of_a_model_apart(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / str(w), "vae", 0, {"fd": w / 100}, settings={"width": w, "depth": 2})
        for w in (64, 128)
    ]
    rows = summary_rows(runs)["rows"]
    assert [row[0] for row in rows] == ["vae (width 64)", "vae (width 128)"]


def test_foreign_evaluations_join_the_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "vae", 0, {"fd": 0.3})
    foreign = {"results": [{**scores({"fd": 0.1}), "model": "theirs.npz"}]}
    (tmp_path / "theirs.json").write_text(json.dumps(foreign))
    rows = summary_rows([run, tmp_path / "theirs.json"])
    assert [row[:2] for row in rows["rows"]] == [["vae", "0.300"], ["theirs.npz", "0.100"]]


def test_reports_need_no_torch() -> None:
    code = "import sys, genzoo_reports.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
