"""How much of a budget is used, and what a step costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from genzoo.ranks import ALONE, Ranks, Wishes
from genzoo.training.device import synchronize
from genzoo.types import Budget, TrainState


@dataclass
class Used:
    """What training has used so far; all that a resumed clock needs.

    Attributes:
        step: optimizer steps done.
        images: training items seen, a minibatch for each phase of a step.
        seconds: wall time of training alone.
        flops: floating-point operations of forward and backward passes.
        phase_flops: of one minibatch by phase, as counted once.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    phase_flops: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; ``Used(**it)`` inverts it."""
        return asdict(self)


class BudgetClock:
    """Progress of a budget in [0, 1], whatever its unit.

    Seconds run only inside `running`, so that logging, checkpoints, counting and evaluation
    are not charged to the model. Of several ranks, the first one's clock is everyone's: it is
    told at the end of each step, and stands still in between.
    """

    def __init__(
        self, budget: Budget, used: Used, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        """Go on from `used`."""
        self.budget = budget
        self.used = used
        self._device, self._ranks = device, ranks
        self._started: float | None = None
        self._told: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Charge the wall time inside."""
        self._started = time.perf_counter()
        well = False
        try:
            yield
            well = True
        finally:
            if well or self._ranks.count == 1:  # or a device may wait for a rank that is lost
                synchronize(self._device)
            self.used.seconds = self._measured()
            self._started = None
        self.agree(Wishes())  # not after an error, of which the other ranks know nothing
        self.used.seconds = self.seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not charge the wall time inside; within `running` only."""
        synchronize(self._device)
        self.used.seconds, self._started = self._measured(), None
        try:
            yield
        finally:
            synchronize(self._device)
            self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time charged so far."""
        if self._ranks.count == 1:
            return self._measured()
        return self.used.seconds if self._told is None else self._told

    def agree(self, wishes: Wishes) -> Wishes:
        """Take the first rank's time for one's own, and hear what any rank wishes."""
        self._told, wishes = self._ranks.agree(self._measured(), wishes)
        return wishes

    def _measured(self) -> float:
        if self._started is None:
            return self.used.seconds
        return self.used.seconds + time.perf_counter() - self._started

    @property
    def progress(self) -> float:
        """Used fraction of the budget."""
        used = {
            "seconds": self.seconds,
            "steps": self.used.step,
            "images": self.used.images,
            "flops": self.used.flops,
        }
        return min(1.0, used[self.budget.unit] / self.budget.amount)

    @property
    def state(self) -> TrainState:
        """What models are told."""
        return TrainState(self.used.step, self.progress, self.used.images)


def count_flops(work: Callable[[], object]) -> float:
    """Floating-point operations of `work`: matrix products, convolutions and attention.

    A multiply-add is 2. Elementwise operations, norms and FFTs count 0, as is the custom.
    """
    with CostCounter() as counter:
        work()
    return float(counter.total)


class CostCounter(TorchDispatchMode):
    """Counts by torch's own formulas, and mends their 0 for fused attention on the CPU.

    torch's `FlopCounterMode` also attributes the counts to modules, with hooks that refuse
    `autograd.grad`, which gradient penalties need.

    Attributes:
        total: floating-point operations.
        calls: of torch's operators; on a GPU about as many kernels are launched.
    """

    def __init__(self) -> None:
        """Nothing counted yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.total, self.calls = 0, 0
        self._formulas = {**flop_registry, **_attention_formulas()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do it, and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls += 1
        if (formula := self._formulas.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def _attention_formulas() -> dict[Any, Callable[..., int]]:
    name = "_scaled_dot_product_flash_attention_for_cpu"
    aten = torch.ops.aten
    if not hasattr(aten, name):
        return {}
    return {
        getattr(aten, name): _attention_forward,
        getattr(aten, f"{name}_backward"): _attention_backward,
    }


def _attention_forward(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Q·Kᵀ and its product with V; (B, heads, L, d) each."""
    *batch, length, width = query.shape
    keys, out = key.shape[-2], value.shape[-1]
    return 2 * math.prod(batch) * length * keys * (width + out)


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    """The scores once more, and the gradients of both products: five products for two."""
    *batch, length, width = query.shape
    keys, out = key.shape[-2], value.shape[-1]
    return 2 * math.prod(batch) * length * keys * (3 * width + 2 * out)
