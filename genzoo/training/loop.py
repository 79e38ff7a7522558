"""The training loop, once for every family.

A step walks the model's phases. Each phase freezes the other groups, takes a fresh
minibatch, and steps its own optimizer. All randomness is a function of (seed, step): the
order of the data is a permutation of (seed, epoch), and torch's global generators are
seeded before each step. So weights, averages, optimizer states and counters are all that a
resumed training needs to end with the same bytes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from genzoo.data import Split
from genzoo.data.ranges import to_model
from genzoo.data.stream import Stream
from genzoo.errors import Diverged, InputError, unknown
from genzoo.model import GenerativeModel, group_of
from genzoo.noise import derive_seed, generator
from genzoo.ranks import ALONE, Ranks, Wishes, mean_sums
from genzoo.training.acceleration import Acceleration
from genzoo.training.budget import BudgetClock, Used, count_flops
from genzoo.training.checkpoint import Checkpoint
from genzoo.training.device import seed_global, spare_cores
from genzoo.training.ema import WeightAverage
from genzoo.training.shuffling import Share, Shuffled
from genzoo.types import Batch, Budget, DataSpec, Loss, Recipe, TrainState

# Streams of a run's seed. Steps are (seed, STEP, number).
INITIALIZE, ORDER, STEP, FIT, DRAW = range(1, 6)

T = TypeVar("T")


class Minibatches:
    """Training data in memory or in files, cut into minibatches by (seed, number) alone.

    Epochs are laid end to end and cut at multiples of the batch size, so every item is seen
    equally often even where the batch does not divide the data or exceeds them.
    """

    def __init__(
        self,
        data: Split,
        spec: DataSpec,
        batch_size: int,
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
        stream: Stream | None = None,
    ) -> None:
        """Move the data to the device: images as integer levels, points standardized.

        Args:
            data: images (N, C, H, W) uint8 or points (N, D), with labels or ``None``.
            spec: as the model sees it; without conditions the labels are left out.
            batch_size: items in each minibatch.
            seed: of the run.
            device: where the minibatches are wanted.
            ranks: whose share of each minibatch is wanted.
            stream: all images, where `data` are but some of them.
        """
        self.spec, self.batch_size, self._seed = spec, batch_size, seed
        self._share = ranks.share(batch_size)
        self._files = None
        if stream is not None:
            share = Share(batch_size, self._share.start, self._share.stop)
            self._files = Shuffled(stream, seed, ORDER, share, spare_cores(device, ranks.count))
        raw = data.data.to(device)
        self._raw = raw if spec.is_image else to_model(raw, spec)
        self._cond = {}
        if spec.cond and data.labels is not None:
            self._cond["label"] = data.labels.to(device)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        """Number of items."""
        return len(self._raw if self._files is None else self._files)

    def __getitem__(self, number: int) -> Batch:
        """The minibatch `number`, or this rank's share; counted from the start of training."""
        start = number * self.batch_size
        if self._files is not None:
            return self._from_files(self._files, start, start + self.batch_size)
        index = self._items(start, start + self.batch_size)[self._share].to(self._raw.device)
        return self._batch(self._raw[index], {k: v[index] for k, v in self._cond.items()})

    def whole(self) -> Batch:
        """All items in their own order; of files, those that are kept in memory."""
        return self._batch(self._raw, self._cond)

    def any(self) -> Batch:
        """A minibatch for a rehearsal: of files, one for which nothing must be read."""
        if self._files is None:
            return self[0]
        index = torch.arange(self.batch_size, device=self._raw.device)[self._share] % len(self._raw)
        return self._batch(self._raw[index], {k: v[index] for k, v in self._cond.items()})

    def close(self) -> None:
        """Leave the files, where there are some."""
        if self._files is not None:
            self._files.close()

    def _from_files(self, files: Shuffled, start: int, stop: int) -> Batch:
        raw, labels = files.take(start, stop)
        cond = {}
        if self._cond and labels is not None:
            cond["label"] = labels.to(self._raw.device)
        return self._batch(raw.to(self._raw.device), cond)

    def _items(self, start: int, stop: int) -> Tensor:
        """Indices of positions start … stop-1 of the epochs laid end to end."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, len(self))
            if epoch != self._epoch:
                shuffle = generator(self._seed, ORDER, epoch)
                self._order = torch.randperm(len(self), generator=shuffle)
                self._epoch = epoch
            parts.append(self._order[offset : offset + stop - start])
            start += len(parts[-1])
        return torch.cat(parts)

    def _batch(self, raw: Tensor, cond: Mapping[str, Tensor]) -> Batch:
        return Batch(to_model(raw, self.spec) if self.spec.is_image else raw.clone(), dict(cond))


class Tally:
    """Losses and gradient norms since the last log, summed on the device without waiting."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sums: dict[str, tuple[Tensor | float, int]] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Add a detached scalar."""
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, count + 1)

    def sums(self) -> dict[str, tuple[float, int]]:
        """Sums and counts by name, read from the device at once."""
        if not self._sums:
            return {}
        tensors = [torch.as_tensor(total) for total, _ in self._sums.values()]
        device = max((t.device for t in tensors), key=lambda d: d.type != "cpu")
        values = torch.stack([t.float().to(device) for t in tensors]).tolist()
        return {
            name: (value, count)
            for (name, (_, count)), value in zip(self._sums.items(), values, strict=True)
        }

    def restore(self, sums: Mapping[str, tuple[float, int]]) -> None:
        """Go on from `sums`."""
        self._sums = {name: (float(total), int(count)) for name, (total, count) in sums.items()}


class Trainer:
    """A model under training: `step` it until it is `done`.

    Attributes:
        model: in training mode, on its device.
        clock: of the budget.
        recipe: how the family wants to be optimized.
        acceleration: how the device computes.
        parts: in how many a minibatch is cut so that it fits into the device's memory.
        prepare_seconds: spent on counting, warming up and compiling, which no model is charged.
        notes: what a person should know; whoever shows them empties it.
        ranks: the processes that train together; a minibatch is shared out among them.
        wishes: asked at the end of each step for what this process would have done then.
        agreed: what the ranks then wished together.
    """

    def __init__(
        self,
        model: GenerativeModel,
        data: Split,
        budget: Budget,
        seed: int,
        used: Used | None = None,
        acceleration: Acceleration = Acceleration(),  # noqa: B008  (frozen)
        ranks: Ranks = ALONE,
        stream: Stream | None = None,
    ) -> None:
        """Get ready; changes nothing of the model but its mode.

        Args:
            model: on the device where it shall be trained.
            data: the training split.
            budget: at which training ends.
            seed: of data order and of the losses' randomness.
            used: where to go on.
            acceleration: precision, layout and compilation.
            ranks: this process among those that train together.
            stream: all images of the split, where `data` are but some of them.
        """
        self.model, self.seed, self.device = model.train(), seed, model.device
        self.recipe, self.ranks = model.recipe(), ranks
        check_recipe(self.recipe, model, ranks.count)
        self.clock = BudgetClock(budget, used or Used(), self.device, ranks)
        size = self.recipe.batch_size
        self.batches = Minibatches(data, model.spec, size, seed, self.device, ranks, stream)
        self.groups = model.param_groups()
        self.optimizers = {
            name: _optimizer(group, self.recipe) for name, group in self.groups.items()
        }
        parameters = [p for group in self.groups.values() for p in group]
        self.average = WeightAverage(parameters, self.recipe.ema)
        self.tally = Tally()
        self.acceleration, self.parts = acceleration, 1
        self.prepare_seconds, self.notes = 0.0, list[str]()
        acceleration.prepare(model)
        self.wishes: Callable[[], Wishes] = Wishes
        self.agreed = Wishes()
        self._entries: dict[str, nn.Module] = {}  # by group: what averages its gradients
        self._trained: str | None = None
        self._surveyed: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether the budget is used up, or there is nothing to step."""
        return not self.groups or self.clock.progress >= 1

    def start(self) -> None:
        """Show the model the whole training set, before the first step of all."""
        seed_global(derive_seed(self.seed, FIT), self.device)
        with self.clock.running():
            self.model.on_fit_start(self.batches.whole(), generator(self.seed, FIT))
        self.ranks.align(self.model)

    def step(self) -> None:
        """One step: every phase once. Within the clock's `running` only."""
        used, state = self.clock.used, self.clock.state
        phases = self._phases(state)
        if not self._surveyed.issuperset(phases):
            with self.clock.paused():
                self._survey(phases, state)
        seed_global(derive_seed(self.seed, STEP, used.step, *self._own_seed()), self.device)
        for phase in phases:
            rate = learning_rate(self.recipe, self._middle(state), phase)
            self._run_phase(phase, state, rate)
            used.images += self.batches.batch_size
            used.flops += used.phase_flops[phase]
        used.step += 1
        self.agreed = self.clock.agree(self.wishes())
        after = self.clock.state
        self.average.update(after.progress - state.progress, after.progress)
        self.model.on_step_end(after)
        if type(self.model).on_step_end is not GenerativeModel.on_step_end:
            self.ranks.align(self.model)  # it may have gone by this rank's share

    def _own_seed(self) -> tuple[int, ...]:
        """Ranks draw alike, each for the whole minibatch, but for compiled networks.

        Those draw by themselves, where nobody can cut out a rank's share.
        """
        apart = self.acceleration.compiled and self.ranks.count > 1
        return (self.ranks.rank,) if apart else ()

    def _survey(self, phases: tuple[str, ...], state: TrainState) -> None:
        """Count the cost of new phases by passes that are undone; also warms the machine up."""
        begun = time.perf_counter()
        flops = self.clock.used.phase_flops
        self.batches[self._number]  # the first pictures of files come before the first step
        for phase in phases:
            self._train_only(phase)
            if phase not in flops:
                flops[phase] = self._count(phase, state)
            if self.acceleration.compiled:
                self._try_compiled(phase, state)
            self._surveyed.add(phase)
        self.parts = max(self.ranks.gathered(self.parts))
        flops.update(self.ranks.from_first(flops))
        self.prepare_seconds += time.perf_counter() - begun

    def _count(self, phase: str, state: TrainState) -> float:
        # compiled code hides its products from the counter
        with self._undone(), self._uncompiled():
            share = self._fitting(lambda: count_flops(lambda: self._rehearse(phase, state)))
        return share * self.ranks.count

    def _rehearse(self, phase: str, state: TrainState) -> None:
        seed_global(derive_seed(self.seed, STEP, state.step), self.device)
        self._descend(self.batches.any(), phase, state)

    @property
    def _number(self) -> int:
        """Of the coming minibatch."""
        return self.clock.used.images // self.batches.batch_size

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Leave buffers and gradients as if nothing had happened inside."""
        kept = {k: v.detach().clone() for k, v in self.model.named_buffers()}
        yield
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(kept[name])
        self.model.zero_grad(set_to_none=True)

    @contextmanager
    def _uncompiled(self) -> Iterator[None]:
        if not self.acceleration.compiled:
            yield
            return
        with torch.compiler.set_stance("force_eager"):
            yield

    def _try_compiled(self, phase: str, state: TrainState) -> None:
        """Compile what the phase needs, or go on without where that fails."""
        try:
            with self._undone():
                self._fitting(lambda: self._rehearse(phase, state))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler may raise anything; training goes on without it
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.acceleration.give_up_compiling(self.model)
            self.acceleration = dataclasses.replace(self.acceleration, compiled=False)
            self.notes.append(
                f"phase '{phase}' cannot be compiled, going on without: {reason:.200}"
            )

    def _fitting(self, work: Callable[[], T]) -> T:
        """Do `work`, with minibatches in ever more parts while they do not fit into memory."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.parts >= self.batches.batch_size:
                    raise
            self.parts *= 2
            self.model.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.notes.append(
                f"out of memory at step {self.clock.used.step}: going on with minibatches of "
                f"{self.batches.batch_size} in {self.parts} parts, whose gradients are added up; "
                "what a loss takes from a whole minibatch, it now takes from each part"
            )

    def _run_phase(self, phase: str, state: TrainState, rate: float) -> None:
        self._train_only(phase)
        group = self.groups[group_of(phase)]
        optimizer = self.optimizers[group_of(phase)]
        optimizer.zero_grad(set_to_none=True)
        batch = self.batches[self._number]
        entry = self._entry(phase)
        if self.ranks.count == 1:
            loss = self._fitting(lambda: self._descend(batch, phase, state, entry))
        else:  # what runs out of memory here, the other ranks know nothing of
            loss = self._descend(batch, phase, state, entry)
        limit = math.inf if self.recipe.grad_clip is None else self.recipe.grad_clip
        norm = nn.utils.clip_grad_norm_(group, limit)
        for options in optimizer.param_groups:
            options["lr"] = rate
        optimizer.step()
        parts = dict(loss.parts)
        if len(parts) != 1:  # a single part is the total
            parts.setdefault("total", loss.total)
        for name, value in parts.items():
            self.tally.add(f"loss {phase}/{name}", value.detach())
        self.tally.add(f"norm {phase}", norm.detach())

    def _entry(self, phase: str) -> nn.Module:
        """What stands for the model in a phase, made while the phase's group alone is trained."""
        group = group_of(phase)
        if group not in self._entries:
            whole = not self.acceleration.compiled
            self._entries[group] = self.ranks.entry(self.model, whole)
        return self._entries[group]

    def _descend(
        self, batch: Batch, phase: str, state: TrainState, entry: nn.Module | None = None
    ) -> Loss:
        """Add the gradients of a minibatch's mean loss; returns the loss.

        They are this rank's own, unless `entry` averages them.
        """
        entry = entry or self.model
        if self.parts == 1:
            return self._backward(batch, phase, state, 1.0, entry)
        size = -(-len(batch.x) // self.parts)
        losses = []
        for start in range(0, len(batch.x), size):
            some = slice(start, start + size)
            part = Batch(batch.x[some], {k: v[some] for k, v in batch.cond.items()})
            share = len(part.x) / len(batch.x)
            with self.ranks.adding(entry, last=start + size >= len(batch.x)):
                losses.append(self._backward(part, phase, state, share, entry))
        parts = {
            name: torch.stack([loss.parts[name] for loss in losses]).sum(0)
            for name in losses[0].parts
        }
        return Loss(torch.stack([loss.total for loss in losses]).sum(0), parts)

    def _backward(
        self, batch: Batch, phase: str, state: TrainState, share: float, entry: nn.Module
    ) -> Loss:
        """`share` times the loss and its gradients."""
        with self.acceleration.computing(self.device):
            loss: Loss = entry(self.acceleration.laid_out(batch), phase, state)
        if share == 1:
            loss.total.backward()
            return loss
        total = loss.total * share
        total.backward()
        return Loss(total.detach(), {k: v.detach() * share for k, v in loss.parts.items()})

    def log_entry(self) -> dict[str, Any]:
        """A line of the history; begins a new tally.

        Raises:
            Diverged: a loss or gradient norm since the last line is not finite.
        """
        used = self.clock.used
        means = {name: total / count for name, (total, count) in self.check().items()}
        self.tally = Tally()
        return {
            "step": used.step,
            "images": used.images,
            "seconds": round(used.seconds, 4),
            "progress": self.clock.progress,
            "lr": learning_rate(self.recipe, self.clock.progress, self._trained),
            "loss": {n[len("loss ") :]: v for n, v in means.items() if n.startswith("loss ")},
            "grad_norm": {n[len("norm ") :]: v for n, v in means.items() if n.startswith("norm ")},
        }

    def check(self) -> dict[str, tuple[float, int]]:
        """The tally's sums, of which several ranks take the mean.

        Raises:
            Diverged: one is not finite; names phase, part and step.
        """
        return self._checked(mean_sums(self.ranks.gathered(self.tally.sums())))

    def _checked(self, sums: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
        for name, (total, count) in sums.items():
            if not math.isfinite(total):
                kind, _, rest = name.partition(" ")
                phase, _, part = rest.partition("/")
                what = f"loss '{part}'" if kind == "loss" else "gradient norm"
                raise Diverged(
                    f"training diverged: {what} of phase '{phase}' became {total} within the "
                    f"{count} steps up to step {self.clock.used.step}; lower --set lr=... "
                    "or try another seed"
                )
        return sums

    def checkpoint(self) -> Checkpoint:
        """All that `restore` needs; raises `Diverged` like `check`."""
        tallies = self.ranks.gathered(self.tally.sums())
        sums = self._checked(mean_sums(tallies))
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{i}": w for i, w in enumerate(self.average.weights)}
        for group, optimizer in self.optimizers.items():
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{group}.{i}.{key}": v for key, v in state.items()}
        used = self.clock.used.to_dict()
        more = {} if self.ranks.count == 1 else {"tallies": tallies}
        return Checkpoint(tensors, {"used": used, "tally": sums, "parts": self.parts, **more})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same model, data and budget; on any number of ranks."""
        tensors, state = checkpoint
        self.model.load_state_dict(_below(tensors, "model."))
        self.average.load([tensors[f"average.{i}"] for i in range(len(self.average.weights))])
        for group, optimizer in self.optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in _below(tensors, f"optimizer.{group}.").items():
                number, _, key = name.partition(".")
                states.setdefault(int(number), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.clock.used = Used(**state["used"])
        tallies = state.get("tallies", [state["tally"]])
        alike = len(tallies) == self.ranks.count
        self.tally.restore(tallies[self.ranks.rank] if alike else state["tally"])
        self.parts = state["parts"]

    def averaged_state(self) -> dict[str, Tensor]:
        """The model's state with averaged weights, on the CPU.

        Raises:
            Diverged: a weight is not finite.
        """
        self.average.exchange()
        try:
            state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        finally:
            self.average.exchange()
        for name, _ in self.model.named_parameters():
            if not state[name].isfinite().all():
                raise Diverged(
                    f"training diverged: weight '{name}' is not finite after step "
                    f"{self.clock.used.step}; lower --set lr=... or try another seed"
                )
        return state

    def _phases(self, state: TrainState) -> tuple[str, ...]:
        phases = self.model.phases(state)
        for phase in phases:
            if group_of(phase) not in self.groups:
                raise unknown("phase", phase, self.groups)
        return phases

    def _train_only(self, phase: str) -> None:
        """Freeze every group but the phase's own."""
        if self._trained != phase:
            for name, group in self.groups.items():
                for parameter in group:
                    parameter.requires_grad_(name == group_of(phase))
            self._trained = phase

    def _middle(self, state: TrainState) -> float:
        """Progress at the middle of the coming step, taking it for as long as those before.

        At its start, the first step would get a rate of 0 from the warm-up.
        """
        clock = self.clock
        if clock.budget.unit == "steps":
            share = 1 / clock.budget.amount
        else:
            share = state.progress / state.step if state.step else 0.0
        return min(1.0, state.progress + share / 2)


def learning_rate(recipe: Recipe, progress: float, phase: str | None = None) -> float:
    """Linear warm-up, then half a cosine to ``lr_end`` (Loshchilov & Hutter 2017, eq. 5).

    Args:
        recipe: peak, warm-up, end, and what differs between phases.
        progress: used fraction of the budget.
        phase: whose span and scale to take; of a phase of the whole budget where absent.
    """
    start, stop = recipe.spans.get(phase or "", (0.0, 1.0))
    progress = min(max((progress - start) / max(stop - start, 1e-12), 0.0), 1.0)
    peak = recipe.lr * recipe.lr_scale.get(phase or "", 1.0)
    if progress < recipe.warmup:
        return peak * max(progress / recipe.warmup, 0.01)
    rest = (progress - recipe.warmup) / max(1 - recipe.warmup, 1e-12)
    cosine = 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
    return peak * (recipe.lr_end + (1 - recipe.lr_end) * cosine)


def check_recipe(recipe: Recipe, model: GenerativeModel, ranks: int = 1) -> None:
    """Refuse what cannot be carried out.

    Raises:
        InputError: a batch size or rate is not positive, or cannot be shared among the ranks.
    """
    for name in ("batch_size", "lr"):
        value = getattr(recipe, name)
        if not value > 0:
            raise InputError(f"{name} {value} of {type(model).__name__} must be positive")
    if recipe.batch_size % ranks:
        raise InputError(
            f"batch_size {recipe.batch_size} of {type(model).__name__} cannot be shared equally "
            f"among {ranks} devices; choose a multiple with --set batch_size=..., or other devices"
        )


def _optimizer(group: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW in one fused kernel where the device and the type have one."""
    options: dict[str, Any] = {
        "lr": recipe.lr,
        "betas": recipe.betas,
        "weight_decay": recipe.weight_decay,
    }
    try:
        return torch.optim.AdamW(group, fused=True, **options)
    except RuntimeError:
        return torch.optim.AdamW(group, foreach=True, **options)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
