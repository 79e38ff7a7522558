"""Rows of pictures that show how a model works.

Noise that becomes data, one item that becomes another, items and what is left of them, and a map
of what codes mean.
"""

from __future__ import annotations

import math
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


def manifold(
    model: GenerativeModel,
    n: int,
    *,
    cond: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Tensor:
    """A square map of the latent codes under one label, decoded.

    Codes of two numbers are mapped whole: the middles of n × n cells of equal probability under
    the prior (Kingma & Welling 2014, figure 4). Of longer ones a patch is seen, stretched along
    the sphere between four random corners.

    Args:
        model: one with a `genzoo.model.HasLatent`.
        n: rows, and columns.
        cond: the first of these conditions is used; drawn where absent.
        seed: of the corners, and of the condition.

    Returns:
        (n, n, *shape) as samples are.

    Raises:
        UnsupportedCapability: the model has no latent code.
    """
    latent = _latent(model)
    cond = model.draw_cond(1, seed) if cond is None else cond
    cond = {k: v[:1].to(model.device).expand(n * n) for k, v in cond.items()}
    if math.prod(latent.latent_shape) == 2:
        places = torch.special.ndtri((torch.arange(n) + 0.5) / n)
        across, down = torch.meshgrid(places, places, indexing="xy")
        codes = torch.stack([across, down.flip(0)], dim=-1).view(-1, *latent.latent_shape)
    else:
        corners = NoiseSource(seed, 0, 4).normal(*latent.latent_shape)
        turns = torch.linspace(0, 1, n).tolist()
        left, right = (torch.cat([slerp(a, b, t) for t in turns]) for a, b in _pairs(corners))
        codes = torch.stack([slerp(left, right, t) for t in turns], dim=1).flatten(0, 1)
    with evaluating(model), torch.no_grad():
        decoded = latent.decode(codes.to(model.device), cond)
    return _shown(decoded.view(n, n, *model.spec.shape), model)


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
    "manifold": manifold,
    "reconstruct": reconstruction,
}


def _pairs(corners: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Upper and lower corner of the left side and of the right one, (1, *latent) each."""
    return [(corners[:1], corners[1:2]), (corners[2:3], corners[3:])]


def _latent(model: GenerativeModel) -> HasLatent:
    if not isinstance(model, HasLatent):
        raise UnsupportedCapability(type(model).__name__, "latent code")
    return model


def _shown(x: Tensor, model: GenerativeModel) -> Tensor:
    """(n, columns, *shape) in model space to what `GenerativeModel.sample` returns."""
    if x.shape[0] < 1:
        raise InputError("at least 1 row is needed")
    return from_model(x.flatten(0, 1), model.spec).view(x.shape).cpu()
