"""How results show themselves in a notebook: pieces of the report as HTML without scripts.

Everything is inline (styles, pictures as ``data:``), because notebooks drop the rest, and every
text is escaped.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genzoo.evaluation.catalogue import METRICS
from genzoo.runs import Run
from genzoo.samples import SampleSet, image_grid
from genzoo_reports.collect import collect, number, read_metric
from genzoo_reports.counts import frame
from genzoo_reports.curves import loss_curves
from genzoo_reports.figures import PALETTE, Drawing
from genzoo_reports.pictures import dots
from genzoo_reports.planes import quality_planes
from genzoo_reports.tables import Table, build_table, failures, summary_rows
from genzoo_reports.wording import arrow, digits, title

SHOWN = 40
"""Most samples in a grid."""
_CELL = "padding:2px 10px;text-align:right;border-top:1px solid #8884"
_HEAD = "padding:2px 10px;text-align:left;border-top:1px solid #8884"


def samples_html(samples: SampleSet) -> str:
    """A grid of the first images, or a cloud of the points of the plane."""
    count = f"{len(samples):,} "
    if samples.images is not None:
        _, height, width, channels = samples.images.shape
        kind = "gray" if channels == 1 else "colour"
        told = f"{count}images of {width} × {height} pixels, {kind}"
        picture = np.asarray(image_grid(samples.images[:SHOWN], 10))
        grid = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        times = max(1, 480 // max(grid.width, 1))
        shown = _image(
            grid.resize((grid.width * times, grid.height * times), Image.Resampling.NEAREST), told
        )
    else:
        assert samples.points is not None
        told, shown = f"{count}points in {samples.points.shape[1]} dimensions", ""
        if samples.points.shape[1] == 2:
            cloud = dots(samples.points, frame([samples.points]), PALETTE["s1"], 320)
            shown = _image(Image.fromarray(cloud), told)
    labels = "" if samples.labels is None else f", {len(np.unique(samples.labels))} kinds of labels"
    return f"<div>{shown}<div>{html.escape(told + labels)}</div></div>"


def scores_html(scores: Mapping[str, Any]) -> str:
    """A row a metric of one evaluation: value, interval, what real data score."""
    rows, missing = [], []
    for name, raw in scores["metrics"].items():
        metric = read_metric(name, raw)
        if metric.value is None:
            missing.append(f"{title(name)}: {metric.reason}")
            continue
        known, low, high = METRICS.get(name), metric.low, metric.high
        span = "" if low is None or high is None else f"{digits(low)} … {digits(high)}"
        rows.append(
            (
                f"{title(name)} {arrow(name)}".strip(),
                digits(metric.value, name),
                span,
                "" if metric.floor is None else digits(metric.floor, name),
                known.explanation if known else "",
            )
        )
    head = ("metric", "value", "95 % interval", "real data", "")
    named = f"{scores['model']} on {scores['data']}, {scores['n']:,} samples"
    absent = _folded("not evaluated", missing)
    return f"<div><b>{html.escape(named)}</b>{_table(head, rows)}{absent}</div>"


def run_html(run: Run) -> str:
    """How far a run is, its samples, scores and losses."""
    status = run.status
    seconds = number(status.get("seconds")) or 0.0
    data = run.config["data"]["name"]
    told = f"{run.model} on {data}: {status['state']}, {status['step']:,} steps, {seconds:.1f} s"
    parts = [f"<b>{html.escape(told)}</b>"]
    if status.get("reason"):
        parts.append(f"<div>{html.escape(str(status['reason']))}</div>")
    samples, scores = run.samples(), run.scores()
    if samples is not None:
        parts.append(samples_html(samples))
    if (run.path / "history.jsonl").exists():
        parts.append(_drawings(loss_curves(build_table(collect([run.path])))))
    if scores is not None:
        parts.append(scores_html(scores))
    return f"<div>{''.join(parts)}<div><code>{html.escape(str(run.path))}</code></div></div>"


def comparison_html(path: Path, runs: Sequence[Path], report: Path) -> str:
    """The scorecard of a comparison, samples of each model, quality against cost."""
    table = build_table(collect([*runs, path]))
    rows = summary_rows(table)
    best, names = rows["best"], rows["metrics"]
    body = [
        (label, *(_marked(c, best.get(n) == label) for n, c in zip(names, cells, strict=True)))
        for label, *cells in rows["rows"]
    ]
    beside = ([rows["floor"]] if rows["floor"] else []) + rows["controls"]
    body += [(label, *map(html.escape, cells)) for label, *cells in beside]
    failed = _folded("failed runs", [f"{name}: {why}" for name, why in failures(table)])
    card = _table(rows["header"], body, safe_from=1)
    return (
        f"<div>{card}<div>Mean ± half of the 95 % interval over seeds. ✓ best, supported by a "
        f"test.</div>{failed}{_strips(table)}{_drawings(quality_planes(table))}"
        f"<div>report: <code>{html.escape(str(report))}</code></div></div>"
    )


def _marked(cell: str, best: bool) -> str:
    return f"<b>✓ {html.escape(cell)}</b>" if best else html.escape(cell)


def _strips(table: Table) -> str:
    """Ten samples of each contender."""
    shown = []
    for model in table.contenders:
        runs = [run.run for run in model.whole if run.run is not None]
        samples = runs[0].samples() if runs else None
        if samples is None or samples.images is None:
            continue
        grid = np.asarray(image_grid(samples.images[:10], 10))
        image = Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)
        times = max(1, 360 // max(image.width, 1))
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
        alt = f"ten samples of {model.label}"
        shown.append(f"<div>{html.escape(model.label)}<br>{_image(image, alt)}</div>")
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(shown)}</div>'


def _drawings(drawings: Iterable[Drawing]) -> str:
    figures = []
    for drawing in drawings:
        data = base64.b64encode(drawing.art.standalone("svg")).decode()
        figures.append(
            f'<figure style="margin:0"><figcaption>{html.escape(drawing.heading)}</figcaption>'
            f'<img alt="{html.escape(drawing.art.alt)}" width="{drawing.art.size[0] * 72:.0f}" '
            f'src="data:image/svg+xml;base64,{data}"></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(figures)}</div>'


def _image(image: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], safe_from: int | None = None) -> str:
    """A table; cells from `safe_from` on are markup already."""
    top = "".join(f'<th scope="col" style="{_HEAD}">{html.escape(cell)}</th>' for cell in head)
    lines = []
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            shown = cell if safe_from is not None and i >= safe_from else html.escape(cell)
            tag, style = ('th scope="row"', _HEAD) if i == 0 else ("td", _CELL)
            cells.append(f'<{tag} style="{style}">{shown}</{tag[:2]}>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _folded(name: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<details><summary>{html.escape(name)}</summary><ul>{items}</ul></details>"
