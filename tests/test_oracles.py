"""Families against closed forms: what the contract's plumbing checks cannot see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.data.ranges import dequantize, from_model, log_bin_volume, to_display, to_model
from genzoo.model import evaluating
from genzoo.models.controls import Mixture, Noise
from genzoo.models.diffusion import Diffusion, DiffusionSettings
from genzoo.models.flow import Flow, FlowSettings
from genzoo.models.gan import GAN, GANSettings
from genzoo.models.vae import (
    VAE,
    VAESettings,
    kl_divergence,
    log_mass_of_logistics,
    log_ratio_of_normals,
)
from genzoo.nets.augmentation import random_shift
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, SampleOptions, TrainState

DIGITS = DataSpec((1, 8, 8), 17, {"label": 3}, (0.5, 0.3, 0.2))
POINTS = DataSpec((2,), None, location=(1.0, -1.0), scale=(3.0, 0.5))


def shaken(model: torch.nn.Module, amount: float = 0.1) -> torch.nn.Module:
    """Move every parameter, so that zero-initialized layers do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return model.eval()


# -- diffusion -----------------------------------------------------------------------------


def test_edm_preconditioning_has_unit_variance_and_the_right_limits() -> None:
    """With F = 0 the denoiser is the best linear one, σd²/(σ²+σd²) x, at every σ."""
    model = Diffusion(POINTS, DiffusionSettings(width=32, depth=1)).eval()
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    model.on_fit_start(Batch(2 * torch.randn(4000, 2), {}), torch.Generator())
    sd = float(model.sigma_data)
    assert sd == pytest.approx(2, rel=0.05)
    for sigma in (0.002, 1.0, 80.0):
        expected = sd**2 / (sd**2 + sigma**2) * x
        assert torch.allclose(model.denoise(x, torch.full((7,), sigma), {}), expected, atol=1e-6)


def test_untrained_edm_loss_is_one() -> None:
    """E[λ(σ)(c_skip(x+σε) - x)²] = 1 for data of variance σd², whatever σ (EDM, appendix B.6)."""
    model = Diffusion(POINTS, DiffusionSettings(width=32, depth=1))
    torch.manual_seed(0)
    x = torch.randn(40_000, 2)
    model.on_fit_start(Batch(x, {}), torch.Generator())
    loss = float(model.loss(Batch(x, {}), "main", TrainState()).total.detach())
    assert loss == pytest.approx(1, abs=0.03)


def fitted_diffusion(spec: DataSpec, likelihood: str) -> Diffusion:
    """F = 0 and σ_data = ½: the best denoiser of N(0, ½²)."""
    settings = DiffusionSettings(width=32, depth=1, heads=2, likelihood=likelihood)  # type: ignore[arg-type]
    model = Diffusion(spec, settings).eval()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("asked", ["ode", "vlb"])
def test_diffusions_density_of_points_is_the_gaussians(asked: str) -> None:
    """In data units, noise of σ_min included; points have no bound, whatever is asked for.

    Fails with: the Jacobian of the scale left out or inverted.
    """
    model = fitted_diffusion(POINTS, asked)
    assert model.likelihood == "estimate"
    raw = torch.tensor([[1.0, -1.0], [2.5, -1.3], [-1.0, -0.6]])
    std = math.hypot(0.5, 0.002) * torch.tensor(POINTS.scale)
    exact = torch.distributions.Normal(torch.tensor(POINTS.location), std).log_prob(raw).sum(1)
    with torch.no_grad():
        assert torch.allclose(model.log_prob(raw, {}, None), exact, atol=2e-3)


def test_diffusions_estimate_of_levels_is_the_gaussians() -> None:
    """At the dequantized pixels, with the noise of a level's width; Hutchinson is exact for c·I.

    Fails with: σ_min for width/√12, the generator not passed on, probes drawn before the noise.
    """
    model = fitted_diffusion(DIGITS, "ode")
    assert model.likelihood == "estimate" and "Hutchinson" in model.likelihood_convention
    raw = torch.randint(0, 17, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    cond = {"label": torch.tensor([0, 1, 2, 0, 1])}
    with torch.no_grad():
        found = model.log_prob(raw, cond, torch.Generator().manual_seed(1))
    x = dequantize(raw, DIGITS, torch.Generator().manual_seed(1))
    std = math.hypot(0.5, 2 / 16 / math.sqrt(12))
    exact = torch.distributions.Normal(0.0, std).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(found, exact + log_bin_volume(DIGITS), atol=0.03)


def test_diffusions_bound_is_below_its_estimate_for_a_linear_denoiser() -> None:
    """Both of the same N(0, ½²): the bound lies below the density by its decoder's errors.

    Fails with: the σ range of one not that of the other, a sum over pixels for a mean.
    """
    estimate, bound = fitted_diffusion(DIGITS, "ode"), fitted_diffusion(DIGITS, "vlb")
    assert bound.likelihood == "bound" and "VLB" in bound.likelihood_convention
    x = 0.5 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    raw = from_model(x, DIGITS)
    cond = {"label": torch.zeros(200, dtype=torch.int64)}
    with torch.no_grad():
        high = estimate.log_prob(raw, cond, torch.Generator().manual_seed(1)).mean() / 64
        low = bound.log_prob(raw, cond, torch.Generator().manual_seed(1)).mean() / 64
    assert -0.25 < float(low - high) < 0.02


def test_guidance_extrapolates_from_the_free_to_the_conditional_denoiser() -> None:
    """Weight 1 is the conditional model, 0 the unconditional one (Ho & Salimans 2022, eq. 6)."""
    from genzoo.types import SampleOptions

    model = shaken(Diffusion(DIGITS, DiffusionSettings(width=32, depth=1, heads=2, steps=4)))
    assert isinstance(model, Diffusion)
    cond = {"label": torch.ones(6, dtype=torch.int64)}
    free = {"label": torch.full((6,), 3)}

    def drawn(guidance: float | None, labels: dict[str, Tensor]) -> Tensor:
        from genzoo.noise import NoiseSource

        with torch.no_grad():
            return model.draw(NoiseSource(0, 0, 6), labels, SampleOptions(guidance=guidance))

    assert torch.allclose(drawn(1.0, cond), drawn(None, cond))
    assert torch.allclose(drawn(0.0, cond), drawn(None, free), atol=1e-5)
    assert not torch.allclose(drawn(2.0, cond), drawn(None, cond), atol=1e-3)


def test_shifts_are_whole_pixels_and_never_mirror() -> None:
    torch.manual_seed(0)
    x = torch.arange(64.0).view(1, 1, 8, 8).repeat(50, 1, 1, 1)
    moved, shift = random_shift(x, 1.0)
    assert {tuple(s) for s in (8 * shift).tolist()} == {
        (float(i), float(j)) for i in (-1, 0, 1) for j in (-1, 0, 1)
    }
    for image, (down, right) in zip(moved, (8 * shift).long().tolist(), strict=True):
        inner = x[0, 0, 1 - down : 7 - down, 1 - right : 7 - right]
        assert torch.equal(image[0, 1:7, 1:7], inner)


# -- flow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DIGITS, POINTS], ids=["images", "points"])
def test_flow_log_det_is_the_jacobians(spec: DataSpec) -> None:
    """Against autograd's Jacobian (seen to fail without the mixing matrix's determinant)."""
    flow = shaken(Flow(spec, FlowSettings(width=16, blocks=3, heads=2)))
    assert isinstance(flow, Flow)
    x = torch.randn(1, *spec.shape, generator=torch.Generator().manual_seed(1))
    cond = {"label": torch.tensor([1])} if spec.cond else {}

    def encode(x: Tensor) -> Tensor:
        return flow.encode(x[None], cond).flatten()

    jacobian = torch.autograd.functional.jacobian(encode, x[0]).reshape(spec.dim, spec.dim)
    log_det = flow.encode_with_log_det(x, cond)[1]
    assert float(log_det) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-3)
    assert float(log_det.detach().abs()) > 0.1  # an identity flow would prove nothing


def test_flow_sampling_inverts_its_density_pass() -> None:
    flow = shaken(Flow(DIGITS, FlowSettings(width=16, blocks=4, heads=2)))
    assert isinstance(flow, Flow)
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    cond = {"label": torch.tensor([0, 1, 2, 0, 1])}
    with torch.no_grad():
        assert torch.allclose(flow.decode(flow.encode(x, cond), cond), x, atol=1e-3)


def test_flow_never_looks_ahead() -> None:
    """In the first block the parameters of token t depend on tokens before t alone."""
    flow = shaken(Flow(DIGITS, FlowSettings(width=16, blocks=1, heads=2)))
    assert isinstance(flow, Flow)
    cond = {"label": torch.tensor([1])}
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[..., 4:6, 4:6] += 1  # patch 2 × 2 in row 2, column 2: token 10
    gap = (flow.encode(x, cond) - flow.encode(changed, cond)).abs().amax(2)[0]
    assert bool((gap[:10] == 0).all()) and bool((gap[10:] > 0).all())


# -- VAE -------------------------------------------------------------------------------------


def test_kl_is_the_closed_form() -> None:
    """0 for equal laws, else torch's (seen to fail with the arguments exchanged)."""
    zero = torch.zeros(3)
    assert torch.equal(kl_divergence((zero, zero), (zero, zero)), zero)
    q, p = (torch.tensor([0.3]), torch.tensor([-0.5])), (torch.tensor([-0.2]), torch.tensor([0.4]))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(q[0], q[1].exp()), normal(p[0], p[1].exp()))
    assert torch.allclose(kl_divergence(q, p), expected)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_masses_of_all_levels_sum_to_one(levels: int) -> None:
    """Any mixture of logistics, also far outside the range and very narrow."""
    generator = torch.Generator().manual_seed(0)
    parameters = 2 * torch.randn(40, 3, 3, 1, 1, 1, generator=generator)
    parameters[:, 2] -= 2
    x = torch.arange(levels) * (2 / (levels - 1)) - 1
    total = sum(
        log_mass_of_logistics(value.view(1, 1, 1, 1).expand(40, 1, 1, 1), parameters, levels).exp()
        for value in x
    )
    assert isinstance(total, Tensor)
    assert torch.allclose(total.flatten(), torch.ones(40), atol=1e-4)


def test_elbo_is_below_the_exact_likelihood_of_a_linear_gaussian_vae() -> None:
    """x = z·w + noise: the marginal is Gaussian, so log p(x) is known.

    The ELBO of the hierarchical model's parts with the exact posterior equals it; with any
    other posterior it is lower (seen to fail with the KL's sign flipped).
    """
    w, s = 0.8, 0.5
    x = torch.linspace(-2, 2, 9)
    exact = torch.distributions.Normal(0.0, math.sqrt(w**2 + s**2)).log_prob(x)
    variance = 1 / (1 + w**2 / s**2)
    mean = variance * w / s**2 * x

    def elbo(mean: Tensor, std: float) -> Tensor:
        log_std = torch.full_like(mean, math.log(std))
        kl = kl_divergence((mean, log_std), (torch.zeros_like(x), torch.zeros_like(x)))
        expected_square = (x - w * mean) ** 2 + w**2 * std**2
        return -0.5 * expected_square / s**2 - math.log(s * math.sqrt(2 * math.pi)) - kl

    assert torch.allclose(elbo(mean, math.sqrt(variance)), exact, atol=1e-5)
    assert bool((elbo(mean + 0.3, math.sqrt(variance)) < exact).all())
    assert bool((elbo(mean, 0.9) < exact).all())


class LinearGaussian(VAE):
    """x = z·w + s·noise with a posterior that is deliberately off; log p(x) is known."""

    w, s = 0.8, 0.5

    def _encode(self, x: Tensor, cond: object) -> tuple[Tensor, Tensor]:
        return x, x

    def _top_down(
        self, x: Tensor, c: Tensor, features: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        variance = 1 / (1 + self.w**2 / self.s**2)
        q = (variance * self.w / self.s**2 * x + 0.3, torch.full_like(x, math.log(0.8)))
        p = (torch.zeros_like(x), torch.zeros_like(x))
        z = q[0] + q[1].exp() * torch.randn(x.shape, generator=generator)
        log_likelihood = torch.distributions.Normal(self.w * z, self.s).log_prob(x)
        ratio = log_ratio_of_normals(z, q, p)
        return log_likelihood.sum(1), kl_divergence(q, p).sum(1), ratio.sum(1)


def test_iwae_rises_from_the_elbo_to_the_exact_likelihood() -> None:
    """Exact ≥ IWAE-64 ≥ IWAE-8 ≥ IWAE-2 ≥ ELBO, and IWAE-64 within 0.02 nats (Burda et al.).

    Fails with: a mean of logs, log K added, p / q exchanged.
    """
    spec = DataSpec((1,), None, location=(0.5,), scale=(2.0,))
    raw = torch.tensor([0.2, 1.7]).repeat(4000)[:, None]
    std = 2.0 * math.hypot(LinearGaussian.w, LinearGaussian.s)
    exact = torch.distributions.Normal(0.5, std).log_prob(raw[:2, 0])
    means, generator = [], torch.Generator().manual_seed(0)
    for k in (1, 2, 8, 64):
        model = LinearGaussian(spec, VAESettings(width=16, layers=1, importance_samples=k))
        with torch.no_grad():
            draws = model.log_prob(raw, {}, generator).view(-1, 2)
        means.append(draws.mean(0))
        if k == 1:
            error = draws.std(0) / math.sqrt(len(draws))
            elbo = model.rough_log_prob(raw[:2], {}, generator)
            x = (raw[:2] - 0.5) / 2
            offset = LinearGaussian.s**2 / (LinearGaussian.s**2 + LinearGaussian.w**2)
            assert bool(((draws.mean(0) - elbo_of(x, offset)).abs() < 4 * error).all())
            assert elbo.shape == (2,)
    for lower, higher in zip(means, means[1:], strict=False):
        assert bool((higher > lower + 0.002).all())
    assert bool((means[-1] < exact + 0.005).all()) and bool((means[-1] > exact - 0.02).all())


def elbo_of(x: Tensor, variance: float) -> Tensor:
    """The ELBO of `LinearGaussian` in data units, in closed form, (B, 1) -> (B,)."""
    w, s = LinearGaussian.w, LinearGaussian.s
    mean = variance * w / s**2 * x[:, 0] + 0.3
    square = (x[:, 0] - w * mean) ** 2 + w**2 * 0.8**2
    kl = 0.5 * (mean**2 + 0.8**2 - 1) - math.log(0.8)
    return -0.5 * square / s**2 - math.log(s * math.sqrt(2 * math.pi)) - kl - math.log(2.0)


def test_log_ratio_of_normals_is_torchs() -> None:
    """And 0 for equal laws. Fails with: p and q exchanged, a log std forgotten."""
    q, p = (torch.tensor([0.3]), torch.tensor([-0.5])), (torch.tensor([-0.2]), torch.tensor([0.4]))
    z = torch.tensor([0.9])
    normal = torch.distributions.Normal
    expected = normal(q[0], q[1].exp()).log_prob(z) - normal(p[0], p[1].exp()).log_prob(z)
    assert torch.allclose(log_ratio_of_normals(z, q, p), expected)
    assert float(log_ratio_of_normals(z, q, q)) == 0


def test_a_weights_log_ratio_has_the_mean_of_the_kl() -> None:
    """E_q[log q(z|x) / p(z)] = Σ KL over the layers. Fails with: a layer's ratio left out."""
    settings = VAESettings(width=16, layers=3, latent=2, heads=2)
    vae = shaken(VAE(DataSpec((1, 4, 4), 3), settings), 0.1)
    assert isinstance(vae, VAE)
    raw = torch.randint(0, 3, (1, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    x = to_model(raw.expand(4000, 1, 4, 4), vae.spec)
    with torch.no_grad():
        _, kl, ratio = vae._top_down(x, *vae._encode(x, {}), torch.Generator().manual_seed(1))
    error = float((ratio - kl).std()) / math.sqrt(len(x))
    assert float((ratio - kl).mean()) == pytest.approx(0, abs=4 * error)
    assert float(kl.mean()) > 20 * error


def test_vae_probabilities_of_all_images_sum_to_one() -> None:
    """exp of the weights is in mean P(x), which sums to 1 over the 81 images of 2×2 pixels.

    Three levels, three layers of latents, a shaken network. Fails with: a ratio of
    the wrong sign, a bound above the mass.
    """
    spec = DataSpec((1, 2, 2), 3)
    settings = VAESettings(width=16, layers=3, latent=2, heads=2, importance_samples=500)
    torch.manual_seed(0)
    vae = shaken(VAE(spec, settings), 0.05)
    assert isinstance(vae, VAE)
    raw = torch.cartesian_prod(*[torch.arange(3)] * 4).view(81, 1, 2, 2).byte()
    with torch.no_grad():
        iwae = vae.log_prob(raw, {}, torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(2)
        elbo = torch.stack([vae.rough_log_prob(raw, {}, generator) for _ in range(50)]).mean(0)
    assert float(iwae.exp().sum()) == pytest.approx(1, abs=0.02)
    assert 0.5 < float(elbo.exp().sum()) < 0.9


# -- GAN ---------------------------------------------------------------------------------------


def test_the_generators_phase_reaches_it_and_the_critics_phase_does_not() -> None:
    """The critic's loss must not pull on the generator (seen to fail without no_grad)."""
    gan = GAN(DIGITS, GANSettings(width=16, depth=1))
    batch = Batch(torch.rand(8, 1, 8, 8), {"label": torch.arange(8) % 3})
    gan.loss(batch, "critic", TrainState()).total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in gan.generator.parameters())
    gan.zero_grad()
    gan.loss(batch, "generator", TrainState()).total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in gan.generator.parameters())


def test_gradient_penalty_of_a_linear_critic_is_its_squared_norm() -> None:
    """∇ of w·x is w everywhere (seen to fail with the mean over pixels instead of the sum)."""
    from genzoo.models.gan import _squared_slope

    w = torch.tensor([3.0, 4.0])
    x = torch.randn(5, 2, requires_grad=True)
    assert float(_squared_slope(x @ w, x).detach()) == pytest.approx(25.0)


def test_the_critic_and_the_generator_pull_in_opposite_directions() -> None:
    """At equal scores both losses are log 2; a better critic lowers its own, raises the other."""
    torch.manual_seed(0)
    gan = GAN(POINTS, GANSettings(width=16, depth=1, gamma=0.0, gamma_end=0.0))
    real = Batch(torch.full((64, 2), 3.0), {})
    with torch.no_grad():
        for parameter in gan.critic.parameters():
            parameter.zero_()
    for phase in ("critic", "generator"):
        loss = gan.loss(real, phase, TrainState()).parts["adversarial"]
        assert float(loss) == pytest.approx(math.log(2))

    class Oracle(torch.nn.Module):
        def forward(self, x: Tensor, cond: object) -> Tensor:
            return 10 * (x[:, 0] > 2.9).float() + 0 * x.sum(1)

    gan.critic = Oracle()  # type: ignore[assignment]
    assert float(gan.loss(real, "critic", TrainState()).parts["adversarial"]) < 0.01
    assert float(gan.loss(real, "generator", TrainState()).parts["adversarial"]) > 5


# -- ranges, noise and controls ------------------------------------------------------------------


def test_uniform_noise_has_log2_levels_bits_per_dim() -> None:
    """log₂ 17 = 4.087 on digits, whatever the image."""
    raw = torch.randint(0, 17, (4, 1, 8, 8)).byte()
    bits = -Noise(DIGITS).log_prob(raw, {}, None) / 64 / math.log(2)
    assert torch.allclose(bits, torch.full((4,), math.log2(17)))


def test_dequantized_uniform_density_gives_the_same_bits() -> None:
    """Dequantized uniform levels have density 1 / (bin volume · 17^D): the Jacobian is right."""
    log_density = -DIGITS.dim * math.log(17) - log_bin_volume(DIGITS)
    width = 17 * 2 / 16  # levels -½ … 16½ in model space
    assert log_density == pytest.approx(-DIGITS.dim * math.log(width))
    x = dequantize(torch.full((9000, 1, 8, 8), 3).byte(), DIGITS, torch.Generator().manual_seed(0))
    assert float(x.min()) == pytest.approx((2.5 * 2 / 16) - 1, abs=1e-3)
    assert float(x.max()) == pytest.approx((3.5 * 2 / 16) - 1, abs=1e-3)


def test_ranges_round_trip() -> None:
    levels = torch.arange(17).view(1, 1, 1, 17).byte()
    spec = DataSpec((1, 1, 17), 17)
    assert torch.equal(from_model(to_model(levels, spec), spec), levels)
    assert to_display(levels, spec).flatten().tolist() == [round(k / 16 * 255) for k in range(17)]
    points = torch.randn(20, 2)
    assert torch.allclose(from_model(to_model(points, POINTS), POINTS), points, atol=1e-6)


def test_mixture_of_known_gaussians_has_their_density() -> None:
    """Fitted to two far clusters, the density is that of the clusters (rank and residual right)."""
    torch.manual_seed(0)
    spec = DataSpec((3,), None, location=(0.0,) * 3, scale=(1.0,) * 3)
    x = 0.3 * torch.randn(6000, 3) + torch.where(torch.rand(6000, 1) < 0.25, 4.0, -2.0)
    for rank in (3, 1):
        from genzoo.models.controls import MixtureSettings

        model = Mixture(spec, MixtureSettings(components=2, rank=rank))
        model.on_fit_start(Batch(x, {}), torch.Generator().manual_seed(0))
        normal = torch.distributions.Normal
        exact = torch.logsumexp(
            torch.stack(
                [
                    normal(m, 0.3).log_prob(x[:500]).sum(1) + math.log(p)
                    for m, p in ((4.0, 0.25), (-2.0, 0.75))
                ]
            ),
            0,
        )
        with evaluating(model):
            assert float((model.log_density(x[:500], {}) - exact).abs().mean()) < 0.06
            drawn = model.sample(4000)
        assert float((drawn[:, 0] > 1).float().mean()) == pytest.approx(0.25, abs=0.03)
        assert float(drawn.std(0)[1]) == pytest.approx(float(x.std(0)[1]), rel=0.05)


def test_a_vae_gives_the_mean_of_its_likelihood_where_it_is_asked_for() -> None:
    """Fails with: a draw in its place, other latents, or a mean that is not the draws'."""
    spec = DataSpec((1, 4, 4), 256)
    settings = VAESettings(width=16, layers=2, latent=2, heads=2, output="mean")
    vae = shaken(VAE(spec, settings), 0.2)
    assert isinstance(vae, VAE)
    noise = NoiseSource(0, 0, 3)
    layers = [noise.normal(1, 2), noise.normal(vae.tokens, 2)]
    code = torch.cat([z.flatten(1) for z in layers], dim=1)
    with torch.no_grad():
        mean = vae.decode(code, {})
        assert torch.equal(vae.sample(3, seed=0), from_model(mean, spec))
        one = vae.draw(NoiseSource(0, 0, 1), {}, SampleOptions())
    assert torch.allclose(one, mean[:1], atol=1e-5)


@pytest.mark.parametrize("spec", [DIGITS, POINTS], ids=["images", "points"])
def test_codes_of_the_hierarchy_are_in_units_of_its_priors(spec: DataSpec) -> None:
    """Decoding an item's code goes through the same latents as encoding it did.

    Fails with: σ of the posterior, layers in another order.
    """
    model = shaken(VAE(spec, VAESettings(width=16, layers=3, latent=2, heads=2)))
    assert isinstance(model, VAE)
    x = torch.rand(4, *spec.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cond = {"label": torch.tensor([0, 1, 2, 0])} if spec.num_classes else {}
    merged: list[Tensor] = []
    for layer in model.layers:
        layer.merge.register_forward_pre_hook(lambda _, args: merged.append(args[0]))  # type: ignore[union-attr]
    with torch.no_grad():
        code = model.encode(x, cond)
        model.decode(code, cond)
    assert code.shape == (4, *model.latent_shape) and len(merged) == 6
    for encoded, decoded in zip(merged[:3], merged[3:], strict=True):
        assert torch.allclose(encoded, decoded, atol=1e-4)
    assert float(code.abs().max()) > 0.01
