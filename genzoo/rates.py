"""What GPUs could do at most, by their makers' data sheets; imports no torch.

Dense rates (without structured sparsity) of matrix products in TFLOP/s, and memory in GiB.
Sources: NVIDIA's data sheets of the T4, V100, A10, A100, L4, L40S, H100 (which the H200 shares)
and H200; NVIDIA's white papers of GA102 (RTX 3090) and Ada (RTX 4090), tensor cores with
accumulation in float32; AMD's data sheet of the MI300X, matrix cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from genzoo.errors import InputError, unknown


@dataclass(frozen=True)
class DeviceRates:
    """Peaks of a device.

    Attributes:
        name: as it is asked for.
        memory: bytes.
        flops: FLOP/s by precision.
    """

    name: str
    memory: float
    flops: Mapping[str, float]

    def peak(self, precision: str, images: bool) -> tuple[str, float]:
        """The precision that a training would use, and its FLOP/s.

        Args:
            precision: as asked for; ``auto`` takes bf16 for images where there is one.
            images: whether the data are images.

        Raises:
            InputError: the device has no such precision.
        """
        if precision == "auto":
            precision = "bf16" if images and "bf16" in self.flops else "fp32"
        if precision not in self.flops:
            there = ", ".join(self.flops)
            raise InputError(f"--precision {precision}: {self.name} has none; it has {there}")
        return precision, self.flops[precision]


def _rates(name: str, memory: float, **teraflops: float) -> DeviceRates:
    return DeviceRates(name, memory * 2**30, {k: v * 1e12 for k, v in teraflops.items()})


_ALL = (
    _rates("t4", 16, fp32=8.1),
    _rates("v100", 32, fp32=15.7),
    _rates("a10", 24, fp32=31.2, tf32=62.5, bf16=125),
    _rates("a100", 80, fp32=19.5, tf32=156, bf16=312),
    _rates("l4", 24, fp32=30.3, tf32=60, bf16=121),
    _rates("l40s", 48, fp32=91.6, tf32=183, bf16=362),
    _rates("h100", 80, fp32=67, tf32=494.5, bf16=989.5),
    _rates("h100-pcie", 80, fp32=51, tf32=378, bf16=756.5),
    _rates("h200", 141, fp32=67, tf32=494.5, bf16=989.5),
    _rates("rtx3090", 24, fp32=35.6, tf32=35.6, bf16=71),
    _rates("rtx4090", 24, fp32=82.6, tf32=82.6, bf16=165.2),
    _rates("mi300x", 192, fp32=163.4, tf32=653.7, bf16=1307.4),
)
RATES: Mapping[str, DeviceRates] = {rates.name: rates for rates in _ALL}


def find_rates(name: str) -> DeviceRates:
    """A device of the table.

    Raises:
        InputError: it is not there; names the nearest that is.
    """
    found = RATES.get(name.strip().lower().replace(" ", ""))
    if found is None:
        raise unknown("device", name, RATES)
    return found
