"""Does a model invent, or does it remember?

Three questions about each sample. Is it nearer to training than to held-out data? Is it
nearer to a real item than real items are to each other? Does it lie within the reach of a
training item? Each answer is set against what held-out data answer in the samples' place.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy import stats
from scipy.special import gammaln
from torch import Tensor

from genzoo.evaluation.authenticity import Reaches, closest, measure_authenticity, remeasure
from genzoo.evaluation.measured import Measured, Refused
from genzoo.evaluation.neighbours import Neighbours, distance_blocks
from genzoo.evaluation.overfitting import c_t, fld_gap
from genzoo.evaluation.result import Nearest
from genzoo.evaluation.statistics import LEVEL, Interval, wilson
from genzoo.evaluation.view import Items, View

__all__ = ["c_t", "duplicates", "fld_gap", "nearest_panel", "neighbours"]

NEAR_QUANTILE = 0.01
NEAR_QUERIES = 2000
# Of real items below which the first percentile rests on a handful of them.
NEAR_FEW = 1000
# Held-out items that calibrate authenticity.
HELD_OUT = 5000
FEW = 50
# Ranks that a subset may have to look through; what lies beyond is spread over these.
DEPTH = 256


class Attribution(NamedTuple):
    """Where samples lie relative to training and held-out items.

    Attributes:
        share: probability that the nearest neighbour is a training item, (N,).
        train_distance: squared distance to the nearest training item, (N,) float64.
        train_index: that item, (N,).
        test_distance: squared distance to the nearest held-out item, (N,) float64.
        test_index: that item, (N,).
        to_train: the two nearest training items, (N, 2).
        train_weight: of how many samples each training item is expected to be the nearest, (n,).
        test_weight: the same of held-out items, (m,).
    """

    share: Tensor
    train_distance: Tensor
    train_index: Tensor
    test_distance: Tensor
    test_index: Tensor
    to_train: Neighbours
    train_weight: Tensor
    test_weight: Tensor


def attribute(samples: Tensor, train: Tensor, test: Tensor) -> Attribution:
    """Nearest neighbours among train and test as if both were equally large.

    The larger side is averaged over all of its subsets of the smaller side's size m, in
    closed form: with r of n items nearer than the other side's nearest one, a subset holds
    one of them with probability 1 - C(n-r, m) / C(n, m). Ties count one half.

    Args:
        samples: (N, D).
        train: (n, D).
        test: (m, D).
    """
    turned = len(train) < len(test)
    larger, smaller = (test, train) if turned else (train, test)
    to_smaller = closest(samples, smaller, 2)
    ranked = _rank(samples, larger, to_smaller.distance[:, 0], len(smaller))
    rest = torch.zeros(len(smaller), dtype=torch.float64, device=samples.device)
    rest.index_add_(0, to_smaller.row[:, 0], 1 - ranked.share)
    share = 1 - ranked.share if turned else ranked.share
    weights = (rest, ranked.weight) if turned else (ranked.weight, rest)
    to_train, to_test = (to_smaller, ranked.top) if turned else (ranked.top, to_smaller)
    return Attribution(
        share,
        to_train.distance[:, 0],
        to_train.row[:, 0],
        to_test.distance[:, 0],
        to_test.row[:, 0],
        to_train,
        *weights,
    )


def train_nn_share(found: Attribution, *, interval: bool = True) -> Measured:
    """Mean share; exactly ½ if samples, training and held-out items have one law.

    A real item decides for all samples that it is the nearest of, w of the N, so that it adds
    (w (L - share))² to the variance, L being 1 for training and 0 for held-out items, less
    what is owed to the fixed numbers of both: a combined ratio estimate in two strata. Under
    the null this is the exact variance over all ways to part real data in two.
    """
    value, n = float(found.share.mean()), len(found.share)
    if not interval:
        return Measured(value, n=n)
    train, test = found.train_weight / n, found.test_weight / n
    moved = torch.cat([(1 - value) * _centred(train), value * _centred(test)])
    total, sampling = float(moved.square().sum()), float(found.share.var(correction=0)) / n
    if total > 0 and 0 < value < 1:
        # Few items may hold most of the samples: then the variance is itself uncertain.
        degrees = 2 * total**2 / float(moved.pow(4).sum())
        bounds = _share_interval(value, value * (1 - value) / total, degrees)
    else:
        bounds = wilson(value, float(1 / torch.cat([train, test]).square().sum()))
    rest = math.sqrt(max(0.0, total - sampling))
    return Measured(value, bounds, math.sqrt(sampling), rest, n)


class NearThreshold(NamedTuple):
    """Squared distance below which 1 % of real items have another one, and its uncertainty.

    Attributes:
        value: the first percentile.
        low: what it might be in other real data, one standard error below.
        high: one above.
        asked: how many real items were asked.
    """

    value: float
    low: float
    high: float
    asked: int


def near_threshold(train: Tensor, test: Tensor, queries: int = NEAR_QUERIES) -> NearThreshold:
    """Squared distance below which only 1 % of real items have another real item.

    Two items that are each other's nearest have one distance, so that the quantile's order
    has up to twice the variance of a binomial.

    Args:
        train: (n, D).
        test: (m, D).
        queries: at most so many real items are asked, chosen by a fixed seed.
    """
    everything = torch.cat([train, test])
    chosen = np.random.default_rng(0).permutation(len(everything))[:queries]
    rows = torch.from_numpy(chosen).to(everything.device)
    distance = closest(everything[rows], everything, 1, own=rows).distance[:, 0].cpu().numpy()
    q, n = NEAR_QUANTILE, len(distance)
    spread = math.sqrt(2 * q * (1 - q) / n)
    value, low = (np.quantile(distance, max(0, x), method="lower") for x in (q, q - spread))
    high = np.quantile(distance, min(1, q + spread), method="higher")
    return NearThreshold(float(value), float(low), float(high), n)


def near_duplicate_share(found: Attribution, threshold: NearThreshold) -> Measured:
    """Share of samples nearer to a real item than the threshold; exact copies always are."""
    distance = torch.minimum(found.train_distance, found.test_distance)

    def share(limit: float) -> float:
        return float(((distance < limit) | (distance == 0)).double().mean())

    value, n = share(threshold.value), len(distance)
    sampling = value * (1 - value) / n
    calibration = ((share(threshold.high) - share(threshold.low)) / 2) ** 2
    effective = n * sampling / (sampling + calibration) if sampling > 0 else n
    return Measured(
        value,
        wilson(value, effective),
        math.sqrt(sampling),
        math.sqrt(calibration),
        n,
        caution=f"the percentile rests on {threshold.asked} real items"
        if threshold.asked < NEAR_FEW
        else None,
    )


def count_duplicates(samples: Tensor, *references: Tensor) -> int:
    """How many samples equal an item of any reference, bit for bit."""
    return _count_known(samples, set().union(*(_digests(x) for x in references)))


def plant(samples: Tensor, copies: Tensor, share: float, seed: int) -> Tensor:
    """Samples of which a share, at random places, are replaced by copies.

    Args:
        samples: (N, …).
        copies: (M, …) items to copy, each at most once as long as there are enough.
        share: of the samples, 0 … 1.
        seed: of places and copies.
    """
    random = np.random.default_rng(seed)
    count = round(share * len(samples))
    places = torch.from_numpy(random.permutation(len(samples))[:count])
    turns = [random.permutation(len(copies)) for _ in range(math.ceil(count / len(copies)))]
    out = samples.clone()
    if count:
        out[places] = copies[torch.from_numpy(np.concatenate(turns)[:count])].to(out.dtype)
    return out


# -- of a view ------------------------------------------------------------------------------


def neighbours(view: View) -> dict[str, Measured | Refused]:
    """train_nn_share, near_duplicates and authenticity of the pool, in pixels or coordinates."""
    found = _attribution(view)
    few = f"only {len(view.some)} samples" if len(view.some) < FEW else None
    share = train_nn_share(found, interval=view.intervals)
    sizes = f"{len(view.train)} training and {len(view.test)} held-out items"
    kind = "95 % interval over samples and real items"
    text = (
        f"{view.space}; exact expectation over equal-sized subsets of {sizes}, ties count half; "
        f"two-sided: copies of held-out data score 0; {kind}: Wilson, clustered by nearest item"
    )
    threshold = view.once("near duplicates", lambda a, b: near_threshold(a.pixels, b.pixels))
    near = near_duplicate_share(found, threshold)
    limit = threshold.value
    to_train, to_test = (
        int(((d < limit) | (d == 0)).sum()) for d in (found.train_distance, found.test_distance)
    )
    near_text = (
        f"{view.space}; below the 1st percentile of distances between nearest real items, in "
        f"float64, among {sizes}: {to_train} near training, {to_test} near held-out data; "
        f"{kind} and the percentile: Wilson"
    )
    return {
        "train_nn_share": share._replace(convention=text, floor=0.5, caution=few),
        "near_duplicates": near._replace(
            interval=near.interval if view.intervals else None,
            convention=near_text,
            caution=few or near.caution,
        ),
        "authenticity": _authenticity(view, found, few),
    }


def duplicates(view: View) -> dict[str, Measured | Refused]:
    """How many of the pool equal a training item, and how many a held-out one."""
    reference = view.reference or (view.train, view.test)

    def known(name: str, items: Items, whole: Items) -> set[bytes]:
        # Floors hold out halves: these are not the set that all views share.
        if items is not whole:
            return _digests(items.raw)
        return view.once(f"digests of {name}", lambda *_: _digests(items.raw))

    def count(name: str, words: str, items: Items, whole: Items) -> Measured:
        number = _count_known(view.pool.raw, known(name, items, whole))
        text = f"samples that equal one of {len(items)} {words} items, bit for bit"
        return Measured(float(number), n=len(view.pool), convention=text)

    held_out = count("test", "held-out", view.test, reference[1])
    try:
        view.need_train()
    except Refused as unknown:
        return {"duplicates": unknown, "test_duplicates": held_out}
    known_items = count("train", "training", view.train, reference[0])
    return {"duplicates": known_items, "test_duplicates": held_out}


def nearest_panel(view: View, count: int = 10) -> Nearest:
    """The samples nearest to the training data: rows of the pool, and of the training items."""
    found = _attribution(view)
    first = found.train_distance.argsort(stable=True)[:count]
    return Nearest(tuple(first.tolist()), tuple(found.train_index[first].tolist()))


def _attribution(view: View) -> Attribution:
    """Of the pool, found once for the metrics and the panel."""
    view.need_train()
    kept = _known.get(view.some)
    if kept is not None and kept[0] is view.train and kept[1] is view.test:
        return kept[2]
    for items, words in (
        (view.some, "samples"),
        (view.train, "training items"),
        (view.test, "held-out items"),
    ):
        if len(items) < 2:
            raise Refused(f"only {len(items)} {words}; at least 2 are needed")
    found = attribute(view.some.pixels, view.train.pixels, view.test.pixels)
    _known[view.some] = (view.train, view.test, found)
    return found


# Samples, by identity, with the training and held-out items that they were measured against.
_known: WeakKeyDictionary[Items, tuple[Items, Items, Attribution]] = WeakKeyDictionary()


def _authenticity(view: View, found: Attribution, few: str | None) -> Measured | Refused:
    """Against the same training items as at most `HELD_OUT` held-out ones."""
    whole = view.reference[0] if view.reference else view.train
    if view.train is whole:
        reaches: Reaches = view.once("reaches", lambda train, _: Reaches(train.pixels))
    else:
        reaches = Reaches(view.train.pixels)
    held_out = view.test.first(HELD_OUT)
    try:
        others = closest(held_out.pixels, view.train.pixels, 2)
        result = measure_authenticity(found.to_train, others, reaches)
    except Refused as refusal:
        return refusal
    text = (
        f"{view.space}; {result.raw:.3f} of {len(view.some)} samples over {result.held_out:.3f} "
        f"of {len(held_out)} held-out items, against the same {len(view.train)} training items, "
        "so that sizes need not be equal; distance >= counts as authentic, an exact copy never; "
        "95 % interval over samples and real items: noise-corrected jackknife"
    )
    measured = result.measured
    interval = measured.interval if view.intervals else None
    return measured._replace(interval=interval, convention=text, floor=1.0, caution=few)


# -- parts ----------------------------------------------------------------------------------


class _Ranked(NamedTuple):
    share: Tensor
    weight: Tensor
    top: Neighbours


def _rank(samples: Tensor, larger: Tensor, bar: Tensor, m: int) -> _Ranked:
    """Chance that m random items of `larger` hold one nearer than `bar`; ties count half.

    Also how many samples each item is expected to be the nearest of: the item of rank k is it
    in C(n-k, m-1) of the C(n, m) subsets.
    """
    n = len(larger)
    chance = _chance_table(n, m).to(samples.device)
    first = chance.diff()
    depth = min(n, DEPTH, int((first.cumsum(0) < 1 - 1e-6).sum()) + 1)
    depth = max(depth, min(2, n))
    tolerance = _rounding(samples, larger)
    weight = torch.zeros(n, dtype=torch.float64, device=samples.device)
    shares, rows = [], []
    for block, d in distance_blocks(samples, larger):
        limit = bar[block, None].to(d.dtype)
        nearer, within = (d < limit - tolerance).sum(1), (d <= limit + tolerance).sum(1)
        share = (chance[nearer] + chance[within]) / 2
        top = d.topk(depth, dim=1, largest=False)
        part = first[:depth] * (top.values <= limit + tolerance)
        part = part * (share / part.sum(1).clamp(min=1e-300))[:, None]
        weight.index_add_(0, top.indices.flatten(), part.flatten())
        shares.append(share)
        rows.append(top.indices[:, :2])
    top2 = remeasure(samples, larger, torch.cat(rows))
    return _Ranked(torch.cat(shares), weight, top2)


def _chance_table(n: int, m: int) -> Tensor:
    """1 - C(n-r, m) / C(n, m) for r = 0 … n: that m of n items include one of r special ones."""
    rest = n - np.arange(n + 1.0)
    possible = rest >= m
    rest = np.where(possible, rest, m)
    log_none = gammaln(rest + 1) - gammaln(rest - m + 1) - gammaln(n + 1) + gammaln(n - m + 1)
    chance = np.where(possible, -np.expm1(log_none), 1.0)
    chance[0] = 0.0  # a certainty is not rounded
    return torch.from_numpy(chance)


def _rounding(a: Tensor, b: Tensor) -> float:
    """How far equal squared distances may differ by the way they were summed."""
    scale = max(float(x.square().sum(1).max()) for x in (a, b))
    return 8 * float(torch.finfo(a.dtype).eps) * scale


def _centred(weight: Tensor) -> Tensor:
    """Deviations from the mean, whose squares sum to the variance of the sum."""
    n = len(weight)
    return (weight - weight.mean()) * math.sqrt(n / max(1, n - 1))


def _share_interval(share: float, effective: float, degrees: float) -> Interval:
    """Wilson's interval at Student's quantile."""
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, max(3.0, degrees)))
    return wilson(share, effective, 2 * float(stats.norm.cdf(quantile)) - 1)


def _digests(x: Tensor) -> set[bytes]:
    return set(_rows(x))


def _count_known(x: Tensor, known: set[bytes]) -> int:
    return sum(digest in known for digest in _rows(x))


def _rows(x: Tensor) -> Iterator[bytes]:
    """A digest of each item; points of any precision are equal if their numbers are."""
    values = x.flatten(1).cpu()
    values = values if values.dtype == torch.uint8 else values.double() + 0.0  # -0 is 0
    for row in np.ascontiguousarray(values.numpy()):
        yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()
