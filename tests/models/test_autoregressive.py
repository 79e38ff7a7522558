"""The autoregressive models against closed forms, enumeration and their own Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genzoo.data.ranges import from_model
from genzoo.models.autoregressive import Autoregressive, AutoregressiveSettings
from genzoo.models.conditionals import Categorical, Gaussians, Law, Logistics
from genzoo.models.pixelcnn import PixelCNN, PixelCNNSettings
from genzoo.nets.transformer import patchify
from genzoo.noise import NoiseSource
from genzoo.types import DataSpec, SampleOptions

TINY = DataSpec((1, 4, 4), 2)
DIGITS = DataSpec((1, 8, 8), 17, {"label": 2}, (0.5, 0.5))
COLOR = DataSpec((3, 4, 4), 256, {"label": 2}, (0.5, 0.5))
POINTS = DataSpec((2,), None, location=(1.0, -1.0), scale=(3.0, 0.5))  # product not 1

Model = Autoregressive | PixelCNN
Make = Callable[[DataSpec], Model]


def transformer(spec: DataSpec) -> Autoregressive:
    torch.manual_seed(0)
    settings = AutoregressiveSettings(patch=2, width=16, depth=2, heads=2, hidden=8, mixtures=2)
    return Autoregressive(spec, settings)


def convolutions(spec: DataSpec) -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(spec, PixelCNNSettings(width=8, depth=3, hidden=8, mixtures=2))


both = pytest.mark.parametrize("make", [transformer, convolutions])


def shaken(model: Model, amount: float = 0.3) -> Model:
    """Move every parameter, so that zero-initialized layers do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def labels(spec: DataSpec, n: int) -> dict[str, Tensor]:
    return {"label": torch.arange(n) % 2} if spec.cond else {}


def in_order(model: Model, x: Tensor) -> Tensor:
    """The numbers of items in the order in which the model predicts them, (B, tokens, size)."""
    if isinstance(model, Autoregressive):
        return patchify(x, model.patch)
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x[:, None]


# -- likelihood ------------------------------------------------------------------------------


@both
def test_the_masses_of_all_images_sum_to_one(make: Make) -> None:
    """Over all 2¹⁶ images of 4 × 4 bits.

    Fails with: a mask that lets a number see itself, inputs not shifted by one token, one row or
    one pixel, a mean over numbers or tokens for the sum.
    """
    model = shaken(make(TINY))
    bits = torch.arange(2**16)[:, None] >> torch.arange(16) & 1
    with torch.no_grad():
        log_p = torch.cat(
            [model.log_prob(part.view(-1, 1, 4, 4), {}, None) for part in bits.split(4096)]
        )
    assert float(log_p.double().exp().sum()) == pytest.approx(1, abs=1e-4)
    assert float(log_p.std()) > 0.5  # a uniform law would prove nothing


@both
def test_the_density_integrates_to_one_in_data_units(make: Make) -> None:
    """By a grid of the plane; fails with: the Jacobian of the scale left out or inverted."""
    model = shaken(make(POINTS), 0.1)
    side = torch.linspace(-5, 5, 251)
    standard = torch.cartesian_prod(side, side)
    raw = standard * torch.tensor(POINTS.scale) + torch.tensor(POINTS.location)
    cell = float(side[1] - side[0]) ** 2 * math.prod(POINTS.scale)
    with torch.no_grad():
        mass = model.log_prob(raw, {}, None).double().exp().sum() * cell
    assert float(mass) == pytest.approx(1, abs=0.01)


@both
def test_an_untrained_model_is_uniform_over_levels(make: Make) -> None:
    """-log P = D ln L, which is log₂ L bits a dimension; fails with: a mean for the sum."""
    raw = torch.randint(0, 17, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    with torch.no_grad():
        found = make(DIGITS).log_prob(raw, labels(DIGITS, 5), None)
    assert torch.allclose(found, torch.full((5,), -64 * math.log(17.0)), rtol=1e-5)


@both
def test_an_untrained_model_of_points_is_two_gaussians_a_coordinate(make: Make) -> None:
    """Means ±2 and deviation e^-1.5 of standardized data; fails with: no or a wrong Jacobian."""
    raw = torch.tensor([[1.0, -1.0], [4.5, -1.9], [-3.0, 0.1]])
    location, scale = torch.tensor(POINTS.location), torch.tensor(POINTS.scale)
    normal = torch.distributions.Normal
    low = normal(location - 2 * scale, math.exp(-1.5) * scale).log_prob(raw)
    high = normal(location + 2 * scale, math.exp(-1.5) * scale).log_prob(raw)
    exact = (torch.logaddexp(low, high) - math.log(2)).sum(1)
    with torch.no_grad():
        assert torch.allclose(make(POINTS).log_prob(raw, {}, None), exact, atol=1e-4)


# -- order -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("spec", [TINY, COLOR, POINTS], ids=["bits", "color", "points"])
def test_every_number_depends_on_all_earlier_ones_and_on_no_other(
    make: Make, spec: DataSpec
) -> None:
    """The Jacobian of the laws' parameters is strictly lower triangular, without a blind spot.

    Channels are ordered too. Fails with: a mask that lets a number see itself, or the number
    after it; inputs not shifted by one; attention that is not causal; a vertical stack that sees
    its own row; a horizontal stack that is not told of the vertical one.
    """
    model = shaken(make(spec))
    x = torch.randn(1, *spec.shape, generator=torch.Generator().manual_seed(1))

    def parameters(x: Tensor) -> Tensor:
        return model.parameters_of(x, labels(spec, 1))[0]

    jacobian = torch.autograd.functional.jacobian(parameters, x)
    depends = jacobian.abs().amax(2).view(spec.dim, *spec.shape)  # by number, on every input
    depends = in_order(model, depends).reshape(spec.dim, spec.dim)
    earlier = torch.ones(spec.dim, spec.dim, dtype=torch.bool).tril(-1)
    assert bool((depends[~earlier] == 0).all())
    assert bool((depends[earlier] > 0).all())


@both
@pytest.mark.parametrize("spec", [DIGITS, COLOR, POINTS], ids=["digits", "color", "points"])
def test_sampling_step_by_step_agrees_with_one_parallel_pass(make: Make, spec: DataSpec) -> None:
    """What was drawn with caches and windows is what the laws of the whole drawn item give.

    Fails with: a position or weight of the wrong number, caches mixed up between layers, a window
    of rows one too short, uniform numbers in another order, a temperature left out on the way.
    """
    model, temperature = shaken(make(spec)), 0.8
    cond = labels(spec, 40)
    with torch.no_grad():
        x = model.draw(NoiseSource(3, 0, 40), cond, SampleOptions(temperature=temperature))
        parameters = model.parameters_of(x, cond)
        uniform = NoiseSource(3, 0, 40).uniform(*parameters.shape[1:3], 2)
        expected = model.head.law.sample(parameters, uniform, temperature)
    drawn = in_order(model, x)
    if spec.is_image:  # rounding may choose the neighbour, and nothing else
        gap = (from_model(drawn, spec).int() - from_model(expected, spec).int()).abs()
        assert int(gap.max()) <= 1 and float((gap > 0).float().mean()) < 1e-3
    else:
        assert torch.allclose(drawn, expected, atol=1e-4)
    assert float(drawn.std()) > 0.1


# -- laws ------------------------------------------------------------------------------------


def quantiles(n: int) -> Tensor:
    """A regular grid of pairs of uniform numbers, (n², 2)."""
    side = (torch.arange(n) + 0.5) / n
    return torch.cartesian_prod(side, side)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_categorical_law_draws_what_it_says(temperature: float) -> None:
    """p(level)^(1/T), normalized; fails with: the temperature ignored or multiplied."""
    law = Categorical(DataSpec((1, 8, 8), 5))
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.7])
    x = law.sample(logits.expand(200**2, -1), quantiles(200), temperature)
    levels = torch.linspace(-1, 1, 5)
    shares = (x[:, None] == levels).float().mean(0)
    expected = law.log_prob(levels, logits.expand(5, -1)).div(temperature).softmax(0)
    assert torch.allclose(shares, expected, atol=0.01)


def test_the_logistic_law_draws_what_it_says() -> None:
    """Shares of all levels against their masses, which sum to 1, the outermost included.

    Fails with: a scale for its logarithm, a component chosen uniformly, no rounding to levels.
    """
    spec = DataSpec((1, 8, 8), 33)
    law: Law = Logistics(spec, 2)
    parameters = torch.tensor([0.5, -0.5, 0.3, -0.2, -0.3, 0.4])
    x = law.sample(parameters.expand(400**2, -1), quantiles(400), 1.0)
    levels = torch.linspace(-1, 1, 33)
    mass = law.log_prob(levels, parameters.expand(33, -1)).exp()
    shares = (x[:, None] - levels).abs().lt(1e-5).float().mean(0)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(shares, mass, atol=0.01)


def test_the_gaussian_law_draws_what_it_says() -> None:
    """Mean and variance of a mixture in closed form, and its density at a point.

    Fails with: a deviation for its logarithm, a component chosen uniformly, weights not in the sum.
    """
    law = Gaussians(2)
    parameters = torch.tensor([1.0, 0.0, 0.5, -0.5, 1.0, 0.5])
    weight = torch.tensor([1.0, 0.0]).softmax(0)
    mean, std = torch.tensor([-1.5, 1.5]), torch.tensor([-0.5, -1.0]).exp()
    x = law.sample(parameters.expand(400**2, -1), quantiles(400), 1.0)
    expected = (weight * mean).sum()
    spread = (weight * (std**2 + mean**2)).sum() - expected**2
    assert float(x.mean()) == pytest.approx(float(expected), abs=0.01)
    assert float(x.var()) == pytest.approx(float(spread), rel=0.01)
    density = (
        weight * torch.distributions.Normal(mean, std).log_prob(torch.tensor(0.4)).exp()
    ).sum()
    found = law.log_prob(torch.tensor(0.4), parameters)
    assert float(found) == pytest.approx(float(density.log()), abs=1e-5)
