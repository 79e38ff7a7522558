"""Parts gathered apart and merged hold what one pass holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genzoo.data import open_dataset
from genzoo.errors import InputError
from genzoo.evaluation import evaluate, gather_samples
from genzoo.evaluation.features import Extractor, Features
from genzoo.evaluation.result import FeatureInfo
from genzoo.evaluation.shards import Gathered, gather, merge_all, read_gathered

CPU = torch.device("cpu")


class Classes(Extractor):
    """Points whose class scores are their own coordinates."""

    def __init__(self, digest: str = "abc") -> None:
        super().__init__(FeatureInfo("classes", digest, 1.0, "train"), CPU)

    def _extract(self, items: Tensor) -> Features:
        return Features(items.double(), items.double())


def points(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator)


def same(a: Gathered, b: Gathered) -> None:
    """Items to the last bit, sums up to rounding."""
    assert a.ranges == b.ranges and a.features == b.features
    assert torch.equal(a.keys, b.keys) and torch.equal(a.items, b.items)
    assert torch.equal(a.labels, b.labels)
    assert torch.allclose(a.moments.mean, b.moments.mean, atol=1e-12)
    assert torch.allclose(a.moments.scatter, b.moments.scatter, rtol=1e-10)
    assert torch.allclose(a.probability, b.probability) and torch.allclose(a.entropy, b.entropy)


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, 99), min_size=1, max_size=4), kept=st.integers(5, 120))
def test_merged_is_whole(cuts: set[int], kept: int) -> None:
    """However a set is cut and in whatever order the parts are merged.

    Fails with: keys from the place in the part, the last ones kept, sums of means.
    """
    x, labels = points(100), torch.arange(100) % 3
    edges = [0, *sorted(cuts), 100]
    whole = gather(x, labels, Classes(), kept=kept)
    parts = [
        gather(x[a:b], labels[a:b], Classes(), first=a, kept=kept)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    merged = parts[-1]
    for part in parts[:-1]:
        merged = part.merge(merged, kept)
    same(merged, whole)
    assert whole.count == 100 and len(whole.keys) == min(kept, 100)
    assert whole.ranges == ((0, 100),)


def test_the_kept_are_a_fair_draw() -> None:
    """Every tenth of a set is kept about equally often: 100 ± 4·√90 of 1,000.

    Fails with: the first ones kept, keys that grow with the number.
    """
    whole = gather(torch.arange(10_000.0)[:, None].expand(-1, 2), None, Classes(), kept=1000)
    counts = torch.bincount((whole.items[:, 0] / 1000).long(), minlength=10)
    assert ((counts - 100).abs() < 38).all()


def test_moments_and_scores_are_of_all() -> None:
    """Not of the kept ones alone. Fails with: moments of the kept, IS of the kept."""
    x = points(5000)
    seen = gather(x, None, Classes(), kept=10)
    assert seen.moments.count == 5000 and len(seen.items) == 10
    assert torch.allclose(seen.moments.covariance, x.double().T.cov(), rtol=1e-9)
    p = x.double().softmax(1)
    mean = p.mean(0)
    expected = (p * (p.log() - mean.log())).sum(1).mean().exp()
    assert seen.inception_score == pytest.approx(float(expected), rel=1e-9)


def test_written_and_read(tmp_path: Path) -> None:
    """Fails with: a tensor forgotten, ranges as text."""
    seen = gather(points(50), torch.arange(50), Classes(), first=7)
    seen.write(tmp_path / "a.safetensors")
    same(read_gathered(tmp_path / "a.safetensors"), seen)
    (tmp_path / "b.safetensors").write_bytes(b"not at all")
    with pytest.raises(InputError, match="not a file of gathered samples"):
        read_gathered(tmp_path / "b.safetensors")


def test_what_cannot_be_merged() -> None:
    """Fails with: samples counted twice, spaces mixed."""
    a = gather(points(50), None, Classes())
    with pytest.raises(InputError, match="two parts hold sample 49"):
        a.merge(gather(points(5), None, Classes(), first=49))
    with pytest.raises(InputError, match="different feature spaces"):
        a.merge(gather(points(5), None, Classes("xyz"), first=50))


def test_evaluated_as_one_set() -> None:
    """Parts of points, merged and scored: the distance of all samples is there, and bias-free.

    Fails with: fd_all of the kept items, the gathered items in the order of their keys' parts.
    """
    data = open_dataset("grid")
    parts = [gather_samples(data.train.data[a : a + 5000], data, first=a) for a in (5000, 0)]
    result = evaluate(merge_all(parts), data, n=300)
    assert result.source == "gathered" and result.n == 300
    whole = result.metrics["fd_all"]
    assert whole.n == 10_000 and whole.value is not None
    # Two dimensions, one law: the bias of 10,000 and 5,000 items is below 0.001.
    assert 0 <= whole.value < 0.003
    assert "fd_all" not in evaluate(data.train.data[:100], data).metrics
