"""Run folders in the documented format, with scores that a test chooses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genzoo.evaluation.catalogue import METRICS
from genzoo.samples import SampleSet

FEATURES = {"name": "classifier", "hash": "ab" * 32, "accuracy": 0.97, "split": "train"}


def metric(value: float | None, **fields: Any) -> dict[str, Any]:
    """One entry of scores.json."""
    return {
        "value": value,
        "low": None,
        "high": None,
        "floor": None,
        "n": 797,
        "convention": "as tested",
        "features": None,
        "reason": None if value is not None else "not evaluated",
        **fields,
    }


def scores(values: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """A scores.json; bare numbers become entries with the catalogue's direction."""
    metrics = {}
    for name, value in values.items():
        entry = value if isinstance(value, dict) else metric(value)
        known = METRICS.get(name)
        metrics[name] = {"better": known.better, "ideal": known.ideal, **entry} if known else entry
    return {
        "schema": 1,
        "kind": "scores",
        "model": "a model",
        "data": "digits",
        "data_fingerprint": "f" * 64,
        "n": max((entry.get("n") or 0 for entry in metrics.values()), default=0) or 797,
        "seed": seed,
        "source": "run",
        "metrics": metrics,
        "seconds": 1.0,
        "genzoo": "0.1.0",
    }


def write_run(
    folder: Path,
    model: str,
    seed: int = 0,
    values: Mapping[str, Any] | None = None,
    *,
    state: str = "finished",
    reason: str | None = None,
    samples: SampleSet | None = None,
    history: list[dict[str, Any]] | None = None,
    fingerprint: str = "f" * 64,
    data: str = "digits",
    control: bool = False,
    settings: Mapping[str, Any] | None = None,
    budget: str = "12s",
    seconds: float = 12.0,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run folder and return it."""
    folder.mkdir(parents=True)
    weights = b"weights"
    (folder / "model.safetensors").write_bytes(weights)
    points = samples is not None and samples.points is not None
    spec = {
        "shape": [2] if points else [1, 8, 8],
        "levels": None if points else 17,
        "cond": {} if points else {"label": 10},
        "frequencies": [] if points else [0.1] * 10,
        "location": [],
        "scale": [],
    }
    whole = {
        "schema": 1,
        "kind": "run",
        "genzoo": "0.1.0",
        "model": model,
        "family": model,
        "control": control,
        "model_sha256": None,
        "settings": dict(settings or {"width": 64}),
        "data": {
            "name": data,
            "root": None,
            "size": None,
            "fingerprint": fingerprint,
            "spec": spec,
            "class_names": [],
        },
        "budget": budget,
        "seed": seed,
        "conditional": True,
        "device": "cpu",
        "threads": 2,
        "samples": 1000,
        "command": ["genzoo", "train", "--model", model, "--seed", str(seed)],
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "machine": {"platform": "Linux", "cores": 2, "gpu": None},
        "git": None,
        "created": "2025-01-01T00:00:00",
        **(config or {}),
    }
    ended = state in ("trained", "sampled", "finished")
    status = {
        "schema": 1,
        "state": state,
        "reason": reason,
        "step": 1000,
        "images": 128000,
        "progress": 1.0 if ended else 0.4,
        "seconds": seconds,
        "flops": None,
        "parameters": 123456,
        "images_per_second": 10000.0,
        "evaluation_seconds": 1.0,
        "model_sha256": hashlib.sha256(weights).hexdigest() if ended else None,
    }
    (folder / "config.json").write_text(json.dumps(whole))
    (folder / "status.json").write_text(json.dumps(status))
    if values is not None:
        (folder / "scores.json").write_text(json.dumps(scores(values, seed)))
    if samples is not None:
        samples.write_npz(folder / "samples.npz")
    if history is not None:
        (folder / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in history))
    return folder


def write_seeds(
    root: Path, model: str, by_seed: list[Mapping[str, Any]], **fields: Any
) -> list[Path]:
    """One run a seed."""
    return [
        write_run(root / f"{model.replace('/', '_')}-s{seed}", model, seed, values, **fields)
        for seed, values in enumerate(by_seed)
    ]


def digits_like(seed: int, n: int = 120) -> SampleSet:
    """Labelled 8 by 8 pictures in which the label can be read off the brightness."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, n)
    images = (random.random((n, 8, 8, 1)) * 40 + labels[:, None, None, None] * 20).astype(np.uint8)
    return SampleSet(images=images, labels=labels)


def losses(phases: tuple[str, ...] = ("main/loss",), steps: int = 60) -> list[dict[str, Any]]:
    """A history that falls."""
    return [
        {
            "step": k,
            "images": 128 * k,
            "seconds": 0.2 * k,
            "progress": k / steps,
            "lr": 1e-3,
            "loss": {phase: 1.0 + (i + 1) / (1 + k) for i, phase in enumerate(phases)},
            "grad_norm": {},
        }
        for k in range(1, steps + 1)
    ]


def write_sweep(run: Path, over: str, points: list[tuple[Any, int, float]], **fields: Any) -> None:
    """Points (value of the knob, evaluations a sample, Fréchet distance) of a sweep."""
    entry = {
        "n": 400,
        "seed": 0,
        "points": [
            {
                "value": value,
                "nfe": nfe,
                "seconds": 0.1,
                "metrics": scores({"fd": metric(fd, floor=0.02, n=400, **fields)})["metrics"],
            }
            for value, nfe, fd in points
        ],
    }
    path = run / "sweeps.json"
    whole = {"schema": 1, "kind": "sweeps", "data_fingerprint": "f" * 64, "sweeps": {}}
    if path.exists():
        whole = json.loads(path.read_text())
    whole["sweeps"][over] = entry
    path.write_text(json.dumps(whole))


def moment(share: float) -> dict[str, float]:
    """When a snapshot was taken."""
    return {
        "step": int(1000 * share),
        "images": int(128_000 * share),
        "seconds": 12.0 * share,
        "flops": 1e12 * share,
        "progress": share,
    }


def write_strip(
    run: Path, name: str, samples: SampleSet, rows: int, told: list[dict[str, float]] | None = None
) -> None:
    """A picture of a run, `rows` rows of equally many items."""
    folder = run / "pictures"
    folder.mkdir(exist_ok=True)
    samples.write_npz(folder / f"{name}.npz")
    path = folder / "index.json"
    whole = json.loads(path.read_text()) if path.exists() else {"schema": 1, "pictures": {}}
    columns = len(samples) // rows
    whole["pictures"][name] = {"rows": rows, "columns": columns, "told": told or []}
    path.write_text(json.dumps(whole))
