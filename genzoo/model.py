"""What a generative model is to the rest of genzoo.

A family implements `loss` and `draw`; training, sampling and evaluation know nothing else
of it. What only some families can do is a protocol (`HasLikelihood`, `HasLatent`,
`Denoiser`); operations derived from those primitives are free functions in `genzoo.ops`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from genzoo.data.ranges import dequantize, from_model, log_bin_volume, to_model
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, Recipe, SampleOptions, TrainState


@dataclass(frozen=True)
class NoSettings:
    """The settings of a model that has none."""


class GenerativeModel(nn.Module, ABC):
    """A distribution that is learned from data and can be sampled.

    Subclasses define ``Settings``, a frozen dataclass with a default for every field, and
    build their networks in ``__init__(self, spec, settings=None)``.
    """

    Settings: ClassVar[type] = NoSettings
    requires: ClassVar[Mapping[str, str]] = {}
    # Settings of the sizes ``small`` and ``base``, by name; the defaults are ``tiny``.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Settings that a start from a trained run's weights implies, where they are not given.
    with_init: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, spec: DataSpec, settings: Any = None) -> None:
        """Remember what is modelled and how.

        Args:
            spec: shape, levels and conditions of the data.
            settings: an instance of ``Settings``; defaults where absent.
        """
        super().__init__()
        self.spec = spec
        self.settings = self.Settings() if settings is None else settings

    # -- training ---------------------------------------------------------------------

    @abstractmethod
    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """The loss of one phase on one batch: a mean over its items.

        Randomness comes from torch's global generator. What is no mean over items (batch norm, a
        comparison of items) sees a share of the batch where several devices train together.
        """

    def forward(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """The loss, so that hooks of data-parallel wrappers fire."""
        return self.loss(batch, phase, state)

    def recipe(self) -> Recipe:
        """How this family wants to be optimized: by those of its settings that `Recipe` names."""
        names = {field.name for field in fields(Recipe)}
        own = {field.name for field in fields(self.settings)}
        return Recipe(**{name: getattr(self.settings, name) for name in names & own})

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by group, disjoint and complete; ``{}`` for a fit-only model.

        A phase of the same name trains its group alone, the others are frozen.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        return {"main": parameters} if parameters else {}

    def phases(self, state: TrainState) -> tuple[str, ...]:
        """The phases of the next step, in order; by default every group once.

        ``main:tuning`` trains the group ``main`` in another way than ``main``: its losses and its
        cost are counted apart.
        """
        return tuple(self.param_groups())

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        """See the whole training set once before the first step.

        Args:
            data: all training items in model space, on the model's device.
            generator: of the CPU, for whatever is random here.
        """

    def on_step_end(self, state: TrainState) -> None:
        """Called after each step (target networks and the like)."""

    # -- sampling ---------------------------------------------------------------------

    @abstractmethod
    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        """``noise.n`` samples in model space, (n, *shape), from `noise` alone."""

    def null_cond(self, n: int) -> Mapping[str, Tensor]:
        """The condition that means 'any': the label after the last one."""
        device = self.device
        return {
            name: torch.full((n,), size, dtype=torch.int64, device=device)
            for name, size in self.spec.cond.items()
        }

    @property
    def device(self) -> torch.device:
        """Where the model lives (the CPU if it has neither parameters nor buffers)."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def draw_cond(self, n: int, seed: int, start: int = 0) -> dict[str, Tensor]:
        """Labels of samples start … start+n-1 of a seed, with the training frequencies."""
        return draw_labels(self.spec, n, seed, start)

    @final
    def sample(
        self,
        n: int,
        *,
        cond: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        start: int = 0,
        batch_size: int = 256,
        options: SampleOptions = SampleOptions(),  # noqa: B008  (frozen)
    ) -> Tensor:
        """Draw samples; sample i is the same whatever `n` and `batch_size`.

        Args:
            n: how many, at least 1.
            cond: n conditions each; drawn with the training frequencies where absent.
            seed: a non-negative integer.
            start: index of the first sample within the seed.
            batch_size: how many at a time.
            options: solver steps, guidance, temperature.

        Returns:
            On the CPU: uint8 levels (n, C, H, W), or float32 points (n, D) in data units.
        """
        if n < 1:
            raise ValueError(f"cannot draw {n} samples: at least 1 is needed")
        if cond is None:
            cond = self.draw_cond(n, seed, start)
        device = self.device
        out = []
        with evaluating(self), torch.no_grad():
            for i in range(0, n, batch_size):
                j = min(i + batch_size, n)
                noise = NoiseSource(seed, start + i, start + j, device)
                part = {k: v[i:j].to(device) for k, v in cond.items()}
                out.append(from_model(self.draw(noise, part, options), self.spec).cpu())
        return torch.cat(out)


def group_of(phase: str) -> str:
    """The parameter group that a phase trains: all before a colon."""
    return phase.partition(":")[0]


def draw_labels(spec: DataSpec, n: int, seed: int, start: int = 0) -> dict[str, Tensor]:
    """Labels of samples start … start+n-1 of a seed, drawn with the training frequencies."""
    if not spec.num_classes:
        return {}
    uniform = NoiseSource(seed, start, start + n, stream=1).uniform()
    edges = torch.tensor(spec.frequencies, dtype=torch.float64).cumsum(0)[:-1].float()
    return {"label": torch.bucketize(uniform, edges, right=True)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model and its parts into evaluation mode, and back as they were."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


# -- what only some models can do ---------------------------------------------------------


@runtime_checkable
class HasLikelihood(Protocol):
    """A model that can say how probable given data are.

    Attributes:
        likelihood: ``exact``, a lower ``bound`` of the mass, or an ``estimate``.
    """

    likelihood: LikelihoodKind

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Log P(raw | cond) in nats, (B,): mass of integer levels, density of points."""


@runtime_checkable
class ExplainsLikelihood(Protocol):
    """A model that says how its likelihood was computed, for the score's convention.

    Attributes:
        likelihood_convention: estimator, samples, solver and tolerance in a few words.
    """

    likelihood_convention: str


@runtime_checkable
class RoughLikelihood(Protocol):
    """A model that tells cheaply which conditions explain an item, before `log_prob` is asked.

    Attributes:
        summable: whether exp(log_prob) is in mean no more than the probability, so that its sum
            over conditions bounds the whole; false where `log_prob` is a bound plus noise, of
            which a sum would pick the luckiest.
    """

    summable: bool

    def rough_log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """`HasLikelihood.log_prob` up to a few nats and a number that depends on `raw` alone."""


class Density(ABC):
    """Mix-in: `log_prob` for models that have a density in model space.

    Dequantization and both Jacobians are applied here, once for all families.
    """

    spec: DataSpec

    @property
    def likelihood(self) -> LikelihoodKind:
        """Exact for points; for levels the density of dequantized data bounds the mass."""
        return "bound" if self.spec.is_image else "exact"

    @property
    def likelihood_convention(self) -> str:
        """See `ExplainsLikelihood`."""
        return "density, one draw of uniform dequantization" if self.spec.is_image else "density"

    @abstractmethod
    def log_density(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Log p(x | cond) in nats of x in model space, (B, *shape) -> (B,)."""

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """See `HasLikelihood.log_prob`."""
        if self.spec.is_image:
            x = dequantize(raw, self.spec, generator)
        else:
            x = to_model(raw, self.spec)
        return self.log_density(x, cond) + log_bin_volume(self.spec)


@runtime_checkable
class HasLatent(Protocol):
    """A model with a latent code per item."""

    latent_shape: tuple[int, ...]

    def encode(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, *shape) in model space -> (B, *latent_shape)."""

    def decode(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, *latent_shape) -> (B, *shape) in model space."""


@runtime_checkable
class HasPath(Protocol):
    """A model that goes from noise to data in steps that can be looked at."""

    def path(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Iterator[Tensor]:
        """States from pure noise to the samples, (n, *shape) each."""


@runtime_checkable
class Denoiser(Protocol):
    """A model of E[x | x + sigma·noise], which every diffusion sampler can use.

    Attributes:
        sigma_range: smallest and largest noise standard deviation it was trained for.
    """

    @property
    def sigma_range(self) -> tuple[float, float]: ...  # noqa: D102  (see above)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, *shape) noisy at sigma (B,) -> (B, *shape) posterior mean."""
