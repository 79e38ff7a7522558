"""Coupling flows and the denoising of flows against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from genzoo.model import evaluating
from genzoo.models.coupling_flows import (
    AffineFlowSettings,
    CouplingFlow,
    Glow,
    RealNVP,
    SplineFlow,
    SplineFlowSettings,
)
from genzoo.models.flow import Flow, FlowSettings, tweedie
from genzoo.nets.couplings import (
    ActNorm,
    AffineCoupling,
    Chain,
    ChannelMix,
    Map,
    SplineCoupling,
    checkerboard,
    first_half,
)
from genzoo.nets.splines import Knots, inverse_spline, knots, parameters_of, spline
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, SampleOptions

IMAGES = DataSpec((1, 8, 8), 17, {"label": 3}, (0.5, 0.3, 0.2))
COLOURS = DataSpec((3, 4, 8), 256)
POINTS = DataSpec((2,), None, location=(1.0, -1.0), scale=(2.0, 0.5))
LABELLED = DataSpec((3,), None, {"label": 2}, (0.5, 0.5), (0.0,) * 3, (1.0,) * 3)
LINE = DataSpec((1,), None, location=(0.0,), scale=(1.0,))
SPECS = {"images": IMAGES, "colours": COLOURS, "points": POINTS, "labelled": LABELLED, "line": LINE}
FLOWS = (RealNVP, Glow, SplineFlow)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: nn.Module, amount: float = 0.2) -> nn.Module:
    """Move every parameter, so that what starts at zero does something."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(amount * randn(*parameter.shape, seed=i))
    return module.eval()


def small(cls: type[CouplingFlow], spec: DataSpec, **other: float) -> CouplingFlow:
    torch.manual_seed(0)
    settings = SplineFlowSettings if cls is SplineFlow else AffineFlowSettings
    network = "conv" if spec is COLOURS else "auto"
    couplings = 12 if spec.is_image else 4
    return cls(spec, settings(width=16, scales=3, couplings=couplings, network=network, **other))  # type: ignore[arg-type]


def cond_of(spec: DataSpec, n: int) -> dict[str, Tensor]:
    return {"label": torch.arange(n) % spec.num_classes} if spec.cond else {}


# -- splines -----------------------------------------------------------------------------------


def some_knots(seed: int = 0, bins: int = 5, bound: float = 3.0) -> Knots:
    return knots(2 * randn(parameters_of(bins), seed=seed).double(), bins, bound)


def everywhere(at: Knots, x: Tensor) -> Knots:
    return Knots(*(part.expand(*x.shape, -1) for part in at))


@pytest.mark.parametrize("seed", range(3))
def test_a_spline_rises_and_its_slope_is_the_derivative(seed: int) -> None:
    """log dy/dx of equation 5 against autograd, inside and outside of the square.

    Fails with: the log-derivative's sign flipped, log(secant) once for twice, d0 and d1 exchanged.
    """
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64, requires_grad=True)
    y, log_slope = spline(x, everywhere(some_knots(seed), x))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert bool((y.diff() > 0).all())
    assert torch.allclose(log_slope, slope.log(), atol=1e-8)


def test_a_spline_runs_through_its_knots_and_is_the_identity_outside() -> None:
    """Fails with: bins counted from 1 (the bin off by one), tails of another slope than 1."""
    at = some_knots()
    y, log_slope = spline(at.x[1:-1], everywhere(at, at.x[1:-1]))
    assert torch.allclose(y, at.y[1:-1]) and torch.allclose(log_slope, at.slope[1:-1].log())
    far = torch.tensor([-100.0, -3.0, 3.0, 7.5], dtype=torch.float64)
    y, log_slope = spline(far, everywhere(at, far))
    assert torch.equal(y, far) and bool((log_slope == 0).all())
    assert torch.equal(inverse_spline(far, everywhere(at, far)), far)


def test_a_splines_derivative_is_continuous_at_every_knot() -> None:
    """Also where the tails begin. Fails with: end slopes learned for fixed at 1."""
    at = some_knots()
    for corner in at.x:
        sides = torch.stack([corner - 1e-12, corner + 1e-12])
        left, right = spline(sides, everywhere(at, sides))[1]
        assert float(left) == pytest.approx(float(right), abs=1e-5)


def test_an_inverse_spline_inverts() -> None:
    """Fails with: the other root, the bin looked up among x for y."""
    at = some_knots(1)
    x = torch.linspace(-4, 4, 1001, dtype=torch.float64)
    y, _ = spline(x, everywhere(at, x))
    assert torch.allclose(inverse_spline(y, everywhere(at, y)), x, atol=1e-9)
    assert float((y - x).abs().max()) > 0.3


def test_a_spline_of_zeros_is_the_identity() -> None:
    """Fails with: slopes that start at softplus(0)."""
    at = knots(torch.zeros(parameters_of(8)), 8, 5.0)
    x = torch.linspace(-6, 6, 101)
    y, log_slope = spline(x, everywhere(at, x))
    assert torch.allclose(y, x, atol=1e-5) and torch.allclose(log_slope, 0 * x, atol=1e-5)


# -- maps --------------------------------------------------------------------------------------


def network(inputs: int, outputs: int) -> nn.Module:
    """A convolution, and an ear for the condition."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.hear = nn.Linear(2, outputs)

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            out: Tensor = self.conv(x) + self.hear(c)[:, :, None, None]
            return out

    return Net()


MAPS = {
    "norm": lambda: ActNorm(4),
    "mix": lambda: ChannelMix(4),
    "affine": lambda: AffineCoupling(checkerboard(1, 2), network, 3.0),
    "spline": lambda: SplineCoupling(first_half(4), network, 4, 2.0),
    "chain": lambda: Chain([ActNorm(4), ChannelMix(4), AffineCoupling(first_half(4), network, 2)]),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_maps_log_det_is_its_jacobians_and_it_inverts(name: str) -> None:
    """Of every building block, per item, on a grid of several positions.

    Fails with: the log-determinant's sign flipped, the determinant of the 1×1 convolution left out
    or not counted at every position, a mean over numbers for their sum.
    """
    torch.manual_seed(0)
    each = shaken(MAPS[name]().double(), 0.4)
    assert isinstance(each, Map)
    x, c = randn(3, 4, 2, 3, seed=1).double(), randn(3, 2, seed=2).double()
    y, log_det = each(x, c)
    jacobian = torch.autograd.functional.jacobian(lambda v: each(v, c)[0].sum(0), x)
    matrices = jacobian.flatten(0, 2).movedim(1, 0).reshape(3, 24, 24)
    expected = torch.linalg.slogdet(matrices).logabsdet
    assert torch.allclose(log_det.double(), expected, atol=1e-5)
    assert float(expected.abs().min()) > 0.05  # the identity would prove nothing
    assert torch.allclose(each.inverse(y, c), x, atol=1e-6)


def test_act_norm_starts_with_the_data_standardized() -> None:
    """Channel by channel over items and positions; a channel that never varies stays finite.

    Fails with: variance for standard deviation, a mean over the items alone.
    """
    norm = ActNorm(3)
    x = torch.tensor([1.0, 5.0, 0.0])[:, None, None] * randn(50, 3, 4, 4) + 7
    norm.initialize(x)
    y, _ = norm(x, torch.zeros(50, 0))
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(y[:, :2].std((0, 2, 3), correction=0), torch.ones(2), atol=1e-3)


@pytest.mark.parametrize("cls", [Glow, SplineFlow])
def test_every_act_norm_is_initialized_by_what_reaches_it(cls: type[CouplingFlow]) -> None:
    """After `on_fit_start` what leaves each of them has mean 0 and variance 1, on all scales.

    Fails with: all of them initialized by the data themselves.
    """
    flow = small(cls, IMAGES)
    x = 0.3 * randn(200, 1, 8, 8) - 0.5
    flow.on_fit_start(Batch(x, cond_of(IMAGES, 200)), torch.Generator().manual_seed(0))
    norms = [m for m in flow.modules() if isinstance(m, ActNorm)]
    assert len(norms) == 12
    seen: list[Tensor] = []
    for norm in norms:
        norm.register_forward_hook(lambda m, args, out: seen.append(out[0]))
    with torch.no_grad(), evaluating(flow):
        flow.encode(flow.blurred(x), cond_of(IMAGES, 200))
    for y in seen:
        assert float(y.mean((0, 2, 3)).abs().max()) < 0.1
        assert float((y.std((0, 2, 3)) - 1).abs().max()) < 0.1


def test_realnvps_masks_change_every_number_and_alternate() -> None:
    """Squeezed pixels form a checkerboard; two couplings in a row change all numbers once.

    Fails with: the mask not alternating.
    """
    board = nn.functional.pixel_shuffle(checkerboard(1, 4).float().view(1, 16, 1, 1), 4)[0, 0]
    assert torch.equal(board, (torch.arange(4)[:, None] + torch.arange(4) + 1) % 2)
    flow = small(RealNVP, IMAGES)
    masks = [m.kept.flatten() for m in flow.modules() if isinstance(m, AffineCoupling)]
    assert len(masks) == 12
    for first, second in zip(masks[::2], masks[1::2], strict=True):
        assert torch.equal(first + second, torch.ones_like(first))


# -- whole flows -------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("cls", FLOWS)
def test_a_flows_log_det_is_its_jacobians_and_it_inverts(
    cls: type[CouplingFlow], spec: DataSpec
) -> None:
    """Fails with: a scale's log-determinant left out, the parts of the latent in another order."""
    flow = shaken(small(cls, spec), 0.07)
    assert isinstance(flow, CouplingFlow)
    x, cond = randn(4, *spec.shape, seed=1), cond_of(spec, 4)

    def encode(x: Tensor) -> Tensor:
        return flow.encode(x[None], {k: v[1:2] for k, v in cond.items()})[0]

    jacobian = torch.autograd.functional.jacobian(encode, x[1]).reshape(spec.dim, spec.dim)
    with torch.no_grad():
        z, log_det = flow.encode_with_log_det(x, cond)
        back = flow.decode(z, cond)
    expected = torch.linalg.slogdet(jacobian.double()).logabsdet
    assert float(log_det[1]) == pytest.approx(float(expected), abs=2e-3)
    assert z.shape == (4, spec.dim) and torch.allclose(back, x, atol=1e-4)
    assert abs(float(expected)) > 0.05 or spec is LINE


@pytest.mark.parametrize("cls", FLOWS)
def test_a_flows_density_integrates_to_one(cls: type[CouplingFlow]) -> None:
    """Fails with: the log-determinant's sign flipped or halved."""
    flow = shaken(small(cls, POINTS), 0.15)
    assert isinstance(flow, CouplingFlow)
    side = torch.linspace(-10, 10, 321)
    with torch.no_grad():
        log_p = flow.log_density(torch.cartesian_prod(side, side), {})
    assert float(log_p.double().exp().sum()) * (20 / 320) ** 2 == pytest.approx(1, abs=0.01)


def test_sides_that_cannot_be_halved_have_one_scale() -> None:
    assert len(small(Glow, DataSpec((1, 28, 28), 256)).scales) == 1  # 7 × 7 patches
    assert len(small(Glow, DataSpec((3, 24, 48), 256)).scales) == 2  # 6 × 12, 3 × 6
    assert len(small(Glow, POINTS).scales) == 1


# -- denoising ---------------------------------------------------------------------------------


def test_tweedie_is_the_posterior_mean_of_a_gaussian() -> None:
    """x₀ ~ N(m, s²), x = x₀ + σε: E[x₀ | x] = m + s² / (s² + σ²) (x - m).

    Fails with: the score's sign flipped, σ for σ², the mean of the densities for their sum.
    """
    m, s, sigma = 0.7, 0.5, 0.3
    x = randn(6, 4)
    law = torch.distributions.Normal(m, math.hypot(s, sigma))
    with torch.no_grad():  # as in `sample`
        found = tweedie(lambda x: law.log_prob(x).sum(1), x, sigma)
    assert torch.allclose(found, m + s**2 / (s**2 + sigma**2) * (x - m), atol=1e-6)


def test_a_flow_trained_with_noise_denoises_its_samples() -> None:
    """A flow that is the identity is N(0, I), so its samples shrink by 1 - σ²; points keep theirs.

    Fails with: samples returned as decoded, points denoised of noise that they never had.
    """
    for spec, share in ((IMAGES, 0.75), (POINTS, 1.0)):
        flow = Flow(spec, FlowSettings(width=16, blocks=2, heads=2, noise=0.5)).eval()
        cond = cond_of(spec, 5)
        with torch.no_grad():
            found = flow.draw(NoiseSource(0, 0, 5), cond, SampleOptions())
            z = flow.decode(NoiseSource(0, 0, 5).normal(*flow.latent_shape), cond)
        assert torch.allclose(found, share * z, atol=1e-5) and not found.requires_grad
        assert all(parameter.grad is None for parameter in flow.parameters())


@pytest.mark.parametrize("cls", FLOWS)
def test_training_noise_is_gaussian_and_replaces_dequantization(cls: type[CouplingFlow]) -> None:
    """Fails with: noise added to dequantized data, or variance for standard deviation."""
    torch.manual_seed(0)
    gap = small(cls, IMAGES, noise=0.05).blurred(torch.zeros(200, 1, 8, 8))
    assert float(gap.std()) == pytest.approx(0.05, rel=0.02)
    assert float(gap.pow(4).mean() / gap.var() ** 2) == pytest.approx(3, abs=0.2)
    quiet = small(cls, IMAGES, noise=0.0).blurred(torch.zeros(200, 1, 8, 8))
    assert float(quiet.abs().max()) <= 1 / 16
    points = torch.zeros(5, 2)
    assert torch.equal(small(cls, POINTS, noise=0.05).blurred(points), points)
