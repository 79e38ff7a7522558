"""Derived operations against closed forms: the probability flow, bounds, sums over labels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genzoo.data.ranges import dequantize, log_bin_volume
from genzoo.denoiser_likelihood import (
    FlowSolver,
    denoise_with_trace,
    density_range,
    flow_log_density,
    solve_rows,
    trace_probes,
    variational_bound,
)
from genzoo.errors import InputError, UnsupportedCapability
from genzoo.model import GenerativeModel, HasLikelihood
from genzoo.noise import NoiseSource
from genzoo.ops import FlowLikelihood, bits_per_dim, likelihood_of, log_likelihood
from genzoo.registry import build
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, SampleOptions, TrainState

TIGHT = FlowSolver(tolerance=1e-7)


class GaussianDenoiser:
    """The posterior mean of N(mean, covariance) data: D = μ + C (C + σ²)⁻¹ (x - μ)."""

    def __init__(self, mean: Tensor, covariance: Tensor, sigma_range: tuple[float, float]) -> None:
        self.mean, self.sigma_range = mean, sigma_range
        self.variance, self.axes = torch.linalg.eigh(covariance)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        gain = self.variance / (self.variance + sigma[:, None] ** 2)
        return self.mean + ((x - self.mean) @ self.axes * gain) @ self.axes.T

    def log_density(self, x: Tensor) -> Tensor:
        """Of what the flow carries from N(0, σ_max²) to σ_min: linear, so Gaussian."""
        low, high = (self.variance + sigma**2 for sigma in self.sigma_range)
        end = self.mean + ((x - self.mean) @ self.axes * (high / low).sqrt()) @ self.axes.T
        log_prior = torch.distributions.Normal(0.0, self.sigma_range[1]).log_prob(end).sum(1)
        return log_prior + 0.5 * (high / low).log().sum()


def gaussian(dim: int, sigma_range: tuple[float, float] = (0.002, 80.0)) -> GaussianDenoiser:
    generator = torch.Generator().manual_seed(dim)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    mean = torch.randn(dim, generator=generator, dtype=torch.float64)
    return GaussianDenoiser(mean, root @ root.T + 0.05 * torch.eye(dim), sigma_range)


def drawn(denoiser: GaussianDenoiser, n: int) -> Tensor:
    z = torch.randn(n, len(denoiser.mean), generator=torch.Generator().manual_seed(0)).double()
    return denoiser.mean + (z * denoiser.variance.sqrt()) @ denoiser.axes.T


class MixtureDenoiser:
    """Posterior mean of ½ N(-m, s²) + ½ N(m, s²) in two dimensions."""

    def __init__(self, sigma_range: tuple[float, float]) -> None:
        self.sigma_range, self.centers = sigma_range, torch.tensor([[-1.2, 0.4], [1.2, -0.4]])
        self.s = 0.3

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        centers = self.centers.to(x)
        variance = self.s**2 + sigma[:, None, None] ** 2
        offset = x[:, None] - centers
        weight = (-0.5 * offset.square().sum(2, keepdim=True) / variance).softmax(1)
        return (weight * (centers + self.s**2 / variance * offset)).sum(1)

    def log_density(self, x: Tensor) -> Tensor:
        std = math.hypot(self.s, self.sigma_range[0])
        normal = torch.distributions.Normal(self.centers.to(x), std)
        return normal.log_prob(x[:, None]).sum(2).logsumexp(1) - math.log(2)


# -- the flow's density ----------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_a_gaussians_flow_has_its_density(dim: int) -> None:
    """Exact trace: the closed form to the tolerance.

    Fails with: the trace's sign, the change of volume left out, N(0, σ² + scale²) at the top.
    """
    denoiser = gaussian(dim)
    x = drawn(denoiser, 20)
    found = flow_log_density(denoiser, x, {}, solver=TIGHT)
    assert torch.allclose(found, denoiser.log_density(x), atol=1e-5)


def test_hutchinsons_trace_is_right_in_mean() -> None:
    """In 12 dimensions many probes average to the closed form.

    Fails with: probes of variance other than 1, new probes in each step (the steps never end).
    """
    denoiser = gaussian(12)
    x = drawn(denoiser, 6)
    exact = denoiser.log_density(x)
    solver = FlowSolver(1e-4, probes=3)
    draws = torch.stack(
        [
            flow_log_density(
                denoiser, x, {}, solver=solver, generator=torch.Generator().manual_seed(k)
            )
            for k in range(60)
        ]
    )
    error = draws.std(0) / math.sqrt(len(draws))
    assert bool(((draws.mean(0) - exact).abs() < 4 * error + 1e-3).all())
    assert bool((error > 1e-3).all())  # random indeed


def test_a_mixtures_flow_has_its_density_and_integrates_to_one() -> None:
    """Two Gaussians blurred by σ_min = 0.1, which is part of the law.

    The start N(0, σ_max²) ignores the data's spread: off by about |μ|/σ_max nats.
    Fails with: σ_min forgotten (0.3 for √(0.3² + 0.1²)), slope over σ instead of ln σ.
    """
    denoiser = MixtureDenoiser((0.1, 1000.0))
    side = torch.linspace(-3.5, 3.5, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    found = flow_log_density(denoiser, grid, {}, solver=FlowSolver(1e-4))
    assert float(found.exp().sum()) * float(side[1] - side[0]) ** 2 == pytest.approx(1, abs=1e-3)
    near = denoiser.log_density(grid) > -12
    assert torch.allclose(found[near], denoiser.log_density(grid)[near], atol=0.02)


def test_a_tighter_tolerance_is_nearer() -> None:
    """Errors fall with the tolerance. Fails with: the fourth-order weights in the step."""
    denoiser = MixtureDenoiser((0.01, 80.0))
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    exact = flow_log_density(denoiser, x, {}, solver=FlowSolver(1e-9))
    error = [
        float((flow_log_density(denoiser, x, {}, solver=FlowSolver(t)) - exact).abs().max())
        for t in (1e-3, 1e-5, 1e-7)
    ]
    assert error[0] < 0.05 and error[1] < error[0] / 10 and error[2] < error[1] / 10


@settings(max_examples=8, deadline=None)
@given(scale=st.floats(0.2, 5.0), low=st.floats(0.002, 0.1))
def test_the_scale_changes_the_cost_not_the_answer(scale: float, low: float) -> None:
    """Fails with: `scale` in the start's density, ``end`` and ``start`` exchanged."""
    denoiser = gaussian(2, (low, 80.0))
    x = drawn(denoiser, 5)
    found = flow_log_density(denoiser, x, {}, scale=scale, solver=FlowSolver(1e-6))
    assert torch.allclose(found, denoiser.log_density(x), atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(8)))
def test_no_item_depends_on_its_neighbours(order: list[int]) -> None:
    """Alone, or in any order. Fails with: one step size for the batch, rows not carried along."""
    denoiser = MixtureDenoiser((0.01, 80.0))
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).view(8, 2)
    whole = flow_log_density(denoiser, x, {})
    assert torch.allclose(flow_log_density(denoiser, x[order], {}), whole[order], atol=1e-9)
    assert torch.allclose(flow_log_density(denoiser, x[:1], {}), whole[:1], atol=1e-9)


def test_conditions_follow_their_rows() -> None:
    """Each row has its own mean, and rows arrive at different times.

    Fails with: `cond` passed whole, or cut to its first rows.
    """

    class Labelled(MixtureDenoiser):
        def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            shift = cond["label"].to(x)[:, None]
            return super().denoise(x - shift, sigma, {}) + shift

    labels = torch.tensor([0, 3, 1, 2])
    x = torch.zeros(4, 2, dtype=torch.float64) + labels[:, None]
    x[2:] += 1.5
    found = flow_log_density(Labelled((0.01, 1e4)), x, {"label": labels}, solver=TIGHT)
    plain = flow_log_density(MixtureDenoiser((0.01, 1e4)), x - labels[:, None], {}, solver=TIGHT)
    assert torch.allclose(found, plain, atol=1e-2)
    assert abs(float(plain[0] - plain[2])) > 1


def test_a_broken_denoiser_gives_nan_where_it_breaks() -> None:
    """One item in three turns NaN on the way; the others are as without it.

    Fails with: NaN accepted as a small error, the whole batch given up.
    """

    class Breaks(MixtureDenoiser):
        def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            out = super().denoise(x, sigma, cond)
            return torch.where((cond["bad"][:, None] > 0) & (sigma[:, None] > 1), math.nan, out)

    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    found = flow_log_density(Breaks((0.01, 80.0)), x, {"bad": torch.tensor([0, 1, 0])})
    assert found.isnan().tolist() == [False, True, False]
    expected = flow_log_density(MixtureDenoiser((0.01, 80.0)), x, {})
    assert torch.allclose(found[[0, 2]], expected[[0, 2]])


def test_steps_are_limited() -> None:
    """Fails with: `max_steps` ignored."""
    found = flow_log_density(
        MixtureDenoiser((0.01, 80.0)), torch.zeros(2, 2), {}, solver=FlowSolver(max_steps=3)
    )
    assert bool(found.isnan().all())


def test_solve_rows_solves_a_linear_equation() -> None:
    """y' = a y with a rate for each row. Fails with: rates taken by position, not by row."""
    rate = torch.tensor([-8.0, 0.3, 1.0, 2.0], dtype=torch.float64)

    def slope(time: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        return rate[rows, None] * state

    out = solve_rows(slope, torch.ones(4, 2, dtype=torch.float64), 0.0, 2.0, FlowSolver(1e-9))
    assert torch.allclose(out, (2 * rate).exp()[:, None].expand(4, 2), rtol=1e-6)


def test_the_trace_is_exact_in_few_dimensions_and_unbiased_in_many() -> None:
    """Of a matrix that is not symmetric. Fails with: axes without √D, probes in {0, 1}."""
    for dim in (1, 3, 4, 7):
        matrix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(dim)).double()

        class Linear:
            sigma_range = (0.1, 1.0)

            def denoise(
                self,
                x: Tensor,
                sigma: Tensor,
                cond: Mapping[str, Tensor],
                matrix: Tensor = matrix,
            ) -> Tensor:
                return x @ matrix.T

        x = torch.zeros(2000, dim, dtype=torch.float64)
        probes = trace_probes(x, FlowSolver(probes=2), torch.Generator().manual_seed(0))
        trace = denoise_with_trace(Linear(), x, torch.ones(2000), {}, probes)[1]
        error = 1e-9 if dim <= 4 else 4 * float(trace.std()) / math.sqrt(2000)
        assert float(trace.mean()) == pytest.approx(float(matrix.trace()), abs=error)
        assert (float(trace.std()) < 1e-9) == (dim <= 4)


@pytest.mark.parametrize("bad", [{"tolerance": 0.0}, {"tolerance": math.nan}, {"probes": 0}])
def test_a_solver_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        FlowSolver(**bad)  # type: ignore[arg-type]


def test_levels_are_asked_at_the_noise_of_their_dequantization() -> None:
    """Width/√12 for 17 levels; 256 levels and points keep σ_min near theirs."""
    sigmas = (0.002, 80.0)
    assert density_range(DataSpec((1, 2, 2), 17), sigmas)[0] == pytest.approx(0.125 / math.sqrt(12))
    assert density_range(DataSpec((1, 2, 2), 256), sigmas)[0] == pytest.approx(0.00226, abs=1e-5)
    assert density_range(DataSpec((2,), None), sigmas) == sigmas


# -- the variational bound -------------------------------------------------------------------

SHARES = torch.tensor([0.5, 0.2, 0.0, 0.2, 0.1], dtype=torch.float64)


class LevelDenoiser:
    """Posterior mean of one pixel whose level k has probability SHARES[k]."""

    sigma_range = (0.002, 80.0)
    places = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        flat = x.flatten(1)
        logits = SHARES.log() - 0.5 * ((flat - self.places) / sigma[:, None]) ** 2
        return (logits.softmax(1) * self.places).sum(1).view_as(x)


def test_the_variational_bound_of_the_true_denoiser_is_the_probability() -> None:
    """Tight where the latent tells the level: the mean bound of level k is log SHARES[k].

    Fails with: half or double the integral, the KL to the prior with σ_max for σ_max².
    """
    for level in (0, 1, 4):
        x = LevelDenoiser.places[level].expand(4000, 1, 1, 1)
        found = variational_bound(
            LevelDenoiser(),
            x,
            {},
            levels=5,
            sigma_range=(0.05, 80.0),
            draws=32,
            generator=torch.Generator().manual_seed(level),
        )
        error = float(found.std()) / math.sqrt(len(found))
        assert error < 0.02
        assert float(found.mean()) == pytest.approx(math.log(SHARES[level]), abs=4 * error)


def test_the_variational_bound_is_a_bound_where_the_latent_is_noisy() -> None:
    """σ_min as wide as a level: the law is ∫ p(z) P(level | z) dz, here by a sum over z.

    Fails with: the decoder left out, or not normalized over the levels.
    """
    places, sigma = LevelDenoiser.places, 0.5
    z = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    kernel = torch.distributions.Normal(places, sigma).log_prob(z[:, None]).exp()
    mass = ((kernel * SHARES).sum(1, keepdim=True) * kernel / kernel.sum(1, keepdim=True)).sum(0)
    mass = mass * float(z[1] - z[0])
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)
    for level, exact in enumerate(mass.log().tolist()):
        found = variational_bound(
            LevelDenoiser(),
            places[level].expand(4000, 1, 1, 1),
            {},
            levels=5,
            sigma_range=(sigma, 80.0),
            draws=32,
            generator=torch.Generator().manual_seed(0),
        )
        error = float(found.std()) / math.sqrt(len(found))
        assert exact - 0.6 < float(found.mean()) < exact + 4 * error


def test_the_variational_bound_pays_for_a_prior_that_is_too_narrow() -> None:
    """What a smaller σ_max saves in denoising is paid to the prior, |x|²/2σ_max².

    Fails with: the KL to the prior left out, with σ_max for σ_max², or with twice its size.
    """

    def bound(high: float) -> tuple[float, float]:
        found = variational_bound(
            ZeroDenoiser(),
            torch.ones(1000, 1, 1, 1, dtype=torch.float64),
            {},
            levels=5,
            sigma_range=(0.05, high),
            draws=400,
            generator=torch.Generator().manual_seed(0),
        )
        return float(found.mean()), 4 * float(found.std()) / math.sqrt(len(found))

    # D = 0: the denoising cost is ∫ |x|²/σ³ dσ = ½ (1/σ_min² - 1/σ_max²), so the sum stays.
    for high in (0.5, 2.0, 80.0):
        value, error = bound(high)
        assert value == pytest.approx(-0.5 / 0.05**2, abs=error + 0.01)


class ZeroDenoiser:
    sigma_range = (0.05, 80.0)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros_like(x)


# -- any denoiser, any label -----------------------------------------------------------------


class PlainDenoiser(GenerativeModel):
    """A Gaussian denoiser without a likelihood of its own."""

    sigma_range = (0.002, 80.0)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        raise AssertionError("never asked")

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        raise AssertionError("never asked")

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        square = sigma.view(-1, *[1] * (x.ndim - 1)) ** 2
        return 0.25 / (0.25 + square) * x


def test_any_denoiser_has_an_estimate_in_data_units() -> None:
    """N(0, ½²) in model space. Fails with: the scale's Jacobian left out."""
    spec = DataSpec((2,), None, location=(1.0, -1.0), scale=(3.0, 0.5))
    model = PlainDenoiser(spec)
    able = likelihood_of(model)
    assert isinstance(able, FlowLikelihood) and able.likelihood == "estimate"
    assert isinstance(able, HasLikelihood) and "exact trace" in able.likelihood_convention
    raw = torch.tensor([[1.0, -1.0], [2.5, -0.8]])
    exact = torch.distributions.Normal(
        torch.tensor(spec.location), 0.5 * torch.tensor(spec.scale)
    ).log_prob(raw)
    assert log_likelihood(model, raw).tolist() == pytest.approx(exact.sum(1).tolist(), abs=2e-3)


def test_any_denoiser_has_an_estimate_of_levels() -> None:
    """The Gaussian's density at the dequantized pixels times the bins' volume.

    Fails with: no dequantization, 256 for 17 levels, σ_min for the law's noise.
    """
    spec = DataSpec((1, 4, 4), 17)
    raw = torch.randint(4, 13, (5, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    able = likelihood_of(PlainDenoiser(spec))
    assert able is not None
    found = able.log_prob(raw, {}, torch.Generator().manual_seed(1))
    x = dequantize(raw, spec, torch.Generator().manual_seed(1))
    std = math.hypot(0.5, density_range(spec, (0.002, 80.0))[0])
    exact = torch.distributions.Normal(0.0, std).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(found, exact + log_bin_volume(spec), atol=0.05)


def test_a_model_without_likelihood_is_refused() -> None:
    spec = DataSpec((1, 8, 8), 17, {"label": 2}, (0.5, 0.5))
    assert likelihood_of(build("gan", spec)) is None
    with pytest.raises(UnsupportedCapability, match="GAN has no likelihood"):
        log_likelihood(build("gan", spec), torch.zeros(1, 1, 8, 8).byte())


def test_bits_per_dim_of_a_coin() -> None:
    """Four fair bits. Fails with: nats, D left out."""
    spec = DataSpec((1, 2, 2), 2)
    assert float(bits_per_dim(torch.tensor(4 * math.log(0.5)), spec)) == pytest.approx(1)


LABELLED = DataSpec((1, 2, 2), 2, {"label": 4}, (0.4, 0.3, 0.3, 0.0))


class Rough(PlainDenoiser):
    """A different table of log P(x | y) for every item; a rough one is off by up to 2 nats."""

    likelihood: LikelihoodKind = "bound"
    summable = True
    noise = 0.0
    table = torch.tensor([[-1.0, -50.0, -2.0, 9.0], [-70.0, -5.0, -60.0, 9.0]])

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.asked: list[list[int]] = []
        self.seeds: set[int] = set()
        self.rough_seeds: set[int] = set()

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        assert generator is not None
        self.asked.append(cond["label"].tolist())
        self.seeds.add(generator.initial_seed())
        value = self.table[raw[:, 0, 0, 0].long(), cond["label"]]
        # Of every label its own noise: the order of calls is the labels' rank.
        extra = torch.randn(len(raw), generator=torch.Generator().manual_seed(len(self.asked)))
        return value + self.noise * extra

    def rough_log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        assert generator is not None
        self.rough_seeds.add(generator.initial_seed())
        return self.table[raw[:, 0, 0, 0].long(), cond["label"]] + 7 + 0.5 * (-1) ** cond["label"]


def test_hopeless_labels_are_left_out_of_the_sum() -> None:
    """Two of the three labels suffice; the sum is as if all were asked; label 3 never occurs.

    Fails with: the first labels for the best, a prior of the wrong label, label 3 asked.
    """
    model = Rough(LABELLED)
    raw = torch.tensor([0, 1, 0]).view(3, 1, 1, 1).expand(3, 1, 2, 2).byte()
    found = log_likelihood(model, raw)
    assert [row[:2] for row in model.asked] == [[0, 1], [2, 2]]
    first = math.log(0.4 * math.exp(-1) + 0.3 * math.exp(-2) + 0.3 * math.exp(-50))
    second = math.log(0.3) - 5.0
    assert found.tolist() == pytest.approx([first, second, first], abs=1e-6)


def test_noisy_bounds_are_weighed_and_not_summed() -> None:
    """With 3 nats of noise the sum picks the luckier label; the weighed mean stays below log P.

    Fails with: logsumexp of noisy bounds, weights that saw the same noise.
    """
    model = Rough(LABELLED)
    model.noise = 3.0
    raw = torch.zeros(20_000, 1, 2, 2).byte()
    exact = math.log(0.4 * math.exp(-1) + 0.3 * math.exp(-2))
    summed = log_likelihood(model, raw, batch_size=20_000)
    assert float(summed.mean()) > exact + 0.5
    model.summable = False
    weighed = log_likelihood(model, raw, batch_size=20_000)
    assert len(model.seeds) == len(model.rough_seeds) == 1 and model.seeds != model.rough_seeds
    assert exact - 0.2 < float(weighed.mean()) < exact + 4 * float(weighed.std()) / math.sqrt(20e3)
