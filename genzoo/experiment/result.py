"""What a comparison found, as a table and as a JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.errors import PartialFailure
from genzoo.evaluation.catalogue import METRICS, distance
from genzoo.evaluation.statistics import mean_interval, ranks
from genzoo.notebook import frame as frame_of
from genzoo.runs import SCHEMA, open_run

_SHOWN = (
    "fd",
    "two_sample_1nn",
    "cas",
    "coverage",
    "modes_covered",
    "train_nn_share",
    "bits_per_dim",
    "nll_nats",
    "training_images_per_second",
    "samples_per_second",
)


@dataclass(frozen=True)
class Comparison:
    """A comparison that was carried out.

    Attributes:
        path: of its folder.
        runs: run folders, in the order of the plan, also of those that failed.
        failed: reason by the name of a run.
        report: path of the page.
    """

    path: Path
    runs: tuple[Path, ...]
    failed: Mapping[str, str]
    report: Path

    def summary(self) -> list[dict[str, Any]]:
        """For each model its mean over seeds and 95 % interval of every metric that has a value.

        Returns:
            ``{"model", "seeds", "failed", "metrics": {name: {"mean", "low", "high", "floor",
            "rank"}}}``; models share a rank where no difference is shown, and have none where
            their seeds differ in number.
        """
        grouped: dict[str, list[Path]] = {}
        for path in self.runs:
            grouped.setdefault(path.name.rpartition("-s")[0], []).append(path)
        rows: list[dict[str, Any]] = []
        for name, paths in grouped.items():
            scores = [self._metrics(path) for path in paths if path.name not in self.failed]
            found = {
                metric: _mean([s[metric] for s in scores if metric in s])
                for metric in METRICS
                if any(metric in s for s in scores)
            }
            failures = sum(path.name in self.failed for path in paths)
            rows.append({"model": name, "seeds": len(scores), "failed": failures, "metrics": found})
        for metric in METRICS:
            _rank(metric, [row["metrics"][metric] for row in rows if metric in row["metrics"]])
        return rows

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as texts, ``mean ± half width``, the real data's floor last."""
        rows = self.summary()
        shown = [m for m in _SHOWN if any(m in row["metrics"] for row in rows)]
        head = ["model", *(METRICS[m].title for m in shown)]
        body, floors = [], ["real data"]
        for row in rows:
            name = row["model"] + (f" ({row['failed']} failed)" if row["failed"] else "")
            body.append([name, *(_shown(row["metrics"].get(m)) for m in shown)])
        for metric in shown:
            found = [row["metrics"][metric]["floor"] for row in rows if metric in row["metrics"]]
            floor = next((f for f in found if f is not None), None)
            floors.append("–" if floor is None else f"{floor:.3g}")
        return head, [*body, floors]

    def frame(self) -> Any:
        """A ``pandas.DataFrame``, a row a run and metric that has a value.

        Raises:
            InputError: pandas is not installed.
        """
        flat = ("value", "low", "high", "floor", "n", "better")
        rows = []
        for path in (path for path in self.runs if path.name not in self.failed):
            run = open_run(path)
            told = {"model": run.model, "seed": run.config["seed"], "run": path.name}
            for name, metric in self._metrics(path).items():
                rows.append({**told, "metric": name, **{f: metric.get(f) for f in flat}})
        return frame_of(rows)

    def _repr_html_(self) -> str:
        from genzoo_reports.notebook import comparison_html

        return comparison_html(self.path, self.runs, self.report)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "schema": SCHEMA,
            "kind": "comparison",
            "path": str(self.path),
            "report": str(self.report),
            "runs": [str(path) for path in self.runs],
            "failed": dict(self.failed),
            "models": self.summary(),
        }

    def __str__(self) -> str:
        """The table, the failures, and where the report is."""
        head, body = self.table()
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *body)
        ]
        lines += [f"{name} failed: {reason}" for name, reason in self.failed.items()]
        return "\n".join([*lines, f"report: {self.report}"])

    def _metrics(self, path: Path) -> dict[str, Any]:
        scores = open_run(path).scores() or {"metrics": {}}
        return {k: m for k, m in scores["metrics"].items() if m["value"] is not None}


class ComparisonFailed(PartialFailure):
    """Some runs failed; the comparison with the others and its report are complete."""

    def __init__(self, comparison: Comparison) -> None:
        """Name the runs and the first reason."""
        failed = comparison.failed
        name, reason = next(iter(failed.items()))
        super().__init__(
            f"{len(failed)} of {len(comparison.runs)} runs failed ({name}: {reason}); "
            f"the report shows the others: {comparison.report}"
        )
        self.comparison = comparison


def _rank(name: str, found: Sequence[dict[str, Any]]) -> None:
    """Write into each summary its rank among those with the most seeds."""
    better = METRICS[name].better
    values = [metric.pop("values") for metric in found]
    most = max(map(len, values), default=0)
    told = {
        str(i): [distance(better, v) for v in several]
        for i, several in enumerate(values)
        if len(several) == most and better != "none"
    }
    rank = ranks(told)
    for i, metric in enumerate(found):
        metric["rank"] = rank.get(str(i))


def _mean(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [m["value"] for m in metrics]
    mean, low, high = mean_interval(values)
    floors = [m["floor"] for m in metrics if m["floor"] is not None]
    floor = sum(floors) / len(floors) if floors else None
    return {"mean": mean, "low": low, "high": high, "floor": floor, "values": values}


def _shown(metric: Mapping[str, float | None] | None) -> str:
    if metric is None or metric["mean"] is None:
        return "–"
    mean, high = metric["mean"], metric["high"]
    digits = ",.0f" if abs(mean) >= 1000 else ".3g"
    if high is None:
        return f"{mean:{digits}}"
    return f"{mean:{digits}} ± {high - mean:{'.0f' if abs(mean) >= 1000 else '.2g'}}"
