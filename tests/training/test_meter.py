"""Memory, energy and speed: what is measured, and what is not made up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_models import Tiny, tiny_data

import genzoo
from genzoo.evaluation.cost import COSTS, cost_scores
from genzoo.runs import open_run
from genzoo.training import fit, meter
from genzoo.training.acceleration import Acceleration
from genzoo.training.meter import EnergyCounter, Meter, joined, matmul_rate

CPU = torch.device("cpu")


def package(tree: Path, number: int, microjoules: int) -> Path:
    path = tree / f"intel-rapl:{number}"
    path.mkdir(exist_ok=True)
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text("10000000\n")
    return path


def test_energy_is_that_of_all_packages_and_goes_round(tmp_path: Path) -> None:
    """Fails with: one package for all, a counter that started again taken for a loss."""
    package(tmp_path, 0, 9_000_000)
    package(tmp_path, 1, 500_000)
    measured = Meter(CPU, EnergyCounter(CPU, tmp_path))
    package(tmp_path, 0, 9_800_000)
    package(tmp_path, 1, 600_000)
    assert measured.reading()["energy_joules"] == pytest.approx(0.9)
    package(tmp_path, 0, 200_000)  # of 10 J once round
    reading = measured.reading()
    assert reading["energy_joules"] == pytest.approx(1.3)
    assert "RAPL" in reading["energy_source"]


def test_energy_that_cannot_be_read_is_not_made_up(tmp_path: Path) -> None:
    for tree in (tmp_path / "none", tmp_path):
        reading = Meter(CPU, EnergyCounter(CPU, tree)).reading()
        assert reading["energy_joules"] is None and reading["energy_source"] is None
        package(tmp_path, 0, 5)
        package(tmp_path, 1, 5)
        (tmp_path / "intel-rapl:1" / "energy_uj").unlink()  # one of two tells nothing


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot forget a peak")
def test_the_peak_is_that_of_the_time_measured() -> None:
    big = torch.ones(100_000_000, dtype=torch.uint8)
    del big
    measured = Meter(CPU)
    before = measured.reading()["peak_memory_bytes"]
    assert before is not None
    held = torch.ones(300_000_000, dtype=torch.uint8)
    del held
    assert 250e6 < measured.reading()["peak_memory_bytes"] - before < 400e6


def test_without_a_peak_that_can_be_forgotten_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "PROCESS", tmp_path / "none")
    assert Meter(CPU).reading()["peak_memory_bytes"] is None


def test_costs_of_two_parts_are_one() -> None:
    first = {"peak_memory_bytes": 7, "device_memory_bytes": None}
    first |= {"energy_joules": 2.0, "energy_source": "RAPL"}
    second = {**first, "peak_memory_bytes": 5, "energy_joules": 3.0}
    assert joined(first, second) == {**first, "energy_joules": 5.0}
    unmeasured = {**second, "energy_joules": None, "energy_source": None}
    for a, b in ((first, unmeasured), (unmeasured, first)):
        assert joined(a, b)["energy_joules"] is None


def test_the_rate_of_products_is_a_speed() -> None:
    """Twice the work of a side gives the same rate within a factor; a wrong power would not."""
    fast = matmul_rate(CPU, Acceleration(), 50.0)
    assert 1e9 < fast < 1e14
    assert 0.05 < matmul_rate(CPU, Acceleration(), 0.5) / fast < 5


def test_a_run_knows_what_it_cost(tmp_path: Path) -> None:
    run = genzoo.train(
        Tiny, tiny_data(), budget="20steps", samples=30, out=tmp_path, device="cpu", evaluate=False
    )
    cost = open_run(run.path).status["cost"]
    assert cost["matmul_flops_per_second"] > 0 and cost["prepare_seconds"] > 0
    assert cost["parts"] == 1
    info = run.samples_info()
    assert info is not None and 0 < info["first_sample_seconds"] < 60
    assert info["samples_per_second_64"] > info["samples_per_second_1"] > 0
    scores = {score.name: score for score in cost_scores(run, 30)}
    assert list(scores) == list(COSTS)
    status = run.status
    share = status["flops"] / status["seconds"] / cost["matmul_flops_per_second"]
    assert scores["utilization"].value == pytest.approx(share)
    assert 0 < share < 1.5
    if cost["energy_joules"] is None:
        assert scores["energy_joules"].value is None
        assert "unmeasured" in str(scores["energy_joules"].to_dict())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_memory_does_not_grow_with_the_number_of_steps(tmp_path: Path) -> None:
    """10,000 steps with every line of history and many checkpoints: within 2 %, after warm-up."""
    held: list[int] = []

    class Watching:
        def note(self, message: str) -> None:
            pass

        def update(self, task: str, fraction: float, detail: str = "") -> None:
            if task == "training":
                resident = Path("/proc/self/statm").read_text().split()[1]
                held.append(int(resident))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "CHECKPOINT_SECONDS", 0.2)
        genzoo.train(
            Tiny,
            tiny_data(),
            budget="10000steps",
            samples=10,
            out=tmp_path,
            device="cpu",
            evaluate=False,
            progress=Watching(),
        )
    assert len(held) >= 100
    warm = held[len(held) // 5 :]
    assert max(warm) / warm[0] - 1 < 0.02
