"""Baselines with known faults and merits, which show whether the evaluation can see them.

All are fitted in one pass over the training data and have no parameters to train.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from genzoo.data.ranges import from_model, spread, to_model
from genzoo.errors import InputError
from genzoo.model import Density, GenerativeModel
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, SampleOptions, TrainState


class Fitted(GenerativeModel):
    """A model whose buffers come from the data, in shapes that only the data tell."""

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """Fit-only models are never asked for a loss."""
        raise InputError(f"{type(self).__name__} is fitted in one pass and has no loss")

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any) -> None:
        for name in list(self._buffers):
            if name in state_dict:
                self.register_buffer(name, torch.empty_like(state_dict[name]))
        super()._load_from_state_dict(state_dict, *args)


class Noise(Fitted):
    """Uniform over the levels, or over the box that the training points fill."""

    likelihood: LikelihoodKind = "exact"
    low: Tensor
    high: Tensor

    def __init__(self, spec: DataSpec, settings: None = None) -> None:
        """Nothing to set."""
        super().__init__(spec, settings)
        self.register_buffer("low", -torch.ones(spec.shape[0]))
        self.register_buffer("high", torch.ones(spec.shape[0]))

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Measure the box of the points."""
        if not self.spec.is_image:
            self.low, self.high = data.x.amin(0), data.x.amax(0)

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """Every level is as likely as every other."""
        uniform = noise.uniform(*self.spec.shape)
        if self.spec.levels is not None:
            level = (uniform * self.spec.levels).floor()
            return level * (2 / (self.spec.levels - 1)) - 1
        return self.low + (self.high - self.low) * uniform

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """-D log L for levels; for points minus the box's log area, -∞ outside of it."""
        if self.spec.levels is not None:
            return torch.full((len(raw),), -self.spec.dim * math.log(self.spec.levels))
        x = to_model(raw, self.spec)
        inside = ((x >= self.low) & (x <= self.high)).all(1)
        area = (self.high - self.low).log().sum() + sum(math.log(s) for s in self.spec.scale)
        return torch.where(inside, -area, -math.inf)


@dataclass(frozen=True)
class GaussianSettings:
    """Settings of `Gaussian`.

    Attributes:
        per_class: one Gaussian a label rather than one for all.
    """

    per_class: bool = True


@dataclass(frozen=True)
class MixtureSettings:
    """Settings of `Mixture`.

    Attributes:
        components: Gaussians in all, shared out among the labels.
        rank: principal directions in which they are full; the others share one variance.
        fit_items: training items that expectation maximization sees at most.
    """

    components: int = 20
    rank: int = 64
    fit_items: int = 10_000


class Mixture(Density, Fitted):
    """Gaussian mixture in the principal subspace, isotropic Gaussian noise in the rest.

    log p(x) = log Σ_k w_k N(Vᵀ(x - m); μ_k, Σ_k) + log N(residual; 0, τ² I), a proper density
    in all dimensions (the mixture of Tipping & Bishop 1999 with a shared subspace).
    """

    Settings: ClassVar[type] = MixtureSettings
    center: Tensor
    basis: Tensor
    residual: Tensor
    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, spec: DataSpec, settings: Any = None) -> None:
        """Buffers are empty until the data are seen."""
        super().__init__(spec, settings)
        for name in ("center", "basis", "residual", "weights", "means", "factors"):
            self.register_buffer(name, torch.empty(0))

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Principal directions first, then a mixture for each label."""
        x = spread(data.x, self.spec, generator).flatten(1).double().cpu()
        rank = min(self._rank(), x.shape[1])
        self.center = x.mean(0).float()
        centred = x - x.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
        self.basis = vectors[:, -rank:].flip(1).float()
        rest = values[: x.shape[1] - rank]
        self.residual = (
            (rest.mean().clamp(min=1e-6) if len(rest) else torch.ones(())).sqrt().float()
        )
        code = (centred @ vectors[:, -rank:].flip(1)).numpy()
        labels = data.cond["label"].cpu().numpy() if data.cond else np.zeros(len(x), dtype=int)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        fitted = [self._fit(code[labels == k], seed) for k in range(int(labels.max()) + 1)]
        self.weights, self.means, self.factors = (
            torch.stack([torch.as_tensor(f[i]) for f in fitted]).float() for i in range(3)
        )

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """A component by its weight, a Gaussian in the subspace, noise in the rest."""
        label = self._label(cond, noise.n)
        edges = self.weights[label].cumsum(1)[:, :-1]
        k = (noise.uniform(1) > edges).sum(1)
        code = torch.einsum("nij,nj->ni", self.factors[label, k], noise.normal(self.basis.shape[1]))
        x = self.center + (code + self.means[label, k]) @ self.basis.T
        rest = noise.normal(self.spec.dim) * self.residual
        x = x + rest - (rest @ self.basis) @ self.basis.T
        return x.view(-1, *self.spec.shape)

    def log_density(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """See the class; (B, *shape) -> (B,) nats."""
        label, centred = self._label(cond, len(x)), x.flatten(1) - self.center
        code = centred @ self.basis
        rest = (centred.square().sum(1) - code.square().sum(1)).clamp(min=0)
        free = centred.shape[1] - code.shape[1]
        log_rest = -0.5 * (
            rest / self.residual**2 + free * (math.log(2 * math.pi) + 2 * self.residual.log())
        )
        if not free:
            log_rest = torch.zeros_like(log_rest)
        parts = []
        for k in range(self.weights.shape[1]):
            factor = self.factors[label, k]
            gap = (code - self.means[label, k])[:, :, None]
            z = torch.linalg.solve_triangular(factor, gap, upper=False)[:, :, 0]
            log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
            normal = -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) - log_det
            parts.append(self.weights[label, k].log() + normal)
        return torch.logsumexp(torch.stack(parts), dim=0) + log_rest

    def _rank(self) -> int:
        return int(self.settings.rank)

    def _label(self, cond: Mapping[str, Tensor], n: int) -> Tensor:
        """The row of parameters for each item, (n,)."""
        if cond and len(self.weights) > 1:
            return cond["label"]
        return torch.zeros(n, dtype=torch.int64, device=self.device)

    def _fit(self, code: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights (K,), means (K, R) and lower Cholesky factors (K, R, R) of one label's codes."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        share = max(1, self.settings.components // max(1, self.spec.num_classes))
        share = min(share, len(code))
        code = code[: self.settings.fit_items]
        ridge = 1e-2 if self.spec.is_image else 1e-6
        mixture = GaussianMixture(share, reg_covar=ridge, random_state=seed, max_iter=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 rounds are enough here
            mixture.fit(code)
        return mixture.weights_, mixture.means_, np.linalg.cholesky(mixture.covariances_)


class Gaussian(Mixture):
    """One Gaussian a label (or one for all): a `Mixture` with a single component."""

    Settings = GaussianSettings

    def _rank(self) -> int:
        return 256

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Pool the labels first unless each gets its own Gaussian."""
        pooled = data if self.settings.per_class else Batch(data.x, {})
        super().on_fit_start(pooled, generator)

    def _fit(self, code: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from sklearn.covariance import LedoitWolf

        fitted = LedoitWolf().fit(code)  # shrunk: a class may have fewer items than dimensions
        factor = np.linalg.cholesky(fitted.covariance_ + 1e-6 * np.eye(code.shape[1]))
        return np.ones(1), fitted.location_[None], factor[None]


class Copycat(Fitted):
    """Returns training items. Best in most metrics of quality, worthless as a model."""

    items: Tensor
    labels: Tensor

    def __init__(self, spec: DataSpec, settings: None = None) -> None:
        """Empty until the data are seen."""
        super().__init__(spec, settings)
        self.register_buffer("items", torch.empty(0))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """Remember everything, images as levels."""
        self.items = from_model(data.x, self.spec)
        self.labels = data.cond.get("label", torch.zeros(len(data.x), dtype=torch.int64)).clone()

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """An item of the label asked for, each equally likely."""
        wanted = cond["label"] if cond else torch.zeros_like(self.labels[:1]).expand(noise.n)
        order = self.labels.argsort(stable=True)
        counts = self.labels.bincount(minlength=max(1, self.spec.num_classes))
        first = counts.cumsum(0) - counts
        pick = (noise.uniform() * counts[wanted]).long().clamp(max=counts[wanted] - 1)
        return to_model(self.items[order[first[wanted] + pick]], self.spec)
