"""All metrics of one set of samples, each beside what real data score in its place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genzoo.data.dataset import Dataset
from genzoo.errors import GenzooError, InputError
from genzoo.evaluation.cache import cache_folder
from genzoo.evaluation.cost import cost_scores
from genzoo.evaluation.likelihood import likelihood_score
from genzoo.evaluation.measurement import (
    MIN_ITEMS,
    Measurement,
    labelled_size,
    two_sample_size,
)
from genzoo.evaluation.reference import Reference, open_reference
from genzoo.evaluation.result import Evaluation, Nearest
from genzoo.evaluation.sources import Source, Subject, as_run, open_subject
from genzoo.files import write_json
from genzoo.model import GenerativeModel
from genzoo.progress import Progress, Silent
from genzoo.runs import SCORES, Run
from genzoo.training.device import resolve_device

NEAREST_PICTURE = "nearest.png"


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
    model: GenerativeModel | str | None = None,
    trust: bool = False,
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
        model: the run's model if it is at hand, or ``FILE.py:Class`` of a run that was trained
            with one's own class.
        trust: execute the file that such a run names, if it is unchanged.

    Raises:
        InputError: no data named, the source is unreadable or does not fit the data.
    """
    start = time.perf_counter()
    progress = progress or Silent()
    where = resolve_device(device)
    dataset = _open_data(source, data, data_root, size)
    subject = open_subject(source, dataset)
    reference = open_reference(dataset, cache_folder(cache), where, progress)
    work = Measurement(subject, reference, seed, progress)
    scores, histogram, nearest = work.measure()
    scores.append(likelihood_score(subject.run, dataset, where, model, trust, progress))
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
        reference.floors(size, labelled_size(n, dataset), progress)


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
        raise InputError(
            f"'{source}' does not say what it imitates; name the data, as by --data digits"
        )
    told = run.config["data"]
    dataset = open_dataset(told["name"], root or told["root"], size=size or told["size"])
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
    SampleSet(images=both).write_grid_png(
        run.path / NEAREST_PICTURE, columns=len(above), limit=None
    )
