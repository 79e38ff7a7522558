"""Pictures that a report shows beside the samples: how a run trained, samples, and encodes.

Every picture is a set of rows of items in ``pictures/NAME.npz``, read as any samples are, one row
after the other; ``pictures/index.json`` says how long a row is and what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.data.ranges import to_display
from genzoo.errors import GenzooError
from genzoo.files import disk_errors, write_json
from genzoo.model import GenerativeModel, HasLatent, HasPath
from genzoo.progress import Progress
from genzoo.runs import PICTURES, SCHEMA, Run
from genzoo.samples import SampleSet
from genzoo.strips import interpolation, reconstruction, trajectory
from genzoo.training.device import isolated_rng
from genzoo.training.snapshots import load_snapshot, moment, snapshots
from genzoo.types import DataSpec

ROWS, ITEMS, POINTS = 4, 20, 400
"""Rows of a strip of images, samples of a moment of training, and of either if they are points."""
INDEX = "index.json"
Picture = tuple[Tensor, list[dict[str, Any]]]
"""Rows (rows, columns, *shape) as `GenerativeModel.sample` returns them, and what is known of
each column (trajectory, interpolation, reconstruction) or row (training)."""


def illustrate(
    run: Run, model: GenerativeModel, dataset: Dataset, seed: int, progress: Progress
) -> None:
    """Write the pictures that the model can make; what fails is left out with a note.

    Args:
        run: trained.
        model: its model; has its final weights again afterwards.
        dataset: the run's data, for items to reconstruct.
        seed: of the samples.
        progress: told of each picture.
    """
    folder = run.path / PICTURES
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    index: dict[str, Any] = {}
    makers = _makers(run, model, dataset, seed)
    for number, (name, make) in enumerate(makers.items()):
        progress.update("pictures", number / len(makers), name)
        try:
            with isolated_rng(model.device):
                rows, told = make()
        except GenzooError as error:
            progress.note(f"picture '{name}' left out: {error}")
        except Exception as error:  # of a model of one's own, whose run must not fail for this
            progress.note(f"picture '{name}' left out: {type(error).__name__}: {error}")
        else:
            _samples(rows.flatten(0, 1), model.spec).write_npz(folder / f"{name}.npz")
            index[name] = {"rows": rows.shape[0], "columns": rows.shape[1], "told": told}
    write_json(folder / INDEX, {"schema": SCHEMA, "pictures": index})
    progress.update("pictures", 1.0)


def is_illustrated(path: Path) -> bool:
    """Whether a run folder has its pictures."""
    return (path / PICTURES / INDEX).exists()


def _makers(
    run: Run, model: GenerativeModel, dataset: Dataset, seed: int
) -> Mapping[str, Callable[[], Picture]]:
    makers: dict[str, Callable[[], Picture]] = {}
    if snapshots(run):
        makers["training"] = lambda: _training(run, model, seed)
    if isinstance(model, HasPath):
        makers["trajectory"] = lambda: _trajectory(model, seed)
    if isinstance(model, HasLatent) and model.spec.is_image:
        makers["interpolation"] = lambda: _interpolation(model, seed)
        makers["reconstruction"] = lambda: _reconstruction(model, dataset)
    return makers


def _training(run: Run, model: GenerativeModel, seed: int) -> Picture:
    """The same noise and labels through the weights of each snapshot, a row a moment."""
    final = {k: v.detach().clone() for k, v in model.state_dict().items()}
    cond = _in_turn(model, ITEMS)
    n = ITEMS if model.spec.is_image else POINTS
    rows, told = [], []
    try:
        for snapshot in snapshots(run):
            load_snapshot(model, run, snapshot)
            rows.append(model.sample(n, cond=_repeated(cond, n), seed=seed).cpu())
            told.append(moment(snapshot))
    finally:
        model.load_state_dict(final)
    rows.append(model.sample(n, cond=_repeated(cond, n), seed=seed).cpu())
    end = {key: run.status[key] for key in ("step", "images", "seconds", "flops", "progress")}
    return torch.stack(rows), [*told, end]


def _trajectory(model: GenerativeModel, seed: int) -> Picture:
    n = ROWS if model.spec.is_image else POINTS
    rows = trajectory(model, n, cond=_repeated(_in_turn(model, ROWS), n), seed=seed)
    return rows, []


def _interpolation(model: GenerativeModel, seed: int) -> Picture:
    return interpolation(model, ROWS, cond=_in_turn(model, ROWS), seed=seed), []


def _reconstruction(model: GenerativeModel, dataset: Dataset) -> Picture:
    test, n = dataset.test, min(2 * ROWS, len(dataset.test.data))
    labelled = model.spec.num_classes and test.labels is not None
    cond = {"label": test.labels[:n]} if labelled and test.labels is not None else None
    return reconstruction(model, test.data[:n], cond), []


def _in_turn(model: GenerativeModel, n: int) -> dict[str, Tensor]:
    """Every class in turn, or no condition."""
    classes = model.spec.num_classes
    return {"label": torch.arange(n) % classes} if classes else {}


def _repeated(cond: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {k: v[torch.arange(n) % len(v)] for k, v in cond.items()}


def _samples(raw: Tensor, spec: DataSpec) -> SampleSet:
    if not spec.is_image:
        return SampleSet(points=raw.cpu().numpy())
    return SampleSet(images=to_display(raw.cpu(), spec).movedim(1, -1).contiguous().numpy())
