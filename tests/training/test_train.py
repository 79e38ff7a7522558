"""A run from its beginning to its end, stopped and resumed everywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import Fitted, Tiny, tiny_data

import genzoo
from genzoo.data.dataset import Dataset
from genzoo.errors import Diverged, InputError, Interrupted, MachineError
from genzoo.runs import Run, lock, open_run
from genzoo.training import fit

DATA = tiny_data()


def train(path: Path, model: Any = Tiny, data: str | Dataset = DATA, **options: Any) -> Run:
    options = {"budget": "20steps", "samples": 20, "evaluate": False, **options}
    return genzoo.train(model, data, out=path, device="cpu", **options)


class Listener:
    """Records progress, and does something once when a task has come so far."""

    def __init__(
        self, task: str = "", fraction: float = 0.0, act: Callable[[], object] = lambda: None
    ) -> None:
        self.notes: list[str] = []
        self.seen: list[tuple[str, float, str]] = []
        self._task, self._fraction, self._act = task, fraction, act

    def note(self, message: str) -> None:
        self.notes.append(message)

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        self.seen.append((task, fraction, detail))
        if task == self._task and fraction >= self._fraction:
            self._task = "done"
            self._act()


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def content(run: Run) -> dict[str, Any]:
    """All that must not depend on where a run was stopped."""
    history = [{**entry, "seconds": 0} for entry in run.history()]
    names = ["model.safetensors", "samples.npz", "samples.png"]
    folders = ("snapshots/*.safetensors", "pictures/*.npz")
    names += [str(p.relative_to(run.path)) for f in folders for p in sorted(run.path.glob(f))]
    return {"history": history, **{name: (run.path / name).read_bytes() for name in names}}


# -- what a run leaves ----------------------------------------------------------------------


def test_a_run_leaves_everything_that_later_stages_read(tmp_path: Path) -> None:
    listener = Listener()
    before = torch.get_rng_state(), torch.get_num_threads()
    run = train(tmp_path / "run", progress=listener, threads=2, settings={"lr": "0.01"})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    again = open_run(run.path)
    assert (again.config, again.status) == (run.config, run.status)
    assert run.finished and run.status["reason"] is None
    assert run.status["step"] == 20 and run.status["images"] == 320
    assert run.status["progress"] == 1 and run.status["flops"] == 20 * 5 * 2 * 16 * 16 * 8
    assert run.status["parameters"] == sum(p.numel() for p in Tiny(DATA.spec).parameters())
    assert 0 < run.status["seconds"] < 5 and run.status["images_per_second"] > 0
    config = run.config
    assert config["settings"]["lr"] == 0.01 and config["settings"]["batch_size"] == 16
    assert config["conditional"] is True and config["threads"] == 2
    assert config["data"]["class_names"] == ["dark", "bright"]
    assert config["versions"]["torch"] and config["created"] and config["machine"]["cores"]
    info = run.samples_info()
    assert info is not None and info["n"] == 20 and info["nfe"] == 3 and info["seconds"] > 0
    samples = run.samples()
    assert samples is not None and samples.images is not None and samples.labels is not None
    assert samples.images.shape == (20, 4, 4, 1)
    assert set(samples.labels.tolist()) == {0, 1}
    history = run.history()
    assert [entry["step"] for entry in history] == list(range(1, 21))
    assert history[-1]["progress"] == 1 and set(history[0]["loss"]) == {"main/restore"}
    names = {path.name for path in run.path.iterdir()}
    assert "checkpoint" not in names and "lock" not in names
    training = [entry for entry in listener.seen if entry[0] == "training"]
    assert training[-1][1] == 1 and "images/s" in training[5][2] and "loss" in training[5][2]


def test_evaluation_is_the_last_stage(tmp_path: Path) -> None:
    run = train(tmp_path / "run", data="ring", samples=40, evaluate=True)
    scores = run.scores()
    assert scores is not None and scores["data"] == "ring" and scores["n"] == 40
    assert run.status["evaluation_seconds"] > 0


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    one = content(train(tmp_path / "1"))
    torch.manual_seed(7)
    assert content(train(tmp_path / "2")) == one
    other = content(train(tmp_path / "3", seed=1))
    assert all(other[name] != one[name] for name in one)


def test_fitted_models_take_no_steps(tmp_path: Path) -> None:
    run = train(tmp_path / "run", Fitted)
    assert run.finished and run.status["step"] == 0 and run.status["parameters"] == 0
    assert run.status["progress"] == 1 and run.history() == []
    info = run.samples_info()
    assert info is not None and info["nfe"] == 0


def test_seconds_are_those_of_training(tmp_path: Path) -> None:
    run = train(tmp_path / "run", budget="0.3s")
    assert 0.3 <= run.status["seconds"] < 0.6
    assert len(run.history()) <= 101
    assert run.history()[-1]["progress"] == 1


def test_labels_are_shown_only_if_wanted_and_there(tmp_path: Path) -> None:
    run = train(tmp_path / "blind", conditional=False)
    samples = run.samples()
    assert run.config["conditional"] is False and samples is not None and samples.labels is None
    unlabelled = tiny_data(labelled=False)
    assert train(tmp_path / "none", data=unlabelled).config["conditional"] is False
    with pytest.raises(InputError, match="--conditional: dataset 'tiny' has no labels"):
        train(tmp_path / "wrong", data=unlabelled, conditional=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budget": "abc"}, "budget 'abc'"),
        ({"budget": "-5s"}, "budget '-5s'"),
        ({"seed": -1}, "--seed -1"),
        ({"samples": 0}, "--samples 0"),
        ({"threads": 0}, "--threads 0"),
        ({"settings": {"lrr": 1}}, "unknown setting.*'lrr'; did you mean 'lr'"),
        ({"settings": {"lr": "fast"}}, "--set lr=fast"),
        ({"model": "difusion"}, "did you mean 'diffusion'"),
        ({"model": int}, "neither a name nor"),
        ({"model": "absent.py:Model"}, "no file 'absent.py'"),
        ({"data": "digit"}, "did you mean 'digits'"),
    ],
)
def test_wrong_calls_are_refused_and_leave_nothing(
    tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        train(tmp_path / "run", **wrong)
    assert list(tmp_path.iterdir()) == []


# -- resume ---------------------------------------------------------------------------------


def test_what_resume_does_with_each_kind_of_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    listener = Listener()
    first = train(run, resume=True, progress=listener)
    assert first.finished and any("starting one" in note for note in listener.notes)
    before = content(first)
    with pytest.raises(InputError, match="holds a run; go on with --resume"):
        train(run)
    listener = Listener()
    assert train(run, resume=True, progress=listener).finished
    assert content(open_run(run)) == before
    assert listener.seen == []  # nothing was done
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty"):
        train(tmp_path / "other")
    with pytest.raises(InputError, match="something else"):
        train(tmp_path / "other", resume=True)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "x"
    (tmp_path / "empty").mkdir()
    assert train(tmp_path / "empty").finished


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"budget": "21steps"}, "--budget = 20steps, not 21steps"),
        ({"settings": {"lr": 0.5}}, "--set lr = 0.02, not 0.5"),
        ({"seed": 1}, "--seed = 0, not 1"),
        ({"conditional": False}, "--conditional = True, not False"),
        ({"samples": 21}, "--samples = 20, not 21"),
        ({"model": Fitted}, "--model = .*Tiny, not .*Fitted"),
        ({"data": tiny_data(39)}, "--data"),
    ],
)
def test_a_run_goes_on_only_as_it_began(tmp_path: Path, other: dict[str, Any], says: str) -> None:
    train(tmp_path / "run")
    with pytest.raises(InputError, match=says):
        train(tmp_path / "run", resume=True, **other)


@pytest.mark.parametrize("task", ["training", "sampling"])
def test_ctrl_c_anywhere_and_resume_end_with_the_same_bytes(tmp_path: Path, task: str) -> None:
    straight = content(train(tmp_path / "straight"))
    handler = signal.getsignal(signal.SIGINT)
    listener = Listener(task, 0.4, ctrl_c)
    with pytest.raises(Interrupted, match="go on with --resume"):
        train(tmp_path / "run", progress=listener)
    assert signal.getsignal(signal.SIGINT) is handler
    run = open_run(tmp_path / "run")
    assert run.status["state"] == "interrupted" and run.trained == (task == "sampling")
    if task == "training":
        assert 0.4 <= run.status["progress"] < 0.6 and run.status["step"] < 20
    torch.manual_seed(123)
    run = train(tmp_path / "run", resume=True)
    assert content(run) == straight
    assert not list(run.path.glob("checkpoint*"))


def test_sigterm_stops_like_ctrl_c(tmp_path: Path) -> None:
    listener = Listener("training", 0.2, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(tmp_path / "run", progress=listener)
    assert open_run(tmp_path / "run").status["state"] == "interrupted"


def test_stopped_while_evaluating_only_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import genzoo.evaluation.suite as suite

    real = suite.evaluate
    monkeypatch.setattr(suite, "evaluate", lambda *a, **k: ctrl_c())
    with pytest.raises(Interrupted):
        train(tmp_path / "run", data="ring", evaluate=True)
    before = content(open_run(tmp_path / "run"))
    monkeypatch.setattr(suite, "evaluate", real)
    run = train(tmp_path / "run", data="ring", evaluate=True, resume=True)
    assert run.finished and run.scores() is not None and content(run) == before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
import genzoo
from genzoo.training import fit
from test_train import Listener, train
fit.CHECKPOINT_SECONDS = 0.0
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
train(Path(sys.argv[1]), progress=Listener("training", float(sys.argv[3]), kill))
"""


def test_killed_at_once_and_resumed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    straight = content(train(tmp_path / "straight"))
    places = f"{Path(__file__).parent}:{Path(__file__).parents[1]}:{':'.join(sys.path)}"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "run"), places, "0.6"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "run" / "lock").exists()
    (tmp_path / "run" / ".status.json.x1.json").write_text('{"half')
    assert open_run(tmp_path / "run").status["step"] == 11
    listener = Listener()
    assert content(train(tmp_path / "run", resume=True, progress=listener)) == straight
    assert any("going on at step 11" in note for note in listener.notes)
    assert not (tmp_path / "run" / ".status.json.x1.json").exists()
    assert "going on at step 11" in (tmp_path / "run" / "log.txt").read_text()


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = content(train(tmp_path / "straight"))
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", progress=Listener("training", 0.5, ctrl_c))
    state = tmp_path / "run" / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    listener = Listener()
    assert content(train(tmp_path / "run", resume=True, progress=listener)) == straight
    assert any("passed over" in note for note in listener.notes)


def test_killed_before_the_status_was_written_starts_afresh(tmp_path: Path) -> None:
    straight = content(train(tmp_path / "run"))
    for path in tmp_path.glob("run/*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.json":
            path.unlink()
    assert content(train(tmp_path / "run", resume=True)) == straight


def test_a_run_in_use_is_left_alone(tmp_path: Path) -> None:
    with lock(tmp_path / "run"):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
            train(tmp_path / "run", resume=True)


# -- failure --------------------------------------------------------------------------------


def test_divergence_is_recorded_and_the_last_good_checkpoint_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Diverged, match="phase 'main'.*step 11") as caught:
        train(tmp_path / "run", settings={"explode_at": 10})
    assert caught.value.exit_code == 4
    run = open_run(tmp_path / "run")
    assert run.status["state"] == "failed" and run.status["reason"] == str(caught.value)
    state = json.loads((run.path / "checkpoint" / "state.json").read_text())
    assert state["used"]["step"] == 10
    with pytest.raises(Diverged):
        train(tmp_path / "run", settings={"explode_at": 10}, resume=True)


def test_a_bug_in_a_model_is_recorded_and_not_hidden(tmp_path: Path) -> None:
    class Broken(Tiny):
        def on_step_end(self, state: object) -> None:
            raise ZeroDivisionError("my mistake")

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", Broken)
    status = open_run(tmp_path / "run").status
    assert status["state"] == "failed" and status["reason"] == "ZeroDivisionError: my mistake"


def test_out_of_memory_is_one_line(tmp_path: Path) -> None:
    class Huge(Tiny):
        def on_fit_start(self, data: object, generator: object) -> None:
            torch.empty(1 << 50)

    with pytest.raises(MachineError, match="out of memory during training"):
        train(tmp_path / "run", Huge)
    assert "out of memory" in open_run(tmp_path / "run").status["reason"]


def test_a_full_disk_is_one_line_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from genzoo.training import checkpoint

    straight = content(train(tmp_path / "straight"))
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    write, calls = checkpoint.write_bytes, []

    def full(path: Path, content: bytes) -> None:
        calls.extend([path] * ("checkpoint" in str(path)))
        if len(calls) > 6:
            with genzoo.runs.disk_errors(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    with pytest.raises(MachineError, match="no space left on device; free some space"):
        train(tmp_path / "run")
    monkeypatch.setattr(checkpoint, "write_bytes", write)
    listener = Listener()
    assert content(train(tmp_path / "run", resume=True, progress=listener)) == straight
    assert any("going on at step 6" in note for note in listener.notes)
