from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import Fitted, Tiny, tiny_data

import genzoo
from genzoo.errors import InputError
from genzoo.sampling import draw
from genzoo.types import SampleOptions


def train(path: Path, **options: Any) -> genzoo.Run:
    options = {"budget": "3steps", "samples": 4, "evaluate": False, "device": "cpu", **options}
    return genzoo.train(
        options.pop("model", Tiny), options.pop("data", tiny_data()), out=path, **options
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("sampling") / "run").path


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("blind") / "run", conditional=False).path


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("points") / "run", data="ring").path


def test_a_sample_depends_on_seed_and_index_alone(run: Path) -> None:
    many = genzoo.sample(run, 40, seed=3)
    few = genzoo.sample(run, 7, seed=3, batch_size=2)
    assert many.images is not None and few.images is not None
    assert many.labels is not None and few.labels is not None
    assert np.array_equal(many.labels[:7], few.labels)
    assert np.abs(many.images[:7].astype(int) - few.images).max() <= 64  # a level, at most
    assert (many.images[:7] == few.images).mean() > 0.99
    other = genzoo.sample(run, 7, seed=4)
    assert not np.array_equal(few.images, other.images)


def test_labels_take_turns(run: Path) -> None:
    for labels in ("1,0,1", [1, 0, 1]):
        samples = genzoo.sample(run, 5, labels=labels)
        assert samples.labels is not None and samples.labels.tolist() == [1, 0, 1, 1, 0]


def test_steps_change_samples_and_their_cost() -> None:
    model = Tiny(tiny_data().spec)
    one = draw(model, 6, seed=0, options=SampleOptions(steps=1), batch_size=4)
    five = draw(model, 6, seed=0, options=SampleOptions(steps=5), batch_size=4)
    assert (one.nfe, five.nfe) == (1, 5)
    assert not torch.equal(one.raw, five.raw)
    assert one.seconds > 0 and len(one.raw) == 6
    assert draw(Fitted(tiny_data().spec), 3, seed=0).nfe == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": "2"}, "--labels 2: labels are 0 to 1, 2 is not"),
        ({"labels": [-1]}, "--labels -1"),
        ({"labels": "a,b"}, "--labels a,b: write whole numbers"),
        ({"labels": []}, "none is given"),
        ({"n": 0}, "--n 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"seed": -1}, "--seed -1"),
        ({"steps": 0}, "--steps 0"),
        ({"guidance": -1.0}, "--guidance -1"),
        ({"device": "cuda:42"}, "device 'cuda:42' is not there"),
        ({"out": "picture.jpg"}, "picture.jpg: must end in .png or .npz"),
    ],
)
def test_wrong_wishes_are_refused(run: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        genzoo.sample(run, **wrong)


def test_a_model_without_labels_has_none_to_give(blind: Path) -> None:
    assert genzoo.sample(blind, 3).labels is None
    with pytest.raises(InputError, match="trained without labels"):
        genzoo.sample(blind, 3, labels="1")


def test_samples_are_written_as_asked(run: Path, tmp_path: Path) -> None:
    samples = genzoo.sample(run, 5, out=tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as file:
        assert np.array_equal(file["images"], samples.images)
        assert np.array_equal(file["labels"], samples.labels)
    genzoo.sample(run, 5, out=tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size[0] > 8
    genzoo.sample(run, 5, labels="0,1", out=tmp_path / "folder")
    assert {p.parent.name for p in (tmp_path / "folder").rglob("*.png")} == {"dark", "bright"}
    assert len(list((tmp_path / "folder").rglob("*.png"))) == 5
    with pytest.raises(InputError, match="not an empty folder"):
        genzoo.sample(run, 5, out=tmp_path / "folder")


def test_points_come_in_their_own_units(points: Path, tmp_path: Path) -> None:
    samples = genzoo.sample(points, 5, out=tmp_path / "p.npz")
    assert samples.points is not None and samples.points.shape == (5, 2)
    with pytest.raises(InputError, match="points cannot be a folder of images"):
        genzoo.sample(points, 5, out=tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
