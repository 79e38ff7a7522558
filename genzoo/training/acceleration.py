"""How a device computes a training step: precision, memory layout, compilation.

Weights, their average, optimizer states, losses and sampling stay in float32 whatever is chosen;
only matrix products and convolutions of training are done in less.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from genzoo.errors import InputError, unknown
from genzoo.types import Batch, Budget, DataSpec

PRECISIONS = ("fp32", "tf32", "bf16")
# Compiling takes a minute or so, which is not charged to the model but has to be waited for.
LEAST_TO_COMPILE = {"seconds": 600.0, "steps": 20_000.0, "images": 4e6, "flops": 1e17}


@dataclass(frozen=True)
class Acceleration:
    """What is used, all of it chosen.

    Attributes:
        precision: of matrix products and convolutions: ``fp32``; ``tf32`` with 10 bits of mantissa,
            of NVIDIA's Ampere and later; ``bf16`` with 7.
        compiled: whether networks are compiled before the first step.
        channels_last: whether images lie in memory pixel by pixel, which tensor cores like.
    """

    precision: str = "fp32"
    compiled: bool = False
    channels_last: bool = False

    @contextmanager
    def computing(self, device: torch.device) -> Iterator[None]:
        """Compute so inside; torch's settings are restored at the end."""
        if self.precision == "tf32":
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
            convolutions = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = True
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)
                torch.backends.cudnn.allow_tf32 = convolutions
        elif self.precision == "bf16":
            with torch.autocast(device.type, torch.bfloat16):
                yield
        else:
            yield

    def prepare(self, model: nn.Module) -> None:
        """Lay out and compile the model's networks; names and values of its state stay."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiled:
            for network in _networks(model):
                network.compile(dynamic=False)

    def give_up_compiling(self, model: nn.Module) -> None:
        """Go on as if it had never been asked for."""
        for network in _networks(model):
            network._compiled_call_impl = None
        torch._dynamo.reset()

    def laid_out(self, batch: Batch) -> Batch:
        """The minibatch as the networks want it in memory."""
        if not (self.channels_last and batch.x.ndim == 4):
            return batch
        return Batch(batch.x.contiguous(memory_format=torch.channels_last), batch.cond)

    def to_dict(self) -> dict[str, Any]:
        """For a run's configuration."""
        return {
            "precision": self.precision,
            "compiled": self.compiled,
            "channels_last": self.channels_last,
        }


def accelerate(
    device: torch.device,
    spec: DataSpec,
    budget: Budget,
    *,
    precision: str = "auto",
    compiled: bool | None = None,
    channels_last: bool | None = None,
) -> Acceleration:
    """Choose what was left open by what the device has.

    Points keep float32: their networks are too small to gain, and modes may be narrower than
    bfloat16 tells apart.

    Args:
        device: of the training.
        spec: of the data.
        budget: short ones do not pay for compiling.
        precision: ``auto`` or one of `PRECISIONS`.
        compiled: ``None`` chooses.
        channels_last: ``None`` chooses.

    Raises:
        InputError: there is no such precision, or the device lacks it.
    """
    precision = precision.strip().lower()
    if precision not in ("auto", *PRECISIONS):
        raise unknown("precision", precision, ("auto", *PRECISIONS))
    able = precisions_of(device)
    if precision == "auto":
        precision = able[0] if spec.is_image else "fp32"
    elif precision == "tf32" and precision not in able:
        raise InputError(f"--precision tf32: {device} has none; take fp32 or bf16")
    cuda = device.type == "cuda"
    if compiled is None:
        compiled = cuda and spec.is_image and budget.amount >= LEAST_TO_COMPILE[budget.unit]
    if channels_last is None:
        channels_last = cuda and precision == "bf16" and spec.is_image
    return Acceleration(precision, compiled, channels_last)


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """What the device does well, the fastest first."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return ("bf16", "tf32", "fp32")
        return ("fp32",)
    if device.type == "cpu" and cpu_multiplies_bf16():
        return ("bf16", "fp32")
    return ("fp32",)


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has matrix units for bfloat16 (AMX); without them it would only be slower."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(ask is not None and ask())


def _networks(model: nn.Module) -> list[nn.Module]:
    """The largest parts that are called as one, which is what is worth compiling."""
    containers = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    found = list[nn.Module]()
    for child in model.children():
        if isinstance(child, containers):
            found += _networks(child)
        elif next(child.parameters(), None) is not None:
            found.append(child)
    return found
