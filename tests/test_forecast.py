"""What a comparison will need, against what it then takes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Genzoo
from tiny_models import Duel, Fitted, Tiny, TinySettings, tiny_data
from torch import nn

import genzoo
from genzoo.errors import InputError
from genzoo.experiment import stages
from genzoo.experiment.arrangement import arrange
from genzoo.experiment.forecasting import LAUNCH_SECONDS, _elsewhere
from genzoo.rates import RATES, find_rates
from genzoo.training import calibration
from genzoo.training.calibration import SavedTensors, StepCost, spend
from genzoo.types import Budget, DataSpec, TrainState


class Stages(Tiny):
    """Trains one thing, then, for the last two fifths, another twice a step."""

    def __init__(self, spec: DataSpec, settings: TinySettings | None = None) -> None:
        super().__init__(spec, settings)
        self.late = nn.Linear(spec.dim, spec.dim)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        late = list(self.late.parameters())
        return {"early": [*self.net.parameters(), *self.label.parameters()], "late": late}

    def phases(self, state: TrainState) -> tuple[str, ...]:
        return ("early",) if state.progress < 0.6 else ("late", "late")

    def loss(self, batch: Any, phase: str, state: TrainState) -> Any:
        if phase == "early":
            return super().loss(batch, phase, state)
        x = batch.x.flatten(1)
        return genzoo.Loss((self.late(x) - x).square().mean(), {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BLOCK_SECONDS", 0.01)


@pytest.fixture
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics' seconds are measured in a test of their own."""
    from genzoo.experiment import forecasting

    monkeypatch.setattr(forecasting, "metrics_seconds", lambda *_: 2.0)


def forecast(models: Any, budget: str, **options: Any) -> genzoo.Forecast:
    options = {"controls": (), "seeds": 1, "samples": 40, **options}
    return genzoo.forecast(models, tiny_data(), budget=budget, device="cpu", **options)


def train(model: Any, budget: str, out: Path) -> Mapping[str, Any]:
    run = genzoo.train(
        model, tiny_data(), budget=budget, out=out, evaluate=False, samples=4, device="cpu"
    )
    return run.status


@pytest.mark.parametrize("model", [Tiny, Duel, Stages], ids=lambda m: m.__name__)
@pytest.mark.parametrize("budget", ["7steps", "1kimg", "333img", "1e6flops"])
def test_counts_are_those_of_the_real_run(
    tmp_path: Path, no_metrics: None, model: type[Tiny], budget: str
) -> None:
    (row,) = forecast((model,), budget).models
    real = train(model, budget, tmp_path / "run")
    assert (row.work.steps, row.work.images) == (real["step"], real["images"])
    assert row.work.flops == real["flops"] > 0
    assert row.parameters == real["parameters"]
    assert row.seconds > row.evaluation_seconds >= 2.0


def test_a_budget_in_seconds_is_spent_whole(no_metrics: None) -> None:
    (row,) = forecast((Duel,), "60s").models
    cost = row.work.seconds / row.work.steps
    assert 60 <= row.work.seconds < 60 + 2 * cost and row.work.steps > 100
    assert row.work.images == row.work.steps * 3 * 16


def test_memory_by_its_parts(no_metrics: None) -> None:
    spec = tiny_data().spec
    (row,) = forecast((Tiny,), "5steps").models
    model = Tiny(spec)
    weights = sum(4 * p.numel() for p in model.parameters())
    found = row.memory
    assert found.gradients == found.average == weights
    assert 2 * weights <= found.optimizer <= 2 * weights + 8 * 20  # a counter a tensor
    assert found.weights == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert found.data == 40 * 16
    assert found.total == sum(v for k, v in found.to_dict().items() if k != "total")
    # At least the input of the first layer and its noise-free target, at most a few times that.
    assert 16 * 16 * 4 <= found.activations <= 40 * 16 * 16 * 4


def test_saved_tensors_are_counted_once_and_freed() -> None:
    saved = SavedTensors(iter(()))
    x = torch.randn(100, requires_grad=True)
    with saved.watched():
        y = x.exp()  # keeps its result
        z = (y * y).sum()  # keeps the same again
        z.backward()
    assert saved.peak == 400
    del y, z
    assert saved._now == 0 and not saved._uses
    with saved.watched():
        x.exp().exp().sum().backward()
    assert saved.peak == 800


def test_activations_grow_with_the_batch(no_metrics: None) -> None:
    small, large = (
        forecast((Tiny,), "5steps", settings={"tiny.batch_size": n}).models[0].memory
        for n in (16, 32)
    )
    assert 1.5 < large.activations / small.activations < 2.5
    assert large.gradients == small.gradients


def test_totals_over_what_is_left(tmp_path: Path, no_metrics: None) -> None:
    genzoo.compare(
        (Tiny,), tiny_data(), budget="5steps", seeds=1, controls=(), out=tmp_path / "c", samples=40
    )
    before = sorted(path.name for path in (tmp_path / "c").rglob("*"))
    found = forecast((Tiny, Fitted), "5steps", seeds=3, out=tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").rglob("*")) == before
    tiny, fitted = found.models
    assert (tiny.left, fitted.left) == (2, 3)
    assert fitted.work.steps == 0 and fitted.work.flops == 0 and fitted.utilization is None
    totals = found.totals()
    assert totals["runs"] == 5 and totals["flops"] == 2 * tiny.work.flops
    assert totals["seconds"] == pytest.approx(2 * tiny.seconds + 3 * fitted.seconds)
    assert totals["device_hours"] == pytest.approx(totals["seconds"] / 3600)
    assert totals["wall_seconds"] == totals["seconds"]
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_nothing_is_written(tmp_path: Path, no_metrics: None) -> None:
    forecast((Tiny,), "5steps", out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_strides_over_phases_that_take_turns() -> None:
    """Walked in strides or one by one, it comes to the same."""
    steps = {
        ("a",): StepCost(10, 5.0, 1, 0.1),
        ("a", "b"): StepCost(20, 9.0, 2, 0.3),
        ("c",): StepCost(10, 2.0, 1, 0.05),
    }

    def phases(state: TrainState) -> tuple[str, ...]:
        if state.progress > 0.7:
            return ("c",)
        return ("a", "b") if state.step % 4 == 3 else ("a",)

    for budget in ("1000steps", "9999img", "4321flops", "77s"):
        parsed, work = Budget.parse(budget), calibration.Work()
        while calibration._progress(work, parsed) < 1:
            work.add(steps[phases(calibration._state(work, parsed))], 1)
        found = spend(parsed, phases, steps)
        assert (found.steps, found.images) == (work.steps, work.images)
        assert found.seconds == pytest.approx(work.seconds)


def test_a_budget_in_flops_for_steps_that_count_none_is_refused() -> None:
    costs = {("a",): StepCost(1, 0.0, 1, 0.1)}
    with pytest.raises(InputError, match="count no flops"):
        spend(Budget.parse("1e6flops"), lambda state: ("a",), costs)


def test_another_device(no_metrics: None) -> None:
    (here,), (there,) = (
        forecast((Tiny,), "100steps", device_rates=name).models for name in (None, "h100")
    )
    assert there.fits is True and here.fits is None
    assert (there.parameters, there.work.flops) == (here.parameters, here.work.flops)
    # So small a net waits for launches alone.
    calls = there.work.calls
    assert there.work.seconds >= calls * LAUNCH_SECONDS > 0
    cost = StepCost(1, 1e12, 1, 2.0)
    assert _elsewhere(cost, rate=1e12, peak=4e12).seconds == pytest.approx(0.5)
    found = forecast((Tiny,), "100steps", device_rates="h100")
    assert found.device == "h100" and "extrapolated, not measured" in found.extrapolated


def test_devices_that_train_together(no_metrics: None, genzoo_says: Genzoo) -> None:
    """Each with its share. Fails with: FLOPs of one device, activations of a whole minibatch."""
    words = {"controls": (), "seeds": 1, "budget": "100steps", "device": "cpu", "threads": 1}
    one, two = (genzoo.forecast("gaussian,vae", "ring", devices=n, **words) for n in (1, 2))
    for alone, shared in zip(one.models, two.models, strict=True):
        assert shared.work.flops == pytest.approx(alone.work.flops)
        assert (shared.work.steps, shared.work.images) == (alone.work.steps, alone.work.images)
        assert shared.memory.weights == alone.memory.weights
    whole, half = (found.models[1].memory.activations for found in (one, two))
    assert 0.45 * whole < half < 0.6 * whole
    totals = two.totals()
    assert totals["device_hours"] == pytest.approx(2 * totals["seconds"] / 3600)
    with pytest.raises(InputError, match="cannot be shared equally among 3 devices"):
        genzoo.forecast("vae", "ring", devices=3, **words)
    line = "compare --models gaussian --controls none --data ring --device cpu --seeds 1"
    said = genzoo_says(*line.split(), "--budget", "5steps", "--devices", "2", "--dry-run")
    assert "on 2 devices: " in said.out and "tell each other their gradients" in said.out


def test_batches_are_shared_by_turns() -> None:
    assert [stages._first_share(n, 50, 2) for n in (0, 30, 50, 80, 130)] == [0, 30, 50, 50, 80]


def test_the_table_of_devices() -> None:
    assert find_rates("RTX 4090") is RATES["rtx4090"]
    assert RATES["h100"].peak("auto", images=True) == ("bf16", 989.5e12)
    assert RATES["h100"].peak("auto", images=False) == ("fp32", 67e12)
    assert RATES["t4"].peak("auto", images=True) == ("fp32", 8.1e12)
    with pytest.raises(InputError, match="t4 has none; it has fp32"):
        RATES["t4"].peak("bf16", images=True)
    with pytest.raises(InputError, match="did you mean 'h100'"):
        find_rates("h10")


def test_the_same_call_as_a_comparison() -> None:
    mine, theirs = (inspect.signature(f).parameters for f in (arrange, genzoo.compare))
    assert {n: p.default for n, p in mine.items()} == {n: p.default for n, p in theirs.items()}


def test_the_metrics_of_held_out_items_in_the_samples_place() -> None:
    from genzoo.data import open_dataset
    from genzoo.progress import Silent

    ring = open_dataset("ring")
    assert 0 < stages.metrics_seconds(ring, 40, torch.device("cpu"), Silent()) < 30


def test_at_the_command_line(tmp_path: Path, genzoo_says: Genzoo, no_metrics: None) -> None:
    words = ("compare", "--models", "gaussian", "--controls", "none", "--data", "ring")
    words = (*words, "--seeds", "2", "--jobs", "2", "--threads", "1", "--samples", "40")
    words = (*words, "--budget", "5steps", "--out", str(tmp_path / "c"))
    said = genzoo_says(*words, "--dry-run", "--json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["kind"] == "forecast" and told["models"][0]["runs"] == [
        "gaussian-s0",
        "gaussian-s1",
    ]
    assert told["totals"]["wall_seconds"] == pytest.approx(told["totals"]["seconds"] / 2)
    said = genzoo_says(*words, "--dry-run", "--device-rates", "a100")
    assert said.code == 0 and "2 runs" in said.out and "2 at a time" in said.out
    assert "extrapolated, not measured" in said.out
    assert not (tmp_path / "c").exists()
    said = genzoo_says(*words, "--device-rates", "a100")
    assert said.code == 2 and "--device-rates goes with --dry-run" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae", "gan", "diffusion"])
def test_steps_of_a_budget_in_seconds_within_a_factor_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_metrics: None, model: str
) -> None:
    monkeypatch.setattr(calibration, "BLOCK_SECONDS", 0.5)
    options: dict[str, Any] = {"budget": "4s", "threads": 1, "device": "cpu"}
    found = genzoo.forecast(
        model, "digits", settings={f"{model}.width": 16}, seeds=1, controls=(), **options
    )
    run = genzoo.train(
        model, "digits", settings={"width": 16}, out=tmp_path / "r", evaluate=False, **options
    )
    assert 0.5 < found.models[0].work.steps / run.status["step"] < 2
