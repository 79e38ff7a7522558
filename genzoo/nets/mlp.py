"""Residual multilayer perceptrons, for points and other short vectors."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ResidualMLP(nn.Module):
    """Pre-activation residual layers; the condition is added inside every layer."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        cond_width: int = 0,
        dropout: float = 0.0,
        zero_out: bool = True,
    ) -> None:
        """`zero_out` starts the output at 0."""
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.cond = nn.ModuleList(
            nn.Linear(cond_width, width) for _ in range(depth if cond_width else 0)
        )
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, outputs)
        if zero_out:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """(B, inputs), (B, cond_width) -> (B, outputs)."""
        h = self.embed(x)
        for i, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            inner = first(F.silu(h))
            if c is not None and len(self.cond):
                inner = inner + self.cond[i](c)
            h = h + second(self.dropout(F.silu(inner)))
        out: Tensor = self.out(F.silu(h))
        return out
