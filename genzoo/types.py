"""The vocabulary that every layer shares. Importing this module imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from genzoo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from genzoo.model import Denoiser

BudgetUnit = Literal["seconds", "steps", "images", "flops"]
LikelihoodKind = Literal["exact", "bound", "estimate"]


class Batch(NamedTuple):
    """What a model is trained on.

    Attributes:
        x: data in model space, (B, *shape) float: images in [-1, 1], points standardized.
        cond: conditions by name, each with B rows; ``{"label": (B,) int64}`` or ``{}``.
    """

    x: Tensor
    cond: Mapping[str, Tensor]


class Loss(NamedTuple):
    """A scalar to descend, and its detached parts for the history.

    Attributes:
        total: scalar with a gradient.
        parts: detached scalars by name, logged as they are.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data, and no more.

    Attributes:
        shape: (C, H, W) for images, (D,) for points.
        levels: number of gray levels per channel; ``None`` for points.
        cond: condition names and sizes, ``{"label": 10}`` or ``{}``.
        frequencies: training frequency of each label, summing to 1; empty without labels.
        location: per-coordinate mean of the training points; empty for images.
        scale: per-coordinate standard deviation of the training points; empty for images.
    """

    shape: tuple[int, ...]
    levels: int | None
    cond: Mapping[str, int] = field(default_factory=dict)
    frequencies: tuple[float, ...] = ()
    location: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether the data are images (with levels) rather than points."""
        return self.levels is not None

    @property
    def dim(self) -> int:
        """Number of scalars in one item."""
        return math.prod(self.shape)

    @property
    def num_classes(self) -> int:
        """Number of labels, 0 for unlabelled data."""
        return self.cond.get("label", 0)

    def unconditional(self) -> DataSpec:
        """The same data with its conditions hidden from the model."""
        return replace(self, cond={}, frequencies=())

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; `from_dict` inverts it."""
        return asdict(replace(self, cond=dict(self.cond)))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DataSpec:
        """Read what `to_dict` wrote.

        Raises:
            InputError: a field is missing or of the wrong type.
        """
        try:
            return cls(
                shape=tuple(int(n) for n in raw["shape"]),
                levels=None if raw["levels"] is None else int(raw["levels"]),
                cond={str(k): int(v) for k, v in raw["cond"].items()},
                frequencies=tuple(float(v) for v in raw["frequencies"]),
                location=tuple(float(v) for v in raw["location"]),
                scale=tuple(float(v) for v in raw["scale"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a data specification: {error!r}") from error


@dataclass(frozen=True)
class TrainState:
    """Where training stands.

    Attributes:
        step: optimizer steps done.
        progress: used fraction of the budget in [0, 1], whatever the budget's unit.
        images: training items seen.
    """

    step: int = 0
    progress: float = 0.0
    images: int = 0


@dataclass(frozen=True)
class Recipe:
    """How a family wants to be optimized; the training loop does the optimizing.

    Attributes:
        batch_size: items per phase.
        lr: peak learning rate, reached after `warmup`.
        lr_end: final learning rate as a fraction of `lr`, reached by a half cosine.
        warmup: fraction of the budget during which `lr` rises linearly from 0.
        betas: Adam's moment decay rates.
        weight_decay: decoupled (AdamW).
        grad_clip: global gradient norm at which gradients are clipped; ``None`` never.
        ema: half-life of the weight average as a fraction of the budget; 0 keeps the raw weights.
        lr_scale: multiplier of `lr` by phase, 1 where absent.
        spans: from and to which part of the budget a phase's `lr` rises and falls; all of it where
            absent. For phases that follow one another.
    """

    batch_size: int = 128
    lr: float = 1e-3
    lr_end: float = 0.0
    warmup: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    ema: float = 0.03
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleOptions:
    """How to sample; ``None`` means the model's own default.

    Attributes:
        steps: solver steps of an iterative sampler; ignored by one-shot models.
        guidance: classifier-free guidance weight, 1 is none.
        temperature: scale of the prior's noise where the family has one.
        sampler: a name of `genzoo.samplers.SAMPLERS`; ignored by models that do not denoise.
        guidance_interval: noise levels σ from and to which guidance acts; everywhere if absent.
        guide: a worse `genzoo.model.Denoiser`, which guidance leads away from in the place of the
            model without labels (autoguidance).
    """

    steps: int | None = None
    guidance: float | None = None
    temperature: float | None = None
    sampler: str | None = None
    guidance_interval: tuple[float, float] | None = None
    guide: Denoiser | None = None

    def __post_init__(self) -> None:
        """Refuse values that no sampler can use."""
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps}: at least 1 step is needed")
        if self.guidance is not None and not 0 <= self.guidance < math.inf:
            raise InputError(f"--guidance {self.guidance}: must be 0 or more")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature {self.temperature}: must be positive")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0 <= low < high:
                raise InputError(f"--guidance-interval {low:g},{high:g}: must rise from 0 or more")


_BUDGET = re.compile(
    r"(?P<amount>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*"
    r"(?P<unit>s|sec|seconds?|m|min|minutes?|h|hours?|steps?|k?img|mimg|images?|flops?)",
    re.IGNORECASE,
)
_UNITS: dict[str, tuple[BudgetUnit, float]] = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("seconds", 1.0)),
    **dict.fromkeys(("m", "min", "minute", "minutes"), ("seconds", 60.0)),
    **dict.fromkeys(("h", "hour", "hours"), ("seconds", 3600.0)),
    **dict.fromkeys(("step", "steps"), ("steps", 1.0)),
    **dict.fromkeys(("img", "image", "images"), ("images", 1.0)),
    "kimg": ("images", 1e3),
    "mimg": ("images", 1e6),
    **dict.fromkeys(("flop", "flops"), ("flops", 1.0)),
}


@dataclass(frozen=True)
class Budget:
    """What a training may use up: the same for every model of a comparison.

    Attributes:
        amount: how much of `unit`.
        unit: ``seconds`` (wall clock, training only), ``steps``, ``images`` or ``flops``.
    """

    amount: float
    unit: BudgetUnit

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read ``60s``, ``5min``, ``2000steps``, ``200kimg`` or ``1e13flops``.

        Raises:
            InputError: not a budget, or not positive.
        """
        if isinstance(text, Budget):
            return text
        found = _BUDGET.fullmatch(text.strip())
        if not found:
            raise InputError(
                f"budget '{text}' is not an amount with a unit; write for example "
                "60s, 5min, 2000steps, 200kimg or 1e13flops"
            )
        unit, factor = _UNITS[found["unit"].lower()]
        amount = float(found["amount"]) * factor
        if not 0 < amount < math.inf:
            raise InputError(f"budget '{text}' must be more than nothing, for example 60s")
        if unit in ("steps", "images") and amount < 1:
            raise InputError(f"budget '{text}' is less than one of its unit")
        return cls(amount, unit)

    def __str__(self) -> str:
        """The shortest text that `parse` reads back."""
        short = {"seconds": "s", "steps": "steps", "images": "img", "flops": "flops"}[self.unit]
        amount, unit = self.amount, short
        if self.unit == "images" and amount >= 1000 and amount % 1000 == 0:
            amount, unit = amount / 1000, "kimg"
        return f"{amount:.12g}{unit}"
