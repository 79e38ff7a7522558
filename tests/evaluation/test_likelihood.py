"""Bits per dimension and nats: closed forms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.data.dataset import Dataset
from genzoo.evaluation import likelihood
from genzoo.evaluation.likelihood import likelihood_score, measure_likelihood
from genzoo.evaluation.measured import Refused
from genzoo.evaluation.statistics import around
from genzoo.model import Density, GenerativeModel
from genzoo.noise import NoiseSource
from genzoo.ops import log_likelihood
from genzoo.progress import Silent
from genzoo.registry import build
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, SampleOptions, TrainState


def test_uniform_digits_are_log2_of_17() -> None:
    """Uniform over 17 levels: 4.087 bits. Fails with: 256 or 16 levels, nats, D left out."""
    data = open_dataset("digits")
    model = build("noise", data.spec)
    found = measure_likelihood(model, data.test.data[:60])
    assert found.value == pytest.approx(math.log2(17), abs=1e-6)
    assert found.value == pytest.approx(4.087, abs=5e-4)


@pytest.mark.parametrize("name", ["digits", "stacked-digits"])
def test_knowing_nothing_costs_log2_of_the_levels_on_every_embedded_data_set(name: str) -> None:
    """Uniform levels, no spread at all. Fails with: 256 levels for 17, channels left out of D."""
    data = open_dataset(name)
    assert data.spec.levels is not None
    found = measure_likelihood(build("noise", data.spec), data.test.data[:40])
    assert found.value == pytest.approx(math.log2(data.spec.levels), abs=1e-5)
    assert found.interval is not None
    assert found.interval.high - found.interval.low == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_knowing_nothing_costs_log2_of_any_number_of_levels(levels: int) -> None:
    """1, 4.087 and 8 bits. Fails with: L - 1 for L."""
    spec = DataSpec((3, 4, 4), levels)
    raw = torch.randint(0, levels, (9, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    found = measure_likelihood(build("noise", spec), raw)
    assert found.value == pytest.approx(math.log2(levels), abs=1e-5)


class UniformDensity(Density, GenerativeModel):
    """Uniform over the volume of all bins: the dequantized form of knowing nothing."""

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        raise AssertionError("a likelihood needs neither loss nor samples")

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        raise AssertionError("a likelihood needs neither loss nor samples")

    def log_density(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        assert self.spec.levels is not None
        edge = self.spec.levels / (self.spec.levels - 1)
        assert float(x.abs().max()) <= edge
        return x.new_full((len(x),), -self.spec.dim * math.log(2 * edge))


@pytest.mark.parametrize("name", ["digits", "stacked-digits"])
def test_a_uniform_density_costs_the_same(name: str) -> None:
    """And is a bound. Fails with: bins of 2/L for 2/(L-1), dequantization past the outer bins."""
    data = open_dataset(name)
    assert data.spec.levels is not None
    found = measure_likelihood(UniformDensity(data.spec), data.test.data[:20])
    assert found.value == pytest.approx(math.log2(data.spec.levels), abs=1e-5)
    assert "dequantization" in found.convention


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


# -- errors, intervals, refusals ---------------------------------------------------------------

PIXELS = DataSpec((1, 1, 1), 256)


class Table(GenerativeModel):
    """-log P is the level itself in nats, plus noise; NaN or impossible where told."""

    likelihood: LikelihoodKind = "bound"
    noise = 0.0
    broken: Mapping[int, float] = {}

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        raise AssertionError("a likelihood needs neither loss nor samples")

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        raise AssertionError("a likelihood needs neither loss nor samples")

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        level = raw.flatten(1)[:, 0].float()
        out = self.noise * torch.randn(len(raw), generator=generator) - level
        for bad, value in self.broken.items():
            out[level == bad] = value
        return out


def levels_of(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1).byte()


def test_noise_and_items_are_told_apart() -> None:
    """Items of standard deviation 10, noise of 20: √400/n and √100/n nats.

    Fails with: the noise's variance not halved, the noise left inside the items' error.
    """
    model = Table(PIXELS)
    model.noise = 20.0
    random = torch.Generator().manual_seed(0)
    raw = levels_of((100 + 10 * torch.randn(20_000, generator=random)).round())
    found = measure_likelihood(model, raw)
    unit = math.sqrt(len(raw)) * math.log(2)
    assert found.sampling_error == pytest.approx(20 / unit, rel=0.05)
    assert found.reference_error == pytest.approx(10 / unit, rel=0.1)
    assert found.interval is not None
    half = (found.interval.high - found.interval.low) / 2
    assert half == pytest.approx(1.96 * math.hypot(10, 20) / unit, rel=0.02)


def test_a_model_without_noise_has_none() -> None:
    """Fails with: the repeat measured on other items."""
    raw = levels_of(torch.arange(200) % 50)
    found = measure_likelihood(Table(PIXELS), raw)
    assert found.sampling_error == 0 and found.n == 200
    assert found.reference_error == pytest.approx(
        float((torch.arange(200) % 50).double().std()) / math.sqrt(200) / math.log(2)
    )


@pytest.mark.parametrize("law", ["normal", "skewed", "noisy"])
def test_intervals_contain_the_expectation(law: str) -> None:
    """2,000 comparisons at the fewest items in use (100): 93 to 97 %.

    The interval is that of `measure_likelihood` on costs drawn here, since a model adds only
    time; `noisy` adds independent noise of the size of the items' spread.
    Fails with: 1.645 for 1.96, n for √n.
    """
    random = np.random.default_rng(0)
    n, hits = likelihood.ITEMS["estimate"], 0
    for _ in range(2000):
        cost = random.gamma(4.0, 0.5, n) if law == "skewed" else random.normal(2.0, 1.0, n)
        if law == "noisy":
            cost += random.normal(0, 1, n)
        low, high = around(cost.mean(), cost.std(ddof=1) / math.sqrt(n), n - 1)
        hits += low <= 2.0 <= high
    assert 0.93 <= hits / 2000 <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_measured_intervals_contain_the_expectation(noise: float) -> None:
    """2,000 whole measurements: skewed levels, with and without noise of the model's own."""
    model = Table(PIXELS)
    model.noise = noise
    random = torch.Generator().manual_seed(0)
    costs = torch.rand(2000, 100, generator=random).log().neg().mul(20).round().clamp(max=255)
    values, hits = [], 0
    found = [measure_likelihood(model, levels_of(c), seed=k) for k, c in enumerate(costs)]
    values = [m.value for m in found]
    truth = float(np.mean(values))
    hits = sum(m.interval is not None and m.interval.low <= truth <= m.interval.high for m in found)
    assert 0.93 <= hits / 2000 <= 0.97


@pytest.mark.parametrize(
    ("value", "words"),
    [(math.nan, "2 of 10 .* not a number"), (-math.inf, "2 of 10 .* impossible")],
)
def test_items_without_an_answer_are_refused(value: float, words: str) -> None:
    """Fails with: NaN called impossible, a mean over the rest."""
    model = Table(PIXELS)
    model.broken = {3: value}
    with pytest.raises(Refused, match=words):
        measure_likelihood(model, levels_of(torch.arange(10) % 5))


def test_few_items_are_marked_or_refused() -> None:
    """One item has no spread, none has no mean. Fails with: NaN from `std` of one item."""
    one = measure_likelihood(Table(PIXELS), levels_of(torch.tensor([7])))
    assert one.value == pytest.approx(7 / math.log(2))
    assert one.interval is None and one.caution
    with pytest.raises(Refused, match="no held-out items"):
        measure_likelihood(Table(PIXELS), levels_of(torch.zeros(0)))


def scored(model: GenerativeModel, data: Dataset) -> likelihood.Score:
    return likelihood_score(None, data, torch.device("cpu"), model, False, Silent())


def test_scores_carry_label_convention_and_truth() -> None:
    """Every family says which kind it is and how; points have the true density as floor."""
    ring = open_dataset("ring")
    diffusion = build("diffusion", ring.spec, {"width": 16, "depth": 1})
    score = scored(diffusion, ring)
    assert score.name == "nll_nats" and score.likelihood == "estimate"
    assert score.n == min(likelihood.POINTS, len(ring.test.data))
    assert all(w in score.convention for w in ("exact trace", "tolerance", "σ = 0.002", "floor"))
    assert score.value is not None and score.floor is not None and score.value > score.floor
    digits = open_dataset("digits")
    vae = build("vae", digits.spec, {"width": 16, "layers": 1, "heads": 2, "importance_samples": 2})
    with torch.no_grad():  # untrained, the latents say nothing
        for parameter in vae.parameters():
            parameter.add_(0.1)
    items, likelihood.ITEMS["bound"] = likelihood.ITEMS["bound"], 20
    try:
        score = scored(vae, digits)
    finally:
        likelihood.ITEMS["bound"] = items
    assert score.likelihood == "bound" and score.n == 20
    assert all(w in score.convention for w in ("IWAE-K, K = 2", "17 levels", "4.087", "Σ p(y)"))
    assert score.sampling_error is not None and score.sampling_error > 0


def test_what_has_no_likelihood_says_so() -> None:
    """A GAN, data of another shape, samples alone. Fails with: a traceback, a number."""
    digits = open_dataset("digits")
    assert scored(build("gan", digits.spec), digits).reason == "GAN: no likelihood"
    other = scored(Table(PIXELS), digits).reason
    assert other is not None and "other shape" in other
    alone = likelihood_score(None, digits, torch.device("cpu"), None, False, Silent()).reason
    assert alone is not None and "samples alone" in alone
