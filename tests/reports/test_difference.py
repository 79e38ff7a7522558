"""What changed between two comparisons, against scores that were made up for the purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_runs import metric, write_run, write_seeds

from genzoo.errors import InputError
from genzoo_reports.difference import as_markdown, difference, rows, sentences
from genzoo_reports.report import write_difference


def comparison(root: Path, fds: dict[str, list[float]], **fields: object) -> Path:
    for model, values in fds.items():
        write_seeds(root / "runs", model, [{"fd": metric(v)} for v in values], **fields)  # type: ignore[arg-type]
    (root / "compare.json").write_text(json.dumps({"models": list(fds), "seeds": 3}))
    return root


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return comparison(
        tmp_path / "old",
        {"gan": [0.50, 0.52, 0.51], "vae": [0.30, 0.31, 0.32], "flow": [0.4, 0.6, 0.5]},
    )


def test_better_worse_and_no_difference(old: Path, tmp_path: Path) -> None:
    later = {"gan": [0.30, 0.32, 0.31], "vae": [0.40, 0.41, 0.42], "flow": [0.5, 0.4, 0.61]}
    found = difference(old, comparison(tmp_path / "new", later))
    outcomes = {change.model: change.outcome for change in found.changes if change.metric == "fd"}
    assert outcomes == {"gan": "better", "vae": "worse", "flow": "no difference shown"}
    gan = next(change for change in found.changes if change.model == "gan")
    assert gan.gap == pytest.approx(-0.2) and gan.low == pytest.approx(-0.2)
    said = sentences(found)
    assert said[0].startswith("gan has become better in Fréchet distance: 0.510 → 0.310 (-0.200")
    assert said[1].startswith("vae has become worse")
    assert not any("flow" in sentence for sentence in said)


def test_the_number_of_tests_is_paid_for(old: Path, tmp_path: Path) -> None:
    """One p-value of .03 is a finding alone and none among three."""
    shift = [0.08, 0.10, 0.145]
    one = {"gan": [0.50 + shift[0], 0.52 + shift[1], 0.51 + shift[2]]}
    alone = difference(old, comparison(tmp_path / "alone", one))
    change = next(change for change in alone.changes if change.metric == "fd")
    assert change.p_value is not None and 0.0167 < change.p_value < 0.05
    assert change.outcome == "worse"
    three = {**one, "vae": [0.32, 0.30, 0.31], "flow": [0.5, 0.4, 0.61]}
    among = difference(old, comparison(tmp_path / "among", three))
    outcomes = {c.outcome for c in among.changes if c.metric == "fd"}
    assert outcomes == {"no difference shown"}
    assert sentences(among) == ["No difference is shown in any metric of the verdict."]


def test_one_seed_is_not_tested(tmp_path: Path) -> None:
    before = write_run(tmp_path / "a", "gan", 0, {"fd": 0.9})
    after = write_run(tmp_path / "b", "gan", 0, {"fd": 0.1})
    found = difference(before, after)
    assert {change.outcome for change in found.changes} == {"one seed: not tested"}
    assert sentences(found) == [
        "Nothing could be tested: that takes two seeds or more on both sides."
    ]


def test_models_come_and_go_and_circumstances_change(old: Path, tmp_path: Path) -> None:
    new = comparison(tmp_path / "new", {"gan": [0.5, 0.52, 0.51], "diffusion": [0.1, 0.1, 0.1]},
                     budget="60s", settings={"width": 128})  # fmt: skip
    write_run(new / "runs" / "gan-s9", "gan", 9, state="failed", reason="loss is NaN",
              budget="60s", settings={"width": 128})  # fmt: skip
    found = difference(old, new)
    assert (found.added, found.removed) == (("diffusion",), ("vae", "flow"))
    told = {name: (before, after) for name, before, after in found.circumstances}
    assert told["Budget a run"] == ("12 seconds of training", "60 seconds of training")
    assert told["settings of gan"][1].startswith("width=128")
    assert any(why == "loss is NaN" for _, _, why in found.failed)
    assert "Data" not in told


def test_what_cannot_be_compared_is_refused(old: Path, tmp_path: Path) -> None:
    other = comparison(tmp_path / "new", {"gan": [0.5]}, fingerprint="e" * 64, data="mnist")
    with pytest.raises(InputError, match="different data"):
        difference(old, other)
    with pytest.raises(InputError, match="ends in .html, .md or .json"):
        write_difference(old, old, tmp_path / "out.pdf")


def test_the_files_escape_what_they_show(old: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>|*x*"
    new = comparison(tmp_path / "new", {"gan": [0.1, 0.1, 0.1]}, settings={evil: evil})
    for suffix in ("html", "md", "json"):
        found, place = write_difference(old, new, tmp_path / f"out.{suffix}")
        assert place is not None
        content = place.read_text(encoding="utf-8")
        if suffix == "json":
            assert json.loads(content)["kind"] == "difference"
        else:
            assert "<script>alert" not in content and "&lt;script&gt;" in content
    lines = as_markdown(found, old, new).splitlines()
    table = [line for line in lines if line.startswith("| gan")]
    assert len(table) == len(rows(found))


def test_the_command_prints_it(old: Path, genzoo_says) -> None:  # type: ignore[no-untyped-def]
    said = genzoo_says("report", "--diff", old, old)
    assert said.code == 0 and "No difference is shown" in said.out
    said = genzoo_says("report", "--diff", old)
    assert said.code == 2 and "takes two comparisons, OLD and NEW, not 1" in said.err
