"""Film strips, interpolations and reconstructions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import Genzoo

from genzoo.errors import UnsupportedCapability
from genzoo.models.diffusion import Diffusion, DiffusionSettings
from genzoo.models.flow import Flow, FlowSettings
from genzoo.models.gaussian_vae import GaussianVAE, GaussianVAESettings
from genzoo.strips import interpolation, manifold, reconstruction, slerp, trajectory
from genzoo.types import DataSpec, SampleOptions

DIGITS = DataSpec((1, 8, 8), 17, {"label": 3}, (0.5, 0.3, 0.2))


TWO_NUMBERS = GaussianVAESettings(latent=2, width=16, depth=1)


def test_slerp_keeps_the_length_and_turns_evenly() -> None:
    """From a to b in equal angles; of nearly the same codes, a straight line.

    Fails with: a straight line for all, a and b exchanged.
    """
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1e-7]])
    for t in (0.0, 0.25, 0.5, 1.0):
        found = slerp(a, b, t)
        assert found[0].tolist() == pytest.approx(
            [math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)], abs=1e-6
        )
        assert found[1].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("sampler", ["heun", "ddpm"])
def test_a_trajectory_ends_in_the_sample(sampler: str) -> None:
    """The same as `sample` draws with that seed. Fails with: other noise, a state too few."""
    model = Diffusion(DIGITS, DiffusionSettings(width=16, depth=1)).eval()
    options = SampleOptions(steps=5, sampler=sampler)
    rows = trajectory(model, 3, seed=4, options=options)
    assert rows.shape == (3, 6, 1, 8, 8) and rows.dtype == torch.uint8
    drawn = model.sample(3, seed=4, options=options)
    assert int((rows[:, -1].int() - drawn.int()).abs().max()) <= 1
    assert trajectory(model, 2, columns=3, options=options).shape == (2, 3, 1, 8, 8)


def test_a_flow_gives_back_what_it_encodes() -> None:
    """Exactly; interpolations end in decoded codes. Fails with: encode and decode exchanged."""
    model = Flow(DIGITS, FlowSettings(width=16, blocks=2, heads=2)).eval()
    raw = torch.randint(0, 17, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    rows = reconstruction(model, raw)
    assert torch.equal(rows[:, 0], raw) and torch.equal(rows[:, 1], raw)
    assert interpolation(model, 4, columns=5).shape == (4, 5, 1, 8, 8)


def test_a_map_of_two_numbers_shows_cells_of_equal_probability() -> None:
    """Quantiles of the prior, first number to the right and second upwards.

    Fails with: equal steps of the code in the place of equal probability, axes exchanged.
    """

    class Shown(GaussianVAE):
        def decode(self, z: torch.Tensor, cond: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return z

    model = Shown(DataSpec((2,), None, scale=(1.0, 1.0), location=(0.0, 0.0)), TWO_NUMBERS)
    rows = manifold(model, 3)
    edge = 0.9674216  # Φ⁻¹(5/6)
    assert rows.shape == (3, 3, 2)
    assert rows[0, 0].tolist() == pytest.approx([-edge, edge], abs=1e-5)
    assert rows[1, 2].tolist() == pytest.approx([edge, 0.0], abs=1e-5)


def test_a_map_of_longer_codes_stays_on_their_sphere() -> None:
    """Its corners are random codes and its middle as long as they are.

    Fails with: straight lines between the corners.
    """
    seen = []

    class Shown(GaussianVAE):
        def decode(self, z: torch.Tensor, cond: Mapping[str, torch.Tensor]) -> torch.Tensor:
            seen.append(z)
            assert cond["label"].tolist() == [2] * 25
            return super().decode(z, cond)

    model = Shown(DIGITS, GaussianVAESettings(latent=200, width=16, depth=1))
    assert manifold(model, 5, cond={"label": torch.tensor([2, 0])}).shape == (5, 5, 1, 8, 8)
    lengths = seen[0].norm(dim=1)
    assert float(lengths.min()) > 12 and float(lengths.max()) < 16.5  # √200 = 14.1
    assert not torch.allclose(seen[0][0], seen[0][-1])


def test_what_a_model_cannot_show_is_said() -> None:
    model = Diffusion(DIGITS, DiffusionSettings(width=16, depth=1)).eval()
    with pytest.raises(UnsupportedCapability, match="Diffusion has no latent code"):
        interpolation(model, 2)
    flow = Flow(DIGITS, FlowSettings(width=16, blocks=2, heads=2)).eval()
    with pytest.raises(UnsupportedCapability, match="Flow has no path"):
        trajectory(flow, 2)


def test_a_worse_model_guides() -> None:
    """worse + w (model - worse) at every step, with and without labels; of itself, nothing changes.

    Fails with: the guide asked without the label, the model led towards it.
    """
    for spec in (DIGITS, DIGITS.unconditional()):
        model, worse = (
            Diffusion(spec, DiffusionSettings(width=16, depth=1)).eval() for _ in range(2)
        )
        with torch.no_grad():
            for parameter in (*model.parameters(), *worse.parameters()):
                parameter.add_(0.1 * torch.randn(parameter.shape))
        plain = SampleOptions(steps=1)
        own, bad = (m.sample(6, options=plain).float() for m in (model, worse))
        led = model.sample(6, options=SampleOptions(steps=1, guidance=1.5, guide=worse)).float()
        inside = (own + 0.5 * (own - bad)).clamp(0, 16)
        clear = (own > 0) & (own < 16) & (bad > 0) & (bad < 16)
        assert bool(clear.any()) and float((led - inside)[clear].abs().max()) <= 1.5
        same = model.sample(6, options=SampleOptions(steps=1, guidance=1.5, guide=model))
        assert float((same.float() - own).abs().max()) <= 1


def test_strips_from_the_command_line(genzoo_says: Genzoo, tmp_path: Path) -> None:
    """A PNG of the film strip, and one line where the family has none."""
    run = tmp_path / "run"
    tiny = ("--budget", "2steps", "--samples", "4", "--no-evaluate", "--set", "width=16")
    assert genzoo_says("train", "--model", "diffusion", *tiny, "--out", run, "-q").code == 0
    out = tmp_path / "film.png"
    said = genzoo_says("sample", run, "-n", "2", "--steps", "3", "--trajectory", "-o", out)
    assert said.code == 0 and out.read_bytes().startswith(b"\x89PNG")
    said = genzoo_says("sample", run, "-n", "2", "--interpolate", "-o", tmp_path / "x.png")
    assert said.code == 2 and "no latent code" in said.err and not (tmp_path / "x.png").exists()
    said = genzoo_says("sample", run, "--guidance-interval", "3", "-o", out)
    assert said.code == 2 and "two numbers" in said.err
