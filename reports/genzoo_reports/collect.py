"""Run folders and evaluations as plain, checked values: nothing a file says is trusted.

A number that is not finite, a text where a number belongs or a file that leads out of its folder
becomes an absent value with a reason; the page is made from what remains.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genzoo.errors import GenzooError, InputError
from genzoo.evaluation.catalogue import METRICS
from genzoo.registry import MODELS
from genzoo.runs import Run, is_run, open_run
from genzoo.samples import SampleSet

MAX_TEXT = 2_000
"""Longer texts from a run are cut: a reason needs a line, not a book."""
MAX_JSON_BYTES = 16 * 2**20
_BETTER = ("lower", "higher", "0", "0.5", "1", "none")


@dataclass(frozen=True)
class Metric:
    """One number of one run, or why it is missing (`value` is ``None``)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    n: int | None = None
    convention: str = ""
    better: str = "none"
    ideal: float | None = None
    features: Mapping[str, Any] | None = None
    likelihood: str | None = None
    reason: str | None = None
    caution: str | None = None


@dataclass(frozen=True)
class RunView:
    """A run (or a foreign evaluation) as the report shows it.

    Attributes:
        name: of the folder or file.
        run: the folder behind it; ``None`` for an evaluation of foreign samples.
        model: as trained, ``diffusion`` or ``FILE.py:Class``.
        state: of ``status.json``; ``finished`` for foreign evaluations.
        problem: why the run is not whole, ``None`` where it is.
        metrics: by name, empty where nothing was evaluated.
    """

    name: str
    run: Run | None
    model: str
    control: bool
    seed: int
    data: str
    fingerprint: str
    state: str
    problem: str | None
    metrics: Mapping[str, Metric]
    config: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the run ended without samples that could be judged."""
        return self.problem is not None


@dataclass(frozen=True)
class Collection:
    """Everything a report is made of.

    Attributes:
        runs: in the order given, each folder once.
        left_out: (name, reason) of what lay in a comparison but could not be read.
        command: that made the comparison, empty if unknown.
    """

    runs: tuple[RunView, ...]
    left_out: tuple[tuple[str, str], ...]
    command: tuple[str, ...] = ()


def text(value: object, limit: int = MAX_TEXT) -> str:
    """A value from a file as one short printable line."""
    shown = value if isinstance(value, str) else "" if value is None else str(value)
    shown = " ".join("".join(c if c.isprintable() else " " for c in shown[: limit + 1]).split())
    return shown if len(shown) <= limit else shown[:limit] + "…"


def number(value: object) -> float | None:
    """A finite float, or ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int | None:
    """A whole number, or ``None`` for anything else."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def inside(path: Path, folder: Path) -> bool:
    """Whether `path` is a file that really lies in `folder`, not a link out of it."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def read_metric(name: str, raw: object) -> Metric:
    """One entry of ``scores.json``; what cannot be used is explained in `reason`."""
    known = METRICS.get(name)
    entry = mapping(raw) if isinstance(raw, Mapping) else {"value": raw}
    value = number(entry.get("value"))
    reason = text(entry.get("reason")) or None
    if value is None and reason is None:
        absent = entry.get("value") is None
        reason = "not evaluated" if absent else "the recorded value is not a finite number"
    better = entry.get("better")
    if better not in _BETTER:
        better = known.better if known else "none"
    ideal = number(entry.get("ideal"))
    features = entry.get("features")
    return Metric(
        value=value,
        low=number(entry.get("low")),
        high=number(entry.get("high")),
        floor=number(entry.get("floor")),
        n=whole(entry.get("n")),
        convention=text(entry.get("convention")),
        better=str(better),
        ideal=known.ideal if ideal is None and known else ideal,
        features=features if isinstance(features, Mapping) else None,
        likelihood=text(entry.get("likelihood"), 40) or None,
        reason=reason,
        caution=text(entry.get("caution"), 300) or None,
    )


def features(raw: Any) -> dict[str, Any]:
    """The feature space of a metric, checked."""
    return {
        "name": text(raw.get("name"), 80),
        "hash": text(raw.get("hash"), 80),
        "accuracy": number(raw.get("accuracy")),
        "split": text(raw.get("split"), 40),
    }


def collect(paths: Sequence[Path]) -> Collection:
    """Read run folders, comparison folders and ``scores.json`` files.

    Args:
        paths: a comparison folder stands for all of its ``runs/*``.

    Raises:
        InputError: a path is none of these, nothing was found, or the runs cannot be compared: they
            are of different data, or were judged by other numbers of samples or in other spaces.
    """
    views: dict[Path, RunView] = {}
    left_out: dict[Path, tuple[str, str]] = {}
    command: tuple[str, ...] = ()
    # Comparisons first: a damaged run among their own does not stop their report.
    given = sorted(map(Path, paths), key=lambda path: not _is_comparison(path))
    for path in given:
        if _is_comparison(path):
            plan = read_object(path / "compare.json")
            command = command or _command(plan)
            _comparison(path, plan, views, left_out)
        elif path.resolve() in left_out:
            continue
        elif is_run(path):
            views.setdefault(path.resolve(), view_run(open_run(path)))
        elif path.is_file() and path.suffix == ".json":
            for index, view in enumerate(_foreign(path)):
                views.setdefault(path.resolve() / str(index), view)
        else:
            raise InputError(_not_a_run(path))
    if not views:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.values())[:3])
        raise InputError(
            f"there is no run to report in {', '.join(map(str, paths)) or 'an empty list'}"
            + (f" ({listed})" if listed else "; make one with: genzoo compare")
        )
    _refuse_mixed_data(views.values())
    _refuse_mixed_ways(list(views.values()))
    return Collection(tuple(views.values()), tuple(left_out.values()), command)


def _is_comparison(path: Path) -> bool:
    return not is_run(path) and ((path / "compare.json").is_file() or (path / "runs").is_dir())


def _comparison(
    path: Path,
    plan: Mapping[str, Any],
    views: dict[Path, RunView],
    left_out: dict[Path, tuple[str, str]],
) -> None:
    """Add the runs of a comparison; what is damaged or missing is named in `left_out`."""
    found = set()
    for folder in sorted(p for p in (path / "runs").glob("*") if p.is_dir()):
        try:
            view = views.setdefault(folder.resolve(), view_run(open_run(folder)))
            found.add((view.model, view.seed))
        except GenzooError as error:
            left_out[folder.resolve()] = (text(folder.name), text(str(error)))
    seeds = whole(plan.get("seeds")) or 0
    planned = [(m, s) for m in _texts(plan.get("models")) for s in range(min(seeds, 1000))]
    planned += [(m, 0) for m in _texts(plan.get("controls"))]
    for model, seed in planned:
        folder = (path / "runs" / f"{model}-s{seed}").resolve()
        if (model, seed) not in found and folder not in left_out:
            left_out[folder] = (f"{model}, seed {seed}", "planned, but it left no run folder")


def _texts(value: object) -> list[str]:
    return [text(item, 200) for item in value] if isinstance(value, list) else []


def _not_a_run(path: Path) -> str:
    if not path.exists():
        return f"'{path}' does not exist; give a run folder or a comparison folder"
    return (
        f"'{path}' is neither a run folder (config.json) nor a comparison folder (compare.json); "
        "make one with: genzoo train or genzoo compare"
    )


def _refuse_mixed_data(views: Iterable[RunView]) -> None:
    first: RunView | None = None
    for view in views:
        first = first or view
        same_print = not (view.fingerprint and first.fingerprint)
        if not same_print and view.fingerprint != first.fingerprint:
            raise InputError(
                f"runs on different data cannot share a report: {first.name} is on "
                f"'{first.data}', {view.name} on '{view.data}'; report them apart"
            )


def _refuse_mixed_ways(views: Sequence[RunView]) -> None:
    """Scores by different numbers of samples or in different feature spaces rank nothing."""
    seen: dict[str, RunView] = {}
    for view in views:
        for name, metric in view.metrics.items():
            known = METRICS.get(name)
            if metric.value is None or known is None or known.group in ("cost", "likelihood"):
                continue
            first = seen.setdefault(name, view)
            other = first.metrics[name]
            one, two = (_space_hash(m) for m in (other, metric))
            if one != two:
                raise InputError(
                    f"{first.name} and {view.name} were judged in different feature spaces "
                    f"({known.title}: {one[:12] or 'unknown'} and {two[:12] or 'unknown'}); "
                    "evaluate both with the same --features, or report them apart"
                )
    judged = [(view, n) for view in views if (n := whole(view.scores.get("n"))) is not None]
    for view, n in judged:
        first, counted = judged[0]
        if n != counted:
            raise InputError(
                f"{first.name} and {view.name} were judged by different numbers of samples "
                f"({counted:,} and {n:,}); evaluate both with the same --n, or report them apart"
            )


def _space_hash(metric: Metric) -> str:
    return text((metric.features or {}).get("hash"), 80)


def view_run(run: Run) -> RunView:
    """A run folder as the report shows it."""
    config, status = mapping(run.config), mapping(run.status)
    data = mapping(config.get("data"))
    state = text(status.get("state"), 40) or "unknown"
    scores, damage = _scores(run)
    model = text(config.get("model"), 200) or "unnamed"
    entry = MODELS.get(model)
    problem = None
    if state == "failed":
        problem = text(status.get("reason")) or "failed without a recorded reason"
    elif state not in ("trained", "sampled", "finished"):
        problem = f"not finished (state: {state})"
    metrics = {text(k, 80): read_metric(k, v) for k, v in mapping(scores.get("metrics")).items()}
    if damage and problem is None:
        problem = damage
    return RunView(
        name=text(run.path.name, 200),
        run=run,
        model=model,
        control=config.get("control") is True or bool(entry and entry.control),
        seed=whole(config.get("seed")) or 0,
        data=text(data.get("name"), 200),
        fingerprint=text(data.get("fingerprint"), 200),
        state=state,
        problem=problem,
        metrics={} if problem else _with_records(run, metrics, status),
        config=config,
        status=status,
        scores=scores,
    )


def _scores(run: Run) -> tuple[Mapping[str, Any], str | None]:
    """``scores.json`` and what is wrong with it."""
    path = run.path / "scores.json"
    if not path.exists():
        return {}, None
    if not inside(path, run.path):
        return {}, "scores.json leads out of the run folder"
    try:
        return read_object(path), None
    except InputError as error:
        return {}, text(str(error))


def _with_records(
    run: Run, metrics: dict[str, Metric], status: Mapping[str, Any]
) -> dict[str, Metric]:
    """Costs that the run itself wrote down, where the evaluation did not repeat them."""
    sampling: Mapping[str, Any] = {}
    if inside(run.path / "samples.json", run.path):
        try:
            sampling = read_object(run.path / "samples.json")
        except InputError:
            sampling = {}
    recorded = {
        "training_seconds": status.get("seconds"),
        "training_images_per_second": status.get("images_per_second"),
        "training_flops": status.get("flops"),
        "parameters": status.get("parameters"),
        "samples_per_second": sampling.get("samples_per_second"),
        "samples_per_second_1": sampling.get("samples_per_second_1"),
        "samples_per_second_64": sampling.get("samples_per_second_64"),
        "first_sample_seconds": sampling.get("first_sample_seconds"),
        "nfe": sampling.get("nfe"),
    }
    for name, value in recorded.items():
        found = number(value)
        if found is not None and (name not in metrics or metrics[name].value is None):
            metrics[name] = read_metric(name, {"value": found, "convention": "as recorded"})
    return metrics


def read_object(path: Path) -> Mapping[str, Any]:
    """A JSON object from a file of bounded size; ``{}`` where there is no file.

    Raises:
        InputError: not JSON, not an object, too large or too deep.
    """
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path.name} is larger than {MAX_JSON_BYTES // 2**20} MiB")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name} is not readable JSON") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(raw, Mapping):
        raise InputError(f"{path.name} is not a JSON object")
    return raw


def _command(plan: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_texts(plan.get("command")))


def _foreign(path: Path) -> list[RunView]:
    """Evaluations of samples from elsewhere, as ``genzoo evaluate --json`` prints them."""
    raw = read_object(path)
    results = raw.get("results") if isinstance(raw.get("results"), list) else [raw]
    views = []
    for entry in map(mapping, results or []):
        metrics = mapping(entry.get("metrics"))
        if not metrics:
            raise InputError(f"'{path}' holds no metrics; write it with: genzoo evaluate --json")
        model = text(entry.get("model"), 200) or path.stem
        known = MODELS.get(model)
        views.append(
            RunView(
                name=model,
                run=None,
                model=model,
                control=bool(known and known.control),
                seed=whole(entry.get("seed")) or 0,
                data=text(entry.get("data"), 200),
                fingerprint=text(entry.get("data_fingerprint"), 200),
                state="finished",
                problem=None,
                metrics={text(k, 80): read_metric(k, v) for k, v in metrics.items()},
                scores=entry,
            )
        )
    return views


def history(view: RunView, points: int = 300) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Loss curves by ``phase/part``: (seconds (K,), loss (K,)), K at most `points`.

    Longer curves are averaged over equal stretches, so that spikes weigh in but do not hide all.
    """
    if view.run is None or not inside(view.run.path / "history.jsonl", view.run.path):
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    try:
        for line in view.run.history():
            when = number(mapping(line).get("seconds"))
            for part, value in mapping(mapping(line).get("loss")).items():
                found = number(value)
                if when is not None and found is not None:
                    curves.setdefault(text(part, 80), []).append((when, found))
    except (GenzooError, ValueError, OSError):
        return {}
    thinned = {}
    for part, pairs in curves.items():
        chunks = np.array_split(np.asarray(pairs, dtype=float), min(points, len(pairs)))
        means = np.array([chunk.mean(axis=0) for chunk in chunks])
        thinned[part] = (means[:, 0], means[:, 1])
    return thinned


def samples(view: RunView) -> SampleSet | None:
    """The samples of a run; ``None`` where there are none that can be read."""
    if view.run is None or not inside(view.run.path / "samples.npz", view.run.path):
        return None
    try:
        return view.run.samples()
    except (GenzooError, ValueError, OSError):
        return None
