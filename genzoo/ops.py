"""What follows from the primitives of `genzoo.model`, derived once for all families."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genzoo.denoiser_likelihood import FlowSolver, flow_log_prob
from genzoo.errors import UnsupportedCapability
from genzoo.model import Denoiser, GenerativeModel, HasLikelihood, RoughLikelihood, evaluating
from genzoo.noise import generator
from genzoo.ranks import ALONE, Ranks
from genzoo.types import DataSpec, LikelihoodKind

BATCH = 50
# Labels that a rough likelihood puts this many nats behind the best are left out of the sum.
MARGIN = 10.0


class FlowLikelihood:
    """The likelihood of a denoiser that brings none: an estimate by the probability flow."""

    likelihood: LikelihoodKind = "estimate"

    def __init__(self, model: Denoiser, spec: DataSpec, solver: FlowSolver | None = None) -> None:
        """`spec` says what the denoiser denoises."""
        self.model, self.spec, self.solver = model, spec, solver or FlowSolver()

    @property
    def likelihood_convention(self) -> str:
        """See `genzoo.model.ExplainsLikelihood`."""
        return self.solver.describe(self.spec, self.model.sigma_range)

    def log_prob(
        self, raw: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """See `genzoo.denoiser_likelihood.flow_log_prob`."""
        return flow_log_prob(
            self.model, raw, cond, spec=self.spec, solver=self.solver, generator=generator
        )


def likelihood_of(model: GenerativeModel) -> HasLikelihood | None:
    """The model's own likelihood, or the probability flow's; ``None`` where there is neither."""
    if isinstance(model, HasLikelihood):
        return model
    return FlowLikelihood(model, model.spec) if isinstance(model, Denoiser) else None


def bits_per_dim(log_prob: Tensor, spec: DataSpec) -> Tensor:
    """Nats of log P(levels), any shape, to bits per pixel and channel of -log P."""
    return -log_prob / (spec.dim * math.log(2))


def log_likelihood(
    model: GenerativeModel,
    raw: Tensor,
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Log P(raw) in nats, (N,) float64; of a conditional model log Σ_y p(y) p(raw | y).

    Every label sees the same noise. Where the model has a `RoughLikelihood`, labels that are
    hopeless by it are left out, which can only lower the sum.

    Args:
        model: one that `likelihood_of` knows.
        raw: integer levels (N, C, H, W) or points (N, D) in data units.
        seed: of the noise of dequantization, latents or trace probes.
        batch_size: items at a time; the noise depends on it.
        ranks: the processes that share the work, batch by batch; each gets all of it, the same to
            the last digit as one alone.

    Raises:
        UnsupportedCapability: the model has no likelihood.
    """
    able = likelihood_of(model)
    if able is None:
        raise UnsupportedCapability(type(model).__name__, "likelihood")
    own = dict[int, Tensor]()
    with evaluating(model), torch.no_grad():
        for i, part in enumerate(raw.split(batch_size)):
            if i % ranks.count == ranks.rank:
                own[i] = _marginal(able, model, part.to(model.device), (seed, i))
    found = {i: part for shares in ranks.gathered(own) for i, part in shares.items()}
    empty = torch.zeros(0, dtype=torch.float64)
    return torch.cat([empty, *(found[i] for i in sorted(found))])


def _marginal(
    able: HasLikelihood, model: GenerativeModel, raw: Tensor, seed: tuple[int, int]
) -> Tensor:
    """`log_likelihood` of one batch, (B,) on the CPU."""
    if not model.spec.num_classes:
        noise = generator(*seed, device=model.device)
        return able.log_prob(raw, {}, noise).double().cpu()
    shares = torch.tensor(model.spec.frequencies, dtype=torch.float64)
    labels = shares.nonzero()[:, 0]
    log_prior = shares[labels].log()
    order, log_q = _by_promise(able, raw, labels, log_prior, seed)
    rows = []
    for choice in order:
        noise = generator(*seed, device=model.device)
        cond = {"label": labels[choice].to(model.device)}
        rows.append(able.log_prob(raw, cond, noise).double().cpu() + log_prior[choice])
    terms = torch.stack(rows)
    if log_q is None or getattr(able, "summable", True):
        return torch.logsumexp(terms, dim=0)
    # log Σ p(y) p(x|y) ≥ Σ q(y) log (p(y) p(x|y) / q(y)) for any q that saw other noise.
    return torch.where(log_q > -math.inf, log_q.exp() * (terms - log_q), 0.0).sum(0)


def _by_promise(
    able: HasLikelihood, raw: Tensor, labels: Tensor, log_prior: Tensor, seed: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Which labels to ask for.

    Returns:
        For every item R indices into `labels`, the most probable first, (R, B), as many as the
        least decided item of the batch needs; and their log probabilities by the rough
        likelihood, (R, B). All labels and ``None`` where the model has no rough likelihood.
    """
    if not isinstance(able, RoughLikelihood):
        return torch.arange(len(labels))[:, None].expand(-1, len(raw)), None
    rough = []
    for label, prior in zip(labels.tolist(), log_prior, strict=True):
        noise = generator(*seed, 1, device=raw.device)
        cond = {"label": torch.full((len(raw),), label, device=raw.device)}
        rough.append(able.rough_log_prob(raw, cond, noise).double().cpu() + prior)
    value, order = torch.stack(rough).sort(dim=0, descending=True)
    # A NaN decides nothing: then all labels are asked.
    needed = int((~(value[0] - value > MARGIN)).sum(0).max())
    return order[:needed], value[:needed].log_softmax(0)
