"""Bits per dimension of images and nats of points, for every model that has a likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.errors import InputError
from genzoo.evaluation.neighbours import Measured
from genzoo.evaluation.result import Score
from genzoo.evaluation.statistics import around
from genzoo.model import GenerativeModel, HasLikelihood, evaluating
from genzoo.noise import generator
from genzoo.progress import Progress
from genzoo.runs import Run
from genzoo.types import DataSpec

BATCH = 250
# An ODE is solved for an estimate, hundreds of network evaluations an item and label.
ITEMS = {"exact": 1000, "bound": 1000, "estimate": 200}


def log_likelihood(model: GenerativeModel, raw: Tensor, *, seed: int = 0) -> Tensor:
    """Log P(raw) in nats, (N,); of a conditional model log Σ_y p(y) p(raw | y).

    Every label sees the same dequantization noise.

    Args:
        model: one with `genzoo.model.HasLikelihood`.
        raw: integer levels (N, C, H, W) or points (N, D) in data units.
        seed: of the noise of dequantization, latents or trace probes.
    """
    assert isinstance(model, HasLikelihood)
    out = []
    with evaluating(model), torch.no_grad():
        for i, part in enumerate(raw.split(BATCH)):
            terms = []
            for log_prior, cond in _conditions(model.spec, len(part), model.device):
                noise = generator(seed, i, device=model.device)
                log_prob = model.log_prob(part.to(model.device), cond, noise)
                terms.append(log_prob.double().cpu() + log_prior)
            out.append(torch.logsumexp(torch.stack(terms), dim=0))
    return torch.cat(out)


def held_out_items(model: HasLikelihood, test: Tensor) -> Tensor:
    """The held-out items that the likelihood is measured on, chosen by a fixed seed."""
    chosen = np.random.default_rng(0).permutation(len(test))[: ITEMS[model.likelihood]]
    return test[torch.from_numpy(np.sort(chosen))]


def measure_likelihood(model: GenerativeModel, raw: Tensor, *, seed: int = 0) -> Measured:
    """Bits per dimension of levels, or nats of points, with an interval over items."""
    nats = -log_likelihood(model, raw, seed=seed)
    unit = model.spec.dim * math.log(2) if model.spec.is_image else 1.0
    value = float(nats.mean()) / unit
    if not math.isfinite(value):
        return Measured(value)
    error = float(nats.std()) / unit / math.sqrt(len(nats))
    return Measured(value, around(value, error, len(nats) - 1))


def _conditions(
    spec: DataSpec, n: int, device: torch.device
) -> list[tuple[float, Mapping[str, Tensor]]]:
    """Log prior and condition of every label that occurs; one empty condition without labels."""
    if not spec.num_classes:
        return [(0.0, {})]
    return [
        (math.log(share), {"label": torch.full((n,), label, device=device)})
        for label, share in enumerate(spec.frequencies)
        if share > 0
    ]


def likelihood_score(
    run: Run | None,
    dataset: Dataset,
    device: torch.device,
    model: GenerativeModel | str | None,
    trust: bool,
    progress: Progress,
) -> Score:
    """Bits per dimension of images or nats of points, or why there are none.

    Args:
        run: whose model it is; ``None`` for samples alone.
        dataset: whose held-out items are used.
        device: where to compute.
        model: see `genzoo.evaluation.evaluate`.
        trust: see `genzoo.evaluation.evaluate`.
        progress: told of the measuring.
    """
    name = "bits_per_dim" if dataset.spec.is_image else "nll_nats"
    if run is None and not isinstance(model, GenerativeModel):
        return Score.refused(name, 0, "samples alone have no likelihood; give a run")
    if not isinstance(model, GenerativeModel):
        from genzoo.training import load_model

        assert run is not None
        try:
            model = load_model(run, device=device, model=model, trust=trust)
        except InputError as error:
            return Score.refused(name, 0, f"the model was not loaded: {error}")
    if not isinstance(model, HasLikelihood):
        family = type(model).__name__ if run is None else run.config["family"]
        return Score.refused(name, 0, f"{family}: no likelihood")
    if (model.spec.shape, model.spec.levels) != (dataset.spec.shape, dataset.spec.levels):
        return Score.refused(name, 0, "the model is of other shape or levels than the data")
    items = held_out_items(model, dataset.test.data)
    progress.update("likelihood", 0.0)
    measured = measure_likelihood(model, items)
    progress.update("likelihood", 1.0)
    if not math.isfinite(measured.value):
        return Score.refused(name, len(items), "some held-out items are impossible to this model")
    return Score(
        name,
        measured.value,
        len(items),
        _convention(model, dataset.spec),
        measured.interval,
        floor=None if dataset.log_density is None else _entropy(dataset, items),
        likelihood=model.likelihood,
    )


def _convention(model: GenerativeModel, spec: DataSpec) -> str:
    labels = "; log Σ p(y) p(x|y)" if model.spec.num_classes else ""
    if spec.levels is None:
        unit = "data units; floor: the true density"
    else:
        uniform = math.log2(spec.levels)
        unit = f"{spec.levels} levels (uniform: {uniform:.3f}); one draw of the noise"
    return f"held-out items, {unit}{labels}; 95 % interval over items"


def _entropy(dataset: Dataset, items: Tensor) -> float:
    assert dataset.log_density is not None
    return -float(dataset.log_density(items).double().mean())
