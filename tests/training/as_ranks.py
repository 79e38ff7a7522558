"""What the tests of several devices do on each of two CPU ranks; writes what it found as JSON.

``LOCAL_RANK=0 python as_ranks.py families OUT gan,vae digits`` and the same with ``LOCAL_RANK=1``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import Duel, Tiny, TinySettings, tiny_data

from genzoo import ops
from genzoo.data import Dataset, open_dataset
from genzoo.errors import Diverged, Interrupted, MachineError
from genzoo.evaluation.likelihood import measure_likelihood
from genzoo.model import GenerativeModel
from genzoo.noise import derive_seed
from genzoo.ranks import ALONE, Ranks
from genzoo.runs import Mirror, Run, create_run
from genzoo.sampling import draw
from genzoo.training import find_model
from genzoo.training import fit as fitting
from genzoo.training.device import seed_global
from genzoo.training.fit import fit
from genzoo.training.interruption import Interruption
from genzoo.training.loop import INITIALIZE, Trainer
from genzoo.types import Batch, Budget, Loss, TrainState

CPU = torch.device("cpu")
STEPS = 3


@dataclass(frozen=True)
class PlainSettings(TinySettings):
    """Settings of `Plain`."""

    fail_on: int = -1  # the rank whose loss is not a number


class Plain(Tiny):
    """`Tiny` without batch norm; knows its rank, to fail there alone."""

    Settings = PlainSettings
    rank = 0

    def __init__(self, spec: Any, settings: PlainSettings | None = None) -> None:
        super().__init__(spec, settings)
        self.net[1] = nn.Identity()

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        loss = super().loss(batch, phase, state)
        if state.step == 2 and self.rank == self.settings.fail_on:
            return Loss(loss.total * torch.nan, {k: v * torch.nan for k, v in loss.parts.items()})
        return loss


class PlainDuel(Duel):
    """`Duel` without batch norm."""

    def __init__(self, spec: Any, settings: TinySettings | None = None) -> None:
        super().__init__(spec, settings)
        self.net[1] = nn.Identity()


class Normed(Tiny):
    """`Tiny` as it is: batch norm sees a share of the minibatch."""


class Average(Plain):
    """A loss that compares each item with the others': not a mean over items."""

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        x = batch.x.flatten(1)
        found = self._restore(x, batch.cond)
        total = (found - found.mean(0)).square().mean().sqrt()
        return Loss(total, {"total": total.detach()})


class Drifting(Plain):
    """Moves a weight by itself, and on each rank by another number."""

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        with torch.no_grad():
            self.net[0].bias += batch.x.mean()
        return super().loss(batch, phase, state)


class Reviving(Plain):
    """Moves a weight at the end of a step, by what this rank's share was."""

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        self.last = batch.x.mean()
        return super().loss(batch, phase, state)

    def on_step_end(self, state: TrainState) -> None:
        with torch.no_grad():
            self.net[0].bias += self.last


def vector(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten().clone() for t in tensors] or [torch.zeros(1)])


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def trainer_of(
    build: Callable[[], GenerativeModel],
    data: Dataset,
    ranks: Ranks,
    budget: str = "40steps",
) -> Trainer:
    seed_global(derive_seed(0, INITIALIZE), CPU)
    trainer = Trainer(build(), data.train, Budget.parse(budget), 0, ranks=ranks)
    trainer.start()
    return trainer


def stepped(trainer: Trainer, steps: int) -> Trainer:
    with trainer.clock.running():
        for _ in range(steps if trainer.groups else 0):
            trainer.step()
    return trainer


def gradient(trainer: Trainer) -> Tensor:
    """Of every group, as its last phase left it."""
    return vector([p.grad for g in trainer.groups.values() for p in g if p.grad is not None])


def compared(build: Callable[[], GenerativeModel], data: Dataset, ranks: Ranks) -> dict[str, Any]:
    """The first gradient and the weights after some steps, on the ranks together and alone."""
    together = stepped(trainer_of(build, data, ranks), 1)
    grad, line = gradient(together), together.log_entry()
    stepped(together, STEPS - 1)
    weights = vector(list(together.model.parameters()))
    same = len(set(ranks.gathered(digest(weights)))) == 1
    alone = stepped(trainer_of(build, data, ALONE), 1)
    expected, line_alone = gradient(alone), alone.log_entry()
    return {
        "same": same,
        "images": [together.clock.used.images, stepped(alone, STEPS - 1).clock.used.images],
        "flops": [together.clock.used.flops, alone.clock.used.flops],
        "gradient": float((grad - expected).norm() / expected.norm().clamp_min(1e-12)),
        "norm": float(expected.norm()),
        "losses": [line["loss"], line_alone["loss"]],
        "batch_norm": any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in together.model.modules()
        ),
    }


def families(ranks: Ranks, names: str, data: str) -> dict[str, Any]:
    dataset = open_dataset(data)
    found = {}
    for name in names.split(","):
        source = find_model(name)
        settings = source.settings({}, dataset.spec)
        found[name] = compared(lambda: source.build(dataset.spec, settings), dataset, ranks)  # noqa: B023
    return found


def basics(ranks: Ranks, out: Path) -> dict[str, Any]:
    data = tiny_data()
    found: dict[str, Any] = {
        cls.__name__: compared(lambda: cls(data.spec), data, ranks)  # noqa: B023
        for cls in (Plain, PlainDuel, Normed, Average, Reviving)
    }
    found["parts"] = in_parts(ranks, data)
    found["resumed"] = {cls.__name__: resumed(ranks, data, cls) for cls in (PlainDuel, Normed)}
    found["clock"] = clocks(ranks, data)
    found["samples"] = samples(ranks, data)
    found["likelihood"] = likelihood(ranks)
    found["diverged"] = how_it_ends(ranks, data, out / "diverged", Plain, fail_on=1)
    found["drifted"] = how_it_ends(ranks, data, out / "drifted", Drifting)
    found["interrupted"] = how_it_ends(ranks, data, out / "interrupted", Plain, interrupt=1)
    return found


def in_parts(ranks: Ranks, data: Dataset) -> dict[str, Any]:
    """Gradients that are added up over parts of the shares, and averaged once."""
    whole, parts = (trainer_of(lambda: PlainDuel(data.spec), data, ranks) for _ in range(2))
    whole.model.net[2] = parts.model.net[2] = nn.Identity()  # masks are drawn part by part
    parts.parts = 4
    reduced = []
    original = ranks.adding
    ranks.adding = lambda entry, last: reduced.append(last) or original(entry, last)  # type: ignore[method-assign,func-returns-value]
    a, b = gradient(stepped(whole, 1)), gradient(stepped(parts, 1))
    del ranks.adding  # type: ignore[method-assign]
    return {"gradient": float((a - b).norm() / a.norm()), "reduced": reduced}


def resumed(ranks: Ranks, data: Dataset, cls: type[GenerativeModel]) -> bool:
    """Whether a training that went on from a checkpoint ends with the same bytes."""
    straight = stepped(trainer_of(lambda: cls(data.spec), data, ranks), 3)
    checkpoint = copy.deepcopy(ranks.from_first(straight.checkpoint()))
    stepped(straight, 4)
    again = trainer_of(lambda: cls(data.spec), data, ranks)
    again.restore(checkpoint)
    stepped(again, 4)
    state, expected = again.averaged_state(), straight.averaged_state()
    lines = [{**t.log_entry(), "seconds": 0} for t in (again, straight)]
    equal = all(torch.equal(state[k], expected[k]) for k in state) or not ranks.is_first
    return all(ranks.gathered(equal and lines[0] == lines[1]))


def clocks(ranks: Ranks, data: Dataset) -> bool:
    """Whether ranks agree at every step on how much of a budget in seconds is used."""
    trainer = trainer_of(lambda: Plain(data.spec), data, ranks, budget="0.3s")
    seen = []
    while not trainer.done:
        stepped(trainer, 1)
        seen.append(trainer.clock.progress)
    return len({tuple(p) for p in ranks.gathered(seen)}) == 1 and len(seen) > 3


def samples(ranks: Ranks, data: Dataset) -> bool:
    """Whether shared samples are those of one process to the last bit."""
    seed_global(0, CPU)
    model = Plain(data.spec).eval()
    shared = draw(model, 100, seed=3, batch_size=16, ranks=ranks)
    alone = draw(model, 100, seed=3, batch_size=16)
    return not ranks.is_first or (torch.equal(shared.raw, alone.raw) and shared.nfe == alone.nfe)


def likelihood(ranks: Ranks) -> dict[str, Any]:
    """What ranks find together and one finds alone, and how many batches each of them took."""
    data, source, batches = open_dataset("ring"), find_model("vae"), 0
    seed_global(0, CPU)
    model = source.build(data.spec, source.settings({}, data.spec)).eval()
    with torch.no_grad():  # untrained, it does not look at its latents
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    marginal = ops._marginal

    def counted(*arguments: Any) -> Tensor:
        nonlocal batches
        batches += 1
        return marginal(*arguments)

    ops._marginal = counted  # type: ignore[assignment]
    together = measure_likelihood(model, data.test.data[:130], ranks=ranks)
    ops._marginal = marginal
    alone = measure_likelihood(model, data.test.data[:130])
    return {"same": together == alone, "batches": ranks.gathered(batches)}


def how_it_ends(
    ranks: Ranks,
    data: Dataset,
    path: Path,
    cls: type[Plain],
    fail_on: int = -1,
    interrupt: int | None = None,
) -> list[str]:
    """The kinds of error with which `fit` ends on each rank."""

    def build() -> GenerativeModel:
        model = cls(data.spec, PlainSettings(fail_on=fail_on))
        model.rank = ranks.rank
        return model

    seed_global(derive_seed(0, INITIALIZE), CPU)
    trainer = Trainer(build(), data.train, Budget.parse("20steps"), 0, ranks=ranks)
    run: Run = create_run(path, {}, 0) if ranks.is_first else Mirror(path, {}, {})
    interruption = Interruption()
    interruption.requested = interrupt == ranks.rank
    try:
        fit(trainer, run, _Quiet(), interruption)
        kind = "no error"
    except (Diverged, Interrupted, MachineError) as error:
        kind = f"{type(error).__name__} at step {trainer.clock.used.step}"
    return ranks.gathered(kind)


class _Quiet:
    def note(self, message: str) -> None: ...

    def update(self, task: str, fraction: float, detail: str = "") -> None: ...


def lost(ranks: Ranks) -> None:
    """Rank 1 is killed in the middle of a step."""
    data = tiny_data()
    trainer = trainer_of(lambda: Plain(data.spec), data, ranks)
    stepped(trainer, 2)
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    stepped(trainer, 2)


def main() -> None:
    from genzoo.training.distributed import Team  # which needs an extra

    what, out, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    fitting.SHOW_SECONDS = 0.0
    team, path = Team(2, 1, "cpu"), Path(out)
    try:
        with team.joined([]) as ranks:
            found = families(ranks, *rest) if what == "families" else basics(ranks, path)
            (path / f"{ranks.rank}.json").write_text(json.dumps(found))
            if what == "basics":
                lost(ranks)
    except MachineError as error:
        (path / f"lost-{team.rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main()
