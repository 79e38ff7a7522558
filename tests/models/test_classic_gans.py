"""The classic GANs against closed forms, and DiffAugment for all GANs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genzoo.data.dataset import Split
from genzoo.models.classic_gans import DCGAN, SNGAN, WGANGP, ClassicGAN, ClassicGANSettings
from genzoo.models.gan import GAN, GANSettings
from genzoo.nets.augmentation import cutout, diff_augment
from genzoo.training.loop import Trainer
from genzoo.types import Batch, Budget, DataSpec, Loss, TrainState

DIGITS = DataSpec((1, 8, 8), 17, {"label": 3}, (0.5, 0.3, 0.2))
COLOUR = DataSpec((3, 8, 8), 256)
POINTS = DataSpec((2,), None, location=(1.0, -1.0), scale=(2.0, 0.5))
CLASSICS = (DCGAN, WGANGP, SNGAN)
ALL = (*CLASSICS, GAN)


def small(cls: type, spec: DataSpec = DIGITS, **settings: object) -> ClassicGAN:
    torch.manual_seed(0)
    model: ClassicGAN = cls(spec, cls.Settings(**{"width": 8, "depth": 1, **settings}))  # type: ignore[attr-defined]
    return model


def some(spec: DataSpec = DIGITS, n: int = 8) -> Batch:
    x = torch.rand(n, *spec.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(x, {k: torch.arange(n) % size for k, size in spec.cond.items()})


class Linear(nn.Module):
    """D(x) = w · x with |w| = `steepness`, whose slope is known; remembers what it saw."""

    def __init__(self, dim: int, steepness: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), steepness / math.sqrt(dim)))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        self.seen.append(x.detach())
        return x.flatten(1) @ self.weight


# -- the three games -----------------------------------------------------------------------------


def test_dcgans_best_critic_is_the_log_density_ratio() -> None:
    """On a grid of two Gaussians the loss is flat at log p / q, and 2 log 2 - 2 JSD there.

    Goodfellow et al. 2014, proposition 1 and theorem 1; elsewhere the loss is higher. Fails with:
    real and fake exchanged, one of the two terms left out or halved.
    """
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    p, q = (
        1 + torch.exp(-0.5 * ((x - m) / s) ** 2).mul(300).round() for m, s in ((0.5, 1), (0, 2))
    )
    at_real, at_fake = (
        torch.repeat_interleave(torch.arange(81), counts.long()) for counts in (p, q)
    )
    p, q = p / p.sum(), q / q.sum()
    gan = small(DCGAN, POINTS)

    def loss(critic: Tensor) -> Tensor:
        return gan.critic_loss(critic[at_real], critic[at_fake])

    best = (p / q).log().requires_grad_()
    (slope,) = torch.autograd.grad(loss(best), best)
    assert float(slope.abs().max()) < 1e-12
    middle = (p + q) / 2
    jsd = 0.5 * (p * (p / middle).log() + q * (q / middle).log()).sum()
    best = best.detach()
    assert float(loss(best)) == pytest.approx(2 * math.log(2) - 2 * float(jsd))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        other = best + 0.3 * torch.randn(81, generator=generator, dtype=torch.float64)
        assert float(loss(other)) > float(loss(best)) + 1e-3


def test_dcgans_generator_learns_most_where_the_critic_is_sure() -> None:
    """d/dD of -log σ(D) is -σ(-D): -1 for D = -30. Fails with: the saturating log(1 - σ(D))."""
    score = torch.tensor([-30.0, 0.0], requires_grad=True)
    (slope,) = torch.autograd.grad(small(DCGAN, POINTS).generator_loss(score) * 2, score)
    assert slope.tolist() == pytest.approx([-1.0, -0.5])


def test_hinge_loss_at_known_scores() -> None:
    """Scores beyond the margin cost nothing. Fails with: a sign, real and fake exchanged."""
    gan = small(SNGAN, POINTS)
    on_real, on_fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, -0.25, 1.0])
    expected = (0 + 0.5 + 2) / 3 + (0 + 0.75 + 2) / 3
    assert float(gan.critic_loss(on_real, on_fake)) == pytest.approx(expected)
    assert float(gan.critic_loss(on_real + 9, on_fake - 9)) == 0
    assert float(gan.generator_loss(on_fake)) == pytest.approx(2.25 / 3)


def test_the_wasserstein_critic_is_paid_for_what_it_tells_apart() -> None:
    """For two points at distance 2 the critic of slope 1 has loss -2. Fails with: a sign."""
    gan = small(WGANGP, POINTS)
    assert float(gan.critic_loss(torch.tensor([3.0]), torch.tensor([1.0]))) == -2
    assert float(gan.generator_loss(torch.tensor([3.0]))) == -3


@pytest.mark.parametrize("spec", [POINTS, DIGITS], ids=["points", "images"])
@pytest.mark.parametrize("steepness", [0.0, 0.5, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic(spec: DataSpec, steepness: float) -> None:
    """10 (s - 1)² for slope s, 0 for slope 1, anywhere.

    Fails with: the mean over pixels for the sum, s² for s, a one-sided penalty, ½ λ.
    """
    gan = small(WGANGP, spec)
    gan.critic = Linear(spec.dim, steepness)  # type: ignore[assignment]
    batch = some(spec)
    penalty = gan.penalty(batch.x, torch.zeros_like(batch.x), batch.cond)
    assert float(penalty) == pytest.approx(10 * (steepness - 1) ** 2, abs=1e-5)
    if steepness > 1:
        penalty.backward()  # type: ignore[no-untyped-call]
        grad = gan.critic.weight.grad  # type: ignore[union-attr]
        assert float(grad.norm()) == pytest.approx(20 * (steepness - 1), rel=1e-4)  # type: ignore[union-attr, operator]


def test_the_penalty_is_taken_all_along_the_lines_from_data_to_samples() -> None:
    """One place an item, even over [0, 1]. Fails with: a place a pixel, one place a batch."""
    gan = small(WGANGP, DIGITS)
    gan.critic = Linear(64, 1.0)  # type: ignore[assignment]
    gan.penalty(torch.zeros(2000, 1, 8, 8), torch.ones(2000, 1, 8, 8), {})
    place = gan.critic.seen[0].flatten(1)  # type: ignore[union-attr, index]
    assert float(place.std(1).max()) < 1e-6
    quartiles = place[:, 0].quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist()
    assert quartiles == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.05)


# -- spectral norm -------------------------------------------------------------------------------


def layers(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a critic's layers as they are used, by name."""
    kinds = nn.Linear | nn.Conv2d | nn.Embedding
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("spec", [POINTS, DIGITS], ids=["points", "images"])
def test_no_layer_of_sngans_critic_is_steeper_than_one(spec: DataSpec) -> None:
    """Before training and after fast training, against the full decomposition.

    Fails with: no power iteration after a step, the Frobenius norm, a layer left out.
    """
    gan = small(SNGAN, spec, lr=3e-3, batch_size=16)
    batch = some(spec, 64)
    trainer = Trainer(gan, Split(*_raw(spec, batch)), Budget(60, "steps"), 0)
    for _ in range(2):
        weights = layers(gan.critic)
        assert len(weights) == (3 if spec is POINTS else 5)
        for name, weight in weights.items():
            largest = float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2))
            assert 0.9 < largest < 1.05, (name, largest)
        with trainer.clock.running():
            while not trainer.done:
                trainer.step()


def _raw(spec: DataSpec, batch: Batch) -> tuple[Tensor, Tensor | None]:
    if not spec.is_image:
        return batch.x, None
    return ((batch.x + 1) * 8).round().byte(), batch.cond["label"]


def test_the_spectral_norm_takes_part_in_the_gradient() -> None:
    """W / σ(W) does not change with the scale of W, so ⟨∂L/∂W, W⟩ = 0 (Miyato et al., eq. 9).

    Fails with: σ detached.
    """
    gan = small(SNGAN, augment=0.0)
    batch = some()
    gan.critic(batch.x, batch.cond).sum().backward()
    norms = [m for m in gan.critic.modules() if isinstance(m, parametrize.ParametrizationList)]
    assert norms
    for norm in norms:
        weight, gradient = norm.original, norm.original.grad
        along = float((weight * gradient).sum() / (weight.norm() * gradient.norm()))
        assert abs(along) < 1e-3


# -- phases --------------------------------------------------------------------------------------


class Undetached(DCGAN):
    """Planted: the critic's loss is taken through the generator."""

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        if phase == "generator":
            return super().loss(batch, phase, state)
        z = torch.randn(len(batch.x), self.settings.latent)
        fake = self.generator(z, batch.cond)
        total = self.critic_loss(self.critic(batch.x, batch.cond), self.critic(fake, batch.cond))
        return Loss(total, {})


def pulled_by_the_critics_phase(gan: ClassicGAN) -> list[str]:
    """Parameters with a gradient after it, of all that are free to have one."""
    gan.zero_grad()
    gan.loss(some(), "critic", TrainState()).total.backward()  # type: ignore[no-untyped-call]
    return [name for name, p in gan.named_parameters() if p.grad is not None]


@pytest.mark.parametrize("cls", ALL)
def test_the_critics_phase_does_not_pull_on_the_generator(cls: type) -> None:
    """Even where nothing is frozen. Fails with: no `no_grad` around the generator."""
    pulled = pulled_by_the_critics_phase(small(cls))
    assert pulled and all(name.startswith("critic.") for name in pulled)


def test_an_undetached_generator_is_caught_by_name() -> None:
    assert "generator.out.weight" in pulled_by_the_critics_phase(small(Undetached))


@pytest.mark.parametrize("cls", ALL)
def test_the_generators_phase_leaves_the_critic_alone(cls: type) -> None:
    """As the loop runs it. Fails with: the critic's parameters in the generator's group."""
    gan = small(cls)
    trainer = Trainer(gan, Split(*_raw(DIGITS, some(n=40))), Budget(4, "steps"), 0)
    trainer._train_only("generator")
    gan.loss(some(), "generator", TrainState()).total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in gan.critic.parameters())
    assert all(p.grad is not None for p in gan.generator.parameters())


@pytest.mark.parametrize(("cls", "critic_steps"), [(DCGAN, 1), (WGANGP, 5), (SNGAN, 1)])
def test_the_critic_goes_first_and_as_often_as_it_should(cls: type, critic_steps: int) -> None:
    """n_critic, losses and gradient norms by phase. Fails with: the generator first."""
    gan = small(cls, batch_size=8)
    assert gan.phases(TrainState()) == ("critic",) * critic_steps + ("generator",)
    trainer = Trainer(gan, Split(*_raw(DIGITS, some(n=40))), Budget(4, "steps"), 0)
    with trainer.clock.running():
        trainer.step()
    entry = trainer.log_entry()
    assert entry["images"] == 8 * (critic_steps + 1)
    assert set(entry["grad_norm"]) == {"critic", "generator"}
    assert {"critic/adversarial", "generator/adversarial"} <= set(entry["loss"])


# -- DiffAugment ---------------------------------------------------------------------------------


def test_diff_augment_is_differentiable() -> None:
    """A shown pixel has slope 1, a hidden one 0. Fails with: detached images."""
    x = torch.rand(64, 1, 8, 8, requires_grad=True)
    out = diff_augment(x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert float(slope.sum()) == pytest.approx(float((out != 0).sum()))


def test_cutout_hides_half_of_each_side_where_it_fits() -> None:
    """Of 8 pixels a side, 28 / 8 in mean; squared and over 64 that is 0.191 of the image.

    Fails with: a bar for a square, one place for all images.
    """
    shown = cutout(torch.ones(4000, 1, 8, 8))
    hidden = (shown == 0).float()
    assert float(hidden.mean()) == pytest.approx((28 / 64) ** 2, abs=0.01)
    assert float(hidden.flatten(1).sum(1).max()) == 16
    assert len({tuple(row) for row in hidden.flatten(1).tolist()}) == 64


def test_diff_augment_never_mirrors() -> None:
    """What grows to the right and down still does. Fails with: a random flip of either side."""
    ramp = 1 + torch.arange(8.0) + 10 * torch.arange(8.0)[:, None]
    out = diff_augment(ramp.expand(500, 1, 8, 8))
    for dim in (2, 3):
        before, after = out.narrow(dim, 0, 7), out.narrow(dim, 1, 7)
        assert bool((after >= before)[(before != 0) & (after != 0)].all())
    assert len(out.flatten(1).unique(dim=0)) > 100


def test_only_colour_images_change_in_brightness() -> None:
    """By one number an image within ±½. Fails with: brightness on gray ones, a number a channel."""
    gray, colour = diff_augment(torch.full((99, 1, 8, 8), 0.3)), torch.full((99, 3, 8, 8), 0.3)
    assert gray.unique().tolist() == pytest.approx([0.0, 0.3])
    change = diff_augment(colour)
    hidden = change == 0
    top = change.masked_fill(hidden, -9).flatten(1).amax(1) - 0.3
    bottom = change.masked_fill(hidden, 9).flatten(1).amin(1) - 0.3
    assert torch.allclose(top, bottom, atol=1e-6)
    assert float(top.abs().max()) <= 0.5 and float(top.std()) == pytest.approx(0.29, abs=0.05)


@pytest.mark.parametrize("cls", ALL)
def test_both_phases_see_data_and_samples_through_the_same_transforms(cls: type) -> None:
    """A fifth of the pixels is hidden in all of them. Fails with: real images or a phase forgotten.

    Without the option no pixel is; its noise makes exact zeros impossible otherwise.
    """
    for on in (True, False):
        gan = small(cls, diffaugment=on, augment=0.0)
        gan.critic = Linear(64, 1.0)  # type: ignore[assignment]
        with torch.no_grad():
            gan.generator.out.weight.fill_(0.1)
        for phase in ("critic", "generator"):
            gan.critic.seen.clear()  # type: ignore[union-attr, operator]
            gan.loss(some(n=1500), phase, TrainState())
            seen = gan.critic.seen  # type: ignore[union-attr]
            assert len(seen) >= (2 if phase == "critic" else 1)  # type: ignore[arg-type]
            for x in seen[:2]:  # type: ignore[index]
                share = float((x == 0).float().mean())
                assert share == pytest.approx(0.191 if on else 0.0, abs=0.012), phase


@pytest.mark.parametrize("cls", ALL)
def test_samples_are_not_augmented(cls: type) -> None:
    """The option changes no sample. Fails with: `diff_augment` in `draw`."""
    plain, augmented = small(cls), small(cls, diffaugment=True)
    augmented.load_state_dict(plain.state_dict())
    assert torch.equal(plain.sample(16), augmented.sample(16))


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("spec", [POINTS, COLOUR], ids=["points", "colour"])
def test_other_data_can_be_augmented_too(cls: type, spec: DataSpec) -> None:
    """Points pass as they are; unlabelled colour images have gradients everywhere."""
    gan = small(cls, spec, diffaugment=True)
    for phase in ("critic", "generator"):
        gan.zero_grad()
        gan.loss(some(spec), phase, TrainState()).total.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in gan.param_groups()[phase])


def test_settings_explain_what_they_inherit() -> None:
    """`genzoo models wgan-gp` explains every field. Fails with: the subclass's docstring alone."""
    from genzoo.registry import describe_settings

    for settings in (GANSettings, ClassicGANSettings, WGANGP.Settings, SNGAN.Settings):
        assert all(info.meaning for info in describe_settings(settings)), settings
