"""What a reader must know before believing a verdict."""

from __future__ import annotations

from genzoo.evaluation.catalogue import METRICS, distance
from genzoo_reports.collect import mapping, number, text
from genzoo_reports.tables import Table, failures
from genzoo_reports.wording import digits, join, title


def cautions(table: Table) -> list[str]:
    """What a reader must know before believing the verdict."""
    notes = []
    failed = failures(table)
    if failed:
        total = sum(len(model.runs) for model in table.models) + len(table.collection.left_out)
        listed = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failed)
        runs = "runs is" if len(failed) == 1 else "runs are"
        notes.append(f"{len(failed)} of {total} {runs} not in the averages. {listed}.")
    for model in table.contenders:
        if model.copies:
            notes.append(f"{model.label} copies its training data: {model.copies}.")
    notes += _head_starts(table)
    notes += _behind_controls(table)
    counts = {len(m.whole) for m in table.contenders if m.whole}
    if counts == {1}:
        notes.append(
            "One seed a model: the numbers would move with another seed, and nothing here can say "
            "by how much. Use at least three seeds for a claim."
        )
    elif len(counts) > 1:
        notes.append("The models were not trained with the same number of seeds.")
    return notes


def _head_starts(table: Table) -> list[str]:
    """What the weights cost that models started from: their own budget does not show it."""
    notes = []
    for model in table.contenders:
        teachers = [told for run in model.whole if (told := mapping(run.config.get("init")))]
        costs = [number(teacher.get("seconds")) for teacher in teachers]
        known = [seconds for seconds in costs if seconds is not None]
        if not teachers:
            continue
        spent = f", which took {digits(sum(known) / len(known))} s of training" if known else ""
        names = join(list(dict.fromkeys(text(t.get("run"), 80) or "a run" for t in teachers)))
        notes.append(
            f"{model.label} started from the weights of {names}{spent}: that cost comes on top of "
            "its budget, and the others had nothing like it."
        )
    return notes


def _behind_controls(table: Table) -> list[str]:
    """Contenders that a baseline without a network beats."""
    behind: dict[tuple[str, str], list[str]] = {}
    for name in ("fd", "two_sample_1nn"):
        simple = [
            (model.value(name), model.label)
            for model in table.controls
            if model.label in ("noise", "gaussian") and model.value(name) is not None
        ]
        if not simple:
            continue
        better = METRICS[name].better
        bar, control = min((distance(better, value or 0.0), label) for value, label in simple)
        worse = [
            model.label
            for model in table.contenders
            if model.value(name) is not None and distance(better, model.value(name) or 0.0) >= bar
        ]
        if worse:
            does = "does" if len(worse) == 1 else "do"
            behind.setdefault((f"{join(worse)} {does}", control), []).append(title(name))
    return [
        f"{who} not beat the control '{control}' in {join(metrics)}: a baseline without a network "
        "is as good or better."
        for (who, control), metrics in behind.items()
    ]
