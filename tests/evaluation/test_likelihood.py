"""Bits per dimension and nats: closed forms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.evaluation.likelihood import log_likelihood, measure_likelihood
from genzoo.model import GenerativeModel
from genzoo.noise import NoiseSource
from genzoo.registry import build
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, SampleOptions, TrainState


def test_uniform_digits_are_log2_of_17() -> None:
    """Uniform over 17 levels: 4.087 bits. Fails with: 256 or 16 levels, nats, D left out."""
    data = open_dataset("digits")
    model = build("noise", data.spec)
    found = measure_likelihood(model, data.test.data[:60])
    assert found.value == pytest.approx(math.log2(17), abs=1e-6)
    assert found.value == pytest.approx(4.087, abs=5e-4)


class PerLabel(GenerativeModel):
    """P(x | y) is .5 for the first level where y = 0, .125 where y = 1; noise if asked for."""

    likelihood: LikelihoodKind = "exact"
    noisy = False

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        raise AssertionError("a likelihood needs neither loss nor samples")

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        raise AssertionError("a likelihood needs neither loss nor samples")

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        value = torch.tensor([0.5, 0.125, 1.0]).log()[cond["label"]]
        return torch.rand(len(raw), generator=generator) if self.noisy else value


SPEC = DataSpec((1, 4, 4), 2, {"label": 3}, (0.25, 0.75, 0.0))


def test_conditional_models_are_summed_over_labels() -> None:
    """log(.25 · .5 + .75 · .125), the absent label left out.

    Fails with: a mean of logs, uniform p(y), p(y) forgotten.
    """
    found = log_likelihood(PerLabel(SPEC), torch.zeros(300, 1, 4, 4, dtype=torch.uint8))
    assert found.shape == (300,)
    assert found.tolist() == pytest.approx([math.log(0.25 * 0.5 + 0.75 * 0.125)] * 300)


def test_labels_share_the_noise() -> None:
    """With noise alone, every label says the same. Fails with: one generator used on and on."""
    model = PerLabel(SPEC)
    model.noisy = True
    raw = torch.zeros(300, 1, 4, 4, dtype=torch.uint8)
    found = log_likelihood(model, raw, seed=3)
    assert bool((found > 0).all() and (found < 1).all())
    assert torch.equal(found, log_likelihood(model, raw, seed=3))
    # Batches do not repeat each other's noise.
    assert found[:50].tolist() != found[250:300].tolist()


def test_training_mode_is_restored() -> None:
    """Fails with: `model.eval()` left behind."""
    model = PerLabel(SPEC).train()
    log_likelihood(model, torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    assert model.training
