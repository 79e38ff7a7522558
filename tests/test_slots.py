"""Cores and GPUs of several runs at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genzoo.errors import InputError
from genzoo.experiment import slots
from genzoo.experiment.slots import Slots, share_out
from genzoo.types import Budget

STEPS, SECONDS = Budget(10, "steps"), Budget(10, "seconds")


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: 8)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch, eight_cores: None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv(slots.GPUS, raising=False)


def test_one_run_is_left_alone(eight_cores: None) -> None:
    assert share_out(1, 1, None, "cpu", SECONDS) == Slots(1, "cpu")
    assert share_out(1, 1, 3, "cpu", SECONDS) == Slots(1, "cpu", 3)


@pytest.mark.parametrize(
    ("jobs", "devices", "threads", "cores"),
    [(2, 1, 4, 4), (3, 1, 2, 2), (2, 2, 2, 4), (16, 1, 1, 1), (1, 2, 4, None)],
)
def test_cores_are_shared_among_runs_and_their_devices(
    eight_cores: None, jobs: int, devices: int, threads: int, cores: int | None
) -> None:
    found = share_out(jobs, devices, None, "cpu", STEPS)
    assert found == Slots(jobs, "cpu", threads, cores)
    assert not found.environments


def test_one_run_at_a_time_fights_with_nobody(four_gpus: None) -> None:
    assert share_out(1, 4, 5, "cuda", SECONDS) == Slots(1, "cuda", 5)


@pytest.mark.parametrize(
    ("jobs", "devices", "gpus"),
    [
        (4, 1, ["0", "1", "2", "3"]),
        (2, 1, ["0", "1"]),
        (2, 2, ["0,1", "2,3"]),
        (6, 1, ["0", "1", "2", "3", "0", "1"]),
    ],
)
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_run_has_gpus_of_its_own(
    four_gpus: None, jobs: int, devices: int, gpus: list[str], device: str
) -> None:
    found = share_out(jobs, devices, None, device, STEPS)
    assert found.device == "cuda"
    assert [own[slots.GPUS] for own in found.environments] == gpus


def test_only_gpus_that_are_seen_are_shared_out(
    four_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(slots.GPUS, "2, GPU-5f,7,1")
    assert share_out(2, 2, None, "cuda", SECONDS).gpus == ("2,GPU-5f", "7,1")


def test_a_gpu_that_was_named_is_the_one(four_gpus: None) -> None:
    found = share_out(2, 1, None, "cuda:1", STEPS)
    assert found.device == "cuda:1" and not found.environments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((9, 1, None, "cpu", SECONDS), "--jobs 9 with 1 threads each on 8 cores"),
        ((2, 4, 2, "cpu", SECONDS), "--jobs 2 on 4 devices each with 2 threads each on 8 cores"),
        ((5, 1, None, "cuda", SECONDS), "--jobs 5 on fewer GPUs than that"),
        ((2, 1, None, "cuda:1", SECONDS), "--jobs 2 on fewer GPUs than that"),
        ((2, 3, None, "auto", STEPS), "this machine has 4 CUDA devices, not 6"),
        ((1, 5, None, "cuda", STEPS), "--devices 5: this machine has 4 CUDA devices"),
        ((1, 2, None, "cuda:1", STEPS), "must be cpu, cuda or auto, not 'cuda:1'"),
    ],
)
def test_what_would_not_be_fair_or_is_not_there(four_gpus: None, arguments: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        share_out(*arguments)
