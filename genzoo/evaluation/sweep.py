"""Quality along one knob: solver steps, guidance, or the training itself.

Every point is drawn with the same noise and the same labels and judged like any samples, so that
points differ by what was changed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from genzoo.data import open_dataset
from genzoo.errors import InputError, unknown
from genzoo.evaluation.catalogue import METRICS
from genzoo.evaluation.suite import evaluate
from genzoo.files import read_json, write_json
from genzoo.model import GenerativeModel
from genzoo.notebook import listener
from genzoo.progress import Progress
from genzoo.runs import SCHEMA, SWEEPS, Run, is_run, open_run
from genzoo.sampling import draw
from genzoo.training import load_model, resolve_device
from genzoo.training.snapshots import load_snapshot, moment, snapshots
from genzoo.types import SampleOptions

VALUES: Mapping[str, Sequence[float]] = {
    "steps": (1, 2, 4, 8, 16, 32, 64),
    "guidance": (0.5, 1, 1.5, 2, 3, 5),
    "training": (),
}
"""Where the knob is put if nothing else is asked for."""
GROUPS = ("fidelity", "diversity", "modes", "memorization")
Point = tuple[Any, SampleOptions]


def sweep(
    run: str | Path | Run,
    over: str,
    *,
    values: Sequence[float] | None = None,
    n: int = 1000,
    seed: int = 0,
    device: str = "auto",
    model: type[GenerativeModel] | str | None = None,
    trust: bool = False,
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> dict[str, Any]:
    """Draw and judge samples at several positions of a knob; write ``sweeps.json``.

    Args:
        run: a trained run.
        over: ``steps`` of the solver, ``guidance`` weight, or ``training``: the snapshots that the
            run took on its way, and its end.
        values: positions of the knob; `VALUES` where absent. Not for ``training``.
        n: samples at each position.
        seed: of the samples.
        device: where to draw and judge.
        model: see `genzoo.load_model`.
        trust: see `genzoo.load_model`.
        progress: told of each position.
        cache: see `genzoo.evaluate`.

    Returns:
        The entry of ``sweeps.json`` (see ``SCHEMA.md``); it takes the place of an earlier one.

    Raises:
        InputError: no such knob, or this model does not have it.
    """
    if over not in VALUES:
        raise unknown("sweep", over, VALUES)
    if n < 1:
        raise InputError(f"--n {n}: must be at least 1")
    progress = listener(progress)
    run = open_run(run)
    told = run.config["data"]
    dataset = open_dataset(told["name"], told["root"], size=told["size"])
    if dataset.fingerprint != told["fingerprint"]:
        raise InputError(f"run '{run.path}' was trained on other data than '{dataset.name}' is now")
    net = load_model(run, device=resolve_device(device), model=model, trust=trust)
    cond, points, task = net.draw_cond(n, seed), [], f"{run.name}: sweep over {over}"
    total = len(snapshots(run)) + 1 if over == "training" else len(values or VALUES[over])
    for number, (value, options) in enumerate(_positions(run, net, over, values)):
        progress.update(task, number / total, _shown(value))
        drawn = draw(net, n, seed=seed, cond=cond, options=options, progress=progress)
        found = evaluate(drawn.as_samples(net.spec), dataset, device=device, cache=cache)
        kept = {name: s for name, s in found.metrics.items() if METRICS[name].group in GROUPS}
        points.append(
            {
                "value": value,
                "nfe": drawn.nfe,
                "seconds": drawn.seconds,
                "metrics": {name: score.to_dict() for name, score in kept.items()},
            }
        )
    entry = {"n": n, "seed": seed, "points": points}
    _write(run, over, entry)
    progress.update(task, 1.0)
    return entry


def sweep_all(sources: Sequence[str | Path], over: str, **how: Any) -> dict[str, dict[str, Any]]:
    """`sweep` for runs and for all models of comparisons.

    Models of a comparison that do not have the knob are passed over with a note.

    Args:
        sources: run folders and comparison folders.
        over: as in `sweep`.
        how: the other arguments of `sweep`.

    Returns:
        The entries by run folder.

    Raises:
        InputError: like `sweep`; or no run of a comparison has the knob.
    """
    progress = listener(how.get("progress"))
    found: dict[str, dict[str, Any]] = {}
    for source in map(Path, sources):
        if is_run(source):
            found[str(source)] = sweep(source, over, **how)
            continue
        runs = [path for path in sorted(source.glob("runs/*")) if is_run(path)]
        refused = ""
        for path in runs:
            if open_run(path).config["control"]:
                continue
            try:
                found[str(path)] = sweep(path, over, **how)
            except InputError as error:
                refused = str(error)
                progress.note(refused)
        if not any(str(path) in found for path in runs):
            raise InputError(refused or f"'{source}' is neither a run nor a comparison with runs")
    return found


def _positions(
    run: Run, net: GenerativeModel, over: str, values: Sequence[float] | None
) -> Iterator[Point]:
    """Each position, with the model set to it while it is used."""
    if over == "training":
        if values is not None:
            raise InputError("--values: a sweep over the training takes the run's own snapshots")
        yield from _moments(run, net)
        return
    make: Callable[[float], SampleOptions] = {
        "steps": lambda value: SampleOptions(steps=int(value)),
        "guidance": lambda value: SampleOptions(guidance=value),
    }[over]
    chosen = VALUES[over] if values is None else values
    if not chosen or (over == "steps" and any(value != int(value) for value in chosen)):
        raise InputError("--values: give whole numbers of steps, for example 1,4,16")
    options = [make(value) for value in chosen]
    _refuse_idle(run, net, over, make)
    for value, option in zip(chosen, options, strict=True):
        yield int(value) if over == "steps" else float(value), option


def _moments(run: Run, net: GenerativeModel) -> Iterator[Point]:
    taken = snapshots(run)
    if not taken:
        raise InputError(
            f"run '{run.path}' took no snapshots on its way (it was trained by an earlier genzoo, "
            "is not trained step by step, or its model is too large); train it again"
        )
    final = {k: v.detach().clone() for k, v in net.state_dict().items()}
    for snapshot in taken:
        load_snapshot(net, run, snapshot)
        yield moment(snapshot), SampleOptions()
    net.load_state_dict(final)
    end = ("step", "images", "seconds", "flops", "progress")
    yield {key: run.status[key] for key in end}, SampleOptions()


def _refuse_idle(
    run: Run, net: GenerativeModel, over: str, make: Callable[[float], SampleOptions]
) -> None:
    """Refuse a knob that changes nothing, by turning it."""
    few, many = (net.sample(4, seed=0, options=make(value)) for value in (1, 3))
    if torch.equal(few, many):
        raise InputError(f"run '{run.path}': {run.model} samples without {over}; nothing to sweep")


def read_sweeps(run: Run) -> dict[str, Any]:
    """All sweeps of a run by name; empty where it has none."""
    path = run.path / SWEEPS
    found = read_json(path, SCHEMA).get("sweeps") if path.exists() else {}
    return dict(found) if isinstance(found, dict) else {}


def _write(run: Run, over: str, entry: Mapping[str, Any]) -> None:
    sweeps = {**read_sweeps(run), over: entry}
    fingerprint = run.config["data"]["fingerprint"]
    content = {"schema": SCHEMA, "kind": "sweeps", "data_fingerprint": fingerprint}
    write_json(run.path / SWEEPS, {**content, "sweeps": sweeps})


def _shown(value: Any) -> str:
    return f"{value['progress']:.0%}" if isinstance(value, dict) else f"{value:g}"
