from __future__ import annotations

import pytest
import torch

from genzoo.errors import InputError, MachineError
from genzoo.training.device import (
    available_devices,
    describe_machine,
    isolated_rng,
    limited_threads,
    memory_errors,
    resolve_device,
    seed_global,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "tpu", ""])
def test_a_device_that_is_not_there_is_named_beside_those_that_are(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' is not there.*cpu"):
        resolve_device(name)


def test_the_devices_that_are_there_resolve() -> None:
    assert resolve_device("cpu") == resolve_device(CPU) == CPU
    assert str(resolve_device("auto")).partition(":")[0] in available_devices()


def test_the_callers_randomness_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with isolated_rng(CPU):
        seed_global(5, CPU)
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(inside, expected)


def test_threads_are_limited_and_restored() -> None:
    before = torch.get_num_threads()
    with limited_threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with limited_threads(None) as count:
        assert count == before
    with pytest.raises(InputError, match="--threads 0"), limited_threads(0):
        pass


def test_every_way_to_run_out_of_memory_is_one_error() -> None:
    with pytest.raises(MachineError, match="out of memory during training"):
        with memory_errors("training"):
            torch.empty(1 << 50)
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(MachineError, match="smaller batch"), memory_errors("sampling"):
            raise error
    with pytest.raises(RuntimeError, match="other"), memory_errors("training"):
        raise RuntimeError("other")


def test_the_machine_is_described() -> None:
    machine = describe_machine(CPU)
    assert machine["processor"] and machine["gpu"] is None
    assert isinstance(machine["cores"], int) and machine["cores"] >= 1
