"""What a step of a training costs, from a few real ones; and what a budget then comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from genzoo.data import Dataset
from genzoo.errors import InputError
from genzoo.noise import derive_seed
from genzoo.ranks import Imagined
from genzoo.training.acceleration import Acceleration
from genzoo.training.budget import CostCounter
from genzoo.training.device import isolated_rng, memory_errors, seed_global
from genzoo.training.loading import ModelSource
from genzoo.training.loop import INITIALIZE, Trainer
from genzoo.training.meter import matmul_rate
from genzoo.types import Budget, DataSpec, TrainState

# Steps are measured in blocks, each twice as long as the one before, until one takes as long.
BLOCK_SECONDS = 0.5
# Looked at for phases that follow one another, as in models of two stages.
PLACES = 200
ENDLESS = Budget(1e9, "steps")

Phases = tuple[str, ...]


@dataclass(frozen=True)
class StepCost:
    """One step with certain phases.

    Attributes:
        images: training items seen, a minibatch a phase.
        flops: as a training counts them, of all devices.
        calls: of torch's operators, on each device.
        seconds: measured.
    """

    images: int
    flops: float
    calls: int
    seconds: float


@dataclass(frozen=True)
class Memory:
    """Bytes that a training needs at once, on each of its devices.

    Attributes:
        weights: of the model with its buffers.
        gradients: one a trained weight.
        optimizer: its moments.
        average: the weights' average.
        activations: the most that was kept for a backward pass; temporary results come on top.
        data: the training set.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    data: int

    @property
    def total(self) -> int:
        """All together."""
        return sum(asdict(self).values())

    def to_dict(self) -> dict[str, int]:
        """A JSON object."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Calibration:
    """What was measured of a model.

    Attributes:
        parameters: number of scalars.
        fit_seconds: of what a model does before its first step; a budget pays for it.
        prepare_seconds: of counting and compiling; no budget pays for it.
        phases: of a step, by where the training stands.
        steps: the cost of a step by its phases; empty where there is nothing to step.
        memory: at once.
        rate: FLOP/s of this machine's best matrix product in the training's precision.
        model: as it is after a few steps.
    """

    parameters: int
    fit_seconds: float
    prepare_seconds: float
    phases: Callable[[TrainState], Phases]
    steps: Mapping[Phases, StepCost]
    memory: Memory
    rate: float
    model: Any = field(repr=False, default=None)


@dataclass
class Work:
    """What a budget comes to.

    Attributes:
        steps: optimizer steps.
        images: training items seen.
        flops: of forward and backward passes.
        seconds: of training, its preparations by the model included.
        calls: of torch's operators.
    """

    steps: int = 0
    images: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    calls: int = 0

    def add(self, cost: StepCost, steps: int) -> None:
        """`steps` more of one kind."""
        self.steps += steps
        self.images += steps * cost.images
        self.flops += steps * cost.flops
        self.seconds += steps * cost.seconds
        self.calls += steps * cost.calls


def calibrate(
    source: ModelSource,
    spec: DataSpec,
    settings: Mapping[str, Any],
    dataset: Dataset,
    device: torch.device,
    acceleration: Acceleration,
    seed: int = 0,
    devices: int = 1,
) -> Calibration:
    """Train a few steps at every stage of a training, and forget them.

    Args:
        source: of the model.
        spec: of the data as the model sees them.
        settings: all of them.
        dataset: whose training items are used.
        device: where it would train.
        acceleration: how it would compute.
        seed: of the run.
        devices: that would train together; one of them is measured, with its share of each
            minibatch, and without what they tell each other.

    Raises:
        InputError: the minibatch cannot be shared equally among them.
        MachineError: out of memory.
    """
    with isolated_rng(device), memory_errors("calibration"):
        seed_global(derive_seed(seed, INITIALIZE), device)
        model = source.build(spec, settings).to(device)
        trainer = Trainer(
            model,
            dataset.train,
            ENDLESS,
            seed,
            acceleration=acceleration,
            ranks=Imagined(devices),
            stream=None if dataset.streams is None else dataset.streams.train,
        )
        saved = SavedTensors(p.untyped_storage().data_ptr() for p in model.parameters())
        with closing(trainer.batches):
            trainer.start()
            fit_seconds = trainer.clock.used.seconds
            steps = _measure(trainer, saved) if trainer.groups else {}
        if steps:
            seconds = min(cost.seconds for cost in steps.values())
            rate = matmul_rate(device, trainer.acceleration, max(1.0, 50 * seconds))
        else:
            rate = 0.0
        return Calibration(
            sum(p.numel() for p in model.parameters()),
            fit_seconds,
            trainer.prepare_seconds,
            model.phases,
            steps,
            _memory(trainer, saved.peak, dataset),
            rate,
            model,
        )


def _measure(trainer: Trainer, saved: SavedTensors) -> dict[Phases, StepCost]:
    """The cost of a step by its phases, at every stage of a training."""
    found: dict[Phases, StepCost] = {}
    for place in range(PLACES):
        trainer.clock.used.step = int(ENDLESS.amount * (place + 0.5) / PLACES)
        phases = trainer.model.phases(trainer.clock.state)
        if phases in found:
            continue
        with trainer.clock.running():
            trainer.step()  # counts, compiles and warms up
        with trainer.clock.running(), saved.watched(), CostCounter() as counter:
            trainer.step()
        found[phases] = StepCost(
            images=len(phases) * trainer.batches.batch_size,
            flops=sum(trainer.clock.used.phase_flops[phase] for phase in phases),
            calls=counter.calls,
            seconds=_seconds(trainer),
        )
    return found


def _seconds(trainer: Trainer) -> float:
    """Of a step, the mean of a block that is long enough."""
    steps = 1
    while True:
        before = trainer.clock.used.seconds
        with trainer.clock.running():
            for _ in range(steps):
                trainer.step()
        if (took := trainer.clock.used.seconds - before) >= BLOCK_SECONDS:
            return took / steps
        steps *= 2


def _memory(trainer: Trainer, activations: int, dataset: Dataset) -> Memory:
    states = [s for o in trainer.optimizers.values() for s in o.state_dict()["state"].values()]
    trained = [p for group in trainer.groups.values() for p in group]
    return Memory(
        weights=_bytes(trainer.model.state_dict().values()),
        gradients=_bytes(trained),
        optimizer=_bytes(v for state in states for v in state.values() if isinstance(v, Tensor)),
        average=_bytes(trainer.average.weights),
        activations=activations,
        data=_bytes([dataset.train.data]),
    )


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class SavedTensors:
    """Counts what is kept for backward passes, each storage once, weights left out.

    Attributes:
        peak: bytes, the most at a time.
    """

    def __init__(self, weights: Iterator[int]) -> None:
        """Nothing yet; `weights` are addresses that do not count."""
        self.peak = self._now = 0
        self._weights, self._uses = set(weights), dict[int, int]()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count inside."""
        with torch.autograd.graph.saved_tensors_hooks(lambda t: _Kept(t, self), _Kept.tensor_of):
            yield

    def keep(self, address: int, size: int) -> None:
        """One more use of a storage."""
        if address in self._weights:
            return
        self._uses[address] = self._uses.get(address, 0) + 1
        if self._uses[address] == 1:
            self._now += size
            self.peak = max(self.peak, self._now)

    def free(self, address: int, size: int) -> None:
        """One use less."""
        if address in self._weights:
            return
        self._uses[address] -= 1
        if not self._uses[address]:
            del self._uses[address]
            self._now -= size


class _Kept:
    """A tensor for as long as its graph needs it."""

    def __init__(self, tensor: Tensor, saved: SavedTensors) -> None:
        self._tensor, self._saved = tensor, saved
        storage = tensor.untyped_storage()
        self._about = (storage.data_ptr(), storage.nbytes())
        saved.keep(*self._about)

    def __del__(self) -> None:
        self._saved.free(*self._about)

    @staticmethod
    def tensor_of(kept: _Kept) -> Tensor:
        return kept._tensor


def spend(
    budget: Budget,
    phases: Callable[[TrainState], Phases],
    steps: Mapping[Phases, StepCost],
    fit_seconds: float = 0.0,
) -> Work:
    """Walk through a budget as a training does, in strides over steps of the same phases.

    Exact in steps, images and flops; as good as the measured seconds in seconds.

    Args:
        budget: of the training.
        phases: of a step, by where the training stands.
        steps: cost of a step by its phases.
        fit_seconds: used before the first step.

    Raises:
        InputError: a budget in flops for steps that count none.
    """
    work = Work(seconds=fit_seconds)
    while steps and _progress(work, budget) < 1:
        now = phases(_state(work, budget))
        cost = _cost(now, steps)
        if budget.unit == "flops" and cost.flops <= 0:
            raise InputError(
                f"budget {budget}: steps of {now} count no flops, so it would never be used up; "
                "give one in steps, images or seconds"
            )
        work.add(cost, _stride(work, budget, phases, now, cost))
    return work


def _stride(
    work: Work,
    budget: Budget,
    phases: Callable[[TrainState], Phases],
    now: Phases,
    cost: StepCost,
) -> int:
    """How many steps from here have the phases `now`: doubled while they have, then halved."""

    def same(steps: int) -> bool:
        there = _after(work, cost, steps)
        return _progress(there, budget) < 1 and phases(_state(there, budget)) == now

    low, high = 1, 1  # `low` steps from here are of this kind; is the one after them?
    while same(high) and same(max(1, high - 1)):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if same(middle) else (low, middle)
    return low


def _after(work: Work, cost: StepCost, steps: int) -> Work:
    there = Work(**asdict(work))
    there.add(cost, steps)
    return there


def _progress(work: Work, budget: Budget) -> float:
    used = {
        "seconds": work.seconds,
        "steps": work.steps,
        "images": work.images,
        "flops": work.flops,
    }
    return min(1.0, used[budget.unit] / budget.amount)


def _state(work: Work, budget: Budget) -> TrainState:
    return TrainState(work.steps, _progress(work, budget), work.images)


def _cost(phases: Phases, steps: Mapping[Phases, StepCost]) -> StepCost:
    """Of phases that were measured; else of the most expensive that were, for as many."""
    if phases in steps:
        return steps[phases]
    known, cost = max(steps.items(), key=lambda item: item[1].seconds)
    share = len(phases) / len(known)
    return StepCost(
        math.ceil(cost.images * share),
        cost.flops * share,
        math.ceil(cost.calls * share),
        cost.seconds * share,
    )
