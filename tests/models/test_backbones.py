"""The networks that denoisers share, and the sizes of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Genzoo

from genzoo.checks import IMAGES, check_model
from genzoo.errors import InputError
from genzoo.models.diffusion import Diffusion, DiffusionSettings
from genzoo.nets.backbone import Backbone, build_backbone
from genzoo.nets.unet import grids_of
from genzoo.registry import MODELS, PRESETS, load_class, parse_settings, preset_settings
from genzoo.runs import open_run
from genzoo.types import DataSpec

SIDES = {8: "tiny", 16: "tiny", 28: "small", 32: "small", 64: "base"}
ON_IMAGES: tuple[Backbone, ...] = ("conv", "unet", "dit", "mlp")


def image(side: int) -> DataSpec:
    return DataSpec((3, side, side), 256)


@pytest.mark.parametrize("kind", ON_IMAGES)
@pytest.mark.parametrize("side", [8, 28])
def test_a_backbone_starts_at_nothing_and_then_sees_all(kind: Backbone, side: int) -> None:
    """0 at first; once trained, one pixel's answer depends on the far corner and the condition.

    Fails with: an output that starts elsewhere, a grid that is cut off, a condition not passed on.
    """
    net = build_backbone(
        image(side), kind, patch=0, width=16, depth=4, heads=2, cond_width=5, dropout=0.0
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, side, side, generator=generator, requires_grad=True)
    c = torch.randn(2, 5, generator=generator, requires_grad=True)
    out = net(x, c)
    assert out.shape == x.shape and not bool(out.any())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    by_pixel, by_condition = torch.autograd.grad(net(x, c)[0, 0, side // 2, side // 2], (x, c))
    assert bool(by_pixel[0, :, 0, 0].any()) and bool(by_condition[0].all())
    assert not bool(by_pixel[1].any()) and not bool(by_condition[1].any())


def test_a_unet_halves_while_it_can() -> None:
    """Odd sides end it, and so do three grids. Fails with: halving 7 to 3."""
    assert [grids_of(n, n) for n in (4, 8, 14, 15, 32)] == [2, 3, 2, 1, 3]


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_denoiser_passes_the_contract_with_every_backbone(kind: str) -> None:
    """`conv` and `mlp` are the defaults, and tested as such."""
    small = {"backbone": kind, "width": 32, "depth": 1, "heads": 2, "steps": 6}
    results = check_model("diffusion", settings=small, specs=(IMAGES,))
    assert sum(r.status == "passed" for r in results) >= 12


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_preset_names_settings_that_there_are(name: str) -> None:
    """Also that `tiny` is the defaults. Fails with: a misspelt setting or preset."""
    cls = load_class(name)
    assert set(cls.presets) <= set(PRESETS) - {"tiny"}
    for changed in cls.presets.values():
        parsed = parse_settings(cls.Settings, changed, name)
        assert all(getattr(parsed, key) == value for key, value in changed.items())


def test_auto_goes_by_the_size_of_the_data() -> None:
    """And a preset that is named comes before it. Fails with: < in the place of ≤."""
    cls = load_class("diffusion")
    for side, preset in SIDES.items():
        assert preset_settings(cls, image(side)) == dict(cls.presets.get(preset, {}))
    assert preset_settings(cls, DataSpec((2,), None, scale=(1, 1), location=(0, 0))) == {}
    assert preset_settings(cls, image(8), "base") == dict(cls.presets["base"]) != {}
    with pytest.raises(InputError, match="'smal'.*small"):
        preset_settings(cls, image(8), "smal")


def test_points_have_sizes_and_noise_levels_of_their_own() -> None:
    """What is given stays. Fails with: images' choices for points."""
    points = DataSpec((2,), None, scale=(1, 1), location=(0, 0))
    chosen = [
        (s.width, s.steps, s.log_sigma_mean)
        for s in (Diffusion(spec).settings for spec in (image(8), points))
    ]
    assert chosen == [(64, 18, -0.6), (128, 40, -2.0)]
    given = DiffusionSettings(width=16, steps=3, log_sigma_mean=0.0, log_sigma_std=1.0)
    assert Diffusion(points, given).settings == given


def test_a_run_records_what_its_preset_chose(genzoo_says: Genzoo, tmp_path: Path) -> None:
    """Settings that are given come first. Fails with: the preset over the setting."""
    run = tmp_path / "run"
    how = ("--budget", "1steps", "--samples", "2", "--no-evaluate", "--out", run, "-q")
    asked = ("--preset", "small", "--set", "depth=1")
    assert genzoo_says("train", "--model", "gaussian-vae", *asked, *how).code == 0
    found = open_run(run).config["settings"]
    small = load_class("gaussian-vae").presets["small"]
    assert "width" in small and found["depth"] == 1 and found["width"] == small["width"]
    said = genzoo_says("models", "gaussian-vae")
    assert "--preset small" in said.out and f"width={small['width']}" in said.out
