"""Results of the library as text for people and as JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo_cli.console import Answer, duration, table

if TYPE_CHECKING:
    from genzoo import (
        Comparison,
        Dataset,
        Evaluation,
        Forecast,
        GenzooError,
        Run,
        SampleSet,
        SelfTest,
    )


def run_answer(run: Run) -> Answer:
    """A trained run: how far it came, its scores, where things are.

    Of the processes that train one together, the one that writes it answers.
    """
    from genzoo.runs import Mirror

    if isinstance(run, Mirror):
        return Answer({}, "")
    status = run.status
    scores = run.scores()
    head = (
        f"{run.model} on {run.config['data']['name']}: {status['state']}, "
        f"{status['step']:,} steps, {status['images']:,} items, "
        f"{duration(status['seconds'])} of training"
    )
    parts = [head]
    if scores is not None:
        parts.append(scores_table([scores]))
    files = [
        path for path in ("samples.png", "samples.npz", "scores.json") if (run.path / path).exists()
    ]
    parts.append("\n".join(str(run.path / name) for name in files) or str(run.path))
    payload = {"run": str(run.path), "config": run.config, "status": status, "scores": scores}
    return Answer(payload, "\n\n".join(parts))


def evaluation_answer(results: Sequence[Evaluation], out: Path | None) -> Answer:
    """The scores of one or several inputs; also written to `out`."""
    scores = [result.to_dict() for result in results]
    payload: Mapping[str, Any] = scores[0] if len(scores) == 1 else {"results": scores}
    if out is not None:
        from genzoo.runs import write_json

        write_json(out, payload)
    return Answer(payload, scores_table(scores) + (f"\n\n{out}" if out else ""))


_SWEEP_COLUMNS = ("fd", "two_sample_1nn", "precision", "recall", "high_quality_share")


def sweep_answer(found: Mapping[str, Mapping[str, Any]], over: str, out: Path | None) -> Answer:
    """A table a run, a row a position of the knob."""
    payload = {"sweep": over, "runs": dict(found)}
    if out is not None:
        from genzoo.runs import write_json

        write_json(out, payload)
    blocks = []
    for run, entry in found.items():
        points = entry["points"]
        shown = [m for m in _SWEEP_COLUMNS if any(m in point["metrics"] for point in points)]
        rows = [
            [
                _position(point["value"]),
                str(point["nfe"]),
                *(number((point["metrics"].get(m) or {}).get("value")) for m in shown),
            ]
            for point in points
        ]
        blocks.append(f"{run}\n{table([over, 'nfe', *shown], rows)}")
    end = f"written to {out}" if out else "written to sweeps.json of each run; see: genzoo report"
    return Answer(payload, "\n\n".join([*blocks, end]))


def _position(value: Any) -> str:
    return f"{value['progress']:.0%}" if isinstance(value, Mapping) else f"{value:g}"


def self_test_answer(found: SelfTest, out: Path | None) -> Answer:
    """Every expectation, met or not; also written to `out`."""
    if out is not None:
        from genzoo.runs import write_json

        write_json(out, found.to_dict())
    rows = [
        (
            "FAILED" if e in found.failed else e.outcome,
            e.metric,
            " < ".join(f"{s} {number(v)}" for s, v in zip(e.subjects, e.values, strict=True)),
        )
        for e in found.expectations
    ]
    met = sum(e.outcome == "met" for e in found.expectations)
    end = (
        f"{met} of {len(rows)} expectations met on {found.data}, {found.n} items a side; "
        f"{len(rows) - met - len(found.failed)} unclear at this number of items"
    )
    text = "\n\n".join([table(("", "metric", "rises as it should"), rows, right=False), end])
    return Answer(found.to_dict(), text, found.failure)


def scores_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row a metric, a column an input, the floor last; below it controls and what is missing."""
    names = list(dict.fromkeys(name for result in results for name in result["metrics"]))
    single = len(results) == 1
    head = ["", *(str(result["model"]) for result in results), "real data"]
    if single:
        head.insert(2, "95 % interval")
    rows, reasons, cautions = [], [], []
    for name in names:
        found = [result["metrics"].get(name) or {} for result in results]
        if all(metric.get("value") is None for metric in found):
            why = next((m["reason"] for m in found if m.get("reason")), "not evaluated")
            reasons.append(f"{name}: {why}")
            continue
        doubt = next((m["caution"] for m in found if m.get("caution")), None)
        cautions += [f"* {name}: {doubt}"] if doubt else []
        floors = [m["floor"] for m in found if m.get("floor") is not None]
        cells = [number(m.get("value")) for m in found]
        if single:
            low, high = found[0].get("low"), found[0].get("high")
            cells.append("" if low is None else f"{number(low)} … {number(high)}")
        rows.append([name + ("*" if doubt else ""), *cells, number(floors[0] if floors else None)])
    blocks = [table(head, rows), "\n".join(cautions), _controls_table(results), "\n".join(reasons)]
    return "\n\n".join(block for block in blocks if block)


_CONTROL_COLUMNS = (
    "fd",
    "two_sample_1nn",
    "precision",
    "recall",
    "coverage",
    "modes_covered",
    "train_nn_share",
    "duplicates",
)


def _controls_table(results: Sequence[Mapping[str, Any]]) -> str:
    """What samples with known faults score in the place of the first input's."""
    controls = results[0].get("controls") or {}
    shown = [m for m in _CONTROL_COLUMNS if any(m in values for values in controls.values())]
    if not shown:
        return ""
    rows = [[name, *(number(v.get(m)) for m in shown)] for name, v in controls.items()]
    return table(["controls", *shown], rows)


def number(value: float | None) -> str:
    """Four significant digits, whole numbers whole; a dash where there is none."""
    if value is None:
        return "–"
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def samples_answer(samples: SampleSet, run: Path, out: Path, show: str | None) -> Answer:
    """Where the samples went, or the pictures of what was shown."""
    n = len(samples.points if samples.images is None else samples.images)  # type: ignore[arg-type]
    labels = None if samples.labels is None else samples.labels.tolist()
    return Answer(
        {"run": str(run), "out": str(out), "n": n, "labels": labels, "show": show},
        f"{n} {'samples' if show is None else 'pictures'}: {out}",
    )


def dataset_answer(dataset: Dataset) -> Answer:
    """What is in an opened data set."""
    sizes = {
        "train": dataset.counts[0],
        "test": dataset.counts[1],
        "reserved": 0 if dataset.reserved is None else len(dataset.reserved.data),
    }
    payload = {
        "name": dataset.name,
        **sizes,
        "spec": dataset.spec.to_dict(),
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
    }
    spec = dataset.spec
    shape = "×".join(map(str, spec.shape))
    rows = [
        ("items", f"{shape}, {spec.levels} levels" if spec.is_image else f"{shape} coordinates"),
        ("train", f"{sizes['train']:,}"),
        ("test", f"{sizes['test']:,}"),
        ("for features", f"{sizes['reserved']:,}"),
        ("classes", ", ".join(dataset.class_names) or "none"),
        ("fingerprint", dataset.fingerprint[:16]),
    ]
    return Answer(payload, table(("data", dataset.name), rows, right=False))


def comparison_answer(comparison: Comparison, failure: GenzooError | None = None) -> Answer:
    """The table of a comparison, the runs that failed, and the path of the page."""
    head, rows = comparison.table()
    failed = [f"{name} failed: {reason}" for name, reason in comparison.failed.items()]
    parts = [table(head, rows), *(["\n".join(failed)] if failed else []), str(comparison.report)]
    return Answer(comparison.to_dict(), "\n\n".join(parts), failure)


def forecast_answer(found: Forecast) -> Answer:
    """What each run of a comparison will need, and all of them together."""
    head = (
        "model",
        "runs",
        "parameters",
        "FLOPs a step",
        "steps",
        "FLOPs",
        "memory",
        "training",
        "sampling",
        "evaluation",
        "each run",
    )
    rows = []
    for row in found.models:
        told = row.to_dict()
        memory = _bytes(row.memory.total) + ("" if row.fits is not False else " (too much)")
        rows.append(
            [
                row.model,
                f"{row.left}" + (f" of {len(row.runs)}" if row.finished else ""),
                f"{row.parameters:,}",
                f"{told['flops_per_step']:.3g}",
                f"{row.work.steps:,}",
                f"{row.work.flops:.3g}",
                memory,
                duration(row.work.seconds + row.prepare_seconds),
                duration(row.sampling_seconds),
                duration(row.evaluation_seconds),
                duration(row.seconds),
            ]
        )
    totals = found.totals()
    at_a_time = f", {found.jobs} at a time" if found.jobs > 1 else ""
    many = found.devices > 1
    device = f"{found.devices} devices: {found.device}" if many else found.device
    end = (
        f"budget {found.budget} a run on {device}: {totals['runs']} runs, "
        f"{totals['flops']:.3g} FLOPs, {totals['device_hours']:.3g} device-hours; about "
        f"{duration(totals['wall_seconds'])}{at_a_time}, and {_bytes(totals['memory_bytes'])} for "
        "the largest training (weights, gradients, optimizer, average, activations, data)"
    )
    shared = (
        "seconds and memory of one device with its share of each minibatch; the time in which "
        "devices tell each other their gradients comes on top"
    )
    parts = [table(head, rows), end, shared if many else "", found.extrapolated]
    return Answer(found.to_dict(), "\n\n".join(part for part in parts if part))


def _bytes(number: float) -> str:
    """In the unit that needs the fewest digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
