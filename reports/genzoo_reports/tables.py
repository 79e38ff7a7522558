"""Runs averaged over seeds, and the few claims that the report tests.

Only the metrics of the verdict are tested, one claim each ("the leader beats every other
contender"), so that the correction for many claims leaves power to the ones that matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.evaluation.catalogue import METRICS
from genzoo.evaluation.statistics import holm, mean_interval, paired_difference
from genzoo.registry import MODELS
from genzoo_reports.collect import Collection, Metric, RunView, collect, mapping, text

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
COPY_SHARE = 0.56
"""A train-NN share above this is copying: three null standard deviations at 1,000 samples."""
LEAK_SHARE = 0.44
DUPLICATE_SHARE = 0.01
"""More exact copies than this share of the samples is copying, whatever the data repeat."""
NEAR_DUPLICATE_SHARE = 0.05
"""Real data have 0.01 by definition; five times that is copying with a little noise."""
NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class Summary:
    """One metric of one model over its seeds.

    Attributes:
        mean: ``None`` where no run has a value; `reason` then says why.
        low: lower end of Student's 95 % interval over seeds, ``None`` for one seed.
        high: its upper end.
        by_seed: the values.
        floor: what real held-out data score, averaged over runs.
        within: (low, high) over the sampling of the only run, where its evaluation states it.
    """

    name: str
    mean: float | None
    low: float | None
    high: float | None
    by_seed: Mapping[int, float]
    floor: float | None
    better: str
    likelihood: str | None
    reason: str | None
    within: tuple[float, float] | None = None

    @property
    def half_width(self) -> float | None:
        """Of the interval over seeds."""
        return None if self.high is None or self.mean is None else self.high - self.mean


@dataclass(frozen=True)
class Model:
    """The runs that differ in nothing but their seed.

    Attributes:
        label: unique in the report.
        slot: number of its colour and marker; -1 for controls.
        runs: all of them, failed ones too.
        metrics: every metric that any run of the report has.
        copies: why it counts as a copier of its training data, empty if it does not.
    """

    label: str
    family: str
    control: bool
    slot: int
    runs: tuple[RunView, ...]
    metrics: Mapping[str, Summary]
    copies: str

    @property
    def whole(self) -> tuple[RunView, ...]:
        """The runs that ended well."""
        return tuple(run for run in self.runs if not run.failed)

    def value(self, name: str) -> float | None:
        """Mean of a metric, ``None`` where it was not evaluated."""
        summary = self.metrics.get(name)
        return None if summary is None else summary.mean


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


@dataclass(frozen=True)
class Table:
    """What the report is written from.

    Attributes:
        contenders: models that can win.
        controls: baselines that cannot.
        metrics: names of the columns, in the catalogue's order.
        floors: what real held-out data score.
        claims: by metric.
        incomparable: why a metric must not be ranked, by metric.
    """

    collection: Collection
    contenders: tuple[Model, ...]
    controls: tuple[Model, ...]
    metrics: tuple[str, ...]
    floors: Mapping[str, float]
    claims: Mapping[str, Claim]
    incomparable: Mapping[str, str]

    @property
    def models(self) -> tuple[Model, ...]:
        """Contenders, then controls."""
        return self.contenders + self.controls

    def model(self, label: str) -> Model:
        """The model of a label."""
        return next(model for model in self.models if model.label == label)


def build_table(collection: Collection, *, controls: bool = True) -> Table:
    """Group runs by model, average over seeds, and test the claims."""
    groups: dict[tuple[str, ...], list[RunView]] = {}
    for view in collection.runs:
        if controls or not view.control:
            groups.setdefault(_identity(view), []).append(view)
    present = {name for view in collection.runs for name in view.metrics}
    names = [name for name in METRICS if name in present]
    names += sorted(name for name in present if name not in METRICS)
    order = sorted(groups, key=lambda key: _rank(groups[key][0]))
    labels = _labels([groups[key][0] for key in order])
    models: list[Model] = []
    for key, label in zip(order, labels, strict=True):
        slot = -1 if groups[key][0].control else sum(not m.control for m in models)
        models.append(_model(label, slot, groups[key], names))
    contenders = tuple(model for model in models if not model.control)
    incomparable = _incomparable([run for model in models for run in model.whole], names)
    return Table(
        collection=collection,
        contenders=contenders,
        controls=tuple(model for model in models if model.control),
        metrics=tuple(names),
        floors=_floors(models, names),
        claims=_claims(contenders, names, incomparable),
        incomparable=incomparable,
    )


def distance(better: str, value: float) -> float:
    """How far from good a value is; smaller is better for every metric.

    >>> distance("0.5", 0.75), distance("higher", 3.0)
    (0.25, -3.0)
    """
    if better == "0.5":
        return abs(value - 0.5)
    return -value if better == "higher" else value


def _identity(view: RunView) -> tuple[str, ...]:
    settings = json.dumps(view.config.get("settings"), sort_keys=True, default=str)
    budget, conditional = view.config.get("budget"), view.config.get("conditional")
    return (view.model, settings, text(budget), str(conditional), str(view.run is None))


def _rank(view: RunView) -> tuple[int, str]:
    names = list(MODELS)
    return (names.index(view.model) if view.model in names else len(names), view.model)


def short_model(name: str) -> str:
    """``path/to/file.py:Net`` as ``Net (file.py)``; other names as they are."""
    path, separator, cls = name.rpartition(".py:")
    return f"{cls} ({Path(path).name}.py)" if separator else name


def _labels(firsts: Sequence[RunView]) -> list[str]:
    """A unique label per group: the model's name, and what sets it apart where needed."""
    labels: list[str] = []
    for view in firsts:
        rivals = [other for other in firsts if other.model == view.model and other is not view]
        label = short_model(view.model)
        if rivals:
            apart = _what_differs(view, rivals)
            label = f"{label} ({apart})" if apart else label
        number = 2
        unique = label
        while unique in labels:
            unique, number = f"{label} #{number}", number + 1
        labels.append(unique)
    return labels


def _what_differs(view: RunView, rivals: Iterable[RunView]) -> str:
    def facts(run: RunView) -> dict[str, str]:
        shown = {key: text(value, 40) for key, value in mapping(run.config.get("settings")).items()}
        shown["budget"] = text(run.config.get("budget"), 40)
        shown["conditional"] = text(run.config.get("conditional"), 40)
        shown["samples of"] = "" if run.run else "elsewhere"
        return shown

    own, others = facts(view), [facts(rival) for rival in rivals]
    differing = [k for k in own if any(own[k] != other.get(k, "") for other in others) and own[k]]
    return ", ".join(own[k] if k == "budget" else f"{k} {own[k]}" for k in differing[:3])


def _model(label: str, slot: int, runs: Sequence[RunView], names: Sequence[str]) -> Model:
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    entry = MODELS.get(ordered[0].model)
    family = entry.family if entry else text(ordered[0].config.get("family"), 80) or "own"
    metrics = {name: summarize(name, ordered) for name in names}
    return Model(
        label=label,
        family=family,
        control=ordered[0].control,
        slot=slot,
        runs=ordered,
        metrics=metrics,
        copies=_copies(metrics, ordered),
    )


def summarize(name: str, runs: Sequence[RunView]) -> Summary:
    """One metric over the runs of a model; runs with the same seed count once."""
    found: list[tuple[int, Metric]] = [
        (run.seed, run.metrics[name]) for run in runs if name in run.metrics
    ]
    whole = [(seed, metric) for seed, metric in found if metric.value is not None]
    values: dict[int, list[float]] = {}
    for seed, metric in whole:
        if metric.value is not None:
            values.setdefault(seed, []).append(metric.value)
    by_seed = {seed: math.fsum(several) / len(several) for seed, several in values.items()}
    mean, low, high = mean_interval(list(by_seed.values())) if by_seed else (None, None, None)
    reasons = [metric.reason for _, metric in found if metric.reason]
    floors = [metric.floor for _, metric in found if metric.floor is not None]
    only = whole[0][1] if len(whole) == 1 else None
    known = METRICS.get(name)
    return Summary(
        name=name,
        mean=mean,
        low=low,
        high=high,
        by_seed=by_seed,
        floor=math.fsum(floors) / len(floors) if floors else None,
        better=known.better if known else found[0][1].better if found else "none",
        likelihood=next((m.likelihood for _, m in whole if m.likelihood), None),
        reason=None if by_seed else (reasons[0] if reasons else _why_absent(runs)),
        within=(only.low, only.high)
        if only and only.low is not None and only.high is not None
        else None,
    )


def _why_absent(runs: Sequence[RunView]) -> str:
    if runs and all(run.failed for run in runs):
        return "all of its runs failed"
    return NOT_EVALUATED


def _copies(metrics: Mapping[str, Summary], runs: Sequence[RunView]) -> str:
    """The evidence that a model copies, as a clause; empty if there is none."""
    share, exact = metrics.get("train_nn_share"), metrics.get("duplicates")
    near = metrics.get("near_duplicates")
    if share and share.mean is not None and share.mean > COPY_SHARE:
        return (
            f"{percent(share.mean)} of its samples lie nearer to a training item than to held-out "
            "data, where 50 % would be fair"
        )
    drawn = [run.metrics["duplicates"].n for run in runs if "duplicates" in run.metrics]
    if exact and exact.mean is not None and drawn and drawn[0]:
        floor = exact.floor or 0.0
        if exact.mean > floor + DUPLICATE_SHARE * drawn[0]:
            return f"{exact.mean:,.0f} of {drawn[0]:,} samples equal a real item exactly"
    if near and near.mean is not None and near.mean > NEAR_DUPLICATE_SHARE + (near.floor or 0.0):
        return f"{percent(near.mean)} of its samples are near duplicates of real items"
    return ""


def _floors(models: Sequence[Model], names: Sequence[str]) -> dict[str, float]:
    floors = {}
    for name in names:
        found = [m.metrics[name].floor for m in models if m.metrics[name].floor is not None]
        if found:
            floors[name] = math.fsum(f for f in found if f is not None) / len(found)
    return floors


def _incomparable(runs: Sequence[RunView], names: Sequence[str]) -> dict[str, str]:
    """Metrics that were measured in different spaces or with different numbers of samples."""
    refused = {}
    for name in names:
        known = METRICS.get(name)
        if known and known.group in ("cost", "likelihood"):
            continue
        metrics = [r.metrics[name] for r in runs if name in r.metrics]
        metrics = [metric for metric in metrics if metric.value is not None]
        spaces = {text((metric.features or {}).get("hash"), 80) for metric in metrics}
        counts = {metric.n for metric in metrics}
        if len(spaces) > 1:
            refused[name] = "measured with different feature extractors"
        elif len(counts) > 1:
            listed = " and ".join(sorted("unknown" if n is None else f"{n:,}" for n in counts))
            refused[name] = f"measured with different numbers of samples ({listed})"
    return refused


def _claims(
    contenders: Sequence[Model], names: Sequence[str], incomparable: Mapping[str, str]
) -> dict[str, Claim]:
    drafts: dict[str, tuple[Claim, dict[str, float]]] = {}
    for name in TESTED:
        if name in names and name not in incomparable:
            draft = _draft(name, contenders)
            if draft:
                drafts[name] = draft
    tested = [name for name, (claim, _) in drafts.items() if claim.p_value is not None]
    adjusted = holm([drafts[name][0].p_value or 0.0 for name in tested]) if tested else []
    corrected = dict(zip(tested, adjusted, strict=True))
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


def _draft(name: str, contenders: Sequence[Model]) -> tuple[Claim, dict[str, float]] | None:
    """A claim before correction, and the p-values of its pairs."""
    ranked = eligible(name, contenders)
    if len(ranked) < 2 or (name == "training_seconds" and equal_cost(contenders)):
        return None
    leader, rival = ranked[0].metrics[name], ranked[1].metrics[name]
    ratio = name in RATIOS and all((model.value(name) or 0) > 0 for model in ranked)
    pairs: dict[str, float] = {}
    for other in ranked[1:]:
        p_value = _pair(leader, other.metrics[name], ratio=ratio, raw=False)[1]
        if p_value is not None:
            pairs[other.label] = p_value
    gap, _, low, high, shared = _pair(leader, rival, ratio=ratio, raw=True)
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


def _pair(
    leader: Summary, other: Summary, *, ratio: bool, raw: bool
) -> tuple[float, float | None, float | None, float | None, int]:
    """(gap, p, low, high, shared seeds); `raw` keeps the metric's own scale for the gap."""
    shared = sorted(set(leader.by_seed) & set(other.by_seed))

    def scaled(value: float) -> float:
        if ratio:
            return math.log(value)
        return value if raw and leader.better != "0.5" else distance(leader.better, value)

    plain = scaled(leader.mean or 0.0) - scaled(other.mean or 0.0)
    if not shared:
        return (math.exp(plain) if ratio else plain), None, None, None, 0
    found = paired_difference(
        [scaled(leader.by_seed[seed]) for seed in shared],
        [scaled(other.by_seed[seed]) for seed in shared],
    )
    back = math.exp if ratio else float
    low = None if found.low is None else back(min(found.low, 700.0))
    high = None if found.high is None else back(min(found.high, 700.0))
    return back(found.mean), found.p_value, low, high, len(shared)


def _corrected(claim: Claim, pairs: Mapping[str, float], adjusted: float | None) -> Claim:
    if claim.p_value is None or adjusted is None:
        return claim
    # The pairs share the correction of their claim, so a refused claim names at least one.
    factor = adjusted / claim.p_value if claim.p_value else 1.0
    tied = tuple(label for label, p_value in pairs.items() if p_value * factor > ALPHA)
    values = {**claim.__dict__, "adjusted": adjusted, "tied": tied}
    return Claim(**values)


def equal_cost(contenders: Sequence[Model], tolerance: float = 0.1) -> bool:
    """Whether all contenders trained for the same time, as under a budget of seconds."""
    times = [model.value("training_seconds") for model in contenders]
    known = [seconds for seconds in times if seconds is not None]
    return len(known) > 1 and max(known) <= (1 + tolerance) * min(known)


def digits(value: float, metric: str = "") -> str:
    """A number as a person would write it.

    >>> digits(0.12345), digits(52341.7), digits(12.04, "training_seconds")
    ('0.123', '52,342', '12.0')
    """
    if metric in ("parameters", "nfe", "duplicates") and value == round(value):
        return f"{value:,.0f}"
    size = abs(value)
    if size >= 1e7 or 0 < size < 5e-4:
        return f"{value:.2e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.904)
    '90 %'
    """
    return f"{100 * share:.0f} %"


def with_spread(summary: Summary) -> tuple[str, str]:
    """Mean and half-width of the interval over seeds, both to the same decimals."""
    if summary.mean is None:
        return NOT_EVALUATED, ""
    mean = digits(summary.mean, summary.name)
    half = summary.half_width
    if not half:  # one seed, or a count that is the same in every run
        return mean, ""
    places = len(mean.partition(".")[2]) if "e" not in mean else -1
    return mean, f"{half:.1e}" if places < 0 else f"{half:,.{places}f}"


def summary_rows(
    runs: Sequence[Path] | Table, metrics: Sequence[str] | None = None
) -> dict[str, Any]:
    """The scorecard as plain texts, for a terminal.

    Args:
        runs: folders as for `genzoo_reports.render.write_report`, or a table already built.
        metrics: columns; by default those of the verdict that were evaluated.

    Returns:
        ``{"metrics": [name…], "header": ["model", title…], "rows": [[…]], "floor": […] | None,
        "controls": [[…]], "failed": [(run, reason)…], "best": {metric: label}}``; cells are
        ``0.123 ± 0.004``, ``–`` where nothing was evaluated; the arrow in a title points to good.
    """
    table = runs if isinstance(runs, Table) else build_table(collect(runs))
    default = [*TESTED[:5], "train_nn_share", "duplicates", *TESTED[5:]]
    names = [m for m in (metrics or default) if m in table.metrics]

    def row(model: Model) -> list[str]:
        cells = []
        for name in names:
            mean, half = with_spread(model.metrics[name])
            missing = model.metrics[name].mean is None
            cells.append("–" if missing else f"{mean} ± {half}" if half else mean)
        return [model.label, *cells]

    floor = [digits(table.floors[n], n) if n in table.floors else "–" for n in names]
    return {
        "metrics": names,
        "header": ["model", *(f"{title(name)} {arrow(name)}".strip() for name in names)],
        "rows": [row(model) for model in table.contenders],
        "floor": ["real vs real", *floor] if any(n in table.floors for n in names) else None,
        "controls": [row(model) for model in table.controls],
        "failed": failures(table),
        "best": {n: claim.leader for n, claim in table.claims.items() if claim.supported},
    }


def title(name: str) -> str:
    """Heading of a metric."""
    return METRICS[name].title if name in METRICS else name


def arrow(name: str) -> str:
    """Which way is good."""
    better = METRICS[name].better if name in METRICS else "none"
    return {"lower": "↓", "higher": "↑", "0.5": "→ ½"}.get(better, "")


def failures(table: Table) -> list[tuple[str, str]]:
    """(model and seed, reason) of every run that is not whole, and of folders left out."""
    failed = [
        (f"{model.label}, seed {run.seed}", run.problem or "")
        for model in table.models
        for run in model.runs
        if run.failed
    ]
    return failed + list(table.collection.left_out)
