"""``genzoo course figures``: train the student's model and draw what the report asks for."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from torch import Tensor

from genzoo.course.assignment import REPORT, Assignment, open_assignment
from genzoo.course.blanks import open_blanks
from genzoo.course.checking import limited_threads, load, read_model
from genzoo.data import open_dataset
from genzoo.data.dataset import Dataset
from genzoo.data.ranges import to_model
from genzoo.errors import InputError, Interrupted, unknown
from genzoo.files import file_sha256, write_bytes, write_json
from genzoo.model import GenerativeModel
from genzoo.notebook import listener
from genzoo.pipeline import train
from genzoo.progress import Progress
from genzoo.runs import Run
from genzoo.training import load_model

WORK = "work"
"""Folder of the runs; it is not handed in."""
_CARD = re.compile(r"(<!-- card -->\n).*?(<!-- end of card -->)", re.DOTALL)


@dataclass
class Studio:
    """Where a kit draws: the trained model, its data, and a place for the pictures.

    Attributes:
        assignment: of the student.
        module: the student's file.
        run: of the training.
        model: trained.
        data: that it was trained on.
        progress: told how far it is.
        device: of trainings; what is drawn is worked out on the CPU.
        prefix: of the pictures' names.
        numbers: for the report, by name.
        drawn: names of the pictures.
    """

    assignment: Assignment
    module: ModuleType
    run: Run
    model: GenerativeModel
    data: Dataset
    progress: Progress
    device: str = "cpu"
    prefix: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)

    @property
    def choices(self) -> Mapping[str, Any]:
        """Of the variant."""
        return self.assignment.choices

    def test(self, n: int) -> Tensor:
        """Held-out items in model space, (n, *shape)."""
        return to_model(self.data.test.data[:n], self.data.spec)

    def test_labels(self, n: int) -> dict[str, Tensor]:
        """Their conditions."""
        labels = self.data.test.labels
        return {} if labels is None else {"label": labels[:n]}

    def curves(self, parts: Sequence[str] | None = None) -> None:
        """The losses over the steps, as ``curves.png``.

        Args:
            parts: which, as ``phase/part``; all of them where absent.
        """
        history = self.run.history()
        names = list(parts or dict.fromkeys(k for e in history for k in e["loss"]))
        figure, axes = canvas(1, 1, (6, 3.4))
        for name in names:
            points = [(e["step"], e["loss"][name]) for e in history if name in e["loss"]]
            axes[0].plot(*zip(*points, strict=True), label=name.removeprefix("main/"))
        axes[0].set_xlabel("step")
        axes[0].set_ylabel("loss")
        axes[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        self.save("curves", figure)

    def images(self, name: str, x: Tensor, columns: int) -> None:
        """A grid of images in model space, (N, C, H, W), row by row."""
        shown = _pixels(x)
        rows = -(-len(shown) // columns)
        height, width = shown.shape[1:3]
        grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), 255, np.uint8)
        for i, image in enumerate(shown):
            y, x0 = (i // columns) * (height + 1), (i % columns) * (width + 1)
            grid[y : y + height, x0 : x0 + width] = image
        figure, axes = canvas(1, 1, (0.55 * columns, 0.55 * rows))
        axes[0].imshow(grid, cmap="gray", interpolation="nearest", vmin=0, vmax=255)
        axes[0].axis("off")
        self.save(name, figure)

    def points(self, name: str, clouds: Sequence[tuple[str, Tensor]]) -> None:
        """Clouds of points in model space, (N, 2) each, side by side in one frame."""
        figure, axes = canvas(1, len(clouds), (2.6 * len(clouds), 2.8))
        limit = 1.1 * max(float(c.detach().abs().quantile(0.995)) for _, c in clouds)
        for place, (title, cloud) in zip(axes, clouds, strict=True):
            place.scatter(*cloud.detach().cpu().T, s=3, alpha=0.5, linewidths=0)
            place.set_title(title, fontsize=10)
            place.set_aspect("equal")
            place.set_xlim(-limit, limit)
            place.set_ylim(-limit, limit)
        self.save(name, figure)

    def lines(
        self, name: str, across: str, up: str, series: Mapping[str, Sequence[tuple[float, float]]],
        *, logarithmic: bool = False,
    ) -> None:  # fmt: skip
        """Curves of (x, y) by label."""
        figure, axes = canvas(1, 1, (6, 3.4))
        for label, points in series.items():
            axes[0].plot(*zip(*points, strict=True), marker="o", label=label)
        axes[0].set_xlabel(across)
        axes[0].set_ylabel(up)
        if logarithmic:
            axes[0].set_xscale("log")
        if len(series) > 1:
            axes[0].legend(frameon=False)
        self.save(name, figure)

    def save(self, name: str, figure: Canvas) -> None:
        """Write ``figures/NAME.png``."""
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=120, metadata={"Software": None})
        file = f"figures/{self.prefix}{name}.png"
        write_bytes(self.assignment.folder / file, buffer.getvalue())
        self.drawn.append(file)
        self.progress.note(file)


def canvas(rows: int, columns: int, size: tuple[float, float]) -> tuple[Canvas, list[Any]]:
    """A figure with a grid of axes, row by row."""
    figure = Canvas(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def _pixels(x: Tensor) -> np.ndarray:
    """(N, 1, H, W) in [-1, 1] to (N, H, W) uint8."""
    levels = ((x.detach().cpu()[:, 0].clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.asarray(levels.numpy())


def figures(
    folder: str | Path = ".",
    *,
    fresh: bool = False,
    data: str | None = None,
    data_root: str | Path | None = None,
    steps: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the student's model and put every plot and number into the report.

    A training of the same file is not repeated.

    Args:
        folder: with ``assignment.toml``. The student's file is executed.
        fresh: whether to train again.
        data: other data than the assignment's: one of the kit's ``harder``. Its pictures and
            numbers get a section of their own at the end of the report.
        data_root: where downloaded data lie or go.
        steps: of training, in the place of the assignment's.
        device: of the training.
        progress: told how far it is.

    Returns:
        The numbers, which are in ``figures/numbers.json`` and in the report's card, too.

    Raises:
        InputError: no assignment, no such data, or blanks that are not filled in.
        Interrupted: on request; the same call goes on.
    """
    assignment, progress = open_assignment(folder), listener(progress)
    own = str(assignment.choices.get(assignment.kit.data, assignment.kit.data))
    harder = None if data is None or data == own else data
    if harder is not None and harder not in assignment.kit.harder:
        raise unknown("data", harder, [own, *assignment.kit.harder])
    todo = open_blanks(read_model(assignment))
    if todo:
        listed = ", ".join(str(blank.number) for blank in todo)
        raise InputError(f"blanks {listed} are not filled in yet; see: genzoo course check")
    usual = assignment.steps if harder is None else assignment.kit.harder[harder]
    assignment = replace(assignment, steps=usual if steps is None else steps)
    opened = open_dataset(harder or own, data_root)
    with limited_threads(assignment.threads):
        try:
            studio = _studio(assignment, opened, fresh, device, progress)
            studio.prefix = f"{harder}-" if harder else ""
            numbers = assignment.kit.figures(studio)
        except Interrupted:
            again = "stopped; what is trained is kept: the same call goes on"
            raise Interrupted(again) from None
    if harder:
        _harder_into_report(assignment, harder, studio.drawn, numbers)
    else:
        write_json(assignment.folder / "figures" / "numbers.json", {"schema": 1, **numbers})
        _into_report(assignment, numbers)
    return numbers


def _studio(
    assignment: Assignment, data: Dataset, fresh: bool, device: str, progress: Progress
) -> Studio:
    how = f"{data.name}-{assignment.steps}-{file_sha256(assignment.model)[:12]}"
    place = assignment.folder / WORK / f"run-{how}"
    if fresh and place.exists():
        number = 2
        while place.with_name(f"{place.name}-{number}").exists():
            number += 1
        place = place.with_name(f"{place.name}-{number}")
    run = train(
        f"{assignment.model}:Model", data, budget=f"{assignment.steps}steps", out=place,
        resume=True, evaluate=False, samples=1000, threads=assignment.threads, device=device,
        precision="fp32", progress=progress,
    )  # fmt: skip
    model = load_model(run, device=torch.device("cpu"), trust=True)
    studio = Studio(assignment, load(assignment.model), run, model, data, progress, device)
    machine = run.config["machine"]
    studio.numbers |= {
        "parameters": run.status["parameters"],
        "steps": run.status["step"],
        "seconds": round(run.status["seconds"], 1),
        "items per second": round(run.status["images_per_second"]),
        "threads": assignment.threads,
        "processor": machine.get("processor") or "unknown",
    }
    return studio


def _into_report(assignment: Assignment, numbers: Mapping[str, Any]) -> None:
    """Put the numbers between the report's marks, if the student has kept them."""
    text = _report(assignment)
    if not _CARD.search(text):
        text += "\n## Compute card\n\n<!-- card -->\n<!-- end of card -->\n"
    filled = _CARD.sub(lambda found: f"{found[1]}{_card(numbers)}\n{found[2]}", text, count=1)
    write_bytes(assignment.folder / REPORT, filled.encode())


def _harder_into_report(
    assignment: Assignment, data: str, drawn: Sequence[str], numbers: Mapping[str, Any]
) -> None:
    """Put pictures and numbers of other data into a section of their own."""
    begin, end = f"<!-- {data} -->\n", f"<!-- end of {data} -->\n"
    alts = {figure.name: figure.alt for figure in assignment.kit.drawn}
    pictures = [f"![{alts.get(Path(f).stem[len(data) + 1 :], data)}]({f})" for f in drawn]
    section = "\n".join([*pictures, "", _card(numbers), ""])
    head, _, rest = _report(assignment).partition(begin)
    if rest:
        rest = rest.partition(end)[2]
    else:
        head = f"{head.rstrip()}\n\n## Harder: {data}\n\nTODO What is different here, and why?\n\n"
    write_bytes(assignment.folder / REPORT, f"{head}{begin}{section}{end}{rest}".encode())


def _report(assignment: Assignment) -> str:
    path = assignment.folder / REPORT
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _card(numbers: Mapping[str, Any]) -> str:
    rows = [f"| {_shown(name)} | {_shown(value)} |" for name, value in numbers.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")
