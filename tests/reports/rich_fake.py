"""A comparison that has everything a report can show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from fake_runs import (
    FEATURES,
    digits_like,
    losses,
    metric,
    moment,
    write_run,
    write_seeds,
    write_strip,
    write_sweep,
)
from PIL import Image

QUALITY = {"gan": 0.9, "vae": 1.4, "flow": 1.1, "diffusion": 0.6}
SPEED = {"gan": 9000.0, "vae": 11000.0, "flow": 400.0, "diffusion": 90.0}


def values(model: str, seed: int) -> dict[str, Any]:
    """Scores of a model; seeds differ a little."""
    fd, off = QUALITY[model], 0.01 * seed
    found = {
        "fd": metric(fd + off, floor=0.3, features=FEATURES),
        "two_sample_1nn": metric(0.55 + 0.1 * fd + off / 10, floor=0.5),
        "precision": metric(0.95 - 0.2 * fd, floor=0.97, features=FEATURES),
        "recall": metric(0.9 - 0.3 * fd + off, floor=0.95, features=FEATURES),
        "coverage": metric(0.9 - 0.2 * fd, floor=0.95, features=FEATURES),
        "train_nn_share": metric(0.51),
        "duplicates": metric(0),
        "training_seconds": metric(12.0),
        "training_flops": metric(3.4e12),
        "utilization": metric(0.42),
        "peak_memory_gb": metric(0.61),
        "energy_joules": metric(None, reason="unmeasured: the machine has no energy counter"),
        "parameters": metric(1_234_567),
        "samples_per_second": metric(SPEED[model] + 10 * seed),
        "nfe": metric(39 if model == "diffusion" else 1),
    }
    if model != "gan":
        kind = {"vae": "bound", "flow": "exact", "diffusion": "estimate"}[model]
        found["bits_per_dim"] = metric(1.5 + fd, likelihood=kind)
    return found


def rich_comparison(root: Path) -> Path:
    """Four models with three seeds, a control, a failed run, and every picture and sweep."""
    phases = {"gan": ("critic/loss", "generator/loss"), "vae": ("main/total", "main/kl")}
    for model in QUALITY:
        runs = write_seeds(
            root / "runs",
            model,
            [values(model, seed) for seed in range(3)],
            samples=digits_like(3),
            history=losses(phases.get(model, ("main/loss",))),
        )
        for run in runs:
            marks = (1 / 32, 1 / 8, 1 / 2, 1.0)
            write_sweep(run, "training", [(moment(s), 1, QUALITY[model] / s) for s in marks])
            raw = json.loads((run / "scores.json").read_text())
            shares = (np.arange(10) + 5) / np.sum(np.arange(10) + 5)
            raw["class_histogram"] = {
                "labels": [str(i) for i in range(10)],
                "samples": shares.tolist(),
                "train": [0.1] * 10,
            }
            (run / "scores.json").write_text(json.dumps(raw))
        told = [moment(s) for s in (1 / 32, 1 / 8, 1 / 2, 1.0)]
        write_strip(runs[0], "training", digits_like(4, 80), 4, told)
        pairs = np.random.default_rng(5).integers(0, 256, (170, 838), dtype=np.uint8)
        Image.fromarray(pairs).save(runs[0] / "nearest.png")
        if model == "diffusion":
            write_strip(runs[0], "trajectory", digits_like(6, 44), 4)
            steps = [(n, 2 * n - 1, 0.6 + 4 / n**2) for n in (1, 2, 4, 8, 16)]
            write_sweep(runs[0], "steps", steps)
            write_sweep(runs[0], "guidance", [(w, 39, 0.6 + (w - 1) ** 2) for w in (0.5, 1, 2, 3)])
        if model in ("vae", "flow"):
            write_strip(runs[0], "interpolation", digits_like(7, 44), 4)
            write_strip(runs[0], "reconstruction", digits_like(8, 16), 8)
    noise = {"fd": metric(40.0, features=FEATURES), "two_sample_1nn": metric(1.0)}
    write_run(root / "runs" / "noise-s0", "noise", 0, noise, control=True, samples=digits_like(9))
    reason = "the loss is not finite at step 12 (phase 'main')"
    write_run(root / "runs" / "flow-s3", "flow", 3, state="failed", reason=reason)
    plan = {"models": list(QUALITY), "seeds": 3, "command": ["genzoo", "compare", "--seeds", "3"]}
    (root / "compare.json").write_text(json.dumps(plan))
    return root
