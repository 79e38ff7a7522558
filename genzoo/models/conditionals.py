"""What one number is, given the numbers before it: the last step of every autoregressive model.

A model reads a context off the tokens (patches, pixels) that came before; `TokenHead` predicts
the numbers within the next token one after the other, each from the context and from the token's
earlier numbers, as a masked autoencoder does (MADE, Germain et al. 2015, arXiv 1502.03509). Each
number has a law in one dimension: level masses that sum to 1, or a density of points.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.data.ranges import from_model, log_bin_volume, to_model
from genzoo.model import GenerativeModel
from genzoo.models.vae import log_mass_of_logistics
from genzoo.nets.augmentation import shifted
from genzoo.types import Batch, DataSpec, LikelihoodKind, Loss, Recipe, TrainState

# So few levels get a probability each; more of them would be too many numbers to predict.
MOST_CATEGORIES = 32


class Law(ABC):
    """A distribution of one number in model space.

    Attributes:
        numbers: how many parameters it takes.
    """

    numbers: int

    @abstractmethod
    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Log mass or density in nats: (…), (…, numbers) -> (…)."""

    @abstractmethod
    def sample(self, parameters: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """A draw from two uniform numbers: (…, numbers), (…, 2) -> (…)."""


class Categorical(Law):
    """A probability for each level; its temperature divides the logits."""

    def __init__(self, spec: DataSpec) -> None:
        """Of images with few levels."""
        assert spec.levels is not None
        self.spec, self.numbers = spec, spec.levels

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """See `Law.log_prob`."""
        level = from_model(x, self.spec).long()
        return parameters.float().log_softmax(-1).gather(-1, level[..., None])[..., 0]

    def sample(self, parameters: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """See `Law.sample`; the first uniform number suffices."""
        level = choose(parameters / temperature, uniform[..., 0])
        return to_model(level, self.spec)


class Logistics(Law):
    """A mixture of logistics, integrated over each level's bin (PixelCNN++, arXiv 1701.05517)."""

    def __init__(self, spec: DataSpec, mixtures: int) -> None:
        """Of images with many levels."""
        assert spec.levels is not None
        self.spec, self.levels, self.numbers = spec, spec.levels, 3 * mixtures

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """See `Law.log_prob`."""
        split = torch.stack(self._split(parameters), dim=-2).flatten(0, -3)
        return log_mass_of_logistics(x.flatten(), split, self.levels).view_as(x)

    def sample(self, parameters: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """See `Law.sample`; rounded to a level, as later numbers are told levels."""
        mean, log_scale = _component(*self._split(parameters), uniform[..., 0], temperature)
        quantile = uniform[..., 1].clamp(1e-6, 1 - 1e-6).logit()
        x = mean + log_scale.clamp(min=-6).exp() * quantile * temperature
        return to_model(from_model(x, self.spec), self.spec)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _spread_out(parameters, reach=1.0, log_scale=-1.5)


class Gaussians(Law):
    """A mixture of Gaussians: the density of a coordinate of a point."""

    def __init__(self, mixtures: int) -> None:
        """Of points."""
        self.numbers = 3 * mixtures

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """See `Law.log_prob`."""
        logits, mean, log_std = self._split(parameters)
        z = (x[..., None] - mean) * torch.exp(-log_std)
        log_density = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(logits.log_softmax(-1) + log_density, dim=-1)

    def sample(self, parameters: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """See `Law.sample`."""
        mean, log_std = _component(*self._split(parameters), uniform[..., 0], temperature)
        quantile: Tensor = torch.special.ndtri(uniform[..., 1].clamp(1e-6, 1 - 1e-6))
        return mean + log_std.exp() * quantile * temperature

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mean, log_std = _spread_out(parameters, reach=2.0, log_scale=-1.5)
        return logits, mean, log_std.clamp(-7, 3)  # narrower than float32 points tell apart


def law_of(spec: DataSpec, mixtures: int) -> Law:
    """The law that fits the data: categorical, mixture of logistics, or mixture of Gaussians."""
    if spec.levels is None:
        return Gaussians(mixtures)
    return Categorical(spec) if spec.levels <= MOST_CATEGORIES else Logistics(spec, mixtures)


class TokenHead(nn.Module):
    """p(token | context) = Π_i p(x_i | x_1 … x_(i-1), context), all factors in one pass.

    Every number has hidden units of its own, joined to the context and to the numbers before it.
    """

    mask: Tensor

    def __init__(
        self,
        spec: DataSpec,
        size: int,
        context: int,
        *,
        hidden: int,
        mixtures: int,
        dropout: float = 0.0,
    ) -> None:
        """For tokens of `size` numbers and a context of `context` features."""
        super().__init__()
        self.size, self.law = size, law_of(spec, mixtures)
        self.context = nn.Linear(context, size * hidden)
        self.within = nn.Parameter(torch.randn(size, size, hidden) / math.sqrt(size))
        earlier = torch.ones(size, size).triu(1)  # [j, i]: 1 where number j comes before i
        self.register_buffer("mask", earlier[..., None], persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, self.law.numbers)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Parameters of every number's law: (…, size), (…, context) -> (…, size, numbers)."""
        earlier = torch.einsum("...j,jih->...ih", tokens, self.within * self.mask)
        return self._read(self._units(context) + earlier)

    def log_prob(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Log p(token | context) in nats: (…, size), (…, context) -> (…)."""
        return self.law.log_prob(tokens, self(tokens, context)).sum(-1)

    def sample(self, context: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        """One number after the other: (B, context), (B, size, 2) -> (B, size)."""
        units, tokens = self._units(context), context.new_zeros(len(context), 0)
        for i in range(self.size):
            parameters = self._read(units[:, i] + tokens @ self.within[:i, i])
            x = self.law.sample(parameters, uniform[:, i], temperature)
            tokens = torch.cat([tokens, x[:, None]], dim=1)
        return tokens

    def _units(self, context: Tensor) -> Tensor:
        """What the context says to the hidden units, (…, size, hidden)."""
        units: Tensor = self.context(context).unflatten(-1, (self.size, -1))
        return units

    def _read(self, units: Tensor) -> Tensor:
        h = self.dropout(F.silu(units))
        out: Tensor = self.out(h + F.silu(self.mix(h)))
        return out


class ExactModel(GenerativeModel):
    """A model of tokens one after the other; `log_prob` is the exact mass of levels.

    Attributes:
        head: the law of a token's numbers in their context.
    """

    likelihood: LikelihoodKind = "exact"
    head: TokenHead

    @abstractmethod
    def tokens_and_contexts(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, size) of x (B, *shape), and what each may know, (B, T, width)."""

    def recipe(self) -> Recipe:
        """AdamW with a cosine to 0."""
        return replace(super().recipe(), betas=(0.9, 0.95))

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """-log p(x) in nats per dimension."""
        x, cond = shifted(batch, self.settings.augment)
        total = -self._log_likelihood(x, cond).mean() / self.spec.dim
        return Loss(total, {"nats_per_dim": total.detach()})

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """Log mass of levels or log density of points in data units, (B,) nats."""
        # A mass has no unit; a density of standardized points is rescaled.
        unit = 0.0 if self.spec.is_image else log_bin_volume(self.spec)
        return self._log_likelihood(to_model(raw, self.spec), cond) + unit

    def parameters_of(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Parameters of all conditional laws, (B, *shape) -> (B, T, size, numbers)."""
        parameters: Tensor = self.head(*self.tokens_and_contexts(x, cond))
        return parameters

    def _log_likelihood(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Σ_t log p(x_t | x_<t, cond) of x in model space, (B,) nats."""
        return self.head.log_prob(*self.tokens_and_contexts(x, cond)).sum(1)


def choose(logits: Tensor, uniform: Tensor) -> Tensor:
    """The index at which the cumulative probability passes `uniform`: (…, K), (…) -> (…)."""
    edges = logits.softmax(-1).cumsum(-1)[..., :-1]  # the last is 1 but for rounding
    index: Tensor = (uniform[..., None] > edges).sum(-1)
    return index


def _component(
    logits: Tensor, mean: Tensor, log_scale: Tensor, uniform: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Mean and log scale of a component that is drawn by its weight, (…) each."""
    index = choose(logits / temperature, uniform)[..., None]
    return mean.gather(-1, index)[..., 0], log_scale.gather(-1, index)[..., 0]


def _spread_out(
    parameters: Tensor, reach: float, log_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(…, 3K) to logits, means and log scales of K components, (…, K) each.

    At parameters of 0 the means are spread over ±`reach`: equal components would stay equal.
    """
    logits, mean, raw = parameters.float().chunk(3, dim=-1)
    start = torch.linspace(-reach, reach, mean.shape[-1], device=mean.device)
    return logits, mean + start, raw + log_scale
