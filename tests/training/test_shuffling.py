"""Training from files: the order is a function of seed and position, and survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from made_shards import pictures, write_shards
from test_train import Listener, content, ctrl_c
from tiny_models import Tiny

import genzoo
from genzoo.data import open_dataset
from genzoo.data.dataset import Dataset
from genzoo.data.stream import read_block
from genzoo.errors import InputError, Interrupted
from genzoo.ranks import Ranks
from genzoo.runs import open_run
from genzoo.training.loop import Minibatches
from genzoo.training.shuffling import Shuffled

N = 120


@pytest.fixture(autouse=True)
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENZOO_DATA", str(tmp_path / "root"))
    monkeypatch.setattr("genzoo.data.stream.BLOCK_ITEMS", 8)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return open_dataset(write_shards(tmp_path / "s", N))


def shuffled(data: Dataset, seed: int = 0, window: int = 30) -> Shuffled:
    assert data.streams is not None
    return Shuffled(data.streams.train, seed, 2, window=window)


def numbers(images: torch.Tensor) -> list[int]:
    """Which of the made pictures these are."""
    known = {image.tobytes(): i for i, image in enumerate(pictures(N))}
    return [known[image.numpy().tobytes()] for image in images]


@pytest.mark.parametrize("window", [1, 30, 1000])
def test_every_picture_once_an_epoch(data: Dataset, window: int) -> None:
    """Fails with: a window that forgets its last block, labels in the files' order."""
    n = data.counts[0]
    order = shuffled(data, window=window)
    images, labels = order.take(0, 3 * n)
    found = numbers(images)
    assert labels is not None and [i % 3 for i in found] == labels.tolist()
    epochs = [found[k * n : (k + 1) * n] for k in range(3)]
    assert len(order) == n and all(len(set(epoch)) == n for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set(epochs[0]) == set(epochs[1]) == set(numbers(data.train.data))


def test_the_seed_decides_and_the_position_is_enough(data: Dataset) -> None:
    """From anywhere, in any steps. Fails with: an order that depends on what was read before."""
    whole = numbers(shuffled(data).take(0, 250)[0])
    assert numbers(shuffled(data, seed=1).take(0, 250)[0]) != whole
    n = data.counts[0]
    firsts = [whole[:30], whole[n : n + 30], numbers(shuffled(data, seed=1).take(0, 30)[0])]
    assert len({frozenset(first) for first in firsts}) == 3  # who is in it, not only the order
    rng = np.random.default_rng(0)
    order = shuffled(data)
    for start in (0, 3, 90, 91, 29, 200, 7, *rng.integers(0, 240, 10).tolist()):
        assert numbers(order.take(start, start + 10)[0]) == whole[start : start + 10]
    assert numbers(shuffled(data).take(203, 230)[0]) == whole[203:230]


def test_a_window_is_from_everywhere(data: Dataset) -> None:
    """Pictures of several files, in no order of theirs. Fails with: files read one by one."""
    first = numbers(shuffled(data, window=40).take(0, 40)[0])
    assert len({i * 4 // N for i in first}) >= 3  # of four files
    rises = sum(b == a + 1 for a, b in zip(first, first[1:], strict=False))
    assert rises < 8 and sum(b > a for a, b in zip(first, first[1:], strict=False)) < 30


def test_the_next_window_is_read_at_the_pace_of_this_one(data: Dataset) -> None:
    """Fails with: all of it at once, at the end."""
    order = shuffled(data, window=40)
    order.take(0, 1)
    assert not order._coming
    order.take(1, 20)
    assert len(order._coming) in (2, 3)  # of 5 or 6 blocks


@pytest.mark.parametrize("parquet", [False, True])
def test_processes_change_nothing(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch, parquet: bool
) -> None:
    """Fails with: blocks in the order in which they are done."""
    if parquet:
        pytest.importorskip("pyarrow.parquet")
        sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
        from test_streamed import write_parquet

        data = open_dataset(f"hf:{write_parquet(tmp_path / 'p' / 'a.parquet', group=7)}")
    alone, others = shuffled(data).take(0, 200), set(psutil.Process().children())
    monkeypatch.setattr("genzoo.data.stream.FEW", 1)
    order = shuffled(data)
    assert all(torch.equal(a, b) for a, b in zip(order.take(0, 200), alone, strict=True))
    begun = set(psutil.Process().children()) - others
    assert begun
    order.close()
    gone, alive = psutil.wait_procs(begun, timeout=10)
    assert not alive


def test_a_damaged_picture_is_told_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process, in one line. Fails with: a traceback in the message, a file left out."""
    from made_shards import samples, write_tar

    entries = samples(pictures(N))
    entries[100] = (entries[100][0], entries[100][1][:60])
    write_tar(tmp_path / "bad.tar", entries)
    monkeypatch.setattr("genzoo.data.streamed.KEPT", 20)
    monkeypatch.setattr("genzoo.data.stream.FEW", 1)
    order = shuffled(open_dataset(f"shards:{tmp_path}/bad.tar"))
    with pytest.raises(InputError, match=r"^000100.png in .*bad.tar: not a readable image") as e:
        order.take(0, N)
    assert "\n" not in str(e.value)


def test_minibatches_come_from_the_files(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsals and the first look take what is in memory. Fails with: a window read for them."""
    assert data.streams is not None
    batches = Minibatches(
        data.train, data.spec, 16, 0, torch.device("cpu"), stream=data.streams.train
    )
    monkeypatch.setattr(Shuffled, "_begin", lambda *_: pytest.fail("a file was read"))
    assert batches.any().x.shape == (16, 1, 8, 8) and len(batches.whole().x) == data.counts[0]
    monkeypatch.undo()
    a, b = batches[7], batches[7]
    assert torch.equal(a.x, b.x) and torch.equal(a.cond["label"], b.cond["label"])
    assert a.x.dtype == torch.float32 and -1 <= float(a.x.min()) and float(a.x.max()) <= 1


def test_ranks_share_the_minibatches_of_files(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each decodes its share alone, over window and epoch. Fails with: the whole minibatch,
    the same part of it for every rank, rows counted from the beginning of an epoch."""
    assert data.streams is not None
    cpu, stream = torch.device("cpu"), data.streams.train
    decoded: list[int] = []

    def counting(request: Any) -> Any:
        decoded.append(len(request.starts))
        return read_block(request)

    monkeypatch.setattr("genzoo.data.stream.read_block", counting)
    monkeypatch.setattr("genzoo.training.shuffling.WINDOW_ITEMS", 40)

    class One(Ranks):
        count = 2

        def __init__(self, rank: int) -> None:
            self.rank = rank

    whole = Minibatches(data.train, data.spec, 16, 0, cpu, stream=stream)
    parts = [Minibatches(data.train, data.spec, 16, 0, cpu, One(rank), stream) for rank in (0, 1)]
    for number in (0, 1, 2, 3, 9, 13):  # of 6 an epoch
        both = [part[number] for part in parts]
        assert torch.equal(torch.cat([batch.x for batch in both]), whole[number].x)
        labels = torch.cat([batch.cond["label"] for batch in both])
        assert torch.equal(labels, whole[number].cond["label"])
    assert [len(part.any().x) for part in parts] == [8, 8]
    decoded.clear()
    for number in range(40):
        parts[0][number]
    assert sum(decoded) < 40 * 8 + 2 * 40


# -- whole runs -----------------------------------------------------------------------------------


def train(path: Path, name: str, model: Any = Tiny, **options: Any) -> genzoo.Run:
    options = {"budget": "40steps", "samples": 20, "evaluate": False, **options}
    return genzoo.train(model, name, out=path, device="cpu", **options)


def test_a_run_sees_all_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: training on those that are kept in memory."""
    monkeypatch.setattr("genzoo.data.streamed.KEPT", 20)
    seen: set[int] = set()
    take = Shuffled.take

    def watched(self: Shuffled, start: int, stop: int) -> Any:
        found = take(self, start, stop)
        seen.update(numbers(found[0]))
        return found

    monkeypatch.setattr(Shuffled, "take", watched)
    run = train(tmp_path / "run", write_shards(tmp_path / "s", N), budget="6steps")
    assert run.status["images"] == 96 and len(seen) == 96


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """In the middle of an epoch, of a window and of a block; and other seeds see other orders."""
    name = write_shards(tmp_path / "s", N)
    straight = content(train(tmp_path / "straight", name))
    listener = Listener("training", 0.4, ctrl_c)
    from genzoo.training import fit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "SHOW_SECONDS", 0.0)
        with pytest.raises(Interrupted):
            train(tmp_path / "run", name, progress=listener)
    assert 0 < open_run(tmp_path / "run").status["step"] < 40
    run = train(tmp_path / "run", name, resume=True)
    assert content(run) == straight
    assert run.config["data"]["name"] == name
    assert content(train(tmp_path / "other", name, seed=1)) != straight


def test_a_run_does_not_go_on_with_other_pictures(tmp_path: Path) -> None:
    """Fails with: an identity by names or sizes."""
    name = write_shards(tmp_path / "s", N)
    train(tmp_path / "run", name)
    write_shards(tmp_path / "s", N, seed=5)
    with pytest.raises(InputError, match=r"begun with --data \(its content\)"):
        train(tmp_path / "run", name, resume=True)


KILLED = """
import os, signal, sys
import genzoo
from genzoo.data import stream, workers
from genzoo.training import fit, loop

name, out, number, how = sys.argv[1:5]
stream.BLOCK_ITEMS, stream.FEW = 8, 1
workers.AHEAD = 500  # so that a process that reads waits for someone to take what it has
fit.CHECKPOINT_SECONDS, fit.SHOW_SECONDS = 0.0, 0.0
left, step = int(number), loop.Trainer.step

def counted(self):
    global left
    left -= 1
    if not left and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if not left:  # as the end of a job on a cluster: to all processes
        os.killpg(os.getpgid(0), signal.SIGTERM)
    step(self)

loop.Trainer.step = counted
genzoo.train("vae", name, budget="40steps", out=out, resume=True, evaluate=False, samples=16,
             threads=1, device="cpu", settings={"width": "16", "batch_size": "16"})
"""


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Killed, then ended as a group, while processes read ahead; finished without any.

    Fails with: a position that is saved by the reader, processes that outlive their run, a run
    that fails because its processes were told to end.
    """
    name = write_shards(tmp_path / "s", N)
    small = {"width": "16", "batch_size": "16"}
    whole = {"settings": small, "samples": 16, "threads": 1}
    straight = content(train(tmp_path / "straight", name, "vae", **whole))
    out = tmp_path / "run"
    for number, how in (("17", "killed"), ("12", "ended")):
        # Into a file: a pipe would be open for as long as the processes that read.
        with open(tmp_path / "said", "w") as said:
            done = subprocess.run(
                [sys.executable, "-c", KILLED, name, str(out), number, how],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                stderr=said,
                timeout=120,
                start_new_session=True,
            )
        expected = -signal.SIGKILL if how == "killed" else 1
        assert done.returncode == expected, (tmp_path / "said").read_text()
    assert open_run(out).status["state"] == "interrupted"
    assert 20 <= open_run(out).status["step"] < 40
    assert content(train(out, name, "vae", resume=True, **whole)) == straight
    end = time.monotonic() + 20
    while readers := [p for p in psutil.process_iter() if name in " ".join(_words(p))]:
        assert time.monotonic() < end, readers
        time.sleep(0.2)


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
