"""`check_model`: the public contract that every model passes, built in or yours.

The checks use tiny made-up data and take seconds. A check that a model cannot have (a
likelihood of a GAN, a label of points) is skipped by declared capability, never by name.
They find broken plumbing; that a family's mathematics is right needs closed forms as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genzoo.data.ranges import to_model
from genzoo.errors import InputError
from genzoo.model import (
    Denoiser,
    Density,
    GenerativeModel,
    HasLatent,
    HasLikelihood,
    evaluating,
    group_of,
)
from genzoo.registry import build
from genzoo.types import Batch, DataSpec, TrainState

IMAGES = DataSpec((1, 8, 8), 17, {"label": 2}, (0.5, 0.5))
POINTS = DataSpec((2,), None, location=(1.0, -2.0), scale=(3.0, 0.5))

Make = Callable[[DataSpec], GenerativeModel]


class ContractViolation(InputError):
    """A model broke the contract; the message lists every broken check."""


class NotApplicable(Exception):
    """Raised by a check that the model's capabilities or data do not call for."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check on one kind of data.

    Attributes:
        name: of the check, and of the data in brackets.
        status: ``passed``, ``failed`` or ``skipped``.
        detail: why it failed or was skipped.
    """

    name: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Subject:
    """What a check sees: how to make the model, one trained a little, and its data."""

    make: Make
    spec: DataSpec
    raw: Tensor
    labels: Tensor | None
    model: GenerativeModel
    losses: Mapping[str, tuple[float, float]]

    def batch(self, n: int = 16) -> Batch:
        """The first n training items."""
        return Batch(to_model(self.raw[:n], self.spec), self.cond(n))

    def cond(self, n: int = 16) -> dict[str, Tensor]:
        """Their labels."""
        return {} if self.labels is None else {"label": self.labels[:n]}


def check_model(
    make: str | Make,
    *,
    settings: Mapping[str, Any] | None = None,
    specs: tuple[DataSpec, ...] = (IMAGES, POINTS),
    steps: int = 150,
    expected_failures: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Run every check on a model.

    Args:
        make: a model's name, ``FILE.py:Class``, or a function from a `DataSpec` to a model.
        settings: settings by name, where `make` is a name.
        specs: the kinds of data to check it on.
        steps: training steps before the checks that need a model which learned something.
        expected_failures: reasons by check name for checks that are known to fail.
        left_out: reasons by check name for checks that are not run.

    Returns:
        One result per check and kind of data.

    Raises:
        ContractViolation: a check failed that was not expected to.
    """
    factory: Make = (lambda spec: build(make, spec, settings)) if isinstance(make, str) else make
    results = []
    for spec in specs:
        kind = "images" if spec.is_image else "points"
        subject = prepare(factory, spec, steps)
        for name, check in CHECKS.items():
            if name in (left_out or {}):
                results.append(CheckResult(f"{name}[{kind}]", "skipped", (left_out or {})[name]))
            else:
                results.append(_run(f"{name}[{kind}]", check, subject))
    excused = expected_failures or {}
    broken = [r for r in results if r.status == "failed" and r.name.split("[")[0] not in excused]
    if broken:
        lines = "; ".join(f"{r.name}: {r.detail}" for r in broken)
        raise ContractViolation(f"{len(broken)} of {len(results)} checks failed: {lines}")
    return results


def prepare(make: Make, spec: DataSpec, steps: int, seed: int = 0) -> Subject:
    """Make data and a model of them, and train it for a few steps.

    Images of label 0 are dark and of label 1 bright; points are two correlated clusters.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.levels is not None:
            labels = torch.arange(64) % spec.num_classes
            bright = labels.view(-1, 1, 1, 1) / (spec.num_classes - 1)
            middle = (0.2 + 0.6 * bright) * (spec.levels - 1)
            noisy = middle + 0.1 * spec.levels * torch.randn(64, *spec.shape)
            raw: Tensor = noisy.round().clamp(0, spec.levels - 1).byte()
        else:
            labels = None
            z = (
                torch.randn(256, 2) * 0.5
                + torch.where(torch.arange(256) % 2 == 0, 0.8, -0.8)[:, None]
            )
            raw = z * torch.tensor(spec.scale) + torch.tensor(spec.location)
        model = make(spec)
        losses = _train(model, spec, raw, labels, steps)
    return Subject(make, spec, raw, labels, model, losses)


def _train(
    model: GenerativeModel, spec: DataSpec, raw: Tensor, labels: Tensor | None, steps: int
) -> dict[str, tuple[float, float]]:
    """The bare training loop; returns each phase's loss before and after it."""
    x = to_model(raw, spec)
    cond = {} if labels is None else {"label": labels}
    model.on_fit_start(Batch(x, cond), torch.Generator().manual_seed(0))
    recipe, groups = model.recipe(), model.param_groups()
    optimizers = {
        name: torch.optim.AdamW(group, lr=recipe.lr, betas=recipe.betas)
        for name, group in groups.items()
    }
    before = _losses(model, Batch(x, cond))
    for step in range(steps if groups else 0):
        state = TrainState(step, step / steps, 32 * step)
        for phase in model.phases(state):
            index = torch.randint(len(x), (32,))
            _only(groups, phase)
            optimizer = optimizers[group_of(phase)]
            optimizer.zero_grad()
            part = Batch(x[index], {k: v[index] for k, v in cond.items()})
            loss = model(part, phase, state)
            loss.total.backward()
            torch.nn.utils.clip_grad_norm_(groups[group_of(phase)], recipe.grad_clip or 1e9)
            optimizer.step()
        model.on_step_end(state)
    _only(groups, None)
    after = _losses(model, Batch(x, cond))
    return {phase: (before[phase], after[phase]) for phase in before}


def _losses(model: GenerativeModel, batch: Batch, draws: int = 8) -> dict[str, float]:
    """The mean loss of each phase over fixed random draws."""
    found = {}
    for phase in model.phases(TrainState(progress=1.0)):
        with torch.random.fork_rng(devices=[]), evaluating(model):
            torch.manual_seed(0)
            losses = [
                model(batch, phase, TrainState(progress=1.0)).total.detach() for _ in range(draws)
            ]
        found[phase] = float(torch.stack(losses).mean())
    return found


def _only(groups: Mapping[str, list[torch.nn.Parameter]], phase: str | None) -> None:
    for name, group in groups.items():
        for parameter in group:
            parameter.requires_grad_(phase is None or name == group_of(phase))


def _run(name: str, check: Callable[[Subject], None], subject: Subject) -> CheckResult:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            check(subject)
    except NotApplicable as reason:
        return CheckResult(name, "skipped", str(reason))
    except Exception as error:  # whatever a foreign model raises is a failed check, with its words
        return CheckResult(name, "failed", f"{error}" or repr(error))
    return CheckResult(name, "passed")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractViolation(message)


# -- the checks: a function each, named by what must hold --------------------------------------


def groups_are_disjoint_and_complete(s: Subject) -> None:
    """Every trainable parameter is in exactly one group, and every phase is a group."""
    groups = s.model.param_groups()
    ids = [id(p) for group in groups.values() for p in group]
    _require(len(ids) == len(set(ids)), "a parameter is in two groups")
    every = {id(p) for p in s.model.parameters() if p.requires_grad}
    _require(set(ids) == every, f"{len(every ^ set(ids))} parameters are in no group, or foreign")
    unknown = {group_of(phase) for phase in s.model.phases(TrainState())} - set(groups)
    _require(not unknown, f"phases without a group: {sorted(unknown)}")


def loss_is_a_finite_scalar(s: Subject) -> None:
    """Total and parts are finite scalars, the parts without gradient."""
    for phase in _phases(s):
        loss = s.model.loss(s.batch(), phase, TrainState())
        _require(loss.total.ndim == 0, f"loss of phase {phase} has shape {tuple(loss.total.shape)}")
        _require(bool(loss.total.isfinite()), f"loss of phase {phase} is {loss.total.item()}")
        for name, part in loss.parts.items():
            _require(not part.requires_grad, f"part {name} is not detached")
            _require(part.numel() == 1, f"part {name} is not a scalar")


def loss_is_seeded_and_leaves_the_batch_alone(s: Subject) -> None:
    """The same global seed gives the same loss; the batch is not changed."""
    for phase in _phases(s):
        values, before = [], s.batch().x.clone()
        batch = s.batch()
        for _ in range(2):
            torch.manual_seed(5)
            values.append(s.model.loss(batch, phase, TrainState()).total.detach())
        _require(torch.equal(*values), f"phase {phase}: two losses from one seed differ")
        _require(torch.equal(batch.x, before), f"phase {phase} changes the batch in place")


def gradients_reach_every_group(s: Subject) -> None:
    """Each phase gives every parameter of its group a finite gradient, and some a non-zero one."""
    groups = s.model.param_groups()
    for phase in _phases(s):
        s.model.zero_grad(set_to_none=True)
        s.model.loss(s.batch(), phase, TrainState()).total.backward()
        missing = sum(p.grad is None for p in groups[phase])
        _require(not missing, f"phase {phase}: {missing} parameters get no gradient")
        gradients = [p.grad for p in groups[phase] if p.grad is not None]
        _require(all(bool(g.isfinite().all()) for g in gradients), f"phase {phase}: not finite")
        _require(any(bool(g.any()) for g in gradients), f"phase {phase}: all gradients are zero")
    s.model.zero_grad(set_to_none=True)


def a_small_data_set_is_learned(s: Subject) -> None:
    """The loss of a one-phase model falls while it is trained on a few items."""
    if not s.losses:
        raise NotApplicable("fit-only model")
    if len(s.losses) > 1:
        raise NotApplicable("several phases: their losses need not fall")
    ((first, last),) = s.losses.values()
    _require(last < first, f"the loss went from {first:.4g} to {last:.4g}")


def samples_have_the_right_form(s: Subject) -> None:
    """Shape, type and range as the data specification says; never NaN."""
    out = s.model.sample(5)
    _require(tuple(out.shape) == (5, *s.spec.shape), f"shape {tuple(out.shape)}")
    _require(out.device.type == "cpu", f"on {out.device}")
    if s.spec.levels is not None:
        _require(out.dtype == torch.uint8, f"dtype {out.dtype}")
        _require(int(out.max()) < s.spec.levels, f"level {int(out.max())} of {s.spec.levels}")
    else:
        _require(out.dtype == torch.float32 and bool(out.isfinite().all()), "not finite float32")


def samples_depend_on_the_seed_alone(s: Subject) -> None:
    """One seed, one result; another seed, another; global generators are neither used nor moved."""
    before = torch.get_rng_state()
    first = s.model.sample(8, seed=3)
    _require(torch.equal(before, torch.get_rng_state()), "sampling moved torch's global generator")
    torch.manual_seed(1234)
    _require(torch.equal(first, s.model.sample(8, seed=3)), "the same seed gave other samples")
    _require(
        not torch.equal(first, s.model.sample(8, seed=4)), "another seed gave the same samples"
    )


def samples_do_not_depend_on_the_batch_size(s: Subject) -> None:
    """Sample i is the same in any batch, up to the rounding of matrix products."""
    whole, parts = s.model.sample(40, seed=3), s.model.sample(40, seed=3, batch_size=7)
    gap = (whole.float() - parts.float()).abs()
    if s.spec.is_image:  # a value at the border of two levels may fall on either side
        agree = float(gap.max()) <= 1 and float((gap > 0).float().mean()) < 0.01
    else:
        agree = bool((gap <= 1e-3 * torch.tensor(s.spec.scale)).all())
    _require(agree, f"batches of 7 and of 40 differ by up to {float(gap.max()):.3g}")
    later = s.model.sample(8, seed=3, start=32)
    _require(
        float((later.float() - whole[32:].float()).abs().max()) <= 1, "start= is not respected"
    )


def sampling_restores_the_mode(s: Subject) -> None:
    """train() and eval() survive, and no gradient is recorded."""
    for mode in (True, False):
        s.model.train(mode)
        out = s.model.sample(2)
        _require(s.model.training == mode, f"mode was {mode}, is {s.model.training} after sampling")
        _require(not out.requires_grad, "samples carry a gradient")


def the_label_matters(s: Subject) -> None:
    """Samples of the bright label are brighter than those of the dark one."""
    if not s.spec.num_classes:
        raise NotApplicable("data without labels")
    if s.model.spec.cond != s.spec.cond:
        raise NotApplicable("the model ignores labels by declaration")
    means = [
        float(s.model.sample(32, cond={"label": torch.full((32,), k)}, seed=1).float().mean())
        for k in (0, s.spec.num_classes - 1)
    ]
    _require(
        means[1] - means[0] > 0.1 * float(s.spec.levels or 0),
        f"mean level {means[0]:.2f} for the dark label, {means[1]:.2f} for the bright one",
    )


def state_survives_a_round_trip(s: Subject) -> None:
    """A new model with the old one's state dict gives the same samples."""
    state = {k: v.clone() for k, v in s.model.state_dict().items()}
    other = s.make(s.spec)
    other.load_state_dict(state)
    same = torch.equal(s.model.sample(4, seed=2), other.sample(4, seed=2))
    _require(same, "a model restored from its state dict samples differently")


def log_prob_is_one_number_an_item(s: Subject) -> None:
    """(B,) nats, finite; of levels never above 0, since it is the log of a probability."""
    model = _capable(s, HasLikelihood, "likelihood")
    with evaluating(s.model), torch.no_grad():
        values = model.log_prob(s.raw[:8], s.cond(8), torch.Generator().manual_seed(0))
    _require(tuple(values.shape) == (8,), f"shape {tuple(values.shape)} for 8 items")
    _require(bool(values.isfinite().all()), "not finite")
    if s.spec.is_image:
        _require(float(values.max()) <= 1e-3, f"log probability {float(values.max()):.3g} > 0")


def density_integrates_to_one(s: Subject) -> None:
    """∫ p(x) dx = 1 over the plane, by a fine grid."""
    if not isinstance(s.model, Density) or s.spec.shape != (2,):
        raise NotApplicable("no density in two dimensions")
    side = torch.linspace(-7, 7, 401)
    grid = torch.cartesian_prod(side, side)
    with evaluating(s.model), torch.no_grad():
        log_p = torch.cat([s.model.log_density(part, {}) for part in grid.split(8192)])
    integral = float(log_p.double().exp().sum()) * float(side[1] - side[0]) ** 2
    _require(abs(integral - 1) < 0.02, f"the density integrates to {integral:.4f}")


def decoding_inverts_encoding(s: Subject) -> None:
    """decode(encode(x)) = x for models with a density, whose latent loses nothing."""
    model = _capable(s, HasLatent, "latent code")
    if not isinstance(s.model, Density):
        raise NotApplicable("the latent code is lossy")
    with evaluating(s.model), torch.no_grad():
        batch = s.batch()
        back = model.decode(model.encode(batch.x, batch.cond), batch.cond)
    gap = float((back - batch.x).abs().max())
    _require(gap < 1e-3, f"the round trip is off by {gap:.3g}")


def denoising_nothing_changes_nothing(s: Subject) -> None:
    """denoise(x, σ_min) ≈ x."""
    model = _capable(s, Denoiser, "denoiser")
    low = model.sigma_range[0]
    with evaluating(s.model), torch.no_grad():
        batch = s.batch()
        out = model.denoise(batch.x, torch.full((len(batch.x),), low), batch.cond)
    gap = float((out - batch.x).abs().mean())
    _require(gap < 0.02 + 2 * low, f"at the smallest noise the data move by {gap:.3g}")


CHECKS: Mapping[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        groups_are_disjoint_and_complete,
        loss_is_a_finite_scalar,
        loss_is_seeded_and_leaves_the_batch_alone,
        gradients_reach_every_group,
        a_small_data_set_is_learned,
        samples_have_the_right_form,
        samples_depend_on_the_seed_alone,
        samples_do_not_depend_on_the_batch_size,
        sampling_restores_the_mode,
        the_label_matters,
        state_survives_a_round_trip,
        log_prob_is_one_number_an_item,
        density_integrates_to_one,
        decoding_inverts_encoding,
        denoising_nothing_changes_nothing,
    )
}


def _phases(s: Subject) -> Iterator[str]:
    phases = s.model.phases(TrainState())
    if not phases:
        raise NotApplicable("fit-only model")
    return iter(phases)


def _capable(s: Subject, protocol: type, capability: str) -> Any:
    if not isinstance(s.model, protocol):
        raise NotApplicable(f"no {capability}")
    if inspect.isabstract(type(s.model)):
        raise ContractViolation("abstract methods are left")
    return s.model
