"""Runs that differ in nothing but their seed, averaged over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from genzoo.evaluation.catalogue import METRICS
from genzoo.evaluation.statistics import mean_interval
from genzoo.registry import MODELS
from genzoo_reports.collect import Metric, RunView, mapping, text
from genzoo_reports.wording import ALL_FAILED, NOT_EVALUATED, digits, percent, short_model

COPY_SHARE = 0.62
"""A train-NN share above this is copying: five null standard deviations at 800 samples, more
than one Gaussian per class reaches by being fitted to the training data."""
LEAN_SHARE = 0.56
"""Above this a model leans on its training data: beyond what chance does to the share."""
LEAK_SHARE = 0.44
DUPLICATE_SHARE = 0.01
"""More exact copies than this share of the samples is copying, whatever the data repeat."""
NEAR_DUPLICATE_SHARE = 0.05
"""Real data have 0.01 by definition; five times that is copying with a little noise."""


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
        caution: why the numbers deserve doubt, where an evaluation says so.
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
    caution: str | None = None

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

    @property
    def leans(self) -> bool:
        """Whether its samples lie nearer to the training data than chance explains."""
        return not self.copies and (self.value("train_nn_share") or 0.0) > LEAN_SHARE

    def value(self, name: str) -> float | None:
        """Mean of a metric, ``None`` where it was not evaluated."""
        summary = self.metrics.get(name)
        return None if summary is None else summary.mean


def group(runs: Iterable[RunView], names: Sequence[str]) -> list[Model]:
    """Models in the registry's order, with every metric of `names`."""
    groups: dict[tuple[str, ...], list[RunView]] = {}
    for view in runs:
        groups.setdefault(_identity(view), []).append(view)
    ordered = sorted(groups.values(), key=lambda views: _rank(views[0]))
    models: list[Model] = []
    for views, label in zip(ordered, _labels([v[0] for v in ordered]), strict=True):
        slot = -1 if views[0].control else sum(not model.control for model in models)
        models.append(_model(label, slot, views, names))
    return models


def _identity(view: RunView) -> tuple[str, ...]:
    settings = json.dumps(view.config.get("settings"), sort_keys=True, default=str)
    budget, conditional = view.config.get("budget"), view.config.get("conditional")
    return (view.model, settings, text(budget), str(conditional), str(view.run is None))


def _rank(view: RunView) -> tuple[int, str]:
    names = list(MODELS)
    return (names.index(view.model) if view.model in names else len(names), view.model)


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
        caution=next((metric.caution for _, metric in whole if metric.caution), None),
    )


def _why_absent(runs: Sequence[RunView]) -> str:
    if runs and all(run.failed for run in runs):
        return ALL_FAILED
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
