"""Each wrong call beside the nearest right one: one line that helps, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Genzoo, Said
from made_shards import pictures, samples, write_tar
from PIL import Image

import genzoo

QUICK = "--budget 1steps --samples 20 --no-evaluate"


@dataclass(frozen=True)
class Case:
    """A wrong command line, the nearest right one, and what the error must say.

    ``{name}`` stands for a path of the fixture `place`; ``{new}`` for one that does not exist.
    """

    wrong: str
    right: str
    says: tuple[str, ...]
    code: int = 2


TRAIN = "train --model noise --out {new} " + QUICK
CASES = {
    # names
    "command": Case("modles", "models", ("'modles'", "did you mean 'models'?")),
    "model": Case(
        "train --model nois --out {new} " + QUICK, TRAIN, ("'nois'", "did you mean 'noise'?")
    ),
    "model file": Case(
        "train --model missing.py:Mine --out {new} " + QUICK,
        TRAIN,
        ("there is no file 'missing.py'",),
    ),
    "model in file": Case(
        "train --model {mine}:Mien --out {new} " + QUICK,
        "train --model {mine}:Mine --out {new} " + QUICK,
        ("'Mien'", "did you mean 'Mine'?"),
    ),
    "models of a comparison": Case(
        "compare --models noise,vea --controls none --seeds 1 --budget 1steps --out {new}",
        "compare --models noise --controls none --seeds 1 --budget 1steps --data ring --out {new}",
        ("'vea'", "did you mean 'vae'?"),
    ),
    "dataset": Case(TRAIN + " --data digist", TRAIN, ("'digist'", "did you mean 'digits'?")),
    "option": Case(
        TRAIN + " --sede 3", TRAIN + " --seed 3", ("'--sede'", "did you mean '--seed'?")
    ),
    "setting": Case(
        "train --model gmm --set component=3 --out {new} " + QUICK,
        "train --model gmm --set components=3 --out {new} " + QUICK,
        ("'component'", "did you mean 'components'?"),
    ),
    "setting's value": Case(
        "train --model gmm --set components=many --out {new} " + QUICK,
        "train --model gmm --set components=3 --out {new} " + QUICK,
        ("components=many", "whole number"),
    ),
    "setting without value": Case(
        "train --model gmm --set components --out {new} " + QUICK,
        "train --model gmm --set components=3 --out {new} " + QUICK,
        ("'components'", "KEY=VALUE"),
    ),
    # numbers
    "no budget": Case(TRAIN.replace("1steps", "0s"), TRAIN, ("'0s'", "more than nothing")),
    "negative budget": Case(TRAIN.replace("1steps", "-5s"), TRAIN, ("'-5s'", "60s")),
    "budget in words": Case(TRAIN.replace("1steps", "abc"), TRAIN, ("'abc'", "60s")),
    "negative seed": Case(TRAIN + " --seed -1", TRAIN + " --seed 1", ("--seed", "-1")),
    "no samples": Case(
        "sample {run} -n 0 -o {new}.npz", "sample {run} -n 1 -o {new}.npz", ("'-n'", "0")
    ),
    "steps": Case(
        "sample {run} -n 2 --steps 0 -o {new}.npz",
        "sample {run} -n 2 --steps 1 -o {new}.npz",
        ("--steps 0",),
    ),
    "labels": Case(
        "sample {run} -n 2 --labels 3,x -o {new}.npz",
        "sample {run} -n 2 --labels 3,7 -o {new}.npz",
        ("'3,x'", "3,7"),
    ),
    "labels that are not there": Case(
        "sample {run} -n 2 --labels 3,10 -o {new}.npz",
        "sample {run} -n 2 --labels 3,9 -o {new}.npz",
        ("10",),
    ),
    "kind of file": Case(
        "sample {run} -n 2 -o {new}.jpeg", "sample {run} -n 2 -o {new}.png", (".jpeg", ".png")
    ),
    "size": Case(
        "data folder:{images} --size 30", "data folder:{images} --size 32", ("30", "multiple of 4")
    ),
    # runs
    "missing run": Case("sample {new} -o x.png", "sample {run} -n 1 -o {new}.png", ("{new}",)),
    "half-written run": Case(
        "sample {half} -o x.png", "sample {run} -n 1 -o {new}.png", ("{half}", "status.json")
    ),
    "cut configuration": Case(
        "sample {cut} -o x.png", "sample {run} -n 1 -o {new}.png", ("{cut}", "config.json")
    ),
    "other schema": Case(
        "report {future} --out {new}.html", "report {run} --out {new}.html", ("{future}", "99")
    ),
    "tampered weights": Case(
        "sample {tampered} -o x.png",
        "sample {run} -n 1 -o {new}.png",
        ("{tampered}", "model.safetensors"),
    ),
    "run that is not trained": Case(
        "sample {untrained} -o x.png", "sample {run} -n 1 -o {new}.png", ("{untrained}", "--resume")
    ),
    "report of no run": Case(
        "report {images} --out {new}.html", "report {run} --out {new}.html", ("{images}",)
    ),
    "folder in use": Case(
        "train --model gaussian --out {run} " + QUICK,
        "train --model gaussian --resume --out {run} " + QUICK,
        ("{run}", "--resume"),
    ),
    # samples
    "no data for samples": Case(
        "evaluate {npz}", "evaluate {npz} --data digits", ("{npz}", "--data")
    ),
    "missing samples": Case(
        "evaluate {new}.npz --data digits", "evaluate {npz} --data digits", ("{new}.npz",)
    ),
    **{
        f"samples: {name}": Case(
            f"evaluate {{{name}}} --data digits",
            "evaluate {npz} --data digits",
            (f"{name.removesuffix('_npz')}.npz", *says),
        )
        for name, says in {
            "shape_npz": ("8",),
            "range_npz": ("300",),
            "dtype_npz": ("float",),
            "objects_npz": ("object",),
            "empty_npz": ("images",),
            "cut_npz": (),
            "labels_npz": ("labels",),
        }.items()
    },
    "points with NaN": Case(
        "evaluate {nan_npz} --data ring", "evaluate {points_npz} --data ring", ("{nan_npz}", "nan")
    ),
    # images
    "corrupt image": Case(
        "data folder:{corrupt}", "data folder:{images}", ("{corrupt}", "broken.png")
    ),
    "empty image": Case("data folder:{hollow}", "data folder:{images}", ("{hollow}", "empty.png")),
    "no image": Case("data folder:{nothing}", "data folder:{images}", ("{nothing}",)),
    "one image": Case("data folder:{single}", "data folder:{images}", ("{single}",)),
    "missing folder": Case("data folder:{new}", "data folder:{images}", ("{new}",)),
    "shards that are not there": Case(
        "data shards:{new}/*.tar", "data shards:{shards}/*.tar", ("{new}/*.tar", "quotes")
    ),
    "shards without their name": Case(
        "data {shards}/0.tar", "data shards:{shards}/0.tar", ("shards:{shards}/0.tar",)
    ),
    "shards cut off": Case(
        "data shards:{shards}/cut", "data shards:{shards}/0.tar", ("{shards}/cut", "cut off")
    ),
    "size of shards": Case(
        "data shards:{shards}/0.tar --size 30",
        "data shards:{shards}/0.tar --size 32",
        ("30", "multiple of 4"),
    ),
    "folder without its name": Case("data {images}", "data folder:{images}", ("folder:{images}",)),
    # machine
    "device": Case(TRAIN + " --device cuda:99", TRAIN + " --device cpu", ("cuda:99", "cpu")),
    "device in words": Case(TRAIN + " --device gpu", TRAIN + " --device cpu", ("'gpu'", "cpu")),
    "permission": Case(
        "train --model noise --out {forbidden} " + QUICK, TRAIN, ("{forbidden}", "permi")
    ),
    "page's permission": Case(
        "report {run} --out {forbidden}.html", "report {run} --out {new}.html", ("{forbidden}",)
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Everything that the cases name."""
    root = tmp_path_factory.mktemp("bad")
    paths = {**_runs(root), **_samples(root), **_folders(root), "shards": root / "shards"}
    whole = write_tar(paths["shards"] / "0.tar", samples(pictures(60))).read_bytes()
    (paths["shards"] / "cut").write_bytes(whole[:5000])
    paths["mine"] = root / "mine.py"
    paths["mine"].write_text(
        "import genzoo\n"
        "class Mine(genzoo.GenerativeModel):\n"
        "    def loss(self, batch, phase, state):\n"
        "        raise RuntimeError('never trained here')\n"
        "    def draw(self, noise, cond, options):\n"
        "        return noise.normal(*self.spec.shape)\n"
    )
    locked = root / "locked"
    locked.mkdir(mode=0o500)
    # Permissions do not bind root, but the kernel's own file system does.
    bound = os.geteuid() != 0
    paths["forbidden"] = (locked if bound else Path("/sys")) / "genzoo-test"
    yield paths
    locked.chmod(0o700)


def _runs(root: Path) -> dict[str, Path]:
    names = ("run", "half", "cut", "future", "tampered", "untrained")
    paths = {name: root / name for name in names}
    run = genzoo.train("gaussian", budget="1steps", samples=20, evaluate=False, out=paths["run"])
    assert run.finished
    for name in names[1:]:
        shutil.copytree(paths["run"], paths[name])
    (paths["half"] / "status.json").unlink()
    config = paths["cut"] / "config.json"
    config.write_text(config.read_text()[:100])
    _edit(paths["future"] / "config.json", schema=99)
    with open(paths["tampered"] / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    _edit(paths["untrained"] / "status.json", state="interrupted", model_sha256=None, progress=0.4)
    return paths


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _samples(root: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    good = rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    points = rng.normal(size=(60, 2)).astype(np.float32)
    objects = np.array([{"a": 1}] * 60, dtype=object)
    arrays: dict[str, dict[str, Any]] = {
        "npz": {"images": good},
        "points_npz": {"points": points},
        "shape_npz": {"images": good[:, :7, :7]},
        "range_npz": {"images": np.full((60, 8, 8, 1), 300, dtype=np.int32)},
        "dtype_npz": {"images": good / 255},
        "objects_npz": {"images": objects},
        "empty_npz": {"pictures": good},
        "labels_npz": {"images": good, "labels": np.zeros(59, dtype=np.int64)},
        "nan_npz": {"points": np.where(np.arange(60)[:, None] == 7, np.nan, points)},
        "cut_npz": {"images": good},
    }
    paths = {}
    for name, content in arrays.items():
        paths[name] = root / f"{name.removesuffix('_npz')}.npz"
        np.savez(paths[name], **content)
    cut = paths["cut_npz"]
    cut.write_bytes(cut.read_bytes()[:1000])
    return paths


def _folders(root: Path) -> dict[str, Path]:
    paths = {name: root / name for name in ("images", "corrupt", "hollow", "nothing", "single")}
    rng = np.random.default_rng(1)
    for name, count in {
        "images": 60,
        "corrupt": 60,
        "hollow": 60,
        "nothing": 0,
        "single": 1,
    }.items():
        paths[name].mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(paths[name] / f"{i}.png")
    whole = (paths["images"] / "0.png").read_bytes()
    (paths["corrupt"] / "broken.png").write_bytes(whole[:40] + b"?" * 9)
    (paths["hollow"] / "empty.png").write_bytes(b"")
    return paths


def fill(text: str, place: dict[str, Path], new: Path) -> str:
    return text.format(new=new, **place)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_one_line(said: Said, code: int) -> str:
    """The line of a refused call."""
    assert said.code == code, said.err
    assert said.out == ""
    assert said.err.startswith("genzoo: error: ")
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    assert "internal error" not in said.err
    return said.err


@pytest.mark.parametrize("name", CASES)
def test_wrong_beside_right(
    name: str, place: dict[str, Path], tmp_path: Path, genzoo_says: Genzoo
) -> None:
    case = CASES[name]
    before = snapshot(place["run"])
    line = check_one_line(
        genzoo_says(*fill(case.wrong, place, tmp_path / "wrong").split()), case.code
    )
    for text in case.says:
        assert fill(text, place, tmp_path / "wrong") in line
    assert list(tmp_path.iterdir()) == [], "a refused call left something behind"
    assert snapshot(place["run"]) == before, "a refused call changed a run"

    right = fill(case.right, place, tmp_path / "right")
    if right not in _RIGHT:
        said = genzoo_says(*right.split(), "-q")
        assert said.code == 0, said.err
        if str(tmp_path) not in right:
            _RIGHT.add(right)


_RIGHT: set[str] = set()  # right calls that read only, and need not be made twice


def test_no_network_for_a_download(
    tmp_path: Path, genzoo_says: Genzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    said = genzoo_says("data", "kmnist", "--data-root", tmp_path)
    line = check_one_line(said, said.code)
    assert said.code in (2, 4)
    assert "kmnist" in line
    assert "--data-root" in line
    assert genzoo_says("data", "digits", "--data-root", tmp_path).code == 0


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: the kernel refuses as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", [".npz", ".png", "/"])
def test_a_full_disk_while_sampling(
    kind: str, place: dict[str, Path], tmp_path: Path, genzoo_says: Genzoo
) -> None:
    out = f"{tmp_path / 'out'}{kind}"
    before = snapshot(place["run"])
    with small_disk(64):
        said = genzoo_says("sample", place["run"], "-n", "64", "-o", out)
    line = check_one_line(said, 4)
    assert str(tmp_path / "out") in line
    assert list(tmp_path.iterdir()) == [], "half a file was left"
    assert snapshot(place["run"]) == before
    assert genzoo_says("sample", place["run"], "-n", "64", "-o", out).code == 0


def test_a_full_disk_while_training(
    place: dict[str, Path], tmp_path: Path, genzoo_says: Genzoo
) -> None:
    out = tmp_path / "run"
    words = ("train", "--model", "gaussian", *QUICK.split(), "--out", out)
    with small_disk(8000):  # enough for the configuration, not for the weights
        said = genzoo_says(*words, "-q")
    check_one_line(said, 4)
    # The same command goes on when there is space again.
    said = genzoo_says(*words, "--resume", "-q")
    assert said.code == 0, said.err
    assert genzoo.open_run(out).finished


def test_a_full_disk_while_writing_scores(
    place: dict[str, Path], tmp_path: Path, genzoo_says: Genzoo
) -> None:
    out = tmp_path / "scores.json"
    out.write_text("what was there")
    with small_disk(64):
        said = genzoo_says("evaluate", place["npz"], "--data", "digits", "-o", out, "-q")
    check_one_line(said, 4)
    assert out.read_text() == "what was there"


def test_a_picklable_trap_is_never_opened(
    place: dict[str, Path], tmp_path: Path, genzoo_says: Genzoo
) -> None:
    trap = np.array([_Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "trap.npz", images=trap)
    check_one_line(genzoo_says("evaluate", tmp_path / "trap.npz", "--data", "digits"), 2)
    assert not (tmp_path / "sprung").exists()
    np.load(tmp_path / "trap.npz", allow_pickle=True)["images"]
    assert (tmp_path / "sprung").exists(), "the trap itself does not work"


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_run_of_a_file_is_not_executed_unasked(
    place: dict[str, Path],
    tmp_path: Path,
    genzoo_says: Genzoo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"{place['mine']}:Mine"
    words = ("train", "--model", name, *QUICK.split(), "--out", tmp_path / "run", "-q")
    assert genzoo_says(*words).code == 0
    # As a new process, which has not been given the file yet.
    monkeypatch.setattr(genzoo.training.loading, "_named_files", set())

    draw = ("sample", tmp_path / "run", "-n", "2", "-o")
    line = check_one_line(genzoo_says(*draw, tmp_path / "a.npz"), 2)
    assert "--trust" in line
    assert "--model" in line
    assert genzoo_says(*draw, tmp_path / "b.npz", "--trust").code == 0
    assert genzoo_says(*draw, tmp_path / "c.npz", "--model", name).code == 0
