"""The few claims that a report tests.

Only the metrics of the verdict are tested, one claim each ("the leader beats every other
contender"), so that the correction for many claims leaves power to the ones that matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from genzoo.evaluation.catalogue import METRICS, TARGETS, distance
from genzoo.evaluation.statistics import holm, paired_difference
from genzoo_reports.groups import Model, Summary

ALPHA = 0.05
TESTED = (
    "fd",
    "two_sample_1nn",
    "recall",
    "coverage",
    "modes_covered",
    "bits_per_dim",
    "nll_nats",
    "training_seconds",
    "samples_per_second",
)
RATIOS = frozenset({"training_seconds", "samples_per_second", "training_images_per_second"})
"""Compared as ratios (differences of logarithms): they span orders of magnitude."""
COUNTS = frozenset({"modes_covered"})


@dataclass(frozen=True)
class Claim:
    """That the leader of a metric beats every other contender.

    Attributes:
        leader: label of the model with the best mean.
        rival: the next best.
        gap: leader minus rival, or leader / rival for `RATIOS`; `low` and `high` bound it.
        p_value: the largest over the other contenders (an intersection-union test, which
            needs no correction within the metric); ``None`` where there is nothing to test.
        adjusted: `p_value` after Holm's correction over the claims of the report.
        tied: contenders that the leader is not shown to beat.
        seeds: number of shared seeds.
        likelihood: the label within which was ranked.
        note: why nothing was tested, empty otherwise.
    """

    metric: str
    leader: str
    rival: str
    gap: float
    low: float | None
    high: float | None
    p_value: float | None
    adjusted: float | None
    tied: tuple[str, ...]
    seeds: int
    likelihood: str | None
    note: str = ""

    @property
    def supported(self) -> bool:
        """Whether the report may call the leader the best."""
        return self.adjusted is not None and self.adjusted <= ALPHA


def check_claims(contenders: Sequence[Model], names: Sequence[str]) -> dict[str, Claim]:
    """The claims on those `names` that are tested, corrected for their number (Holm)."""
    drafts = {
        name: draft
        for name in TESTED
        if name in names and (draft := _draft(name, contenders)) is not None
    }
    p_values = {
        name: claim.p_value for name, (claim, _) in drafts.items() if claim.p_value is not None
    }
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        name: _corrected(claim, pairs, corrected.get(name))
        for name, (claim, pairs) in drafts.items()
    }


def eligible(name: str, contenders: Sequence[Model]) -> list[Model]:
    """Contenders that may win a metric, best first.

    Copiers win nothing but speed and likelihood; of likelihoods, only those of the most frequent
    label (exact, bound or estimate) are ranked against each other.
    """
    group = METRICS[name].group
    ready = [model for model in contenders if model.value(name) is not None]
    if group in ("fidelity", "diversity", "modes"):
        ready = [model for model in ready if not model.copies]
    if group == "likelihood":
        labels = [model.metrics[name].likelihood for model in ready]
        most = max(sorted(set(labels), key=str), key=labels.count) if labels else None
        ready = [model for model in ready if model.metrics[name].likelihood == most]
    return sorted(ready, key=lambda m: distance(METRICS[name].better, m.value(name) or 0.0))


def equal_cost(contenders: Sequence[Model], tolerance: float = 0.1) -> bool:
    """Whether all contenders trained for the same time, as under a budget of seconds."""
    times = [model.value("training_seconds") for model in contenders]
    known = [seconds for seconds in times if seconds is not None]
    return len(known) > 1 and max(known) <= (1 + tolerance) * min(known)


def _draft(name: str, contenders: Sequence[Model]) -> tuple[Claim, dict[str, float]] | None:
    """A claim before correction, and the p-values of its pairs."""
    ranked = eligible(name, contenders)
    if len(ranked) < 2 or (name == "training_seconds" and equal_cost(contenders)):
        return None
    leader, rival = ranked[0].metrics[name], ranked[1].metrics[name]
    ratio = name in RATIOS and all((model.value(name) or 0) > 0 for model in ranked)
    pairs: dict[str, float] = {}
    for other in ranked[1:]:
        p_value = pair(leader, other.metrics[name], ratio=ratio, raw=False)[1]
        if p_value is not None:
            pairs[other.label] = p_value
    gap, _, low, high, shared = pair(leader, rival, ratio=ratio, raw=True)
    complete = len(pairs) == len(ranked) - 1
    seeds = min(len(model.metrics[name].by_seed) for model in ranked)
    note = "" if complete else "one seed" if seeds == 1 else "fewer than two shared seeds"
    claim = Claim(
        metric=name,
        leader=ranked[0].label,
        rival=ranked[1].label,
        gap=gap,
        low=low,
        high=high,
        p_value=max(pairs.values()) if complete else None,
        adjusted=None,
        tied=(),
        seeds=shared,
        likelihood=leader.likelihood,
        note=note,
    )
    return claim, pairs


def pair(
    leader: Summary, other: Summary, *, ratio: bool, raw: bool
) -> tuple[float, float | None, float | None, float | None, int]:
    """(gap, p, low, high, shared seeds); `raw` keeps the metric's own scale for the gap."""
    shared = sorted(set(leader.by_seed) & set(other.by_seed))

    def scaled(value: float) -> float:
        if ratio:
            return math.log(value)
        return value if raw and leader.better not in TARGETS else distance(leader.better, value)

    plain = scaled(leader.mean or 0.0) - scaled(other.mean or 0.0)
    if not shared:
        return (math.exp(plain) if ratio else plain), None, None, None, 0
    ours = [scaled(leader.by_seed[seed]) for seed in shared]
    theirs = [scaled(other.by_seed[seed]) for seed in shared]
    found = paired_difference(ours, theirs)
    p_value = found.p_value
    gaps = [one - two for one, two in zip(ours, theirs, strict=True)]
    if p_value is not None and leader.name in COUNTS and max(gaps) == min(gaps):
        # Small counts often differ by the same number in every seed: that is no proof of a
        # variance of zero, so only the signs count.
        p_value = 1.0 if gaps[0] == 0 else 2.0 ** (1 - len(gaps))
    back = math.exp if ratio else float
    low = None if found.low is None else back(min(found.low, 700.0))
    high = None if found.high is None else back(min(found.high, 700.0))
    return back(found.mean), p_value, low, high, len(shared)


def _corrected(claim: Claim, pairs: Mapping[str, float], adjusted: float | None) -> Claim:
    if claim.p_value is None or adjusted is None:
        return claim
    # The pairs share the correction of their claim, so a refused claim names at least one.
    factor = adjusted / claim.p_value if claim.p_value else 1.0
    tied = tuple(label for label, p_value in pairs.items() if p_value * factor > ALPHA)
    return replace(claim, adjusted=adjusted, tied=tied)
