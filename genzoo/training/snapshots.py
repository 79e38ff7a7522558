"""Averaged weights from on the way, so that later stages can show how a training went.

Taken at fixed shares of the budget, whatever its unit, and never charged to it. A model whose
snapshots would take too much disk keeps the later ones only.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import Any

from genzoo.errors import InputError
from genzoo.files import disk_errors, read_json, write_json
from genzoo.model import GenerativeModel
from genzoo.runs import SCHEMA, SNAPSHOTS, Run
from genzoo.training.checkpoint import read_tensors, write_tensors
from genzoo.training.loop import Trainer

MARKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Shares of the budget: quality falls about evenly with the logarithm of the compute."""
MAX_BYTES = 256 * 2**20
"""Of all snapshots of a run together."""
_INDEX = "index.json"


@dataclass(frozen=True)
class Snapshot:
    """Weights at one moment of a training.

    Attributes:
        file: in the run's folder of snapshots.
        sha256: of the file.
        step: how many steps were done.
        images: how many items were seen.
        seconds: of training.
        flops: of training.
        progress: share of the budget that was used.
    """

    file: str
    sha256: str
    step: int
    images: int
    seconds: float
    flops: float
    progress: float


class Recorder:
    """Takes the snapshots of a run."""

    def __init__(self, trainer: Trainer, run: Run) -> None:
        """Go on where the run's history ends: what was taken after it, is taken again."""
        self._trainer, self._run = trainer, run
        self._taken = [s for s in snapshots(run) if s.step <= trainer.clock.used.step]
        size = sum(t.numel() * t.element_size() for t in trainer.model.state_dict().values())
        affordable = min(len(MARKS), MAX_BYTES // max(size, 1))
        self._marks = MARKS[len(MARKS) - affordable :]

    def look(self) -> None:
        """Take a snapshot if a mark has been passed since the last one."""
        progress = self._trainer.clock.progress
        before = self._taken[-1].progress if self._taken else 0.0
        if progress < 1 and any(before < mark <= progress for mark in self._marks):
            self._take(progress)

    def _take(self, progress: float) -> None:
        used, folder = self._trainer.clock.used, self._run.path / SNAPSHOTS
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        name = f"{used.step:09d}.safetensors"
        digest = write_tensors(folder / name, self._trainer.averaged_state())
        self._taken.append(
            Snapshot(name, digest, used.step, used.images, used.seconds, used.flops, progress)
        )
        entries = [asdict(snapshot) for snapshot in self._taken]
        write_json(folder / _INDEX, {"schema": SCHEMA, "snapshots": entries})


def snapshots(run: Run) -> list[Snapshot]:
    """The snapshots of a run in order; none where it took none.

    Raises:
        InputError: their list is damaged.
    """
    path = run.path / SNAPSHOTS / _INDEX
    if not path.exists():
        return []
    try:
        found = [Snapshot(**entry) for entry in read_json(path, SCHEMA)["snapshots"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"'{path}' is damaged: {error}; remove '{path.parent}'") from error
    if any("/" in s.file or "\\" in s.file or s.file.startswith(".") for s in found):
        raise InputError(f"'{path}' is damaged: a name leads elsewhere; remove '{path.parent}'")
    return found


def load_snapshot(model: GenerativeModel, run: Run, snapshot: Snapshot) -> None:
    """Give the trained model of a run the weights that it had at that moment.

    Raises:
        InputError: the file is missing, damaged, or of another model.
    """
    path = run.path / SNAPSHOTS / snapshot.file
    try:
        model.load_state_dict(read_tensors(path, snapshot.sha256))
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise InputError(f"'{path}' does not fit this model: {detail:.200}") from error


def forget_snapshots(run: Run) -> None:
    """Remove what an earlier training left, before a new one begins in the same folder."""
    shutil.rmtree(run.path / SNAPSHOTS, ignore_errors=True)


def moment(snapshot: Snapshot) -> dict[str, Any]:
    """When it was taken, as other files say it."""
    told = asdict(snapshot)
    return {key: told[key] for key in ("step", "images", "seconds", "flops", "progress")}
