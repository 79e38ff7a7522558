"""Data larger than memory: how soon training starts, what it holds, and how fast it is.

    python tests/benchmarks/streaming.py --images 1000000 --folder /somewhere/with/3GB

Makes shards of digits-like pictures (scikit-learn's digits, enlarged, with noise, so that all are
different), once; then measures, each in processes of its own:

- start: seconds from the start of `python` to the end of the first step, without and with the
  index that the first time leaves behind, and the largest memory of the process and its children;
- throughput: images a second of a Trainer that reads the shards against one whose images lie in
  memory, alternating in rounds; the median over rounds and the range;
- evaluation: seconds and memory of scoring shards of samples against the shards, at several
  numbers of samples, and the line through them at 1,000,000. Distances are of all samples and all
  held-out pictures, other metrics of `--n` on either side.

Memory is that of all processes together, what they share counted once (PSS; where the system does
not tell, resident sets, in which it counts in each).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARD = 10_000
STEPS = 5


# -- making -------------------------------------------------------------------------------------


def make(folder: Path, n: int, side: int, seed: int) -> None:
    """Tars of `SHARD` pictures each, where they are not there already."""
    done = folder / "done.json"
    what = {"n": n, "side": side, "seed": seed}
    if done.exists() and json.loads(done.read_text()) == what:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    with ProcessPoolExecutor() as pool:
        one = partial(_write_shard, folder, n, side, seed)
        list(pool.map(one, range(-(-n // SHARD))))
    done.write_text(json.dumps(what))
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    print(f"made {n:,} pictures, {size / 1e9:.2f} GB, in {time.perf_counter() - begun:.0f} s")


def _write_shard(folder: Path, n: int, side: int, seed: int, shard: int) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng([seed, shard])
    first, count = shard * SHARD, min(SHARD, n - shard * SHARD)
    rows = rng.integers(len(digits.images), size=count)
    place = np.arange(side) * 8 // side
    with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
        for i, row in enumerate(rows.tolist(), first):
            clean = (digits.images[row] * 14).astype(np.int64)[np.ix_(place, place)]
            image = (clean + rng.integers(0, 31, (side, side))).clip(0, 255).astype(np.uint8)
            for suffix, content in (("png", png(image)), ("cls", b"%d" % digits.target[row])):
                info = tarfile.TarInfo(f"{i:07d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def png(image: NDArray[np.uint8]) -> bytes:
    """A gray picture (H, W), quicker than by Pillow."""
    height, width = image.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)
    rows[:, 1:] = image
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# -- measuring, in a process of its own -----------------------------------------------------------


class Memory(threading.Thread):
    """The most memory of this process and its children together, in GB."""

    def __init__(self) -> None:
        """Begin to look."""
        super().__init__(daemon=True)
        self.most = 0.0
        self.start()

    def run(self) -> None:
        """Look five times a second."""
        import psutil  # type: ignore[import-untyped]

        own = psutil.Process()
        while True:
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    told = process.memory_full_info()
                except psutil.Error:
                    continue
                total += getattr(told, "pss", told.rss)
            self.most = max(self.most, total / 1e9)
            time.sleep(0.2)


def part_start(data: str, model: str, begun: float) -> dict[str, Any]:
    """Until the first step has been done."""
    memory = Memory()
    import genzoo
    from genzoo.training.loop import Trainer

    first: list[float] = []
    step = Trainer.step

    def timed(self: Trainer) -> None:
        step(self)
        first.append(time.time() - begun)

    Trainer.step = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        genzoo.train(
            model, data, budget=f"{STEPS}steps", preset="small", evaluate=False, samples=16,
            out=Path(folder) / "run",
        )  # fmt: skip
    return {"first_step_seconds": first[0], "gb": memory.most}


def part_throughput(data: str, model: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Images a second from files, as a share of those from memory."""
    import torch

    from genzoo.data import open_dataset
    from genzoo.training import find_model
    from genzoo.training.loop import Trainer
    from genzoo.types import Budget

    memory, opened = Memory(), open_dataset(data)
    assert opened.streams is not None
    source = find_model(model)
    sides = {}
    for name, stream in (("memory", None), ("files", opened.streams.train)):
        torch.manual_seed(0)
        net = source.build(opened.spec, source.settings({}, opened.spec, "small"))
        sides[name] = Trainer(net, opened.train, Budget.parse("100000000steps"), 0, stream=stream)
        sides[name].start()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, trainer in sides.items():
            with trainer.clock.running():
                before, begun = trainer.clock.used.images, time.perf_counter()
                while time.perf_counter() - begun < seconds:
                    trainer.step()
                took = time.perf_counter() - begun
            if turn:  # the first warms up
                rates[name].append((trainer.clock.used.images - before) / took)
    for trainer in sides.values():
        trainer.batches.close()
    ratios = [a / b for a, b in zip(rates["files"], rates["memory"], strict=True)]
    return {"ratios": ratios, "images_per_second": rates, "gb": memory.most}


def part_evaluation(data: str, samples: str, n: int) -> dict[str, Any]:
    """Score shards against shards, with all that is needed for it made now."""
    memory = Memory()
    import genzoo

    begun = time.perf_counter()
    result = genzoo.evaluate(samples, data, n=n)
    score = result.metrics["fd_all"]
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "gb": memory.most, "n": score.n, "fd_all": score.value}


def measure(part: str, root: Path, **how: Any) -> dict[str, Any]:
    """Call ``part_…`` in a process whose caches lie in `root`."""
    code = (
        f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import streaming\n"
        f"print(json.dumps(streaming.part_{part}(**json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(how)],
        env={
            **os.environ,
            "GENZOO_DATA": str(root / "data"),
            "GENZOO_CACHE": str(root / "cache"),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- the whole ------------------------------------------------------------------------------------


def spread(values: list[float]) -> str:
    """``1.31 (1.27 to 1.36)``."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "genzoo-shards"
    )
    parser.add_argument("--models", nargs="*", default=["diffusion", "vae", "flow", "gan"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round of throughput")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--samples", type=int, nargs="*", default=[25_000, 50_000, 100_000])
    parser.add_argument("--n", type=int, default=2000, help="of other metrics, on either side")
    given = parser.parse_args()

    data = given.folder / f"real-{given.side}-{given.images}"
    make(data, given.images, given.side, seed=0)
    name, root = f"shards:{data}/*.tar", given.folder / "root"

    print("\n| start | first step (s) | memory (GB) |\n|---|---|---|")
    found = {"no index": [], "with index": []}  # type: dict[str, list[dict[str, Any]]]
    for _ in range(given.starts):
        shutil.rmtree(root, ignore_errors=True)
        for row in found.values():
            row.append(measure("start", root, data=name, model=given.models[0], begun=time.time()))
    for what, row in found.items():
        seconds, memory = ([r[k] for r in row] for k in ("first_step_seconds", "gb"))
        print(f"| {what} | {spread(seconds)} | {max(memory):.2f} |", flush=True)

    print("\n| model, small | images/s from files | ratio to memory | memory (GB) |")
    print("|---|---|---|---|")
    for model in given.models:
        row = measure(
            "throughput", root, data=name, model=model, rounds=given.rounds, seconds=given.seconds
        )
        rate = statistics.median(row["images_per_second"]["files"])
        print(f"| {model} | {rate:,.0f} | {spread(row['ratios'])} | {row['gb']:.2f} |", flush=True)

    print("\n| samples scored | seconds | memory (GB) | fd_all |\n|---|---|---|---|")
    times = []
    for n in given.samples:
        made = given.folder / f"samples-{given.side}-{n}"
        make(made, n, given.side, seed=1)
        # The first one also trains the feature extractor and sums up the held-out pictures.
        for again in ("first", "again") if n == given.samples[0] else ("again",):
            row = measure("evaluation", root, data=name, samples=f"shards:{made}/*.tar", n=given.n)
            print(
                f"| {n:,} ({again}) | {row['seconds']:.1f} | {row['gb']:.2f} "
                f"| {row['fd_all']:.3f} |",
                flush=True,
            )
        times.append(row["seconds"])
    if len(times) > 1:
        slope, base = np.polyfit(given.samples, times, 1)
        print(f"\n1,000,000 samples: {base + slope * 1e6:,.0f} s, by the line through these")


if __name__ == "__main__":
    main()
