"""All metrics of one set of samples, each beside what real data score in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.errors import GenzooError, InputError
from genzoo.evaluation import classes, fidelity, memorization, modes, neighbours
from genzoo.evaluation.cache import cache_folder
from genzoo.evaluation.cost import cost_scores
from genzoo.evaluation.features import Features
from genzoo.evaluation.likelihood import likelihood_score
from genzoo.evaluation.neighbours import Measured
from genzoo.evaluation.reference import MAX_ITEMS, Reference, choose, open_reference
from genzoo.evaluation.result import ClassHistogram, Evaluation, Nearest, Score, bounds
from genzoo.evaluation.sources import Source, Subject, as_run, open_subject
from genzoo.files import write_json
from genzoo.model import GenerativeModel
from genzoo.progress import Progress, Silent
from genzoo.runs import SCORES, Run
from genzoo.training.device import resolve_device

MIN_ITEMS = 50
NEAREST_SHOWN = 10
NEAREST_PICTURE = "nearest.png"

_JACKKNIFE = "95 % interval: jackknife over 10 disjoint blocks of both sides"
_GIVEN_REAL = "95 % interval over samples, real items fixed"
_GIVEN_SAMPLES = "95 % interval over real items, samples fixed"


def evaluate(
    source: Source,
    data: str | Dataset | None = None,
    *,
    data_root: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    cache: str | Path | None = None,
    model: GenerativeModel | None = None,
    trust_model: str | None = None,
) -> Evaluation:
    """Measure samples against held-out data.

    A run that is compared with its own data gets ``scores.json`` and ``nearest.png``.

    Args:
        source: a run or its folder, an ``.npz`` or ``.npy`` file, a folder of images, a
            `SampleSet`, an array or a tensor; see `genzoo.evaluation.sources.open_subject`.
        data: what the samples imitate; a run knows its own.
        data_root: where downloaded data lie.
        size: side in pixels of ``folder:`` data.
        seed: of the choice of samples where there are more than held-out items.
        device: where features and likelihoods are computed.
        progress: told of long work.
        cache: folder of extractors and floors; ``GENZOO_CACHE`` or ``~/.cache/genzoo``.
        model: the run's model if it is at hand; loaded from the run where absent.
        trust_model: ``FILE.py:Class`` of a run whose model is foreign code.

    Raises:
        InputError: no data named, the source is unreadable or does not fit the data.
    """
    start = time.perf_counter()
    progress = progress or Silent()
    where = resolve_device(device)
    dataset = _open_data(source, data, data_root, size)
    subject = open_subject(source, dataset)
    reference = open_reference(dataset, cache_folder(cache), where, progress)
    work = _Work(subject, reference, seed, progress)
    scores, histogram, nearest = work.measure()
    scores.append(likelihood_score(subject.run, dataset, where, model, trust_model, progress))
    scores.extend(cost_scores(subject.run, len(subject)))
    result = Evaluation(
        model=subject.name,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        n=work.n,
        seed=seed,
        source=subject.source,
        metrics={score.name: score for score in scores},
        class_histogram=histogram,
        nearest=nearest,
        seconds=time.perf_counter() - start,
    )
    _write_into_run(subject, result, reference, progress)
    return result


def evaluate_all(
    sources: Sequence[Source], data: str | Dataset | None = None, **options: object
) -> list[Evaluation]:
    """`evaluate` for several sources, in order; raises like it, at the first that fails."""
    return [evaluate(source, data, **options) for source in sources]  # type: ignore[arg-type]


def prepare(
    dataset: Dataset,
    n: int = 1000,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> None:
    """Train the extractor and measure the floors before several processes need them.

    Args:
        dataset: the data.
        n: how many samples will be evaluated.
        device: where features are computed.
        progress: told of long work.
        cache: as in `evaluate`.
    """
    progress = progress or Silent()
    folder = cache_folder(cache)
    reference = open_reference(dataset, folder, resolve_device(device), progress)
    size = two_sample_size(n, len(reference.test))
    if size >= MIN_ITEMS:
        reference.floors(size, _labelled_size(n, dataset), progress)


def two_sample_size(samples: int, test: int) -> int:
    """Items on each side of a two-sample metric."""
    return min(samples, test, MAX_ITEMS)


def _labelled_size(samples: int, dataset: Dataset) -> int:
    """Training items that stand against `samples` labelled samples; 0 without labels."""
    if dataset.test.labels is None or not dataset.spec.num_classes:
        return 0
    return min(samples, classes.CAS_ITEMS, len(dataset.train.data))


def _open_data(
    source: Source, data: str | Dataset | None, root: str | Path | None, size: int | None
) -> Dataset:
    from genzoo.data import open_dataset

    if isinstance(data, Dataset):
        return data
    run = as_run(source)
    if data is not None:
        return open_dataset(data, root, size=size)
    if run is None:
        raise InputError(f"'{source}' does not say what it imitates; name the data, as by --data digits")
    told = run.config["data"]
    dataset = open_dataset(told["name"], root or told["root"], size=size or told["size"])
    if dataset.fingerprint != told["fingerprint"]:
        raise InputError(
            f"run '{run.path}' was trained on other data than '{dataset.name}' is now; restore "
            f"the data, or compare with what is there by --data {dataset.name}"
        )
    return dataset


@dataclass
class _Work:
    """The measuring of one subject."""

    subject: Subject
    reference: Reference
    seed: int
    progress: Progress

    def __post_init__(self) -> None:
        self.dataset = self.reference.dataset
        self.n = two_sample_size(len(self.subject), len(self.reference.test))
        self.info = self.reference.extractor.info
        self.floors: dict[str, float] = {}

    def measure(self) -> tuple[list[Score], ClassHistogram | None, Nearest | None]:
        """Every metric that needs samples alone."""
        if self.n < MIN_ITEMS:
            return [Score.refused(name, self.n, self._too_few()) for name in self._names()], None, None
        labelled = _labelled_size(len(self.subject), self.dataset)
        self.floors = self.reference.floors(self.n, labelled, self.progress)
        self.chosen = choose(len(self.subject), self.n, 1000 + self.seed)
        scores: list[Score] = []
        histogram: ClassHistogram | None = None
        nearest: Nearest | None = None
        self.progress.update("evaluation", 0.0, "features")
        found = self.reference.extractor(self.subject.items[self.chosen])
        scores += self._feature_scores(found)
        if self.dataset.spec.is_image:
            scores += [self._inception_score(found)]
            histogram_score, histogram = self._histogram(found)
            scores += [histogram_score, self._cas()]
        self.progress.update("evaluation", 0.5, "neighbours")
        memory, nearest = self._pixel_scores()
        scores += memory + list(self._mode_scores(found))
        self.progress.update("evaluation", 1.0)
        return scores, histogram, nearest

    # -- in feature space -----------------------------------------------------------------

    def _feature_scores(self, found: Features) -> list[Score]:
        real = self.reference.test_features.features[: self.n]
        a = found.features
        floor = self._floor_text()
        low_rank = f"; N below d = {a.shape[1]}: singular" if self.n <= a.shape[1] else ""
        scores = [
            self._guarded(
                "fd",
                lambda: fidelity.measure_frechet(a, real),
                f"unbiased covariances, biased by O(1/N){low_rank}; {_JACKKNIFE}; {floor}, "
                "corrected for 1/N",
            ),
            self._guarded(
                "kid",
                lambda: fidelity.measure_kernel_distance(a, real),
                f"(x·y/d + 1)³, unbiased, all pairs; {_JACKKNIFE}; {floor}",
            ),
        ]
        precision, recall = fidelity.precision_recall(a, real)
        density, coverage = neighbours.density_coverage(a, real)
        k_pr = f"k = {fidelity.PRECISION_K}, distance <= radius"
        k_dc = f"k = {neighbours.DENSITY_K}, distance < radius"
        scores += [
            self._score("precision", precision, f"{k_pr}; {_GIVEN_REAL} (Wilson); {floor}"),
            self._score("recall", recall, f"{k_pr}; {_GIVEN_SAMPLES} (Wilson); {floor}"),
            self._score("density", density, f"{k_dc}; {_GIVEN_REAL}; floor: exact expectation"),
            self._score(
                "coverage", coverage, f"{k_dc}; {_GIVEN_SAMPLES} (Wilson); floor: exact expectation"
            ),
        ]
        if not self.dataset.spec.is_image:
            value = Measured(neighbours.sliced_wasserstein(a, real))
            text = f"Wasserstein-1 over 64 directions, standardized coordinates; {floor}"
            scores.append(self._score("sliced_wasserstein", value, text))
        return scores

    def _inception_score(self, found: Features) -> Score:
        if found.logits is None:
            return self._refused("inception_score", self._no_classifier())
        logits = found.logits
        text = (
            "one split; 95 % interval: jackknife over 10 disjoint blocks of samples; floor: "
            "held-out data at this N"
        )
        return self._guarded("inception_score", lambda: fidelity.measure_inception_score(logits), text)

    def _histogram(self, found: Features) -> tuple[Score, ClassHistogram | None]:
        name = "class_histogram_tv"
        if found.parts is not None:
            return self._refused(name, "1000 joint classes: see modes_covered"), None
        if found.logits is None:
            return self._refused(name, self._no_classifier()), None
        samples = classes.shares(found.logits.argmax(1), found.logits.shape[1])
        train = self.dataset.spec.frequencies
        value = Measured(classes.total_variation(samples, train))
        text = "classes predicted by the feature classifier; floor: held-out data at this N"
        return self._score(name, value, text), ClassHistogram(
            self.dataset.class_names, samples, train
        )

    # -- labels ---------------------------------------------------------------------------

    def _cas(self) -> Score:
        images, labels = self.subject.items, self.subject.labels
        size = _labelled_size(len(self.subject), self.dataset)
        if not size:
            return self._refused("cas", f"{self.dataset.name} has no labels")
        if labels is None:
            return self._refused("cas", "the samples have no labels")
        rows = choose(len(images), classes.CAS_ITEMS, 2000 + self.seed)
        if len(labels[rows].unique()) < 2:
            return self._refused("cas", f"all labels of the samples are {int(labels[0])}")
        test, test_labels = self.reference.cas_test()
        measured = classes.classification_accuracy(images[rows], labels[rows], test, test_labels)
        text = (
            f"SVM (RBF, C = 1, gamma = scale) on pixels trained on {len(rows)} samples, tested on "
            f"{len(test)} held-out images; 95 % interval over these (Wilson); floor: trained on "
            f"{size} real images"
        )
        return self._score("cas", measured, text, n=len(rows), features=False)

    # -- in pixels or coordinates ------------------------------------------------------------

    def _pixel_scores(self) -> tuple[list[Score], Nearest]:
        reference = self.reference
        space = "pixels 0 … 255" if self.dataset.spec.is_image else "standardized coordinates"
        rows = choose(len(self.subject), MAX_ITEMS, 1000 + self.seed)
        items = self.subject.items[rows]
        samples = reference.space(items)
        test = reference.test_space
        accuracy = neighbours.two_sample_1nn(
            samples[: self.n], test[reference.chosen_test(self.n)]
        )
        found = memorization.attribute(samples, reference.train_space, test)
        near = memorization.near_duplicate_share(found, self.floors["near_threshold"])
        exact = memorization.count_duplicates(items, reference.train, reference.test)
        real = f"{len(reference.train)} training and {len(reference.test)} held-out items"
        n = len(items)

        def score(name: str, measured: Measured, text: str, n: int) -> Score:
            return self._score(name, measured, f"{space}; {text}", n=n, features=False)

        scores = [
            score(
                "two_sample_1nn",
                accuracy,
                "leave-one-out, ties count half; 95 % interval: Wilson, mutual neighbours counted "
                "once; floor: training data in the samples' place",
                self.n,
            ),
            score(
                "train_nn_share",
                memorization.train_nn_share(found),
                "exact expectation over equal-sized subsets, ties count half; 95 % interval: "
                "Wilson, samples with one nearest item counted by n²/Σc²; floor: held-out data in "
                "the samples' place; two-sided: copies of held-out data score 0",
                n,
            ),
            score("duplicates", Measured(float(exact)), f"bit for bit among {real}", n),
            score(
                "near_duplicates",
                near,
                "below the 1st percentile of distances between nearest real items, among "
                f"{real}; 95 % interval: Wilson",
                n,
            ),
        ]
        closest = found.train_distance.argsort(stable=True)[:NEAREST_SHOWN]
        return scores, Nearest(
            tuple(rows[closest].tolist()), tuple(found.train_index[closest].tolist())
        )

    # -- modes ------------------------------------------------------------------------------

    def _mode_scores(self, found: Features) -> Iterator[Score]:
        known = self.dataset.modes
        if known is not None:
            count = modes.count_modes(self.subject.items, known.centers, known.sigma)
            real = modes.count_modes(
                self.reference.test[: len(self.subject)], known.centers, known.sigma
            )
            text = f"of {len(known.centers)}, within 3 σ; floor: held-out data"
            n = len(self.subject)
            self.floors["modes_covered"] = float(real.covered)
            self.floors["high_quality_share"] = modes.HIGH_QUALITY_CEILING
            yield self._score(
                "modes_covered", Measured(float(count.covered)), text, n=n, features=False
            )
            measured = modes.measure_high_quality(count, n)
            text = "within 3 σ of a centre; 95 % interval: Wilson; floor: exact, 1 - exp(-9/2)"
            yield self._score("high_quality_share", measured, text, n=n, features=False)
        if found.parts is not None:
            value = Measured(float(modes.count_stacked(found.parts)))
            text = "digit triples among 1000, as classified; floor: held-out data at this N"
            yield self._score("modes_covered", value, text)

    # -- scores -----------------------------------------------------------------------------

    def _score(
        self, name: str, measured: Measured, text: str, *, n: int = 0, features: bool = True
    ) -> Score:
        return Score(
            name,
            measured.value,
            n or self.n,
            text,
            floor=self.floors.get(name),
            features=self.info if features else None,
            **bounds(measured.interval),
        )

    def _guarded(self, name: str, measure: Callable[[], Measured], text: str) -> Score:
        """A score, or a refusal where the numbers do not allow one."""
        try:
            return self._score(name, measure(), text)
        except (np.linalg.LinAlgError, ArithmeticError) as error:
            return self._refused(name, f"cannot be computed from these samples: {error}")

    def _refused(self, name: str, reason: str) -> Score:
        return Score.refused(name, self.n, reason)

    def _no_classifier(self) -> str:
        return f"{self.dataset.name} has no labels to train a classifier on"

    def _too_few(self) -> str:
        few, what = len(self.subject), "samples"
        if len(self.reference.test) < few:
            few, what = len(self.reference.test), "held-out items"
        return f"only {few} {what}; at least {MIN_ITEMS} are needed"

    def _floor_text(self) -> str:
        if self.reference.halves:
            side = min(self.n, len(self.reference.test_features.features) // 2)
            return f"floor: halves of the held-out data, {side} items each"
        return "floor: training data in the samples' place"

    def _names(self) -> list[str]:
        common = "fd kid precision recall density coverage two_sample_1nn train_nn_share duplicates"
        names = [*common.split(), "near_duplicates"]
        if self.dataset.spec.is_image:
            names += ["inception_score", "class_histogram_tv", "cas"]
        else:
            names += ["sliced_wasserstein"]
        if self.dataset.modes is not None:
            names += ["modes_covered", "high_quality_share"]
        return names + (["modes_covered"] if self.dataset.stacked else [])


# -- the run folder -------------------------------------------------------------------------


def _write_into_run(
    subject: Subject, result: Evaluation, reference: Reference, progress: Progress
) -> None:
    """Leave scores and the nearest-neighbour picture in a run that was held against its data."""
    run = subject.run
    if run is None or run.config["data"]["fingerprint"] != result.data_fingerprint:
        return
    try:
        write_json(run.path / SCORES, result.to_dict())
        _draw_nearest(run, subject.items, reference.train, result.nearest)
    except GenzooError as error:
        progress.note(f"not written: {error}")


def _draw_nearest(run: Run, items: Tensor, train: Tensor, nearest: Nearest | None) -> None:
    """The closest samples (above) over their nearest training images (below)."""
    if nearest is None or items.ndim != 4:
        return
    from genzoo.samples import SampleSet

    above, below = items[list(nearest.sample_index)], train[list(nearest.train_index)]
    both = torch.cat([above, below]).movedim(1, -1).numpy()
    SampleSet(images=both).write_grid_png(run.path / NEAREST_PICTURE, columns=len(above), limit=None)
