"""Figures and films against scores, sweeps and pictures that were made up for the purpose."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import (
    FEATURES,
    digits_like,
    losses,
    metric,
    moment,
    write_run,
    write_seeds,
    write_strip,
    write_sweep,
)
from PIL import Image

from genzoo.samples import SampleSet
from genzoo_reports.collect import collect
from genzoo_reports.counts import class_histogram, mode_maps
from genzoo_reports.curves import loss_curves, sweep_curves
from genzoo_reports.figures import Drawing
from genzoo_reports.films import films
from genzoo_reports.pictures import dots
from genzoo_reports.planes import precision_recall_plane, quality_planes
from genzoo_reports.tables import Table, build_table

OTHER = {**FEATURES, "hash": "cd" * 32}


def table_of(*paths: Path) -> Table:
    return build_table(collect(paths))


def drawn(drawing: Drawing) -> str:
    """A figure that can be drawn in every form."""
    assert drawing.art.standalone("png", 40).startswith(b"\x89PNG")
    assert "<script" not in drawing.svg
    return drawing.svg


# -- planes ---------------------------------------------------------------------------------


def test_the_front_holds_those_that_nobody_beats_in_both(tmp_path: Path) -> None:
    numbers = {"gan": (0.3, 9000), "vae": (0.5, 9500), "flow": (0.4, 800), "diffusion": (0.1, 50)}
    runs = [
        write_run(tmp_path / m, m, 0, {"fd": fd, "samples_per_second": speed})
        for m, (fd, speed) in numbers.items()
    ]
    plane = quality_planes(table_of(*runs))[0]
    assert "the front of diffusion, gan, vae;" in plane.caption, "flow is behind gan in both"
    assert dict(row[:2] for row in plane.numbers.rows)["vae"] == "9,500"
    drawn(plane)


def test_a_copier_is_not_on_the_front(tmp_path: Path) -> None:
    fair = {"fd": 0.3, "samples_per_second": 100, "train_nn_share": 0.5}
    runs = [
        write_run(tmp_path / "vae", "vae", 0, fair),
        write_run(tmp_path / "flow", "flow", 0, {**fair, "fd": 0.4, "samples_per_second": 200}),
        write_run(tmp_path / "gan", "gan", 0, {**fair, "fd": 0.01, "train_nn_share": 0.99}),
    ]
    assert "the front of vae, flow;" in quality_planes(table_of(*runs))[0].caption


def test_precision_and_recall_share_a_plane_with_real_data(tmp_path: Path) -> None:
    both = {"precision": metric(0.9, floor=0.97), "recall": metric(0.4, floor=0.95)}
    (plane,) = precision_recall_plane(table_of(write_run(tmp_path / "a", "gan", 0, both)))
    assert plane.numbers.rows == (("gan", "0.400", "0.900"), ("real data", "0.950", "0.970"))
    assert "real data" in drawn(plane)
    assert precision_recall_plane(table_of(write_run(tmp_path / "b", "gan", 0, {"fd": 1}))) == []


# -- sweeps ---------------------------------------------------------------------------------


def test_a_sweep_over_steps_is_drawn_over_evaluations(tmp_path: Path) -> None:
    one, two = write_seeds(tmp_path, "diffusion", [{"fd": 0.1}, {"fd": 0.1}])
    write_sweep(one, "steps", [(16, 31, 0.1), (4, 7, 0.4), (1, 1, 9.0)])
    write_sweep(two, "steps", [(1, 1, 11.0), (4, 7, 0.6), (16, 31, 0.1)])
    figure = sweep_curves(table_of(one, two), "steps")[0]
    assert figure.numbers.head[:3] == ("model", "network evaluations a sample", "Fréchet distance")
    assert [row[1:3] for row in figure.numbers.rows] == [
        ("1", "10.0"),
        ("7", "0.500"),
        ("31", "0.100"),
    ]
    low, high = figure.numbers.rows[1][3].split(" to ")
    assert float(low) == pytest.approx(0.5 - 12.706 * 0.1, abs=1e-3), "Student's t with two seeds"
    assert float(high) == pytest.approx(0.5 + 12.706 * 0.1, abs=1e-2)
    assert "from 10.0 at 1 to 0.100 at 31" in figure.art.alt and "0.020" in figure.caption
    assert ">100" in drawn(figure) or ">10<" in drawn(figure)


def test_a_training_is_drawn_over_items_seconds_and_flops(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "vae", 0, {"fd": 0.1})
    write_sweep(run, "training", [(moment(s), 1, 0.1 / s) for s in (0.1, 0.5, 1.0)])
    figures = sweep_curves(table_of(run), "training")
    across = [figure.numbers.head[1] for figure in figures]
    assert across == ["items seen", "seconds of training", "FLOPs of training"]
    assert [row[1] for row in figures[0].numbers.rows] == ["12.8 k", "64 k", "128 k"]
    assert [row[1] for row in figures[2].numbers.rows] == ["100 G", "500 G", "1 T"]


def test_points_judged_in_another_way_are_left_out_and_named(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", "diffusion", 0, {"fd": 0.1})
    two = write_run(tmp_path / "b", "flow-matching", 0, {"fd": 0.1})
    write_sweep(one, "steps", [(1, 1, 9.0), (4, 7, 0.4)], features=FEATURES)
    write_sweep(two, "steps", [(1, 1, 9.0), (4, 7, 0.4)], features=OTHER)
    (figure,) = sweep_curves(table_of(one, two), "steps")[:1]
    assert {row[0] for row in figure.numbers.rows} == {"diffusion"}
    assert "Left out, judged by another N or in other features: flow-matching." in figure.caption


@pytest.mark.parametrize(
    "damage",
    [
        "[]",
        "{",
        '{"sweeps": 3}',
        '{"data_fingerprint": "%s", "sweeps": {"steps": {"points": [7, null, {"value": "x"}]}}}',
        '{"data_fingerprint": "other", "sweeps": {}}',
        "[" * 100_000,
    ],
)
def test_damaged_sweeps_are_passed_over(tmp_path: Path, damage: str) -> None:
    run = write_run(tmp_path / "a", "diffusion", 0, {"fd": 0.1})
    (run / "sweeps.json").write_text(damage.replace("%s", "f" * 64))
    assert sweep_curves(table_of(run), "steps") == []


def test_a_sweep_of_other_data_or_with_one_number_shows_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "diffusion", 0, {"fd": 0.1})
    write_sweep(run, "guidance", [(1, 5, 0.3), (2, 5, float("nan"))])
    assert sweep_curves(table_of(run), "guidance") == []
    write_sweep(run, "steps", [(1, 1, 0.3), (2, 3, 0.2)])
    assert sweep_curves(table_of(run), "steps")
    raw = json.loads((run / "sweeps.json").read_text())
    (run / "sweeps.json").write_text(json.dumps({**raw, "data_fingerprint": "e" * 64}))
    assert sweep_curves(table_of(run), "steps") == []


def test_losses_have_their_numbers_beside_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "gan", 0, {"fd": 1.0}, history=losses(("d/loss", "g/loss")))
    first, second = loss_curves(table_of(run))
    (row,) = first.numbers.rows
    assert row[0] == "loss, seed 0" and row[-1] == "12.0"
    assert float(row[1]) > float(row[3]) > float(row[5]) > 1
    assert (first.heading, second.heading) == ("gan: d", "gan: g")


# -- classes and modes ----------------------------------------------------------------------


def with_scores(run: Path, **fields: Any) -> Path:
    raw = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**raw, **fields}))
    return run


def test_classes_are_bars_beside_the_training_datas(tmp_path: Path) -> None:
    histogram = {"labels": ["cat", "dog"], "samples": [0.9, 0.1], "train": [0.5, 0.5]}
    run = with_scores(write_run(tmp_path / "a", "gan", 0, {"fd": 1}), class_histogram=histogram)
    (figure,) = class_histogram(table_of(run))
    assert figure.numbers.head == ("class", "training data", "gan")
    assert figure.numbers.rows == (("cat", "50 %", "90 %"), ("dog", "50 %", "10 %"))
    assert "gan: dog by 40 %" in figure.art.alt
    drawn(figure)


@pytest.mark.parametrize(
    "histogram",
    [
        {"labels": ["a"], "samples": [0.5, 0.5], "train": [1]},
        {"labels": "ab", "samples": [1, 1], "train": [1, 1]},
        {"labels": ["a"], "samples": [float("nan")], "train": [1]},
        {"labels": [], "samples": [], "train": []},
        {"labels": ["a"], "samples": ["<script>"], "train": [1]},
        [1],
        None,
    ],
)
def test_wrong_histograms_are_passed_over(tmp_path: Path, histogram: Any) -> None:
    run = with_scores(write_run(tmp_path / "a", "gan", 0, {"fd": 1}), class_histogram=histogram)
    assert class_histogram(table_of(run)) == []


def test_modes_are_a_map_that_names_the_lost(tmp_path: Path) -> None:
    centers = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    counts = {"hits": [100, 0, 10, 120], "n": 400, "expected": 100.0, "centers": centers}
    run = with_scores(write_run(tmp_path / "a", "gan", 0, {"fd": 1}), mode_counts=counts)
    (figure,) = mode_maps(table_of(run))
    assert figure.caption.startswith("2 of 4 modes well covered, 1 thinly, 1 never met (×).")
    assert figure.numbers.rows[1] == ("1", "1", "0", "0.00")
    assert [row[-1] for row in figure.numbers.rows] == ["1.00", "0.00", "0.10", "1.20"]
    assert ">0.1<" in drawn(figure)


def test_a_thousand_modes_are_counted_by_ranges(tmp_path: Path) -> None:
    hits = [0] * 3 + [5] * 7 + [26] * 990
    counts = {"hits": hits, "n": 26_000, "expected": 26.0, "centers": None}
    run = with_scores(write_run(tmp_path / "a", "gan", 0, {"fd": 1}), mode_counts=counts)
    (figure,) = mode_maps(table_of(run))
    assert figure.caption.startswith("990 of 1,000 modes well covered, 7 thinly, 3 never met")
    assert dict(figure.numbers.rows)["0.0 to 0.2"] == "10"
    assert len(drawn(figure)) < 400_000


# -- films ----------------------------------------------------------------------------------


def test_a_film_has_a_frame_a_moment(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "vae", 0, {"fd": 1}, samples=digits_like(0))
    write_strip(run, "training", digits_like(1, 60), 3, [moment(s) for s in (0.25, 0.5, 1.0)])
    found = films(table_of(run))
    assert found.shares == (0.25, 0.5, 1.0)
    (film,) = found.training
    assert [f.picture.caption for f in film.frames][:2] == [
        "25 % of the budget, 3.00 s, 32 k items".replace(" %", "%"),
        "50% of the budget, 6.00 s, 64 k items",
    ]
    with Image.open(io.BytesIO(film.frames[0].picture.png)) as opened:
        assert opened.size == (10 * 42 - 2, 2 * 42 - 2)


def test_points_on_their_way_become_clouds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    points = SampleSet(points=random.normal(size=(50 * 4, 2)).astype(np.float32))
    run = write_run(tmp_path / "a", "diffusion", 0, {"fd": 1}, samples=points, data="ring")
    write_strip(run, "trajectory", points, 50)
    (strip,) = films(table_of(run)).trajectories
    assert strip.alt.startswith("4 clouds of 50 points of diffusion")
    assert strip.width == 4 * 134 - 2


def test_reconstructions_say_how_far_they_are(tmp_path: Path) -> None:
    images = np.zeros((8, 8, 8, 1), np.uint8)
    images[1::2] = 51  # a fifth of the range
    run = write_run(tmp_path / "a", "vae", 0, {"fd": 1})
    write_strip(run, "reconstruction", SampleSet(images=images), 4)
    (picture,) = films(table_of(run)).reconstructions
    assert picture.caption == "Mean absolute difference 20.0% of the range."
    with Image.open(io.BytesIO(picture.png)) as opened:
        assert opened.size == (4 * 42 - 2, 2 * 42 - 2), "items above, what came back below"


def test_large_films_are_made_smaller(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = SampleSet(images=random.integers(0, 256, (7 * 20, 64, 64, 3)).astype(np.uint8))
    runs = []
    for name in ("gan", "vae", "flow", "diffusion"):
        run = write_run(tmp_path / name, name, 0, {"fd": 1})
        write_strip(run, "training", noise, 7, [moment((k + 1) / 7) for k in range(7)])
        runs.append(run)
    found = films(table_of(*runs))
    assert sum(len(f.picture.png) for film in found.training for f in film.frames) < 2_000_000


@pytest.mark.parametrize(
    "index",
    [
        '{"pictures": {"training": {"rows": 3, "columns": 7, "told": []}}}',
        '{"pictures": {"training": {"rows": -1, "columns": -60}}}',
        '{"pictures": {"training": {"rows": "3", "columns": 20}}}',
        '{"pictures": {"training": {"rows": 3, "columns": 20, "told": "abc"}}}',
        '{"pictures": {"training": {"rows": 3, "columns": 20, "told": [{"progress": 9}, 1, 2]}}}',
        '{"pictures": {"../../secret": {"rows": 1, "columns": 1}}}',
        "[]",
    ],
)
def test_wrong_pictures_are_passed_over(tmp_path: Path, index: str) -> None:
    run = write_run(tmp_path / "a", "vae", 0, {"fd": 1})
    write_strip(run, "training", digits_like(1, 60), 3)
    (run / "pictures" / "index.json").write_text(index)
    assert films(table_of(run)).training == ()


def test_pictures_outside_of_the_run_are_not_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "vae", 0, {"fd": 1})
    other = write_run(tmp_path / "b", "vae", 1, {"fd": 1})
    write_strip(other, "training", digits_like(1, 60), 3, [moment(s) for s in (0.2, 0.5, 1.0)])
    assert films(table_of(other)).training
    (run / "pictures").symlink_to(other / "pictures")
    assert films(table_of(run)).training == ()


def test_dots_lie_where_the_points_are() -> None:
    limits = np.array([[0.0, 1.0], [0.0, 1.0]])
    picture = dots(np.array([[0.25, 0.75], [5.0, 5.0], [np.nan, 0.5]]), limits, "#102030", 100)
    assert picture.shape == (100, 100, 4)
    ys, xs = np.nonzero(picture[..., 3])
    assert (round(xs.mean()), round(ys.mean())) == (25, 24), "the second axis points upward"
    assert len(xs) == 5 and picture[0, 0].tolist() == [16, 32, 48, 0]
