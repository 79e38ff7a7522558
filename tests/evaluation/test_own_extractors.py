"""A feature space of the user's: used as it is, and refused in one line where it will not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_views import uint8

from genzoo.data import Dataset
from genzoo.errors import InputError
from genzoo.evaluation.features import open_extractor
from genzoo.progress import Silent

CPU = torch.device("cpu")
SILENT = Silent()


OWN = """
import torch
class Mean:
    def __call__(self, images):
        assert images.dtype == torch.uint8
        return images.float().mean((2, 3))
class Network(torch.nn.Module):
    chunk = 5
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 6)
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, images):
        assert len(images) <= 5
        return self.drop(self.layer(images.flatten(1).float()))
class Random:
    def __call__(self, images): return torch.rand(len(images), 3)
class Shape:
    def __call__(self, images): return torch.zeros(3)
class Lists:
    def __call__(self, images): return [[0.0]] * len(images)
class NotFinite:
    def __call__(self, images): return torch.full((len(images), 2), float("nan"))
class Fails:
    def __call__(self, images): raise KeyError("oops")
class Arguments:
    def __init__(self, width): pass
class Nothing: pass
class Zero:
    chunk = 0
    def __call__(self, images): return torch.zeros(len(images), 2)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_own_class(own: Path, digits: Dataset, tmp_path: Path) -> None:
    """A plain class in a file. Fails with: images as floats, the name lost."""
    found = open_extractor(digits, tmp_path, CPU, SILENT, f"{own}:Mean")
    z = found(uint8(digits)).features
    assert torch.allclose(z, uint8(digits).double().mean((2, 3)), atol=1e-4)
    assert found.info.name == f"{own}:Mean" and found.info.dim == 1
    assert found.info.split == "none" and found.info.accuracy is None


def test_own_network(
    own: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module from the path: in evaluation mode, in its chunks, with repeatable weights.

    Fails with: dropout active, `chunk` ignored, no seed while it is built.
    """
    monkeypatch.syspath_prepend(str(own.parent))
    before = torch.get_rng_state()
    first = open_extractor(digits, tmp_path, CPU, SILENT, "own:Network")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    second = open_extractor(digits, tmp_path, CPU, SILENT, "own:Network")
    images = uint8(digits)[:12]
    assert first.info == second.info
    assert torch.equal(first(images).features, second(images).features)


def test_own_hash_follows_what_it_computes(own: Path, digits: Dataset, tmp_path: Path) -> None:
    """Another file, or other weights, are another space; another place is not.

    Fails with: hash of the name, of the path, or of the file without the weights.
    """

    def digest(path: Path, name: str) -> str:
        return open_extractor(digits, tmp_path, CPU, SILENT, f"{path}:{name}").info.hash

    first = digest(own, "Mean")
    assert digest(own, "Network") != first
    copy = tmp_path / "copy.py"
    copy.write_text(OWN)
    assert digest(copy, "Mean") == first
    copy.write_text(OWN + "\n# changed\n")
    assert digest(copy, "Mean") != first
    file = tmp_path / "weights.py"
    file.write_text(
        "import torch\nclass Held:\n    def __init__(self):\n"
        f"        self.w = torch.load({str(tmp_path / 'w.pt')!r})\n"
        "    def __call__(self, images): return images.flatten(1).float() @ self.w\n"
    )
    torch.save(torch.ones(64, 2), tmp_path / "w.pt")
    ones = digest(file, "Held")
    torch.save(torch.full((64, 2), 2.0), tmp_path / "w.pt")
    assert digest(file, "Held") != ones


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Random", "the second time"),
        ("Shape", "must answer 4 images"),
        ("Lists", "not list"),
        ("NotFinite", "not finite"),
        ("Fails", "oops"),
        ("Arguments", r"must be built as Arguments\(\)"),
        ("Nothing", "no __call__"),
        ("Zero", "at least 1"),
        ("Meen", "did you mean 'Mean'"),
    ],
)
def test_own_class_that_will_not_do(
    name: str, words: str, own: Path, digits: Dataset, tmp_path: Path
) -> None:
    """Each fault is one line that names the class. Fails with: a traceback, or no check."""
    with pytest.raises(InputError, match=words):
        open_extractor(digits, tmp_path, CPU, SILENT, f"{own}:{name}")


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere_at_all:Mean", "cannot be imported"), ("missing.py:Mean", "there is no file")],
)
def test_own_module_that_is_not_there(
    name: str, words: str, digits: Dataset, tmp_path: Path
) -> None:
    """Fails with: `ModuleNotFoundError`, `FileNotFoundError`."""
    with pytest.raises(InputError, match=words):
        open_extractor(digits, tmp_path, CPU, SILENT, name)
