"""What a run cost, from what training and sampling wrote down."""

from __future__ import annotations

from typing import Any

from genzoo.evaluation.result import Score
from genzoo.runs import Run

COSTS = (
    "training_seconds",
    "training_images_per_second",
    "training_flops",
    "utilization",
    "peak_memory_gb",
    "energy_joules",
    "parameters",
    "samples_per_second",
    "samples_per_second_1",
    "samples_per_second_64",
    "first_sample_seconds",
    "nfe",
)
# Of these a model that is fitted in one pass has none.
_OF_STEPS = ("training_images_per_second", "training_flops", "utilization")
_MISSING = {
    "energy_joules": "unmeasured: the machine has no energy counter that may be read",
    "utilization": "unmeasured: FLOPs or the machine's own speed are not recorded",
}


def cost_scores(run: Run | None, n: int) -> list[Score]:
    """Training's time, work, memory and energy, size, and the speed of sampling of a run."""
    if run is None:
        return [Score.refused(name, n, "samples alone do not tell; give a run") for name in COSTS]
    known = {**_training(run), **_sampling(run)}
    fitted = run.status["parameters"] == 0
    scores = []
    for name in COSTS:
        value, text = known[name]
        if fitted and name in _OF_STEPS:
            scores.append(Score.refused(name, n, "fitted in one pass"))
        elif value is None:
            reason = _MISSING.get(name, "not recorded in this run")
            scores.append(Score.refused(name, n, reason))
        else:
            scores.append(Score(name, float(value), n, text))
    return scores


def _training(run: Run) -> dict[str, tuple[Any, str]]:
    status, cost, machine = run.status, run.status.get("cost") or {}, _machine(run)
    rate, flops, seconds = (
        cost.get("matmul_flops_per_second"),
        status["flops"],
        status["seconds"],
    )
    used = flops / seconds / rate if rate and flops and seconds else None
    precision = run.config.get("acceleration", {}).get("precision", "fp32")
    memory, where = cost.get("device_memory_bytes"), "of the device's allocator"
    if memory is None:
        memory, where = cost.get("peak_memory_bytes"), "of the process, libraries and data included"
    speed = "" if rate is None else f"of {rate / 1e9:,.0f} GFLOP/s, a large matrix product in "
    return {
        "training_seconds": (seconds, f"wall clock of training alone; {machine}"),
        "training_images_per_second": (status["images_per_second"], machine),
        "training_flops": (flops, "products, convolutions and attention; a multiply-add is 2"),
        "utilization": (used, f"{speed}{precision} after the training; {machine}"),
        "peak_memory_gb": (None if memory is None else memory / 1e9, where),
        "energy_joules": (cost.get("energy_joules"), str(cost.get("energy_source"))),
        "parameters": (status["parameters"], "trained scalars"),
    }


def _sampling(run: Run) -> dict[str, tuple[Any, str]]:
    info, machine = run.samples_info() or {}, _machine(run)
    return {
        "samples_per_second": (
            info.get("samples_per_second"),
            f"batches of {info.get('batch_size')}; {machine}",
        ),
        "samples_per_second_1": (info.get("samples_per_second_1"), f"one at a time; {machine}"),
        "samples_per_second_64": (info.get("samples_per_second_64"), f"batches of 64; {machine}"),
        "first_sample_seconds": (info.get("first_sample_seconds"), f"weights loaded; {machine}"),
        "nfe": (info.get("nfe"), "measured while sampling"),
    }


def _machine(run: Run) -> str:
    return f"{run.config['device']}, {run.config['threads']} threads"
