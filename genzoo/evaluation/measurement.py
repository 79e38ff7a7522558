"""Every metric of one set of samples that needs the samples alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from genzoo.data.dataset import Dataset
from genzoo.evaluation import classes, fidelity, memorization, modes, neighbours
from genzoo.evaluation.features import Features
from genzoo.evaluation.neighbours import Measured
from genzoo.evaluation.reference import MAX_ITEMS, Reference, choose
from genzoo.evaluation.result import ClassHistogram, Nearest, Score
from genzoo.evaluation.sources import Subject
from genzoo.progress import Progress

MIN_ITEMS = 50
NEAREST_SHOWN = 10

_JACKKNIFE = "95 % interval: jackknife over 10 disjoint blocks of both sides"
_BOTH_SIDES = "95 % interval over both sides, conservative"


def two_sample_size(samples: int, test: int) -> int:
    """Items on each side of a two-sample metric."""
    return min(samples, test, MAX_ITEMS)


def labelled_size(samples: int, dataset: Dataset) -> int:
    """Training items that stand against `samples` labelled samples; 0 without labels."""
    if dataset.test.labels is None or not dataset.spec.num_classes:
        return 0
    return min(samples, classes.CAS_ITEMS, len(dataset.train.data))


@dataclass
class Measurement:
    """The measuring of one subject."""

    subject: Subject
    reference: Reference
    seed: int
    progress: Progress

    def __post_init__(self) -> None:
        """Decide how many samples enter."""
        self.dataset = self.reference.dataset
        self.n = two_sample_size(len(self.subject), len(self.reference.test))
        self.info = self.reference.extractor.info
        self.floors: dict[str, float] = {}

    def measure(self) -> tuple[list[Score], ClassHistogram | None, Nearest | None]:
        """Every metric that needs samples alone."""
        if self.n < MIN_ITEMS:
            return (
                [Score.refused(name, self.n, self._too_few()) for name in self._names()],
                None,
                None,
            )
        labelled = labelled_size(len(self.subject), self.dataset)
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
        real = self.reference.test_features(self.n).features
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
            self._score("precision", precision, f"{k_pr}; {_BOTH_SIDES}; {floor}"),
            self._score("recall", recall, f"{k_pr}; {_BOTH_SIDES}; {floor}"),
            self._score("density", density, f"{k_dc}; {_BOTH_SIDES}; floor: exact expectation"),
            self._score("coverage", coverage, f"{k_dc}; {_BOTH_SIDES}; floor: exact expectation"),
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
        return self._guarded(
            "inception_score", lambda: fidelity.measure_inception_score(logits), text
        )

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
        size = labelled_size(len(self.subject), self.dataset)
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
        accuracy = neighbours.two_sample_1nn(samples[: self.n], test[reference.chosen_test(self.n)])
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
            measured.interval,
            floor=self.floors.get(name),
            features=self.info if features else None,
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
            side = self.reference.half_size(self.n)
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
