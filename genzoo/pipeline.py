"""One run from its beginning to its scores: train, sample, evaluate.

Each stage reads what the stage before it wrote into the run folder, so a run that stopped
anywhere goes on from there.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genzoo import __version__
from genzoo.arguments import train_arguments
from genzoo.data import Dataset, open_dataset
from genzoo.errors import Diverged, GenzooError, InputError, Interrupted
from genzoo.files import slug
from genzoo.illustration import illustrate, is_illustrated
from genzoo.model import GenerativeModel
from genzoo.noise import derive_seed
from genzoo.notebook import listener
from genzoo.progress import Progress, Silent
from genzoo.ranks import ALONE, Ranks
from genzoo.runs import (
    SAMPLES,
    SAMPLES_INFO,
    SAMPLES_PICTURE,
    SCHEMA,
    SCORES,
    Mirror,
    Run,
    create_run,
    is_run,
    is_unused,
    lock,
    open_run,
    remove_leftovers,
    write_json,
)
from genzoo.sampling import draw, sampling_speed
from genzoo.training import find_model, load_model, resolve_device, start_from
from genzoo.training.acceleration import Acceleration, accelerate
from genzoo.training.device import (
    describe_machine,
    isolated_rng,
    limited_threads,
    memory_errors,
    seed_global,
)
from genzoo.training.fit import fit
from genzoo.training.interruption import Interruption
from genzoo.training.loading import ModelSource
from genzoo.training.loggers import Loggers, check_trackers, logging_to
from genzoo.training.loop import DRAW, INITIALIZE, Trainer, check_recipe
from genzoo.types import Budget, SampleOptions

if TYPE_CHECKING:
    from genzoo.evaluation.result import Score
    from genzoo.training.distributed import Team

BATCH_SIZE = 256  # of sampling
# What must agree for a run to go on, and what it is called on the command line.
_AGREE = {
    "model": "--model",
    "model_sha256": "the model's file",
    "settings": "--set",
    "budget": "--budget",
    "seed": "--seed",
    "init": "--init",
    "conditional": "--conditional",
    "samples": "--samples",
    "acceleration": "the computation's",
}
# What may differ when a run goes on, at the price of the last digits.
_MAY_DIFFER = ("threads", "devices", "nodes")


def train(
    model: str | type[GenerativeModel],
    data: str | Dataset = "digits",
    *,
    budget: str | Budget = "60s",
    seed: int = 0,
    out: str | Path | None = None,
    conditional: bool | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    preset: str = "auto",
    precision: str = "auto",
    compiled: bool | None = None,
    channels_last: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    init: str | Path | Run | None = None,
    resume: bool = False,
    evaluate: bool = True,
    samples: int = 1000,
    data_root: str | Path | None = None,
    size: int | None = None,
    threads: int | None = None,
    log: Sequence[str] = (),
    progress: Progress | None = None,
) -> Run:
    """Train a model, draw samples and score them; leave a run folder.

    Args:
        model: a registered name, ``FILE.py:Class`` (which is executed) or a class.
        data: a dataset's name, or an opened dataset.
        budget: ``60s`` of training alone, ``2000steps``, ``200kimg`` or ``1e13flops``.
        seed: decides initial weights, order of the data, and samples.
        out: the run folder; ``runs/<model>-<data>-s<seed>`` where absent.
        conditional: whether the model is shown labels; where absent, if the data have some.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        devices: how many to train on together, on each machine; a process each. Each minibatch is
            shared out among them, so that it stays the size that the model's settings say.
        nodes: how many machines; `torchrun`, SLURM, or the same call on each start the processes.
        preset: size of the model, ``tiny``, ``small`` or ``base``; ``auto`` goes by the data's.
        precision: of training: ``fp32``, ``tf32`` or ``bf16``; ``auto`` goes by the device.
        compiled: whether to compile the networks; where absent, by device and budget.
        channels_last: whether images lie in memory pixel by pixel; where absent, by the device.
        settings: of the model, by name; they come before the preset's.
        init: a run whose weights to start from; the model must have the same parts, as
            ``consistency`` and ``diffusion`` have. What that run cost is recorded.
        resume: go on with the run in `out`; starts one where there is none, and does nothing
            where it is finished.
        evaluate: score the samples at the end.
        samples: how many to draw at the end.
        data_root: where downloaded data lie.
        size: side of the images of a folder.
        threads: of the CPU; torch's choice where absent.
        log: ``tensorboard``, ``wandb``: trackers beside `history.jsonl`.
        progress: told how far it is.

    Returns:
        The run. With several devices, all but the first process return a mirror of it as soon as
        they are not needed any more: before its samples are scored.

    Raises:
        InputError: the call is wrong, or `out` is not empty and `resume` was not asked for.
        Interrupted: by Ctrl-C or SIGTERM; what was done is saved and can be resumed.
        Diverged: training produced numbers that are not finite.
        MachineError: disk or memory ran out.
    """
    counts = (("samples", samples, 1), ("devices", devices, 1), ("nodes", nodes, 1))
    for name, value, least in (("seed", seed, 0), *counts):
        if value < least:
            raise InputError(f"--{name} {value}: must be at least {least}")
    check_trackers(log)
    source, parsed = find_model(model), Budget.parse(budget)
    team = _team(model, data, devices, nodes, device)
    place = resolve_device(device) if team is None else team.device
    follows = team is not None and team.rank > 0
    start = None if init is None else open_run(init)
    implied = {} if start is None else source.cls.with_init
    name = data if isinstance(data, str) else data.name
    path = Path(out) if out is not None else Path("runs") / f"{source.short}-{slug(name)}-s{seed}"
    if not (resume or follows or is_unused(path)):
        what = "holds a run" if is_run(path) else "is not empty"
        raise InputError(f"'{path}' {what}; go on with --resume or choose another --out")
    dataset = (
        data
        if isinstance(data, Dataset)
        else open_dataset(data, data_root, size=size, progress=listener(progress))
    )
    acceleration = accelerate(
        place,
        dataset.spec,
        parsed,
        precision=precision,
        compiled=compiled,
        channels_last=channels_last,
    )
    resolved = source.settings({**implied, **(settings or {})}, dataset.spec, preset)
    if start is not None or team is not None:  # what must fit, before a folder is made
        shown = _conditional(conditional, dataset)
        spec = dataset.spec if shown else dataset.spec.unconditional()
        with isolated_rng(place):
            built = source.build(spec, resolved)
            check_recipe(built.recipe(), built, devices * nodes)
            if start is not None:
                start_from(built, start)
    share = threads if team is None else team.threads(threads)
    with (
        Interruption() as interruption,
        limited_threads(share) as count,
        nullcontext() if follows else lock(path),
    ):
        config = {
            "genzoo": __version__,
            "model": source.name,
            "family": source.family,
            "control": source.control,
            "model_sha256": source.sha256,
            "settings": resolved,
            "data": _describe_data(dataset, data_root, size),
            "budget": str(parsed),
            "seed": seed,
            "init": None if start is None else _describe_start(start),
            "conditional": _conditional(conditional, dataset),
            "device": str(place),
            "threads": count,
            "acceleration": acceleration.to_dict(),
            "samples": samples,
            **_provenance(place),
        }
        if team is not None:
            each = built.recipe().batch_size // team.count
            config |= {"devices": devices, "nodes": nodes, "batch_per_device": each}
        job = _Job(source, dataset, place, interruption, listener(progress), tuple(log), team)
        options = {
            "budget": parsed,
            "seed": seed,
            "conditional": conditional,
            "device": place.type,
            "devices": devices,
            "nodes": nodes,
            "preset": preset,
            "precision": precision,
            "compiled": compiled,
            "channels_last": channels_last,
            "settings": settings or {},
            "init": None if start is None else start.path,
            "samples": samples,
            "data_root": data_root,
            "size": size,
            "threads": count,
        }
        job.repeated = train_arguments(source.name, dataset.name, path, options)
        if follows:
            return job.follow(path, config)
        return job.carry_out(path, config, resume, evaluate)


def _team(
    model: str | type[GenerativeModel],
    data: str | Dataset,
    devices: int,
    nodes: int,
    device: str,
) -> Team | None:
    """The processes of a training on several devices; ``None`` of one."""
    if devices * nodes == 1:
        return None
    if not isinstance(model, str) or not isinstance(data, str):
        raise InputError(
            "devices > 1 needs a model by its name or FILE.py:Class, and the name of a dataset, "
            "which each process opens"
        )
    from genzoo.training.distributed import Team  # which takes seconds to import

    return Team(devices, nodes, device)


@dataclass
class _Job:
    """The stages of one run."""

    source: ModelSource
    dataset: Dataset
    device: torch.device
    interruption: Interruption
    progress: Progress
    log: tuple[str, ...]
    team: Team | None = None
    repeated: Sequence[str] = ()  # words that start another process of it
    shared: GenerativeModel | None = None  # the trained model, once all ranks have it

    def carry_out(self, path: Path, config: dict[str, Any], resume: bool, evaluate: bool) -> Run:
        """Do the stages that are not done yet."""
        run = self._open(path, config, resume)
        self.progress = _Logged(self.progress, run)
        with _recorded(run), logging_to(self.log, run, self.progress) as loggers:
            with self._joined(run) as ranks:
                self._model(run, ranks, loggers)
                likelihood = self._likelihood(run, ranks, evaluate)
            if not (run.finished or is_illustrated(run.path)):
                seed = derive_seed(run.config["seed"], DRAW)
                illustrate(run, self._trained(run), self.dataset, seed, self.progress)
            if evaluate and run.scores() is None:
                loggers.summarize(self._evaluate(run, likelihood))
            if not run.finished:
                run.update_status(state="finished", reason=None)
                self._introduce(run)
        return run

    def follow(self, path: Path, config: dict[str, Any]) -> Run:
        """Be another rank than the first: help with what is shared, and write nothing."""
        run: Run = Mirror(path, config, {"model_sha256": None})
        self.progress, self.log = Silent(), ()
        try:
            with _recorded(run), self._joined(run) as ranks:
                self._model(run, ranks, None)
                self._likelihood(run, ranks, False)
        except (Diverged, Interrupted) as error:  # which ranks agree upon
            error.told = True
            raise
        return run

    @contextmanager
    def _joined(self, run: Run) -> Iterator[Ranks]:
        """The processes that work together; this one where there is nothing left for others."""
        team = self.team
        if team is None or (team.starts_all and run.trained):
            yield ALONE
            return
        with team.joined(self.repeated) as ranks:
            yield ranks

    def _model(self, run: Run, ranks: Ranks, loggers: Loggers | None) -> None:
        """Train and sample, each if it is not done yet."""
        own = run.config
        run.config, run.status = ranks.from_first((run.config, run.status))
        if not ranks.is_first:
            _check_agreement(run, own)
        if not run.trained:
            self._train(run, loggers, ranks)
        if ranks.from_first(ranks.is_first and run.samples_info() is None):
            self._sample(run, ranks)

    def _open(self, path: Path, config: dict[str, Any], resume: bool) -> Run:
        """The run to go on with, or a new one."""
        begun = is_run(path) and (path / "status.json").exists()
        if not begun:
            if not (is_unused(path) or is_run(path)):
                raise InputError(f"'{path}' holds something else than a run; choose another --out")
            if resume:
                self.progress.note(f"there is no run in '{path}' yet: starting one")
            return create_run(path, config, parameters=0)
        run = open_run(path)
        remove_leftovers(path)
        _check_agreement(run, config)
        if run.finished:
            self.progress.note(f"run '{path}' is finished")
        else:
            for name in _MAY_DIFFER:
                was, now = run.config.get(name, 1), config.get(name, 1)
                if was != now:
                    self.progress.note(
                        f"going on with {now} {name} instead of {was}: "
                        "results may differ in the last digits"
                    )
        return run

    def _train(self, run: Run, loggers: Loggers | None, ranks: Ranks) -> None:
        config, seed = run.config, run.config["seed"]
        run.update_status(state="training", reason=None)
        with isolated_rng(self.device), memory_errors("training"):
            model = self._built(run)
            if config.get("init"):
                start_from(model, open_run(config["init"]["run"]))
            model = model.to(self.device)
            run.update_status(parameters=sum(p.numel() for p in model.parameters()))
            budget = Budget.parse(config["budget"])
            trainer = Trainer(
                model,
                self.dataset.train,
                budget,
                seed,
                acceleration=Acceleration(**config.get("acceleration", {})),
                ranks=ranks,
                stream=None if self.dataset.streams is None else self.dataset.streams.train,
            )
            with closing(trainer.batches):
                fit(trainer, run, self.progress, self.interruption, loggers)

    def _sample(self, run: Run, ranks: Ranks) -> None:
        model = self._shared(run, ranks)
        n, seed = run.config["samples"], derive_seed(run.config["seed"], DRAW)
        options = SampleOptions()
        with isolated_rng(self.device), memory_errors("sampling"):
            speed = sampling_speed(model, options) if ranks.is_first else {}
        drawn = draw(
            model,
            n,
            seed=seed,
            batch_size=BATCH_SIZE,
            options=options,
            progress=self.progress,
            ranks=ranks,
        )
        if not ranks.is_first:
            return
        samples = drawn.as_samples(run.spec)
        samples.write_npz(run.path / SAMPLES)
        samples.write_grid_png(run.path / SAMPLES_PICTURE)
        info = {
            "schema": SCHEMA,
            "n": n,
            "seed": seed,
            "steps": options.steps,
            "guidance": options.guidance,
            "seconds": drawn.seconds,
            "nfe": drawn.nfe,
            "samples_per_second": n / drawn.seconds,
            "batch_size": min(BATCH_SIZE, n),
            **speed,
        }
        if ranks.count > 1:
            info["devices"] = ranks.count
        write_json(run.path / SAMPLES_INFO, info)
        run.update_status(state="sampled")

    def _shared(self, run: Run, ranks: Ranks) -> GenerativeModel:
        """The trained model, on every rank; its file is where the first rank is."""
        if ranks.count == 1:
            return self._trained(run)
        if self.shared is None:
            first = ranks.is_first
            model = self._trained(run) if first else self._built(run).to(self.device).eval()
            held = model.state_dict() if first else {}
            model.load_state_dict(ranks.from_first({k: v.cpu() for k, v in held.items()}))
            self.shared = model
        return self.shared

    def _built(self, run: Run) -> GenerativeModel:
        """The model of a run as it is before any training."""
        shown = run.config["conditional"]
        spec = self.dataset.spec if shown else self.dataset.spec.unconditional()
        with isolated_rng(self.device):
            seed_global(derive_seed(run.config["seed"], INITIALIZE), self.device)
            return self.source.build(spec, run.config["settings"])

    def _trained(self, run: Run) -> GenerativeModel:
        own = self.source.cls if ":" in self.source.name else None
        return load_model(run, device=self.device, model=own)

    def _introduce(self, run: Run) -> None:
        from genzoo.evaluation.card import write_card

        write_card(run)

    def _likelihood(self, run: Run, ranks: Ranks, evaluate: bool) -> Score | None:
        """What of the evaluation grows with the model, by all ranks; by one, it is left to it."""
        if ranks.count == 1 or not ranks.from_first(evaluate and run.scores() is None):
            return None
        from genzoo.evaluation.likelihood import likelihood_score

        begun, model = time.perf_counter(), self._shared(run, ranks)
        score = likelihood_score(run, self.dataset, self.device, model, False, self.progress, ranks)
        run.update_status(evaluation_seconds=time.perf_counter() - begun)
        return score

    def _evaluate(self, run: Run, likelihood: Score | None) -> dict[str, Any]:
        from genzoo.evaluation import evaluate

        begun = time.perf_counter()
        result = evaluate(
            run,
            data=self.dataset,
            device=str(self.device),
            progress=self.progress,
            model=self._trained(run),
            likelihood=likelihood,
        )
        scores = result.to_dict()
        write_json(run.path / SCORES, scores)
        before = run.status["evaluation_seconds"] if likelihood is not None else 0.0
        run.update_status(evaluation_seconds=before + time.perf_counter() - begun)
        return scores


class _Logged:
    """Progress whose notes are also kept in the run's log."""

    def __init__(self, inner: Progress, run: Run) -> None:
        """Pass on to `inner`."""
        self._inner, self._run = inner, run

    def note(self, message: str) -> None:
        """Show and keep."""
        self._run.append_log(f"{_now()} {message}")
        self._inner.note(message)

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        """Show."""
        self._inner.update(task, fraction, detail)


@contextmanager
def _recorded(run: Run) -> Iterator[None]:
    """Leave in the status how the stages ended."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        # A full disk must not hide that this was an interruption.
        with suppress(GenzooError):
            run.update_status(state="interrupted", reason="stopped on request")
        where = str(error) or "stopped"
        raise Interrupted(f"{where}; '{run.path}' is saved: go on with --resume") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, GenzooError):
            reason = f"{type(error).__name__}: {reason}"
        with suppress(GenzooError):
            run.update_status(state="failed", reason=reason)
            run.append_log(f"{_now()} failed: {reason}")
        raise


def _conditional(asked: bool | None, dataset: Dataset) -> bool:
    labelled = dataset.spec.num_classes > 0
    if asked and not labelled:
        raise InputError(f"--conditional: dataset '{dataset.name}' has no labels")
    return labelled if asked is None else asked


def _check_agreement(run: Run, config: Mapping[str, Any]) -> None:
    """A run goes on only as it began.

    Raises:
        InputError: names what differs.
    """
    was, now = ({**c, "data": c["data"]["fingerprint"]} for c in (run.config, config))
    for key, shown in {"data": "--data (its content)", **_AGREE}.items():
        old, new = was.get(key), now[key]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            first = next(k for k in {**old, **new} if old.get(k) != new.get(k))
            old, new, shown = old.get(first), new.get(first), f"{shown} {first}"
        raise InputError(
            f"run '{run.path}' was begun with {shown} = {str(old):.60}, not {str(new):.60}; "
            "repeat the call that began it, or choose another --out"
        )


def _describe_start(run: Run) -> dict[str, Any]:
    """Whose weights a run starts from, and what they cost."""
    run.weights()  # or the reason why there are none
    cost = {name: run.status[name] for name in ("seconds", "images", "flops")}
    told = {"run": str(run.path), "model": run.model, "budget": run.config["budget"]}
    return {**told, "model_sha256": run.status["model_sha256"], **cost}


def _describe_data(dataset: Dataset, root: str | Path | None, size: int | None) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "root": None if root is None else str(Path(root).resolve()),
        "size": size,
        "fingerprint": dataset.fingerprint,
        "spec": dataset.spec.to_dict(),
        "class_names": list(dataset.class_names),
    }


def _provenance(device: torch.device) -> dict[str, Any]:
    packages = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors")
    versions = {"python": platform.python_version()}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "command": [str(part) for part in sys.argv],
        "versions": versions,
        "machine": describe_machine(device),
        "git": _git_state(),
        "created": _now(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether it has changes, where it is a repository."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no")
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
