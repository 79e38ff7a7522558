"""Any number of samples, gathered part by part: in one pass, or in many processes and merged.

What is kept does not grow with the samples: sums that give the Fréchet distance and the
inception score of all of them exactly, and a fixed number of items for everything else. Which
items are kept depends on a hash of their number alone, so parts that were gathered apart and
merged hold the very items that one pass would have kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genzoo.data.pictures import Pixels
from genzoo.data.stream import Block, Stream
from genzoo.errors import InputError
from genzoo.evaluation.features import Extractor
from genzoo.evaluation.measured import Measured, NotApplicable
from genzoo.evaluation.moments import Moments, frechet_of_moments
from genzoo.evaluation.view import Items, View
from genzoo.files import atomic_path
from genzoo.progress import Progress
from genzoo.training.device import spare_cores

SCHEMA = 1
KEPT = 10_000
CHUNK = 4096


@dataclass(frozen=True)
class Gathered:
    """Samples that were seen, and what is kept of them.

    Attributes:
        features: hash of the feature space.
        ranges: numbers of the samples seen, ``(first, past the last)`` each, disjoint.
        moments: of the features of all samples.
        probability: Σ p(class | sample) over all samples, (K,) float64; empty without classes.
        entropy: Σ Σ p log p over all samples, in nats, (1,) float64.
        keys: of the items kept, ascending, (R,) int64.
        items: images uint8 0 … 255 (R, C, H, W), or points (R, D).
        labels: (R,) int64, or empty where there are none.
    """

    features: str
    ranges: tuple[tuple[int, int], ...]
    moments: Moments
    probability: Tensor
    entropy: Tensor
    keys: Tensor
    items: Tensor
    labels: Tensor

    @property
    def count(self) -> int:
        """Samples seen."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def inception_score(self) -> float | None:
        """Of all samples, from one split; ``None`` without classes."""
        if not len(self.probability):
            return None
        mean = self.probability / self.count
        marginal = float(torch.special.entr(mean).sum())
        return float(np.exp(marginal + float(self.entropy) / self.count))

    def merge(self, other: Gathered, kept: int = KEPT) -> Gathered:
        """Both parts as if they had been seen together.

        Raises:
            InputError: they are of different feature spaces or shapes, or share samples.
        """
        if self.features != other.features or self.items.shape[1:] != other.items.shape[1:]:
            raise InputError("parts of different feature spaces or shapes cannot be merged")
        for start, stop in self.ranges:
            for first, past in other.ranges:
                if start < past and first < stop:
                    raise InputError(
                        f"two parts hold sample {max(start, first)}: number the samples of each "
                        "part by --first"
                    )
        if len(self.labels) != len(self.keys) or len(other.labels) != len(other.keys):
            labels = self.labels[:0]
        else:
            labels = torch.cat([self.labels, other.labels])
        keys = torch.cat([self.keys, other.keys])
        order = keys.argsort(stable=True)[:kept]
        return Gathered(
            self.features,
            _joined([*self.ranges, *other.ranges]),
            self.moments.merge(other.moments),
            self.probability + other.probability,
            self.entropy + other.entropy,
            keys[order],
            torch.cat([self.items, other.items])[order],
            labels[order] if len(labels) else labels,
        )

    def write(self, path: Path) -> None:
        """Write a safetensors file; `read_gathered` reads it."""
        tensors = {
            **{f"moments.{name}": value for name, value in self.moments.to_tensors().items()},
            "probability": self.probability,
            "entropy": self.entropy,
            "keys": self.keys,
            "items": self.items.contiguous(),
            "labels": self.labels,
        }
        about = {"schema": SCHEMA, "features": self.features, "ranges": self.ranges}
        with atomic_path(path) as beside:
            save_file(tensors, beside, metadata={"genzoo": json.dumps(about)})


def gather(
    items: Tensor,
    labels: Tensor | None,
    extractor: Extractor,
    *,
    first: int = 0,
    kept: int = KEPT,
) -> Gathered:
    """See samples number `first`, `first` + 1, …, a chunk at a time.

    Args:
        items: images uint8 0 … 255 (N, C, H, W), or points (N, D); N of 1 or more.
        labels: (N,) int64, or ``None``.
        extractor: the feature space.
        first: number of the first one among all samples of the set.
        kept: how many items to keep at most.
    """
    seen: Gathered | None = None
    for start in range(0, len(items), CHUNK):
        part = slice(start, min(start + CHUNK, len(items)))
        own = None if labels is None else labels[part]
        found = _gather_chunk(items[part], own, extractor, first + start, kept)
        seen = found if seen is None else seen.merge(found, kept)
    assert seen is not None
    return seen


def gather_stream(
    stream: Stream,
    extractor: Extractor,
    progress: Progress,
    *,
    first: int = 0,
    kept: int = KEPT,
) -> Gathered:
    """All pictures of a stream: each file on its own, then merged.

    Args:
        stream: of one picture or more.
        extractor: the feature space.
        progress: told how far it is.
        first: number of the first picture among all samples of the set.
        kept: how many items to keep at most.
    """
    seen: Gathered | None = None
    total, begun = len(stream), first
    pictures = stream.read(stream.blocks, spare_cores(extractor.device))
    read = zip(stream.blocks, pictures, strict=True)
    for _, blocks in groupby(read, key=lambda pair: pair[0].shard):
        own: Gathered | None = None
        for items, labels in _chunks(stream, blocks):
            found = _gather_chunk(items, labels, extractor, first, kept)
            own = found if own is None else own.merge(found, kept)
            first += len(items)
            progress.update("pictures", (first - begun) / total, f"{first - begun:,}")
        assert own is not None
        seen = own if seen is None else seen.merge(own, kept)
    assert seen is not None
    return seen


def merge_all(parts: Sequence[Gathered]) -> Gathered:
    """All parts as one; in any order the same up to rounding of the sums."""
    whole, *others = sorted(parts, key=lambda part: part.ranges)
    for part in others:
        whole = whole.merge(part)
    return whole


def read_gathered(path: str | Path) -> Gathered:
    """Read what `Gathered.write` wrote.

    Raises:
        InputError: it is not such a file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["genzoo"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, not {SCHEMA}")
        moments = {k.removeprefix("moments."): v for k, v in tensors.items() if "." in k}
        return Gathered(
            str(about["features"]),
            tuple((int(a), int(b)) for a, b in about["ranges"]),
            Moments.from_tensors(moments),
            *(tensors[k] for k in ("probability", "entropy", "keys", "items", "labels")),
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file of gathered samples ({error})") from error


def whole(view: View) -> dict[str, Measured]:
    """Fréchet distance and inception score of all gathered samples, not only of those kept."""
    seen = view.gathered
    if seen is None:
        raise NotApplicable("the samples are in memory: fd and inception_score tell of them")
    real = view.once("moments of the held-out items", lambda _, test: _of_all(view, test))
    text = (
        f"all {seen.count:,} samples against all {real.count:,} held-out items, unbiased "
        "covariances; not comparable with fd, whose sides are equally many"
    )
    distance = frechet_of_moments(seen.moments, Moments(**_on_cpu(real)))
    found = {"fd_all": Measured(distance, n=seen.count, convention=text)}
    score = seen.inception_score
    if score is not None:
        found["inception_score_all"] = Measured(
            score, n=seen.count, convention=f"all {seen.count:,} samples, one split"
        )
    return found


def _of_all(view: View, test: Items) -> Moments:
    """Of all held-out items, whether in memory or not."""
    return Moments.of(test.features) if view.moments is None else view.moments()


def _on_cpu(moments: Moments) -> dict[str, Any]:
    return {
        "count": moments.count,
        "mean": moments.mean.cpu(),
        "scatter": moments.scatter.cpu(),
    }


def _chunks(
    stream: Stream, blocks: Iterable[tuple[Block, Pixels]]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Pictures and labels of blocks, about `CHUNK` at a time."""
    images: list[Pixels] = []
    labels: list[NDArray[np.int64]] = []

    def joined() -> tuple[Tensor, Tensor | None]:
        known = torch.from_numpy(np.concatenate(labels)) if labels else None
        return torch.from_numpy(np.concatenate(images)), known

    for block, pictures in blocks:
        images.append(pictures)
        own = stream.labels_of(block)
        if own is not None:
            labels.append(own)
        if sum(map(len, images)) >= CHUNK:
            yield joined()
            images, labels = [], []
    if images:
        yield joined()


def _gather_chunk(
    items: Tensor, labels: Tensor | None, extractor: Extractor, first: int, kept: int
) -> Gathered:
    found = extractor(items)
    probability = torch.empty(0, dtype=torch.float64)
    entropy = torch.zeros(1, dtype=torch.float64)
    if found.logits is not None:
        log_p = found.logits.double().log_softmax(1)
        probability = log_p.exp().sum(0).cpu()
        entropy = (log_p.exp() * log_p).sum().reshape(1).cpu()
    moments = Moments.of(found.features.cpu())
    keys = _keys(first, len(items))
    order = keys.argsort()[:kept]
    own = torch.empty(0, dtype=torch.int64) if labels is None else labels[order]
    ranges = ((first, first + len(items)),)
    return Gathered(
        extractor.info.hash, ranges, moments, probability, entropy, keys[order], items[order], own
    )


def _keys(first: int, n: int) -> Tensor:
    """A random-looking 63-bit number for each sample's number: SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(first + 1, first + n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(1)).astype(np.int64))


def _joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted, neighbours as one."""
    out: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((start, stop))
    return tuple(out)
