"""Every registered model passes the contract, and the contract catches broken ones."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from genzoo.checks import IMAGES, POINTS, ContractViolation, check_model
from genzoo.model import Density, GenerativeModel
from genzoo.noise import NoiseSource
from genzoo.registry import MODELS
from genzoo.types import Batch, DataSpec, Loss, SampleOptions, TrainState

SMALL: Mapping[str, Mapping[str, object]] = {
    "gan": {"width": 32, "depth": 1},
    "dcgan": {"width": 32, "depth": 1},
    "wgan-gp": {"width": 32, "depth": 1},
    "sngan": {"width": 32, "depth": 1},
    "vae": {"width": 32, "layers": 2, "heads": 2},
    "gaussian-vae": {"latent": 4, "width": 32, "depth": 1},
    "vqvae": {"width": 32, "depth": 1, "codes": 32, "prior_depth": 1, "heads": 2},
    "flow": {"width": 32, "blocks": 3, "heads": 2},
    "flow-density": {"width": 32, "blocks": 2, "heads": 2},
    "realnvp": {"width": 32, "couplings": 4},
    "glow": {"width": 32, "couplings": 4},
    "spline-flow": {"width": 32, "couplings": 4},
    "diffusion": {"width": 32, "depth": 2, "heads": 2, "steps": 6},
    "flow-matching": {"width": 32, "depth": 2, "heads": 2, "steps": 6},
    # Of few steps the first is so long that rounding of the predicted noise shows in the sample.
    "ddpm": {"width": 32, "depth": 2, "heads": 2, "steps": 30},
    "consistency": {"width": 32, "depth": 2, "heads": 2},
    "meanflow": {"width": 32, "depth": 2, "heads": 2},
    "autoregressive": {"width": 32, "depth": 2, "heads": 2, "hidden": 16, "mixtures": 5},
    "pixelcnn": {"width": 16, "depth": 3, "hidden": 16, "mixtures": 5},
}
KNOWN = {
    "noise": {"the_label_matters": "uniform noise ignores labels on purpose"},
    "consistency": {"a_small_data_set_is_learned": "untrained it agrees with itself already"},
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_passes_the_contract(name: str) -> None:
    results = check_model(name, settings=SMALL.get(name, {}), expected_failures=KNOWN.get(name, {}))
    assert sum(r.status == "passed" for r in results) >= 12


class Affine(Density, GenerativeModel):
    """x = mean + scale · z: the smallest model with every capability but a denoiser."""

    def __init__(self, spec: DataSpec, settings: None = None) -> None:
        super().__init__(spec, settings)
        self.latent_shape = spec.shape
        self.mean = nn.Parameter(torch.zeros(max(1, spec.num_classes), *spec.shape))
        self.log_scale = nn.Parameter(torch.zeros(spec.shape))

    def _mean(self, cond: Mapping[str, Tensor], n: int) -> Tensor:
        return self.mean[cond["label"] if cond else torch.zeros(n, dtype=torch.int64)]

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        total = -self.log_density(batch.x, batch.cond).mean()
        return Loss(total, {"nll": total.detach()})

    def log_density(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(self.encode(x, cond))
        return (normal - self.log_scale).flatten(1).sum(1)

    def encode(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return (x - self._mean(cond, len(x))) * torch.exp(-self.log_scale)

    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self._mean(cond, len(z)) + self.log_scale.exp() * z

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        return self.decode(noise.normal(*self.spec.shape), cond)

    def recipe(self):  # type: ignore[no-untyped-def]
        return super().recipe().__class__(lr=1e-2)


class MissingLogDet(Affine):
    def log_density(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(self.encode(x, cond))
        return normal.flatten(1).sum(1) - 0.5 * self.log_scale.sum()


class UsesGlobalNoise(Affine):
    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        return self.decode(torch.randn(noise.n, *self.spec.shape), cond)


class SameNoiseForAll(Affine):
    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        z = NoiseSource(0, 0, noise.n).normal(*self.spec.shape)
        return self.decode(z, cond)


class BatchStatistics(Affine):
    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        z = noise.normal(*self.spec.shape)
        return self.decode(z - z.mean(0), cond)


class ForgetsALabel(Affine):
    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        zeros = {k: torch.zeros_like(v) for k, v in cond.items()}
        return self.decode(noise.normal(*self.spec.shape), zeros)


class ForgetsAParameter(Affine):
    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"main": [self.mean]}


class ChangesTheBatch(Affine):
    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        batch.x.add_(0.1)
        return super().loss(batch, phase, state)


class LossOfEveryItem(Affine):
    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        total = -self.log_density(batch.x, batch.cond)
        return Loss(total, {})


class DetachedLoss(Affine):
    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        found = super().loss(batch, phase, state)
        return Loss(found.total.detach().requires_grad_(True), found.parts)


class Ascends(Affine):
    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        found = super().loss(batch, phase, state)
        return Loss((-found.total).clamp(min=-20), found.parts)


class WrongInverse(Affine):
    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self._mean(cond, len(z)) - self.log_scale.exp() * z


class StateOutsideTheStateDict(Affine):
    offset = 0.0

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        self.offset = 0.5

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        return super().draw(noise, cond, options) + self.offset


PLANTED = {
    MissingLogDet: "density_integrates_to_one[points]",
    UsesGlobalNoise: "samples_depend_on_the_seed_alone[images]",
    SameNoiseForAll: "samples_depend_on_the_seed_alone[points]",
    BatchStatistics: "samples_do_not_depend_on_the_batch_size[points]",
    ForgetsALabel: "the_label_matters[images]",
    ForgetsAParameter: "groups_are_disjoint_and_complete[images]",
    ChangesTheBatch: "loss_is_seeded_and_leaves_the_batch_alone[points]",
    LossOfEveryItem: "loss_is_a_finite_scalar[images]",
    DetachedLoss: "gradients_reach_every_group[images]",
    Ascends: "a_small_data_set_is_learned[images]",
    WrongInverse: "decoding_inverts_encoding[images]",
    StateOutsideTheStateDict: "state_survives_a_round_trip[points]",
}


def test_the_smallest_model_passes() -> None:
    assert {r.status for r in check_model(Affine)} == {"passed", "skipped"}


@pytest.mark.parametrize("broken", PLANTED, ids=lambda cls: cls.__name__)
def test_a_planted_defect_is_caught_by_name(broken: type[Affine]) -> None:
    steps = 0 if broken is LossOfEveryItem else 150
    with pytest.raises(ContractViolation) as caught:
        check_model(broken, steps=steps, specs=(IMAGES, POINTS))
    assert PLANTED[broken] in str(caught.value)
