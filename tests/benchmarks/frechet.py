"""Time the Fréchet distance: genzoo's against scipy.linalg.sqrtm and torch-fidelity's.

    python tests/benchmarks/frechet.py [--items 4096] [--repeats 3] [--dimensions 1024 2048]

All three run in turn in one process, in an order that changes with every repeat, on features made
once. Prints milliseconds of each, how many times as long the others take (median, with smallest
and largest of the repeats), and by how much the values differ. `features` includes means and
covariances, `statistics` starts from them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from genzoo.evaluation.moments import (
    Moments,
    frechet_of_features,
    frechet_of_moments,
    frechet_spread,
)

Statistics = tuple[np.ndarray, np.ndarray]


def made_features(items: int, d: int) -> tuple[Tensor, Tensor]:
    """Correlated, non-Gaussian features of two laws that differ a little."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    x, y = (
        torch.relu(torch.randn(items, d, generator=generator, dtype=torch.float64) @ mix + 0.2)
        for _ in range(2)
    )
    return 1.1 * x, y


def by_sqrtm(a: Statistics, b: Statistics) -> float:
    """The formula as it is usually written."""
    root = linalg.sqrtm(a[1] @ b[1])
    apart = a[0] - b[0]
    return float(apart @ apart + np.trace(a[1]) + np.trace(b[1]) - 2 * np.trace(root).real)


def by_torch_fidelity(a: Statistics, b: Statistics) -> float:
    """Eigenvalues of the product, which is not symmetric."""
    from torch_fidelity import metric_fid  # after genzoo, which mends torchvision

    first, second = ({"mu": mu, "sigma": sigma} for mu, sigma in (a, b))
    found = metric_fid.fid_statistics_to_metric(first, second, verbose=False)
    return float(found[metric_fid.KEY_METRIC_FID])


def numpy_statistics(x: Tensor) -> Statistics:
    """Mean and covariance as torch-fidelity takes them."""
    from torch_fidelity import metric_fid

    found = metric_fid.fid_features_to_statistics(x)
    return found["mu"], found["sigma"]


def race(ways: dict[str, Callable[[], float]], repeats: int) -> None:
    """Run all ways `repeats` times and print how they compare with the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}
    names = list(ways)
    for repeat in range(repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            values[name] = ways[name]()
            seconds[name].append(time.perf_counter() - start)
    ours = names[0]
    for name in names:
        ratios = [b / a for a, b in zip(seconds[ours], seconds[name], strict=True)]
        print(
            f"  {name:16} {1e3 * statistics.median(seconds[name]):10.0f} ms   "
            f"{statistics.median(ratios):6.2f} x ({min(ratios):.2f} - {max(ratios):.2f})   "
            f"relative difference {abs(values[name] / values[ours] - 1):.1e}",
            flush=True,
        )


def main() -> None:
    """Race at every dimension."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--items", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1024, 2048])
    options = parser.parse_args()
    for d in options.dimensions:
        x, y = made_features(options.items, d)
        a, b, p, q = Moments.of(x), Moments.of(y), numpy_statistics(x), numpy_statistics(y)
        frechet_of_moments(a, b)  # the libraries' threads start
        print(f"d = {d}, {options.items} items, {torch.get_num_threads()} threads: statistics")
        race(
            {
                "genzoo": lambda a=a, b=b: frechet_of_moments(a, b),  # type: ignore[misc]
                "scipy sqrtm": lambda p=p, q=q: by_sqrtm(p, q),  # type: ignore[misc]
                "torch-fidelity": lambda p=p, q=q: by_torch_fidelity(p, q),  # type: ignore[misc]
            },
            options.repeats,
        )
        print(f"d = {d}: features")
        race(
            {
                "genzoo": lambda x=x, y=y: frechet_of_features(x, y),  # type: ignore[misc]
                "scipy sqrtm": lambda x=x, y=y: by_sqrtm(  # type: ignore[misc]
                    numpy_statistics(x), numpy_statistics(y)
                ),
                "torch-fidelity": lambda x=x, y=y: by_torch_fidelity(  # type: ignore[misc]
                    numpy_statistics(x), numpy_statistics(y)
                ),
            },
            options.repeats,
        )
        start = time.perf_counter()
        frechet_spread(x, y)
        print(f"  what the interval takes besides: {1e3 * (time.perf_counter() - start):.0f} ms")


if __name__ == "__main__":
    main()
