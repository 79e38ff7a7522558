"""Noise that depends on the seed and the sample's index, and on nothing else.

Sample ``i`` of seed ``s`` gets the same numbers whatever the batch size, the number of
processes or the model's device, so that a grid can be regenerated, extended or sharded.
Samples come in fixed blocks of 32, each with its own counter-based Philox stream
(Salmon et al. 2011) keyed by (seed, block); a batch that cuts a block draws all of it and
keeps its rows. The stream is made on the CPU, where it costs nanoseconds a number.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 32


def derive_seed(*words: int) -> int:
    """A well-mixed 32-bit seed from several non-negative integers.

    torch's CPU generator uses 32 bits of its seed only, so nearby seeds must be mixed first.
    """
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded with `derive_seed` of `words`."""
    return torch.Generator(device=device).manual_seed(derive_seed(*words))


class NoiseSource:
    """The noise of samples ``start`` to ``stop - 1`` of a seed, drawn in order.

    Every call advances the streams: the k-th draw of a sample is the same for every slicing
    of the samples into batches as long as the calls ask for the same shapes.
    """

    def __init__(
        self, seed: int, start: int, stop: int, device: torch.device | str = "cpu", stream: int = 0
    ) -> None:
        """Open the streams of the samples' blocks.

        Args:
            seed: any non-negative integer.
            start: index of the first sample.
            stop: one past the index of the last sample.
            device: where the noise is wanted.
            stream: separates uses of one seed (samples are 0, labels are 1).
        """
        first, last = start // BLOCK, (stop - 1) // BLOCK
        self.n = stop - start
        self.device = torch.device(device)
        self._rows = slice(start - first * BLOCK, stop - first * BLOCK)
        self._streams = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream, block])))
            for block in range(first, last + 1)
        ]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (n, *shape) float32."""
        return self._gather(
            [s.standard_normal((BLOCK, *shape), dtype=np.float32) for s in self._streams]
        )

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (n, *shape) float32."""
        return self._gather([s.random((BLOCK, *shape), dtype=np.float32) for s in self._streams])

    def _gather(self, blocks: list[np.ndarray]) -> Tensor:
        rows = np.concatenate(blocks)[self._rows]
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
