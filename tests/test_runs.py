"""The run folder: atomic, verified, owned by one process."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genzoo import files, runs
from genzoo.errors import InputError, MachineError
from genzoo.types import DataSpec


def make_run(path: Path) -> runs.Run:
    config: dict[str, Any] = {
        "genzoo": "0.1.0",
        "model": "noise",
        "family": "control",
        "control": True,
        "model_sha256": None,
        "settings": {},
        "data": {
            "name": "digits",
            "root": None,
            "size": None,
            "fingerprint": "ab",
            "spec": DataSpec((1, 8, 8), 17, {"label": 10}, (0.1,) * 10).to_dict(),
            "class_names": [],
        },
        "budget": "3steps",
        "seed": 0,
        "conditional": True,
        "device": "cpu",
        "threads": 1,
        "samples": 10,
    }
    return runs.create_run(path, config, parameters=0)


def finish(run: runs.Run, content: bytes = b"weights") -> None:
    runs.write_bytes(run.path / runs.WEIGHTS, content)
    run.update_status(
        state="finished", model_sha256=runs.file_sha256(run.path / runs.WEIGHTS), progress=1.0
    )


def test_a_run_reads_back_what_was_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.append_history({"step": 1, "loss": {}})
    finish(run)
    again = runs.open_run(str(tmp_path / "run"))
    assert again.config == run.config
    assert again.status == run.status
    assert again.finished and again.trained
    assert again.spec.num_classes == 10
    assert again.history() == [{"step": 1, "loss": {}}]
    assert again.weights().read_bytes() == b"weights"
    assert again.samples_info() is None and again.scores() is None


def test_importing_runs_imports_no_torch() -> None:
    code = "import sys, genzoo, genzoo.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda p: (p / "config.json").unlink(), "not a run folder"),
        (lambda p: (p / "status.json").unlink(), "half-written"),
        (lambda p: (p / "config.json").write_text('{"schema": 1, "mo'), "half-written"),
        (lambda p: (p / "config.json").write_text("[1]"), "JSON object"),
        (lambda p: (p / "config.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda p: edit(p / "config.json", schema=99), "schema version 99"),
        (lambda p: edit(p / "config.json", kind="scores"), "not a run"),
        (lambda p: edit(p / "config.json", seed="0"), "'seed' is '0'"),
        (lambda p: edit(p / "config.json", seed=True), "'seed' is True"),
        (lambda p: edit(p / "config.json", budget="0s"), "more than nothing"),
        (lambda p: edit(p / "config.json", data={"name": "digits"}), "'root' is missing"),
        (lambda p: edit(p / "status.json", state="done"), "unknown state 'done'"),
        (lambda p: edit(p / "status.json", model_sha256=None), "no model_sha256"),
        (lambda p: (p / "model.safetensors").write_bytes(b"weightz"), "SHA-256"),
        (lambda p: (p / "model.safetensors").unlink(), "is missing"),
    ],
)
def test_a_harmed_run_is_refused_in_one_line(tmp_path: Path, harm: Any, says: str) -> None:
    run = make_run(tmp_path / "run")
    finish(run)
    runs.open_run(run.path)
    harm(run.path)
    with pytest.raises(InputError, match=says) as caught:
        runs.open_run(run.path)
    assert "\n" not in str(caught.value)
    assert "run" in str(caught.value)


def test_missing_folder_and_plain_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        runs.open_run(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        runs.open_run(tmp_path / "file")


def test_a_comparison_is_told_apart_from_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "gan-s0")
    with pytest.raises(InputError, match="its runs are in it.*gan-s0"):
        runs.open_run(tmp_path)


def test_an_unfinished_run_has_no_weights_to_give(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(InputError, match="--resume"):
        runs.open_run(run.path).weights()


def test_history_ignores_the_line_being_written_and_can_be_cut(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for step in (1, 2, 3):
        run.append_history({"step": step})
    with open(run.path / runs.HISTORY, "a") as file:
        file.write('{"step": 4')
    assert [entry["step"] for entry in run.history()] == [1, 2, 3]
    run.cut_history(2)
    assert [entry["step"] for entry in run.history()] == [1, 2]
    (run.path / runs.HISTORY).write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        run.history()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), runs.atomic_path(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["file.json"]
    with pytest.raises(ValueError):
        runs.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, MachineError, "free some space"),
        (errno.EFBIG, MachineError, "free some space"),
        (errno.EACCES, InputError, "no permission"),
        (errno.EROFS, InputError, "no permission"),
        (errno.ENOENT, InputError, "there is no"),
        (errno.ENOTDIR, InputError, "choose another place"),
        (errno.EIO, MachineError, "cannot access"),
    ],
)
def test_system_errors_become_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type, says: str
) -> None:
    path = tmp_path / "file.json"
    runs.write_json(path, {"a": 1})

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_synchronize", fail)
    with pytest.raises(kind, match=says) as caught:
        runs.write_json(path, {"a": 2})
    assert "file.json" in str(caught.value) and "\n" not in str(caught.value)
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="choose another place"):
        runs.write_json(tmp_path / "file" / "status.json", {})


def test_unused_places(tmp_path: Path) -> None:
    assert runs.is_unused(tmp_path / "absent")
    assert runs.is_unused(tmp_path)
    with runs.lock(tmp_path):
        assert runs.is_unused(tmp_path)
    (tmp_path / ".git").mkdir()
    assert not runs.is_unused(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from genzoo.runs import lock
with lock(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_and_a_dead_owner_does_not(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"
        with pytest.raises(InputError, match=f"in use by process {owner.pid}"):
            with runs.lock(tmp_path):
                pass
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        if owner.stdout:
            owner.stdout.close()
    assert (tmp_path / runs.LOCK).exists()
    with runs.lock(tmp_path):
        assert (tmp_path / runs.LOCK).read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / runs.LOCK).exists()
