"""From a trained model to samples, with what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.data import open_dataset
from genzoo.data.ranges import to_display
from genzoo.errors import InputError, unknown
from genzoo.model import Denoiser, GenerativeModel
from genzoo.notebook import listener
from genzoo.progress import Progress
from genzoo.ranks import ALONE, Ranks
from genzoo.runs import Run, disk_errors, open_run
from genzoo.samples import SampleSet
from genzoo.strips import STRIPS, interpolation, manifold, reconstruction, trajectory
from genzoo.training import load_model, resolve_device
from genzoo.training.device import memory_errors, synchronize
from genzoo.types import DataSpec, SampleOptions

SPEED_SECONDS, SPEED_CALLS = 0.3, 3  # of a batch size: until either is used up


@dataclass(frozen=True)
class Drawn:
    """Samples and their cost.

    Attributes:
        raw: uint8 levels (n, C, H, W), or float32 points (n, D) in data units.
        labels: (n,) int64, or ``None`` of an unconditional model.
        seconds: wall time of drawing.
        nfe: network evaluations a sample: the most forward calls that any module with
            parameters of its own gets for one batch; 0 for models without such modules.
    """

    raw: Tensor
    labels: Tensor | None
    seconds: float
    nfe: int

    def as_samples(self, spec: DataSpec) -> SampleSet:
        """For files and evaluation: images (n, H, W, C) in 0 … 255, or points."""
        labels = None if self.labels is None else self.labels.numpy()
        if spec.is_image:
            images = to_display(self.raw, spec).permute(0, 2, 3, 1).contiguous().numpy()
            return SampleSet(images=images, labels=labels)
        return SampleSet(points=self.raw.numpy(), labels=labels)


def draw(
    model: GenerativeModel,
    n: int,
    *,
    seed: int,
    cond: Mapping[str, Tensor] | None = None,
    batch_size: int = 256,
    options: SampleOptions = SampleOptions(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Drawn:
    """Draw samples and measure what they cost.

    Several ranks take turns with the batches, which stay what they are in one process; so each
    sample is the same to the last digit.

    Args:
        model: trained, on its device.
        n: how many.
        seed: sample i of a seed is always the same.
        cond: n conditions each; drawn with the training frequencies where absent.
        batch_size: how many at a time.
        options: solver steps, guidance, temperature.
        progress: told after each batch.
        ranks: the processes that share the work; the first one gets all samples, the others what
            they drew.
    """
    progress = listener(progress)
    if cond is None:
        cond = model.draw_cond(n, seed)
    parts, nfe, seconds = dict[int, Tensor](), 0, 0.0
    with memory_errors("sampling"):
        for start in range(ranks.rank * batch_size, n, ranks.count * batch_size):
            stop = min(start + batch_size, n)
            some = {k: v[start:stop] for k, v in cond.items()}
            begun = time.perf_counter()
            with _forward_calls(model, counting=start == 0) as calls:
                parts[start] = model.sample(
                    stop - start, cond=some, seed=seed, start=start, options=options
                )
            synchronize(model.device)
            seconds += time.perf_counter() - begun
            nfe = max([nfe, *calls.values()])
            done = min(n, start + ranks.count * batch_size)
            progress.update("sampling", done / n, f"{done / seconds:,.0f} samples/s")
    for theirs, their_seconds in ranks.to_first((parts, seconds)):
        parts, seconds = parts | theirs, max(seconds, their_seconds)
    raw = torch.cat([parts[k] for k in sorted(parts)]) if parts else torch.empty(0)
    return Drawn(raw, cond.get("label"), seconds, nfe)


def sampling_speed(
    model: GenerativeModel,
    options: SampleOptions = SampleOptions(),  # noqa: B008  (frozen)
) -> dict[str, float]:
    """How long somebody waits for a first sample, and how fast samples come after it.

    Returns:
        ``first_sample_seconds`` of the first call of all, and ``samples_per_second_1`` and
        ``samples_per_second_64`` at those batch sizes, of the fastest of a few calls.
    """

    def seconds(n: int) -> float:
        begun = time.perf_counter()
        model.sample(n, seed=0, options=options)
        synchronize(model.device)
        return time.perf_counter() - begun

    found = {"first_sample_seconds": seconds(1)}
    for n in (1, 64):
        fastest, spent = float("inf"), 0.0
        while spent < SPEED_SECONDS and spent < SPEED_CALLS * fastest:
            took = seconds(n)
            fastest, spent = min(fastest, took), spent + took
        found[f"samples_per_second_{n}"] = n / fastest
    return found


def sample(
    run: str | Path | Run,
    n: int = 64,
    *,
    seed: int = 0,
    labels: str | Sequence[int] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    temperature: float | None = None,
    sampler: str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    guide: str | Path | Run | None = None,
    show: str | None = None,
    batch_size: int = 256,
    device: str = "auto",
    out: str | Path | None = None,
    model: str | type[GenerativeModel] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> SampleSet:
    """Draw from a trained run.

    Args:
        run: a run folder.
        n: how many, at least 1.
        seed: sample i of a seed is always the same, whatever `n` and `batch_size`.
        labels: ``"3,7"`` or ``[3, 7]``, which take turns; drawn with the training frequencies
            where absent.
        steps: solver steps; the model's default where absent.
        guidance: classifier-free guidance weight, 1 is none.
        temperature: scale of the prior's noise.
        sampler: a key of `genzoo.samplers.SAMPLERS`; the model's default where absent.
        guidance_interval: noise levels σ between which guidance acts; all where absent.
        guide: the run of a worse denoiser of the same data, which guidance leads away from.
        show: ``trajectory``, ``interpolate``, ``manifold`` or ``reconstruct``: `n` rows of
            pictures of `genzoo.strips` in the place of samples, one picture after the other.
        batch_size: how many at a time.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        out: ``.png`` for a grid, ``.npz``, or a folder for a PNG each; nothing where absent.
        model: see `genzoo.load_model`.
        trust: see `genzoo.load_model`.
        progress: told how far it is.

    Raises:
        InputError: the run, a label, an option or `out` is unusable.
    """
    for name, value, least in (("n", n, 1), ("batch-size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{name} {value}: must be at least {least}")
    run = open_run(run)
    kind = None if out is None else _kind_of_output(Path(out), run.spec)
    place = resolve_device(device)
    weak = None if guide is None else _open_guide(guide, run, place)
    options = SampleOptions(steps, guidance, temperature, sampler, guidance_interval, weak)
    net = load_model(run, device=place, model=model, trust=trust)
    cond = None if labels is None else chosen_labels(net.spec, labels, n)
    if show is not None:
        return _show(net, run, show, n, seed, cond, options, out, kind)
    drawn = draw(
        net,
        n,
        seed=seed,
        cond=cond,
        batch_size=batch_size,
        options=options,
        progress=progress,
    )
    samples = drawn.as_samples(run.spec)
    if out is not None:
        _write(samples, Path(out), kind, run.config["data"]["class_names"], n)
    return samples


def _open_guide(guide: str | Path | Run, run: Run, place: torch.device) -> Denoiser:
    """A denoiser that fits the run's."""
    net = load_model(guide, device=place)
    shown = guide.path if isinstance(guide, Run) else guide
    if not isinstance(net, Denoiser):
        raise InputError(f"--guide {shown}: {type(net).__name__} is no denoiser")
    if (net.spec.shape, net.spec.cond) != (run.spec.shape, run.spec.cond):
        raise InputError(f"--guide {shown}: was trained on items of another shape, or other labels")
    return net


def _show(
    net: GenerativeModel,
    run: Run,
    show: str,
    n: int,
    seed: int,
    cond: Mapping[str, Tensor] | None,
    options: SampleOptions,
    out: str | Path | None,
    kind: str | None,
) -> SampleSet:
    """Rows of pictures as one set, and written as a grid of that many columns."""
    if show not in STRIPS:
        raise unknown("show", show, STRIPS)
    if show == "trajectory":
        rows = trajectory(net, n, cond=cond, seed=seed, options=options)
    elif show == "interpolate":
        rows = interpolation(net, n, cond=cond, seed=seed)
    elif show == "manifold":
        rows = manifold(net, n, cond=cond, seed=seed)
    else:
        told = run.config["data"]
        test = open_dataset(told["name"], told["root"], size=told["size"]).test
        labelled = net.spec.num_classes and test.labels is not None and cond is None
        known = {"label": test.labels[:n]} if labelled and test.labels is not None else cond
        rows = reconstruction(net, test.data[:n], known)
    flat = Drawn(rows.flatten(0, 1), None, 0.0, 0).as_samples(net.spec)
    if out is not None and kind == "png":
        with disk_errors(Path(out)):
            flat.write_grid_png(out, columns=rows.shape[1], limit=None)
    elif out is not None:
        _write(flat, Path(out), kind, (), len(rows))
    return flat


def chosen_labels(spec: DataSpec, labels: str | Sequence[int], n: int) -> dict[str, Tensor]:
    """`labels` in turn for n samples.

    Raises:
        InputError: the model has no labels, or one of them is none of its labels.
    """
    shown = labels if isinstance(labels, str) else ",".join(map(str, labels))
    if not spec.num_classes:
        raise InputError(f"--labels {shown}: this model was trained without labels")
    try:
        given = (
            [int(part) for part in labels.split(",")] if isinstance(labels, str) else list(labels)
        )
    except ValueError:
        raise InputError(f"--labels {shown}: write whole numbers, for example 3,7") from None
    wrong = [label for label in given if not 0 <= label < spec.num_classes]
    if wrong or not given:
        what = f"{wrong[0]} is not one of them" if wrong else "none is given"
        raise InputError(f"--labels {shown}: labels are 0 to {spec.num_classes - 1}, {what}")
    turns = torch.arange(n) % len(given)
    return {"label": torch.tensor(given, dtype=torch.int64)[turns]}


@contextmanager
def _forward_calls(model: nn.Module, counting: bool) -> Iterator[dict[str, int]]:
    """Forward calls of each module that has parameters of its own."""
    calls: dict[str, int] = {}
    hooks = []

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    if counting:
        for name, module in model.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                hooks.append(module.register_forward_pre_hook(count(name)))
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()


def _kind_of_output(out: Path, spec: DataSpec) -> str:
    """``png``, ``npz`` or ``folder``, before anything is drawn.

    Raises:
        InputError: another kind of file, or points as a folder of images.
    """
    kind = out.suffix.lower().lstrip(".")
    if kind in ("png", "npz") and not out.is_dir():
        return kind
    if kind and not out.is_dir():
        raise InputError(f"--out {out}: must end in .png or .npz, or be a folder")
    if not spec.is_image:
        raise InputError(f"--out {out}: points cannot be a folder of images; write an .npz or .png")
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--out {out}: is not an empty folder; choose a new one")
    return "folder"


def _write(
    samples: SampleSet, out: Path, kind: str | None, class_names: Sequence[str], n: int
) -> None:
    with disk_errors(out):
        if kind == "npz":
            samples.write_npz(out)
        elif kind == "png":
            samples.write_grid_png(out, limit=n)
        else:
            samples.write_folder(out, class_names)
