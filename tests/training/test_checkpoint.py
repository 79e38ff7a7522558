from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from genzoo.errors import InputError
from genzoo.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_tensors,
    remove_checkpoints,
    save_checkpoint,
    write_tensors,
)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint({"w": torch.full((3,), float(step))}, {"used": {"step": step}})


def step_of(run: Path) -> tuple[int | None, list[str]]:
    found, notes = load_checkpoint(run)
    if found is None:
        return None, notes
    assert found.tensors["w"].tolist() == [float(found.state["used"]["step"])] * 3
    return found.state["used"]["step"], notes


def test_the_newest_is_loaded_and_the_one_before_kept(tmp_path: Path) -> None:
    assert step_of(tmp_path) == (None, [])
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step))
        assert step_of(tmp_path) == (step, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "checkpoint-previous"]
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: flip(c / "state.safetensors"),
        lambda c: (c / "state.safetensors").write_bytes(b""),
        lambda c: (c / "state.safetensors").unlink(),
        lambda c: (c / "state.json").write_text('{"schema": 1, "sha'),
        lambda c: (c / "state.json").unlink(),
        lambda c: (c / "state.json").write_text('{"schema": 2}'),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_note(tmp_path: Path, harm) -> None:  # type: ignore[no-untyped-def]
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    harm(tmp_path / "checkpoint")
    step, notes = step_of(tmp_path)
    assert step == 1
    assert len(notes) == 1 and str(tmp_path / "checkpoint") in notes[0] and "\n" not in notes[0]
    harm(tmp_path / "checkpoint-previous")
    step, notes = step_of(tmp_path)
    assert step is None and len(notes) == 2


def test_killed_between_the_renames_the_previous_one_is_found(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint-next")
    assert step_of(tmp_path) == (1, [])
    save_checkpoint(tmp_path, checkpoint(3))
    assert step_of(tmp_path) == (3, [])


def test_tied_and_strided_weights_are_written(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    state = {**net.state_dict(), "strided": torch.arange(6.0).view(2, 3).T}
    digest = write_tensors(tmp_path / "w", state)
    again = read_tensors(tmp_path / "w", digest)
    assert all(torch.equal(again[k], v) for k, v in state.items())


def test_equal_tensors_are_equal_bytes(tmp_path: Path) -> None:
    a, b = torch.zeros(2), torch.ones(3)
    assert write_tensors(tmp_path / "1", {"a": a, "b": b}) == write_tensors(
        tmp_path / "2", {"b": b, "a": a}
    )


def test_what_is_no_tensor_or_no_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'x' is no tensor"):
        write_tensors(tmp_path / "w", {"x": 3})  # type: ignore[dict-item]
    import hashlib

    (tmp_path / "w").write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match="is damaged"):
        read_tensors(tmp_path / "w", hashlib.sha256(b"not safetensors at all").hexdigest())
