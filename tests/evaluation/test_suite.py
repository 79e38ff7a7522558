"""`evaluate` as a whole: sources, refusals, floors, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genzoo.data import Dataset, open_dataset
from genzoo.data.ranges import to_display
from genzoo.errors import InputError
from genzoo.evaluation import (
    METRICS,
    Evaluation,
    evaluate,
    evaluate_all,
    neighbours,
    prepare,
    reference,
)
from genzoo.evaluation.controls import CONTROLS
from genzoo.evaluation.measured import Measured
from genzoo.evaluation.measurement import measure_all
from genzoo.progress import Silent
from genzoo.registry import build
from genzoo.runs import create_run
from genzoo.samples import SampleSet

COPIES = 300


@pytest.fixture(scope="module")
def copies(digits: Dataset) -> SampleSet:
    """The first training images and their labels."""
    assert digits.train.labels is not None
    images = to_display(digits.train.data[:COPIES], digits.spec).movedim(1, -1).numpy()
    return SampleSet(images=images, labels=digits.train.labels[:COPIES].numpy())


@pytest.fixture(scope="module")
def scored(digits: Dataset, copies: SampleSet) -> Evaluation:
    return evaluate(copies, digits)


def run_config(data: Dataset, model: str = "copycat") -> dict[str, Any]:
    """What training would have written."""
    about = {
        "name": data.name,
        "root": None,
        "size": None,
        "fingerprint": data.fingerprint,
        "spec": data.spec.to_dict(),
        "class_names": list(data.class_names),
    }
    return {
        "genzoo": "0.1.0",
        "model": model,
        "family": "control",
        "control": True,
        "model_sha256": None,
        "settings": {},
        "data": about,
        "budget": "1steps",
        "seed": 0,
        "conditional": True,
        "device": "cpu",
        "threads": 1,
        "samples": COPIES,
    }


def values(result: Evaluation) -> Mapping[str, float | None]:
    return {name: score.value for name, score in result.metrics.items()}


def test_copies_are_caught(scored: Evaluation) -> None:
    """Every copy is found, CAS is near its ceiling, and the features say how they were made.

    Fails with: train and test exchanged, a Fréchet distance of the wrong sign.
    """
    found = scored.metrics
    assert scored.n == COPIES and scored.source == "arrays"
    assert found["duplicates"].value == COPIES and found["duplicates"].floor == 0
    assert found["near_duplicates"].value == 1.0
    share, cas = found["train_nn_share"], found["cas"]
    assert share.value is not None and share.value > 0.85
    assert share.floor == pytest.approx(0.5, abs=0.06)
    assert cas.value is not None and cas.floor is not None
    assert cas.value == pytest.approx(cas.floor, abs=0.03) and cas.value > 0.93
    fd = found["fd"]
    assert fd.value is not None and fd.floor is not None and 0 < fd.value < 2 * fd.floor
    assert fd.features is not None and fd.features.split == "train"
    assert found["two_sample_1nn"].floor == pytest.approx(0.5, abs=0.06)
    # Eight pixels of 17 levels: the copies' nearest pairs are training images by themselves.
    assert scored.nearest is not None
    assert scored.nearest.sample_index == scored.nearest.train_index


def test_noise_is_worst_everywhere(digits: Dataset, scored: Evaluation) -> None:
    """Each metric puts noise behind copies. Fails with: any direction or sign turned round."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 17, (COPIES, 1, 8, 8), dtype=torch.uint8, generator=generator)
    bad, good = values(evaluate(noise, digits)), values(scored)
    for name in "fd kid inception_score precision recall density coverage".split():
        a, b = bad[name], good[name]
        assert a is not None and b is not None
        assert a > b if METRICS[name].better == "lower" else a < b, name
    assert bad["two_sample_1nn"] == pytest.approx(1.0, abs=0.01)


def test_schema(scored: Evaluation) -> None:
    """JSON without NaN, with the documented fields. Fails with: a field dropped or renamed."""
    raw = json.loads(json.dumps(scored.to_dict(), allow_nan=False))
    assert raw["schema"] == 1 and raw["kind"] == "scores" and raw["data"] == "digits"
    assert set(raw["metrics"]) <= set(METRICS)
    common = {"value", "low", "high", "floor", "n", "convention", "better", "ideal", "features"}
    common |= {"sampling_error", "reference_error", "caution"}
    for name, score in raw["metrics"].items():
        extra = {"likelihood"} if name in ("bits_per_dim", "nll_nats") else set()
        assert set(score) == common | {"reason"} | extra, name
        assert (score["value"] is None) == bool(score["reason"]), name
        if score["low"] is not None:
            assert score["low"] <= score["value"] <= score["high"], name
    assert len(raw["class_histogram"]["labels"]) == 10
    assert sum(raw["class_histogram"]["samples"]) == pytest.approx(1.0)


def test_sources_agree(
    digits: Dataset, copies: SampleSet, scored: Evaluation, tmp_path: Path
) -> None:
    """File, folder, array and levels give the same scores. Fails with: any range mistake."""
    copies.write_npz(tmp_path / "copies.npz")
    copies.write_folder(tmp_path / "copies", digits.class_names)
    assert copies.images is not None
    results = evaluate_all(
        [tmp_path / "copies.npz", copies.images, digits.train.data[:COPIES]], digits
    )
    for result in results:
        for name in ("fd", "two_sample_1nn", "train_nn_share"):
            assert values(result)[name] == values(scored)[name]
    assert results[0].model == "copies.npz" and results[0].source == "npz"
    assert results[0].metrics["cas"].value == scored.metrics["cas"].value
    assert results[1].metrics["cas"].reason == "the samples have no labels"
    folder = evaluate(tmp_path / "copies", digits)
    assert folder.source == "folder"
    assert folder.metrics["cas"].value == pytest.approx(scored.metrics["cas"].value, abs=0.02)


def test_the_choice_is_seeded(digits: Dataset) -> None:
    """1,000 samples against 797: another seed takes others. Fails with: the first ones taken."""
    whole = [evaluate(digits.train.data, digits, seed=s) for s in (0, 0, 1)]
    fd = [values(result)["fd"] for result in whole]
    assert whole[0].n == 797
    assert fd[0] == fd[1] != fd[2]


@pytest.mark.parametrize("n", [1, 2, 49])
def test_too_few_samples_are_refused(digits: Dataset, n: int) -> None:
    """Fails with: a crash in k-nearest neighbours, or values from too few samples."""
    result = evaluate(digits.train.data[:n], digits)
    assert all(v is None for v in values(result).values())
    told = "only 1 sample" if n == 1 else f"only {n} samples"
    assert result.metrics["fd"].reason == f"{told}; at least 50 are needed"
    assert result.nearest is None
    json.dumps(result.to_dict(), allow_nan=False)


def test_constant_samples_are_scored(digits: Dataset) -> None:
    """All alike: IS 1, no recall, no crash. Fails with: a division by a zero radius."""
    result = evaluate(torch.full((60, 1, 8, 8), 5, dtype=torch.uint8), digits)
    assert values(result)["inception_score"] == pytest.approx(1.0)
    assert values(result)["recall"] == 0.0
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_deserves_doubt_is_marked(digits: Dataset, copies: SampleSet) -> None:
    """Fewer samples than dimensions, a class that is missing: values with a caution.

    Fails with: a silent number, a refusal of what can be said.
    """
    assert copies.images is not None and copies.labels is not None
    kept = np.flatnonzero(copies.labels != 3)[:60]
    few = SampleSet(images=copies.images[kept], labels=copies.labels[kept])
    found = evaluate(few, digits).metrics
    assert "60 items in 64 dimensions" in (found["fd"].caution or "")
    assert "too few to extrapolate" in (found["fd_infinity"].reason or "")
    assert found["cas"].value is not None and "3" in (found["cas"].caution or "")
    assert found["class_coverage"].value is not None and found["class_coverage"].value <= 9
    for score in found.values():
        assert score.value is None or np.isfinite(score.value)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((60, 8, 8, 3), np.uint8), "gray images of 8x8 pixels, found RGB images of 8x8"),
        (np.zeros((60, 16, 8, 1), np.uint8), "found gray images of 8x16 pixels"),
        (np.zeros((60, 2), np.float32), "found points of 2 coordinates"),
        (np.full((60, 8, 8, 1), 0.5), "not uint8"),
        (torch.full((60, 1, 8, 8), 200, dtype=torch.uint8), "levels 0 … 16"),
        (torch.zeros(60, 1, 8, 8), "uint8"),
        ({"images": 1}, "cannot evaluate a dict"),
        ("no/such/place", "no/such/place"),
    ],
)
def test_what_does_not_fit_is_refused(digits: Dataset, samples: Any, message: str) -> None:
    """One line that says what was expected and found. Fails with: broadcasting or reshaping."""
    with pytest.raises(InputError, match=message):
        evaluate(samples, digits)


def test_labels_beyond_the_classes_are_refused(digits: Dataset, copies: SampleSet) -> None:
    """Fails with: an eleventh class in the histogram."""
    assert copies.images is not None
    strange = SampleSet(images=copies.images, labels=np.full(COPIES, 10))
    with pytest.raises(InputError, match="label 10 is not one of the data's 10 classes"):
        evaluate(strange, digits)


def test_one_label_has_no_cas(digits: Dataset, copies: SampleSet) -> None:
    """Fails with: scikit-learn's error about one class."""
    assert copies.images is not None
    result = evaluate(SampleSet(images=copies.images, labels=np.full(COPIES, 3)), digits)
    assert result.metrics["cas"].reason == "all labels of the samples are 3"


def test_data_must_be_named(copies: SampleSet, tmp_path: Path) -> None:
    """And a path that is wrong is told so first. Fails with: a default dataset."""
    copies.write_npz(tmp_path / "some.npz")
    with pytest.raises(InputError, match="some.npz.*--data"):
        evaluate(tmp_path / "some.npz")
    with pytest.raises(InputError, match="other.npz: there is no such"):
        evaluate(tmp_path / "other.npz")


def test_a_run_knows_its_data_and_keeps_its_scores(
    digits: Dataset, copies: SampleSet, tmp_path: Path
) -> None:
    """Scores and picture are left in the folder; costs are read; the model's likelihood is used.

    Fails with: scores of foreign data written, a status field renamed.
    """
    run = create_run(tmp_path / "run", run_config(digits, "noise"), parameters=12)
    with pytest.raises(InputError, match="has no samples"):
        evaluate(run)
    copies.write_npz(run.path / "samples.npz")
    result = evaluate(run.path, model=build("noise", digits.spec))
    assert result.model == "noise" and result.source == "run"
    assert result.metrics["bits_per_dim"].value == pytest.approx(np.log2(17), abs=1e-6)
    assert result.metrics["bits_per_dim"].likelihood == "exact"
    assert result.metrics["parameters"].value == 12
    assert result.metrics["nfe"].reason == "not recorded in this run"
    assert json.loads((run.path / "scores.json").read_text()) == result.to_dict()
    assert (run.path / "nearest.png").read_bytes().startswith(b"\x89PNG")
    without = evaluate(run.path)
    assert "not trained to the end" in (without.metrics["bits_per_dim"].reason or "")


def test_a_run_of_other_data_is_refused(digits: Dataset, copies: SampleSet, tmp_path: Path) -> None:
    """Its data changed since. Fails with: the fingerprint not compared."""
    config = run_config(digits)
    config["data"]["fingerprint"] = "0" * 64
    run = create_run(tmp_path / "run", config, parameters=0)
    copies.write_npz(run.path / "samples.npz")
    with pytest.raises(InputError, match="was trained on other data"):
        evaluate(run)
    assert evaluate(run, "digits").metrics["fd"].value is not None
    assert not (run.path / "scores.json").exists()


class TestPoints:
    """Points: coordinates, modes, nats."""

    def test_held_out_points_reach_the_floor(self) -> None:
        """Training points in the samples' place. Fails with: unscaled axes, images expected."""
        data = open_dataset("ring")
        result = evaluate(data.train.data[:600], data)
        found = result.metrics
        assert found["modes_covered"].value == found["modes_covered"].floor == 8
        assert found["high_quality_share"].floor == pytest.approx(0.98889, abs=1e-5)
        assert found["high_quality_share"].value == pytest.approx(0.98889, abs=0.015)
        assert found["two_sample_1nn"].value == pytest.approx(0.5, abs=0.08)
        assert found["fd"].features is not None and found["fd"].features.name == "coordinates"
        assert found["duplicates"].value == 600
        assert "cas" not in found and "bits_per_dim" not in found
        assert found["nll_nats"].reason is not None

    @pytest.mark.parametrize("scale", [1.0, 1e-12])
    def test_a_coordinate_that_never_varies_changes_nothing(self, scale: float) -> None:
        """Of any size, beside tiny ones. Fails with: a scale of 0, or rounded to it."""
        data = open_dataset("ring")
        sides = [x[:300].double().numpy() * scale for x in (data.train.data, data.test.data)]
        plain, wider = (
            evaluate(*[np.pad(x, ((0, 0), (0, k)), constant_values=7.0) for x in sides])
            for k in (0, 1)
        )
        # The others' kernels and directions know the number of coordinates.
        for name in ("fd", "precision", "recall", "density", "coverage", "two_sample_1nn"):
            assert plain.metrics[name].value == pytest.approx(wider.metrics[name].value, rel=1e-6)
        assert plain.metrics["two_sample_1nn"].value == pytest.approx(0.5, abs=0.1)

    def test_collapse_is_seen(self) -> None:
        """Points of one mode. Fails with: coverage and density exchanged."""
        data = open_dataset("ring")
        assert data.modes is not None
        near = torch.cdist(data.test.data, data.modes.centers).argmin(1) == 0
        one: Tensor = data.test.data[near][:300]
        found = values(evaluate(one, data))
        assert found["modes_covered"] == 1
        assert found["coverage"] is not None and found["coverage"] < 0.3
        assert found["recall"] is not None and found["recall"] < 0.3

    def test_floor_of_nats_is_the_true_density(self, tmp_path: Path) -> None:
        """A box over the ring says more nats than the truth. Fails with: a sign turned round."""
        data = open_dataset("ring")
        run = create_run(tmp_path / "run", run_config(data, "noise"), parameters=0)
        SampleSet(points=data.train.data[:60].numpy()).write_npz(run.path / "samples.npz")
        model = build("noise", data.spec)
        model.low, model.high = torch.full((2,), -3.0), torch.full((2,), 3.0)
        score = evaluate(run, model=model).metrics["nll_nats"]
        box = 2 * np.log(6) + np.log(data.spec.scale).sum()
        assert score.value == pytest.approx(box, abs=1e-4)
        # Eight modes of σ = .01: ln 8 + 1 + ln(2π σ²); 1000 items err by 1/√1000.
        truth = np.log(8) + 1 + np.log(2 * np.pi * 0.01**2)
        assert score.floor == pytest.approx(truth, abs=4 / 1000**0.5)


@pytest.mark.slow
def test_stacked_digits_count_their_modes() -> None:
    """Training triples. Fails with: digits counted for triples, a floor at another N."""
    data = open_dataset("stacked-digits")
    found = evaluate(data.train.data[:2000], data, n=300).metrics
    modes = found["modes_covered"]
    # 2000 draws from 1000 modes meet 1000 (1 - e^-2) = 865 of them; held-out data are 300.
    assert modes.n == 2000 and modes.value == pytest.approx(865, abs=25)
    assert modes.floor == pytest.approx(865, abs=25)
    assert modes.caution is not None
    assert found["fd"].value is not None
    assert "class_histogram_tv" not in found and "high_quality_share" not in found


def test_floors_are_remembered(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared once, read from memory and from disk. Fails with: a key without N."""
    prepare(digits, 60)
    known = reference.open_reference(digits, device="cpu")
    measured, controls = known.floors(60, Silent()), known.controls(60, Silent())
    monkeypatch.setattr(reference.Reference, "_measure_floors", None)
    monkeypatch.setattr(reference.Reference, "_measure_controls", None)
    assert known.floors(60, Silent()) == measured
    monkeypatch.setattr(reference, "_yardsticks", {})
    assert known.floors(60, Silent()) == measured
    assert known.controls(60, Silent()) == controls
    with pytest.raises(TypeError):
        known.floors(61, Silent())


def test_pixels_are_compared_exactly(digits: Dataset) -> None:
    """Distances of 8x8 pixels are whole numbers, so that ties are seen.

    Fails with: pixels divided by 255.
    """
    known = reference.open_reference(digits, device="cpu")
    distances = neighbours.squared_distances(known.test.pixels[:100], known.train.pixels)
    assert torch.equal(distances, distances.round())
    whole = known.test.raw[:100, None].long() - known.train.raw[None, :50].long()
    assert torch.equal(distances[:, :50].long(), whole.square().sum((2, 3, 4)))


def test_floor_and_score_are_one_measurement(digits: Dataset) -> None:
    """What is a floor for one N is the score of those very items at that N.

    Fails with: floors measured by other code, sides exchanged, other conventions.
    """
    known = reference.open_reference(digits, device="cpu")
    floors = known.floors(797, Silent())
    view = next(known.floor_views("held-out", 797, 797))
    assert torch.equal(view.samples.raw.flatten(1).sum(0), known.test.raw.flatten(1).sum(0))
    scored = {k: a.value for k, a in measure_all(view).items() if isinstance(a, Measured)}
    for name in ("vendi", "inception_score", "class_histogram_tv"):
        assert floors[name] == pytest.approx(scored[name], rel=1e-12), name


def test_every_metric_is_measured_or_says_why(scored: Evaluation) -> None:
    """All of the registry that digits can have. Fails with: a module without its function."""
    absent = {name for name in METRICS if name not in scored.metrics}
    modes = {name for name, info in METRICS.items() if info.group == "modes"}
    assert absent == modes | {"nll_nats", "fd_all", "inception_score_all", "bias_amplification"}
    for name, score in scored.metrics.items():
        group = METRICS[name].group
        if group not in ("cost", "likelihood") and score.value is None:
            assert name == "distinct", (name, score.reason)


def test_errors_of_both_sides_make_the_interval(scored: Evaluation) -> None:
    """Where both standard errors are known the interval is about 4 of their sum wide.

    Fails with: one side forgotten in the interval, errors that are variances.
    """
    both = [
        s for s in scored.metrics.values() if s.sampling_error and s.reference_error and s.interval
    ]
    assert {"kid", "precision", "recall", "density", "coverage"} <= {s.name for s in both}
    for s in both:
        error = float(np.hypot(s.sampling_error, s.reference_error))
        assert s.low is not None and s.high is not None
        if s.name not in ("fd", "near_duplicates"):  # cut at 0
            assert 2.5 * error < s.high - s.low < 8 * error, s.name


def test_controls_are_in_every_evaluation(scored: Evaluation) -> None:
    """By name and metric, at the same N. Fails with: a control dropped, values of one for all."""
    assert set(scored.controls) == set(CONTROLS)
    fd = {name: found["fd"] for name, found in scored.controls.items()}
    assert fd["noise"] > fd["gaussian"] and fd["one-only"] > fd["one-dropped"] > fd["copycat"]
    assert scored.controls["copycat"]["duplicates"] == COPIES
    assert scored.controls["noisy-copies"]["duplicates"] < COPIES / 10
    assert scored.to_dict()["controls"]["noise"]["fd"] == fd["noise"]


class TestAnyonesReference:
    """Real data as arrays, files and folders."""

    def test_arrays_against_arrays(self) -> None:
        """Points of any dimension; without training items memory is refused.

        Fails with: two coordinates only, a train split made up.
        """
        random = np.random.default_rng(0)
        samples, real = random.normal(size=(2, 400, 5))
        result = evaluate(samples * 1.5, real)
        assert result.n == 400 and result.data == "reference"
        found = result.metrics
        assert found["fd"].value is not None and found["fd"].floor is not None
        assert found["fd"].value > 4 * found["fd"].floor
        assert "give them as train" in (found["train_nn_share"].reason or "")
        assert not result.controls
        known = evaluate(samples, real, train=samples)
        assert known.metrics["duplicates"].value == 400
        assert set(known.controls) == set(CONTROLS)

    def test_images_with_labels(self, digits: Dataset, copies: SampleSet) -> None:
        """A classifier is trained on what there is. Fails with: a crash without training items."""
        assert digits.test.labels is not None
        images = to_display(digits.test.data[:400], digits.spec).movedim(1, -1).numpy()
        real = SampleSet(images=images, labels=digits.test.labels[:400].numpy())
        result = evaluate(copies, real)
        features = result.metrics["fd"].features
        assert features is not None and features.split == "test"
        assert result.metrics["cas"].value is not None

    def test_files_and_folders(self, copies: SampleSet, tmp_path: Path) -> None:
        """Fails with: a file's name taken for a dataset's."""
        copies.write_npz(tmp_path / "real.npz")
        copies.write_folder(tmp_path / "folder")
        for place in ("real.npz", "folder"):
            result = evaluate(copies, str(tmp_path / place))
            assert result.data == place
            assert result.metrics["test_duplicates"].value == COPIES

    @pytest.mark.parametrize(
        ("data", "options", "message"),
        [
            ("no/such.npz", {}, "unknown dataset 'no/such.npz'"),
            ("digits", {"train": np.zeros((60, 2))}, "has its own training items"),
            (np.zeros((60, 3)), {}, "points of 3 coordinates, found"),
            (np.zeros((60, 8, 8, 1), np.uint8), {"train": np.zeros((60, 2))}, "same kind"),
            (np.full((60, 2), np.nan), {}, "must be finite"),
            (np.zeros((60, 2)), {"size": 16}, "only the images of folder:PATH"),
            (np.zeros((60, 2)), {"n": 0}, "--n 0"),
        ],
    )
    def test_what_cannot_be_a_reference(
        self, data: Any, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            evaluate(np.zeros((60, 2)), data, **options)
