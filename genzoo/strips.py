"""Rows of pictures that show how a model works.

Noise that becomes data, one item that becomes another, items and what is left of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from genzoo.data.ranges import from_model, to_model
from genzoo.errors import InputError, UnsupportedCapability
from genzoo.model import GenerativeModel, HasLatent, HasPath, evaluating
from genzoo.noise import NoiseSource
from genzoo.types import SampleOptions

COLUMNS = 9


def trajectory(
    model: GenerativeModel,
    n: int,
    *,
    cond: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    options: SampleOptions = SampleOptions(),  # noqa: B008  (frozen)
    columns: int = COLUMNS,
) -> Tensor:
    """States on the way from noise to n samples, evenly chosen, the last one the sample.

    Args:
        model: one with a `genzoo.model.HasPath`.
        n: rows.
        cond: n conditions each; drawn with the training frequencies where absent.
        seed: sample i is the one that `GenerativeModel.sample` draws.
        options: steps, sampler, guidance.
        columns: states a row at most.

    Returns:
        (n, columns, *shape) as samples are, states of much noise scaled down to be seen.

    Raises:
        UnsupportedCapability: the model has no path.
    """
    if not isinstance(model, HasPath):
        raise UnsupportedCapability(type(model).__name__, "path from noise to data")
    cond = model.draw_cond(n, seed) if cond is None else cond
    cond = {k: v.to(model.device) for k, v in cond.items()}
    with evaluating(model), torch.no_grad():
        states = list(model.path(NoiseSource(seed, 0, n, model.device), cond, options))
    # Images are noise on [-1, 1]; points standardized: of size 1 at the most.
    seen = [x / x.flatten(1).square().mean().sqrt().clamp(min=1) for x in states[:-1]]
    places = torch.linspace(0, len(states) - 1, min(columns, len(states))).round().long()
    chosen = torch.stack([[*seen, states[-1]][i] for i in places.tolist()], dim=1)
    return _shown(chosen, model)


def interpolation(
    model: GenerativeModel,
    n: int,
    *,
    cond: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    columns: int = COLUMNS,
) -> Tensor:
    """From one random latent code to another along the sphere, under one label a row.

    Args: as `trajectory`; `model` is one with a `genzoo.model.HasLatent`.

    Returns:
        (n, columns, *shape) as samples are.

    Raises:
        UnsupportedCapability: the model has no latent code.
    """
    latent = _latent(model)
    cond = model.draw_cond(n, seed) if cond is None else cond
    cond = {k: v.to(model.device) for k, v in cond.items()}
    noise = NoiseSource(seed, 0, n, model.device)
    a, b = (noise.normal(*latent.latent_shape) for _ in range(2))
    with evaluating(model), torch.no_grad():
        row = [latent.decode(slerp(a, b, t), cond) for t in torch.linspace(0, 1, columns).tolist()]
    return _shown(torch.stack(row, dim=1), model)


def reconstruction(
    model: GenerativeModel, raw: Tensor, cond: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Items, and what comes back from their latent codes.

    Args:
        model: one with a `genzoo.model.HasLatent`.
        raw: levels (n, C, H, W) or points (n, D) in data units.
        cond: their n conditions each; 'any' where absent.

    Returns:
        (n, 2, *shape), items first.

    Raises:
        UnsupportedCapability: the model has no latent code.
    """
    latent = _latent(model)
    cond = model.null_cond(len(raw)) if cond is None else cond
    cond = {k: v.to(model.device) for k, v in cond.items()}
    x = to_model(raw.to(model.device), model.spec)
    with evaluating(model), torch.no_grad():
        back = latent.decode(latent.encode(x, cond), cond)
    return _shown(torch.stack([x, back], dim=1), model)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Between Gaussian codes along the sphere (White 2016, arXiv 1609.04468), item by item.

    A straight line would pass through lengths that no Gaussian code of many numbers has.

    Args:
        a: (B, *latent).
        b: (B, *latent).
        t: from 0 (a) to 1 (b).
    """
    x, y = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=1)[:, None].clamp(-1, 1)
    angle = cosine.acos()
    line = (1 - t) * x + t * y
    arc = (((1 - t) * angle).sin() * x + (t * angle).sin() * y) / angle.sin().clamp(min=1e-6)
    return torch.where(angle.sin() > 1e-4, arc, line).view_as(a)


STRIPS: Mapping[str, Callable[..., Tensor]] = {
    "trajectory": trajectory,
    "interpolate": interpolation,
    "reconstruct": reconstruction,
}


def _latent(model: GenerativeModel) -> HasLatent:
    if not isinstance(model, HasLatent):
        raise UnsupportedCapability(type(model).__name__, "latent code")
    return model


def _shown(x: Tensor, model: GenerativeModel) -> Tensor:
    """(n, columns, *shape) in model space to what `GenerativeModel.sample` returns."""
    if x.shape[0] < 1:
        raise InputError("at least 1 row is needed")
    return from_model(x.flatten(0, 1), model.spec).view(x.shape).cpu()
