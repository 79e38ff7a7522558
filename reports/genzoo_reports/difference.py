"""What changed between two comparisons: scores of the same models, and how they were made."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from genzoo.evaluation.catalogue import METRICS, distance
from genzoo.evaluation.statistics import holm
from genzoo_reports import method
from genzoo_reports.claims import ALPHA, RATIOS, TESTED, pair
from genzoo_reports.collect import collect
from genzoo_reports.forms import plain
from genzoo_reports.groups import Model, Summary, with_spread
from genzoo_reports.tables import Table, build_table, failures
from genzoo_reports.wording import arrow, digits, join, title

SCHEMA = 1
SAME_COST = 0.1
"""Times of training that differ by less were the same budget, about which there is no question."""
Outcome = Literal["better", "worse", "no difference shown", "one seed: not tested", "not tested"]


@dataclass(frozen=True)
class Change:
    """One metric of one model, before and after.

    Attributes:
        gap: new minus old, or new / old for speeds and times; `low` and `high` bound it.
        p_value: of a paired test over shared seeds, for the metrics of the verdict.
        adjusted: after Holm's correction over all tests of the difference.
    """

    model: str
    metric: str
    old: Summary
    new: Summary
    gap: float
    low: float | None
    high: float | None
    p_value: float | None
    adjusted: float | None = None

    @property
    def tested(self) -> bool:
        """Whether a claim is about it: only then the number of seeds was enough, too."""
        return self.adjusted is not None

    @property
    def outcome(self) -> Outcome:
        """In words."""
        if self.adjusted is None:
            single = min(len(self.old.by_seed), len(self.new.by_seed)) < 2
            return "one seed: not tested" if single else "not tested"
        if self.adjusted > ALPHA:
            return "no difference shown"
        before, after = (distance(self.old.better, s.mean or 0.0) for s in (self.old, self.new))
        return "better" if after < before else "worse"


@dataclass(frozen=True)
class Difference:
    """Two comparisons on the same data, judged alike.

    Attributes:
        changes: of the models in both, metric by metric.
        added: models of the new one alone.
        removed: models of the old one alone.
        circumstances: (what, old, new) of everything else that differs.
        failed: (which comparison, run, reason).
    """

    changes: tuple[Change, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    circumstances: tuple[tuple[str, str, str], ...]
    failed: tuple[tuple[str, str, str], ...]


def difference(old: Path | str, new: Path | str) -> Difference:
    """Compare two comparisons (or runs), model by model.

    Args:
        old: a comparison folder, run folder or file of ``genzoo evaluate --json``.
        new: another.

    Raises:
        InputError: one cannot be read, or they are of different data or were judged differently.
    """
    collect([Path(old), Path(new)])  # refuses what cannot be compared
    before, after = build_table(collect([Path(old)])), build_table(collect([Path(new)]))
    earlier = {model.label: model for model in before.models}
    later = {model.label: model for model in after.models}
    drafts = [
        change
        for label in earlier
        if label in later
        for change in _changes(earlier[label], later[label], after.metrics)
    ]
    return Difference(
        changes=tuple(_corrected(drafts)),
        added=tuple(label for label in later if label not in earlier),
        removed=tuple(label for label in earlier if label not in later),
        circumstances=tuple(_circumstances(before, after)),
        failed=tuple(
            (which, name, why)
            for which, table in (("old", before), ("new", after))
            for name, why in failures(table)
        ),
    )


def _changes(old: Model, new: Model, metrics: Sequence[str]) -> list[Change]:
    found = []
    for name in metrics:
        before, after = old.metrics.get(name), new.metrics.get(name)
        if before is None or after is None or before.mean is None or after.mean is None:
            continue
        ratio = name in RATIOS and before.mean > 0 and after.mean > 0
        gap, _, low, high, _ = pair(after, before, ratio=ratio, raw=True)
        paid_alike = (
            name == "training_seconds" and abs(math.log(gap)) < SAME_COST if ratio else False
        )
        tested = name in TESTED and not new.control and not paid_alike
        p_value = pair(after, before, ratio=ratio, raw=False)[1] if tested else None
        found.append(Change(new.label, name, before, after, gap, low, high, p_value))
    return found


def _corrected(changes: Sequence[Change]) -> list[Change]:
    tested = [change for change in changes if change.p_value is not None]
    corrected = holm([change.p_value or 0.0 for change in tested])
    known = {id(change): p for change, p in zip(tested, corrected, strict=True)}
    return [replace(change, adjusted=known.get(id(change))) for change in changes]


def _circumstances(before: Table, after: Table) -> list[tuple[str, str, str]]:
    """Facts, versions and settings that are not the same."""
    sides = [dict([*method.facts(t), *method.machine(t)]) for t in (before, after)]
    settings = [
        {f"settings of {m.label}": method.settings(m) for m in t.models} for t in (before, after)
    ]
    both = [facts | told for facts, told in zip(sides, settings, strict=True)]
    names = [name for name in both[0] if name in both[1]]
    names += [name for name in sides[0] if name not in both[1]]
    names += [name for name in sides[1] if name not in both[0]]
    return [
        (name, both[0].get(name, "–"), both[1].get(name, "–"))
        for name in dict.fromkeys(names)
        if both[0].get(name) != both[1].get(name) and name != "run at"
    ]


def sentences(found: Difference) -> list[str]:
    """What is shown, in plain sentences."""
    said = []
    for outcome in ("better", "worse"):
        for change in (c for c in found.changes if c.outcome == outcome):
            said.append(
                f"{change.model} has become {outcome} in {title(change.metric)}: "
                f"{digits(change.old.mean or 0.0, change.metric)} → "
                f"{digits(change.new.mean or 0.0, change.metric)} ({_gap(change)})."
            )
    if not said:
        tested = any(change.adjusted is not None for change in found.changes)
        said.append(
            "No difference is shown in any metric of the verdict."
            if tested
            else "Nothing could be tested: that takes two seeds or more on both sides."
        )
    if found.added:
        said.append(f"New: {join(found.added)}.")
    if found.removed:
        said.append(f"No longer there: {join(found.removed)}.")
    if found.failed:
        said.append(f"Failed runs: {len(found.failed)}.")
    return said


def _gap(change: Change) -> str:
    """``× 1.2, 95 % interval 1.1 to 1.3``."""
    ratio = change.metric in RATIOS
    shown = (
        f"× {digits(change.gap)}"
        if ratio
        else f"{'+' if change.gap > 0 else ''}{digits(change.gap)}"
    )
    if change.low is None or change.high is None:
        return shown
    return f"{shown}, 95 % interval {digits(change.low)} to {digits(change.high)}"


HEAD = ("model", "metric", "old", "new", "change", "p, corrected", "outcome")


def rows(found: Difference) -> list[list[str]]:
    """`HEAD` and what stands under it, a row a change."""
    return [
        [
            change.model,
            f"{title(change.metric)} {arrow(change.metric)}".strip(),
            " ± ".join(filter(None, with_spread(change.old))),
            " ± ".join(filter(None, with_spread(change.new))),
            _gap(change),
            "–" if change.adjusted is None else f"{change.adjusted:.2g}",
            change.outcome,
        ]
        for change in found.changes
    ]


def as_markdown(found: Difference, old: Path | str, new: Path | str) -> str:
    """The whole difference as it renders on GitHub."""
    lines = [f"# What changed from {plain(str(old))} to {plain(str(new))}", ""]
    lines += [f"- {plain(sentence)}" for sentence in sentences(found)]
    lines += ["", "## Scores", "", f"| {' | '.join(HEAD)} |", "|---|---|---:|---:|---|---:|---|"]
    lines += [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows(found)]
    lines += [
        "",
        "Paired tests over shared seeds for the metrics of the verdict, corrected together (Holm). "
        "Controls and other metrics are shown, not tested.",
        "",
    ]
    if found.circumstances:
        lines += ["## Circumstances", "", "| what | old | new |", "|---|---|---|"]
        lines += [
            f"| {' | '.join(plain(cell) for cell in row)} |" for row in found.circumstances
        ] + [""]
    if found.failed:
        lines += ["## Failed runs", ""]
        lines += [f"- {which}: {plain(name)}: {plain(why)}" for which, name, why in found.failed]
        lines.append("")
    return "\n".join(lines)


def as_object(found: Difference) -> dict[str, Any]:
    """A JSON object: schema 1, kind ``difference``."""
    return {
        "schema": SCHEMA,
        "kind": "difference",
        "sentences": sentences(found),
        "changes": [
            {
                "model": change.model,
                "metric": change.metric,
                "old": change.old.mean,
                "new": change.new.mean,
                "gap": change.gap,
                "low": change.low,
                "high": change.high,
                "ratio": change.metric in RATIOS,
                "p_value": change.p_value,
                "p_adjusted": change.adjusted,
                "better": METRICS[change.metric].better if change.metric in METRICS else "none",
                "outcome": change.outcome,
            }
            for change in found.changes
        ],
        "added": list(found.added),
        "removed": list(found.removed),
        "circumstances": [list(row) for row in found.circumstances],
        "failed": [list(row) for row in found.failed],
    }


def dumps(found: Difference) -> str:
    """The content of a ``.json`` file."""
    return json.dumps(as_object(found), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
