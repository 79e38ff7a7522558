"""Killed at any moment and resumed: the same bytes as if nothing had happened.

A process trains with a checkpoint after every look of its loop, and kills itself with SIGKILL at
the n-th of the moments that `MOMENTS` counts: between steps, or anywhere within the writing of a
checkpoint, a line of history, a status, or the weights.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_train import content

import genzoo
from genzoo.runs import open_run

# Small nets of the four families, and settings that make them so.
MODELS: dict[str, dict[str, Any]] = {
    "gan": {"width": 8, "batch_size": 16},
    "vae": {"width": 16, "batch_size": 16},
    "flow": {"width": 16, "batch_size": 16},
    "diffusion": {"width": 16, "batch_size": 16},
}
STEPS, KILLS = 60, 50
# Who is at work when the process dies, by the function that is entered or left.
MOMENTS = ("step", "save_checkpoint", "write_bytes", "rename", "append_history")

KILLED = """
import os, signal, sys
from pathlib import Path
import genzoo
from genzoo import files, runs
from genzoo.training import checkpoint, fit, loop

model, out, moment, number, steps = sys.argv[1:6]
settings = dict(pair.split("=") for pair in sys.argv[6:])
fit.CHECKPOINT_SECONDS, fit.SHOW_SECONDS = 0.0, 0.0
left = int(number)

def counted(function):
    def wrapper(*arguments, **named):
        global left
        left -= 1
        if left == 0 and int(number) % 2:
            os.kill(os.getpid(), signal.SIGKILL)  # before
        result = function(*arguments, **named)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)  # after
        return result
    return wrapper

if moment == "step":
    loop.Trainer.step = counted(loop.Trainer.step)
elif moment == "save_checkpoint":
    fit.save_checkpoint = counted(fit.save_checkpoint)
elif moment == "write_bytes":
    checkpoint.write_bytes = counted(checkpoint.write_bytes)
elif moment == "rename":
    Path.rename, os.replace = counted(Path.rename), counted(os.replace)
else:
    runs.Run.append_history = counted(runs.Run.append_history)
genzoo.train(model, "digits", budget=f"{steps}steps", out=out, resume=True, evaluate=False,
             samples=16, threads=1, device="cpu", settings=settings)
"""


def train(model: str, out: Path) -> genzoo.Run:
    return genzoo.train(
        model,
        "digits",
        budget=f"{STEPS}steps",
        out=out,
        resume=True,
        evaluate=False,
        samples=16,
        threads=1,
        device="cpu",
        settings=MODELS[model],
    )


def killed(model: str, out: Path, moment: str, number: int) -> bool:
    """Whether the process died in its training; it may have come to its end before."""
    settings = [f"{key}={value}" for key, value in MODELS[model].items()]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, model, str(out), moment, str(number), str(STEPS), *settings],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        timeout=120,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


@pytest.mark.parametrize("model, moment", [("gan", "rename"), ("diffusion", "write_bytes")])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, model: str, moment: str) -> None:
    straight = content(train(model, tmp_path / "straight"))
    assert killed(model, tmp_path / "run", moment, 17)
    assert killed(model, tmp_path / "run", moment, 12)
    assert not open_run(tmp_path / "run").trained
    assert content(train(model, tmp_path / "run")) == straight


@pytest.mark.slow
def test_fifty_kills_over_four_families(tmp_path: Path) -> None:
    """Runs are killed again and again until there were fifty kills; then each is finished."""
    dice = random.Random(0)
    straight = {model: content(train(model, tmp_path / f"{model}-straight")) for model in MODELS}
    kills, rounds = dict.fromkeys(MOMENTS, 0), 0
    while sum(kills.values()) < KILLS:
        for model in MODELS:
            out = tmp_path / f"{model}-{rounds}"
            for _ in range(3):
                moment = dice.choice(MOMENTS)
                if not killed(model, out, moment, dice.randint(1, 25)):
                    break
                kills[moment] += 1
                if (out / "status.json").exists():
                    open_run(out)  # every folder can be read at any moment
            assert content(train(model, out)) == straight[model]
        rounds += 1
    assert all(kills.values()), kills
    print(f"{sum(kills.values())} kills, all resumed to the same bytes: {kills}")
