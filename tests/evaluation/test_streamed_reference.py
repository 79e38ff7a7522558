"""Any number of pictures on either side: sums over all of them, the rest from those kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Genzoo
from made_shards import pictures, samples, write_shards, write_tar
from torch import Tensor

from genzoo.data import open_dataset, streamed
from genzoo.data.dataset import Dataset
from genzoo.errors import InputError
from genzoo.evaluation import evaluate, gather_samples, shards
from genzoo.evaluation.features import Extractor, Features
from genzoo.evaluation.moments import Moments
from genzoo.evaluation.reference import Reference
from genzoo.evaluation.result import FeatureInfo
from genzoo.evaluation.shards import gather, gather_stream, merge_all
from genzoo.evaluation.suite import open_reference
from genzoo.progress import Silent


@pytest.fixture(autouse=True)
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENZOO_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("GENZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("genzoo.data.stream.BLOCK_ITEMS", 8)
    monkeypatch.setattr(shards, "CHUNK", 20)


class Means(Extractor):
    """Means of rows, counted."""

    def __init__(self, digest: str = "abc") -> None:
        super().__init__(FeatureInfo("means", digest, 1.0, "train"), torch.device("cpu"))
        self.seen = 0

    def _extract(self, items: Tensor) -> Features:
        self.seen += len(items)
        means = items.double().mean(3).flatten(1)
        return Features(means, means[:, :3] / 20)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(streamed, "KEPT", 60)
    return open_dataset(write_shards(tmp_path / "s", 600))


def test_files_merged_are_all_at_once(data: Dataset) -> None:
    """Fails with: moments of the kept, of training pictures, a file counted twice."""
    assert data.streams is not None
    images, labels = (torch.from_numpy(part) for part in data.streams.test.whole())
    assert len(images) == 120
    whole = gather(images, labels, Means(), kept=50)
    found = gather_stream(data.streams.test, Means(), Silent(), kept=50)
    assert found.ranges == whole.ranges == ((0, 120),)
    assert torch.equal(found.keys, whole.keys) and torch.equal(found.items, whole.items)
    assert torch.equal(found.labels, whole.labels)
    torch.testing.assert_close(found.moments.mean, whole.moments.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.moments.scatter, whole.moments.scatter, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(found.probability, whole.probability, rtol=1e-12, atol=0)


def test_statistics_are_made_once(data: Dataset, tmp_path: Path) -> None:
    """And again where the file is damaged, the space another or the content another.

    Fails with: a file that is believed unseen, a key without content.
    """
    assert data.streams is not None
    first = Reference(data, means := Means(), tmp_path / "cache")
    moments = first.moments()
    assert means.seen == moments.count == 120
    features = first.test.features
    assert means.seen == 180 and len(features) == 60
    again = Reference(data, means := Means(), tmp_path / "cache")
    assert torch.equal(again.moments().scatter, moments.scatter)
    assert torch.equal(again.test.features, features) and means.seen == 0
    assert again.test.found.logits is not None
    (kept,) = (tmp_path / "cache" / "references").glob("*moments*")
    raw = bytearray(kept.read_bytes())
    raw[-3] ^= 1
    kept.write_bytes(raw)
    third = Reference(data, means := Means(), tmp_path / "cache")
    assert torch.equal(third.moments().scatter, moments.scatter) and means.seen == 120
    other = Reference(data, means := Means("other"), tmp_path / "cache")
    assert other.moments().count == means.seen == 120
    write_shards(tmp_path / "s", 600, seed=1)
    changed = Reference(open_dataset(data.name), means := Means(), tmp_path / "cache")
    assert not torch.equal(changed.moments().mean, moments.mean) and means.seen == 120


def test_shards_of_samples_are_scored(data: Dataset, tmp_path: Path) -> None:
    """As the same samples in memory; distances against all held-out pictures, not those kept.

    Fails with: moments of the kept, an order that changes who is kept.
    """
    assert data.streams is not None
    made = pictures(200, 3)
    folder = tmp_path / "made"
    for k in range(2):
        write_tar(folder / f"{k}.tar", samples(made[100 * k : 100 * k + 100], first=100 * k))
    result = evaluate(f"shards:{folder}", data, features="pixels")
    assert result.source == "gathered" and result.n == 60
    extractor = open_reference(data, features="pixels").extractor
    in_memory = torch.from_numpy(made)[:, None]
    parts = [gather(in_memory[a : a + 100], None, extractor, first=a) for a in (100, 0)]
    other = evaluate(merge_all(parts), data, features="pixels")
    assert result.metrics.keys() == other.metrics.keys()
    for name, score in result.metrics.items():
        theirs = other.metrics[name].value
        assert (score.value is None) == (theirs is None), name
        assert score.value == (theirs and pytest.approx(theirs, rel=1e-9)), name
    score = result.metrics["fd_all"]
    assert score.n == 200 and "all 200 samples against all 120 held-out items" in score.convention
    told = result.metrics["duplicates"].convention
    assert "60 of 480 training items: copies of the others are not found" in told
    images = torch.from_numpy(data.streams.test.whole()[0])
    real = Moments.of(extractor(images).features)
    from genzoo.evaluation.moments import frechet_of_moments

    expected = frechet_of_moments(Moments.of(extractor(in_memory).features), real)
    assert score.value == pytest.approx(float(expected), rel=1e-9)


def test_from_the_command_line(data: Dataset, tmp_path: Path, genzoo_says: Genzoo) -> None:
    """Fails with: a pattern taken for a file."""
    path = write_tar(tmp_path / "made.tar", samples(pictures(60, 3)))
    words = ("evaluate", f"shards:{path}", "--data", data.name, "--features", "pixels", "--json")
    said = genzoo_says(*words)
    assert said.code == 0 and '"fd_all"' in said.out, said.err
    said = genzoo_says("evaluate", f"shards:{tmp_path}/none-*.tar", "--data", data.name)
    assert said.code == 2 and said.err.count("\n") == 1 and "no file matches" in said.err


def test_parts_of_samples_as_shards(data: Dataset, tmp_path: Path) -> None:
    """Gathered with numbers of their own. Fails with: every part numbered from 0."""
    made = pictures(200, 3)
    names = []
    for k in range(2):
        path = write_tar(tmp_path / f"{k}.tar", samples(made[100 * k : 100 * k + 100]))
        names.append(f"shards:{path}")
    parts = [
        gather_samples(name, data, first=100 * k, features="pixels") for k, name in enumerate(names)
    ]
    assert merge_all(parts).ranges == ((0, 200),)


def test_samples_that_do_not_fit(data: Dataset, tmp_path: Path) -> None:
    """Fails with: samples cut to the data's size, labels by their order of appearance."""
    for made, message in (
        (samples(pictures(60, 1, 12)), "is 12x12, not 8x8"),
        (samples(pictures(60, 1, 8, 3)), "is in color, but the data are gray"),
        (samples(pictures(60), ["7"] * 60), "label '7' is none of the data's classes"),
    ):
        path = write_tar(tmp_path / "made.tar", made)
        with pytest.raises(InputError, match=message):
            evaluate(f"shards:{path}", data, features="pixels")
    with pytest.raises(InputError, match="do not say what they imitate|does not say what it"):
        evaluate(f"shards:{path}")
    with pytest.raises(InputError, match="holds square pictures"):
        evaluate(f"shards:{path}", "ring")
