"""A plan before the money: what a comparison will need, from a few real steps of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from genzoo.data import Dataset
from genzoo.experiment.arrangement import Arrangement, arrange
from genzoo.experiment.plan import Model
from genzoo.experiment.runners import Task, is_finished
from genzoo.experiment.stages import likelihood_seconds, metrics_seconds, sampling_seconds
from genzoo.model import GenerativeModel
from genzoo.notebook import listener
from genzoo.progress import Progress
from genzoo.rates import DeviceRates, find_rates
from genzoo.registry import CONTROLS, DEFAULT_MODELS
from genzoo.runs import SCHEMA
from genzoo.training import find_model, resolve_device
from genzoo.training.acceleration import accelerate
from genzoo.training.calibration import (
    Calibration,
    Memory,
    Phases,
    StepCost,
    Work,
    calibrate,
    spend,
)
from genzoo.training.device import (
    describe_machine,
    isolated_rng,
    limited_threads,
)

# Eager PyTorch needs about as long to launch an operator on a GPU, however fast that is.
LAUNCH_SECONDS = 8e-6


@dataclass(frozen=True)
class ModelForecast:
    """What each run of one model will need.

    Attributes:
        model: as runs are called after it.
        runs: their names, finished ones included.
        finished: how many of them need nothing any more.
        parameters: number of scalars.
        work: steps, images, FLOPs and seconds of training.
        memory: at once on each device, in bytes.
        fits: whether the named device has that much memory; ``None`` without one.
        prepare_seconds: of counting and compiling, which no budget pays for.
        sampling_seconds: of drawing the samples at the end.
        evaluation_seconds: of scoring them.
        utilization: share of the machine's matrix products that the training reaches.
    """

    model: str
    runs: tuple[str, ...]
    finished: int
    parameters: int
    work: Work
    memory: Memory
    fits: bool | None
    prepare_seconds: float
    sampling_seconds: float
    evaluation_seconds: float
    utilization: float | None

    @property
    def seconds(self) -> float:
        """Of a whole run."""
        after = self.sampling_seconds + self.evaluation_seconds
        return self.work.seconds + self.prepare_seconds + after

    @property
    def left(self) -> int:
        """Runs that are to be done."""
        return len(self.runs) - self.finished

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        steps = max(self.work.steps, 1)
        return {
            "model": self.model,
            "runs": list(self.runs),
            "finished": self.finished,
            "parameters": self.parameters,
            "steps": self.work.steps,
            "images": self.work.images,
            "flops": self.work.flops,
            "flops_per_step": self.work.flops / steps,
            "seconds_per_step": self.work.seconds / steps,
            "memory_bytes": self.memory.to_dict(),
            "fits": self.fits,
            "training_seconds": self.work.seconds,
            "prepare_seconds": self.prepare_seconds,
            "sampling_seconds": self.sampling_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "seconds": self.seconds,
            "utilization": self.utilization,
        }


@dataclass(frozen=True)
class Forecast:
    """What a comparison will need; of the runs, not of the report.

    Attributes:
        models: a row each.
        jobs: runs at a time.
        devices: of each run.
        budget: of each run.
        device: for which the seconds are meant.
        extrapolated: how they were got, where that device is not this one; else empty.
    """

    models: tuple[ModelForecast, ...]
    jobs: int
    devices: int
    budget: str
    device: str
    extrapolated: str

    def totals(self) -> dict[str, Any]:
        """Over the runs that are to be done.

        Returns:
            ``runs``, ``flops``, ``seconds`` and ``device_hours`` of all one after the other,
            ``wall_seconds`` with as many at a time as were asked for, ``memory_bytes`` of the
            largest.
        """
        seconds = sum(row.left * row.seconds for row in self.models)
        longest = max((row.seconds for row in self.models if row.left), default=0.0)
        return {
            "runs": sum(row.left for row in self.models),
            "flops": sum(row.left * row.work.flops for row in self.models),
            "seconds": seconds,
            "device_hours": self.devices * seconds / 3600,
            "wall_seconds": max(longest, seconds / self.jobs),
            "memory_bytes": max((row.memory.total for row in self.models), default=0),
        }

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "schema": SCHEMA,
            "kind": "forecast",
            "budget": self.budget,
            "device": self.device,
            "extrapolated": self.extrapolated or None,
            "jobs": self.jobs,
            "devices": self.devices,
            "models": [row.to_dict() for row in self.models],
            "totals": self.totals(),
        }


def forecast(
    models: Sequence[Model] | str = DEFAULT_MODELS,
    data: str | Dataset = "digits",
    *,
    controls: Sequence[str] | str = CONTROLS,
    device_rates: str | None = None,
    progress: Progress | None = None,
    **how: Any,
) -> Forecast:
    """Train a few steps of each model and tell what the whole comparison will need.

    Nothing is written but the evaluation's cache. Parameters, FLOPs, and the steps of budgets in
    steps, images and FLOPs are exact; seconds are as good as a few steps on this machine as it is
    now.

    Args:
        models: as in `genzoo.compare`.
        data: as in `genzoo.compare`.
        controls: as in `genzoo.compare`.
        device_rates: a name of `genzoo.rates.RATES`: seconds are then extrapolated to
            that device by the share of its own speed that this machine reaches.
        progress: told how far it is.
        **how: all other arguments of `genzoo.compare`.

    Raises:
        InputError: the call is wrong.
        MachineError: out of memory.
    """
    progress = listener(progress)
    rates = None if device_rates is None else find_rates(device_rates)
    arranged = arrange(models, data, controls=controls, progress=progress, **how)
    grouped: dict[str | type[GenerativeModel], list[Task]] = {}
    for task in arranged.tasks:
        grouped.setdefault(task.model, []).append(task)
    options = arranged.tasks[0].options
    place = resolve_device(options["device"])
    rows, samples = [], options["samples"]
    with limited_threads(options["threads"]):
        metrics = metrics_seconds(arranged.dataset, samples, place, progress)
        for number, tasks in enumerate(grouped.values()):
            name = tasks[0].path.name.rpartition("-s")[0]
            progress.update("calibration", number / len(grouped), name)
            row = _forecast(name, tasks, arranged, place, rates)
            rows.append(replace(row, evaluation_seconds=row.evaluation_seconds + metrics))
    progress.update("calibration", 1.0)
    device = str(describe_machine(place)["gpu"] or describe_machine(place)["processor"])
    return Forecast(
        tuple(rows),
        arranged.slots.count,
        options["devices"],
        str(arranged.budget),
        device if rates is None else rates.name,
        "" if rates is None else _extrapolation(device, rates),
    )


def _extrapolation(device: str, rates: DeviceRates) -> str:
    return (
        f"extrapolated, not measured: each model's share of the matrix-product rate of this "
        f"machine ({device}), at the peak rates of {rates.name}, but at least "
        f"{LAUNCH_SECONDS * 1e6:.0f} µs an operator (metrics: the seconds of this machine); a "
        "device so different may turn out far slower or faster, so try a few steps there first"
    )


def _forecast(
    name: str,
    tasks: Sequence[Task],
    arranged: Arrangement,
    place: torch.device,
    rates: DeviceRates | None,
) -> ModelForecast:
    options, data = tasks[0].options, arranged.dataset
    shown = data.spec if options["conditional"] is not False else data.spec.unconditional()
    source = find_model(tasks[0].model)
    settings = source.settings(options["settings"], data.spec, options["preset"])
    acceleration = accelerate(
        place,
        data.spec,
        arranged.budget,
        precision="auto" if rates is not None else options["precision"],
        compiled=options["compiled"],
        channels_last=options["channels_last"],
    )
    devices = options["devices"]
    found = calibrate(source, shown, settings, data, place, acceleration, devices=devices)
    model = found.model.eval()
    with isolated_rng(place):
        sampling = sampling_seconds(model, options["samples"], devices)
        likelihood = likelihood_seconds(model, data, devices)
    steps, fits = found.steps, None
    if rates is not None:
        _, peak = rates.peak(options["precision"], data.spec.is_image)
        steps = {phases: _elsewhere(cost, found.rate, peak) for phases, cost in steps.items()}
        ratio = _ratio(found.steps, steps)
        sampling, likelihood = sampling * ratio, likelihood * ratio
        fits = found.memory.total <= rates.memory
    return ModelForecast(
        name,
        tuple(task.path.name for task in tasks),
        sum(is_finished(task.path) for task in tasks),
        found.parameters,
        spend(arranged.budget, found.phases, steps, found.fit_seconds),
        found.memory,
        fits,
        found.prepare_seconds,
        sampling,
        likelihood,
        _utilization(found, devices),
    )


def _elsewhere(cost: StepCost, rate: float, peak: float) -> StepCost:
    """A step on a device with a higher or lower peak, at the same share of it."""
    computing = cost.seconds * rate / peak
    return replace(cost, seconds=max(computing, cost.calls * LAUNCH_SECONDS))


def _ratio(here: Mapping[Phases, StepCost], there: Mapping[Phases, StepCost]) -> float:
    """How much longer steps take there."""
    if not here:
        return 1.0
    return sum(c.seconds for c in there.values()) / sum(c.seconds for c in here.values())


def _utilization(found: Calibration, devices: int) -> float | None:
    seconds = sum(cost.seconds for cost in found.steps.values())
    if not seconds:
        return None
    flops = sum(cost.flops for cost in found.steps.values()) / devices
    return flops / seconds / found.rate
