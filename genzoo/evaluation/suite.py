"""All metrics of one set of samples, each beside what real data and the controls score."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.errors import GenzooError, InputError
from genzoo.evaluation.card import write_card
from genzoo.evaluation.catalogue import METRICS
from genzoo.evaluation.classes import class_histogram
from genzoo.evaluation.cost import cost_scores
from genzoo.evaluation.likelihood import likelihood_score
from genzoo.evaluation.measured import Refused
from genzoo.evaluation.measurement import Answer, measure_all
from genzoo.evaluation.memorization import nearest_panel
from genzoo.evaluation.modes import mode_counts
from genzoo.evaluation.reference import MAX_ITEMS, Reference, choose, enough, open_reference
from genzoo.evaluation.result import Evaluation, Nearest, Score
from genzoo.evaluation.shards import Gathered, gather, gather_stream
from genzoo.evaluation.sources import (
    Source,
    Subject,
    as_run,
    as_stream,
    from_gathered,
    is_streamed,
    open_data,
    open_subject,
)
from genzoo.evaluation.view import Items
from genzoo.files import write_json
from genzoo.model import GenerativeModel
from genzoo.notebook import listener
from genzoo.progress import Progress
from genzoo.runs import SCORES, Run
from genzoo.training.device import resolve_device

NEAREST_PICTURE = "nearest.png"


def evaluate(
    source: Source,
    data: Source | Dataset | None = None,
    *,
    train: Source | None = None,
    features: str = "auto",
    weights: str | Path | None = None,
    n: int | None = None,
    data_root: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    cache: str | Path | None = None,
    model: GenerativeModel | str | None = None,
    trust: bool = False,
    likelihood: Score | None = None,
) -> Evaluation:
    """Measure samples against held-out data.

    A run that is compared with its own data in the usual feature space gets ``scores.json`` and
    ``nearest.png``.

    Args:
        source: a run or its folder, an ``.npz`` or ``.npy`` file, a folder of images, a
            `SampleSet`, an array or a tensor; see `genzoo.evaluation.sources.open_subject`; or
            any number of images as ``shards:PATTERN`` or ``hf:NAME``.
        data: what the samples imitate: a dataset or its name (``digits``, ``folder:PATH``,
            ``shards:PATTERN``), or held-out items in any form that `source` may have. A run knows
            its own.
        train: what the generator learned from, where `data` are held-out items; without it,
            questions about memory have no answer.
        features: the feature space, see `genzoo.evaluation.features.open_extractor`.
        weights: file of the extractor's weights, where it has some of its own.
        n: items on either side of two-sample metrics at most (10,000).
        data_root: where downloaded data lie.
        size: side in pixels of ``folder:`` data.
        seed: of the choice of samples where there are more than held-out items.
        device: where features and likelihoods are computed.
        progress: told of long work.
        cache: folder of extractors and floors; ``GENZOO_CACHE`` or ``~/.cache/genzoo``.
        model: the run's model if it is at hand, or ``FILE.py:Class`` of a run that was trained
            with one's own class.
        trust: execute the file that such a run names, if it is unchanged, and use weights of
            unknown content.
        likelihood: the run's, where several processes have measured it together.

    Raises:
        InputError: no data named, the source is unreadable or does not fit the data.
    """
    start = time.perf_counter()
    progress = listener(progress)
    if n is not None and n < 1:
        raise InputError(f"--n {n}: must be at least 1")
    where = resolve_device(device)
    dataset = _dataset(source, data, train, data_root, size)
    stream = as_stream(source, dataset, data_root)
    subject = open_subject(source, dataset) if stream is None else None
    reference = open_reference(
        dataset, cache, device, progress, features=features, weights=weights, trust=trust
    )
    if stream is not None:
        seen = gather_stream(stream, reference.extractor, progress)
        subject = from_gathered(Path(str(source)).name, seen, dataset.spec)
    assert subject is not None
    work = _Work(subject, reference, seed, n or MAX_ITEMS, progress)
    scores = work.scores()
    if likelihood is None:
        likelihood = likelihood_score(subject.run, dataset, where, model, trust, progress)
    scores.append(likelihood)
    scores.extend(cost_scores(subject.run, len(subject)))
    result = Evaluation(
        model=subject.name,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        n=work.view.n,
        seed=seed,
        source=subject.source,
        metrics={score.name: score for score in scores},
        class_histogram=class_histogram(work.view) if work.enough else None,
        mode_counts=mode_counts(work.view) if work.enough else None,
        nearest=work.nearest(),
        controls=work.controls,
        seconds=time.perf_counter() - start,
    )
    if features == "auto" and n is None:
        _write_into_run(subject, result, reference, progress)
    return result


def gather_samples(
    source: Source,
    data: Source | Dataset,
    *,
    first: int = 0,
    features: str = "auto",
    weights: str | Path | None = None,
    data_root: str | Path | None = None,
    size: int | None = None,
    device: str = "auto",
    trust: bool = False,
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> Gathered:
    """One part of a set of samples, as what is kept of it; parts merge into the whole.

    Args:
        source: the part, as in `evaluate`.
        data: as in `evaluate`.
        first: number of the part's first sample among all samples of the set.
        features: as in `evaluate`.
        weights: as in `evaluate`.
        data_root: as in `evaluate`.
        size: as in `evaluate`.
        device: as in `evaluate`.
        trust: as in `evaluate`.
        progress: as in `evaluate`.
        cache: as in `evaluate`.

    Returns:
        To be merged by `genzoo.evaluation.shards.merge_all`, written by its `write`, and
        evaluated like any other source.
    """
    dataset, progress = open_data(data, None, data_root, size), listener(progress)
    stream = as_stream(source, dataset, data_root)
    subject = open_subject(source, dataset) if stream is None else None
    if subject is not None and subject.gathered is not None:
        return subject.gathered
    reference = open_reference(
        dataset, cache, device, progress, features=features, weights=weights, trust=trust
    )
    if stream is not None:
        return gather_stream(stream, reference.extractor, progress, first=first)
    assert subject is not None
    return gather(subject.items, subject.labels, reference.extractor, first=first)


def evaluate_all(
    sources: Sequence[Source], data: Source | Dataset | None = None, **options: object
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
    """Train the extractor and measure floors and controls before several processes need them.

    Args:
        dataset: the data.
        n: how many samples will be evaluated.
        device: where features are computed.
        progress: told of long work.
        cache: as in `evaluate`.
    """
    progress = listener(progress)
    reference = open_reference(dataset, cache, device, progress)
    size = reference.size(n)
    if enough(size):
        depth = reference.depth(size, n)
        reference.floors(size, progress, depth)
        reference.controls(size, progress, depth)


class _Work:
    """The measuring of one subject."""

    def __init__(
        self, subject: Subject, reference: Reference, seed: int, limit: int, progress: Progress
    ) -> None:
        """Choose the samples and look up their yardsticks."""
        self.reference = reference
        self.order = choose(len(subject), len(subject), 1000 + seed)
        labels = None if subject.labels is None else subject.labels[self.order]
        pool = Items(subject.items[self.order], labels, reference)
        n = reference.size(len(subject), limit)
        seen = subject.gathered
        if seen is not None and seen.features != reference.extractor.info.hash:
            raise InputError(
                f"{subject.name}: gathered in another feature space than {reference.dataset.name} "
                "has now; gather the samples again"
            )
        self.view = reference.view(pool, n, seed=seed, progress=progress, gathered=seen)
        self.enough = enough(n)
        depth = reference.depth(n, len(subject))
        self.floors = reference.floors(n, progress, depth) if self.enough else {}
        self.controls: Mapping[str, Mapping[str, float]] = (
            reference.controls(n, progress, depth) if self.enough else {}
        )

    def scores(self) -> list[Score]:
        """Every metric that needs samples alone."""
        return [self._score(name, answer) for name, answer in measure_all(self.view).items()]

    def _score(self, name: str, answer: Answer) -> Score:
        if isinstance(answer, Refused):
            return Score.refused(name, self.view.n, str(answer))
        info, text, floor = METRICS[name], answer.convention, answer.floor
        if info.group == "memorization":
            text += self._unseen()
        if floor is None and name in self.floors:
            floor = self.floors[name]
            carried = ", carried over to this N" if info.null_order else ""
            where = self.reference.floor_text(info.floor, self.view.n)
            text = f"{text}; floor: {where}{carried}"
        return Score(
            name,
            answer.value,
            answer.n or self.view.n,
            text,
            answer.interval,
            floor=floor,
            features=self.reference.extractor.info if info.space == "features" else None,
            sampling_error=answer.sampling_error,
            reference_error=answer.reference_error,
            caution=answer.caution,
        )

    def _unseen(self) -> str:
        """What a question about memory has not asked, where the data are in files."""
        total, kept = self.reference.dataset.counts[0], len(self.reference.train)
        if kept == total:
            return ""
        return f"; {kept:,} of {total:,} training items: copies of the others are not found"

    def nearest(self) -> Nearest | None:
        """The samples closest to the training data, by their place in the source."""
        if not (self.enough and len(self.view.train)):
            return None
        found = nearest_panel(self.view)
        rows = self.order[torch.tensor(found.sample_index, dtype=torch.int64)]
        return Nearest(tuple(rows.tolist()), found.train_index)


def _dataset(
    source: Source,
    data: Source | Dataset | None,
    train: Source | None,
    root: str | Path | None,
    size: int | None,
) -> Dataset:
    if data is not None:
        return open_data(data, train, root, size)
    run = as_run(source)
    if run is None:
        gone = isinstance(source, (str, Path)) and not Path(source).exists()
        if gone and not is_streamed(source):
            raise InputError(f"{source}: there is no such file or folder")
        name = f"'{source}' does" if isinstance(source, (str, Path)) else "these samples do"
        raise InputError(f"{name} not say what it imitates; name the data, as by --data digits")
    told = run.config["data"]
    dataset = open_data(told["name"], train, root or told["root"], size or told["size"])
    if dataset.fingerprint != told["fingerprint"]:
        raise InputError(
            f"run '{run.path}' was trained on other data than '{dataset.name}' is now; restore "
            f"the data, or compare with what is there by --data {dataset.name}"
        )
    return dataset


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
        write_card(run)
        _draw_nearest(run, subject.items, reference.train.raw, result.nearest)
    except GenzooError as error:
        progress.note(f"not written: {error}")


def _draw_nearest(run: Run, items: Tensor, train: Tensor, nearest: Nearest | None) -> None:
    """The closest samples (above) over their nearest training images (below)."""
    if nearest is None or items.ndim != 4:
        return
    from genzoo.samples import SampleSet

    above, below = items[list(nearest.sample_index)], train[list(nearest.train_index)]
    both = torch.cat([above, below]).movedim(1, -1).numpy()
    SampleSet(images=both).write_grid_png(
        run.path / NEAREST_PICTURE, columns=len(above), limit=None
    )
