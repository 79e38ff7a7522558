"""One comparison with ``--jobs 1`` and with ``--jobs 2``: wall time, and whether the bytes agree.

    python tests/benchmarks/jobs.py --rounds 3

Tiny networks of points under a budget of steps, so that both do the same work. The two alternate;
printed is the ratio of the wall times, the median over rounds and the range.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import genzoo

MODELS = ("gan", "vae", "flow", "diffusion")


def compared(folder: Path, jobs: int, steps: int) -> tuple[float, dict[str, bytes]]:
    """Seconds, and the weights and samples of all runs by name."""
    begun = time.perf_counter()
    found = genzoo.compare(
        MODELS, "ring", budget=f"{steps}steps", seeds=2, out=folder, jobs=jobs, threads=1
    )
    seconds = time.perf_counter() - begun
    names = ("model.safetensors", "samples.npz")
    return seconds, {
        f"{path.name}/{name}": (path / name).read_bytes() for path in found.runs for name in names
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    ratios = []
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            one, alone = compared(Path(scratch) / "one", 1, given.steps)
            two, beside = compared(Path(scratch) / "two", 2, given.steps)
        assert alone == beside, "the bytes differ"
        ratios.append(two / one)
        print(f"round {number + 1}: {one:.1f} s alone, {two:.1f} s two at a time", flush=True)
    low, high = min(ratios), max(ratios)
    print(f"ratio {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}); the same bytes")


if __name__ == "__main__":
    main()
