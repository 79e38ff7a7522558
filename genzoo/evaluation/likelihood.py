"""Bits per dimension of images and nats of points, for every model that has a likelihood."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.errors import InputError
from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.result import Score
from genzoo.evaluation.statistics import around
from genzoo.model import ExplainsLikelihood, GenerativeModel, HasLikelihood
from genzoo.ops import bits_per_dim, likelihood_of, log_likelihood
from genzoo.progress import Progress
from genzoo.ranks import ALONE, Ranks
from genzoo.runs import Run
from genzoo.types import DataSpec

# An ODE is solved for an estimate, dozens of network evaluations an item and label: too slow
# for many images. Points have small networks.
ITEMS = {"exact": 1000, "bound": 400, "estimate": 100}
POINTS = 1000
# One item in so many is measured again with other noise, to tell noise from items.
REPEAT_EVERY = 4


def held_out_items(model: HasLikelihood, test: Tensor) -> Tensor:
    """The held-out items that the likelihood is measured on, chosen by a fixed seed."""
    limit = POINTS if test.ndim == 2 else ITEMS[model.likelihood]
    chosen = np.random.default_rng(0).permutation(len(test))[:limit]
    return test[torch.from_numpy(np.sort(chosen))]


def measure_likelihood(
    model: GenerativeModel, raw: Tensor, *, seed: int = 0, ranks: Ranks = ALONE
) -> Measured:
    """Bits per dimension of levels, or nats of points, with an interval over items.

    `Measured.reference_error` is the standard error from the items being finitely many and
    `Measured.sampling_error` that from the noise of dequantization, latents or trace probes;
    the interval covers both.

    Args:
        model: one with a likelihood, see `genzoo.ops.likelihood_of`.
        raw: held-out levels (N, C, H, W) or points (N, D) in data units, in any order.
        seed: of the noise.
        ranks: the processes that share the items; all get the same answer.

    Raises:
        Refused: there are no items, some are impossible to the model, or its answer is no number.
    """
    able = likelihood_of(model)
    if able is None:
        raise Refused(f"{type(model).__name__} has no likelihood")
    if not len(raw):
        raise Refused("there are no held-out items")
    cost = _costs(model, raw, seed, ranks)
    n = len(cost)
    value = float(cost.mean())
    convention = _convention(able, model.spec)
    if n < 2:
        caution = "a single item: nothing is known of the spread"
        return Measured(value, n=n, convention=convention, caution=caution)
    total = float(cost.std()) / math.sqrt(n)
    noise = 0.0 if able.likelihood == "exact" else _noise_error(model, raw, cost, seed, ranks)
    items = math.sqrt(max(0.0, total**2 - noise**2))
    return Measured(value, around(value, total, n - 1), noise, items, n, convention)


def _costs(model: GenerativeModel, raw: Tensor, seed: int, ranks: Ranks) -> Tensor:
    """Bits per dimension or nats of each item, (N,); all finite, or refused."""
    log_prob = log_likelihood(model, raw, seed=seed, ranks=ranks)
    undefined = int(log_prob.isnan().sum())
    if undefined:
        raise Refused(
            f"the likelihood of {undefined} of {len(raw)} held-out items is not a number: the "
            "model or its solver failed there"
        )
    impossible = int(log_prob.isinf().sum())
    if impossible:
        raise Refused(f"{impossible} of {len(raw)} held-out items are impossible to this model")
    return bits_per_dim(log_prob, model.spec) if model.spec.is_image else -log_prob


def _noise_error(
    model: GenerativeModel, raw: Tensor, cost: Tensor, seed: int, ranks: Ranks
) -> float:
    """Standard error of the mean cost from the noise alone, from a second draw of some items."""
    again = _costs(model, raw[::REPEAT_EVERY], seed + 1, ranks)
    variance = float((again - cost[::REPEAT_EVERY]).square().mean()) / 2
    return math.sqrt(variance / len(cost))


def _convention(able: HasLikelihood, spec: DataSpec) -> str:
    how = able.likelihood_convention if isinstance(able, ExplainsLikelihood) else able.likelihood
    labels = "; log Σ p(y) p(x|y)" if spec.num_classes else ""
    unit = "data units"
    if spec.levels is not None:
        unit = f"{spec.levels} levels (uniform: {math.log2(spec.levels):.3f})"
    return f"{how}{labels}; held-out items, {unit}; 95 % interval over items and noise"


def likelihood_score(
    run: Run | None,
    dataset: Dataset,
    device: torch.device,
    model: GenerativeModel | str | None,
    trust: bool,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> Score:
    """Bits per dimension of images or nats of points, or why there are none.

    Args:
        run: whose model it is; ``None`` for samples alone.
        dataset: whose held-out items are used.
        device: where to compute.
        model: see `genzoo.evaluation.evaluate`.
        trust: see `genzoo.evaluation.evaluate`.
        progress: told of the measuring.
        ranks: see `measure_likelihood`.
    """
    name = "bits_per_dim" if dataset.spec.is_image else "nll_nats"
    try:
        able, loaded = _loaded(run, dataset.spec, device, model, trust)
        items = held_out_items(able, dataset.test.data)
        progress.update("likelihood", 0.0)
        measured = measure_likelihood(loaded, items, ranks=ranks)
    except Refused as reason:
        return Score.refused(name, 0, str(reason))
    finally:
        progress.update("likelihood", 1.0)
    floor, convention = None, measured.convention
    if dataset.log_density is not None:
        floor = -float(dataset.log_density(items).double().mean())
        convention += "; floor: the true density of the same items"
    return Score(
        name,
        measured.value,
        len(items),
        convention,
        measured.interval,
        floor=floor,
        likelihood=able.likelihood,
        sampling_error=measured.sampling_error,
        reference_error=measured.reference_error,
        caution=measured.caution,
    )


def _loaded(
    run: Run | None,
    spec: DataSpec,
    device: torch.device,
    model: GenerativeModel | str | None,
    trust: bool,
) -> tuple[HasLikelihood, GenerativeModel]:
    """What answers for the likelihood, and the model itself.

    Raises:
        Refused: there is no model, it cannot be had, or it has no likelihood of such data.
    """
    if run is None and not isinstance(model, GenerativeModel):
        raise Refused("samples alone have no likelihood; give a run")
    if not isinstance(model, GenerativeModel):
        from genzoo.training import load_model

        assert run is not None
        try:
            model = load_model(run, device=device, model=model, trust=trust)
        except InputError as error:
            raise Refused(f"the model was not loaded: {error}") from error
    able = likelihood_of(model)
    if able is None:
        family = type(model).__name__ if run is None else run.config["family"]
        raise Refused(f"{family}: no likelihood")
    if (model.spec.shape, model.spec.levels) != (spec.shape, spec.levels):
        raise Refused("the model is of other shape or levels than the data")
    return able, model
