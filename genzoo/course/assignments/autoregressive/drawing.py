"""The figures of autoregression: curves, samples, completions, bits of each pixel."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genzoo.course.studio import Studio, canvas
from genzoo.data.dataset import Split
from genzoo.model import evaluating
from genzoo.noise import NoiseSource
from genzoo.training.snapshots import load_snapshot, snapshots
from genzoo.types import SampleOptions


def _sheet(images: Tensor, hidden: Tensor | None = None) -> np.ndarray:
    """Tiles with white lines between them, RGB: (R, C, 8, 8) levels; what is hidden is blue."""
    rows, columns, height, width = images.shape
    tiles = (images.float() / 16)[..., None].repeat(1, 1, 1, 1, 3)
    if hidden is not None:
        tiles[hidden] = torch.tensor([0.55, 0.75, 0.95])
    sheet = torch.ones(rows, height + 1, columns, width + 1, 3)
    sheet[:, :height, :, :width] = tiles.permute(0, 2, 1, 3, 4)
    flat = sheet.reshape(rows * (height + 1), columns * (width + 1), 3)
    return np.asarray(flat[:-1, :-1])


def _one_of_each(labels: Tensor) -> Tensor:
    """The index of the first item of each of the ten labels."""
    return torch.stack([(labels == label).nonzero()[0, 0] for label in range(10)])


def _draw_samples(studio: Studio) -> None:
    data, labels = studio.data.test.data, studio.data.test.labels
    assert labels is not None
    real = torch.stack([data[labels == label][:4, 0] for label in range(10)], 1)
    wanted = {"label": torch.arange(10).repeat(4)}
    drawn = [
        studio.model.sample(40, cond=wanted, seed=1, options=SampleOptions(temperature=t))
        for t in (1.0, 0.7)
    ]
    figure, axes = canvas(3, 1, (4.6, 6.6))
    titles = ("held-out digits", "samples, temperature 1", "samples, temperature 0.7")
    sheets = (real, *(x.reshape(4, 10, 8, 8) for x in drawn))
    for place, title, sheet in zip(axes, titles, sheets, strict=True):
        place.imshow(_sheet(sheet), interpolation="nearest")
        place.set_title(title, fontsize=10)
        place.axis("off")
    studio.save("samples", figure)


def _draw_completions(studio: Studio) -> None:
    """Held-out digits, their first half, and four ways to go on."""
    model: Any = studio.model
    labels = studio.data.test.labels
    assert labels is not None
    chosen = _one_of_each(labels)
    levels = studio.data.test.data[chosen].flatten(1).long()
    pixels, known, ways = 64, 32, 4
    one = studio.choices["sampling"] == "inverse-cdf"
    noise = NoiseSource(1, 0, 10 * ways)
    uniform = noise.uniform(pixels) if one else noise.uniform(pixels, 17)
    with evaluating(model), torch.no_grad():
        cond = {"label": labels[chosen].repeat(ways)}
        found = model.complete(levels.repeat(ways, 1), known, uniform, cond, 1.0)
    rows = torch.cat([levels[None], levels[None], found.reshape(ways, 10, pixels)])
    hidden = torch.zeros(rows.shape, dtype=torch.bool)
    hidden[1][:, model.order[known:]] = True
    shape = (ways + 2, 10, 8, 8)
    figure, axes = canvas(1, 1, (5.6, 3.1))
    axes[0].imshow(_sheet(rows.reshape(shape), hidden.reshape(shape)), interpolation="nearest")
    names = ("held out", "first half", *("completed" for _ in range(ways)))
    axes[0].set_yticks([9 * i + 3.5 for i in range(len(names))], names, fontsize=9)
    axes[0].set_xticks([])
    axes[0].tick_params(length=0)
    axes[0].spines[:].set_visible(False)
    studio.save("completions", figure)


def _draw_bits(studio: Studio, each: Tensor, context: Tensor) -> None:
    """Bits of each pixel on held-out digits, without and with the pixels before it."""
    figure, axes = canvas(1, 2, (7, 3))
    top = math.log2(17)
    titles = ("each pixel for itself", "given those before it")
    for place, title, values in zip(axes, titles, (each, context), strict=True):
        shown = place.imshow(values.reshape(8, 8), cmap="viridis", vmin=0, vmax=top)
        place.set_title(f"{title}: {float(values.mean()):.2f} bits", fontsize=10)
        place.axis("off")
    figure.colorbar(shown, ax=axes, label="bits")
    studio.save("bits", figure)


def _bits_of(model: Any, split: Split) -> float:
    """Bits a pixel of digits given their labels, without dropout."""
    assert split.labels is not None
    with evaluating(model), torch.no_grad():
        log_p = model.log_prob(split.data, {"label": split.labels}, None)
    return -float(log_p.mean()) / (64 * math.log(2))


def _draw_curves(studio: Studio, known: dict[str, float]) -> None:
    """The loss over the steps, and what the snapshots on the way say of both splits."""
    figure, axes = canvas(1, 1, (6, 3.6))
    history = [
        (entry["step"], entry["loss"]["main/bits_per_dim"]) for entry in studio.run.history()
    ]
    axes[0].plot(*zip(*history, strict=True), color="C0", label="training batches, with dropout")
    stages: list[tuple[int, Any]] = []
    for snapshot in snapshots(studio.run):
        early = copy.deepcopy(studio.model)
        load_snapshot(early, studio.run, snapshot)
        stages.append((snapshot.step, early))
    stages.append((studio.run.status["step"], studio.model))
    for name, split, color in (
        ("training digits", studio.data.train, "C2"),
        ("held-out digits", studio.data.test, "C3"),
    ):
        points = [(step, _bits_of(model, split)) for step, model in stages]
        axes[0].plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, label=name)
    for style, (name, value) in zip(("--", ":"), known.items(), strict=True):
        axes[0].axhline(value, color="0.45", linestyle=style, label=f"{name}: {value:.2f}")
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("bits a pixel")
    axes[0].set_ylim(0, 4.4)
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    studio.save("curves", figure)


def draw_figures(studio: Studio) -> dict[str, Any]:
    """Curves, samples at two temperatures, completed digits, and where the bits go."""
    model: Any = studio.model
    train, test = studio.data.train, studio.data.test
    assert train.labels is not None and test.labels is not None
    histogram = F.one_hot(train.data.flatten(1).long(), 17).sum(0) + 0.5
    each = -(histogram / histogram.sum(1, keepdim=True)).log2()
    levels = test.data.flatten(1).long()
    alone = each.gather(1, levels.T).mean(1)
    with evaluating(model), torch.no_grad():
        logits = model.logits(levels, {"label": test.labels})
        context = -studio.module.log_masses(logits, levels).mean(0) / math.log(2)
        log_p = [
            model.log_prob(test.data, {"label": torch.full_like(test.labels, label)}, None)
            for label in range(10)
        ]
    of_labels = torch.stack(log_p, 1)
    right = float((of_labels.argmax(1) == test.labels).float().mean())
    nothing, histograms = math.log2(17), float(alone.mean())
    _draw_curves(studio, {"all levels alike": nothing, "each pixel for itself": histograms})
    _draw_samples(studio)
    _draw_completions(studio)
    _draw_bits(studio, alone, context)
    return studio.numbers | {
        "held-out bits a pixel": _bits_of(model, test),
        "training digits, bits a pixel": _bits_of(model, train),
        "each pixel for itself, bits": histograms,
        "all levels alike, bits": nothing,
        "-log P of a held-out digit (nats)": -float(
            of_labels.gather(1, test.labels[:, None]).mean()
        ),
        "held-out digits recognised by Bayes' rule": f"{100 * right:.1f} %",
    }
