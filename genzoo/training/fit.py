"""Train a run to the end of its budget: history, checkpoints, interruption, weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genzoo.errors import Interrupted, MachineError
from genzoo.progress import Progress
from genzoo.ranks import SHARED, Wishes, shared_cost
from genzoo.runs import WEIGHTS, Run
from genzoo.training.checkpoint import (
    Checkpoint,
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

    Of several ranks, the first alone reads and writes.

    Args:
        trainer: of a model as it was built.
        run: where everything is written.
        progress: told how far it is.
        interruption: looked at after each step.
        loggers: also told every line of the history.

    Raises:
        Interrupted: on request, at the end of a step, with a checkpoint written.
        Diverged: a loss, gradient norm or weight is not finite; the last checkpoint is kept.
        MachineError: the ranks' weights are not the same at the end.
    """
    ranks = trainer.ranks
    checkpoint: Checkpoint | None = None
    if ranks.is_first:
        checkpoint, notes = load_checkpoint(run.path)
        for note in notes:
            progress.note(note)
    checkpoint = ranks.from_first(checkpoint)
    if checkpoint is None:
        run.cut_history(-1)
        if ranks.is_first:
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
        state = trainer.averaged_state()
        _check_alike(trainer, state)
        standing = _standing(trainer, account.cost() | account.rate())
        if ranks.is_first:
            digest = write_tensors(run.path / WEIGHTS, state)
            run.update_status(state="trained", model_sha256=digest, **standing)
    if ranks.is_first:
        remove_checkpoints(run.path)
    progress.update("training", 1.0)


def _check_alike(trainer: Trainer, state: Mapping[str, Tensor]) -> None:
    """Ranks that began alike and stepped alike must end alike."""
    if trainer.ranks.count == 1:
        return
    digest = hashlib.sha256()
    for name, _ in trainer.model.named_parameters():
        digest.update(state[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    if len(set(trainer.ranks.gathered(digest.hexdigest()))) > 1:
        raise MachineError(
            "the devices' weights have drifted apart: the model changes weights by something else "
            "than gradients and on_step_end; train it on one device"
        )


class _Account:
    """What the training costs, over all the processes that it took."""

    def __init__(self, trainer: Trainer, earlier: dict[str, Any]) -> None:
        self._trainer, self._earlier, self._meter = trainer, earlier, Meter(trainer.device)

    def cost(self) -> dict[str, Any]:
        """So far, see `genzoo.training.meter.Meter.reading`."""
        ranks, now = self._trainer.ranks, self._meter.reading()
        if ranks.local and self._trainer.device.type == "cpu":  # whose counter is the machine's
            now |= {"energy_joules": None, "energy_source": SHARED}
        now = shared_cost(ranks.gathered(now))
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
        return {"matmul_flops_per_second": sum(self._trainer.ranks.gathered(rate))}


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
    recorder = Recorder(trainer, run) if trainer.ranks.is_first else None
    timetable = _Timetable(trainer, interruption)
    for earlier in run.history():
        watch.look(earlier)  # said already, but what comes is compared with it
    while not trainer.done:
        with clock.running():
            _step_until(trainer, timetable, line)
        while trainer.notes:
            progress.note(trainer.notes.pop(0))
        if int(LINES * clock.progress) > line or trainer.done:
            line, entry = int(LINES * clock.progress), trainer.log_entry()
            run.append_history(entry)
            if recorder is not None:
                recorder.look()
            if loggers is not None:
                loggers.log(entry)
            for note in watch.look(entry):
                progress.note(note)
        progress.update("training", clock.progress, _detail(trainer, entry))
        wishes = timetable.agreed()
        asked = wishes.stop and not trainer.done
        if asked or wishes.save:
            checkpoint, cost = trainer.checkpoint(), account.cost()
            if trainer.ranks.is_first:
                save_checkpoint(run.path, checkpoint)
            run.update_status(**_standing(trainer, cost))
            timetable.saved()
        if asked:
            raise Interrupted(f"stopped at step {clock.used.step} ({clock.progress:.0%})")


class _Timetable:
    """When to stop, save and show, which ranks must do together."""

    def __init__(self, trainer: Trainer, interruption: Interruption) -> None:
        """The times of this process go by its own clock."""
        self._trainer, self._interruption = trainer, interruption
        trainer.wishes = self._wishes
        self.saved()
        self.shown()

    def agreed(self) -> Wishes:
        """What is due: of several ranks, what they agreed upon at the end of the last step."""
        return self._wishes() if self._trainer.ranks.count == 1 else self._trainer.agreed

    def saved(self) -> None:
        """Wait for the next checkpoint from now on."""
        self._save_at = time.monotonic() + CHECKPOINT_SECONDS

    def shown(self) -> None:
        """Wait for the next sign of life from now on."""
        self._show_at = time.monotonic() + SHOW_SECONDS

    def _wishes(self) -> Wishes:
        now = time.monotonic()
        return Wishes(self._interruption.requested, now >= self._save_at, now >= self._show_at)


def _step_until(trainer: Trainer, timetable: _Timetable, line: int) -> None:
    """Step to the next line of history, the next sign of life, or a request to stop."""
    timetable.shown()
    while not (trainer.done or timetable.agreed().stop):
        trainer.step()
        if int(LINES * trainer.clock.progress) > line or timetable.agreed().show:
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
