"""Train a run to the end of its budget: history, checkpoints, interruption, weights."""

from __future__ import annotations

import time
from typing import Any

from genzoo.errors import Interrupted
from genzoo.progress import Progress
from genzoo.runs import WEIGHTS, Run
from genzoo.training.checkpoint import (
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
    write_tensors,
)
from genzoo.training.interruption import Interruption
from genzoo.training.loggers import Loggers
from genzoo.training.loop import Trainer
from genzoo.training.meter import Meter, joined, matmul_rate
from genzoo.training.snapshots import Recorder, forget_snapshots
from genzoo.training.watch import Watch

LINES = 100  # of history, by progress
CHECKPOINT_SECONDS = 30.0
SHOW_SECONDS = 1.0


def fit(
    trainer: Trainer,
    run: Run,
    progress: Progress,
    interruption: Interruption,
    loggers: Loggers | None = None,
) -> None:
    """Train from the run's last checkpoint, if it has one, to the end; then write the weights.

    Args:
        trainer: of a model as it was built.
        run: where everything is written.
        progress: told how far it is.
        interruption: looked at after each step.
        loggers: also told every line of the history.

    Raises:
        Interrupted: on request, at the end of a step, with a checkpoint written.
        Diverged: a loss, gradient norm or weight is not finite; the last checkpoint is kept.
    """
    checkpoint, notes = load_checkpoint(run.path)
    for note in notes:
        progress.note(note)
    if checkpoint is None:
        run.cut_history(-1)
        forget_snapshots(run)
        trainer.start()
    else:
        trainer.restore(checkpoint)
        run.cut_history(trainer.clock.used.step)
        progress.note(f"going on at step {trainer.clock.used.step}")
    earlier = {} if checkpoint is None else run.status.get("cost") or {}
    with interruption.deferred():
        account = _Account(trainer, earlier)
        _train(trainer, run, account, progress, interruption, loggers)
        digest = write_tensors(run.path / WEIGHTS, trainer.averaged_state())
        standing = _standing(trainer, account.cost() | account.rate())
        run.update_status(state="trained", model_sha256=digest, **standing)
    remove_checkpoints(run.path)
    progress.update("training", 1.0)


class _Account:
    """What the training costs, over all the processes that it took."""

    def __init__(self, trainer: Trainer, earlier: dict[str, Any]) -> None:
        self._trainer, self._earlier, self._meter = trainer, earlier, Meter(trainer.device)

    def cost(self) -> dict[str, Any]:
        """So far, see `genzoo.training.meter.Meter.reading`."""
        now = self._meter.reading()
        before = self._earlier.get("prepare_seconds", 0.0)
        return {
            **(joined(self._earlier, now) if self._earlier else now),
            "prepare_seconds": before + self._trainer.prepare_seconds,
            "parts": self._trainer.parts,
        }

    def rate(self) -> dict[str, Any]:
        """The device's own speed, right after the training and with its threads."""
        seconds = self._trainer.clock.used.seconds
        if not self._trainer.groups:
            return {"matmul_flops_per_second": None}
        rate = matmul_rate(self._trainer.device, self._trainer.acceleration, seconds)
        return {"matmul_flops_per_second": rate}


def _train(
    trainer: Trainer,
    run: Run,
    account: _Account,
    progress: Progress,
    interruption: Interruption,
    loggers: Loggers | None,
) -> None:
    clock = trainer.clock
    line, entry, watch = int(LINES * clock.progress), dict[str, Any](), Watch()
    recorder = Recorder(trainer, run)
    for earlier in run.history():
        watch.look(earlier)  # said already, but what comes is compared with it
    checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS
    while not trainer.done:
        with clock.running():
            _step_until(trainer, interruption, line)
        while trainer.notes:
            progress.note(trainer.notes.pop(0))
        if int(LINES * clock.progress) > line or trainer.done:
            line, entry = int(LINES * clock.progress), trainer.log_entry()
            run.append_history(entry)
            recorder.look()
            if loggers is not None:
                loggers.log(entry)
            for note in watch.look(entry):
                progress.note(note)
        progress.update("training", clock.progress, _detail(trainer, entry))
        asked = interruption.requested and not trainer.done
        if asked or time.monotonic() >= checkpoint_at:
            save_checkpoint(run.path, trainer.checkpoint())
            run.update_status(**_standing(trainer, account.cost()))
            checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS
        if asked:
            raise Interrupted(f"stopped at step {clock.used.step} ({clock.progress:.0%})")


def _step_until(trainer: Trainer, interruption: Interruption, line: int) -> None:
    """Step to the next line of history, the next sign of life, or a request to stop."""
    clock, show_at = trainer.clock, time.monotonic() + SHOW_SECONDS
    while not (trainer.done or interruption.requested):
        trainer.step()
        if int(LINES * clock.progress) > line or time.monotonic() >= show_at:
            return


def _standing(trainer: Trainer, cost: dict[str, Any]) -> dict[str, Any]:
    """The training's share of the status."""
    used = trainer.clock.used
    return {
        "step": used.step,
        "images": used.images,
        "progress": trainer.clock.progress if trainer.groups else 1.0,
        "seconds": used.seconds,
        "flops": used.flops,
        "images_per_second": used.images / used.seconds if used.seconds else 0.0,
        "cost": cost,
    }


def _detail(trainer: Trainer, entry: dict[str, Any]) -> str:
    """``loss 0.123, 5,230 images/s``; the listener knows the time left from the fraction."""
    clock = trainer.clock
    parts = []
    if entry and entry["loss"]:
        parts.append(f"loss {next(iter(entry['loss'].values())):.4g}")
    if clock.seconds > 0 and clock.progress > 0:
        parts.append(f"{clock.used.images / clock.seconds:,.0f} images/s")
    return ", ".join(parts)
