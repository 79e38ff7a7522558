"""One training on one rank and on two: seconds a step, and memory of a rank.

    python tests/benchmarks/devices.py --rounds 5 --models vae,diffusion

The same global minibatch, a CPU thread a rank, the numbers of ranks in turn. Printed are the
ratios of two ranks to one, the median over rounds and the range: 0.5 would be perfect for
seconds. ``--device cuda`` measures GPUs, ``--ranks 1,2,4`` more of them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile

from genzoo.runs import open_run


def trained(given: argparse.Namespace, model: str, ranks: int) -> tuple[float, float, float]:
    """Seconds a step in the middle, seconds a step over all, and megabytes of one rank at most."""
    with tempfile.TemporaryDirectory() as scratch:
        words = f"train --model {model} --data {given.data} --budget {given.steps}steps"
        words += f" --devices {ranks} --device {given.device} --threads 1 --samples 1"
        words += " --no-evaluate --quiet --precision fp32 --no-compile"
        words += "".join(f" --set {pair}" for pair in given.set)
        command = [sys.executable, "-m", "genzoo_cli", *words.split(), "--out", scratch]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = open_run(scratch)
        lines = [(e["step"], e["seconds"]) for e in run.history()]
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(lines, lines[1:], strict=False)]
    cost = run.status["cost"]
    memory = cost["device_memory_bytes"] or cost["peak_memory_bytes"] or float("nan")
    return statistics.median(rates), run.status["seconds"] / run.status["step"], memory / 1e6


def spread(values: list[float]) -> str:
    """``0.62 (0.58 to 0.71)``."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default="gan,vae,flow,diffusion")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    counts = [int(word) for word in given.ranks.split(",")]
    for model in given.models.split(","):
        found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in counts}
        for _ in range(given.rounds):
            for count in counts:
                found[count].append(trained(given, model, count))
        for count in counts:
            step, over_all, memory = (
                statistics.median(row[i] for row in found[count]) for i in range(3)
            )
            print(
                f"{model}, {count} ranks: {step * 1e3:.1f} ms a step ({over_all * 1e3:.1f} with "
                f"the first steps), {memory:,.0f} MB a rank",
                flush=True,
            )
        for count in counts[1:]:
            pairs = list(zip(found[counts[0]], found[count], strict=True))
            seconds, memory_ratio = ([b[i] / a[i] for a, b in pairs] for i in (0, 2))
            print(
                f"{model}, {count} to {counts[0]}: seconds {spread(seconds)}, "
                f"memory {spread(memory_ratio)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
