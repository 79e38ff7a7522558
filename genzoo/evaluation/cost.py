"""What a run cost, from what training and sampling wrote down."""

from __future__ import annotations

from genzoo.evaluation.result import Score
from genzoo.runs import Run

COSTS = (
    "training_seconds",
    "training_images_per_second",
    "parameters",
    "samples_per_second",
    "nfe",
)


def cost_scores(run: Run | None, n: int) -> list[Score]:
    """Training time and speed, size, sampling speed and network evaluations of a run."""
    if run is None:
        return [Score.refused(name, n, "samples alone do not tell; give a run") for name in COSTS]
    sampling = run.samples_info() or {}
    machine = f"{run.config['device']}, {run.config['threads']} threads"
    known = {
        "training_seconds": (run.status["seconds"], f"wall clock of training alone; {machine}"),
        "training_images_per_second": (run.status["images_per_second"], machine),
        "parameters": (run.status["parameters"], "trained scalars"),
        "samples_per_second": (
            sampling.get("samples_per_second"),
            f"batches of {sampling.get('batch_size')}; {machine}",
        ),
        "nfe": (sampling.get("nfe"), "measured while sampling"),
    }
    fitted = run.status["parameters"] == 0
    scores = []
    for name, (value, text) in known.items():
        if name == "training_images_per_second" and fitted:
            scores.append(Score.refused(name, n, "fitted in one pass"))
        elif value is None:
            scores.append(Score.refused(name, n, "not recorded in this run"))
        else:
            scores.append(Score(name, float(value), n, text))
    return scores
