"""Precision, recall, density and coverage, side by side with prdc and torch-fidelity.

    python tests/benchmarks/neighbours.py                 # N = 8,000 and 20,000 against both
    python tests/benchmarks/neighbours.py --growth        # ours alone from 5,000 to 50,000, plotted

Each tool computes what it has (torch-fidelity: precision and recall) from the same 64-d features,
in a process of its own so that its peak memory can be told, in turns, three times. Prints the
median seconds with their range, the memory that the computation added, and the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

TOOLS = ("genzoo", "prdc", "torch-fidelity in parts", "torch-fidelity in full")
DIMENSIONS = 64


def measure(tool: str, n: int) -> dict[str, object]:
    """Seconds, added memory in MB and values of one tool, in this process."""
    import torch

    random = torch.Generator().manual_seed(0)
    samples = torch.randn(n, DIMENSIONS, generator=random, dtype=torch.float64) * 0.95 + 0.05
    real = torch.randn(n, DIMENSIONS, generator=random, dtype=torch.float64)
    run = prepare(tool)
    run(samples[:500], real[:500])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        values = run(samples, real)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mb": (after - before) / 1024, "values": values}


def prepare(tool: str):  # type: ignore[no-untyped-def]
    """A function of samples and real items to its values, with everything imported."""
    if tool == "genzoo":
        from genzoo.evaluation.neighbours import find_manifolds

        return lambda a, b: find_manifolds(a, b).values().tolist()
    if tool == "prdc":
        from prdc import compute_prdc

        # Its one k serves all four values.
        return lambda a, b: list(compute_prdc(b.numpy(), a.numpy(), 5).values())
    from genzoo import compat

    compat.install()  # makes torchvision importable beside a CPU torch
    from torch_fidelity.metric_prc import prc_features_to_metric

    size = 2000 if tool.endswith("parts") else 10**6
    return lambda a, b: list(
        prc_features_to_metric(
            a, b, prc_neighborhood=3, prc_batch_size=size, save_cpu_ram=True, verbose=False
        ).values()
    )[:2]


def in_process(tool: str, n: int) -> dict[str, object]:
    """`measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--tool", tool, "--n", str(n)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"seconds": float("nan"), "mb": float("nan"), "values": done.stderr[-200:]}
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])  # prdc prints
    return answer


def compare(sizes: list[int], repeats: int) -> None:
    """Every tool at every size, in turns."""
    for n in sizes:
        rows = [{tool: in_process(tool, n) for tool in TOOLS} for _ in range(repeats)]
        print(f"N = {n:,}, d = {DIMENSIONS}")
        for tool in TOOLS:
            seconds = sorted(float(row[tool]["seconds"]) for row in rows)  # type: ignore[arg-type]
            ratios = sorted(
                float(row[tool]["seconds"]) / float(row["genzoo"]["seconds"])  # type: ignore[arg-type]
                for row in rows
            )
            memory = statistics.median(float(row[tool]["mb"]) for row in rows)  # type: ignore[arg-type]
            print(
                f"  {tool:24} {statistics.median(seconds):7.2f} s "
                f"({seconds[0]:.2f} to {seconds[-1]:.2f})  {memory:7.0f} MB  "
                f"× {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            )
        print(f"  values: { ({tool: rows[0][tool]['values'] for tool in TOOLS}) }", flush=True)


def growth(out: Path) -> None:
    """Seconds and memory of ours from 5,000 to 50,000, as a picture."""
    from matplotlib.figure import Figure

    sizes = [5000, 10_000, 20_000, 35_000, 50_000]
    rows = [in_process("genzoo", n) for n in sizes]
    for n, row in zip(sizes, rows, strict=True):
        print(f"N = {n:,}: {row['seconds']:.2f} s, {row['mb']:.0f} MB", flush=True)
    figure = Figure(figsize=(8, 3.5), layout="tight")
    left, right = figure.subplots(1, 2)
    seconds = [float(row["seconds"]) for row in rows]  # type: ignore[arg-type]
    left.loglog(sizes, seconds, "o-", label="measured")
    left.loglog(sizes, [seconds[0] * (n / sizes[0]) ** 2 for n in sizes], "--", label="N²")
    left.set(xlabel="items a side", ylabel="seconds")
    left.legend()
    right.plot(sizes, [float(row["mb"]) for row in rows], "o-")  # type: ignore[arg-type]
    right.set(xlabel="items a side", ylabel="added memory (MB)", ylim=(0, None))
    figure.savefig(out, dpi=100)
    print(out)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="*", default=[8000, 20_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tool", choices=TOOLS)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("growth.png"))
    given = parser.parse_args()
    if given.tool:
        print(json.dumps(measure(given.tool, given.n[0])))
    elif given.growth:
        growth(given.out)
    else:
        compare(given.n, given.repeats)


if __name__ == "__main__":
    main()
