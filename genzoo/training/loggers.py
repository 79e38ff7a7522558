"""Trackers that people watch training in, beside `history.jsonl`, which is the record.

A tracker that fails is left behind with a note: it must not cost a training.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from genzoo.errors import InputError, unknown
from genzoo.progress import Progress
from genzoo.runs import Run


class Tracker(Protocol):
    """Where numbers go."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step."""

    def summarize(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run."""

    def close(self) -> None:
        """No more will come."""


class TensorBoard:
    """Event files in the run's folder ``tensorboard``."""

    def __init__(self, run: Run) -> None:
        """Go on after the run's last step; what was logged beyond it is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._step = int(run.status["step"])
        folder = str(run.path / "tensorboard")
        self._writer: Any = SummaryWriter(folder, purge_step=self._step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def summarize(self, values: Mapping[str, float]) -> None:
        """As scalars of the last step."""
        self.log(values, self._step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases in the run's folder ``wandb``.

    Offline unless ``WANDB_MODE=online`` asks for more; ``wandb sync`` sends it later. The run's
    folder decides its identity, so that a resumed training goes on with it.
    """

    def __init__(self, run: Run) -> None:
        """Begin, or go on."""
        import wandb  # type: ignore[import-not-found,unused-ignore]

        place = str(run.path.resolve())
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "genzoo"),
            name=run.name,
            id=hashlib.sha256(f"{place}{run.config.get('created')}".encode()).hexdigest()[:16],
            dir=str(run.path),
            config={k: v for k, v in run.config.items() if k != "command"},
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(values), step=step)

    def summarize(self, values: Mapping[str, float]) -> None:
        """See `Tracker.summarize`."""
        self._run.summary.update(dict(values))

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


# By name: the package that is needed, and what opens it.
TRACKERS: Mapping[str, tuple[str, Callable[[Run], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
}


def check_trackers(names: Sequence[str]) -> None:
    """Whether all can be opened.

    Raises:
        InputError: one is unknown, or its package is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("logger", name, TRACKERS)
        try:
            importlib.import_module(TRACKERS[name][0])
        except ImportError as error:
            raise InputError(
                f"--log {name} needs a package that cannot be imported ({error}); "
                f"pip install 'genzoo[{name}]'"
            ) from error


class Loggers:
    """All trackers of a run, as one."""

    def __init__(self, names: Sequence[str], run: Run, progress: Progress) -> None:
        """Nothing is opened before the first number."""
        self._names, self._run, self._progress = list(names), run, progress
        self._open: dict[str, Tracker] = {}

    def log(self, entry: Mapping[str, Any]) -> None:
        """A line of the history."""
        values = {f"loss/{name}": value for name, value in entry["loss"].items()}
        values |= {f"grad_norm/{name}": value for name, value in entry["grad_norm"].items()}
        values |= {name: entry[name] for name in ("lr", "progress", "images", "seconds")}
        self._tell(lambda tracker: tracker.log(values, entry["step"]))

    def summarize(self, scores: Mapping[str, Any]) -> None:
        """The metrics of `scores.json` that have a value."""
        found = {f"score/{k}": s.get("value") for k, s in scores["metrics"].items()}
        values = {name: value for name, value in found.items() if value is not None}
        self._tell(lambda tracker: tracker.summarize(values))

    def close(self) -> None:
        """Write what is left."""
        self._tell(lambda tracker: tracker.close(), opened=True)

    def _tell(self, what: Callable[[Tracker], None], opened: bool = False) -> None:
        for name in list(self._names):
            if opened and name not in self._open:
                continue
            try:
                if name not in self._open:
                    self._open[name] = TRACKERS[name][1](self._run)
                what(self._open[name])
            except Exception as error:  # a tracker may raise anything; training goes on
                self._names.remove(name)
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._progress.note(f"--log {name} failed, going on without: {reason:.200}")


@contextmanager
def logging_to(names: Sequence[str], run: Run, progress: Progress) -> Iterator[Loggers]:
    """`Loggers` that are closed at the end, whatever happens."""
    loggers = Loggers(names, run, progress)
    try:
        yield loggers
    finally:
        loggers.close()
