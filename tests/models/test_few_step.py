"""Consistency models and MeanFlow against the exact flow of Gaussian data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import genzoo
from genzoo.errors import InputError
from genzoo.models.consistency import TUNING, Consistency, ConsistencySettings
from genzoo.models.diffusion import Diffusion, DiffusionSettings
from genzoo.models.mean_flow import MeanFlow, MeanFlowSettings
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, SampleOptions, TrainState

POINTS = DataSpec((2,), None, location=(0.0, 0.0), scale=(1.0, 1.0))
MEAN, STD = 0.7, 0.5
SMALL = {"width": 8, "depth": 1, "augment": 0.0}


def check_samples(x: Tensor) -> None:
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(x.numel()) + 0.01)
    assert float(x.std()) == pytest.approx(STD, rel=0.05)


# -- consistency --------------------------------------------------------------------------------


class PathEnd(Consistency):
    """Where the flow of N(MEAN, STD²) ends: MEAN + (x - MEAN) STD / √(STD² + σ²)."""

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return MEAN + (x - MEAN) * STD / (STD**2 + sigma[:, None] ** 2).sqrt()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_exact_consistency_function_makes_the_data(steps: int) -> None:
    """4,000 points. Fails with: noise of σ added to what was not taken back to data, no noise."""
    model = PathEnd(POINTS, ConsistencySettings(**SMALL))
    check_samples(model.draw(NoiseSource(0, 0, 4000), {}, SampleOptions(steps=steps)))


def test_evaluations_start_from_pure_noise_and_end_at_restart() -> None:
    """Falling in between. Fails with: restarts from noise that leaves nothing of the sample."""
    model = Consistency(DataSpec((1, 8, 8), 17), ConsistencySettings(width=16, restart=0.5))
    assert model.jumps(1) == pytest.approx([80.0])
    assert model.jumps(2) == pytest.approx([80.0, 0.5])
    many = model.jumps(5)
    assert len(many) == 5 and many == sorted(many, reverse=True)
    assert (many[0], many[-1]) == pytest.approx((80.0, 0.5))


def test_at_the_boundary_it_is_the_identity() -> None:
    """f(x; σ_min) ≈ x whatever the weights. Fails with: c_skip and c_out exchanged."""
    model = Consistency(POINTS, ConsistencySettings(**SMALL))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
        x = torch.randn(9, 2)
        found = model.denoise(x, torch.full((9,), model.settings.sigma_min), {})
    assert torch.allclose(found, x, atol=0.02)


def test_pairs_come_nearer_stage_by_stage() -> None:
    """σ_min ≤ r < t; of small t the data themselves at first; t - r halves with every stage.

    Fails with: stages counted from the whole budget, q^-k for q^-(k+1).
    """
    model = Consistency(POINTS, ConsistencySettings(**SMALL, pretrain=0.5, stages=4))
    t = torch.tensor([0.01, 1.0, 50.0])
    gaps = []
    for progress in (0.5, 0.63, 0.76, 0.99):
        r = model.nearer(t, TrainState(progress=progress))
        assert bool(((r >= model.settings.sigma_min) & (r < t)).all())
        gaps.append(t - r)
    assert float(gaps[0][0]) == pytest.approx(0.01 - model.settings.sigma_min)
    assert [float(g[2]) for g in gaps] == pytest.approx([25, 12.5, 6.25, 3.125], rel=1e-6)


def test_first_a_diffusion_model_then_consistency() -> None:
    """The phases follow the budget; the first part's loss is `Diffusion`'s own."""
    model = Consistency(POINTS, ConsistencySettings(**SMALL, pretrain=0.3))
    assert model.phases(TrainState(progress=0.29)) == ("main",)
    assert model.phases(TrainState(progress=0.3)) == (TUNING,)
    other = Diffusion(POINTS, DiffusionSettings(**SMALL))
    other.load_state_dict(model.state_dict())
    batch, found = Batch(torch.randn(64, 2), {}), []
    for one in (model, other):
        torch.manual_seed(0)
        found.append(float(one.loss(batch, "main", TrainState()).total.detach()))
    assert found[0] == found[1]


def test_the_end_that_is_aimed_at_has_no_gradient() -> None:
    """The loss' gradient is that of the noisier of two points alone.

    Fails with: an end that is not detached, r and t exchanged.
    """
    torch.manual_seed(0)
    model = Consistency(POINTS, ConsistencySettings(**SMALL))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    asked: list[tuple[Tensor, bool]] = []
    own = model.denoise

    def watched(x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        asked.append((sigma, torch.is_grad_enabled()))
        return own(x, sigma, cond)

    model.denoise = watched  # type: ignore[method-assign]
    state = TrainState(progress=0.9)
    model.loss(Batch(torch.randn(32, 2), {}), TUNING, state).total.backward()
    (r, with_r), (t, with_t) = asked
    assert bool((r < t).all()) and with_t and not with_r


# -- MeanFlow -------------------------------------------------------------------------------------


class MeanOfFlow(MeanFlow):
    """(x_t - x_r) / (t - r) on the paths x_t = (1-t) MEAN + S(t) z, S² = (1-t)² STD² + t²."""

    def mean_velocity(self, x: Tensor, r: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r, t = r[:, None], t[:, None]
        size_r, size_t = (((1 - s) ** 2 * STD**2 + s**2).sqrt() for s in (r, t))
        z = (x - (1 - t) * MEAN) / size_t
        return (x - (1 - r) * MEAN - size_r * z) / (t - r)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The limit r → t: -MEAN + S'(t) z."""
    t = t[:, None]
    size = ((1 - t) ** 2 * STD**2 + t**2).sqrt()
    return -MEAN + (t - (1 - t) * STD**2) / size * (x - (1 - t) * MEAN) / size


def test_the_identity_of_mean_velocities() -> None:
    """u = v - (t - r) du/dt along the path (eq. 6): the target of the exact u is itself.

    Fails with: the sign of the slope, t's tangent at r, no ∂ₓ, r - t.
    """
    torch.manual_seed(0)
    model = MeanOfFlow(POINTS, MeanFlowSettings(**SMALL))
    t = torch.rand(50, dtype=torch.float64) * 0.5 + 0.45
    r, x = t - 0.4, torch.randn(50, 2, dtype=torch.float64)
    found = model.target(x, r, t, velocity(x, t), {})
    assert torch.allclose(found, model.mean_velocity(x, r, t, {}), atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_exact_mean_velocity_makes_the_data(steps: int) -> None:
    """4,000 points. Fails with: r and t exchanged, u not times t - r."""
    model = MeanOfFlow(POINTS, MeanFlowSettings(**SMALL))
    check_samples(model.draw(NoiseSource(0, 0, 4000), {}, SampleOptions(steps=steps)))


def test_mean_flow_takes_other_samplers_too() -> None:
    """u(x, t, t) is a velocity, so `heun` and the likelihood work; untrained: finite."""
    model = MeanFlow(POINTS, MeanFlowSettings(**SMALL)).eval()
    with torch.no_grad():
        x = model.draw(NoiseSource(0, 0, 5), {}, SampleOptions(steps=4, sampler="heun"))
    assert bool(x.isfinite().all())


# -- starting from a run ------------------------------------------------------------------------


def test_a_consistency_model_starts_from_a_diffusion_run(tmp_path: Path) -> None:
    """No pretraining is left, weights are the run's, its cost is recorded; sizes must agree.

    Fails with: the pretraining done again, weights of the checkpoint of another run.
    """
    how = {"data": "ring", "samples": 4, "evaluate": False, "settings": {"width": 8, "depth": 1}}
    teacher = genzoo.train("diffusion", budget="3steps", out=tmp_path / "teacher", **how)
    run = genzoo.train("consistency", budget="1steps", out=tmp_path / "run", init=teacher, **how)
    assert run.config["settings"]["pretrain"] == 0
    assert run.config["init"]["images"] == teacher.status["images"] > 0
    before, after = (genzoo.load_model(r).state_dict() for r in (teacher, run))
    moved = max(float((before[k] - after[k]).abs().max()) for k in before)
    assert 0 <= moved < 0.01
    wide = {**how, "settings": {"width": 16, "depth": 1}}
    with pytest.raises(InputError, match="do not fit this model"):
        genzoo.train("consistency", budget="1steps", out=tmp_path / "x", init=teacher, **wide)
    assert not (tmp_path / "x").exists()
