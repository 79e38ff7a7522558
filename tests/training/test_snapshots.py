"""Weights from on the way, and the pictures and sweeps that are made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import Tiny, tiny_data

import genzoo
from genzoo import illustration
from genzoo.errors import InputError
from genzoo.evaluation.sweep import read_sweeps, sweep, sweep_all
from genzoo.model import GenerativeModel
from genzoo.runs import Run
from genzoo.samples import read_samples
from genzoo.training import load_model
from genzoo.training import snapshots as recorded
from genzoo.training.snapshots import MARKS, load_snapshot, snapshots

DATA = tiny_data()


def train(path: Path, model: Any = Tiny, **options: Any) -> Run:
    options = {"budget": "64steps", "samples": 20, "evaluate": False, **options}
    return genzoo.train(model, options.pop("data", DATA), out=path, device="cpu", **options)


def weights(model: GenerativeModel) -> torch.Tensor:
    return torch.cat([t.flatten().float() for t in model.state_dict().values()])


# -- snapshots ------------------------------------------------------------------------------


def test_snapshots_are_taken_at_fixed_shares_of_the_budget(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    found = snapshots(run)
    assert [s.step for s in found] == [round(64 * mark) for mark in MARKS]
    assert [s.images for s in found] == [16 * s.step for s in found]
    assert [s.progress for s in found] == list(MARKS)
    assert all(
        a.seconds < b.seconds < run.status["seconds"]
        for a, b in zip(found, found[1:], strict=False)
    )


def test_a_snapshot_is_what_a_shorter_look_would_have_seen(tmp_path: Path) -> None:
    """The first half of a training, interrupted there, has the very weights of the snapshot."""
    run = train(tmp_path / "run")
    half = next(s for s in snapshots(run) if s.progress == 1 / 2)
    model = load_model(run, model=Tiny)
    final = weights(model)
    load_snapshot(model, run, half)
    assert not torch.equal(weights(model), final)
    digest = {s.step: s.sha256 for s in snapshots(train(tmp_path / "again"))}
    assert digest[half.step] == half.sha256


def test_snapshots_of_large_models_keep_the_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(t.numel() * t.element_size() for t in Tiny(DATA.spec).state_dict().values())
    monkeypatch.setattr(recorded, "MAX_BYTES", 2 * size)
    assert [s.progress for s in snapshots(train(tmp_path / "two"))] == [1 / 2, 3 / 4]
    monkeypatch.setattr(recorded, "MAX_BYTES", size - 1)
    run = train(tmp_path / "none")
    assert snapshots(run) == [] and run.finished


def test_a_new_training_in_the_same_folder_forgets_the_old_snapshots(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    names = {s.file for s in snapshots(run)}
    (run.path / "snapshots" / "000000007.safetensors").write_bytes(b"left over")
    run.update_status(state="training", model_sha256=None)
    again = train(run.path, resume=True)
    assert {p.name for p in (run.path / "snapshots").glob("*.safetensors")} == names
    assert again.finished


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"snapshots": [{"file": "x"}]}, "is damaged"),
        ({"snapshots": 3}, "is damaged"),
        ({}, "is damaged"),
    ],
)
def test_a_damaged_index_is_one_line(tmp_path: Path, content: object, says: str) -> None:
    run = train(tmp_path / "run")
    index = run.path / "snapshots" / "index.json"
    index.write_text(json.dumps({"schema": 1, **content}))  # type: ignore[dict-item]
    with pytest.raises(InputError, match=says):
        snapshots(run)


def test_names_that_lead_elsewhere_and_changed_files_are_refused(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    index = run.path / "snapshots" / "index.json"
    raw = json.loads(index.read_text())
    first = snapshots(run)[0]
    (run.path / "snapshots" / first.file).write_bytes(b"something else")
    with pytest.raises(InputError):
        load_snapshot(load_model(run, model=Tiny), run, first)
    raw["snapshots"][0]["file"] = "../model.safetensors"
    index.write_text(json.dumps(raw))
    with pytest.raises(InputError, match="leads elsewhere"):
        snapshots(run)


# -- pictures -------------------------------------------------------------------------------


def told(run: Run) -> dict[str, Any]:
    found = json.loads((run.path / "pictures" / "index.json").read_text())["pictures"]
    assert isinstance(found, dict)
    return found


def test_the_training_is_shown_with_the_same_noise_and_labels(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    entry = told(run)["training"]
    assert (entry["rows"], entry["columns"]) == (7, 20)
    assert [t["progress"] for t in entry["told"]] == [*MARKS, 1.0]
    shown = read_samples(run.path / "pictures" / "training.npz")
    assert shown.images is not None
    rows = shown.images.reshape(7, 20, 4, 4, 1)
    model = load_model(run, model=Tiny)
    cond = {"label": torch.arange(20) % 2}
    info = run.samples_info()
    assert info is not None
    expected = model.sample(20, cond=cond, seed=info["seed"])
    assert torch.equal(
        (expected.movedim(1, -1).float() * 255 / 4).round().byte(), torch.from_numpy(rows[-1])
    ), "the last row are the final weights"


def test_a_diffusion_shows_its_path_and_a_flow_its_codes(tmp_path: Path) -> None:
    how: dict[str, Any] = {"data": "digits", "budget": "2steps", "preset": "tiny"}
    run = train(tmp_path / "d", "diffusion", settings={"width": 16, "depth": 1}, **how)
    assert {"trajectory"} <= set(told(run)) <= {"trajectory", "training"}
    run = train(tmp_path / "f", "realnvp", settings={"width": 16}, **how)
    entry = told(run)
    assert {"interpolation", "reconstruction"} <= set(entry)
    pairs = read_samples(run.path / "pictures" / "reconstruction.npz").images
    assert pairs is not None and entry["reconstruction"]["columns"] == 2
    assert (pairs[0::2] == pairs[1::2]).mean() > 0.99, "a flow gives back what it got"


def test_a_picture_that_fails_costs_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of my own")

    monkeypatch.setattr(illustration, "_training", broken)
    run = train(tmp_path / "run")
    assert run.finished and told(run) == {}
    assert (
        "picture 'training' left out: ZeroDivisionError: of my own"
        in (run.path / "log.txt").read_text()
    )


# -- sweeps ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    how: dict[str, Any] = {"data": "ring", "preset": "tiny", "settings": {"width": 16}}
    return train(tmp_path_factory.mktemp("sweep") / "run", "flow-matching", **how)


def test_a_sweep_over_steps_changes_nothing_else(swept: Run) -> None:
    found = sweep(swept, "steps", values=[1, 4], n=60)
    assert [point["value"] for point in found["points"]] == [1, 4]
    assert [point["nfe"] for point in found["points"]] == [1, 4]
    again = sweep(swept, "steps", values=[4], n=60)
    same = found["points"][1]["metrics"], again["points"][0]["metrics"]
    assert same[0]["sliced_wasserstein"] == same[1]["sliced_wasserstein"]
    assert "samples_per_second" not in same[0], "costs are not a matter of the knob"
    assert read_sweeps(swept)["steps"]["points"] == again["points"], "the later one stays"


def test_a_sweep_over_the_training_ends_with_the_final_weights(swept: Run) -> None:
    found = sweep(swept, "training", n=60)
    assert [p["value"]["progress"] for p in found["points"]] == [*MARKS, 1.0]
    values = [p["metrics"]["sliced_wasserstein"]["value"] for p in found["points"]]
    assert len(set(values)) == len(values)
    (kept,) = sweep_all([swept.path], "training", n=60).values()
    assert kept["points"][-1]["metrics"] == found["points"][-1]["metrics"]
    assert set(read_sweeps(swept)) >= {"training"}


@pytest.mark.parametrize(
    ("over", "how", "says"),
    [
        ("step", {}, "did you mean 'steps'"),
        ("guidance", {"values": [2.0]}, "samples without guidance"),
        ("steps", {"n": 0}, "at least 1"),
        ("training", {"values": [0.5]}, "--values"),
    ],
)
def test_sweeps_that_cannot_be(swept: Run, over: str, how: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        sweep(swept, over, **{"n": 20, **how})
