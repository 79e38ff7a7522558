"""Does the evaluation see what it should? Samples with known faults, put in their known order.

Every metric is asked to rank controls whose order theory tells: a set that lost a class covers
less than one that did not, copies lie nearer to what they copy, and so on. A metric that gets
one order wrong by more than chance, or none right, cannot be trusted on these data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from genzoo.data.dataset import Dataset
from genzoo.errors import InputError, PartialFailure
from genzoo.evaluation.catalogue import METRICS
from genzoo.evaluation.controls import CONTROLS, control_items, open_material
from genzoo.evaluation.measured import Measured
from genzoo.evaluation.measurement import Answer, measure_all
from genzoo.evaluation.memorization import plant
from genzoo.evaluation.reference import Reference, choose, enough, open_reference
from genzoo.evaluation.sources import Source, open_data
from genzoo.evaluation.view import Items
from genzoo.notebook import listener
from genzoo.progress import Progress

PLANTED = (0.0, 0.05, 0.1, 0.3, 1.0)
REAL = "real"
CHANCE = 2.6  # standard errors, 1 in 100

# Each line: a metric, and subjects in the order of rising value.
_RISING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("fd", (REAL, "one-dropped", "one-only")),
    ("fd", (REAL, "noise")),
    ("fd_infinity", (REAL, "one-dropped", "one-only")),
    ("fd_infinity", (REAL, "noise")),
    ("kid", (REAL, "one-dropped", "one-only")),
    ("kid", (REAL, "noise")),
    ("inception_score", ("one-only", "one-dropped", "copycat")),
    ("precision", ("noise", "copycat")),
    ("density", ("noise", "copycat")),
    ("recall", ("one-only", "one-dropped", "copycat")),
    ("coverage", ("one-only", "one-dropped", "copycat")),
    ("coverage", ("noise", "copycat")),
    ("two_sample_1nn", (REAL, "one-dropped", "one-only")),
    ("two_sample_1nn", (REAL, "noise")),
    ("c2st", (REAL, "one-dropped", "one-only")),
    ("c2st", (REAL, "noise")),
    ("sliced_wasserstein", (REAL, "one-dropped", "one-only")),
    ("sliced_wasserstein", (REAL, "noise")),
    ("vendi", ("one-only", "one-dropped")),
    ("vendi", ("one-only", REAL)),
    ("ndb", (REAL, "one-dropped", "one-only")),
    ("ndb", (REAL, "noise")),
    ("cas", ("noise", "one-dropped", "copycat")),
    ("class_coverage", ("one-only", "one-dropped", REAL)),
    ("class_histogram_tv", (REAL, "one-dropped", "one-only")),
    ("distinct", ("one-only", "copycat")),
    ("modes_covered", ("one-only", "one-dropped", REAL)),
    ("modes_well_covered", ("one-only", "one-dropped", REAL)),
    ("high_quality_share", ("noise", REAL)),
    ("mode_kl", (REAL, "one-dropped", "one-only")),
    ("mode_kl_reverse", (REAL, "one-dropped", "one-only")),
    ("train_nn_share", (REAL, "noisy-copies")),
    ("train_nn_share", (REAL, "copycat")),
    ("near_duplicates", (REAL, "noisy-copies")),
    ("near_duplicates", (REAL, "copycat")),
    ("authenticity", ("copycat", REAL)),
    ("authenticity", ("noisy-copies", REAL)),
    ("duplicates", (REAL, "copycat")),
    ("duplicates", ("noisy-copies", "copycat")),
    ("c_t", ("copycat", REAL, "noise")),
    ("fld_gap", (REAL, "copycat")),
)
# And where what is dropped is a class or a mode. Elsewhere it is a neighbourhood, without which
# the rest may be more varied: it lay between other items.
_RISING_OF_MODES = (("vendi", ("one-dropped", REAL)),)
# Which way planted copies of training items move a metric; copies of held-out items, where it
# is two-sided, the other way.
_PLANTED_TRAIN: Mapping[str, int] = {
    "train_nn_share": 1,
    "near_duplicates": 1,
    "duplicates": 1,
    "authenticity": -1,
    "c_t": -1,
    "fld_gap": 1,
}
_PLANTED_TEST: Mapping[str, int] = {
    "train_nn_share": -1,
    "near_duplicates": 1,
    "test_duplicates": 1,
    "fld_gap": -1,
}


Outcome = Literal["met", "unclear", "failed"]


class Scored(NamedTuple):
    """A value and its standard error, 0 where it is not known."""

    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Expectation:
    """One order that theory tells, and what was found.

    Attributes:
        metric: its name.
        subjects: in the order of rising value.
        values: what they scored.
        outcome: ``met`` where they rise; ``unclear`` where they do not, but no more than chance
            would explain at this N; else ``failed``.
    """

    metric: str
    subjects: tuple[str, ...]
    values: tuple[float, ...]
    outcome: Outcome

    def __str__(self) -> str:
        """``fd: real 0.1 < noise 9``."""
        shown = [f"{s} {v:.4g}" for s, v in zip(self.subjects, self.values, strict=True)]
        return f"{self.metric}: {' < '.join(shown)}"


class SelfTestFailed(PartialFailure):
    """Some metrics do not order the controls as theory says."""


@dataclass(frozen=True)
class SelfTest:
    """All expectations on one dataset.

    Attributes:
        data: its name.
        n: items on either side.
        expectations: in the order of the registry.
    """

    data: str
    n: int
    expectations: tuple[Expectation, ...]

    @property
    def failed(self) -> tuple[Expectation, ...]:
        """Those that theory contradicts, and all those of a metric that met none."""
        working = {e.metric for e in self.expectations if e.outcome == "met"}
        return tuple(
            e for e in self.expectations if e.outcome == "failed" or e.metric not in working
        )

    @property
    def failure(self) -> SelfTestFailed | None:
        """What to raise where something failed."""
        if not self.failed:
            return None
        first = self.failed[0]
        return SelfTestFailed(
            f"{len(self.failed)} of {len(self.expectations)} expectations failed on {self.data} "
            f"(first: {first}); do not trust {', '.join(sorted({e.metric for e in self.failed}))} "
            "on these data"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "kind": "self-test",
            "data": self.data,
            "n": self.n,
            "passed": not self.failed,
            "expectations": [asdict(e) for e in self.expectations],
        }


def self_test(
    data: Source | Dataset = "digits",
    *,
    train: Source | None = None,
    features: str = "auto",
    weights: str | Path | None = None,
    n: int = 1000,
    data_root: str | Path | None = None,
    size: int | None = None,
    device: str = "auto",
    trust: bool = False,
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> SelfTest:
    """Show that every metric orders its controls on these data as theory says.

    Args:
        data: as in `evaluate`.
        train: as in `evaluate`.
        features: as in `evaluate`.
        weights: as in `evaluate`.
        n: items on either side at most.
        data_root: where downloaded data lie.
        size: side in pixels of ``folder:`` data.
        device: where features are computed.
        trust: as in `evaluate`.
        progress: told of long work.
        cache: as in `evaluate`.

    Raises:
        InputError: too few items, or no training items.
    """
    progress = listener(progress)
    dataset = open_data(data, train, data_root, size)
    reference = open_reference(
        dataset, cache, device, progress, features=features, weights=weights, trust=trust
    )
    side = reference.size(n)
    if not (enough(side // 2) and len(reference.train)):
        raise InputError(
            f"{dataset.name}: {len(reference.test)} held-out and {len(reference.train)} training "
            "items are too few for a self-test; at least 100 of each are needed"
        )
    scored = _controls(reference, side, progress)
    apart = dataset.modes or dataset.mode_labels or dataset.spec.num_classes
    found = list(_check((*_RISING, *(_RISING_OF_MODES if apart else ())), scored))
    for kind, directions in (("train", _PLANTED_TRAIN), ("test", _PLANTED_TEST)):
        rows = _planted(reference, kind, side // 2, list(directions), progress)
        found += _check(_monotone(kind, directions), rows)
    order = list(METRICS)
    found.sort(key=lambda e: order.index(e.metric))
    return SelfTest(dataset.name, side, tuple(found))


def _controls(reference: Reference, n: int, progress: Progress) -> dict[str, dict[str, Scored]]:
    """Floors, which are means, and every control with its errors."""
    wanted = {metric for metric, _ in _RISING}
    rows: dict[str, dict[str, Scored]] = {}
    material = open_material(reference.dataset, reference.train)
    for number, (name, raw, labels) in enumerate(control_items(material, n)):
        progress.update("self-test", number / len(CONTROLS), name)
        view = reference.view(Items(raw, labels, reference), n)
        answers = measure_all(view, wanted)
        rows[name] = _scored(answers)
        exact = {k: getattr(a, "floor", None) for k, a in answers.items()}
        known = {k: Scored(v) for k, v in exact.items() if v is not None}
        rows[REAL] = {**rows.get(REAL, {}), **known}
    progress.update("self-test", 1.0)
    floors = {k: Scored(v) for k, v in reference.floors(n, progress).items()}
    return {**rows, REAL: {**floors, **rows[REAL]}}


def _scored(answers: Mapping[str, Answer]) -> dict[str, Scored]:
    """Values with the standard error of both sides, a quarter of the interval where that is all."""
    found = {}
    for name, answer in answers.items():
        if isinstance(answer, Measured):
            error = math.hypot(answer.sampling_error or 0.0, answer.reference_error or 0.0)
            if not error and answer.interval is not None:
                error = (answer.interval.high - answer.interval.low) / 4
            found[name] = Scored(answer.value, error)
    return found


def _check(
    orders: Sequence[tuple[str, tuple[str, ...]]], scored: Mapping[str, Mapping[str, Scored]]
) -> Iterator[Expectation]:
    """The orders whose subjects have a value."""
    for metric, subjects in orders:
        known = tuple(s for s in subjects if metric in scored.get(s, {}))
        if len(known) >= 2:
            found = [scored[s][metric] for s in known]
            yield Expectation(metric, known, tuple(v for v, _ in found), _outcome(found))


def _outcome(found: Sequence[Scored]) -> Outcome:
    pairs = list(zip(found, found[1:], strict=False))
    if all(a.value < b.value for a, b in pairs):
        return "met"
    chance = all(a.value - b.value <= CHANCE * math.hypot(a.error, b.error) for a, b in pairs)
    # The ends must be apart, or the metric is blind rather than unsure.
    return "unclear" if chance and found[0].value < found[-1].value else "failed"


def _monotone(kind: str, directions: Mapping[str, int]) -> list[tuple[str, tuple[str, ...]]]:
    names = tuple(_share_name(kind, share) for share in PLANTED)
    return [(metric, names if way > 0 else names[::-1]) for metric, way in directions.items()]


def _share_name(kind: str, share: float) -> str:
    return f"{share:.0%} copies of {kind}" if share else "no copies"


def _planted(
    reference: Reference, kind: str, side: int, names: list[str], progress: Progress
) -> dict[str, dict[str, Scored]]:
    """Scores of fresh real items among which copies were planted.

    The fresh ones are half of the held-out data, the other half stays held out.
    """
    test = reference.test
    order = choose(len(test), len(test), 60)
    fresh, rest = test.take(order[:side]), test.take(order[side:])
    source = reference.train if kind == "train" else rest
    rows = {}
    for number, share in enumerate(PLANTED):
        progress.update("self-test", number / len(PLANTED), _share_name(kind, share))
        pool = Items(plant(fresh.raw, source.raw, share, seed=0), None, reference)
        view = reference.view(pool, side, test=rest)
        rows[_share_name(kind, share)] = _scored(measure_all(view, names))
    progress.update("self-test", 1.0)
    return rows
