"""The moving average of the weights that sampling uses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average whose half-life is a fraction of the budget.

    A step that uses Δ of the budget keeps 0.5 ** (Δ / min(half_life, 0.2·p)) of the average,
    where p is the progress after the step. The second bound is the ramp of Karras et al. 2022
    (arXiv 2206.00364, appendix F.1): early on the average forgets as fast as training learns,
    so the initial weights leave no trace in a short training either. Averaging over progress
    instead of steps makes the result independent of the budget's unit.
    """

    RAMP = 0.2

    def __init__(self, parameters: Iterable[nn.Parameter], half_life: float) -> None:
        """Start from the weights as they are.

        Args:
            parameters: those that are trained; others and buffers are not averaged.
            half_life: as a fraction of the budget; 0 keeps the raw weights.
        """
        self._live: list[Tensor] = list(parameters) if half_life > 0 else []
        self.half_life = half_life
        self.weights: list[Tensor] = [p.detach().clone() for p in self._live]

    def decay(self, used: float, progress: float) -> float:
        """What is kept of the average by a step that used `used` and ended at `progress`."""
        half_life = min(self.half_life, self.RAMP * progress)
        return 0.5 ** (used / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, used: float, progress: float) -> None:
        """Follow the weights after a step."""
        if self.weights:
            torch._foreach_lerp_(self.weights, self._live, 1 - self.decay(used, progress))

    @torch.no_grad()
    def load(self, weights: list[Tensor]) -> None:
        """Go on from saved `weights`, in the order of the parameters."""
        for mine, saved in zip(self.weights, weights, strict=True):
            mine.copy_(saved)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the model's weights with the average; a second call swaps them back."""
        for live, average in zip(self._live, self.weights, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)
