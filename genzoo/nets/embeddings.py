"""What a network is told beside its input: noise level and conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genzoo.types import DataSpec


class ConditionEmbedding(nn.Module):
    """Sum of one learned vector per label, and of a linear map of the shift.

    The index after the last label means 'any'; an image without a shift adds nothing.
    """

    def __init__(self, spec: DataSpec, width: int, shifts: bool = False) -> None:
        """One table per condition of `spec`; `shifts` says whether images are ever shifted."""
        super().__init__()
        self.width = width
        self.tables = nn.ModuleDict({k: nn.Embedding(n + 1, width) for k, n in spec.cond.items()})
        self.shift = nn.Linear(2, width, bias=False) if shifts and spec.is_image else None

    def forward(self, cond: Mapping[str, Tensor], n: int, device: torch.device) -> Tensor:
        """Labels (n,) by name, and ``shift`` (n, 2) -> (n, width); zeros without conditions."""
        total = torch.zeros(n, self.width, device=device)
        for name, table in self.tables.items():
            total = total + table(cond[name])
        if self.shift is not None and "shift" in cond:
            total = total + self.shift(8 * cond["shift"])
        return total


def hide_labels(
    cond: Mapping[str, Tensor], null: Mapping[str, Tensor], probability: float
) -> dict[str, Tensor]:
    """`cond` with some labels replaced by 'any'.

    Args:
        cond: labels (n,) by name; what is not in `null` is kept.
        null: the indices that mean 'any', (n,) by name.
        probability: share of the items whose labels are hidden.
    """
    hidden = dict(cond)
    for name, nothing in null.items():
        drop = torch.rand(len(nothing), device=nothing.device) < probability
        hidden[name] = torch.where(drop, nothing, cond[name])
    return hidden


class NoiseEmbedding(nn.Module):
    """Sinusoids of a scalar such as ln(sigma)/4, then a small MLP."""

    scale: Tensor

    def __init__(self, width: int, frequencies: int = 32, highest: float = 64.0) -> None:
        """Frequencies are spaced geometrically from 1 to `highest`."""
        super().__init__()
        scale = torch.exp(torch.linspace(0, math.log(highest), frequencies))
        self.register_buffer("scale", scale)
        self.mlp = nn.Sequential(
            nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, c: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        phase = c.float()[:, None] * self.scale
        out: Tensor = self.mlp(torch.cat([phase.sin(), phase.cos()], dim=1))
        return out
