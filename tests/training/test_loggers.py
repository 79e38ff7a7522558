"""Trackers beside the history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_train import Listener, content, ctrl_c, train

from genzoo.errors import InputError, Interrupted
from genzoo.runs import Run
from genzoo.training import fit, loggers


def scalars(run: Run) -> dict[str, dict[int, float]]:
    """What TensorBoard would show."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_the_history_and_the_scores(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = train(tmp_path, data="ring", evaluate=True, samples=40, log=("tensorboard",))
    shown, history = scalars(run), run.history()
    wanted = {line["step"]: line["loss"]["main/restore"] for line in history}
    assert shown["loss/main/restore"] == pytest.approx(wanted)
    assert shown["lr"] == pytest.approx({line["step"]: line["lr"] for line in history})
    scores = run.scores()
    assert scores is not None
    values = {k: s["value"] for k, s in scores["metrics"].items() if s.get("value") is not None}
    assert "training_seconds" in values and "parameters" in values
    for name, value in values.items():
        assert shown[f"score/{name}"] == {20: pytest.approx(value)}


def test_a_resumed_run_goes_on_in_its_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    straight = content(train(tmp_path / "straight"))
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", progress=Listener("training", 0.5, ctrl_c), log=("tensorboard",))
    run = train(tmp_path / "run", resume=True, log=("tensorboard",))
    assert content(run) == straight
    wanted = {line["step"]: line["loss"]["main/restore"] for line in run.history()}
    assert scalars(run)["loss/main/restore"] == pytest.approx(wanted)


def test_weights_and_biases_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    listener = Listener()
    train(tmp_path / "run", log=("wandb",), progress=listener)
    assert not [note for note in listener.notes if "failed" in note]
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 1000


class Failing:
    """A tracker whose server is gone."""

    def __init__(self, run: Run) -> None:
        self.lines = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.lines += 1
        if self.lines == 3:
            raise ConnectionError("no route\nto host")

    def summarize(self, values: Mapping[str, float]) -> None:
        raise AssertionError("was left behind")

    def close(self) -> None:
        raise AssertionError("was left behind")


def test_a_tracker_that_fails_costs_a_line_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Any] = {"failing": ("json", Failing)}
    monkeypatch.setattr(loggers, "TRACKERS", known)
    listener = Listener()
    run = train(tmp_path / "run", log=("failing",), progress=listener)
    assert [note for note in listener.notes if "--log failing" in note] == [
        "--log failing failed, going on without: ConnectionError: no route"
    ]
    assert content(run) == content(train(tmp_path / "plain"))


def test_trackers_that_are_not_there_are_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Any] = {"absent": ("no_such_package", Failing)}
    monkeypatch.setattr(loggers, "TRACKERS", known)
    for name, says in (
        ("absent", r"needs a package.*pip install 'genzoo\[absent\]'"),
        ("absend", "unknown logger 'absend'; did you mean 'absent'"),
    ):
        with pytest.raises(InputError, match=says):
            train(tmp_path / "run", log=(name,))
    assert not (tmp_path / "run").exists()
