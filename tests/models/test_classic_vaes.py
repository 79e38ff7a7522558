"""The textbook VAE and the VQ-VAE against closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from genzoo.data import Split
from genzoo.data.ranges import from_model, to_model
from genzoo.errors import InputError
from genzoo.models.gaussian_vae import GaussianVAE, GaussianVAESettings, kl_to_prior
from genzoo.models.vqvae import VQVAE, Codebook, VQVAESettings, perplexity
from genzoo.nets.likelihood import GaussianLikelihood, GaussianMixture, log_mass_of_gaussian
from genzoo.nets.mlp import ResidualMLP
from genzoo.noise import NoiseSource
from genzoo.training.loop import Trainer
from genzoo.types import Batch, Budget, DataSpec, SampleOptions, TrainState

IMAGES = DataSpec((1, 8, 8), 17, {"label": 3}, (0.5, 0.3, 0.2))
# Scales whose product is not 1, or an inverted Jacobian would not be seen.
POINTS = DataSpec((2,), None, location=(1.0, -1.0), scale=(2.0, 0.3))
DIRECTION, STD = torch.tensor([0.8, -0.5]), 0.4


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def shaken(model: torch.nn.Module, amount: float) -> None:
    """Move every parameter, so that zero-initialized layers do something."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn_like(parameter))


# -- the Gaussian likelihood ---------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [0.003, 0.1, 1.0, 30.0])
def test_masses_of_all_levels_sum_to_one(levels: int, std: float) -> None:
    """Also for means outside the range. Fails with: an outermost bin that ends, half a bin."""
    mean = torch.tensor([-3.0, -1.0, -0.37, 0.0, 0.52, 1.0, 1.4])
    x = (torch.arange(levels) * (2 / (levels - 1)) - 1)[:, None].expand(-1, len(mean))
    log_mass = log_mass_of_gaussian(x, mean.expand_as(x), torch.tensor(math.log(std)), levels)
    assert torch.allclose(log_mass.exp().sum(0), torch.ones(len(mean)), atol=1e-4)


def test_a_mixture_is_torchs_and_draws_what_it_says() -> None:
    """Density, shares of the components, and their spread; the mode is the likeliest component.

    Fails with: a component for each coordinate, standard deviations for their logarithms.
    """
    raw = torch.randn(3, GaussianMixture.numbers(4, 2))
    law = GaussianMixture.of(raw, 4)
    parts = torch.distributions.Normal(law.mean, law.log_std.exp())
    exact = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=law.logits),
        torch.distributions.Independent(parts, 1),
    )
    x = torch.randn(3, 2)
    assert torch.allclose(law.log_prob(x), exact.log_prob(x), atol=1e-4)
    many = GaussianMixture(*(part[:1].expand(40_000, *part.shape[1:]) for part in law))
    drawn = many.sample(torch.rand(40_000), torch.randn(40_000, 2), 1.0)
    assert torch.allclose(drawn.mean(0), exact.mean[0], atol=0.03)
    assert torch.allclose(drawn.var(0), exact.variance[0], rtol=0.05)
    likeliest = int(law.logits[1].argmax())
    assert torch.equal(law.mode()[1], law.mean[1, likeliest])


def test_mass_is_the_difference_of_cdfs_and_has_a_gradient_in_the_tails() -> None:
    """Against torch in double precision. Fails with: bounds exchanged, the wrong tail."""
    x, mean = (torch.arange(17) / 8 - 1)[1:-1], torch.tensor(0.3)
    log_mass = log_mass_of_gaussian(x, mean.expand_as(x), torch.tensor(math.log(0.25)), 17)
    normal = torch.distributions.Normal(mean.double(), 0.25)
    exact = (normal.cdf(x.double() + 1 / 16) - normal.cdf(x.double() - 1 / 16)).log()
    assert torch.allclose(log_mass.double(), exact, atol=1e-4)
    far = torch.linspace(-40, 40, 41).requires_grad_()
    log_std = torch.tensor(-5.0, requires_grad=True)
    log_mass_of_gaussian(torch.zeros(41), far, log_std, 256).sum().backward()  # type: ignore[no-untyped-call]
    assert far.grad is not None and bool(far.grad.isfinite().all())
    assert bool((far.grad[:20] > 0).all()) and bool((far.grad[21:] < 0).all())
    assert log_std.grad is not None and bool(log_std.grad.isfinite())


def test_density_of_points_is_in_data_units() -> None:
    """Fails with: the scales' Jacobian inverted, a mean for the sum."""
    likelihood = GaussianLikelihood(POINTS)
    torch.nn.init.constant_(likelihood.log_std, math.log(STD))
    raw, mean = torch.tensor([[2.0, -1.2]]), torch.tensor([[0.1, 0.2]])
    scale = torch.tensor(POINTS.scale)
    exact = torch.distributions.Normal(from_model(mean, POINTS), STD * scale).log_prob(raw).sum()
    found = likelihood(to_model(raw, POINTS), mean)
    assert float(found.detach()) == pytest.approx(float(exact), abs=1e-5)


def test_output_is_a_mean_or_a_sample() -> None:
    """Fails with: a mean where a sample is asked for, points without noise by default."""
    for spec, noisy in ((IMAGES, False), (POINTS, True)):
        likelihood = GaussianLikelihood(spec)
        torch.nn.init.constant_(likelihood.log_std, math.log(STD))
        mean = torch.zeros(2000, *spec.shape)
        with torch.no_grad():
            spread = {
                output: float(likelihood.draw(mean, NoiseSource(0, 0, 2000), output, 0.5).std())
                for output in ("mean", "sample", "auto")
            }
        assert spread["mean"] == 0 and spread["sample"] == pytest.approx(STD / 2, rel=0.05)
        assert spread["auto"] == spread["sample" if noisy else "mean"]


# -- the textbook VAE ----------------------------------------------------------------------


def make_linear(net: torch.nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Set a `ResidualMLP` of depth 0 to x @ weight.T + bias: SiLU(a) - SiLU(-a) = a."""
    assert isinstance(net, ResidualMLP)
    inputs, k = weight.shape[1], len(weight)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[:inputs] = torch.eye(inputs)
        net.embed.weight[inputs : 2 * inputs] = -torch.eye(inputs)
        net.out.weight[:k, :inputs] = weight
        net.out.weight[:k, inputs : 2 * inputs] = -weight
        net.out.bias.copy_(bias)


def linear_gaussian_vae(k: int, shift: float = 0.0, widen: float = 1.0) -> GaussianVAE:
    """x = z·w + σ·noise. The posterior is exact unless it is shifted or widened."""
    settings = GaussianVAESettings(latent=1, width=4, depth=0, importance_samples=k)
    vae = GaussianVAE(POINTS, settings).eval()
    variance = 1 / (1 + float(DIRECTION.square().sum()) / STD**2)
    log_std = 0.5 * math.log(variance) + math.log(widen)
    pull = variance * DIRECTION / STD**2
    make_linear(vae.encoder, torch.stack([pull, torch.zeros(2)]), torch.tensor([shift, log_std]))
    make_linear(vae.decoder, DIRECTION[:, None], torch.zeros(2))
    torch.nn.init.constant_(vae.log_likelihood.log_std, math.log(STD))
    return vae


def exact_log_prob(raw: Tensor) -> Tensor:
    """Of the linear model: a Gaussian with covariance S (w wᵀ + σ² I) Sᵀ in data units."""
    scale = torch.diag(torch.tensor(POINTS.scale))
    covariance = scale @ (torch.outer(DIRECTION, DIRECTION) + STD**2 * torch.eye(2)) @ scale
    law = torch.distributions.MultivariateNormal(torch.tensor(POINTS.location), covariance)
    return law.log_prob(raw)


RAW = torch.tensor([[1.0, -1.0], [2.5, -1.2], [-1.0, -0.6]])


@pytest.mark.parametrize("k", [1, 5])
def test_every_weight_of_the_exact_posterior_is_the_exact_likelihood(k: int) -> None:
    """p(x | z) p(z) / q(z | x) = p(x) whatever z; so is the mean of K.

    Fails with: the ratio's sign, log K missing, a mean for the sum over coordinates, the log std
    left out of log q.
    """
    vae = linear_gaussian_vae(k)
    with torch.no_grad():
        found = vae.log_prob(RAW, {}, torch.Generator().manual_seed(3))
    assert torch.allclose(found, exact_log_prob(RAW), atol=1e-4)


def test_the_loss_is_the_elbo_and_exact_with_the_exact_posterior() -> None:
    """In nats per dimension, by its parts. Fails with: the KL's sign, a mean for the sum."""
    raw = RAW[1:2].expand(40_000, 2)
    x = to_model(raw, POINTS)
    for vae, gap in ((linear_gaussian_vae(1), 0.0), (linear_gaussian_vae(1, shift=0.5), 0.1)):
        loss = vae.loss(Batch(x, {}), "main", TrainState())
        elbo = -2 * float(loss.total.detach())
        parts = loss.parts["reconstruction"] + loss.parts["kl"]
        assert float(parts) == pytest.approx(float(loss.total.detach()), abs=1e-5)
        exact = float(exact_log_prob(RAW[1]))
        assert elbo == pytest.approx(exact, abs=0.02) if gap == 0 else elbo < exact - gap


@pytest.mark.parametrize("through", ["log_prob", "loss"])
def test_elbo_is_below_iwae_and_iwae_below_the_exact_likelihood(through: str) -> None:
    """With a posterior that is off; in the likelihood and in training (Burda et al., theorem 1).

    Fails with: a mean of logs, log K missing or added, q / p exchanged.
    """
    raw, means = RAW[1:2].expand(8000, 2), []
    for k in (1, 4, 64):
        vae = linear_gaussian_vae(k, shift=0.3, widen=1.5)
        with torch.no_grad():
            if through == "log_prob":
                means.append(float(vae.log_prob(raw, {}, torch.Generator().manual_seed(0)).mean()))
            else:
                batch = Batch(to_model(raw, POINTS), {})
                means.append(-2 * float(vae.loss(batch, "main", TrainState()).total))
    exact = float(exact_log_prob(RAW[1]))
    assert means[0] < means[1] - 0.05 and means[1] < means[2] - 0.02
    assert exact - 0.02 < means[2] < exact + 0.005


def test_beta_weighs_the_kl_alone() -> None:
    """Fails with: β on the reconstruction, or on both."""
    x = to_model(RAW, POINTS)
    totals = []
    for beta in (1.0, 3.0):
        vae = linear_gaussian_vae(1, shift=0.3)
        object.__setattr__(vae.settings, "beta", beta)
        torch.manual_seed(0)
        loss = vae.loss(Batch(x, {}), "main", TrainState())
        totals.append(loss.total.detach())
    assert float(totals[1] - totals[0]) == pytest.approx(2 * float(loss.parts["kl"]), rel=1e-4)


def test_kl_is_the_mean_of_the_log_ratio_and_zero_for_the_prior() -> None:
    """The closed form against 20,000 draws. Fails with: the KL's sign, log q / p inverted."""
    zero = torch.zeros(2, 3)
    assert torch.equal(kl_to_prior((zero, zero)), torch.zeros(2))
    vae = GaussianVAE(POINTS, GaussianVAESettings(latent=3, width=16, depth=1))
    shaken(vae, 0.3)
    x = torch.tensor([[0.4, -1.2]]).expand(20_000, 2)
    with torch.no_grad():
        posterior = vae.posterior(x, {})
        _, log_ratio = vae._draws(x, {}, posterior, torch.Generator().manual_seed(0))
        exact = float(kl_to_prior(posterior)[0])
    assert exact > 0.2
    assert float(log_ratio.mean()) == pytest.approx(exact, abs=4 * float(log_ratio.std()) / 141)


def test_encode_is_the_posteriors_mean_and_decode_the_decoders() -> None:
    """Fails with: a draw for the mean."""
    vae = linear_gaussian_vae(1)
    x = to_model(RAW, POINTS)
    with torch.no_grad():
        z = vae.encode(x, {})
        assert torch.equal(z, vae.encode(x, {})) and z.shape == (3, *vae.latent_shape)
        assert torch.allclose(vae.decode(z, {}), z * DIRECTION, atol=1e-6)
    with pytest.raises(InputError, match="importance_samples 0"):
        GaussianVAE(POINTS, GaussianVAESettings(importance_samples=0))


# -- VQ-VAE --------------------------------------------------------------------------------


def small_vqvae(spec: DataSpec = IMAGES, **settings: float) -> VQVAE:
    chosen = {"codes": 6, "code_width": 3, "width": 16, "depth": 1, "prior_depth": 1, "heads": 2}
    vqvae = VQVAE(spec, VQVAESettings(**{**chosen, "augment": 0.0, **settings}))  # type: ignore[arg-type]
    shaken(vqvae, 0.1)
    return vqvae


def batch_of(n: int = 12) -> Batch:
    x = to_model(torch.randint(0, 17, (n, 1, 8, 8)).byte(), IMAGES)
    return Batch(x, {"label": torch.arange(n) % 3})


def gradients(vqvae: VQVAE, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of the first phase's loss: with respect to the encodings and to the entries."""
    vqvae.zero_grad()
    z = vqvae._encodings(batch.x).detach().requires_grad_()
    vqvae._encodings = lambda x: z  # type: ignore[method-assign]
    vqvae.loss(batch, "autoencoder", TrainState()).total.backward()  # type: ignore[no-untyped-call]
    del vqvae._encodings
    assert z.grad is not None and vqvae.codebook.entries.grad is not None
    return z.grad, vqvae.codebook.entries.grad.clone()


def test_the_decoders_gradient_goes_straight_through_to_the_encoder() -> None:
    """∂/∂z is ∂/∂e of the reconstruction. Fails with: straight-through removed, z decoded."""
    vqvae, batch = small_vqvae(commitment=0.0), batch_of()
    found, _ = gradients(vqvae, batch)
    e = vqvae.encode(batch.x, batch.cond).detach().requires_grad_()
    log_likelihood = vqvae.log_likelihood(batch.x, vqvae._decoded(e)).mean() / IMAGES.dim
    (expected,) = torch.autograd.grad(-log_likelihood, e)
    assert float(expected.abs().max()) > 1e-4
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_each_of_the_two_distances_moves_one_side_only() -> None:
    """Entries go to their encodings, encodings are pulled to their entries with weight β (eq. 3).

    Fails with: stop-gradients exchanged or left out, β on the other term.
    """
    vqvae, batch = small_vqvae(commitment=0.25), batch_of()
    free, free_entries = gradients(small_like(vqvae, commitment=0.0), batch)
    bound, entries = gradients(vqvae, batch)
    with torch.no_grad():
        z = vqvae._encodings(batch.x)
        codes = vqvae.codebook.nearest(z)
        gap = vqvae.codebook(codes) - z
    to_entries = torch.zeros_like(entries)
    to_entries.index_add_(0, codes.flatten(), 2 * gap.flatten(0, 1) / gap.numel())
    assert torch.allclose(entries, to_entries, atol=1e-6)
    assert torch.allclose(free_entries, to_entries, atol=1e-6)
    assert torch.allclose(bound - free, 0.25 * -2 * gap / gap.numel(), atol=1e-6)


def small_like(vqvae: VQVAE, **settings: float) -> VQVAE:
    other = small_vqvae(vqvae.spec, **settings)
    other.load_state_dict(vqvae.state_dict())
    return other


def test_nearest_is_the_nearest() -> None:
    """Fails with: the squared norm left out, the farthest."""
    codebook = Codebook(9, 4)
    z = torch.randn(5, 7, 4)
    assert torch.equal(codebook.nearest(z), torch.cdist(z, codebook.entries).argmin(2))
    assert float(perplexity(torch.arange(4).repeat(3), 9)) == pytest.approx(4)


def test_a_dead_entry_moves_onto_an_encoding_and_a_used_one_stays() -> None:
    """Fails with: the condition turned round, entries moved to themselves."""
    codebook = Codebook(4, 2)
    with torch.no_grad():
        codebook.entries.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 1], [9, 9]]))
    before = codebook.entries.detach().clone()
    z = codebook.entries.detach()[:3].repeat(20, 1)[None] + 0.01 * torch.randn(1, 60, 2)
    for _ in range(200):
        codebook.revive(z, codebook.nearest(z))
        if not torch.equal(codebook.entries, before):
            break
    assert torch.equal(codebook.entries[:3], before[:3])
    assert bool((codebook.entries[3] == z[0]).all(1).any())


def test_each_stage_trains_its_half_alone() -> None:
    """Fails with: codes that carry a gradient, stages in the other order."""
    vqvae, batch = small_vqvae(first_stage=0.4), batch_of()
    assert vqvae.phases(TrainState(progress=0.39)) == ("autoencoder",)
    assert vqvae.phases(TrainState(progress=0.41)) == ("prior",)
    groups = vqvae.param_groups()
    for phase, other in (("autoencoder", "prior"), ("prior", "autoencoder")):
        vqvae.zero_grad()
        vqvae.loss(batch, phase, TrainState()).total.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None for p in groups[other])
        assert all(p.grad is not None for p in groups[phase])


TINY = DataSpec((1, 4, 4), 2, {"label": 2}, (0.5, 0.5))


def test_probabilities_of_all_grids_of_codes_sum_to_one_and_are_those_of_draws() -> None:
    """All 3⁴ grids, with a label; draws go through the cache. Fails with: a code that sees
    itself, positions off by one in the cache, the label forgotten in either.
    """
    vqvae = small_vqvae(TINY, codes=3).eval()
    shaken(vqvae.prior, 0.3)
    codes = torch.tensor(list(itertools.product(range(3), repeat=4)))
    for label in (0, 1):
        with torch.no_grad():
            cond = {"label": torch.full((81,), label)}
            p = vqvae.prior.log_prob(codes, cond).exp()
            many = {"label": torch.full((20_000,), label)}
            drawn = vqvae.prior.draw(NoiseSource(0, 0, 20_000).uniform(4), many, 1.0)
        assert float(p.sum()) == pytest.approx(1, abs=1e-5)
        index = (drawn * torch.tensor([27, 9, 3, 1])).sum(1)
        share = torch.bincount(index, minlength=81) / 20_000
        assert bool(((share - p).abs() < 5 * (p / 20_000).sqrt() + 1e-4).all())
        assert float(p.max()) > 3 / 81  # a uniform prior would prove nothing


def test_the_bound_is_one_term_of_the_marginal() -> None:
    """log p(x) = log Σ p(codes) p(x | codes) over all 81 grids. Fails with: a term left out,
    the mass for a mean, codes that are not the encoder's.
    """
    vqvae = small_vqvae(TINY, codes=3).eval()
    torch.nn.init.constant_(vqvae.log_likelihood.log_std, -0.5)
    raw = torch.randint(0, 2, (30, 1, 4, 4)).byte()
    cond = {"label": torch.arange(30) % 2}
    grids = torch.tensor(list(itertools.product(range(3), repeat=4)))
    with torch.no_grad():
        bound = vqvae.log_prob(raw, cond, None)
        terms = []
        for grid in grids:
            codes = grid.expand(30, 4)
            mean = vqvae._decoded(vqvae.codebook(codes))
            likelihood = vqvae.log_likelihood(to_model(raw, TINY), mean)
            terms.append(vqvae.prior.log_prob(codes, cond) + likelihood)
        own = (vqvae.codes(to_model(raw, TINY)) * torch.tensor([27, 9, 3, 1])).sum(1)
    joint = torch.stack(terms)
    assert torch.allclose(bound, joint.gather(0, own[None])[0], atol=1e-4)
    assert bool((bound < joint.logsumexp(0)).all())


@pytest.mark.parametrize("spec", [IMAGES, POINTS], ids=["images", "points"])
def test_decode_snaps_to_codes_and_samples_are_decoded_codes(spec: DataSpec) -> None:
    """Fails with: encodings left unquantized."""
    vqvae = small_vqvae(spec, output="mean").eval()  # type: ignore[arg-type]
    x = torch.randn(5, *spec.shape)
    cond = {"label": torch.zeros(5, dtype=torch.int64)} if spec.cond else {}
    with torch.no_grad():
        z = vqvae.encode(x, cond)
        assert z.shape == (5, *vqvae.latent_shape)
        assert torch.allclose(vqvae.decode(z, cond), vqvae.decode(z + 1e-4, cond))
        drawn = vqvae.draw(NoiseSource(0, 0, 5), cond, SampleOptions())
        codes = vqvae.prior.draw(NoiseSource(0, 0, 5).uniform(len(z[0])), cond, 1.0)
        assert torch.equal(drawn, vqvae._decoded(vqvae.codebook(codes)))


def test_the_prior_has_learned_the_codes_of_the_averaged_autoencoder() -> None:
    """At the end of training the average and the weights agree about the codes.

    Fails with: a second stage shorter than the average's memory, entries outside the average.
    """
    vqvae = small_vqvae(ema=0.05)
    split = Split(torch.randint(0, 17, (64, 1, 8, 8)).byte(), torch.arange(64) % 3)
    trainer = Trainer(vqvae, split, Budget.parse("60steps"), 0)
    trainer.start()
    with trainer.clock.running():
        while not trainer.done:
            trainer.step()
    averaged = small_vqvae()
    averaged.load_state_dict(trainer.averaged_state())
    x = to_model(split.data, IMAGES)
    same = (averaged.codes(x) == vqvae.codes(x)).float().mean()
    assert float(same) > 0.98
    with pytest.raises(InputError, match="first_stage 1"):
        small_vqvae(first_stage=1.0)
