"""How seconds and memory grow: with images seen, runs, processes of one run, size of the data set.

    python tests/benchmarks/scaling.py --out scaling                      # tiny: some minutes
    python tests/benchmarks/scaling.py --out scaling --model diffusion --size 32 --preset small \
        --images 16000 64000 256000 --runs 2 4 8 16 --ways serial jobs local \
        --items 10000 100000 1000000

Each point is a process of its own. Seconds are the wall time of its work without imports; memory
is the most that the process and its children had at a time (RSS, summed every 50 ms, so what
processes share counts in each). Beside each curve a line through its points is fitted: seconds =
start + slope · x. Written are `scaling.json`, `scaling.svg`, and a table to paste.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # comes with distributed, of the extra genzoo[cluster]

AXES = {
    "images": "images seen in a training",
    "runs": "runs of a comparison (models × seeds)",
    "ranks": "processes that train together",
    "items": "items of the data set",
}
BUDGET_OF_RUNS = "200steps"
BUDGET_OF_RANKS = "400steps"
BUDGET_OF_ITEMS = "50steps"


def random_images(items: int, side: int) -> Any:
    """A data set of random images in memory, in 10 classes."""
    import torch

    from genzoo.data.dataset import Dataset, Split, fingerprint
    from genzoo.types import DataSpec

    random = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        data = torch.randint(0, 256, (n, 3, side, side), generator=random, dtype=torch.uint8)
        return Split(data, torch.arange(n) % 10)

    train, test = split(items), split(500)
    spec = DataSpec((3, side, side), 256, {"label": 10}, (0.1,) * 10)
    names = tuple(map(str, range(10)))
    return Dataset(f"random-{items}", spec, train, test, None, names, fingerprint(spec, train))


def one_training(given: argparse.Namespace, budget: str, items: int, out: str) -> float:
    """Seconds of a training without its evaluation; the data are made before."""
    return _seconds_of_training(given, random_images(items, given.size), budget, out)


def one_training_of_ranks(given: argparse.Namespace, ranks: int, out: str) -> float:
    """Seconds of a training by several processes, their start and their goodbye included."""
    return _seconds_of_training(given, "digits", BUDGET_OF_RANKS, out, ranks)


def _seconds_of_training(
    given: argparse.Namespace, data: Any, budget: str, out: str, devices: int = 1
) -> float:
    import genzoo

    begun = time.perf_counter()
    genzoo.train(
        given.model,
        data,
        budget=budget,
        preset=given.preset,
        out=out,
        threads=given.threads,
        evaluate=False,
        samples=1,
        device=given.device,
        devices=devices,
    )
    return time.perf_counter() - begun


def one_comparison(given: argparse.Namespace, way: str, runs: int, out: str) -> float:
    """Seconds of a comparison of two models of points, evaluation and report included."""
    import genzoo
    from genzoo.data import open_dataset
    from genzoo.evaluation import prepare

    how: dict[str, Any] = {"jobs": 1 if way == "serial" else given.jobs}
    if way not in ("serial", "jobs"):
        how["scheduler"] = way
    prepare(open_dataset("ring"), 200)
    begun = time.perf_counter()
    genzoo.compare(
        ("vae", "diffusion"),
        "ring",
        budget=BUDGET_OF_RUNS,
        seeds=-(-runs // 2),
        samples=200,
        controls=(),
        out=out,
        threads=given.threads,
        **how,
    )
    return time.perf_counter() - begun


def measured(work: Callable[..., float], *arguments: Any) -> dict[str, float]:
    """Seconds and bytes of `work` in a process of its own."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        this = psutil.Process()
        while not done.wait(0.05):
            total = 0
            for process in this.children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            # Not a daemon, which may have no children: the work starts processes itself.
            receive, send = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(
                target=_answer, args=(send, work, *arguments, f"{scratch}/out")
            )
            process.start()
            send.close()
            seconds = receive.recv()
            process.join()
    finally:
        done.set()
        watcher.join()
    return {"seconds": seconds, "bytes": float(peak)}


def _answer(send: Any, work: Callable[..., float], *arguments: Any) -> None:
    send.send(work(*arguments))


def line(points: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Start and slope of the seconds."""
    slope, start = np.polyfit([p["x"] for p in points], [p["seconds"] for p in points], 1)
    return float(start), float(slope)


def measure_all(given: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Every curve of every axis."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {axis: {} for axis in AXES}

    def add(axis: str, curve: str, x: int, work: Callable[..., float], *arguments: Any) -> None:
        point = {"x": float(x), **measured(work, given, *arguments)}
        found[axis].setdefault(curve, []).append(point)
        memory = point["bytes"] / 1e6
        print(f"{axis} {curve} {x:,}: {point['seconds']:.1f} s, {memory:,.0f} MB", flush=True)

    for images in given.images:
        add("images", given.model, images, one_training, f"{images}img", given.items[0])
    for way in given.ways:
        for runs in given.runs:
            add("runs", way, runs, one_comparison, way, runs)
    for ranks in given.ranks:
        add("ranks", given.model, ranks, one_training_of_ranks, ranks)
    for items in given.items:
        add("items", given.model, items, one_training, BUDGET_OF_ITEMS, items)
    return found


def plot(found: dict[str, dict[str, list[dict[str, float]]]], path: Path) -> None:
    """Seconds above, memory below, an axis a column."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "genzoo"}
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, panels = pyplot.subplots(2, len(AXES), figsize=(4 * len(AXES), 6), sharex="col")
    for column, (axis, curves) in enumerate(found.items()):
        for row, (key, unit, label) in enumerate(
            (("seconds", 1.0, "seconds"), ("bytes", 1e6, "memory (MB)"))
        ):
            panel = panels[row, column]
            for curve, points in curves.items():
                x = [p["x"] for p in points]
                panel.plot(x, [p[key] / unit for p in points], "o-", label=curve)
            if axis == "items":
                panel.set_xscale("log")
            else:
                panel.set_xlim(left=0)
                panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                panel.xaxis.set_major_formatter("{x:,.0f}")
            panel.set_ylim(0, 1.15 * max(p[key] / unit for ps in curves.values() for p in ps))
            panel.set_ylabel(label)
            panel.legend(loc="lower right")
        panels[1, column].set_xlabel(AXES[axis])
    figure.tight_layout()
    figure.savefig(path)


def table(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """For RESULTS.md."""
    lines = [
        "| against | curve | x | seconds | MB | seconds = start + slope · x |",
        "|---" * 6 + "|",
    ]
    for axis, curves in found.items():
        for curve, points in curves.items():
            fit = "{:.2f} + {:.3g} · x".format(*line(points)) if len(points) > 1 else "–"
            for number, p in enumerate(points):
                said = fit if number == len(points) - 1 else ""
                head = (AXES[axis], curve) if number == 0 else ("", "")
                lines.append(
                    f"| {head[0]} | {head[1]} | {p['x']:,.0f} | {p['seconds']:.1f} | "
                    f"{p['bytes'] / 1e6:,.0f} | {said} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("scaling"))
    parser.add_argument("--model", default="diffusion")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--size", type=int, default=8, help="side of the random images")
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--runs", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--ways", nargs="+", default=["serial", "jobs", "local"])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    found = measure_all(given)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "scaling.json").write_text(json.dumps(found, indent=1))
    plot(found, given.out / "scaling.svg")
    print(table(found))


if __name__ == "__main__":
    main()
