"""Time the Fréchet distance: genzoo's against scipy.linalg.sqrtm and torch-fidelity's.

    python tests/benchmarks/frechet.py [--items 4096] [--repeats 5] [--dimensions 1024 2048]

The three run in turns, each in a process of its own (the threads of one library's BLAS go on
spinning for a while and would slow the next one's), on the same features, once to warm up and then
three times, of which the fastest counts. Prints the median milliseconds, how many times as long the
others take (median, with smallest and largest of the repeats), and by how much the values differ.
`statistics` starts from means and covariances, `features` includes them, `interval` is what ours
takes besides for its interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

TOOLS = ("genzoo", "scipy sqrtm", "torch-fidelity")


def made_features(items: int, d: int) -> tuple[Tensor, Tensor]:
    """Correlated, non-Gaussian features of two laws that differ a little."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    x, y = (
        torch.relu(torch.randn(items, d, generator=generator, dtype=torch.float64) @ mix + 0.2)
        for _ in range(2)
    )
    return 1.1 * x, y


def ways(tool: str, x: Tensor, y: Tensor) -> dict[str, Callable[[], float]]:
    """One tool's computations by name."""
    if tool == "genzoo":
        from genzoo.evaluation import moments as ours

        a, b = ours.Moments.of(x), ours.Moments.of(y)
        return {
            "statistics": lambda: ours.frechet_of_moments(a, b),
            "features": lambda: ours.frechet_of_features(x, y),
            "interval": lambda: ours.frechet_spread(x, y).variance,
        }
    from genzoo import compat

    compat.install()  # makes torchvision importable beside a CPU torch
    from torch_fidelity import metric_fid

    count = metric_fid.fid_features_to_statistics
    if tool == "scipy sqrtm":
        import numpy as np
        from scipy import linalg

        def compare(p: dict[str, np.ndarray], q: dict[str, np.ndarray]) -> float:
            """The formula as it is usually written."""
            root = linalg.sqrtm(p["sigma"] @ q["sigma"])
            apart = p["mu"] - q["mu"]
            traces = np.trace(p["sigma"]) + np.trace(q["sigma"]) - 2 * np.trace(root).real
            return float(apart @ apart + traces)
    else:

        def compare(p: dict[str, np.ndarray], q: dict[str, np.ndarray]) -> float:
            found = metric_fid.fid_statistics_to_metric(p, q, verbose=False)
            return float(found[metric_fid.KEY_METRIC_FID])

    p, q = count(x), count(y)
    return {
        "statistics": lambda: compare(p, q),
        "features": lambda: compare(count(x), count(y)),
    }


def measure(tool: str, items: int, d: int) -> dict[str, list[float]]:
    """Seconds and value of each of a tool's computations, in this process."""
    answers = {}
    for name, run in ways(tool, *made_features(items, d)).items():
        value, seconds = run(), []
        for _ in range(3):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        answers[name] = [min(seconds), value]
    return answers


def in_process(tool: str, items: int, d: int) -> dict[str, list[float]]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--tool", tool, "--items", str(items)]
    done = subprocess.run(
        [*command, "--dimensions", str(d)], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare_all(items: int, d: int, repeats: int) -> None:
    """Every tool in turns, in an order that changes with every repeat."""
    rows: dict[str, list[dict[str, list[float]]]] = {tool: [] for tool in TOOLS}
    for repeat in range(repeats):
        shift = repeat % len(TOOLS)
        for tool in TOOLS[shift:] + TOOLS[:shift]:
            rows[tool].append(in_process(tool, items, d))
    for name in rows["genzoo"][0]:
        print(f"d = {d}, {items} items, {torch.get_num_threads()} threads: {name}")
        for tool in TOOLS:
            if name not in rows[tool][0]:
                continue
            seconds = [row[name][0] for row in rows[tool]]
            ratios = [s / row[name][0] for s, row in zip(seconds, rows["genzoo"], strict=True)]
            apart = abs(rows[tool][0][name][1] / rows["genzoo"][0][name][1] - 1)
            print(
                f"  {tool:16} {1e3 * statistics.median(seconds):10.0f} ms   "
                f"{statistics.median(ratios):6.2f} x ({min(ratios):.2f} - {max(ratios):.2f})   "
                f"relative difference {apart:.1e}",
                flush=True,
            )


def main() -> None:
    """Compare at every dimension."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--items", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--tool", choices=TOOLS, help="this one alone, as JSON")
    given = parser.parse_args()
    if given.tool:
        print(json.dumps(measure(given.tool, given.items, given.dimensions[0])))
        return
    for d in given.dimensions:
        compare_all(given.items, d, given.repeats)


if __name__ == "__main__":
    main()
